"""Training a head on the masks of a run: `lost-reg train head` as a function.

As FOUND does (Siméoni et al., CVPR 2023), one linear layer on frozen features learns from masks that a method
found, and then from its own predictions. How it differs, and what that gave, is in docs/learn.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lost_reg.artifacts.streams import no_usable_image
from lost_reg.backbones.base import Backbone
from lost_reg.discovery.head import Head
from lost_reg.discovery.methods import describe_setting
from lost_reg.errors import LostRegError
from lost_reg.files import whole_file
from lost_reg.json_files import as_json
from lost_reg.progress import Progress, no_phases, no_progress
from lost_reg.runs.folder import Results
from lost_reg.runs.heads import check_free_for_head, write_head
from lost_reg.runs.run import layers_from_last
from lost_reg.runs.sessions import now
from lost_reg.training.feature_cache import FEATURE_FILES, FeatureCache, ImageFeatures
from lost_reg.training.head_config import HeadTraining, TrainOptions
from lost_reg.training.head_fit import (
    Layer,
    Moments,
    Target,
    covariance_with,
    in_chunks,
    moments,
    own_target,
    ridge,
    with_threshold,
)
from lost_reg.training.head_images import FeatureSource, as_in_run, images_to_train_on
from lost_reg.training.work_folder import WorkKind, work_folder
from lost_reg.types import Failure
from lost_reg.version import __version__

_STATE_FILE, _FEATURES = "state.safetensors", "features"
_WORK = WorkKind("train head", (_STATE_FILE, *(f"{_FEATURES}/{name}" for name in FEATURE_FILES)))
_IMAGES_FOR_THRESHOLD = 1000
_OTHER_METHOD = "train on a run of another `method`, such as spread, or at a larger `max_side`"


@dataclass(frozen=True)
class TrainedHead:
    """A head, and how its training went.

    images: how many it learned from. held_out: how many were kept out. failures: those that could not be
        used, and why.
    """

    head: Head
    images: int
    held_out: int
    failures: dict[str, str]


def train_head(
    results: Results,
    backbone: Backbone,
    out: Path,
    training: HeadTraining | None = None,
    options: TrainOptions | None = None,
    *,
    progress: Callable[[str], Progress] = no_phases,
) -> TrainedHead:
    """Train a head on the masks of a run, and write it into a folder.

    1. The targets are the patches that the objects of the run cover.
    2. Ridge regression of the targets on the features, with channels standardised; each image counts alike.
    3. The mean of Otsu's thresholds in each image, of the first 1,000, is subtracted: above 0 is object.
    4. In each further round, the targets are the head's own first object in each image.

    Args:
        results: the run, whose objects have masks.
        progress: from the name of a phase to its Progress, in images.

    Returns:
        The head; its `trained_on` says from which run it learned, with which options and images.

    Raises:
        LostRegError: a run without masks, too few images, or none that can be read; a folder that holds a
            head, or that cannot be written.
    """
    training, options = training or HeadTraining(), options or TrainOptions()
    features = layers_from_last(training.features, backbone)
    images = images_to_train_on(results, training, options)
    settings = _settings(results, backbone, replace(training, features=features), options.limit)
    check_free_for_head(out, resume=options.resume, overwrite=options.overwrite)
    with work_folder(out, _WORK, settings, overwrite=options.overwrite) as work:
        loader = as_in_run(options.loader, results)
        with FeatureCache(work / _FEATURES, training.cache_gib * 2**30) as cache:
            source = FeatureSource(images, backbone, features, loader, cache, options.engine)
            source.fill(progress("features"))
            layer = fit(source, training, work / _STATE_FILE, progress("learning"))
        counts = {"images": len(source.names), "held_out": images.held_out}
        drawn = {"held_out_below": images.held_out_below}
        trained_on = {**settings, **counts, **drawn, **_provenance()}
        head = Head(
            backbone.name,
            backbone.weights.name,
            backbone.weights.sha256,
            features,
            tuple(layer.weight.float().tolist()),
            float(layer.bias),
            json.loads(as_json(trained_on)),
        )
        write_head(head, out)
    return TrainedHead(head, failures=source.failures, **counts)


def _settings(
    results: Results, backbone: Backbone, training: HeadTraining, limit: int | None
) -> dict[str, Any]:
    """What the head depends on besides the images: a training with other settings is not continued."""
    return {
        "run": str(results.folder.absolute()),
        "method": results.settings["method"],
        "setting": describe_setting(results.settings),
        "run_created": results.record.get("created"),
        "predictions": len(results.predictions),
        "dataset": results.settings["dataset"],
        "root": results.record["root"],
        "weights": backbone.weights.recorded(),
        "precision": backbone.precision,
        "features": training.features.recorded(),
        "limit": limit,
        "options": {
            name: value for name, value in vars(training).items() if name not in ("features", "cache_gib")
        },
    }


def _provenance() -> dict[str, Any]:
    versions = {"lost-reg": __version__, "torch": torch.__version__}
    return {"created": now(), "versions": versions}


def fit(
    source: FeatureSource,
    training: HeadTraining,
    state_file: Path | None = None,
    progress: Progress = no_progress,
) -> Layer:
    """The layer of a head after all rounds; see `train_head`.

    Args:
        state_file: where each round is written, and after which one an interrupted training continues; None
            keeps nothing.

    Raises:
        LostRegError: none of the images can be used, or a file that cannot be written.
    """
    device = source.backbone.device
    if not source.names:
        raise no_usable_image(len(source.failures), [Failure(*one) for one in source.failures.items()])
    state = _read_state(state_file, device) if state_file else None
    total = (training.rounds + 2) * len(source.names)
    done = 0 if state is None else (state.rounds + 2) * len(source.names)

    def one_pass() -> Iterator[ImageFeatures]:
        nonlocal done
        for features in source:
            yield features
            done += 1
            progress(done, 0, total)

    def own(layer: Layer) -> Target:
        return source.refined(own_target(layer)) if training.refine else own_target(layer)

    if state is None:
        if not _any_image(source, source.images.target, lambda mask: mask.any() and not mask.all()):
            raise LostRegError(f"the masks of the run cover all of each image, or nothing: {_OTHER_METHOD}")
        state = _State(moments(one_pass(), device), None, -1)
    target = source.images.target if state.layer is None else own(state.layer)
    while state.rounds < training.rounds:
        covariance = covariance_with(one_pass(), target, state.moments)
        weight = ridge(state.moments, covariance, training.ridge)
        layer = with_threshold(weight, source.first(_IMAGES_FOR_THRESHOLD))
        state = _State(state.moments, layer, state.rounds + 1)
        if state_file:
            _write_state(state_file, state)
        target = own(layer)
    if not _any_image(source, own_target(state.layer), lambda mask: mask.any()):
        raise LostRegError(f"the head finds nothing in the images that it learned from: {_OTHER_METHOD}")
    return state.layer


def _any_image(source: FeatureSource, target: Target, holds: Callable[[np.ndarray], Any]) -> bool:
    """Whether something holds for the target of any of the first images."""
    chunks = in_chunks(source.first(_IMAGES_FOR_THRESHOLD), source.backbone.device)
    return any(holds(mask) for chunk in chunks for mask in target(chunk))


# --- what an interrupted training leaves ---------------------------------------------------------------


@dataclass(frozen=True)
class _State:
    """rounds: how many of its own the layer has learned from; -1 for no layer yet."""

    moments: Moments
    layer: Layer | None
    rounds: int


def _write_state(file: Path, state: _State) -> None:
    tensors = {
        "mean": state.moments.mean,
        "products": state.moments.products,
        "weight": state.layer.weight,
        "numbers": torch.tensor([state.layer.bias, state.rounds], dtype=torch.float64),
    }
    with whole_file(file, "the state of the training") as part:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, part)


def _read_state(file: Path, device: torch.device) -> _State | None:
    """The state that was written last; None if there is none that can be read."""
    try:
        tensors = load_file(file, device=str(device))
        bias, rounds = tensors["numbers"].tolist()
        layer = Layer(tensors["weight"], bias)
        return _State(Moments(tensors["mean"], tensors["products"]), layer, int(rounds))
    except (FileNotFoundError, SafetensorError, KeyError, ValueError):
        return None
