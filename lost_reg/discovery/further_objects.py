"""Further objects of an image: LOST again on the patches that no object has taken yet.

LOST (Siméoni et al. 2021) finds one object. Here the patches of its box leave the graph, and seeding
and expansion are repeated on the rest, much as MaskCut repeats normalised cuts without the patches of earlier
masks (Wang et al., "Cut and Learn for Unsupervised Object Detection and Instance Segmentation", CVPR 2023).
The whole box leaves, not only the component, because the rest of it mostly belongs to the same object.
Features and bias stay those of the whole image. The rules that end a search are this project's own: see
`is_another`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lost_reg.boxes import found_objects
from lost_reg.discovery.method import PatchObject
from lost_reg.lazy import torch
from lost_reg.plausibility import implausible
from lost_reg.types import Box

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Graph:
    """The patches of B images with the same grid, and how to grow an object from those that remain.

    extents_hw: the height and width of each image in patches; see `PatchFeatures`.
    grow: finds one object in each of the images with the given indices, among their remaining patches:
        (len(images), rows, columns) bool on the CPU.
    """

    grid_hw: tuple[int, int]
    extents_hw: Sequence[tuple[float, float]]
    grow: Callable[[list[int], Tensor], list[PatchObject]]

    def visible(self, image: int, box_xyxy: Box) -> Box:
        """A box without its part in the padding, in patches."""
        height, width = self.extents_hw[image]
        xmin, ymin, xmax, ymax = box_xyxy
        return xmin, ymin, min(xmax, width), min(ymax, height)


def with_further_objects(
    found: list[list[PatchObject]], graph: Graph, max_objects: int
) -> list[list[PatchObject]]:
    """Look for further objects in each image, until nothing plausible is left.

    Args:
        found: the first object of each image; the others are appended.
    """
    remaining_hw = torch.ones(len(found), *graph.grid_hw, dtype=torch.bool)
    for image, (first,) in enumerate(found):
        _remove(remaining_hw[image], first.box_xyxy)
    searched = list(range(len(found)))
    for _ in range(max_objects - 1):
        searched = [image for image in searched if remaining_hw[image].any()]
        if not searched:
            break
        objects = graph.grow(searched, remaining_hw[searched])
        going_on = []
        for image, one in zip(searched, objects):
            if is_another(one, found[image], graph, image, int(remaining_hw[image].sum())):
                found[image].append(one)
                _remove(remaining_hw[image], one.box_xyxy)
                going_on.append(image)
        searched = going_on
    return found


def is_another(
    one: PatchObject, earlier: Sequence[PatchObject], graph: Graph, image: int, remaining: int
) -> bool:
    """Whether what LOST found among an image's remaining patches counts as another object.

    It is not, and the search in the image ends, if
    - the seed is similar to more than half of the other remaining patches: LOST assumes that objects cover
      the smaller part of an image, so that their patches have a low degree; here only background is left;
    - the box has a shape that no object has: see `implausible`;
    - the box has IoU >= 0.5 with an earlier one, so that CorLoc would count it as the same object.
    """
    box = graph.visible(image, one.box_xyxy)
    if 2 * one.details["degree"] > remaining - 1:
        return False
    if implausible(box, graph.extents_hw[image], graph.grid_hw):
        return False
    return not found_objects(box, [graph.visible(image, other.box_xyxy) for other in earlier]).any()


def _remove(remaining_hw: Tensor, box_xyxy: tuple[int, int, int, int]) -> None:
    xmin, ymin, xmax, ymax = box_xyxy
    remaining_hw[ymin:ymax, xmin:xmax] = False
