"""Clusters of class tokens: LOST's OD (Siméoni et al. 2021), in numpy and scikit-learn.

Each dimension is divided by its standard deviation, each row by its L2 norm, then k-means. LOST runs scipy's
kmeans2 once from a random start; this takes the best of several runs of k-means++.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lost_reg.errors import LostRegError
from lost_reg.text import counted

K = 20  # LOST's
STARTS = 10  # runs of k-means, of which the best counts
SAMPLE = 2000  # boxes that a silhouette is the mean of


@dataclass(frozen=True)
class Clusters:
    """Clusters of N rows, the largest first.

    of: (N,) int, 0 to k - 1. distances: (N,) float, to the centre of the row's own cluster.
    silhouette: the mean over a sample of rows (Rousseeuw 1987), None where it is not defined.
    tried: the silhouettes of all k that were tried.
    """

    k: int
    of: np.ndarray
    distances: np.ndarray
    silhouette: float | None
    tried: dict[int, float] = field(default_factory=dict)


def check_k(k: Sequence[int], boxes: int) -> None:
    """Check the numbers of clusters to try against the number of boxes.

    Raises:
        LostRegError: fewer than 2 clusters, more than boxes, or as many where a silhouette chooses.
    """
    most = boxes if len(k) == 1 else boxes - 1  # a silhouette needs a cluster of two
    if min(k) < 2:
        raise LostRegError(f"expected `k` of at least 2 clusters, but got {min(k)}")
    if max(k) > most:
        raise LostRegError(
            f"{counted(max(k), 'cluster')} need more boxes than the {boxes} of the run: lower `k`"
        )


def find_clusters(tokens: np.ndarray, k: Sequence[int], seed: int = 0) -> Clusters:
    """Cluster class tokens, (N, D); among several k, the silhouette chooses, the smaller k of equal ones.

    Raises:
        LostRegError: see `check_k`.

    Example:
        >>> find_clusters(np.array([[1.0, 0], [0, 1], [1, 0]]), [2]).of
        array([0, 1, 0])
    """
    check_k(k, len(tokens))
    rows = whitened(tokens)
    found = {one: _k_means(rows, one, seed) for one in k}
    silhouettes = {one: _silhouette(rows, of, seed) for one, (of, _) in found.items()}
    tried = {one: value for one, value in silhouettes.items() if value is not None} if len(k) > 1 else {}
    best = max(k, key=lambda one: (tried.get(one, -2.0), -one))
    return Clusters(best, *found[best], silhouettes[best], tried)


def whitened(tokens: np.ndarray) -> np.ndarray:
    """Rows divided by the standard deviation of each dimension (scipy's whiten), then by their L2 norm.

    A dimension without any spread stays as it is, and so does a row of zeros.
    """
    values = np.asarray(tokens, dtype=np.float64)
    deviations = values.std(axis=0)
    values = values / np.where(deviations > 0, deviations, 1)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(norms > 0, norms, 1)


def _k_means(rows: np.ndarray, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The cluster of each row, largest first, and its distance to the centre."""
    from sklearn.cluster import KMeans

    if len(np.unique(rows, axis=0)) < k:
        raise LostRegError(f"the crops have fewer than {k} different class tokens: lower `k`")
    fitted = KMeans(k, n_init=STARTS, random_state=seed).fit(rows)
    distances = np.linalg.norm(rows - fitted.cluster_centers_[fitted.labels_], axis=1)
    sizes = np.bincount(fitted.labels_, minlength=k)
    first = [int(np.flatnonzero(fitted.labels_ == one)[0]) for one in range(k)]
    order = sorted(range(k), key=lambda one: (-sizes[one], first[one]))
    return np.argsort(order)[fitted.labels_], distances


def _silhouette(rows: np.ndarray, of: np.ndarray, seed: int) -> float | None:
    """The mean silhouette of a seeded sample of rows; None if each, or all, are a cluster in it."""
    from sklearn.metrics import silhouette_score

    chosen = np.random.default_rng(seed).permutation(len(rows))[:SAMPLE]
    if not 2 <= len(np.unique(of[chosen])) < len(chosen):
        return None
    return float(silhouette_score(rows[chosen], of[chosen]))
