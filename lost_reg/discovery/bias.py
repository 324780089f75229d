"""A bias for LOST's affinities, chosen for each image without labels: `LostConfig(bias="auto")`.

Darcet et al. ("Vision Transformers Need Registers", ICLR 2024) add a bias to the Gram matrix by hand, and
Jiang et al. ("Vision Transformers Don't Need Trained Registers", NeurIPS 2025) sweep it; neither reports the
values used. The rule here is this project's own: Otsu's threshold ("A Threshold Selection Method from
Gray-Level Histograms", 1979) on the image's affinities, which has no constant to tune. It assumes two kinds
of affinities, between patches that belong together and between those that do not, and splits them where the
variance between the two kinds is largest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lost_reg.discovery.otsu import affinity_thresholds

if TYPE_CHECKING:
    from torch import Tensor


def absolute_bias(features: Tensor, bias: float | str) -> Tensor | None:
    """The bias in the units of the affinities of (B, N, D) features: (B,), or None for none."""
    if isinstance(bias, str):
        return otsu_bias(features.float())
    if not bias:
        return None  # not 0 times a norm, which can overflow
    return bias * features.float().square().sum(dim=2).mean(dim=1)


def otsu_bias(features: Tensor) -> Tensor:
    """The bias that puts zero at Otsu's threshold of each image's affinities to other patches.

    Args:
        features: (B, N, D), float32 or float64, finite.

    Returns:
        (B,), in the units of the affinities; 0 for an image of one patch, or with equal affinities.
    """
    return -affinity_thresholds(features)
