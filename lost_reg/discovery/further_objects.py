"""Further objects of an image: LOST again on the patches that no object has taken yet.

LOST (Siméoni et al. 2021) finds one object. Here the patches of its box leave the graph, and seed and
expansion are done anew on the rest, much as MaskCut repeats normalised cuts without the patches of earlier
masks (Wang et al., "Cut and Learn for Unsupervised Object Detection and Instance Segmentation", CVPR 2023).
The box leaves and not the component alone, as what else lies in it is mostly a piece of the same object.
Features and bias stay those of the whole image. The rules by which a search ends are this project's own: see
`is_another`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lost_reg.discovery.lost import LostResult, component_boxes, seed_and_expand
from lost_reg.plausibility import implausible
from lost_reg.scoring.corloc import found_objects
from lost_reg.types import FoundObject, Prediction

InPixels = Callable[[int, tuple], FoundObject]


@dataclass(frozen=True)
class Graph:
    """What LOST works on in B images of one grid.

    features: (B, N, D), prepared as the protocol says; bias: (B,), added to every affinity, or None.
    """

    features: Tensor
    bias: Tensor | None
    k_patches: int
    grid_hw: tuple[int, int]

    def lost(self, images: list[int], remaining_hw: Tensor) -> LostResult:
        """LOST on some of the images.

        remaining_hw: (len(images), rows, columns) bool on the CPU, the patches that no object has taken.
        """
        found = seed_and_expand(
            self.features[images],
            k_patches=self.k_patches,
            bias=None if self.bias is None else self.bias[images],
            remaining=remaining_hw.flatten(1).to(self.features.device),
        )
        return component_boxes(found.cpu(), self.grid_hw)


def with_further_objects(
    images: Mapping[int, Prediction], first: LostResult, graph: Graph, max_objects: int, in_pixels: InPixels
) -> dict[int, Prediction]:
    """Look for further objects in images, in each until nothing plausible is left.

    Args:
        images: by their place in the graph, with their first object; other images of it are left alone.
        first: what LOST found in all images of the graph.
        in_pixels: makes an image's object from its place and a row of a LostResult.

    Returns:
        The predictions, by the same places.
    """
    found, searched = dict(images), list(images)
    remaining_hw = torch.ones(len(first.seeds), *graph.grid_hw, dtype=torch.bool)
    for image, box in enumerate(first.boxes_xyxy.tolist()):
        _take(remaining_hw[image], box)
    for _ in range(max_objects - 1):
        searched = [image for image in searched if remaining_hw[image].any()]
        if not searched:
            break
        rows = graph.lost(searched, remaining_hw[searched]).rows()
        going_on = []
        for image, row in zip(searched, rows):
            one = in_pixels(image, row)
            if is_another(one, found[image], int(remaining_hw[image].sum())):
                found[image] = replace(found[image], further=(*found[image].further, one))
                _take(remaining_hw[image], row[0])
                going_on.append(image)
        searched = going_on
    return found


def is_another(one: FoundObject, image: Prediction, remaining: int) -> bool:
    """Whether what LOST found among an image's remaining patches is another object of it.

    It is not, and the search in the image ends, where
    - the seed is similar to more than half of the other patches that remain: LOST takes a patch of low degree
      for an object's since objects are the smaller part of an image, so that what is left is background;
    - the box is of a shape that no object has: see `implausible`;
    - the box has IoU >= 0.5 with an earlier one, so that it is the same object by the measure of CorLoc.
    """
    if 2 * one.degree > remaining - 1 or implausible(one, image):
        return False
    return not found_objects(one.box_xyxy, [earlier.box_xyxy for earlier in image.objects]).any()


def _take(remaining_hw: Tensor, box_xyxy: list[int]) -> None:
    xmin, ymin, xmax, ymax = box_xyxy
    remaining_hw[ymin:ymax, xmin:xmax] = False
