"""Linear evaluation of dense tasks: what one linear layer reads from frozen patch tokens.

After Oquab et al., "DINOv2" (TMLR 2024), with whose protocol "Vision Transformers Need Registers" measures.
docs/probes.md says how this departs from it.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lost_reg.artifacts.streams import check_blocks, no_usable_image
from lost_reg.backbones.base import CLASS_TOKEN, Backbone
from lost_reg.backbones.zoo import backbone_label
from lost_reg.datasets.pixel_labels import LabelledImage, PixelDataset
from lost_reg.discovery.features import FeatureConfig
from lost_reg.errors import LostRegError
from lost_reg.images.batching import DecodedImage
from lost_reg.json_files import as_json
from lost_reg.probing.dense_heads import DenseHead, DepthHead, SegmentationHead, head_tokens, predictions
from lost_reg.probing.dense_labels import LabelReader, read_all
from lost_reg.probing.dense_options import PROTOCOLS, DenseOptions, DenseTask, Protocol
from lost_reg.probing.dense_training import TrainingViews, train
from lost_reg.probing.dense_views import View
from lost_reg.probing.measures import interval, value
from lost_reg.probing.options import ProbeOptions
from lost_reg.probing.records import (
    Measure,
    Outcomes,
    ProbeRecord,
    ProbeScore,
    check_replaceable,
    write_probe,
)
from lost_reg.probing.unfinished import FEATURES, PROBE_WORK
from lost_reg.progress import Progress, no_phases
from lost_reg.text import counted
from lost_reg.training.feature_cache import FeatureCache, ImageFeatures
from lost_reg.training.image_features import Features, image_features
from lost_reg.training.work_folder import work_folder
from lost_reg.types import Failure

MEASURES: dict[DenseTask, Measure] = {"segmentation": "miou", "depth": "rmse"}


def probe_dense(
    data: PixelDataset,
    backbone: Backbone,
    out: Path,
    task: DenseTask,
    options: DenseOptions | None = None,
    how: ProbeOptions | None = None,
    *,
    progress: Callable[..., Progress] = no_phases,
) -> ProbeRecord:
    """Train a linear head on the training images' patch tokens, score it on the test images, write the probe.

    1. All labels are read and checked, and the views of each training image are drawn.
    2. The tokens of these views are computed once, and cached in `out`.
    3. The head is trained on them by DINOv2's protocol.
    4. The test images are streamed, and each is scored at the resolution of its labels.

    A probe that was interrupted is continued by the next one with the same arguments.

    Args:
        out: a new folder, or that of an interrupted probe.
        progress: see `progress_of_phases`.

    Raises:
        LostRegError: labels that are malformed or too few, a backbone without blocks, a cache that is too
            small, no usable image, or a folder that holds another probe.
    """
    options, how = options or DenseOptions(), how or ProbeOptions()
    how = replace(how, loader=replace(how.loader, apply_exif=False))
    check_replaceable(out, overwrite=how.overwrite)
    check_blocks(backbone)
    return _Probe(data, backbone, task, options, how, progress).run(out)


def _tokens(normed: bool, backbone: Backbone, images: Tensor) -> Tensor:
    return backbone.last_tokens(images, normed=normed)


@dataclass
class _Probe:
    """failures: images that could not be used, and why."""

    data: PixelDataset
    backbone: Backbone
    task: DenseTask
    options: DenseOptions
    how: ProbeOptions
    progress: Callable[..., Progress]
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def protocol(self) -> Protocol:
        """DINOv2's, with what the options change."""
        base = PROTOCOLS[self.task]
        steps, rate = self.options.steps or base.steps, self.options.learning_rate or base.learning_rate
        return replace(base, steps=steps, learning_rate=rate)

    def run(self, out: Path) -> ProbeRecord:
        settings = {**self._settings(), "files": self.data.digest()}
        reader = LabelReader(self.data, self.task, self.options, self.data.classes)
        reader, views = read_all(reader, self.progress("labels"), workers=self.how.loader.workers)
        settings, overwrite = json.loads(as_json(settings)), self.how.overwrite
        with work_folder(out, PROBE_WORK, settings, overwrite=overwrite) as work:
            with FeatureCache(work / FEATURES, math.inf, "the same command") as cache:
                training = self._fill(cache, views)
                head = self._trained(training, reader, work)
            record, outcomes = self._scored(head, reader, training)
            write_probe(out, record, outcomes)
        return record

    def _fill(self, cache: FeatureCache, views: Sequence[View]) -> TrainingViews:
        """Compute the tokens of the views that the cache does not have.

        An image is used in all of its views, or not at all.
        """
        train_images, patch = self.data.train, self.backbone.patch_size
        missing: dict[str, list[View]] = {}
        for view in views:
            if view.name not in cache:
                missing.setdefault(view.image, []).append(view)
        progress = self.progress("features", "view" if self.options.views > 1 else "image")
        image_of = {view.name: view.image for view in views}
        left = Counter(view.image for view in views if view.name not in cache)
        done, total = len(views) - left.total(), len(views)
        failures: dict[str, str] = {}

        def views_of(image: DecodedImage) -> list[DecodedImage]:
            return [view.of(image, patch) for view in missing[image.name]]

        def failed() -> int:
            return sum(left[image] for image in {image_of[name] for name in failures})

        progress(done, 0, total)
        images = [one for one in train_images if one.name in missing]
        for added, features in enumerate(self._features(images, failures, views_of), start=1):
            if added == 1:
                self._check_room(features.values.shape[1], views)
            cache.add(features)
            left[image_of[features.image]] -= 1
            progress(done + added, failed(), total)
        progress(total - left.total(), failed(), total)
        self.failures |= {image_of[name]: reason for name, reason in failures.items()}
        usable = [view for view in views if view.image not in self.failures and len(view.pixels.places)]
        if not usable:
            raise no_usable_image(len(train_images), [Failure(*one) for one in self.failures.items()])
        return TrainingViews(cache, usable)

    def _check_room(self, width: int, views: Sequence[View]) -> None:
        """Raises LostRegError if the tokens of all views will not fit in the cache."""
        patch, prefix = self.backbone.patch_size, len(self.backbone.prefix_tokens)
        tokens = sum(view.tokens(self.options.max_side, patch, prefix) for view in views)
        gib = tokens * width * 2 / 2**30
        if gib > self.options.cache_gib:
            what = counted(len(self.data.train), "training image")
            if self.options.views > 1:
                what += f", in {self.options.views} views each,"
            raise LostRegError(
                f"the features of {what} take {gib:,.1f} GiB, more than `cache_gib` "
                f"{self.options.cache_gib:g}: raise it, or lower `max_side`, `views` or `limit`"
            )

    def _features(
        self,
        images: Sequence[LabelledImage],
        failures: dict[str, str],
        views: Callable[[DecodedImage], list[DecodedImage]] | None = None,
    ) -> Iterator[ImageFeatures]:
        named = [(one.name, one.image) for one in images]
        normed, scale = self.protocol.normed, FeatureConfig(max_side=self.options.max_side)

        job = Features(partial(_tokens, normed), scale, self.how.loader, views)
        for features, _ in image_features(named, self.backbone, job, failures, self.how.engine):
            yield features

    def _trained(self, training: TrainingViews, reader: LabelReader, work: Path) -> DenseHead:
        width = training.cache.get(training.views[0].name).values.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.options.seed)
            head = self._head(width, reader.classes).to(self.backbone.device)
        progress = self.progress("training", "step")
        train(
            head,
            training,
            self.protocol,
            self.options.seed,
            work,
            lambda done, total: progress(done, 0, total),
        )
        return head

    def _head(self, width: int, classes: int | None) -> DenseHead:
        if self.task == "segmentation":
            return SegmentationHead(width, classes)
        class_token = CLASS_TOKEN in self.backbone.prefix_tokens
        return DepthHead(width, self.options.max_depth, class_token=class_token)

    @torch.inference_mode()
    def _scored(
        self, head: DenseHead, reader: LabelReader, training: TrainingViews
    ) -> tuple[ProbeRecord, Outcomes]:
        """What comes of each test image, in their order."""
        test, progress, device = self.data.test, self.progress("test"), self.backbone.device
        by_name, found = {one.name: one for one in test}, {}
        failures: dict[str, str] = {}
        for features in self._features(test, failures):
            pixels = reader.read(by_name[features.image])
            if not len(pixels.places):
                failures[features.image] = "no pixel has a label that counts"
                continue
            patches = math.prod(features.grid_hw)
            tokens = torch.tensor(features.values, dtype=torch.float32, device=device)
            outputs = head(head_tokens(tokens, patches, head))
            places = torch.tensor(pixels.places, device=device)
            predicted = predictions(head, outputs, features.grid_hw, features.spans_hw, places, pixels.width)
            found[features.image] = head.outcome(predicted, pixels.labels)
            progress(len(found), len(failures), len(test))
        progress(len(found), len(failures), len(test))
        self.failures |= failures
        if not found:
            raise no_usable_image(len(test), [Failure(*failure) for failure in self.failures.items()])
        names = tuple(one.name for one in test if one.name in found)
        rows = np.stack([found[name] for name in names])
        trained_on = len({view.image for view in training.views})
        return self._record(rows, trained_on, reader.classes), Outcomes(names, None, (rows,))

    def _record(self, rows: np.ndarray, trained_on: int, classes: int | None) -> ProbeRecord:
        measure, weights = MEASURES[self.task], self.backbone.weights.recorded()
        registers = self.backbone.registers.settings if self.backbone.registers else None
        score = ProbeScore(
            tokens="patches",
            classifier="linear",
            measure=measure,
            value=value(measure, rows),
            interval=interval(measure, rows, seed=self.options.seed),
            train=trained_on,
            val=0,
            test=len(rows),
        )
        return ProbeRecord(
            task=self.task,
            dataset=self.data.name,
            label=backbone_label(self.backbone.name, weights, registers),
            classes=classes or 0,
            settings=self._settings(),
            scores=[score],
            failures=self.failures,
        )

    def _settings(self) -> dict[str, Any]:
        """What the outcome depends on besides the images."""
        registers, of_depth = self.backbone.registers, ("depth_scale", "max_depth")
        return {
            "backbone": self.backbone.name,
            "weights": self.backbone.weights.recorded(),
            "precision": self.backbone.precision,
            "test_time_registers": registers.settings if registers else None,
            "seed": self.options.seed,
            "dataset": self.data.name,
            "layout": self.data.layout,
            "images": {"train": len(self.data.train), "test": len(self.data.test)},
            "max_side": self.options.max_side,
            "views": self.options.views,
            "background": self.how.loader.background,
            **({name: getattr(self.options, name) for name in of_depth} if self.task == "depth" else {}),
            "protocol": asdict(self.protocol),
        }
