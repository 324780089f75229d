"""A series of checkpoints of one model: which files they are, in the order of their steps of training."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lost_reg.artifacts.records import STEPS, BackboneArtifacts, Steps
from lost_reg.backbones.checkpoint_files import recorded_numbers
from lost_reg.backbones.filling import check_fits
from lost_reg.backbones.registers import AddedRegisters
from lost_reg.backbones.timm_models import resolve_spec
from lost_reg.backbones.weights import find_weights, local_checkpoint, locate
from lost_reg.errors import LostRegError

_MOST_STEPS = 10**15


@dataclass(frozen=True)
class Model:
    """A model to measure: a backbone with weights (see `load_backbone`), and test-time registers or none.

    step: of a checkpoint in a series, else None.
    """

    name: str
    weights: str | None = None
    registers: AddedRegisters | None = None
    step: int | None = None

    @property
    def title(self) -> str:
        """The backbone's name, and the step."""
        return self.name if self.step is None else f"{self.name} at step {self.step:,}"

    def check(self, *, offline: bool = False) -> None:
        """Check that its weights are here and fit, without reading their values.

        Raises:
            LostRegError: they do not; names the file and says what differs.
        """
        spec = resolve_spec(self.name)
        _, _, path = locate(spec, self.weights, offline=offline)
        if path:
            check_fits(spec, path)

    def has_row(self, row: BackboneArtifacts, precision: str) -> bool:
        """Whether a row of an interrupted command is of this model and these weights, so that it can stay."""
        found = find_weights(resolve_spec(self.name), self.weights).recorded()
        registers = self.registers.settings if self.registers else None
        own = (self.name, found, precision, registers, self.step)
        return own == (row.backbone, row.weights, row.precision, row.test_time_registers, row.step)


@dataclass(frozen=True)
class Series:
    """Checkpoints of one model, in the order of their steps. steps: what these count, see `STEPS`."""

    steps: Steps
    models: list[Model]

    def find(self, path: str) -> Model | None:
        """The checkpoint of this path, or None."""
        wanted = os.path.abspath(path)
        return next((one for one in self.models if os.path.abspath(one.weights or "") == wanted), None)


def kept_rows(
    models: Sequence[Model], rows: list[BackboneArtifacts], precision: str, folder: Path, *, overwrite: bool
) -> list[BackboneArtifacts]:
    """The rows of an interrupted command that can stay: all of them, if they are of the first of the models.

    Args:
        overwrite: none stays otherwise.

    Raises:
        LostRegError: one is of another model, or of other weights.
    """
    for model, row in zip(models, rows):
        if not model.has_row(row, precision):
            if overwrite:
                return []
            raise LostRegError(
                f"the unfinished measurement in {str(folder)!r} has {row.label} in place of {model.title}, "
                "or other weights of it: choose another `out`, or `overwrite` it"
            )
    return rows


def find_series(backbone: str, patterns: Sequence[str]) -> Series:
    """The checkpoints of a backbone that match patterns such as "run/ckpt-*.pth".

    A step is what all the checkpoints record, under a name of `STEPS`; or else the last number in which their
    paths differ. Files are not checked any further.

    Raises:
        LostRegError: a pattern that matches nothing, checkpoints whose steps are unknown or the same, or a
            damaged file.
    """
    paths: list[str] = []
    for pattern in patterns:
        found = sorted(glob.glob(os.path.expanduser(pattern), recursive=True))
        if not found:
            raise LostRegError(
                f"no file matches {pattern!r}: `checkpoints` is a pattern such as 'ckpt-*.pth'"
            )
        paths += found
    paths = list({os.path.abspath(path): path for path in paths}.values())
    if len(paths) < 2:
        raise LostRegError(f"expected several `checkpoints`, but only {paths[0]!r} matches")
    name, steps = _steps(paths)
    models = [Model(backbone, path, step=step) for path, step in zip(paths, steps)]
    return Series(name, sorted(models, key=lambda one: one.step or 0))


def _steps(paths: Sequence[str]) -> tuple[Steps, list[int]]:
    """The steps of checkpoints, and what they count."""
    recorded = [_recorded(path) for path in paths]
    for name in STEPS:
        steps: list[Any] = [numbers.get(name) for numbers in recorded]
        if len({*steps}) == len(steps) and all(_is_step(step) for step in steps):
            return name, steps
    numbers = [
        [int(digits[:18]) for digits in re.findall(r"[0-9]+", os.path.abspath(path))] for path in paths
    ]
    columns = [[one[-place] for one in numbers] for place in range(1, min(map(len, numbers)) + 1)]
    found = [one for one in columns if len({*one}) == len(one) and all(map(_is_step, one))]
    orders = {tuple(sorted(range(len(one)), key=one.__getitem__)) for one in found}
    if len(orders) == 1:
        return "file name", found[0]
    if orders:
        raise LostRegError(
            f"which number is the step in names such as {paths[0]!r} is not known: several differ, and in "
            "different orders; give the files names with one number"
        )
    raise LostRegError(
        f"the steps of {len(paths)} checkpoints such as {paths[0]!r} are not known: no number in their names "
        f"tells them apart, and not all of them record one of {', '.join(STEPS)}"
    )


def _recorded(path: str) -> dict[str, int]:
    file = local_checkpoint(Path(path))
    return recorded_numbers(file) if file else {}


def _is_step(number: int | None) -> bool:
    return number is not None and 0 <= number <= _MOST_STEPS
