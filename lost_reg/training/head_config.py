"""The options of a head's training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lost_reg.discovery.features import FeatureConfig, option
from lost_reg.errors import LostRegError
from lost_reg.json_files import check_fields
from lost_reg.runs.image_folder import RECORDED, ImageRoot
from lost_reg.runs.options import LoaderOptions

if TYPE_CHECKING:
    from lost_reg.runs.engines import Engine

FEATURES = FeatureConfig(facet="v", max_side=336)  # that a head takes by default


@dataclass(frozen=True)
class HeadTraining:
    """How a head is trained.

    features: those that it takes, and the size of the images.
    """

    features: FeatureConfig = FEATURES
    rounds: int = option(20, "Rounds in which it learns from its own predictions, after the masks.", min=0)
    ridge: float = option(1.0, "Strength of the ridge: what is added to the channels' correlations.")
    refine: bool = option(
        False,
        "Move the edges of its own masks to those of the image before it learns from them, as FOUND does.",
    )
    holdout: float = option(0.2, "Share of the images that is drawn and kept out, for `lost-reg score`.")
    seed: int = option(0, "Random seed of that draw, and of the order of the images.", min=0)
    cache_gib: float = option(
        8.0, "Disk space for features in GiB; those that do not fit are computed anew in each round."
    )

    def __post_init__(self) -> None:
        """Raises LostRegError for a value that is not possible."""
        check_fields(self)
        if not 0 <= self.rounds <= 1000:
            raise LostRegError(f"expected `rounds` from 0 to 1000, but got {self.rounds}")
        if not 0 < self.ridge < 1e6:
            raise LostRegError(f"expected a `ridge` above 0, but got {self.ridge}")
        if not 0 <= self.holdout < 1:
            raise LostRegError(f"expected a `holdout` from 0 to below 1, but got {self.holdout}")
        if not self.cache_gib >= 0:
            raise LostRegError(f"expected a `cache_gib` of at least 0, but got {self.cache_gib}")


@dataclass(frozen=True)
class TrainOptions:
    """How the images of a training are read, and whether it goes on.

    limit: how many images to learn from at most, drawn at random.
    image_root: where the run's images are; by default where they were.
    resume: continue a training that was interrupted. overwrite: replace the head that the folder holds,
        once this one is trained.
    engine: what computes the features, if not this process.
    """

    loader: LoaderOptions = field(default_factory=LoaderOptions)
    limit: int | None = None
    image_root: ImageRoot = RECORDED
    resume: bool = False
    overwrite: bool = False
    engine: Engine | None = None
