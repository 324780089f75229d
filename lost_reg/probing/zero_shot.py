"""Zero-shot classification (Radford et al. 2021): each image is of the class whose prompts are nearest to it.

Image and text are embedded by an OpenCLIP model, whose image tower runs as a backbone of lost-reg, so that it
can have test-time registers (Jiang et al. 2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lost_reg.artifacts.streams import ImageStream
from lost_reg.backbones.base import normalized
from lost_reg.errors import LostRegError
from lost_reg.files import read_text
from lost_reg.images.batching import DecodedImage
from lost_reg.probing.class_probe import rows_of
from lost_reg.probing.labelled import LabelledDataset
from lost_reg.probing.measures import interval, value
from lost_reg.probing.open_clip_models import OpenClip, import_open_clip
from lost_reg.probing.records import (
    Measure,
    Outcomes,
    ProbeRecord,
    ProbeScore,
    check_replaceable,
    write_probe,
)
from lost_reg.probing.token_cache import TokenCache
from lost_reg.probing.unfinished import PROBE_WORK
from lost_reg.progress import Progress, no_progress
from lost_reg.runs.options import LoaderOptions
from lost_reg.text import counted
from lost_reg.training.work_folder import work_folder
from lost_reg.types import Failure


@dataclass(frozen=True)
class ZeroShotOptions:
    """seed: of the bootstrap. overwrite: replace the probe in the folder, once this one is finished."""

    seed: int = 0
    overwrite: bool = False


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
    options: ZeroShotOptions,
    loader: LoaderOptions,
    *,
    progress: Progress = no_progress,
) -> tuple[ProbeRecord, Outcomes]:
    """Classify the test images of a dataset by the names of its classes, and write the probe.

    An interrupted call is continued by the next one of the same model and images: embeddings stay.

    Args:
        folder: a new one for the probe, or that of an interrupted call.

    Raises:
        LostRegError: no usable image, or a folder that holds another probe or cannot be written.
    """
    check_replaceable(folder, overwrite=options.overwrite)
    settings = _settings(dataset, clip, prompts, options.seed)
    files = {"dataset": dataset.name, "files": dataset.parts["test"].digest()}
    of_images = {name: one for name, one in settings.items() if name not in ("class_names", "templates")}
    with work_folder(folder, PROBE_WORK, {**of_images, **files}, overwrite=options.overwrite) as work:
        embedded = _embedded(dataset, clip, work, loader, progress)
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
    loader: LoaderOptions,
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
        loader = replace(loader, apply_exif=dataset.apply_exif)
        stream = ImageStream(part.images, part.names, loader=loader, crop=(clip.side, clip.side))

        def embed(images: list[DecodedImage]) -> tuple[np.ndarray, np.ndarray]:
            embedded = clip.embed_images(normalized(images, clip.backbone))
            return np.array([places[one.name] for one in images]), embedded.cpu().numpy()[:, None]

        for of_batch in stream.map_decoded(
            clip.backbone, embed, failures, progress, allow_empty=len(left) < len(test)
        ):
            cache.add(*of_batch)
    return cache.images(), cache.tokens(0), failures
