"""The tables of real.py, on small images."""

from __future__ import annotations

import pytest
import real
from click.testing import CliRunner

from lost_reg.cli.app import main


@pytest.fixture
def voc(tmp_path, make_voc):
    boxes = {"000001": [("thing", 33, 17, 96, 64)], "000002": [("thing", 1, 1, 128, 96)]}
    return make_voc(tmp_path / "voc", boxes)


def lost_reg(*arguments) -> None:
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    assert result.exit_code == 0, result.output


def test_settings_are_scored_on_all_images(tmp_path, voc, printed):
    out = tmp_path / "sweep"
    lost_reg("sweep", "--dataset", voc, "--weights", "random", "--bias", "0,5", "--layer", "-1",
             "--normalize", "no", "--tune-fraction", "0.5", "--workers", "0", "--out", out)  # fmt: skip
    _, _, _, biased, _, baselines = printed(real, "settings", out).splitlines()
    # with such a bias all patches are similar: whole images, right in one of two
    assert biased == "| k of layer -1, raw, bias 5 | 1 of 2 | 50.0 (9.5 to 90.5) | 2 |"
    assert baselines == "A centred box: 50.0. The whole image: 50.0."


def test_norms_have_a_row_for_each_layer(tmp_path, voc, printed):
    lost_reg("artifacts", voc / "JPEGImages", "--backbone", "tiny", "--weights", "random", "--workers", "0",
             "--out", tmp_path)  # fmt: skip
    lines = printed(real, "norms", tmp_path).splitlines()
    assert lines[0] == "tiny (RANDOM WEIGHTS), 2 images, 96 patches"
    assert [line.split(" | ")[0] for line in lines[4:]] == [f"| {layer}" for layer in range(6)]


def test_planted_artifacts_are_found_and_compared(tmp_path, make_voc, printed):
    voc = make_voc(tmp_path / "voc", {"000001": [("thing", 1, 1, 90, 90)]}, size_hw=(168, 224))
    arguments = ("planted", tmp_path / "out", "--dataset", voc, "--weights", "random")
    output = printed(real, *arguments)
    assert "found as number [" in output and " of 45\n" in output
    header, _, *rows = output.strip().split("\n\n")[-1].splitlines()
    assert header == ("| setting | as it is | planted artifacts | and a register at 3 neurons | "
                      "and a register at 45 neurons |")  # fmt: skip
    assert len(rows) == len(real.settings())
    assert printed(real, *arguments) == output  # read again, not done again
