"""Zero-shot classification (Radford et al. 2021): each image is of the class whose prompts are nearest to it.

Image and text are embedded by an OpenCLIP model, whose image tower runs as a backbone of lost-reg, so that it
can have test-time registers (Jiang et al. 2025).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lost_reg.artifacts.streams import ImageStream, no_usable_image
from lost_reg.backbones.base import Backbone, normalized
from lost_reg.discovery.features import FeatureConfig
from lost_reg.errors import LostRegError
from lost_reg.files import read_text
from lost_reg.images.batching import BatchSize, DecodedImage
from lost_reg.images.decoding import Decoding
from lost_reg.probing.class_probe import rows_of
from lost_reg.probing.labelled import LabelledDataset
from lost_reg.probing.measures import interval, value
from lost_reg.probing.open_clip_models import OpenClip, embed_images, import_open_clip
from lost_reg.probing.options import ProbeOptions
from lost_reg.probing.records import (
    Measure,
    Outcomes,
    ProbeRecord,
    ProbeScore,
    check_replaceable,
    write_probe,
)
from lost_reg.probing.token_cache import TokenCache
from lost_reg.probing.tokens import ImageTokens, tokens_of
from lost_reg.probing.unfinished import PROBE_WORK
from lost_reg.progress import Progress, no_progress
from lost_reg.runs.batches import decoding_of, results_of
from lost_reg.runs.options import LoaderOptions
from lost_reg.text import counted
from lost_reg.training.work_folder import work_folder
from lost_reg.types import Failure


@dataclass(frozen=True)
class Embeddings:
    """The job of embedding images; see `Job`.

    projection: from class tokens to embeddings, (D, E) float32. crop: see `Decoding`.
    """

    projection: Tensor
    loader: LoaderOptions
    crop: tuple[int, int]

    def decoding(self, patch_size: int) -> Decoding:
        """See `Job`."""
        return decoding_of(patch_size, FeatureConfig(), self.loader, self.crop)

    def outcomes(
        self, batches: Iterable[list[DecodedImage] | Failure], backbone: Backbone, size: BatchSize
    ) -> Iterator[ImageTokens | Failure]:
        """The embeddings of each batch, (b, 1, E), and a Failure for each image that has none; see `Job`."""

        def embed(part: list[DecodedImage]) -> np.ndarray:
            return embed_images(normalized(part, backbone), backbone, self.projection).cpu().numpy()[:, None]

        reason = backbone.not_finite("its embedding is")
        for result in results_of(batches, size, backbone.device, embed):
            if isinstance(result, Failure):
                yield result
                continue
            names, vectors = [image.name for image in result[0]], result[1]
            usable = np.isfinite(vectors).all(axis=(1, 2))
            yield from (Failure(name, reason) for name, good in zip(names, usable) if not good)
            yield ImageTokens([name for name, good in zip(names, usable) if good], vectors[usable])


@dataclass(frozen=True)
class Prompts:
    """names: of the K classes, as they stand in prompts. templates: prompts with "{}" for the name."""

    names: tuple[str, ...]
    templates: tuple[str, ...]


def prompts_of(dataset: LabelledDataset, names: Path | None = None, templates: Path | None = None) -> Prompts:
    """The prompts of a dataset.

    Args:
        names: a file with a name for each class, one a line, in the order of the dataset's classes. By
            default the classes' own names, with spaces for "_", but open_clip's for ImageNet.
        templates: a file with a template a line. By default open_clip's 80 for ImageNet.

    Raises:
        LostRegError: a file that cannot be read, another number of names than classes, or a template without
            a place for the name.
    """
    open_clip = import_open_clip()
    chosen = tuple(name.replace("_", " ") for name in dataset.classes)
    if names:
        chosen = _lines(names, "`class_names`")
        if len(chosen) != len(dataset.classes):
            raise LostRegError(
                f"{str(names)!r} has {counted(len(chosen), 'name')} and {dataset.name} "
                f"{counted(len(dataset.classes), 'class')}: `class_names` has one a line, in their order"
            )
    elif dataset.name == "imagenet" and len(dataset.classes) == len(open_clip.IMAGENET_CLASSNAMES):
        chosen = tuple(open_clip.IMAGENET_CLASSNAMES)  # in the order of the folders' names
    if not templates:
        return Prompts(chosen, tuple(one("{}") for one in open_clip.OPENAI_IMAGENET_TEMPLATES))
    lines = _lines(templates, "`templates`")
    without = [line for line in lines if "{}" not in line]
    if without or not lines:
        line = f"the template {without[0][:60]!r} of {str(templates)!r}" if without else f"{str(templates)!r}"
        raise LostRegError(f"{line} has no {{}}, where the name of a class goes")
    return Prompts(chosen, lines)


def _lines(path: Path, what: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in read_text(path, what).splitlines() if line.strip())


def probe_zero_shot(
    dataset: LabelledDataset,
    clip: OpenClip,
    prompts: Prompts,
    folder: Path,
    seed: int,
    how: ProbeOptions,
    *,
    progress: Progress = no_progress,
) -> tuple[ProbeRecord, Outcomes]:
    """Classify the test images of a dataset by the names of its classes, and write the probe.

    An interrupted call is continued by the next one of the same model and images: embeddings stay.

    Args:
        folder: a new one for the probe, or that of an interrupted call.
        seed: of the bootstrap.

    Raises:
        LostRegError: no usable image, or a folder that holds another probe or cannot be written.
    """
    check_replaceable(folder, overwrite=how.overwrite)
    settings = _settings(dataset, clip, prompts, seed)
    files = {"dataset": dataset.name, "files": dataset.parts["test"].digest()}
    of_images = {name: one for name, one in settings.items() if name not in ("class_names", "templates")}
    with work_folder(folder, PROBE_WORK, {**of_images, **files}, overwrite=how.overwrite) as work:
        embedded = _embedded(dataset, clip, work, how, progress)
        probe = _classified(dataset, clip, prompts, settings, embedded)
        write_probe(folder, *probe)
    return probe


def _classified(
    dataset: LabelledDataset,
    clip: OpenClip,
    prompts: Prompts,
    settings: dict[str, Any],
    embedded: tuple[np.ndarray, np.ndarray, Sequence[Failure]],
) -> tuple[ProbeRecord, Outcomes]:
    """The scores of what `_embedded` returned."""
    (images, embeddings, failures), seed = embedded, settings["seed"]
    test = dataset.parts["test"]
    scores = embeddings @ clip.embed_classes(prompts.names, prompts.templates).cpu().numpy().T
    truth = test.labels[images]
    measures: tuple[Measure, ...] = ("map",) if dataset.measure == "map" else ("top1",)
    found, all_rows = [], []
    for measure in dict.fromkeys((*measures, dataset.measure)):
        of_covered = rows_of(measure, scores.astype(np.float64), truth)
        rows = np.full((len(test), of_covered.shape[1]), np.nan)
        rows[images] = of_covered
        all_rows.append(rows)
        ends = interval(measure, of_covered, truth, seed)
        of_test = value(measure, of_covered, truth)
        found.append(ProbeScore("cls", "zero-shot", measure, of_test, ends, 0, 0, test=len(images)))
    record = ProbeRecord(
        task="zero-shot",
        dataset=dataset.name,
        label=clip.backbone.label,
        classes=len(dataset.classes),
        settings=settings,
        scores=found,
        failures={failure.image: failure.reason for failure in failures},
    )
    return record, Outcomes(tuple(test.names), test.labels, tuple(all_rows))


def _settings(dataset: LabelledDataset, clip: OpenClip, prompts: Prompts, seed: int) -> dict[str, Any]:
    return {
        **clip.backbone.recorded(),
        "seed": seed,
        "images": {"test": len(dataset.parts["test"])},
        "split_by": dataset.split_by,
        "limit": dataset.limit,
        "crop": clip.side,
        "apply_exif": dataset.apply_exif,
        "text_model": clip.name,
        "class_names": list(prompts.names),
        "templates": list(prompts.templates),
    }


def _embedded(
    dataset: LabelledDataset,
    clip: OpenClip,
    work: Path,
    how: ProbeOptions,
    progress: Progress,
) -> tuple[np.ndarray, np.ndarray, Sequence[Failure]]:
    """The test images that could be embedded, (n,) int64, their embeddings, (n, E), and the others."""
    test = dataset.parts["test"]
    cache = TokenCache(work, 1, clip.width)
    places = {name: place for place, name in enumerate(test.names)}
    left = np.setdiff1d(np.arange(len(test)), cache.images())
    failures: list[Failure] = []
    if len(left):
        part = test.of(left)
        stream = ImageStream(part.images, part.names)
        loader = replace(how.loader, apply_exif=dataset.apply_exif)
        job = Embeddings(clip.projection, loader, (clip.side, clip.side))
        for batch in tokens_of(stream, clip.backbone, job, failures, progress, how.engine):
            cache.add(np.array([places[name] for name in batch.names]), batch.tokens)
    if not len(cache.images()):
        raise no_usable_image(len(test), failures)
    return cache.images(), cache.tokens(0), failures
