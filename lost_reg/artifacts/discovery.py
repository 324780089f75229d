"""Discovery on the measured images: CorLoc of LOST, untouched and under each control.

One pass over the images: all blocks but the last run once for each batch, and the last one for each change of
the tokens that enter it (`controls.py`). LOST's keys of the last block depend on these tokens alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lost_reg.artifacts.controls import Chosen, Donors, changed_patches, given_tokens
from lost_reg.artifacts.norms import Moments
from lost_reg.artifacts.options import ArtifactOptions
from lost_reg.artifacts.records import (
    GROUPS,
    Control,
    ControlScore,
    CorLocChange,
    Discovery,
    Group,
)
from lost_reg.backbones.base import Backbone, BlockTokens, normalized
from lost_reg.boxes import box_in_original
from lost_reg.datasets.base import Dataset
from lost_reg.discovery.affinities import patch_degrees
from lost_reg.discovery.bias import absolute_bias
from lost_reg.discovery.features import finite_images, without_images
from lost_reg.discovery.lost import objects_of, seed_and_expand
from lost_reg.errors import LostRegError
from lost_reg.images.batching import DecodedImage
from lost_reg.scoring.columns import AlignedBoxes, Columns, found_images, with_objects
from lost_reg.scoring.corloc import score_aligned
from lost_reg.scoring.paired import Paired
from lost_reg.types import AUTO, Box, Failure, SizeHW

Variant = tuple[Control, Group]


@dataclass(frozen=True)
class Found:
    """What LOST finds in one image.

    seed: a patch; on_outliers: the share of outliers among the patches that tie for the lowest degree.
    changed: how many patches were changed; cosine: of the class token to the untouched one, or None.
    """

    box_xyxy: Box
    seed: int
    on_outliers: float
    changed: int = 0
    cosine: float | None = None


@dataclass(frozen=True)
class FoundInImage:
    """What LOST finds in one image without a change and with each; size_hw: of the original, in pixels."""

    name: str
    size_hw: SizeHW
    untouched: Found
    changed: dict[Variant, Found]


class ControlledDiscovery:
    """Runs LOST on images whose outliers are known by their norms, with the changes that are asked for.

    layer, cutoff: a patch with a larger norm after this block is an outlier.
    options: its controls and their seed, and which LOST.
    places: of all images, by name, see `Chosen`.
    donors: for "shuffled".
    """

    def __init__(
        self,
        backbone: Backbone,
        layer: int,
        cutoff: float,
        options: ArtifactOptions,
        places: dict[str, int],
    ):
        self._backbone, self._layer, self._cutoff = backbone, layer, cutoff
        self._variants: list[Variant] = list(product(options.controls, GROUPS))
        self._places, self._seed = places, options.seed
        self._is_normalized = options.lost == "normalized"
        self.donors: Donors | None = None
        self._has_class = bool(options.controls) and _has_class_token(backbone)

    def give(self, part: list[DecodedImage]) -> list[tuple[int, dict[Group, Tensor]]]:
        """What images of a batch give to others: for `Donors.of`."""
        entering, chosen = self._entering(part)
        return [
            (one.image, given_tokens(patches, one, self._seed))
            for patches, one in zip(entering.patches, chosen)
            if patches.isfinite().all()
        ]

    def find(self, part: list[DecodedImage]) -> list[FoundInImage | Failure]:
        """What LOST finds in each image of a batch; a Failure for one with features that are not finite."""
        entering, chosen = self._entering(part)
        each = [self._found(entering, [0] * len(part), chosen, part)]
        untouched = self._class_tokens(entering)
        for variant in self._variants:
            tokens, counts = self._changed(entering, chosen, variant)
            each.append(self._found(tokens, counts, chosen, part, untouched))
        unusable = self._backbone.not_finite("its features are")
        results: list[FoundInImage | Failure] = []
        for image, *found in zip(part, *each):
            usable = [one for one in found if one is not None]
            if len(usable) < len(found):
                results.append(Failure(image.name, unusable))
            else:
                first, *others = usable
                results.append(
                    FoundInImage(image.name, image.original_hw, first, dict(zip(self._variants, others)))
                )
        return results

    def _entering(self, part: list[DecodedImage]) -> tuple[BlockTokens, list[Chosen]]:
        """The tokens that enter the last block, and which of each image's patches are to be changed."""
        last = self._backbone.depth - 1
        for at in self._backbone.tokens_by_block(normalized(part, self._backbone)):
            if at.layer == last:
                entering = at
            if at.layer == self._layer + 1:
                outliers = (at.patches.float().norm(dim=2) > self._cutoff).cpu()  # (B, N)
            if at.layer >= max(last, self._layer + 1):
                break
        places = [self._places[image.name] for image in part]
        return entering, [Chosen.of(one, place, self._seed) for one, place in zip(outliers, places)]

    def _changed(
        self, entering: BlockTokens, chosen: Sequence[Chosen], variant: Variant
    ) -> tuple[BlockTokens, list[int]]:
        """The tokens after a change, and how many patches were changed in each image."""
        control, group = variant
        changed, counts = zip(
            *(
                changed_patches(patches, one, group, control, self.donors, self._seed)
                for patches, one in zip(entering.patches, chosen)
            )
        )
        return entering.with_patches(torch.stack(changed)), list(counts)

    def _class_tokens(self, entering: BlockTokens) -> Tensor | None:
        """(B, D) float64, or None without class tokens."""
        return self._backbone.class_tokens_from(entering).double() if self._has_class else None

    def _found(
        self,
        entering: BlockTokens,
        changed: Sequence[int],
        chosen: Sequence[Chosen],
        part: Sequence[DecodedImage],
        untouched: Tensor | None = None,
    ) -> list[Found | None]:
        """What LOST finds in each image; None where features are not finite."""
        keys = self._backbone.facets_from(entering, [("k", -1)])[0].float()
        finite = finite_images(keys)
        values, bias = without_images(keys, finite), None
        if self._is_normalized:
            values = F.normalize(values, dim=2)
            bias = absolute_bias(values, AUTO)
        degrees = patch_degrees(values, bias)  # (B, N)
        tied = (degrees == degrees.amin(dim=1, keepdim=True)).cpu()
        found = seed_and_expand(values, bias=bias, degrees=degrees, with_cosines=False).cpu()
        objects = objects_of(found, entering.grid_hw)
        cosines: list[float | None] = [None] * len(part)
        if untouched is not None:
            cosines = F.cosine_similarity(self._class_tokens(entering), untouched, dim=1).tolist()
        results: list[Found | None] = []
        for index, (image, one) in enumerate(zip(part, objects)):
            cosine = cosines[index]
            if not finite[index] or (cosine is not None and not math.isfinite(cosine)):
                results.append(None)
                continue
            sides = [side * self._backbone.patch_size for side in one.box_xyxy]
            box = box_in_original(sides, image.size_hw, image.original_hw, clipped=one.clipped)
            on_outliers = float(chosen[index].outliers[tied[index]].double().mean())
            results.append(Found(box, int(found.seeds[index]), on_outliers, changed[index], cosine))
        return results


def _has_class_token(backbone: Backbone) -> bool:
    try:
        backbone.check_class_token()
    except LostRegError:
        return False
    return True


# --- scores ------------------------------------------------------------------------------------------


@dataclass
class DiscoveryScores:
    """Running statistics of what is found; boxes are kept if there is ground truth.

    Memory grows by the boxes of each image, as for `lost-reg corloc`.
    """

    dataset: Dataset | None = None
    images: int = 0
    _untouched: dict[str, Box] = field(default_factory=dict)
    _sizes: dict[str, SizeHW] = field(default_factory=dict)
    _changes: dict[Variant, _Change] = field(default_factory=dict)

    def update(self, found: FoundInImage) -> None:
        """Add an image."""
        self.images += 1
        if self.dataset:
            self._untouched[found.name] = found.untouched.box_xyxy
            self._sizes[found.name] = found.size_hw
        for variant, one in found.changed.items():
            change = self._changes.setdefault(variant, _Change())
            change.update(found.untouched, one)
            if self.dataset:
                change.boxes[found.name] = one.box_xyxy

    def report(self, failed: Sequence[str]) -> tuple[Discovery | None, list[ControlScore]]:
        """CorLoc of what is found, and the effect of each control. failed: images that were not usable.

        Raises:
            LostRegError: no image has a ground-truth box.
        """
        if not self.dataset:
            return None, [change.report(*variant, self.images) for variant, change in self._changes.items()]
        done = (*self._untouched, *failed)
        truths = self.dataset.with_sizes(self._sizes, done).truths

        def aligned(boxes: dict[str, Box]) -> AlignedBoxes:
            return AlignedBoxes.align(Columns.of_boxes(boxes), truths, list(boxes), failed)

        score = score_aligned(aligned(self._untouched), truths)
        scored = aligned(self._untouched).done & with_objects(truths)

        def hits(boxes: dict[str, Box]) -> np.ndarray:  # of the images that are scored
            return found_images(aligned(boxes).boxes_xyxy, truths)[scored]

        before = hits(self._untouched)
        after = {variant: hits(change.boxes) for variant, change in self._changes.items()}
        discovery = Discovery(
            score.images,
            score.found,
            score.corloc,
            score.interval,
            score.unusable,
            score.centred,
            score.whole,
        )
        return discovery, list(self._with_corloc(before, after))

    def _with_corloc(self, before: np.ndarray, after: dict[Variant, np.ndarray]) -> Iterator[ControlScore]:
        for (control, group), change in self._changes.items():
            now = after[control, group]
            from_rest = corloc_change(after[control, "rest"], now) if group == "outliers" else None
            yield change.report(control, group, self.images, corloc_change(before, now), from_rest)


def corloc_change(before: np.ndarray, after: np.ndarray) -> CorLocChange:
    """The change of CorLoc between two outcomes of the same images, (N,) bool: whether each was found."""
    counts = np.bincount(2 * ~before + ~after, minlength=4).tolist()
    paired = Paired(*counts)
    return CorLocChange(
        corloc=paired.corloc_b,
        only_before=paired.only_a,
        only_after=paired.only_b,
        difference=paired.difference,
        interval=paired.interval,
        p=paired.p,
    )


class _Change:
    """Running statistics of one change."""

    def __init__(self) -> None:
        self.boxes: dict[str, Box] = {}
        self._patches = self._images = self._moved = 0
        self._on_outliers = self._before = 0.0
        self._cosines = Moments()

    def update(self, before: Found, after: Found) -> None:
        self._patches += after.changed
        self._images += after.changed > 0
        self._moved += before.seed != after.seed
        self._on_outliers += after.on_outliers
        self._before += before.on_outliers
        if after.changed and after.cosine is not None:
            self._cosines.update(torch.tensor([[after.cosine]]))

    def report(
        self,
        control: Control,
        group: Group,
        images: int,
        corloc: CorLocChange | None = None,
        from_rest: CorLocChange | None = None,
    ) -> ControlScore:
        """images: of which it knows."""
        cosine, interval = _mean_with_interval(self._cosines)
        return ControlScore(
            control, group, self._patches, self._images, self._moved / images, self._on_outliers / images,
            self._before / images, cosine, interval, corloc, from_rest,
        )  # fmt: skip


def _mean_with_interval(moments: Moments) -> tuple[float | None, tuple[float, float] | None]:
    """A mean over images and its 95 % interval by Student's t; None for what there are too few images for."""
    count = moments.count
    if not count:
        return None, None
    mean = float(moments.mean[0])
    if count < 2:
        return mean, None
    from scipy.stats import t  # slow to import

    reach = float(t.ppf(0.975, count - 1)) * float(moments.deviation[0]) / math.sqrt(count - 1)
    return mean, (mean - reach, mean + reach)
