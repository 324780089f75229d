"""TokenCut: the object is one side of a normalised cut of the patches, batched over images of one grid.

Wang et al., "Self-Supervised Transformers for Unsupervised Object Discovery using Normalized Cut" (CVPR
2022), as its published code (YangtaoWANG95/TokenCut, object_discovery.py) computes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lost_reg.discovery.affinities import seed_cosines
from lost_reg.discovery.components import component_of
from lost_reg.discovery.device import to_host
from lost_reg.discovery.features import FeatureConfig, PatchFeatures, option
from lost_reg.discovery.maps import Maps
from lost_reg.discovery.method import Deferred, Method, PatchObject, Preset
from lost_reg.discovery.normalized_cut import (
    RESIDUAL,
    STEPS_AHEAD,
    Eigenvectors,
    binary_graph,
    graph_bytes,
    images_at_once,
    second_eigenvectors,
)
from lost_reg.discovery.otsu import affinity_thresholds
from lost_reg.errors import LostRegError
from lost_reg.json_files import check_fields
from lost_reg.lazy import torch
from lost_reg.types import AUTO

if TYPE_CHECKING:
    from torch import Tensor

_TIE = 1e-6  # relative


TAU_HELP = "Cosine above which two patches are similar; auto: Otsu's threshold of each image's cosines."
EPS_HELP = "Weight between patches that are not similar."


@dataclass(frozen=True)
class TokenCutConfig:
    """Options of TokenCut; the defaults are TokenCut as published."""

    tau: float | str = option(0.2, TAU_HELP, metavar="X|auto", sweep="0.1:0.6:0.1,auto")
    eps: float = option(1e-5, EPS_HELP, sweep=False)

    def __post_init__(self) -> None:
        """Raises LostRegError for an invalid value."""
        check_fields(self)
        check_graph_options(self.tau, self.eps)


def check_graph_options(tau: float | str, eps: float) -> None:
    """Raises LostRegError for a `tau` or an `eps` that no graph can be made with."""
    if tau != AUTO and not (isinstance(tau, (int, float)) and -1 <= tau <= 1):
        raise LostRegError(f"expected a `tau` from -1 to 1, or {AUTO!r}, but got {tau}")
    if not (math.isfinite(eps) and 0 < eps < 1):
        raise LostRegError(f"expected an `eps` between 0 and 1, but got {eps}")


# --- cuts --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cuts:
    """The cuts of B images, on the features' device.

    vectors: (B, N), the second eigenvectors, on the side of the seed where they are above their mean.
    sides: (B, N) bool, the object's side. seeds: (B,) int64, row-major patch indices.
    cosines: (B, N), between each patch's feature and the seed's.
    taus: (B,). eigenvalues: (B,), lambda. residuals: (B,), see `Eigenvectors`.
    """

    vectors: Tensor
    sides: Tensor
    seeds: Tensor
    cosines: Tensor
    taus: Tensor
    eigenvalues: Tensor
    residuals: Tensor

    def cpu(self) -> Cuts:
        """The same on the CPU."""
        return Cuts(*(one.cpu() for one in vars(self).values()))


def unit_features(features: Tensor) -> Tensor:
    """(B, N, D) features, each of length 1, in float32; zeros stay zeros."""
    return torch.nn.functional.normalize(features.float(), dim=2)


def thresholds(features: Tensor, tau: float | str) -> Tensor:
    """The cosine above which patches are similar, for each of B images: (B,).

    Args:
        features: (B, N, D) float32, L2-normalised.
        tau: a number, or "auto" for Otsu's threshold of the image's cosines; see `otsu.py`.
    """
    return affinity_thresholds(features) if isinstance(tau, str) else features.new_full((len(features),), tau)


def cut(found: Eigenvectors, features: Tensor, taus: Tensor) -> Cuts:
    """Split each image at the mean of its eigenvector; the side of the strongest patch is the object's."""
    vectors = found.vectors
    seeds = strongest(vectors.abs())
    own = vectors.gather(1, seeds[:, None])
    flipped = own <= vectors.mean(dim=1, keepdim=True)
    vectors = torch.where(flipped, -vectors, vectors)
    means = vectors.mean(dim=1, keepdim=True)
    # The other side of v > mean holds what equals the mean: all patches, where nothing tells them apart.
    sides = torch.where(flipped, vectors >= means, vectors > means)
    return Cuts(vectors, sides, seeds, seed_cosines(features, seeds), taus, found.values, found.residuals)


def strongest(values: Tensor) -> Tensor:
    """The first of the patches with the largest value, which differ by no more than rounding: (B, N) to (B,).

    Patches that are similar to the same others have the same value. TokenCut's code leaves it to the rounding
    of its eigensolver which of them is the seed.
    """
    patches = values.shape[1]
    largest = values.amax(dim=1, keepdim=True)
    tied = values >= largest - _TIE * largest.abs()
    first: Tensor = (tied * torch.arange(patches, 0, -1, device=values.device)).argmax(dim=1)
    return first


def eigenvectors_of(features: Tensor, taus: Tensor, eps: float, steps: int | None = None) -> Eigenvectors:
    """The second eigenvectors of B images, with the memory of a few graphs at a time.

    Args:
        features: (B, N, D) float32, L2-normalised.
        steps: see `second_eigenvectors`.
    """
    at_once = images_at_once(features)
    return Eigenvectors.joined(
        [
            second_eigenvectors(binary_graph(part, tau, eps), steps)
            for part, tau in zip(torch.split(features, at_once), torch.split(taus, at_once))
        ]
    )


# --- the method --------------------------------------------------------------------------------------


def discover(features: PatchFeatures, config: TokenCutConfig) -> Deferred:
    """Start finding the object of each image; see `Method.discover`."""
    units = unit_features(features.values)
    taus = thresholds(units, config.tau)
    steps = STEPS_AHEAD if units.is_cuda else None
    first = cut(eigenvectors_of(units, taus, config.eps, steps), units, taus)
    wait = to_host(list(vars(first).values()))

    def objects() -> list[list[PatchObject]]:
        cuts = Cuts(*wait())
        found = [[one] for one in objects_of(cuts, features.grid_hw)]
        left = (cuts.residuals > RESIDUAL).nonzero()[:, 0].tolist() if units.is_cuda else []
        if left:
            again, their_taus = units[left], taus[left]
            more = cut(eigenvectors_of(again, their_taus, config.eps), again, their_taus)
            for image, one in zip(left, objects_of(more.cpu(), features.grid_hw)):
                found[image] = [one]
        return found

    return objects


def objects_of(cuts: Cuts, grid_hw: tuple[int, int]) -> Iterator[PatchObject]:
    """The object of each image: the component of its side that holds the seed. `cuts` is on the CPU."""
    sides_hw = cuts.sides.reshape(-1, *grid_hw).numpy()
    cosines_hw = cuts.cosines.reshape(-1, *grid_hw).numpy()
    numbers = zip(cuts.seeds.tolist(), cuts.taus.tolist(), cuts.eigenvalues.tolist(), cuts.residuals.tolist())
    for image, (index, tau, eigenvalue, residual) in enumerate(numbers):
        seed = divmod(index, grid_hw[1])
        mask, box = component_of(sides_hw[image], seed)
        score = round(float(cosines_hw[image][mask].mean(dtype="float64")), 4)
        details = {"tau": round(tau, 6), "eigenvalue": round(eigenvalue, 6)}
        if residual > RESIDUAL:
            details["residual"] = residual
        yield PatchObject(box, seed, score, details, mask)


def tokencut_maps(features: PatchFeatures, config: TokenCutConfig) -> list[Maps]:
    """The eigenvectors, and the cosines to the seed, of B images."""
    units = unit_features(features.values)
    taus = thresholds(units, config.tau)
    cuts = cut(eigenvectors_of(units, taus, config.eps), units, taus).cpu()
    shape = (-1, *features.grid_hw)
    arrays = (one.reshape(shape).numpy() for one in (cuts.vectors, cuts.cosines, cuts.sides))
    return [
        Maps({"eigenvector": vector, "cosines": cosines.clip(min=0)}, side, divmod(seed, features.grid_hw[1]))
        for vector, cosines, side, seed in zip(*arrays, cuts.seeds.tolist())
    ]


# --- its registry entry ------------------------------------------------------------------------------

_USUAL_STEPS = 20


def cut_operations(patches: int, width: int, config: object) -> float:
    """Operations of a graph and its eigenvector."""
    return 2.0 * patches**2 * (width + _USUAL_STEPS)


TOKENCUT = Method(
    name="tokencut",
    title="TokenCut",
    about="TokenCut: one side of a normalised cut of the patches (Wang et al. 2022)",
    config=TokenCutConfig,
    discover=discover,
    maps=tokencut_maps,
    main_option="tau",
    unaffected_by=("normalize",),
    operations=cut_operations,
    peak_bytes=graph_bytes,
    presets={
        "published": Preset(
            "TokenCut as published: keys of the last layer, tau 0.2", FeatureConfig(), TokenCutConfig()
        )
    },
)
