"""The first stage of FOUND: what is not background is object.

Siméoni et al., "Unsupervised Object Localization: Observing the Background to Discover Objects" (FOUND, CVPR
2023), as its published code (valeoai/FOUND, misc/model.py) computes it: a patch that the class token attends
to least is background, and so is what resembles it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lost_reg.discovery.affinities import copy_bytes
from lost_reg.discovery.components import largest_component
from lost_reg.discovery.device import to_host
from lost_reg.discovery.features import FeatureConfig, PatchFeatures, option
from lost_reg.discovery.maps import Maps, maps_of
from lost_reg.discovery.method import Deferred, Method, PatchObject, Preset
from lost_reg.errors import LostRegError
from lost_reg.json_files import check_fields
from lost_reg.lazy import np, torch
from lost_reg.masks.grids import box_of

if TYPE_CHECKING:
    from torch import Tensor

_LEAST_SHARE = 1e-10  # added to each head's share of attended patches


@dataclass(frozen=True)
class BackgroundConfig:
    """Options of the background rule; the defaults are FOUND's."""

    threshold: float = option(
        0.3,
        "Cosine to the least attended patch above which a patch is background.",
        metavar="X",
        sweep="0.1:0.7:0.1",
    )
    weighted: bool = option(
        True, "Weight the heads by how little of the image they attend to.", off="unweighted"
    )

    def __post_init__(self) -> None:
        """Raises LostRegError for an invalid value."""
        check_fields(self)
        if not -1 <= self.threshold <= 1:
            raise LostRegError(f"expected a `threshold` from -1 to 1, but got {self.threshold}")


def head_weights(attention: Tensor) -> Tensor:
    """FOUND's weight of each head: larger for a head that attends to fewer patches.

    A head's share is that of the patches with more attention than the mean over all heads and patches.

    Args:
        attention: (B, heads, N), of the class token.

    Returns:
        (B, heads): the logarithm of the sum of all shares over the head's own.
    """
    attention = attention.float()
    means = attention.mean(dim=(1, 2), keepdim=True)
    shares = (attention > means).float().mean(dim=2) + _LEAST_SHARE
    return (shares.sum(dim=1, keepdim=True) / shares).log()


def background_cosines(features: PatchFeatures, weighted: bool) -> Tensor:
    """The cosine of each patch to the image's background patch, (B, N).

    Each of several joined facets or layers is weighted by head.
    """
    attention = features.class_attention.float()  # (B, heads, N)
    values = features.values.float()
    heads = attention.shape[1]
    weights = head_weights(attention) if weighted else torch.ones_like(attention[:, :, 0])
    by_head = values.reshape(*values.shape[:2], features.parts, heads, -1)
    weighted_heads = by_head * weights[:, None, None, :, None]  # (B, N, parts, heads, D / parts / heads)
    units = torch.nn.functional.normalize(weighted_heads.flatten(2), dim=2)
    least = (attention * weights[:, :, None]).sum(dim=1).argmin(dim=1)  # (B,)
    reference = units.gather(1, least[:, None, None].expand(-1, 1, units.shape[2]))
    cosines: Tensor = torch.linalg.vecdot(units, reference)
    return cosines


def discover(features: PatchFeatures, config: BackgroundConfig) -> Deferred:
    """Start finding the object of each image, the largest component; see `Method.discover`."""
    wait = to_host([background_cosines(features, config.weighted)])

    def objects() -> list[list[PatchObject]]:
        (on_host,) = wait()
        return [_objects(one, config.threshold) for one in on_host.reshape(-1, *features.grid_hw).numpy()]

    return objects


def _objects(cosines: np.ndarray, threshold: float) -> list[PatchObject]:
    """The object of an image; nothing if all is background.

    Its seed is the patch least like the background, its score how far its patches are from it.
    """
    component = largest_component(cosines <= threshold)
    if component is None:
        return []
    inside = np.where(component, cosines, 2)
    row, column = map(int, np.unravel_index(inside.argmin(), inside.shape))
    score = round(1 - float(cosines[component].mean(dtype="float64")), 4)
    return [PatchObject(box_of(component), (row, column), score, mask=component)]


def background_maps(features: PatchFeatures, config: BackgroundConfig) -> list[Maps]:
    """The cosines to the background patch, and what is not background, of B images."""
    (cosines,) = to_host([background_cosines(features, config.weighted)])()
    return [
        maps_of({"background": one}, _objects(one, config.threshold), one <= config.threshold)
        for one in cosines.reshape(-1, *features.grid_hw).numpy()
    ]


BACKGROUND = Method(
    name="background",
    title="Background",
    about="what does not resemble the least attended patch: FOUND's first stage (Siméoni et al. 2023)",
    config=BackgroundConfig,
    discover=discover,
    maps=background_maps,
    main_option="threshold",
    unaffected_by=("normalize",),
    class_attention="needed",
    operations=lambda patches, width, config: 4.0 * patches * width,
    peak_bytes=lambda images, patches: 2 * copy_bytes(images, patches),
    presets={
        "published": Preset(
            "FOUND's background rule: keys of the last layer, heads weighted, cosine 0.3",
            FeatureConfig(),
            BackgroundConfig(),
        )
    },
)
