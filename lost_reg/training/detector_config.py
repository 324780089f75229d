"""The options of a detector and of its training, and the recipes that set them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from lost_reg.discovery.features import option
from lost_reg.errors import LostRegError
from lost_reg.json_files import check_fields

RESNETS = ("resnet18", "resnet50")
VIT = "vit"
NORMS = ("group", "batch", "frozen")
# A record of others can ask for anything; these are beyond all that is trained.
MOST_CHANNELS, MOST_SIDE, MOST_PROPOSALS, MOST_CLASSES = 4096, 16_384, 100_000, 100_000
BATCH_OF_LR = 16  # the batch size that the recipes' learning rates are for


@dataclass(frozen=True)
class DetectorConfig:
    """A Faster R-CNN of torchvision, and how it is trained; the defaults are the recipe `small`.

    lr: for a batch of 16; the learning rate is proportional to the batch size.
    milestones: the shares of the steps after which the learning rate is divided by ten.
    min_sizes: the shorter sides, in pixels, of which each training image gets one; the largest is used when
        the detector is applied. The longer side is at most `max_size`.
    score_threshold, nms, proposals: of the objects that are kept when the detector is applied.
    """

    backbone: str = option(
        VIT, "vit, the run's own backbone, frozen; or a ResNet, whose weights can be given.",
        choices=(VIT, *RESNETS),
    )  # fmt: skip
    neck: str = option(
        "fpn", "fpn, a pyramid of features; or c4, as LOST's CAD: one map of a ResNet's fourth stage.",
        choices=("fpn", "c4"),
    )  # fmt: skip
    norm: str = option(
        "group", "Normalisation of a ResNet: group; batch (over all ranks, on GPUs); or frozen, as it is in "
        "the weights, which is the default with these.",
        choices=NORMS,
    )  # fmt: skip
    trainable_stages: int = option(
        5, "How many of a ResNet's five stages are trained, from the last.", min=0, metavar="0-5"
    )
    channels: int = option(256, "Width of the pyramid.", min=1, metavar="N")
    steps: int = option(2000, "How many steps to train.", min=1, metavar="N")
    batch_size: int = option(4, "Images in a step, over all ranks.", min=1, metavar="N")
    lr: float = option(0.02, "Learning rate for a batch of 16; it is scaled with the batch size.")
    momentum: float = option(0.9, "Momentum of SGD.")
    weight_decay: float = option(1e-4, "Weight decay.")
    warmup: int = option(100, "Steps in which the learning rate rises to its value.", min=0, metavar="N")
    milestones: tuple[float, ...] = (0.75, 11 / 12)
    min_sizes: tuple[int, ...] = (320, 352, 384)
    max_size: int = option(640, "The longest side of an image, in pixels.", min=16, metavar="PIXELS")
    flip: float = 0.5
    score_threshold: float = 0.05
    nms: float = 0.5
    proposals: tuple[int, int] = (1000, 1000)
    seed: int = option(0, "Seed of the weights, the order of the images and what is sampled.", min=0)

    def __post_init__(self) -> None:
        """Raises LostRegError for a value that is not possible."""
        check_fields(self)
        for name, known in (("backbone", (VIT, *RESNETS)), ("neck", ("fpn", "c4")), ("norm", NORMS)):
            if getattr(self, name) not in known:
                shown = ", ".join(known)
                raise LostRegError(f"unknown `{name}` {getattr(self, name)!r}: choose among {shown}")
        if self.neck == "c4" and self.backbone == VIT:
            raise LostRegError("the `neck` c4 needs a ResNet as `backbone`")
        for name in ("steps", "batch_size", "channels", "max_size"):
            if getattr(self, name) < 1:
                raise LostRegError(f"expected `{name}` of at least 1, but got {getattr(self, name)}")
        for name, value, most in (
            ("channels", self.channels, MOST_CHANNELS),
            ("max_size", self.max_size, MOST_SIDE),
            ("min_size", max(self.min_sizes, default=0), MOST_SIDE),
            ("proposals", max(self.proposals), MOST_PROPOSALS),
        ):
            if value > most:
                raise LostRegError(f"expected `{name}` of at most {most:,}, but got {value:,}")
        if not 0 < self.lr < math.inf:
            raise LostRegError(f"expected `lr` above 0, but got {self.lr}")
        if not 0 <= self.momentum < 1:
            raise LostRegError(f"expected `momentum` from 0 to below 1, but got {self.momentum}")
        if not 0 <= self.weight_decay < math.inf:
            raise LostRegError(f"expected `weight_decay` of at least 0, but got {self.weight_decay}")
        if self.warmup < 0:
            raise LostRegError(f"expected `warmup` of at least 0, but got {self.warmup}")
        if not 0 <= self.seed < 2**32:
            raise LostRegError(f"expected a `seed` from 0 to {2**32 - 1}, but got {self.seed}")
        if not self.min_sizes or min(self.min_sizes) < 16:
            raise LostRegError(f"expected a `min_size` of at least 16 pixels, but got {self.min_sizes}")
        if not 0 <= self.trainable_stages <= 5:
            raise LostRegError(f"expected `trainable_stages` of 0 to 5, but got {self.trainable_stages}")

    def lr_at(self, step: int) -> float:
        """The learning rate of a step: linear warm-up, then divided by ten after each milestone."""
        rate = self.lr * self.batch_size / BATCH_OF_LR
        if step < self.warmup:
            start = 0.001
            return rate * (start + (1 - start) * step / self.warmup)
        return rate * 0.1 ** sum(step >= round(share * self.steps) for share in self.milestones)


SMALL, TORCHVISION, LOST_CAD = "small", "torchvision", "lost-cad"

# Each recipe's fields. lost-cad: LOST (arXiv 2109.14279), section 4.1, with detectron2's Faster R-CNN R50-C4;
# torchvision: references/detection, 26 epochs of COCO's 117,266 images with objects, eight GPUs.
PRESETS: dict[str, dict[str, Any]] = {
    SMALL: {},
    TORCHVISION: {
        "backbone": "resnet50", "norm": "frozen", "trainable_stages": 3, "steps": 190_558, "batch_size": 16,
        "warmup": 1000, "milestones": (16 / 26, 22 / 26), "min_sizes": (800,), "max_size": 1333,
    },
    LOST_CAD: {
        "backbone": "resnet50", "neck": "c4", "norm": "batch", "trainable_stages": 3, "steps": 24_000,
        "batch_size": 16, "warmup": 100, "milestones": (18 / 24, 22 / 24),
        "min_sizes": tuple(range(480, 801, 32)), "max_size": 1333, "score_threshold": 0.01, "nms": 0.4,
        "proposals": (6000, 1000),
    },
}  # fmt: skip


def chosen_config(preset: str = SMALL, **changes: Any) -> DetectorConfig:
    """The configuration of a preset with some fields changed.

    Raises:
        LostRegError: an unknown preset, or an invalid value.
    """
    if preset not in PRESETS:
        raise LostRegError(f"unknown `preset` {preset!r}: choose among {', '.join(PRESETS)}")
    return replace(DetectorConfig(), **{**PRESETS[preset], **changes})
