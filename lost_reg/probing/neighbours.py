"""k nearest neighbours by cosine similarity, as DINO and DINOv2 are evaluated."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURS, TEMPERATURE = 20, 0.07
_SIMILARITIES = 2**26  # at a time


def neighbour_scores(bank: Tensor, labels: Tensor, features: Tensor, k: int = NEIGHBOURS) -> np.ndarray:
    """The votes of the k nearest of a bank: each counts for its classes with exp(cosine / 0.07).

    Args:
        bank: (m, D) floats; all are neighbours if m is less than k.
        labels: (m, K) of zeros and ones, on the same device.
        features: (n, D).

    Returns:
        (n, K) float64: the shares of the votes.
    """
    bank, k = F.normalize(bank, dim=1), min(k, len(bank))
    votes = []
    for some in F.normalize(features, dim=1).split(max(1, _SIMILARITIES // len(bank))):
        cosines, nearest = (some @ bank.mT).topk(k, dim=1)  # (b, k)
        weights = (cosines / TEMPERATURE).softmax(dim=1)
        votes.append((weights[:, None] @ labels[nearest].to(weights))[:, 0])  # (b, K)
    return torch.cat(votes).double().cpu().numpy()
