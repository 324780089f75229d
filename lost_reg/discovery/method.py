"""The interface of a discovery method, an entry of the registry in `methods.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from lost_reg.discovery.features import FeatureConfig, PatchFeatures
from lost_reg.discovery.maps import Maps
from lost_reg.types import Number, Prediction

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class PatchObject:
    """One object on the patch grid.

    box_xyxy: half-open, in patches. seed: (row, column).
    score, details: see `FoundObject`.
    mask: (rows, columns) bool; None if the method only returns a box.
    clipped: whether its box in pixels ends at the image's edge, where the grid reaches into the padding.
    """

    box_xyxy: tuple[int, int, int, int]
    seed: tuple[int, int]
    score: float | None = None
    details: dict[str, Number] = field(default_factory=dict)
    mask: np.ndarray | None = None
    clipped: bool = True


MAX_OBJECTS_HELP = "Find up to N objects per image; CorLoc counts only the first. MaskCut: 0 for all."

# Returns the objects of each image of a batch, after waiting for the device if it is still computing them.
Deferred = Callable[[], list[list[PatchObject]]]


@dataclass(frozen=True)
class Preset:
    """A named combination of features and options."""

    about: str
    features: FeatureConfig
    config: Any


@dataclass(frozen=True)
class Method:
    """One discovery method.

    title: its name as papers write it.
    about: a one-line description.
    config: its frozen dataclass of options. Each field has a default, and a "help" in its metadata.
    discover: starts finding the objects of a batch of images, with one configuration.
    operations: arithmetic operations for one image, given its number of patches, the feature dimension and
        the configuration; a multiplication and an addition count as two.
    peak_bytes: memory that a batch needs besides its features, given the number of images and of patches.
    presets: by name; "published" is the method as its authors published it.
    discover_each: the same as `discover` for several configurations of the same features, if that saves
        work; for sweeps, which only use the boxes, so scores may be left out.
    maps: the maps of each image, which show how the method found its objects.
    why_implausible: given a kind of `plausibility.IMPLAUSIBLE` and the images whose first box is of that
        kind, says why they are, or None if it does not know. The images are streamed.
    class_attention: "needed" or "used" if it works with the attention of the class token, see
        `PatchFeatures`: not at all without it, or also without it.
    check_heads: raises LostRegError for options that a backbone with so many attention heads cannot serve.
    main_option: the option that is tuned first, such as LOST's bias: a description names it even at its
        default, and a chart of a sweep has it on the axis.
    unaffected_by: fields of `FeatureConfig` that change nothing, such as "normalize" where the method itself
        normalises; a sweep does not vary them.
    """

    name: str
    title: str
    about: str
    config: type[Any]
    discover: Callable[[PatchFeatures, Any], Deferred]
    operations: Callable[[int, int, Any], float]
    peak_bytes: Callable[[int, int], float]
    presets: Mapping[str, Preset]
    discover_each: Callable[[PatchFeatures, Sequence[Any]], list[Deferred]] | None = None
    maps: Callable[[PatchFeatures, Any], list[Maps]] | None = None
    why_implausible: Callable[[str, Iterable[Prediction]], str | None] | None = None
    class_attention: Literal["", "used", "needed"] = ""
    check_heads: Callable[[Any, int], None] | None = None
    main_option: str | None = None
    unaffected_by: tuple[str, ...] = ()

    def boxes_by_each(self, features: PatchFeatures, configs: Sequence[Any]) -> list[Deferred]:
        """Start each of several configurations on the same features."""
        if self.discover_each and len(configs) > 1:
            return self.discover_each(features, configs)
        return [self.discover(features, config) for config in configs]
