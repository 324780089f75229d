"""What the page shows of an image, as arrays: the objects of a method, and what follows from one patch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from lost_reg.backbones.base import ATTENTION, TOKENS, Backbone
from lost_reg.boxes import box_in_original
from lost_reg.discovery.affinities import patch_degrees, positive_shares, seed_cosines
from lost_reg.discovery.bias import absolute_bias
from lost_reg.discovery.features import FeatureConfig
from lost_reg.discovery.lost import (
    LostConfig,
    SeedsAndMasks,
    expansion_masks,
    lowest_degree_patches,
    objects_of,
)
from lost_reg.discovery.maps import Maps
from lost_reg.discovery.methods import METHODS, PUBLISHED, Setting, with_changes
from lost_reg.discovery.presets import ACROSS_METHODS, chosen_preset, scaled_for_own_images
from lost_reg.discovery.tokencut import thresholds, unit_features
from lost_reg.errors import LostRegError
from lost_reg.explore import MOST_SIDE
from lost_reg.explore.features import OneImage
from lost_reg.explore.reader import Scale
from lost_reg.masks.grids import stored
from lost_reg.runs.heads import fitted
from lost_reg.runs.options import LoaderOptions
from lost_reg.runs.run import settled
from lost_reg.runs.scheduler import discover_by_each
from lost_reg.types import Failure, FoundObject, Prediction

MEAN = "mean"
_LOADER = LoaderOptions(batch_size=1, workers=0, max_patches=None)


# --- settings ----------------------------------------------------------------------------------------


def method_titles() -> dict[str, str]:
    """What a page has as methods, by key: each preset across methods, and each preset of each method."""
    titles = {f"/{name}": f"{name} (preset)" for name in ACROSS_METHODS}
    for name, method in METHODS.items():
        for preset in method.presets:
            titles[f"{name}/{preset}"] = method.title + (f", {preset}" if preset != PUBLISHED else "")
    return titles


def methods_offered(backbone: Backbone) -> dict[str, str]:
    """Those of `method_titles` that work with a backbone.

    A head must come with lost-reg for it, and DINO-seg needs a class token with the head of its preset.
    """
    return {key: title for key, title in method_titles().items() if _works(backbone, key)}


def _works(backbone: Backbone, method: str) -> bool:
    try:
        settled(setting_of(backbone, method), backbone)
    except LostRegError:
        return False
    return True


def setting_of(
    backbone: Backbone,
    method: str,
    changes: Mapping[str, Any] | None = None,
    max_side: int | None = None,
) -> Setting:
    """The setting that a choice stands for with a backbone, at the size that a run on one's own images has.

    What runs at native resolution is scaled down to MOST_SIDE here.

    Args:
        method: a key of `method_titles`.
        changes: fields of the features and of options, such as "bias"; those that the method does not have
            are left out.
        max_side: the longest side, in place of the setting's own size.

    Raises:
        LostRegError: an unknown method, an invalid value, or a head that is not there for the backbone.
    """
    name, _, preset = method.partition("/")
    setting = chosen_preset(name or None, preset, backbone.family)
    known = options_of(setting)
    setting = with_changes(setting, {key: value for key, value in (changes or {}).items() if key in known})
    setting = scaled_for_own_images(fitted(setting, backbone), preset)
    features = setting.features
    if max_side or not (features.max_side or features.square):
        features = replace(features, max_side=max_side or MOST_SIDE, square=None)
    return replace(setting, features=features)


def scale_of(setting: Setting) -> Scale:
    """The size that a setting takes of an image, as in `PageImage.at`."""
    return setting.features.max_side, setting.features.square


def scales_of(backbones: Iterable[Backbone], max_side: int | None = None) -> set[Scale]:
    """The sizes that all methods offered take, with any of these backbones."""
    return {
        scale_of(setting_of(backbone, method, max_side=max_side))
        for backbone in backbones
        for method in methods_offered(backbone)
    }


def options_of(setting: Setting) -> set[str]:
    """The features and options that make a difference to a setting's method."""
    method = setting.method
    return {*FeatureConfig.__dataclass_fields__, *method.config.__dataclass_fields__} - {
        *method.unaffected_by
    }


# --- what a method finds -----------------------------------------------------------------------------


def found_by(one: OneImage, setting: Setting) -> tuple[Prediction, Maps]:
    """The objects of a method with their masks, and its maps, as a run finds them.

    Boxes and masks are in pixels of the page's image; `rescaled` maps them to another size.

    Raises:
        LostRegError: the method needs what the backbone does not have.
    """
    maps: list[Maps] = []
    pixels = [(one.image.name, one.image.pixels)]
    (outcome,) = discover_by_each(
        pixels, one, [setting], _LOADER, on_maps=lambda _, of_image: maps.append(of_image), with_masks=True
    )
    if isinstance(outcome, Failure):
        raise LostRegError(outcome.reason)
    return outcome[0], maps[0]


def rescaled(prediction: Prediction, size_hw: tuple[int, int]) -> Prediction:
    """A prediction for the same image in another size."""

    def one_rescaled(one: FoundObject) -> FoundObject:
        box = box_in_original(one.box_xyxy, prediction.size_hw, size_hw, clipped=False)
        mask = one.mask
        if mask:
            sides = zip(mask.spans_hw, prediction.size_hw, size_hw)
            height, width = (span * wanted / own for span, own, wanted in sides)
            mask = replace(mask, spans_hw=(height, width))
        return replace(one, box_xyxy=box, mask=mask)

    return replace(prediction, size_hw=size_hw, objects=tuple(map(one_rescaled, prediction.objects)))


# --- what follows from a patch -----------------------------------------------------------------------


@dataclass(frozen=True)
class PatchView:
    """What an image looks like from one of its patches.

    patch: (row, column).
    affinities: (rows, columns) float32, to each patch; above_tau: whether they are cosines minus tau. See
        `patch_view`.
    expanded: what LOST expands from the patch, as a prediction of one object with a mask, in pixels of the
        page's image.
    degree: how many patches have a positive affinity to it; positive: the share of all affinities that are.
    """

    patch: tuple[int, int]
    affinities: np.ndarray
    above_tau: bool
    expanded: Prediction
    degree: int
    positive: float


def lost_config(setting: Setting) -> LostConfig:
    """LOST's options: the setting's, or as published where it is not LOST's."""
    return setting.config if isinstance(setting.config, LostConfig) else LostConfig()


def lost_seed(one: OneImage, setting: Setting) -> tuple[int, int]:
    """The patch of lowest degree, from which LOST expands: (row, column)."""
    values, bias = _values_and_bias(one, setting)
    index = int(lowest_degree_patches(patch_degrees(values, bias), 1)[0, 0])
    return divmod(index, one.grid_hw[1])


def patch_view(one: OneImage, setting: Setting, patch: tuple[int, int]) -> PatchView:
    """The affinities of a patch, and what LOST would expand from it were it the patch of lowest degree.

    Affinities are dot products of features plus LOST's bias; or, of a method with a tau, cosines minus it.
    In both cases a positive one is what the method calls similar. Patches outside the grid are moved into it.
    """
    rows, columns = one.grid_hw
    row, column = (min(max(0, at), count - 1) for at, count in zip(patch, one.grid_hw))
    index = row * columns + column
    values, bias = _values_and_bias(one, setting)
    degrees = patch_degrees(values, bias)
    lowest = lowest_degree_patches(degrees, lost_config(setting).k_patches)
    # The patch comes first, as the seed does; if it was not among the candidates, the last one leaves.
    others = lowest[lowest != index][: lowest.shape[1] - 1]
    candidates = torch.cat([others.new_tensor([index]), others])[None]  # (1, k)
    seeds = candidates[:, 0]
    found = SeedsAndMasks(
        seeds,
        degrees[:, index],
        positive_shares(degrees),
        expansion_masks(values, candidates, bias),
        seed_cosines(values, seeds),
    )
    tau = getattr(setting.config, "tau", None)
    if tau is None:
        affinities = values[0] @ values[0, index] + (0 if bias is None else bias[0])
    else:
        units = unit_features(values)
        affinities = units[0] @ units[0, index] - thresholds(units, tau)[0]
    return PatchView(
        (row, column),
        affinities.reshape(rows, columns).nan_to_num().cpu().numpy(),
        tau is not None,
        _expanded(one, found),
        int(degrees[0, index]),
        float(found.positive[0]),
    )


def _values_and_bias(one: OneImage, setting: Setting) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The (1, N, D) float32 features of a setting, and LOST's bias in their units."""
    values = one.features_by(setting.features).values.float()
    return values, absolute_bias(values, lost_config(setting).bias)


def _expanded(one: OneImage, found: SeedsAndMasks) -> Prediction:
    (grown,) = objects_of(found.cpu(), one.grid_hw)
    size_hw, patch = one.image.size_hw, one.patch_size
    box = box_in_original([side * patch for side in grown.box_xyxy], size_hw, size_hw)
    height, width = (float(cells * patch) for cells in one.grid_hw)
    mask = stored(grown.mask, (height, width))
    grown_object = FoundObject(box, grown.score, grown.seed, grown.details, mask)
    return Prediction(one.image.name, size_hw, one.grid_hw, (grown_object,))


def patch_at(one: OneImage, position: tuple[float, float]) -> tuple[int, int]:
    """The patch at a position in the image: (row, column).

    position: the shares of the image's height and width, from its upper left corner.
    """
    cells = (int(share * extent) for share, extent in zip(position, one.extent_hw))
    row, column = (min(max(0, cell), count - 1) for cell, count in zip(cells, one.grid_hw))
    return row, column


def centre_of(one: OneImage, patch: tuple[int, int]) -> tuple[float, float]:
    """The position of a patch's centre, as `patch_at` takes it; inside the image."""
    shares = (min(1.0, (cell + 0.5) / extent) for cell, extent in zip(patch, one.extent_hw))
    y, x = shares
    return y, x


# --- tokens ------------------------------------------------------------------------------------------


def token_norms(one: OneImage, layer: int) -> np.ndarray:
    """The L2 norm of each patch token as it enters a block: (rows, columns) float32."""
    (tokens,) = one.facets(None, [(TOKENS, layer)])
    return tokens[0].float().norm(dim=1).reshape(one.grid_hw).cpu().numpy()


def attention_of(one: OneImage, token: str, layer: int, head: int | str = MEAN) -> np.ndarray:
    """How much a token before the patches attends to each patch in a block: (rows, columns) float32.

    Args:
        token: one of the backbone's `prefix_tokens`.
        head: from 0, or the mean of all.

    Raises:
        LostRegError: a token or head that the backbone does not have.
    """
    if token not in one.prefix_tokens:
        raise LostRegError(f"{one.name} has no token {token!r}")
    (attention,) = one.facets(None, [(ATTENTION, layer)])  # (1, P, heads, N)
    of_token = attention[0, one.prefix_tokens.index(token)]
    if head == MEAN:
        weights = of_token.mean(dim=0)
    elif isinstance(head, int) and 0 <= head < len(of_token):
        weights = of_token[head]
    else:
        raise LostRegError(f"{one.name} has no head {head}: it has heads 0 to {len(of_token) - 1}")
    return weights.reshape(one.grid_hw).cpu().numpy()
