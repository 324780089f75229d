"""The second eigenvector of a normalised cut, batched over images with the same patch grid.

Shi and Malik, "Normalized Cuts and Image Segmentation" (2000): of a graph with weights A and degrees
D = diag(A 1), the eigenvector v of the second smallest eigenvalue of (D - A) v = lambda D v splits the nodes
in two. With y = D^(1/2) v it is the eigenvector of the second largest eigenvalue, 1 - lambda, of
M = D^(-1/2) A D^(-1/2). The largest is 1, with the eigenvector D^(1/2) 1, so it is known and taken out.

The graph is TokenCut's (Wang et al., "Self-Supervised Transformers for Unsupervised Object Discovery
using Normalized Cut", CVPR 2022): a weight is 1 if the cosine of two patches exceeds tau, and a
small eps otherwise. Its ones and zeros are all that is stored of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lost_reg.discovery.affinities import AFFINITIES_AT_ONCE, affinity_bytes, copy_bytes
from lost_reg.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

# Weights of the graphs that are held at one time on a GPU: 2**27 float32 are 512 MiB. A CPU has one graph at
# a time, which its cache can hold.
_GRAPHS_AT_ONCE = 2**27
RESIDUAL = 1e-8  # |M y - mu y| for |y| = 1 at which an eigenvector counts as found
MOST_STEPS = 300
STEPS_AHEAD = 24  # that a GPU takes without being asked whether it is done: more than most images need
_STEPS_BETWEEN_CHECKS = 8
_BITS = 12  # of a part of a vector: float32 sums of 0s and such parts are exact for up to 2**12 patches
_PARTS = 3
_ROUNDING = 1e-10
_TINY = 1e-300
_GOLDEN_ANGLE = 2.399963  # radians; its multiples never repeat
_SQUARINGS = 40  # separate eigenvalues that differ by more than 2**-40


@dataclass(frozen=True)
class Graph:
    """TokenCut's graph of B images.

    ones: (B, N, N) float32, 1 where the weight is 1, and 0 where it is eps.
    eps: the weight elsewhere.
    roots: (B, N) float64, D^(1/2) 1: the square roots of the degrees, the sums of the weights.
    largest: (B, N) float64, the eigenvector of M's largest eigenvalue, of length 1.
    """

    ones: Tensor
    eps: float
    roots: Tensor
    largest: Tensor

    def scaled_product(self, vectors: Tensor) -> Tensor:
        """M times vectors (B, N) float64, without the part along the largest eigenvector."""
        inner = vectors / self.roots
        weighted = (1 - self.eps) * self._sums(inner) + self.eps * inner.sum(dim=1, keepdim=True)
        product = weighted / self.roots
        return product - (product * self.largest).sum(dim=1, keepdim=True) * self.largest

    def _sums(self, vectors: Tensor) -> Tensor:
        """(B, N) float64: the ones times vectors, exact but for 2**-36 of the largest number.

        The vectors are cut into parts of a few bits, whose float32 sums are exact: nearly disconnected graphs
        have eigenvalues that differ by less than the rounding of float32.
        """
        scale = 2.0 ** (_BITS - 1) / vectors.abs().amax(dim=1, keepdim=True).clamp(min=_TINY)
        left, parts = vectors * scale, []
        for _ in range(_PARTS):
            parts.append(left.round())
            left = (left - parts[-1]) * 2.0**_BITS
        sums = torch.bmm(torch.stack(parts, dim=1).float(), self.ones).double()  # (B, parts, N); symmetric
        weights = 2.0 ** (-_BITS * torch.arange(_PARTS, dtype=torch.float64, device=vectors.device))
        return (sums * weights[:, None]).sum(dim=1) / scale


@dataclass(frozen=True)
class Eigenvectors:
    """The second eigenvectors of B images' graphs, as far as they have converged; all float64.

    vectors: (B, N), v, scaled so that |D^(1/2) v| = 1; its sign is arbitrary. Zeros where M has no other
        eigenvector than the largest, as where all patches are alike.
    values: (B,), the eigenvalue lambda.
    residuals: (B,), |M y - mu y|.
    """

    vectors: Tensor
    values: Tensor
    residuals: Tensor

    @staticmethod
    def joined(parts: Sequence[Eigenvectors]) -> Eigenvectors:
        """Those of several parts of a batch, in their order."""
        return Eigenvectors(*(torch.cat(one) for one in zip(*(vars(part).values() for part in parts))))


def images_at_once(features: Tensor) -> int:
    """How many images' graphs are held at one time, for (B, N, D) features."""
    return max(1, _GRAPHS_AT_ONCE // features.shape[1] ** 2) if features.is_cuda else 1


def graph_bytes(images: int, patches: int) -> float:
    """Memory for the graphs of a batch that are held at one time, and for what is computed from them."""
    held = max(patches**2, min(_GRAPHS_AT_ONCE, images * patches**2))
    basis = 8.0 * images * patches * 2 * STEPS_AHEAD
    return 4.0 * held + affinity_bytes(images, patches) / 4 + basis + copy_bytes(images, patches)


def binary_graph(features: Tensor, tau: Tensor, eps: float) -> Graph:
    """The graph of B images.

    Args:
        features: (B, N, D), L2-normalised; a patch with a feature of zeros is similar to none.
        tau: (B,), the cosine above which a weight is 1.
        eps: the weight elsewhere, above 0.
    """
    batch, patches, _ = features.shape
    ones = features.new_empty(batch, patches, patches, dtype=torch.float32)
    rows_at_once = max(1, AFFINITIES_AT_ONCE // (4 * batch * patches))
    for start in range(0, patches, rows_at_once):
        rows = slice(start, start + rows_at_once)
        cosines = torch.bmm(features[:, rows], features.mT)
        ones[:, rows] = cosines > tau[:, None, None]
    ones.diagonal(dim1=1, dim2=2).copy_(features.any(dim=2))
    roots = ((1 - eps) * ones.sum(dim=2).double() + eps * patches).sqrt()
    return Graph(ones, eps, roots, torch.nn.functional.normalize(roots, dim=1))


def second_eigenvectors(graph: Graph, steps: int | None = None) -> Eigenvectors:
    """Find the second eigenvectors by the Lanczos method, with full reorthogonalisation.

    Lanczos, "An Iteration Method for the Solution of the Eigenvalue Problem of Linear Differential and
    Integral Operators" (1950).

    Args:
        steps: so many, without waiting for the device; None: until all have converged, at most MOST_STEPS.
    """
    batch, patches = graph.roots.shape
    most = min(steps or MOST_STEPS, patches)
    basis = graph.roots.new_empty(batch, most, patches)
    basis[:, 0] = _unit(graph.scaled_product(_start(graph.roots)))
    columns: list[Tensor] = []  # of the projection of M onto the basis, each (B, its length)
    for step in range(1, most + 1):
        known = basis[:, :step]
        product = graph.scaled_product(known[:, -1])
        along = torch.bmm(known, product[:, :, None])  # (B, step, 1)
        columns.append(along[:, :, 0])
        product = product - torch.bmm(known.mT, along)[:, :, 0]
        product = product - torch.bmm(known.mT, torch.bmm(known, product[:, :, None]))[:, :, 0]
        if step == most or (steps is None and step % _STEPS_BETWEEN_CHECKS == 0):
            weights = _largest_eigenvectors(_symmetric(columns), known)
            left = product.norm(dim=1) * weights[:, -1].abs()
            if step == most or (left <= RESIDUAL).all():
                break
        basis[:, step] = _unit(product)
    return _rayleigh(graph, (weights[:, :, None] * known).sum(dim=1))


def _rayleigh(graph: Graph, scaled: Tensor) -> Eigenvectors:
    """The eigenvectors v that belong to y, with eigenvalues and residuals."""
    products = graph.scaled_product(scaled)
    values = (scaled * products).sum(dim=1, keepdim=True)
    residuals = (products - values * scaled).norm(dim=1)
    # One step of the power method, after which v is precise also where degrees are near zero.
    scaled = torch.where(values.abs() > _ROUNDING, products / values, scaled)
    return Eigenvectors(scaled / graph.roots, 1 - values[:, 0], residuals)


def _symmetric(columns: Sequence[Tensor]) -> Tensor:
    """(B, S, S) from its columns down to the diagonal."""
    padded = torch.nn.utils.rnn.pad_sequence([column.T for column in columns])  # (S, S, B): entry, column
    upper = padded.permute(2, 0, 1)
    return upper.triu() + upper.triu(1).mT


def _largest_eigenvectors(matrices: Tensor, basis: Tensor) -> Tensor:
    """The eigenvectors of the largest eigenvalues of small symmetric matrices: (B, S, S) to (B, S).

    By repeated squaring, since eigensolvers of torch wait for the device. Directions whose basis vector is
    zero, because the Lanczos method has ended, are left out. basis: (B, S, N).
    """
    there = basis.any(dim=2).double()  # (B, S)
    shift = torch.diag_embed(there) * 1.001  # eigenvalues are at least -1
    powers = matrices * there[:, :, None] * there[:, None] + shift
    for _ in range(_SQUARINGS):
        powers = powers / powers.abs().amax(dim=(1, 2), keepdim=True).clamp(min=_TINY)
        powers = torch.bmm(powers, powers)
    column = powers.diagonal(dim1=1, dim2=2).argmax(dim=1)
    chosen = powers.gather(2, column[:, None, None].expand(-1, powers.shape[1], 1))[:, :, 0]
    return _unit(chosen / chosen.abs().amax(dim=1, keepdim=True).clamp(min=_TINY))


def _start(like: Tensor) -> Tensor:
    """(B, N): a start of length 1 that is no eigenvector, the same on every device and for every batch."""
    numbers = torch.arange(like.shape[1], device=like.device, dtype=torch.float64)
    return _unit(((numbers * _GOLDEN_ANGLE).cos() + 0.5).expand_as(like))


def _unit(vectors: Tensor) -> Tensor:
    """Vectors of length 1; of length 0 where there is nothing but rounding."""
    lengths = vectors.norm(dim=1, keepdim=True)
    return torch.where(lengths > _ROUNDING, vectors / lengths.clamp(min=_ROUNDING), 0)
