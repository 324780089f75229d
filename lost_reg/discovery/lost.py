"""LOST's seed selection and expansion, batched over images with the same patch grid.

Siméoni et al., "Localizing Objects with Self-Supervised Transformers and no Labels" (BMVC 2021), as its
published code (valeoai/LOST, object_discovery.py) computes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from lost_reg.discovery.affinities import (
    affinity_bytes,
    degrees_at_biases,
    patch_degrees,
    positive_shares,
    seed_cosines,
)
from lost_reg.discovery.bias import absolute_bias
from lost_reg.discovery.components import component_of
from lost_reg.discovery.degenerate import why_implausible
from lost_reg.discovery.device import to_host
from lost_reg.discovery.features import FeatureConfig, PatchFeatures, finite_images, option
from lost_reg.discovery.further_objects import Graph, with_further_objects
from lost_reg.discovery.maps import Maps
from lost_reg.discovery.method import MAX_OBJECTS_HELP, Deferred, Method, PatchObject, Preset
from lost_reg.errors import LostRegError
from lost_reg.json_files import check_fields
from lost_reg.lazy import torch
from lost_reg.types import AUTO

if TYPE_CHECKING:
    from torch import Tensor

K_PATCHES = 100


@dataclass(frozen=True)
class LostConfig:
    """Options of LOST; the defaults are LOST as published.

    The first of several objects is LOST's own; `further_objects.py` finds the others. A bias is in units of
    the image's mean squared feature norm, which is 1 for normalised features; for "auto", see `bias.py`.
    """

    k_patches: int = option(
        K_PATCHES, "LOST's k: how many patches of lowest degree may join the seed.", min=1
    )
    bias: float | str = option(
        0.0,
        "Added to the affinities, in units of the mean squared feature norm; auto: chosen for each image, "
        "without labels.",
        metavar="X|auto",
        sweep="-1:0:0.05,auto",
    )
    max_objects: int = option(
        1,
        MAX_OBJECTS_HELP,
        metavar="N",
        min=1,
        sweep=False,
    )

    def __post_init__(self) -> None:
        """Raises LostRegError for an invalid value."""
        check_fields(self)
        if self.bias != AUTO and not (isinstance(self.bias, (int, float)) and math.isfinite(self.bias)):
            raise LostRegError(f"expected a finite `bias` or {AUTO!r}, but got {self.bias}")
        if self.k_patches < 1:
            raise LostRegError(f"expected `k_patches` of at least 1, but got {self.k_patches}")
        if self.max_objects < 1:
            raise LostRegError(f"expected `max_objects` of at least 1, but got {self.max_objects}")


@dataclass(frozen=True)
class LostResult:
    """What LOST found in B images with the same grid, on the CPU. Boxes and seeds are in patches, not pixels.

    boxes_xyxy: (B, 4) int64, half-open [xmin, ymin, xmax, ymax].
    seeds: (B, 2) int64, (row, column).
    degrees: (B,) int64, the degree of the seed.
    affinities: (B,) float64, mean cosine between the seed's feature and those of the patches in the box.
    """

    boxes_xyxy: Tensor
    seeds: Tensor
    degrees: Tensor
    affinities: Tensor


def lost(
    features: Tensor,
    grid_hw: tuple[int, int],
    *,
    k_patches: int = K_PATCHES,
    bias: float | Tensor = 0.0,
) -> LostResult:
    """Find one object in each image from its patch features.

    Args:
        features: (B, N, D) or (N, D), patches in row-major order, without class or register tokens; on any
            device. float16 and bfloat16 are converted to float32.
        grid_hw: the patch grid (rows, columns); rows * columns = N.
        k_patches: how many patches of lowest degree may join the expansion (all, if N is less).
        bias: added to every entry of the Gram matrix; one number, or one for each image, (B,).

    Raises:
        ValueError: shapes that do not agree, a k_patches below 1, or features that are not finite.

    Example:
        >>> background, thing = [1.0, 0.1], [-0.2, 1.0]
        >>> features = torch.tensor([background, thing, thing, background, background, background])
        >>> lost(features, (2, 3)).boxes_xyxy
        tensor([[1, 0, 3, 1]])
    """
    features = _checked(features, grid_hw, k_patches)
    bias = torch.as_tensor(bias, dtype=features.dtype, device=features.device)
    if bias.shape not in ((), (len(features),)):
        raise ValueError(f"expected one bias or {len(features)}, but got shape {tuple(bias.shape)}")
    found = seed_and_expand(features, k_patches=k_patches, bias=bias.expand(len(features)))
    objects = objects_of(found.cpu(), grid_hw, digits=None)
    return LostResult(
        boxes_xyxy=torch.tensor([one.box_xyxy for one in objects]),
        seeds=torch.tensor([one.seed for one in objects]),
        degrees=found.degrees.cpu(),
        affinities=torch.tensor([one.score for one in objects], dtype=torch.float64),
    )


# --- the method --------------------------------------------------------------------------------------


def discover(features: PatchFeatures, config: LostConfig) -> Deferred:
    """Start finding the objects of B images; see `Method.discover`."""
    values, grid_hw = features.values, features.grid_hw
    bias = absolute_bias(values, config.bias)
    found = seed_and_expand(values, k_patches=config.k_patches, bias=bias)
    first = _deferred(found, grid_hw)
    if config.max_objects == 1:  # the features need not be kept
        return first

    def grow_again(images: list[int], remaining_hw: Tensor) -> list[PatchObject]:
        again = seed_and_expand(
            values[images],
            k_patches=config.k_patches,
            bias=None if bias is None else bias[images],
            remaining=remaining_hw.flatten(1).to(values.device),
        )
        return objects_of(again.cpu(), grid_hw)

    graph = Graph(grid_hw, features.extents_hw, grow_again)
    return lambda: with_further_objects(first(), graph, config.max_objects)


def discover_each(features: PatchFeatures, configs: Sequence[LostConfig]) -> list[Deferred]:
    """`discover` for several configurations, from one Gram matrix, without scores; one object per image.

    Raises:
        LostRegError: a configuration that asks for several objects.
    """
    if any(config.max_objects > 1 for config in configs):
        raise LostRegError("settings that are tried together find one object each: `max_objects` is 1")
    values = features.values.float()
    none = values.new_zeros(len(values))
    biases = [absolute_bias(values, config.bias) for config in configs]
    stacked = torch.stack([none if bias is None else bias for bias in biases], dim=1)  # (B, S)
    degrees = degrees_at_biases(values, stacked)  # (B, S, N)
    found = (
        seed_and_expand(
            values,
            k_patches=config.k_patches,
            bias=stacked[:, index],
            degrees=degrees[:, index],
            with_cosines=False,
        )
        for index, config in enumerate(configs)
    )
    return [_deferred(one, features.grid_hw) for one in found]


def _deferred(found: SeedsAndMasks, grid_hw: tuple[int, int]) -> Deferred:
    """A function that waits for the one object of each image and returns it."""
    wait = to_host(found.tensors())
    return lambda: [[one] for one in objects_of(SeedsAndMasks(*wait()), grid_hw)]


def lost_maps(features: PatchFeatures, config: LostConfig) -> list[Maps]:
    """Degrees, affinities to the seed and expansion masks of B images."""
    values = features.values.float()
    bias = absolute_bias(values, config.bias)
    degrees = patch_degrees(values, bias)  # (B, N)
    candidates = lowest_degree_patches(degrees, config.k_patches)
    seeds = candidates[:, :1]  # (B, 1)
    of_seeds = values.gather(1, seeds[:, :, None].expand(-1, -1, values.shape[2]))  # (B, 1, D)
    affinities = (values @ of_seeds.mT)[:, :, 0]  # (B, N)
    affinities = (affinities if bias is None else affinities + bias[:, None]).clamp(min=0)
    masks = expansion_masks(values, candidates, bias)
    # Products of large features can overflow; what is drawn and saved must be finite.
    stacked = torch.stack([degrees.float(), affinities, masks.float()], dim=1).nan_to_num()  # (B, 3, N)
    rows, columns = features.grid_hw
    return [
        Maps({"degrees": degree, "affinities": affinity}, mask > 0, divmod(seed, columns))
        for (degree, affinity, mask), seed in zip(
            stacked.reshape(-1, 3, rows, columns).cpu().numpy(), seeds[:, 0].tolist()
        )
    ]


# --- seed and expand ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class SeedsAndMasks:
    """LOST's result for B images before the seed's component is taken, on the features' device.

    seeds: (B,) int64, row-major patch indices. degrees: (B,) int64, the seeds' degrees.
    positive: (B,) float32, the share of all affinities that are positive.
    masks: (B, N) bool.
    cosines: (B, N) float, between each patch's feature and the seed's; None if not requested.
    """

    seeds: Tensor
    degrees: Tensor
    positive: Tensor
    masks: Tensor
    cosines: Tensor | None = None

    def tensors(self) -> list[Tensor]:
        """The tensors that are not None, in the order of the fields."""
        return [one for item in fields(self) if (one := getattr(self, item.name)) is not None]

    def cpu(self) -> SeedsAndMasks:
        """The same on the CPU."""
        return SeedsAndMasks(*(one.cpu() for one in self.tensors()))


def seed_and_expand(
    features: Tensor,
    *,
    k_patches: int = K_PATCHES,
    bias: Tensor | None = None,
    degrees: Tensor | None = None,
    remaining: Tensor | None = None,
    with_cosines: bool = True,
) -> SeedsAndMasks:
    """Compute seeds and expansion masks without waiting for the device.

    Args:
        features: (B, N, D), floating.
        bias: (B,), added to every affinity; None for none.
        degrees: (B, N) int64, the patches' degrees at this bias, if already known.
        remaining: (B, N) bool, the patches in the graph; None for all. The others count towards no degree,
            and cannot be a seed, a candidate or part of a mask. If an image has none left, its seed and mask
            are meaningless.
        with_cosines: whether to compute the cosines to the seed.
    """
    precise = features if features.dtype == torch.float64 else features.float()
    # Without a bias only an affinity's sign counts, and rounding float32 sums to bfloat16 keeps it. On a GPU,
    # bfloat16 products are many times as fast.
    by_sign = features.is_cuda and features.dtype == torch.bfloat16 and bias is None
    if degrees is None:
        degrees = patch_degrees(features if by_sign else precise, bias, remaining)
    candidates = lowest_degree_patches(degrees, k_patches, remaining)
    seeds = candidates[:, 0]
    masks = expansion_masks(precise, candidates, bias, remaining)
    return SeedsAndMasks(
        seeds,
        degrees.gather(1, seeds[:, None])[:, 0],
        positive_shares(degrees, remaining),
        masks,
        seed_cosines(precise, seeds) if with_cosines else None,
    )


def lowest_degree_patches(degrees: Tensor, k_patches: int, remaining: Tensor | None = None) -> Tensor:
    """The patches of lowest degree, ordered by (degree, row-major index); the first is the seed.

    Args:
        degrees: (B, N) int64.
        remaining: (B, N) bool, the patches that come first; None for all.

    Returns:
        (B, min(k_patches, N)) int64, indices of patches.
    """
    patches = degrees.shape[1]
    if remaining is not None:
        degrees = degrees.masked_fill(~remaining, patches)  # above any real degree
    # topk is not stable on ties, so the index is part of the key: no two keys are equal.
    keys = degrees * patches + torch.arange(patches, device=degrees.device)
    lowest = keys.topk(min(k_patches, patches), dim=1, largest=False, sorted=True).values
    return lowest % patches


def expansion_masks(
    features: Tensor, candidates: Tensor, bias: Tensor | None, remaining: Tensor | None = None
) -> Tensor:
    """The patches whose summed affinity to the patches similar to the seed is positive.

    Args:
        features: (B, N, D).
        candidates: (B, k) int64, patches of lowest degree, the seed first.
        bias: (B,), added to every affinity; None for none.
        remaining: (B, N) bool, the patches that can be similar or in the mask; None for all.

    Returns:
        (B, N) bool. The seed is always in it: by the definition of S if S is not empty, and as the only
        possible answer if a bias has left S empty.
    """
    bias = features.new_zeros(len(features)) if bias is None else bias
    index = candidates[:, :, None].expand(-1, -1, features.shape[2])
    low = features.gather(1, index)  # (B, k, D)
    seed = low[:, :1]  # (B, 1, D)
    similar = (seed @ low.mT)[:, 0] > -bias[:, None]  # (B, k): S among the candidates
    if remaining is not None:
        similar &= remaining.gather(1, candidates)
    # M_q = sum over p in S of (F_q . F_p + b) = F_q . (sum over S of F_p) + b |S|
    summed = similar.to(features.dtype)[:, None] @ low  # (B, 1, D)
    total_bias = bias * similar.sum(dim=1)  # (B,)
    masks = (features @ summed.mT)[:, :, 0] + total_bias[:, None] > 0
    if remaining is not None:
        masks &= remaining
    return masks.scatter(1, candidates[:, :1], True)


def objects_of(found: SeedsAndMasks, grid_hw: tuple[int, int], digits: int | None = 4) -> list[PatchObject]:
    """The object of each image: the component of its mask that holds the seed. `found` is on the CPU.

    digits: decimals to which scores are rounded; None for no rounding.
    """
    masks_hw = found.masks.reshape(-1, *grid_hw).numpy()
    cosines_hw = None if found.cosines is None else found.cosines.detach().reshape(-1, *grid_hw).numpy()
    objects = []
    numbers = zip(found.seeds.tolist(), found.degrees.tolist(), found.positive.tolist())
    for image, (index, degree, positive) in enumerate(numbers):
        seed = divmod(index, grid_hw[1])
        mask, box = component_of(masks_hw[image], seed)
        score = None
        if cosines_hw is not None:
            xmin, ymin, xmax, ymax = box
            score = float(cosines_hw[image, ymin:ymax, xmin:xmax].mean(dtype="float64"))
            score = score if digits is None else round(score, digits)
        details = {"degree": degree, "positive_share": round(positive, 6)}
        objects.append(PatchObject(box, seed, score, details, mask))
    return objects


def _checked(features: Tensor, grid_hw: tuple[int, int], k_patches: int) -> Tensor:
    """`features` as a (B, N, D) floating-point tensor of at least 32 bits, or a ValueError."""
    if features.ndim == 2:
        features = features[None]
    rows, columns = grid_hw
    if features.ndim != 3 or features.shape[1] != rows * columns or features.numel() == 0:
        raise ValueError(
            f"expected features of shape (B, N, D) or (N, D) with N = {rows} * {columns} patches, "
            f"but got {tuple(features.shape)}"
        )
    if k_patches < 1:
        raise ValueError(f"expected k_patches of at least 1, but got {k_patches}")
    if features.dtype != torch.float64:
        features = features.float()
    if not finite_images(features).all():
        raise ValueError("expected finite features, but some are infinite or not a number")
    return features


# --- its registry entry ------------------------------------------------------------------------------


def gram_operations(patches: int, width: int, config: LostConfig) -> float:
    """Operations of LOST's Gram matrix, computed once for each object."""
    return 2.0 * config.max_objects * patches**2 * width


LOST = Method(
    name="lost",
    title="LOST",
    about="LOST: expand a seed, the patch similar to the fewest others (Siméoni et al. 2021)",
    config=LostConfig,
    discover=discover,
    discover_each=discover_each,
    maps=lost_maps,
    why_implausible=why_implausible,
    main_option="bias",
    operations=gram_operations,
    peak_bytes=affinity_bytes,
    presets={
        "published": Preset(
            "LOST as published: raw keys of the last layer, no bias", FeatureConfig(), LostConfig()
        ),
    },
)
