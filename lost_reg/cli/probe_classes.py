"""`lost-reg probe --task classes`: classes from one token of each image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lost_reg.cli.options import together
from lost_reg.errors import LostRegError

class_options = together(
    click.option(
        "--tokens", metavar="KIND,...",
        help="Kinds of tokens to probe, one of each from an image: cls, register, normal, outlier, mean.  "
        "[default: all that the backbone has]",
    ),
    click.option(
        "--layer", type=int,
        help="Outliers are counted after this block; negative counts from the last.  [default: -2]",
    ),
)  # fmt: skip


def probe_classes(dataset: str, out: Path, options: dict[str, Any]) -> None:
    """Probe single tokens for the classes of images."""
    raise LostRegError("`task` classes is not built yet")
