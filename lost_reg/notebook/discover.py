"""Discovery from Python: objects in one image or many, or in a stream of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lost_reg.backbones import DEFAULT
from lost_reg.backbones.base import Backbone
from lost_reg.backbones.loading import Preprocessing, load_backbone
from lost_reg.backbones.model_objects import is_known
from lost_reg.discovery.features import FeatureConfig
from lost_reg.discovery.methods import METHODS, Setting, method_of, preset_setting, with_changes
from lost_reg.discovery.presets import BEST, chosen_preset, preset_names, scaled_for_own_images
from lost_reg.errors import LostRegError, UnreadableImage
from lost_reg.images.decoding import ImageInput, NamedImage
from lost_reg.images.in_memory import Image, named_images
from lost_reg.notebook.images import ImageSource
from lost_reg.notebook.prediction import ImagePrediction, Predictions
from lost_reg.runs.heads import fitted, read_head
from lost_reg.runs.options import LoaderOptions
from lost_reg.runs.scheduler import MapsHandler, discover_by_each
from lost_reg.text import type_of
from lost_reg.types import Failure

# For fewer images, `discover` starts no decoding processes: starting them takes longer than decoding.
_IMAGES_WORTH_WORKERS = 32
_RAISE, _SKIP = "raise", "skip"


def discover(
    images: Image | Iterable[Image],
    backbone: Any = DEFAULT,
    method: str | Any | None = None,
    features: FeatureConfig | None = None,
    *,
    loader: LoaderOptions | None = None,
    on_error: str = _RAISE,
    **options: Any,
) -> Predictions:
    """Find objects in one image or many.

    Args:
        images: paths of files; of folders, which stand for all images below them; arrays, (H, W, 3) RGB or
            (H, W) grey, uint8, bool, or float in [0, 1]; PIL images; or torch tensors, (3, H, W) RGB, uint8
            or float in [0, 1]. One of them, or many.
        backbone: what `load_backbone` returns, or takes: a name, or a model of timm or transformers; or a
            function and its patch size, such as (function, 16). By default "dino".
        method: the name of a method, as published, or of a preset, such as "best", the default; a method's
            options, such as LostConfig(bias="auto"); or a `Setting`, which holds features and options, and
            can refine masks.
        features: which features are compared; by default the preset's, or those the method was published
            with.
        loader: how images are decoded and put into batches.
        on_error: "raise" an error at the first image that cannot be used, or "skip" it; the result's
            `failures` then says why.
        options: `preset`, by name; `max_side`, in pixels, to which the longer side is scaled down first: by
            default the preset's or 448, unless `features` or a setting are given; None for no scaling;
            `max_objects`, and every other field of `FeatureConfig` or of the method's options; `refine`, how
            masks are refined; and `masks`, whether objects keep their masks (refined ones always do).

    Returns:
        A list with one Prediction for each image, in order, even for a single one; its `image` is the path,
        or "[index]" for an image in memory.

    Raises:
        LostRegError: an image that cannot be used, unless these are skipped; something that is not an image,
            or not a backbone; an unknown option; or features besides those of a setting.

    Example:
        >>> from lost_reg import discover
        >>> boxes = [found.box_xyxy for found in discover("photos/", "tiny", max_side=448)]  # doctest: +SKIP
    """
    if on_error not in (_RAISE, _SKIP):
        raise LostRegError(f"expected `on_error` to be {_RAISE!r} or {_SKIP!r}, but got {on_error!r}")
    loader = loader or LoaderOptions()
    named = named_images(images, loader.background, skip=on_error == _SKIP)
    if loader.workers is None and len(named) < _IMAGES_WORTH_WORKERS:
        loader = replace(loader, workers=0)
    outcomes: dict[int, ImagePrediction | Failure] = {}
    for outcome in discover_stream(_numbered(named), backbone, method, features, loader=loader, **options):
        index = int(outcome.image)  # names can repeat
        one = named[index]
        outcomes[index] = replace(outcome, image=one.image if isinstance(one, Failure) else one[0])
        if isinstance(outcome, Failure) and on_error == _RAISE:
            raise UnreadableImage(f"{outcomes[index].image}: {outcome.reason}")
    in_order = [outcomes[index] for index in range(len(named))]
    found = Predictions(one for one in in_order if not isinstance(one, Failure))
    found.failures = tuple(one for one in in_order if isinstance(one, Failure))
    return found


def _numbered(named: list[NamedImage | Failure]) -> Iterator[NamedImage | Failure]:
    for index, one in enumerate(named):
        yield replace(one, image=str(index)) if isinstance(one, Failure) else (str(index), one[1])


def discover_stream(
    images: Iterable[NamedImage | Failure],
    backbone: Any = DEFAULT,
    method: str | Any | None = None,
    features: FeatureConfig | None = None,
    *,
    loader: LoaderOptions | None = None,
    on_maps: MapsHandler | None = None,
    **options: Any,
) -> Iterator[ImagePrediction | Failure]:
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
        LostRegError: an invalid batch size, facet, layer or option.
    """
    model = _backbone(backbone)
    masks = bool(options.pop("masks", False))
    setting = fitted(setting_of(model, method, features, options), model)
    loader = loader or LoaderOptions()
    running: dict[str, ImageInput] = {}

    def noted() -> Iterator[NamedImage | Failure]:
        for one in images:
            if not isinstance(one, Failure):
                running[one[0]] = one[1]
            yield one

    for outcome in discover_by_each(noted(), model, [setting], loader, on_maps=on_maps, with_masks=masks):
        given = running.pop(outcome.image if isinstance(outcome, Failure) else outcome[0].image, None)
        if isinstance(outcome, Failure):
            yield outcome
        else:
            source = None if given is None else ImageSource(given, loader)
            yield ImagePrediction(**vars(outcome[0]), _source=source)


def _backbone(given: Any) -> Backbone:
    """The backbone that an argument stands for: see `discover`."""
    if isinstance(given, Backbone):
        return given
    if isinstance(given, str) or is_known(given):
        return load_backbone(given)
    if isinstance(given, tuple) and len(given) == 2 and callable(given[0]):
        return load_backbone(given[0], preprocessing=Preprocessing(given[1]))
    if isinstance(given, torch.nn.Module):
        raise LostRegError(
            f"a {type(given).__name__} is no ViT that lost-reg knows: give a function from images to patch "
            "features, and its patch size, as (function, 16)"
        )
    if callable(given):
        raise LostRegError("a function as `backbone` needs its patch size: give both, as (function, 16)")
    raise LostRegError(
        "expected a backbone that load_backbone returns, its name, a model, or a function and its patch "
        f"size, but got {type_of(given)}"
    )


def setting_of(
    backbone: Backbone, method: str | Any | None, features: FeatureConfig | None, options: Mapping[str, Any]
) -> Setting:
    """The setting that the arguments of `discover` choose.

    Args:
        options: without `masks`.
    """
    if features is not None and not isinstance(features, FeatureConfig):
        raise LostRegError(f"expected a FeatureConfig as features, but got {type_of(features)}")
    if features is not None and isinstance(method, Setting):
        raise LostRegError("a Setting has features of its own: leave out its argument")
    changes = dict(options)
    preset = changes.pop("preset", None)
    base = _base(backbone, method, preset)
    if isinstance(changes.get("head"), (str, Path)):
        changes["head"] = read_head(changes["head"])
    if "refine" in changes:
        base = replace(base, refine=changes.pop("refine"))
    setting = with_changes(replace(base, features=features) if features else base, changes)
    is_sized = features or isinstance(method, Setting) or {"max_side", "square"} & options.keys()
    return setting if is_sized else scaled_for_own_images(setting, preset)


def _base(backbone: Backbone, method: str | Any | None, preset: str | None) -> Setting:
    """The setting of a method and a preset, before it is changed."""
    if isinstance(method, str) and preset is None and method in preset_names() and method not in METHODS:
        method, preset = None, method
    if method is None or isinstance(method, str):
        return chosen_preset(method, preset or (None if method else BEST), backbone.family)
    if preset is not None:
        raise LostRegError("`preset` stands for options: give it with the name of a method, or alone")
    return (
        method
        if isinstance(method, Setting)
        else replace(preset_setting(method_of(method).name), config=method)
    )
