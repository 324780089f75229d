"""MaskCut: several objects by repeated normalised cuts, batched over images of one grid.

Wang et al., "Cut and Learn for Unsupervised Object Detection and Instance Segmentation" (CVPR 2023), as its
published code (facebookresearch/CutLER, maskcut/maskcut.py) computes it. Masks are sharpened to pixels
afterwards, by `Setting.refine`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lost_reg.discovery.affinities import seed_cosines
from lost_reg.discovery.features import FeatureConfig, PatchFeatures, option
from lost_reg.discovery.method import MAX_OBJECTS_HELP, Deferred, Method, PatchObject, Preset
from lost_reg.discovery.normalized_cut import graph_bytes
from lost_reg.discovery.tokencut import (
    EPS_HELP,
    TAU_HELP,
    Cuts,
    check_graph_options,
    cut,
    cut_operations,
    eigenvectors_of,
    objects_of,
    strongest,
    thresholds,
    unit_features,
)
from lost_reg.errors import LostRegError
from lost_reg.json_files import check_fields
from lost_reg.lazy import np, torch
from lost_reg.masks.grids import box_of

if TYPE_CHECKING:
    from torch import Tensor

_SAME = 0.5  # IoU with the mask before, above which a mask is that one again
_LEAST = 0.01  # share of the patches, up to which a mask is too small
_CORNERS = 3  # on the object's side, from which it is the background


@dataclass(frozen=True)
class MaskCutConfig:
    """Options of MaskCut; the defaults are MaskCut as published."""

    tau: float | str = option(0.15, TAU_HELP, metavar="X|auto", sweep="0.1:0.6:0.1,auto")
    eps: float = option(1e-5, EPS_HELP, sweep=False)
    max_objects: int = option(3, MAX_OBJECTS_HELP, metavar="N", min=0, sweep=False)

    def __post_init__(self) -> None:
        """Raises LostRegError for an invalid value."""
        check_fields(self)
        check_graph_options(self.tau, self.eps)
        if self.max_objects < 0:
            raise LostRegError(f"expected `max_objects` of at least 0, but got {self.max_objects}")


def discover(features: PatchFeatures, config: MaskCutConfig) -> Deferred:
    """Find the objects of each image; see `Method.discover`. It waits for the device after each cut."""
    units = unit_features(features.values)
    taus = thresholds(units, config.tau)
    searches = [_Search(features.grid_hw) for _ in range(len(units))]
    going_on = list(range(len(units)))
    for _ in range(config.max_objects or math.prod(features.grid_hw)):
        left = np.stack([~searches[image].cut_out.ravel() for image in going_on])
        remaining = units[going_on] * torch.from_numpy(left).to(units.device)[:, :, None]
        of_images = taus[going_on]
        cuts = cut(eigenvectors_of(remaining, of_images, config.eps), remaining, of_images)
        objects = objects_of(away_from_corners(cuts, remaining, features.grid_hw).cpu(), features.grid_hw)
        again = [searches[image].add(one) for image, one in zip(going_on, objects)]
        if not config.max_objects:
            going_on = [image for image, another in zip(going_on, again) if another]
        if not going_on:
            break
    return lambda: [search.objects for search in searches]


class _Search:
    """The search in one image.

    Attributes:
        objects: those that were found, without patches of earlier ones.
        cut_out: (rows, columns) bool, the patches of all of them.
    """

    def __init__(self, grid_hw: tuple[int, int]):
        self.objects: list[PatchObject] = []
        self.cut_out = np.zeros(grid_hw, dtype=bool)
        self._before: np.ndarray | None = None  # the mask before, empty if it was dropped

    def add(self, one: PatchObject) -> bool:
        """Add what the next cut gave; not if it is too small, or the mask before. Returns whether it was."""
        mask = one.mask
        assert mask is not None
        if self._before is not None and (mask.mean() <= _LEAST or _iou(mask, self._before) > _SAME):
            self._before = np.zeros_like(mask)
            return False
        self._before = mask
        own = mask & ~self.cut_out
        self.cut_out |= mask
        if own.any():
            self.objects.append(replace(one, mask=own, box_xyxy=box_of(own)))
        return True


def away_from_corners(cuts: Cuts, features: Tensor, grid_hw: tuple[int, int]) -> Cuts:
    """The cuts, with object and background exchanged where the object has three corners of the image or four.

    The sign of an eigenvector is arbitrary. MaskCut's code counts the corners before it has chosen the sign,
    so that its answer depends on the eigensolver; here the seed's side is the object until the corners say
    otherwise.
    """
    sides_hw = cuts.sides.reshape(-1, *grid_hw)
    corners = sides_hw[:, [0, 0, -1, -1], [0, -1, 0, -1]].sum(dim=1)
    reversed_ = (corners >= _CORNERS)[:, None]
    vectors = torch.where(reversed_, -cuts.vectors, cuts.vectors)
    sides = torch.where(reversed_, ~cuts.sides, cuts.sides)
    seeds = strongest(vectors)
    # A side without patches has no seed: where nothing tells patches apart, the whole image stays the object.
    whole = ~sides.gather(1, seeds[:, None])
    sides = torch.where(whole, cuts.sides, sides)
    return replace(cuts, vectors=vectors, sides=sides, seeds=seeds, cosines=seed_cosines(features, seeds))


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))


def maskcut_operations(patches: int, width: int, config: MaskCutConfig) -> float:
    """Operations of its cuts."""
    return (config.max_objects or 3) * cut_operations(patches, width, config)


MASKCUT = Method(
    name="maskcut",
    title="MaskCut",
    about="MaskCut: several objects by repeated cuts, as TokenCut's (Wang et al. 2023)",
    config=MaskCutConfig,
    discover=discover,
    main_option="tau",
    unaffected_by=("normalize",),
    operations=maskcut_operations,
    peak_bytes=graph_bytes,
    presets={
        "published": Preset(
            "MaskCut as published, without its CRF: keys of the last layer, 480 x 480 pixels, 3 masks",
            FeatureConfig(square=480),
            MaskCutConfig(),
        ),
        "native": Preset("the same at native resolution", FeatureConfig(), MaskCutConfig()),
    },
)
