"""Discovery from Python: objects in a list of images, or in a stream of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from lost_reg.backbones.base import Backbone
from lost_reg.discovery.features import FeatureConfig
from lost_reg.discovery.methods import Setting, method_of, preset_setting
from lost_reg.discovery.presets import BEST, chosen_preset
from lost_reg.errors import LostRegError, UnreadableImage
from lost_reg.images.decoding import NamedImage
from lost_reg.images.in_memory import Image, named_images
from lost_reg.runs.heads import fitted
from lost_reg.runs.options import LoaderOptions
from lost_reg.runs.scheduler import MapsHandler, discover_by_each
from lost_reg.types import Failure, Prediction

# For fewer images, `discover` starts no decoding processes: starting them takes longer than decoding.
_IMAGES_WORTH_WORKERS = 32


def discover(
    images: Image | Iterable[Image],
    backbone: Backbone,
    method: str | Any = BEST,
    features: FeatureConfig | None = None,
    *,
    loader: LoaderOptions | None = None,
    masks: bool = False,
) -> list[Prediction]:
    """Find objects in one image or many.

    Args:
        images: paths, (H, W, 3) uint8 RGB arrays, PIL images, or torch tensors, (3, H, W), uint8 or float in
            [0, 1]; one of them, or many.
        backbone: what `load_backbone` returns.
        method: "best", the preset; the name of a method, as published; a method's options, such as
            LostConfig(bias="auto"); or a `Setting`, which holds features and options, and can refine masks.
        features: which features are compared; by default the preset's, or those the method was published
            with.
        loader: how images are decoded and put into batches.
        masks: whether objects keep their masks; see `FoundObject`. Refined masks are always kept.

    Returns:
        One Prediction for each image, in order; its `image` is the path, or "[index]" for an image in
        memory.

    Raises:
        LostRegError: an image that cannot be read (`discover_stream` continues instead), something that is
            not an image, or not a backbone, or features besides those of a setting.

    Example:
        >>> from lost_reg import discover, load_backbone
        >>> backbone = load_backbone("tiny")
        >>> boxes = [found.box_xyxy for found in discover(["a.jpg", "b.jpg"], backbone)]  # doctest: +SKIP
    """
    loader = loader or LoaderOptions()
    named = named_images(images, loader.background)
    if loader.workers is None and len(named) < _IMAGES_WORTH_WORKERS:
        loader = replace(loader, workers=0)
    numbered = ((str(index), image) for index, (_, image) in enumerate(named))  # names can repeat
    found: dict[int, Prediction] = {}
    for outcome in discover_stream(numbered, backbone, method, features, loader=loader, masks=masks):
        index = int(outcome.image)
        if isinstance(outcome, Failure):
            raise UnreadableImage(f"{named[index][0]}: {outcome.reason}")
        found[index] = replace(outcome, image=named[index][0])
    return [found[index] for index in range(len(named))]


def discover_stream(
    images: Iterable[NamedImage | Failure],
    backbone: Backbone,
    method: str | Any = BEST,
    features: FeatureConfig | None = None,
    *,
    loader: LoaderOptions | None = None,
    on_maps: MapsHandler | None = None,
    masks: bool = False,
) -> Iterator[Prediction | Failure]:
    """Find objects in a stream of images, and yield the outcomes as they become ready, with bounded memory.

    Args:
        images: each image's name in the outcome, and its path, content (bytes) or array.
        on_maps: called with an image's name and its maps, before its outcome is yielded; maps are made only
            if this is given.
        The others: see `discover`.

    Yields:
        One outcome for each image; a Failure for one that cannot be used. Images of one size run together,
        so the order changes.

    Raises:
        LostRegError: an invalid batch size, facet or layer.
    """
    if not isinstance(backbone, Backbone):
        raise LostRegError(
            f"expected a backbone that load_backbone returns, but got a {type(backbone).__name__}"
        )
    if features is not None and not isinstance(features, FeatureConfig):
        raise LostRegError(f"expected a FeatureConfig as features, but got a {type(features).__name__}")
    setting = fitted(_setting(backbone, method, features), backbone)
    loader = loader or LoaderOptions()
    for outcome in discover_by_each(images, backbone, [setting], loader, on_maps=on_maps, with_masks=masks):
        yield outcome if isinstance(outcome, Failure) else outcome[0]


def _setting(backbone: Backbone, method: str | Any, features: FeatureConfig | None) -> Setting:
    if isinstance(method, Setting):
        if features is not None:
            raise LostRegError("a Setting has features of its own: leave out its argument")
        return method
    if method == BEST:
        chosen = chosen_preset(None, BEST, backbone.family)
    elif isinstance(method, str):
        chosen = preset_setting(method)
    else:
        chosen = replace(preset_setting(method_of(method).name), config=method)
    return replace(chosen, features=features) if features else chosen
