"""The table of ways to refine masks: each takes an image, and then its masks."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Protocol

from lost_reg.errors import LostRegError
from lost_reg.lazy import np
from lost_reg.masks.bilateral import BilateralSolver
from lost_reg.masks.dense_crf import DenseCrf


class Refiner(Protocol):
    """Refines masks on one image: pixels, (H, W, 3) uint8 RGB."""

    def __init__(self, pixels: np.ndarray): ...

    def refine(self, coarse: np.ndarray) -> np.ndarray:
        """A coarse mask, (H, W) bool, with its edges moved to those of the image: (H, W) bool."""
        ...


REFINERS: dict[str, type[Refiner]] = {"bilateral": BilateralSolver, "crf": DenseCrf}


def check_refiner(name: str) -> None:
    """Check that masks can be refined this way.

    Raises:
        LostRegError: an unknown name, or one whose library is not installed.
    """
    if name not in REFINERS:
        raise LostRegError(f"unknown `refine` {name!r}: choose among {', '.join(REFINERS)}")
    if name == "crf" and find_spec("pydensecrf") is None:
        raise LostRegError("`refine` crf needs pydensecrf2: pip install 'lost-reg[crf]', or choose bilateral")
