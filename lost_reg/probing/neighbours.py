"""k nearest neighbours by cosine similarity, as DINO and DINOv2 are evaluated."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURS, TEMPERATURE = 20, 0.07
_SIMILARITIES = 2**26  # at a time


def neighbour_scores(
    bank: Tensor, labels: Tensor, features: Tensor, classes: int, k: int = NEIGHBOURS
) -> np.ndarray:
    """The votes of the k nearest of a bank: each counts for its classes with exp(cosine / 0.07).

    Args:
        bank: (m, D) floats; all are neighbours if m is less than k.
        labels: (m,) int64 classes, or (m, K) bool, on the same device.
        features: (n, D). classes: K.

    Returns:
        (n, K) float64: the share of the votes that each class gets.
    """
    bank, k = F.normalize(bank, dim=1), min(k, len(bank))
    votes = []
    for some in F.normalize(features, dim=1).split(max(1, _SIMILARITIES // len(bank))):
        cosines, nearest = (some @ bank.mT).topk(k, dim=1)  # (b, k)
        shares = (cosines / TEMPERATURE).softmax(dim=1)
        of_nearest = labels[nearest]  # (b, k) or (b, k, K)
        if labels.ndim == 1:
            votes.append(shares.new_zeros(len(some), classes).scatter_add_(1, of_nearest, shares))
        else:
            votes.append((shares[:, None] @ of_nearest.to(shares))[:, 0])
    return torch.cat(votes).double().cpu().numpy()
