"""How a probe is made, whatever it measures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lost_reg.runs.options import LoaderOptions

if TYPE_CHECKING:
    from lost_reg.runs.engines import Engine


@dataclass(frozen=True)
class ProbeOptions:
    """What the results of a probe do not depend on.

    loader: how its images are read; apply_exif is replaced by that of the dataset.
    overwrite: replace the probe in the folder, once this one is finished.
    engine: what computes the features, if not this process.
    """

    loader: LoaderOptions = field(default_factory=LoaderOptions)
    overwrite: bool = False
    engine: Engine | None = None
