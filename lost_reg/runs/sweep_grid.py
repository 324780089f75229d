"""The settings that a sweep tries, from what a person types: `-4:-1`, `k,v`, `-1:0:0.05,auto`."""

from __future__ import annotations

import itertools
import math

from lost_reg.errors import LostRegError
from lost_reg.types import AUTO, Protocol

MOST_SETTINGS = 10_000


def parse_layers(text: str) -> list[int]:
    """Whole numbers: a list (`-4,-1`) of numbers and of ranges that include both ends (`-4:-1`).

    Raises:
        LostRegError: anything else.
    """
    layers: list[int] = []
    for part in text.split(","):
        try:
            first, *last = (int(number) for number in part.split(":"))
        except ValueError:
            raise LostRegError(f"cannot read the layers {text!r}: write -1, or -4,-2, or -4:-1") from None
        if len(last) > 1 or (last and last[0] < first):
            raise LostRegError(f"cannot read the layers {text!r}: a range is FIRST:LAST, such as -4:-1")
        layers += range(first, (last[0] if last else first) + 1)
    return _each_once(layers)


def parse_biases(text: str) -> list[float | str]:
    """Numbers, `auto`, and ranges with both ends, `START:STOP:STEP`, in a list separated by commas.

    Raises:
        LostRegError: anything else.
    """
    biases: list[float | str] = []
    for part in text.split(","):
        if part == AUTO:
            biases.append(AUTO)
            continue
        try:
            numbers = [float(number) for number in part.split(":")]
        except ValueError:
            numbers = []
        if not all(map(math.isfinite, numbers)):
            numbers = []
        if len(numbers) == 1:
            biases += numbers
        elif len(numbers) == 3 and numbers[2] > 0 and numbers[0] <= numbers[1]:
            start, stop, step = numbers
            count = int((stop - start) / step + 1e-9) + 1
            if count > MOST_SETTINGS:
                raise LostRegError(f"the biases {text!r} are {count:,} values: at most {MOST_SETTINGS:,}")
            biases += [round(start + index * step, 10) for index in range(count)]
        else:
            raise LostRegError(
                f"cannot read the biases {text!r}: write 0, or -0.2,auto, or START:STOP:STEP as in -1:0:0.05"
            )
    return _each_once(biases)


def parse_facets(text: str) -> list[str]:
    """Some of k, q and v, separated by commas."""
    return _each_once(text.split(","))  # Protocol refuses any other


def grid_of_protocols(
    *,
    facets: list[str],
    layers: list[int],
    biases: list[float | str],
    normalize: list[bool],
    center: list[bool],
    k_patches: int,
    max_side: int | None,
) -> list[Protocol]:
    """All combinations, those that share features one after another, the biases in their order.

    Raises:
        LostRegError: a value that no run can have, or more combinations than MOST_SETTINGS.
    """
    combinations = list(itertools.product(facets, layers, center, normalize, biases))
    if len(combinations) > MOST_SETTINGS:
        raise LostRegError(f"{len(combinations):,} settings are too many: at most {MOST_SETTINGS:,}")
    return [Protocol(f, layer, c, n, bias, k_patches, max_side) for f, layer, c, n, bias in combinations]


def _each_once(values: list) -> list:
    return list(dict.fromkeys(values))
