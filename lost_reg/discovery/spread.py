"""A prior of where objects are, spread over similar patches: a rule of this project.

Objects tend to be where the class token attends, near the centre of a photo, and unlike its rim. Each of the
three is weak; averaged over the patches that are similar in queries, keys or values they single out one
object. There is no constant: similar is what exceeds Otsu's threshold of the image's own cosines, and the
object is what exceeds Otsu's threshold of the averages. How it was found, and what else was tried, is in
evaluation/results/presets.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lost_reg.discovery.affinities import AFFINITIES_AT_ONCE, affinity_bytes
from lost_reg.discovery.bias import otsu_bias, otsu_split
from lost_reg.discovery.components import box_of, components
from lost_reg.discovery.device import to_host
from lost_reg.discovery.features import FeatureConfig, PatchFeatures
from lost_reg.discovery.grids import nearness_to_centre, rim
from lost_reg.discovery.maps import Maps
from lost_reg.discovery.method import Deferred, Method, PatchObject, Preset
from lost_reg.lazy import np, torch

if TYPE_CHECKING:
    from torch import Tensor

_LEAST_DEVIATION = 1e-12


@dataclass(frozen=True)
class SpreadConfig:
    """It has no options."""


@dataclass(frozen=True)
class SpreadMaps:
    """What decides in B images.

    prior: (B, N). spread: (B, N), the prior after spreading. masks: (B, N) bool, where it is high.
    """

    prior: Tensor
    spread: Tensor
    masks: Tensor


def spread_maps(features: PatchFeatures) -> SpreadMaps:
    """Compute prior and spread, without waiting for the device; each facet has a graph of its own."""
    places = _standardised(
        torch.from_numpy(nearness_to_centre(features.grid_hw))[None].to(features.values.device)
    )
    if features.attention is not None:
        places = places + _standardised(features.attention.float().mean(dim=1))
    border = torch.from_numpy(rim(features.grid_hw)).to(features.values.device)
    prior, spread = places, torch.zeros_like(features.values[:, :, 0], dtype=torch.float32)
    for part in features.values.float().chunk(features.parts, dim=2):
        units = torch.nn.functional.normalize(part, dim=2)
        background = units[:, border].mean(dim=1, keepdim=True)  # (B, 1, D)
        unlike_rim = _standardised(-torch.linalg.vecdot(units, background))
        prior = prior + unlike_rim / features.parts
        spread = spread + _standardised(mean_over_similar(units, places + unlike_rim))
    return SpreadMaps(prior.expand_as(spread), spread, spread > otsu_split(spread)[:, None])


def mean_over_similar(units: Tensor, values: Tensor) -> Tensor:
    """For each patch the mean value of the patches similar to it, itself among them: (B, N).

    Args:
        units: (B, N, D) float32, L2-normalised. values: (B, N).
    """
    batch, patches, _ = units.shape
    taus = -otsu_bias(units)
    means = torch.empty_like(values)
    rows_at_once = max(1, AFFINITIES_AT_ONCE // (batch * patches))
    for start in range(0, patches, rows_at_once):
        rows = slice(start, start + rows_at_once)
        similar = (torch.bmm(units[:, rows], units.mT) > taus[:, None, None]).float()  # (B, R, N)
        similar.diagonal(offset=start, dim1=1, dim2=2).fill_(1)
        means[:, rows] = torch.bmm(similar, values[:, :, None])[:, :, 0] / similar.sum(dim=2)
    return means


def _standardised(values: Tensor) -> Tensor:
    """(B, N) with mean 0 and deviation 1; 0 where all are equal."""
    centred = values - values.mean(dim=1, keepdim=True)
    return centred / (centred.square().mean(dim=1, keepdim=True).sqrt() + _LEAST_DEVIATION)


def discover(features: PatchFeatures, config: SpreadConfig) -> Deferred:
    """Start finding the object of each image; see `Method.discover`."""
    grid_hw = features.grid_hw
    wait = to_host(list(vars(spread_maps(features)).values()))

    def objects() -> list[list[PatchObject]]:
        arrays = (one.reshape(-1, *grid_hw).numpy() for one in wait())
        return [[_object(*of_image)] for of_image in zip(*arrays)]

    return objects


def _object(prior: np.ndarray, spread: np.ndarray, mask: np.ndarray) -> PatchObject:
    """The component that correlates most with the prior; the correlation is its score.

    Its seed is the patch with the highest average.
    """
    found = components(mask) or [np.ones_like(mask)]
    agreement = [_correlation(one, prior) for one in found]
    best = found[int(np.argmax(agreement))]
    row, column = map(int, np.unravel_index(np.where(best, spread, -np.inf).argmax(), best.shape))
    return PatchObject(box_of(best), (row, column), round(max(agreement), 4), mask=best)


def _correlation(mask: np.ndarray, prior: np.ndarray) -> float:
    """Pearson's correlation of a mask with the prior; 0 where one of them is constant."""
    inside, outside = int(mask.sum()), int((~mask).sum())
    deviation = float(prior.std())
    if not outside or not deviation:
        return 0.0
    difference = float(prior[mask].mean() - prior[~mask].mean())
    return float(difference * (inside * outside) ** 0.5 / (inside + outside) / deviation)


def maps(features: PatchFeatures, config: SpreadConfig) -> list[Maps]:
    """Prior, spread and mask of B images."""
    found = spread_maps(features)
    arrays = (one.reshape(-1, *features.grid_hw).cpu().numpy() for one in vars(found).values())
    objects = discover(features, config)()
    return [
        Maps({"prior": prior, "spread": spread}, mask, one.seed)
        for prior, spread, mask, (one,) in zip(*arrays, objects)
    ]


SPREAD = Method(
    name="spread",
    title="Spread",
    about="a prior (class attention, centre, unlike the rim) averaged over similar patches (this project)",
    config=SpreadConfig,
    discover=discover,
    maps=maps,
    class_attention="used",
    operations=lambda patches, width, config: 4.0 * patches**2 * width,
    peak_bytes=affinity_bytes,
    presets={
        "published": Preset(
            "as measured here: queries, keys and values of the last layer",
            FeatureConfig(facet="qkv"),
            SpreadConfig(),
        )
    },
)
