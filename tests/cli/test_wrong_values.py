"""Wrong values of options are refused before anything is read, said or downloaded."""

from __future__ import annotations

import click
import pytest

from lost_reg.artifacts.records import CONTROLS
from lost_reg.cli.artifacts import artifacts
from lost_reg.cli.parameter_types import Several
from lost_reg.cli.probe import probe
from lost_reg.probing.tokens import KINDS

PROBE = ("probe", "no-dataset", "-b", "tiny")
ARTIFACTS = ("artifacts", "no-image.jpg", "-b", "dino")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((*PROBE, "--tokens", "cls,patch"), "'patch' is not one of cls, register, normal, outlier, mean"),
        ((*PROBE, "--tokens", "cls,cls"), "has a word twice"),
        ((*PROBE, "--cutoff", "-1", "--outliers", "fixed"), "expected a finite --cutoff above 0"),
        ((*PROBE, "--cutoff", "nan"), "is for --outliers fixed"),
        ((*PROBE, "--task", "depth", "--max-depth", "-1"), "--max-depth"),
        ((*PROBE, "--task", "segmentation", "--steps", "0"), "--steps"),
        ((*ARTIFACTS, "--controls", "median"), "'median' is not one of mean, shuffled, zeroed"),
        ((*ARTIFACTS, "--controls", ""), "'' is not one of"),
        ((*ARTIFACTS, "--cutoff", "0"), "expected a finite --cutoff above 0"),
        (("cluster", "no-run", "--k", "-3"), "'-3' is neither a number"),
        (("cluster", "no-run", "--k", "0:4"), "'0:4' is neither a number"),
    ],
)
def test_wrong_values_come_first(lost_reg, arguments, text):
    result = lost_reg(*arguments)
    (line,) = result.stderr.splitlines()
    assert text in line and result.exit_code in (1, 2) and not result.stdout


def test_the_words_are_those_of_the_library():
    def words(command: click.Command, name: str) -> tuple[str, ...]:
        (found,) = (one.type for one in command.params if one.name == name)
        assert isinstance(found, Several)
        return found.choices

    assert words(artifacts, "controls") == tuple(CONTROLS) and words(probe, "tokens") == KINDS
