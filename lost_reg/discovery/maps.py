"""Maps: per-patch intermediate results, which show how a method found its objects in one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from lost_reg.discovery.method import PatchObject


@dataclass(frozen=True)
class Maps:
    """A method's intermediate results in one image; each map is (rows, columns) of its patch grid.

    values: float32 maps by name, such as LOST's "degrees" (each patch's degree) and "affinities" (the
        positive part of its affinity to the seed). A run adds "norms": the L2 norm of each patch token as it
        enters the block whose qkv layer gives the features, before that block's LayerNorm, which hides
        outliers. If the backbone is a function, they are the norms of its features.
    attention: for each token before the patches that has any, such as "class" and "register 1", float32
        (1 + heads, rows, columns): how much it attends to each patch in the last block, the mean over heads
        and then each head. A run adds it, too.
    mask: bool; its component that contains the seed is the object.
    seed: (row, column).
    covered_hw: the share of the grid's height and width that the image covers; the rest is padding.
    """

    values: dict[str, np.ndarray]
    mask: np.ndarray
    seed: tuple[int, int]
    covered_hw: tuple[float, float] = (1.0, 1.0)
    attention: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError for maps of different shapes, or a seed outside them."""
        shapes = {one.shape for one in (*self.values.values(), self.mask)}
        shapes |= {one.shape[1:] for one in self.attention.values()}
        (rows, columns), (row, column) = self.mask.shape, self.seed
        if len(shapes) != 1 or not (0 <= row < rows and 0 <= column < columns):
            raise ValueError(f"expected maps of one shape, the seed inside, but got {shapes}, {self.seed}")
        if not all(0 < share <= 1 for share in self.covered_hw):
            raise ValueError(f"expected shares of the grid in (0, 1], but got {self.covered_hw}")

    def of_run(
        self, norms: np.ndarray, attention: dict[str, np.ndarray], extent_hw: tuple[float, float]
    ) -> Maps:
        """These maps with token norms first and attention, for an image of this size in patches."""
        covered = tuple(side / cells for side, cells in zip(extent_hw, self.mask.shape))
        values = {"norms": norms, **self.values}
        return replace(self, values=values, attention=attention, covered_hw=covered)


def maps_of(values: dict[str, np.ndarray], objects: Sequence[PatchObject], mask: np.ndarray) -> Maps:
    """The maps of one image in which these objects were found, the first of which has a mask.

    Args:
        values: see `Maps`.
        mask: all patches that were candidates for the object, (rows, columns) bool. If its component at the
            seed is not the object, as where an empty one stands for the whole image, the object's is taken.
    """
    if not objects:
        return Maps(values, mask & False, (0, 0))
    first = objects[0]
    assert first.mask is not None
    return Maps(values, mask if mask[first.seed] else first.mask, first.seed)
