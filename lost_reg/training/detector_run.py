"""Applying a detector: a run folder as any method's, with several scored boxes an image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from lost_reg.backbones.base import PRECISIONS, Backbone
from lost_reg.backbones.loading import find_device
from lost_reg.backbones.weights import Weights
from lost_reg.discovery.features import FeatureConfig, Part
from lost_reg.discovery.methods import DETECTOR, Setting
from lost_reg.errors import LostRegError
from lost_reg.images.batching import BatchSize, DecodedImage
from lost_reg.images.decoding import Decoding
from lost_reg.progress import Progress, no_progress
from lost_reg.runs.batches import decoding_of, results_of
from lost_reg.runs.discovery import draw_outcome
from lost_reg.runs.options import LoaderOptions, RunOptions
from lost_reg.runs.run import Note, Work, no_note, write_folder
from lost_reg.runs.sessions import RunSummary
from lost_reg.runs.sources import Source, check_drawable
from lost_reg.training.detector_data import as_tensor, scaled_hw
from lost_reg.training.detector_folder import MODEL_FILE, Detector, load_detector
from lost_reg.types import Failure, FoundObject, Prediction

STRIDE = 16  # pixels of the scaled image in a cell of the grid that seeds are given in
MAX_OBJECTS = 100


class DetectorModel(Backbone):
    """What a run records of a detector in the place of a backbone; it has no features."""

    patch_size = STRIDE
    depth = 0

    def __init__(self, detector: Detector, device: torch.device, precision: str):
        self.detector, self.device, self.precision = detector, device, precision
        self.name = detector.vit.name if detector.vit else detector.config.backbone
        path = detector.path / MODEL_FILE
        self.weights = Weights("file", detector.path.name, path, detector.digest)

    def facets(self, images: Tensor, parts: Sequence[Part]) -> NoReturn:
        """Raises LostRegError: a detector gives objects, not features."""
        raise LostRegError(f"the detector {str(self.detector.path)!r} has no features")


def load_detector_model(
    folder: Path, *, device: str = "auto", precision: str = "fp32", vit_weights: str | None = None
) -> DetectorModel:
    """A trained detector, to be applied by `run_detector`; vit_weights: see `load_detector`.

    Raises:
        LostRegError: no detector, an unfinished one, files that do not fit, or an unknown device.
    """
    on = find_device(device)
    if precision not in PRECISIONS:
        raise LostRegError(f"unknown precision {precision!r}: choose among {', '.join(PRECISIONS)}")
    return DetectorModel(load_detector(folder, on, vit_weights), on, precision)


def run_detector(
    source: Source,
    model: DetectorModel,
    out: Path,
    options: RunOptions | None = None,
    *,
    max_objects: int = MAX_OBJECTS,
    progress: Progress = no_progress,
    note: Note = no_note,
) -> RunSummary:
    """Detect objects in all images of a source and write a run folder; as `runs.run.run` does for methods.

    Args:
        max_objects: at most this many an image, those with the highest scores.

    Raises:
        LostRegError: a folder that cannot be written.
    """
    options = options or RunOptions()
    if max_objects < 1:
        raise LostRegError(f"expected `max_objects` of at least 1, but got {max_objects}")
    if options.visualize:
        check_drawable(source)
    loader = replace(options.loader, apply_exif=source.apply_exif)
    job = Detection(loader, Path(source.images.location), out.absolute(), max_objects, options.visualize)

    config = model.detector.config
    settings = {
        "method": DETECTOR,
        "features": FeatureConfig().recorded(),
        "options": {
            "detector": model.detector.digest[:12],
            "max_objects": max_objects,
            "score_threshold": config.score_threshold,
            "nms": config.nms,
            "min_size": max(config.min_sizes),
            "max_size": config.max_size,
        },
    }
    work = Work(settings, job, costliest=Setting())
    return write_folder(source, model, out, work, options, progress=progress, note=note)


@dataclass(frozen=True)
class Detection:
    """The job of a detector, best objects first; see `Job`. Only images of one size share a batch.

    root: the folder that the names of image files are relative to. out: the run folder.
    max_objects: see `run_detector`. visualize: see `RunOptions`.
    """

    loader: LoaderOptions
    root: Path
    out: Path
    max_objects: int = MAX_OBJECTS
    visualize: bool = False

    def decoding(self, patch_size: int) -> Decoding:
        """Images at their own size, since the detector scales them; see `Job`."""
        return decoding_of(1, FeatureConfig(), replace(self.loader, max_patches=None))

    def outcomes(
        self, batches: Iterable[list[DecodedImage] | Failure], backbone: Backbone, size: BatchSize
    ) -> Iterator[Prediction | Failure]:
        """The objects of each image, each after its picture; see `Job`."""
        assert isinstance(backbone, DetectorModel)
        find = partial(_detections, model=backbone, max_objects=self.max_objects)
        for result in results_of(batches, size, backbone.device, find):
            if isinstance(result, Failure):
                yield result
                continue
            for image, found in zip(*result):
                outcome = _prediction(image, found, backbone)
                if self.visualize and isinstance(outcome, Prediction):
                    draw_outcome(outcome, self.root, self.out, self.loader)
                yield outcome


def _scaled_hw(image: DecodedImage, model: DetectorModel) -> tuple[int, int]:
    config = model.detector.config
    return scaled_hw(image.original_hw, max(config.min_sizes), config.max_size)


@torch.inference_mode()
def _detections(batch: list[DecodedImage], model: DetectorModel, max_objects: int) -> list[dict[str, Tensor]]:
    """For each image, its boxes in pixels of the scaled image, scores and labels, best first."""
    network = model.detector.model
    network.roi_heads.detections_per_img = max_objects
    pixels = [as_tensor(image.pixels, _scaled_hw(image, model)) for image in batch]
    scaled = [one.to(model.device).float() / 255 for one in pixels]
    with torch.autocast(model.device.type, PRECISIONS[model.precision], model.precision != "fp32"):
        found = network(scaled)
    return [{name: one.cpu() for name, one in of_image.items()} for of_image in found]


def _prediction(image: DecodedImage, found: dict[str, Tensor], model: DetectorModel) -> Prediction | Failure:
    """An image's objects, with boxes in pixels of the original."""
    if not all(bool(torch.isfinite(found[name]).all()) for name in ("boxes", "scores")):
        return Failure(image.name, model.not_finite("its boxes are"))
    size_hw, (height, width) = _scaled_hw(image, model), image.original_hw
    grid_hw = -(-size_hw[0] // STRIDE), -(-size_hw[1] // STRIDE)
    classes = model.detector.classes
    objects = []
    for box, score, label in zip(found["boxes"].tolist(), found["scores"].tolist(), found["labels"].tolist()):
        xmin, ymin, xmax, ymax = box
        seed = int((ymin + ymax) / 2 // STRIDE), int((xmin + xmax) / 2 // STRIDE)
        seed = min(seed[0], grid_hw[0] - 1), min(seed[1], grid_hw[1] - 1)
        across, down = width / size_hw[1], height / size_hw[0]
        box_xyxy = xmin * across, ymin * down, min(xmax * across, width), min(ymax * down, height)
        objects.append(FoundObject(box_xyxy, score, seed, label=classes[label - 1] if classes else None))
    return Prediction(image.name, image.original_hw, grid_hw, tuple(objects), image.note)
