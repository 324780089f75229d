"""LOST with the image's rim as the background, and a vote among its seeds: a rule of this project.

On DINOv2, LOST's degrees say little: patches share a large mean, and which of them has few similar ones is a
matter of chance. Here the features are centred, a patch's degree counts the patches of the rim that it is
similar to, each of the lowest patches is LOST's seed once, and the box that most others agree with wins. How
it was found, and what else was tried, is in evaluation/results/presets.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lost_reg.boxes import iou
from lost_reg.discovery.affinities import AFFINITIES_AT_ONCE, copy_bytes
from lost_reg.discovery.components import component_of
from lost_reg.discovery.device import to_host
from lost_reg.discovery.features import FeatureConfig, PatchFeatures, option
from lost_reg.discovery.grids import rim
from lost_reg.discovery.maps import Maps, maps_of
from lost_reg.discovery.method import Deferred, Method, PatchObject, Preset
from lost_reg.errors import LostRegError
from lost_reg.json_files import check_fields
from lost_reg.lazy import np, torch

if TYPE_CHECKING:
    from torch import Tensor

BIASES = (0.0, 0.1, 0.2)


@dataclass(frozen=True)
class LostRimConfig:
    """Options of LOST with the rim as the background."""

    share: float = option(
        0.05,
        "Share of the patches that are seeds and may join one another.",
        metavar="X",
        sweep="0.02:0.1:0.01",
    )

    def __post_init__(self) -> None:
        """Raises LostRegError for an invalid value."""
        check_fields(self)
        if not 0 < self.share <= 1:
            raise LostRegError(f"expected a `share` above 0, and at most 1, but got {self.share}")


@dataclass(frozen=True)
class Votes:
    """The seeds of B images, each with the mask that it expands to.

    degrees: (B, N) float32. seeds: (B, k) int64, row-major, of lowest degree first. masks: (B, k, N) bool.
    """

    degrees: Tensor
    seeds: Tensor
    masks: Tensor


def votes(features: PatchFeatures, config: LostRimConfig) -> Votes:
    """Compute the seeds and masks, with the memory of a few Gram matrices at a time."""
    units = centred_units(features.values)
    border = torch.from_numpy(rim(features.grid_hw, bottom=False)).to(units.device)
    count = max(1, round(config.share * units.shape[1]))
    at_once = max(1, AFFINITIES_AT_ONCE // units.shape[1] ** 2) if units.is_cuda else 1
    parts = [_votes(part, border, count) for part in torch.split(units, at_once)]
    return Votes(*(torch.cat(one) for one in zip(*parts)))


def centred_units(features: Tensor) -> Tensor:
    """(B, N, D) features without their image's mean, each of length 1, in float32."""
    features = features.float()
    return torch.nn.functional.normalize(features - features.mean(dim=1, keepdim=True), dim=2)


def _votes(units: Tensor, border: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The fields of `Votes`. units: (B, N, D). border: (N,) bool. count: k."""
    affinities = torch.bmm(units, units.mT)  # (B, N, N)
    degrees = rim_degrees(affinities, border)
    seeds = degrees.sort(dim=1, stable=True).indices[:, :count]  # (B, k)
    rows = affinities.gather(1, seeds[:, :, None].expand(-1, -1, affinities.shape[2]))  # (B, k, N)
    among = rows.gather(2, seeds[:, None].expand(-1, count, -1))  # (B, k, k)
    similar = ((among > 0) | torch.eye(count, dtype=torch.bool, device=units.device)).float()
    expanded = torch.bmm(similar / similar.sum(dim=2, keepdim=True), rows)  # mean affinity to the seed's S
    halfway = (expanded[:, :, border].mean(dim=2) + expanded.amax(dim=2)) / 2
    masks = expanded > halfway[:, :, None]
    return degrees, seeds, masks.scatter(2, seeds[:, :, None], True)


def rim_degrees(affinities: Tensor, border: Tensor) -> Tensor:
    """How many patches of the rim each patch is similar to, summed over `BIASES`: (B, N) float32.

    Of two patches similar to equally many, the one similar to more patches of the whole image has the lower
    degree.
    """
    patches = affinities.shape[1]
    degrees = affinities.new_zeros(affinities.shape[:2])
    for bias in BIASES:
        similar = (affinities > -bias).float()
        degrees += similar[:, :, border].sum(dim=2) - similar.sum(dim=2) / (2 * patches)
    return degrees


def discover(features: PatchFeatures, config: LostRimConfig) -> Deferred:
    """Start finding the object of each image; see `Method.discover`."""
    found, grid_hw = votes(features, config), features.grid_hw
    wait = to_host([found.seeds, found.masks])

    def objects() -> list[list[PatchObject]]:
        seeds, masks = wait()
        masks_hw = masks.reshape(*masks.shape[:2], *grid_hw).numpy()
        return [[elected(one, mask)] for one, mask in zip(seeds.tolist(), masks_hw)]

    return objects


def elected(seeds: list[int], masks: np.ndarray) -> PatchObject:
    """The object that most others agree with: the one of largest mean IoU; of equals, the first.

    Its score is that mean.

    Args:
        seeds: k row-major indices. masks: (k, rows, columns) bool.
    """
    places = [divmod(seed, masks.shape[2]) for seed in seeds]
    grown = [component_of(mask, place) for mask, place in zip(masks, places)]
    boxes = [box for _, box in grown]
    agreement = iou(np.array(boxes), boxes).mean(axis=1)
    best = int(agreement.argmax())
    mask, box = grown[best]
    return PatchObject(box, places[best], round(float(agreement[best]), 4), {"seeds": len(seeds)}, mask)


def lost_rim_maps(features: PatchFeatures, config: LostRimConfig) -> list[Maps]:
    """The degrees, and the share of the seeds' masks that hold each patch, of B images."""
    degrees, seeds, masks = to_host(list(vars(votes(features, config)).values()))()
    degrees_hw = degrees.reshape(-1, *features.grid_hw).numpy()
    masks_hw = masks.reshape(*masks.shape[:2], *features.grid_hw).numpy()
    made = []
    for degree, places, grown in zip(degrees_hw, seeds.tolist(), masks_hw):
        one = elected(places, grown)
        voted = grown.mean(axis=0, dtype="float32")
        made.append(maps_of({"degrees": degree, "votes": voted}, [one], np.asarray(one.mask)))
    return made


def gram_bytes(images: int, patches: int) -> float:
    """Memory for the Gram matrices that are held at one time, and for what is computed from them."""
    held = max(patches**2, min(AFFINITIES_AT_ONCE, images * patches**2))
    return 4 * 4.0 * held + 2 * copy_bytes(images, patches)


LOST_RIM = Method(
    name="lost-rim",
    title="LOST-rim",
    about="LOST with the image's rim as the background, and a vote among seeds (this project)",
    config=LostRimConfig,
    discover=discover,
    maps=lost_rim_maps,
    main_option="share",
    operations=lambda patches, width, config: 2.0 * patches**2 * width * (1 + config.share),
    peak_bytes=gram_bytes,
    presets={
        "published": Preset(
            "as measured here: queries, keys and values of the last layer",
            FeatureConfig(facet="qkv"),
            LostRimConfig(),
        )
    },
)
