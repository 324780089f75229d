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

from lost_reg.discovery.affinities import AFFINITIES_AT_ONCE, affinity_bytes, copy_bytes
from lost_reg.discovery.components import component_labels
from lost_reg.discovery.device import to_host
from lost_reg.discovery.features import FeatureConfig, PatchFeatures
from lost_reg.discovery.grids import nearness_to_centre, rim
from lost_reg.discovery.maps import Maps, maps_of
from lost_reg.discovery.method import Deferred, Method, PatchObject, Preset
from lost_reg.discovery.otsu import affinity_thresholds, otsu_split
from lost_reg.lazy import np, torch
from lost_reg.masks.grids import box_of

if TYPE_CHECKING:
    from torch import Tensor

_ARTIFACT = 3.0  # times the median norm
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
    sound = sound_patches(features)  # (B, N)
    centre = torch.from_numpy(nearness_to_centre(features.grid_hw)).to(features.values.device)
    places = _standardised(centre.expand_as(sound), sound)
    if features.attention is not None:
        places = places + _standardised(features.attention.float().mean(dim=1), sound)
    border = torch.from_numpy(rim(features.grid_hw)).to(features.values.device) * sound
    prior, spread = places, torch.zeros_like(sound)
    for part in features.values.float().chunk(features.parts, dim=2):
        units = torch.nn.functional.normalize(part, dim=2)
        background = torch.bmm(border[:, None], units)  # (B, 1, D)
        unlike_rim = _standardised(-torch.linalg.vecdot(units, background), sound)
        prior = prior + unlike_rim / features.parts
        spread = spread + _standardised(mean_over_similar(units, places + unlike_rim, sound), sound)
    spread = _filled(spread, sound, features.grid_hw)
    return SpreadMaps(prior, spread, spread > otsu_split(spread)[:, None])


def sound_patches(features: PatchFeatures) -> Tensor:
    """1 for each patch that is no artifact, 0 for one: (B, N) float32.

    Artifacts are tokens of large norm that say little about their patch (Darcet et al. 2024); most have at
    least three times the median norm. One part of a patch with such a norm is enough.
    """
    norms = features.norms
    if norms is None:
        norms = features.values.float().norm(dim=2)[:, None]
    medians = norms.median(dim=2, keepdim=True).values
    sound = (norms <= _ARTIFACT * medians).all(dim=1)
    return torch.where(sound.any(dim=1, keepdim=True), sound, True).float()


def mean_over_similar(units: Tensor, values: Tensor, sound: Tensor) -> Tensor:
    """For each patch the mean value of the sound patches that are similar to it, itself among them: (B, N).

    Args:
        units: (B, N, D) float32, L2-normalised. values: (B, N). sound: (B, N), 1 or 0.
    """
    batch, patches, _ = units.shape
    taus = affinity_thresholds(units)
    sums = torch.stack([values * sound, sound], dim=2)  # (B, N, 2)
    means = torch.empty_like(values)
    rows_at_once = max(1, AFFINITIES_AT_ONCE // (batch * patches))
    for start in range(0, patches, rows_at_once):
        rows = slice(start, start + rows_at_once)
        similar = (torch.bmm(units[:, rows], units.mT) > taus[:, None, None]).float()  # (B, R, N)
        similar.diagonal(offset=start, dim1=1, dim2=2).fill_(1)
        total, count = torch.bmm(similar, sums).unbind(dim=2)
        means[:, rows] = total / count.clamp(min=1)
    return means


def _standardised(values: Tensor, sound: Tensor) -> Tensor:
    """(B, N) with mean 0 and deviation 1 over the sound patches; 0 elsewhere, and where all are equal."""
    count = sound.sum(dim=1, keepdim=True)
    centred = (values - (values * sound).sum(dim=1, keepdim=True) / count) * sound
    deviation = (centred.square().sum(dim=1, keepdim=True) / count).sqrt()
    return centred / (deviation + _LEAST_DEVIATION)


def _filled(values: Tensor, sound: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """(B, N) with the mean of its sound neighbours, 3 x 3, for each patch that is not sound.

    Patches amid others that are not sound stay 0, the mean.
    """
    around = torch.stack([values * sound, sound], dim=1).reshape(len(values), 2, *grid_hw)
    sums = torch.nn.functional.avg_pool2d(around, 3, stride=1, padding=1).flatten(2)
    return torch.where(sound > 0, values, sums[:, 0] / sums[:, 1].clamp(min=1 / 9))


def discover(features: PatchFeatures, config: SpreadConfig) -> Deferred:
    """Start finding the object of each image; see `Method.discover`."""
    grid_hw = features.grid_hw
    wait = to_host(list(vars(spread_maps(features)).values()))

    def objects() -> list[list[PatchObject]]:
        arrays = (one.reshape(-1, *grid_hw).numpy() for one in wait())
        return [[_object(*of_image)] for of_image in zip(*arrays)]

    return objects


def _object(prior: np.ndarray, spread: np.ndarray, mask: np.ndarray) -> PatchObject:
    """The component whose mask correlates most with the prior; the correlation is its score.

    Its seed is the patch with the highest average. Where nothing is high, all of the image is the object.
    """
    labels = component_labels(mask if mask.any() else np.ones_like(mask))
    agreement = correlations(labels, prior)
    best = labels == 1 + int(agreement.argmax())
    row, column = map(int, np.unravel_index(np.where(best, spread, -np.inf).argmax(), best.shape))
    return PatchObject(box_of(best), (row, column), round(float(agreement.max()), 4), mask=best)


def correlations(labels: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Pearson's correlation of the mask of each label, 1 to n, with the prior; 0 where one is constant.

    Args:
        labels, prior: (rows, columns).

    Returns:
        (n,) float64.
    """
    flat, deviations = labels.ravel(), (prior - prior.mean(dtype="float64")).ravel()
    inside = np.bincount(flat)[1:]
    sums = np.bincount(flat, weights=deviations)[1:]
    scale = np.sqrt(inside * (flat.size - inside) * np.square(deviations).mean())
    found: np.ndarray = np.divide(sums, scale, out=np.zeros_like(sums), where=scale > 0)
    return found


def maps(features: PatchFeatures, config: SpreadConfig) -> list[Maps]:
    """Prior, spread and mask of B images."""
    found = to_host(list(vars(spread_maps(features)).values()))()
    return [
        maps_of({"prior": prior, "spread": spread}, [_object(prior, spread, mask)], mask)
        for prior, spread, mask in zip(*(one.reshape(-1, *features.grid_hw).numpy() for one in found))
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
    peak_bytes=lambda images, patches: affinity_bytes(images, patches) + copy_bytes(images, patches),
    presets={
        "published": Preset(
            "as measured here: queries, keys and values of the last layer",
            FeatureConfig(facet="qkv"),
            SpreadConfig(),
        )
    },
)
