"""The options of linear evaluation, and DINOv2's protocol for each task. Does not import torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lost_reg.discovery.features import option
from lost_reg.errors import LostRegError
from lost_reg.json_files import check_fields

DenseTask = Literal["segmentation", "depth"]

BATCH = 16  # images of a step
BINS = 256  # of depth
MIN_DEPTH = 1e-3  # metres
MOST_VIEWS = 1000  # DINOv2's schedule of 640,000 images shows each of 640 as often


@dataclass(frozen=True)
class Protocol:
    """How a linear head is trained with AdamW.

    warm_up: the share of the steps in which the learning rate rises linearly, from `warm_up_from` of it.
    decay: how it falls to 0 over all steps.
    normed: whether the head reads tokens after the final norm, or before it.
    clip: the largest norm of the gradient, or None.
    """

    steps: int
    learning_rate: float
    weight_decay: float
    warm_up: float
    warm_up_from: float
    decay: Literal["linear", "cosine"]
    normed: bool
    clip: float | None

    def rate(self, step: int, steps: int) -> float:
        """The factor of the learning rate in a step, 0 to `steps` - 1."""
        done, warm_up = step / steps, self.warm_up * steps
        rise = 1.0 if step >= warm_up else self.warm_up_from + (1 - self.warm_up_from) * step / warm_up
        return rise * (1 - done if self.decay == "linear" else (1 + math.cos(math.pi * done)) / 2)


# Of facebookresearch/dinov2: the ADE20k configuration of its linear segmenters (mmsegmentation's schedule of
# 40,000 iterations), and that of its linear depth estimators, which follow BinsFormer.
PROTOCOLS: dict[DenseTask, Protocol] = {
    "segmentation": Protocol(40_000, 1e-3, 1e-4, 1500 / 40_000, 1e-6, "linear", normed=True, clip=None),
    "depth": Protocol(38_400, 1e-4, 1e-2, 12_800 / 38_400, 1e-3, "cosine", normed=False, clip=35.0),
}


@dataclass(frozen=True)
class DenseOptions:
    """Options of `--task segmentation` and `--task depth`.

    max_side: see `FeatureConfig`. views: of each training image, see `dense_views.py`. seed: of the drawn
    views, pixels and batches, and of the head's first weights.
    """

    max_side: int | None = option(
        None,
        "Scale images of a dense task down so that the longer side is at most this; labels keep their size.",
        metavar="PIXELS", min=1, shown_default="native resolution",
    )  # fmt: skip
    views: int = option(
        1,
        f"Views of each training image of a dense task, at most {MOST_VIEWS:,}: the image itself, and random "
        "crops, half of them mirrored.",
        min=1,
    )
    steps: int | None = option(
        None,
        f"Training steps of a dense task, of {BATCH} images each.",
        min=1,
        shown_default="40000 for segmentation, 38400 for depth",
    )
    learning_rate: float | None = option(
        None, "Learning rate of a dense task.", shown_default="0.001 for segmentation, 0.0001 for depth"
    )
    depth_scale: float = option(1000.0, "How much a depth file stores for a metre.")
    max_depth: float = option(10.0, "The largest depth that counts, in metres.")
    cache_gib: float = option(32.0, "Disk space for the features of a dense task's training images, in GiB.")
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises LostRegError for a value that is not possible."""
        check_fields(self)
        for name in ("steps", "max_side", "views"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise LostRegError(f"expected `{name}` of at least 1, but got {value}")
        if self.views > MOST_VIEWS:
            raise LostRegError(f"expected `views` of at most {MOST_VIEWS:,}, but got {self.views:,}")
        for name in ("learning_rate", "depth_scale", "cache_gib"):
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                raise LostRegError(f"expected a `{name}` above 0, but got {value:g}")
        if not MIN_DEPTH < self.max_depth < math.inf:
            raise LostRegError(f"expected a `max_depth` above {MIN_DEPTH:g}, but got {self.max_depth:g}")
