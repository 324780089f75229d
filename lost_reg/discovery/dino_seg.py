"""DINO-seg: the object is where the class token attends, the baseline of LOST's paper.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers" (ICCV 2021), segment by the mass of
the class token's attention; Siméoni et al. (LOST, BMVC 2021) box the largest component of that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lost_reg.discovery.components import largest_component
from lost_reg.discovery.device import to_host
from lost_reg.discovery.features import FeatureConfig, PatchFeatures, option
from lost_reg.discovery.maps import Maps, maps_of
from lost_reg.discovery.method import Deferred, Method, PatchObject, Preset
from lost_reg.errors import LostRegError
from lost_reg.json_files import check_fields
from lost_reg.lazy import cv2, np, torch
from lost_reg.masks.grids import box_of

if TYPE_CHECKING:
    from torch import Tensor

MEAN = "mean"
PLAIN, CODE = "plain", "code"


@dataclass(frozen=True)
class DinoSegConfig:
    """Options of DINO-seg; the defaults are those of LOST's script, but for its quirks.

    See `_of_code` for rule "code".
    """

    attention_head: int | str = option(
        4, "Attention head, from 0; mean: the mean of all heads.", metavar="N|mean", word=MEAN, min=0
    )
    mass: float = option(0.6, "Share of the class token's attention that the mask holds.")
    rule: str = option(PLAIN, "code: with the quirks of LOST's script.", choices=(PLAIN, CODE))

    def __post_init__(self) -> None:
        """Raises LostRegError for an invalid value."""
        check_fields(self)
        head = self.attention_head
        if head != MEAN and not (isinstance(head, int) and head >= 0):
            raise LostRegError(f"expected an `attention_head` from 0, or {MEAN!r}, but got {head}")
        if not 0 < self.mass < 1:
            raise LostRegError(f"expected a `mass` between 0 and 1, but got {self.mass}")
        if self.rule not in (PLAIN, CODE):
            raise LostRegError(f"expected a `rule` {PLAIN!r} or {CODE!r}, but got {self.rule!r}")


def head_attention(features: PatchFeatures, head: int | str) -> Tensor:
    """The attention of the class token to each patch in one head, or the mean of all: (B, N).

    Raises:
        LostRegError: a head that the backbone does not have.
    """
    attention = features.class_attention  # (B, heads, N)
    if isinstance(head, str):
        return attention.mean(dim=1)
    check_heads(DinoSegConfig(attention_head=head), attention.shape[1])
    return attention[:, head]


def check_heads(config: DinoSegConfig, heads: int) -> None:
    """Raises LostRegError for a head that a backbone with so many does not have."""
    head = config.attention_head
    if head != MEAN and int(head) >= heads:
        raise LostRegError(f"there is no `attention_head` {head}: the backbone has heads 0 to {heads - 1}")


def attended(attention: Tensor, mass: float) -> Tensor:
    """The patches of largest attention that together hold a share of it: (B, N) to (B, N) bool."""
    lowest_first, order = attention.double().sort(dim=1, stable=True)
    shares = lowest_first.cumsum(dim=1) / lowest_first.sum(dim=1, keepdim=True)
    kept = shares > 1 - mass
    return torch.zeros_like(kept).scatter(1, order, kept)


def discover(features: PatchFeatures, config: DinoSegConfig) -> Deferred:
    """Start finding the object of each image; see `Method.discover`."""
    wait = _attended(features, config)

    def objects() -> list[list[PatchObject]]:
        return [_FIND[config.rule](mask, weights) for weights, mask in wait()]

    return objects


def _attended(
    features: PatchFeatures, config: DinoSegConfig
) -> Callable[[], list[tuple[np.ndarray, np.ndarray]]]:
    """Start computing the attention and the mask of each image; both are (rows, columns)."""
    attention = head_attention(features, config.attention_head)
    wait, grid_hw = to_host([attention, attended(attention, config.mass)]), features.grid_hw
    return lambda: list(zip(*(one.reshape(-1, *grid_hw).numpy() for one in wait())))


def _largest(mask: np.ndarray, weights: np.ndarray) -> list[PatchObject]:
    component = largest_component(mask)
    return [] if component is None else [_object(component, weights)]


def _of_code(mask: np.ndarray, weights: np.ndarray) -> list[PatchObject]:
    """The object of LOST's script, with its two quirks, and a box that may reach into the padding.

    Components are numbered row by row. The last one is never a candidate; if it is the only one, the
    background is boxed, and if there is no background either, nothing.
    """
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    sizes = np.bincount(labels.ravel(), minlength=count)[:-1]  # without the last
    chosen = 1 + int(sizes[1:].argmax()) if len(sizes) > 1 else 0
    component = labels == chosen
    return [_object(component, weights, clipped=False)] if component.any() else []


def _object(component: np.ndarray, weights: np.ndarray, *, clipped: bool = True) -> PatchObject:
    """A component; its seed is the patch that is attended to most, its score the attention that it gets."""
    inside = np.where(component, weights, -1)
    row, column = map(int, np.unravel_index(inside.argmax(), inside.shape))
    total = float(weights.sum(dtype="float64"))
    share = float(weights[component].sum(dtype="float64")) / total if total > 0 else 0.0
    return PatchObject(box_of(component), (row, column), round(share, 6), mask=component, clipped=clipped)


_FIND = {PLAIN: _largest, CODE: _of_code}


def dino_seg_maps(features: PatchFeatures, config: DinoSegConfig) -> list[Maps]:
    """The attention and the mask of B images; where the background is boxed, the mask is that."""
    return [
        maps_of({"attention": weights}, _FIND[config.rule](mask, weights), mask)
        for weights, mask in _attended(features, config)()
    ]


DINO_SEG = Method(
    name="dino-seg",
    title="DINO-seg",
    about="DINO-seg: where the class token attends, LOST's baseline (Caron et al. 2021, Siméoni et al. 2021)",
    config=DinoSegConfig,
    discover=discover,
    maps=dino_seg_maps,
    main_option="attention_head",
    unaffected_by=("facet", "center", "normalize"),
    class_attention="needed",
    check_heads=check_heads,
    operations=lambda patches, width, config: 0.0,
    peak_bytes=lambda images, patches: 64.0 * images * patches,
    presets={
        "published": Preset(
            "DINO-seg as in LOST's paper: head 4, 60 % of the mass", FeatureConfig(), DinoSegConfig()
        ),
        "lost-script": Preset("with the quirks of LOST's script", FeatureConfig(), DinoSegConfig(rule=CODE)),
    },
)
