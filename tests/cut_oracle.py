"""TokenCut, MaskCut, DINO-seg and FOUND's background rule for one image, in plain numpy and scipy.

Written from the papers' protocols and not from lost_reg: dense float64 matrices, LAPACK's eigensolver.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.ndimage

EPS = 1e-5


def unit(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)


def second_eigenpair(features: np.ndarray, tau: float) -> tuple[np.ndarray, float, float]:
    """v, its eigenvalue, and how far the next one is: of (D - A) v = lambda D v."""
    cosines = unit(features) @ unit(features).T
    weights = np.where(cosines > tau, 1.0, EPS)
    degrees = np.diag(weights.sum(axis=1))
    most = min(2, len(features) - 1)
    values, vectors = scipy.linalg.eigh(degrees - weights, degrees, subset_by_index=[1, most])
    return vectors[:, 0], values[0], values[-1] - values[0]


def component(mask: np.ndarray, seed: tuple[int, int]) -> np.ndarray:
    labels, _ = scipy.ndimage.label(mask)
    return labels == labels[seed]


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def first_largest(values: np.ndarray) -> int:
    """Patches with the same neighbours tie: the first of them."""
    return int(np.flatnonzero(values >= values.max() - 1e-6 * abs(values.max()))[0])


def tokencut(
    features: np.ndarray, grid_hw: tuple[int, int], tau: float
) -> tuple[np.ndarray, tuple[int, int]]:
    """The object's mask and its seed."""
    vector, _, _ = second_eigenpair(features, tau)
    side = vector > vector.mean()
    seed = first_largest(np.abs(vector))
    if not side[seed]:
        side = ~side
    place = divmod(seed, grid_hw[1])
    return component(side.reshape(grid_hw), place), place


def maskcut(features: np.ndarray, grid_hw: tuple[int, int], tau: float, count: int) -> list[np.ndarray]:
    """The masks of the objects, in their order."""
    features, painted, kept, before = unit(features), np.zeros(grid_hw, bool), [], None
    for _ in range(count):
        vector, _, _ = second_eigenpair(features * ~painted.ravel()[:, None], tau)
        if vector[first_largest(np.abs(vector))] <= vector.mean():
            vector = -vector
            side = (vector >= vector.mean()).reshape(grid_hw)
        else:
            side = (vector > vector.mean()).reshape(grid_hw)
        if side[[0, 0, -1, -1], [0, -1, 0, -1]].sum() >= 3:
            side, vector = ~side, -vector
        mask = component(side, divmod(first_largest(vector), grid_hw[1]))
        if before is not None:
            iou = (mask & before).sum() / max(1, (mask | before).sum())
            if iou > 0.5 or mask.mean() <= 0.01:
                before = np.zeros(grid_hw, bool)
                continue
        before = mask
        own = mask & ~painted
        painted |= mask
        if own.any():
            kept.append(own)
    return kept


def dino_seg_boxes(attention: np.ndarray, grid_hw: tuple[int, int], mass: float = 0.6):
    """The box of the largest component, and the one of LOST's script."""
    order = np.argsort(attention, kind="stable")
    mask = np.zeros(len(attention), bool)
    mask[order] = np.cumsum(attention[order]) / attention.sum() > 1 - mass
    labels, count = scipy.ndimage.label(mask.reshape(grid_hw))
    sizes = [int((labels == label).sum()) for label in range(count + 1)]
    of_script = sizes[:count]  # range(np.max(labels)) leaves out the last
    chosen = int(np.argmax(of_script[1:])) + 1 if len(of_script) > 1 else 0
    return box_of(labels == 1 + np.argmax(sizes[1:])), box_of(labels == chosen)


def background_mask(keys: np.ndarray, attention: np.ndarray, threshold: float) -> np.ndarray:
    """FOUND's background: (N,) bool, from (N, D) keys and (heads, N) attention."""
    heads = len(attention)
    shares = np.array([(of_head > attention.mean()).mean() for of_head in attention]) + 1e-10
    weights = np.log(shares.sum() / shares)
    width = keys.shape[1] // heads
    weighted = unit(np.concatenate(
        [weights[head] * keys[:, head * width : (head + 1) * width] for head in range(heads)], axis=1
    ))  # fmt: skip
    least = int((weights[:, None] * attention).sum(axis=0).argmin())
    return weighted @ weighted[least] > threshold
