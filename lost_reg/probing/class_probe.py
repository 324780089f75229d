"""The class probe: what a classifier reads from one token of each image.

After Darcet et al., "Vision Transformers Need Registers" (ICLR 2024), table 1. Each image goes through the
backbone once. For each kind of token, a logistic regression and nearest neighbours learn from the training
images and are scored on the test images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lost_reg.artifacts.options import ArtifactOptions
from lost_reg.backbones.base import Backbone
from lost_reg.errors import LostRegError
from lost_reg.probing.extraction import Extraction, Extractor
from lost_reg.probing.kept_sweep import KeptSweep
from lost_reg.probing.labelled import SPLITS, LabelledDataset, Split
from lost_reg.probing.logistic import choose_c
from lost_reg.probing.measures import interval, value
from lost_reg.probing.neighbours import NEIGHBOURS, TEMPERATURE, neighbour_scores
from lost_reg.probing.options import ProbeOptions
from lost_reg.probing.records import (
    Classifier,
    Measure,
    Outcomes,
    ProbeRecord,
    ProbeScore,
    Token,
    check_replaceable,
    read_outcomes,
    read_probe,
    write_probe,
)
from lost_reg.probing.tokens import check_kinds
from lost_reg.probing.unfinished import PROBE_WORK
from lost_reg.progress import Progress, no_phases
from lost_reg.text import agreeing, counted
from lost_reg.training.work_folder import work_folder

CLASSIFIERS: tuple[Classifier, ...] = ("logistic", "knn")
_LACKS = {"outlier": "an outlier", "normal": "a patch that is no outlier"}


@dataclass(frozen=True)
class ClassProbeOptions:
    """How tokens are taken from images.

    tokens: kinds of `tokens.KINDS`; None for all that the backbone has.
    outliers: which patches are outliers, by the rule "sigma" or "fixed".
    seed: of the patches that are drawn.
    resize, crop: images are scaled to this shorter side, and a square of this side is cut from their centre,
        in pixels; the latter is rounded to patches. DINOv2's evaluation by nearest neighbours has 256 and
        224, that by logistic regression 224 and 224.
    """

    tokens: tuple[str, ...] | None = None
    outliers: ArtifactOptions = field(default_factory=ArtifactOptions)
    seed: int = 0
    resize: int = 256
    crop: int = 224

    def __post_init__(self) -> None:
        """Raises LostRegError for a square that is larger than what it is cut from."""
        if not 1 <= self.crop <= self.resize:
            raise LostRegError(
                f"expected a `crop` of at least 1 and at most `resize`, but got {self.crop} and {self.resize}"
            )

    def crop_of(self, patch_size: int) -> tuple[int, int]:
        """The shorter side, and the square's side, for a model of this patch size."""
        side = max(1, round(self.crop / patch_size)) * patch_size
        return max(self.resize, side), side


def probe_classes(
    dataset: LabelledDataset,
    backbone: Backbone,
    folder: Path,
    options: ClassProbeOptions,
    how: ProbeOptions,
    phase: Callable[..., Progress] = no_phases,
) -> tuple[ProbeRecord, Outcomes]:
    """Probe one backbone on a dataset.

    An interrupted call is continued by the next one with the same arguments: the cut-off, the tokens and the
    scores of each kind that are there stay.

    Args:
        folder: a new one for the probe, or that of an interrupted call.
        phase: gives the progress of a phase of the work by its name, and the unit that it counts.

    Raises:
        LostRegError: tokens that the backbone lacks, no usable image, or a folder that holds another probe or
            cannot be written.
    """
    check_replaceable(folder, overwrite=how.overwrite)
    dataset.check_trainable()
    kinds = check_kinds(backbone, options.tokens)
    backbone.block_index(options.outliers.layer)
    return _ClassProbe(dataset, backbone, kinds, options, how, phase).run(folder)


Scored = list[tuple[ProbeScore, np.ndarray]]  # the rows of each score are those of `Outcomes`


@dataclass(frozen=True)
class _ClassProbe:
    dataset: LabelledDataset
    backbone: Backbone
    kinds: tuple[Token, ...]
    options: ClassProbeOptions
    how: ProbeOptions
    phase: Callable[..., Progress]

    def run(self, folder: Path) -> tuple[ProbeRecord, Outcomes]:
        settings = probe_settings(self.dataset, self.backbone, self.options)
        identity, overwrite = self._identity(settings), self.how.overwrite
        with work_folder(folder, PROBE_WORK, identity, overwrite=overwrite) as work:
            crop = self.options.crop_of(self.backbone.patch_size)
            extractor = Extractor(
                self.dataset, self.backbone, self.kinds, self.options.outliers, crop, self.how.loader,
                self.how.engine,
            )  # fmt: skip
            extracted = extractor.extract(work, self.options.seed, self.phase)
            record = ProbeRecord(
                task="classes",
                dataset=self.dataset.name,
                label=self.backbone.label,
                classes=len(self.dataset.classes),
                settings={**settings, "cutoff": extracted.cutoff},
                scores=[],
                failures={failure.image: failure.reason for failure in extracted.failures},
            )
            of_kinds = [self._of_kind(index, extracted, record, work) for index in range(len(self.kinds))]
            probe = self._with(record, list(chain.from_iterable(of_kinds)))
            write_probe(folder, *probe)
        return probe

    def _identity(self, settings: dict[str, Any]) -> dict[str, Any]:
        """What unfinished work depends on."""
        outliers = self.options.outliers
        return {
            **settings,
            "cutoff": outliers.cutoff if outliers.rule == "fixed" else None,
            "dataset": self.dataset.name,
            "files": {split: part.digest() for split, part in self.dataset.parts.items()},
            "tokens": list(self.kinds),
        }

    def _of_kind(self, index: int, extracted: Extraction, record: ProbeRecord, work: Path) -> Scored:
        """The scores of a kind of token, which are kept in a folder of the unfinished work."""
        kind = self.kinds[index]
        kept = _kept(work / kind, record)
        if kept is not None:
            return kept
        progress, device = self.phase(f"logistic regression, {kind}", "fit"), self.backbone.device
        try:
            data = TokenData.of(self.dataset, extracted, index, device)
            sweep = KeptSweep(work / kind, torch.from_numpy(data.images))
            scored = _scored(kind, data, self.dataset, self.options.seed, sweep, progress)
        except torch.OutOfMemoryError:
            raise LostRegError(
                f"out of memory on {device} while learning from {counted(len(extracted.images), 'image')}: "
                "what was done is kept, the same command with `device` cpu continues"
            ) from None
        write_probe(work / kind, *self._with(record, scored))
        return scored

    def _with(self, record: ProbeRecord, scored: Scored) -> tuple[ProbeRecord, Outcomes]:
        """The probe with these scores."""
        scores, rows = zip(*scored)
        test = self.dataset.parts["test"]
        return replace(record, scores=list(scores)), Outcomes(tuple(test.names), test.labels, rows)


def _kept(folder: Path, record: ProbeRecord) -> Scored | None:
    """What an interrupted call has scored, if it is of the same tokens as the record."""
    try:
        kept = read_probe(folder)
        rows = read_outcomes(folder, kept).rows
    except LostRegError:
        return None
    if (kept.settings, kept.failures) != (record.settings, record.failures):
        return None
    return list(zip(kept.scores, rows))


def probe_settings(
    dataset: LabelledDataset, backbone: Backbone, options: ClassProbeOptions
) -> dict[str, Any]:
    """What a probe's results depend on, besides the dataset and the kinds of tokens."""
    resize, crop = options.crop_of(backbone.patch_size)
    return {
        **backbone.recorded(),
        "seed": options.seed,
        "images": {split: len(part) for split, part in dataset.parts.items()},
        "split_by": dataset.split_by,
        "limit": dataset.limit,
        "resize": resize,
        "crop": crop,
        "apply_exif": dataset.apply_exif,
        "layer": options.outliers.layer,
        "outliers": options.outliers.rule,
        "neighbours": {"k": NEIGHBOURS, "temperature": TEMPERATURE},
    }


@dataclass(frozen=True)
class TokenData:
    """The tokens of one kind that there are, with their labels.

    features: (n, D) float64. labels: (n,) int64, or (n, K) bool, to learn from.
    images: (n,) int64, ascending, as indices into the splits in their order.
    split, place: (n,) int64: the split's index in SPLITS, and the image's in its split.
    without: how many images have no such token, by split.
    """

    features: Tensor
    labels: Tensor
    images: np.ndarray
    split: np.ndarray
    place: np.ndarray
    without: dict[str, int]

    @classmethod
    def of(
        cls, dataset: LabelledDataset, extracted: Extraction, kind: int, device: torch.device
    ) -> TokenData:
        """The data of the kind of this index; on a CUDA device, or else on the CPU, which has float64."""
        order = np.argsort(extracted.images)  # that of the cache depends on batches
        tokens, images = extracted.cache.tokens(kind)[order], extracted.images[order]
        ends = np.cumsum([len(dataset.parts[split]) for split in SPLITS])
        split = np.searchsorted(ends, images, side="right")
        labels = np.concatenate([dataset.parts[one].labels for one in SPLITS])[images]
        labels = labels > 0 if labels.ndim == 2 else labels
        place = images - np.insert(ends, 0, 0)[split]
        has = ~np.isnan(tokens[:, 0])
        without: dict[str, int] = {
            name: int((~has & (split == index)).sum()) for index, name in enumerate(SPLITS)
        }
        where = device if device.type == "cuda" else torch.device("cpu")
        features = torch.from_numpy(tokens[has]).to(where, torch.float64)
        labels = torch.from_numpy(labels[has]).to(where)
        return cls(features, labels, images[has], split[has], place[has], without)

    def of_split(self, split: Split) -> tuple[Tensor, Tensor]:
        """The features and labels of a split."""
        chosen = torch.from_numpy(self.split == SPLITS.index(split)).to(self.labels.device)
        return self.features[chosen], self.labels[chosen]

    def truth(self, dataset: LabelledDataset, split: Split) -> np.ndarray:
        """The labels of the same images as the dataset has them, to score by: see `LabelledPart`."""
        return dataset.parts[split].labels[self.place[self.split == SPLITS.index(split)]]

    def count(self, split: Split) -> int:
        """How many images of a split have such a token."""
        return int((self.split == SPLITS.index(split)).sum())


def _scored(
    kind: Token, data: TokenData, dataset: LabelledDataset, seed: int, sweep: KeptSweep, progress: Progress
) -> Scored:
    """The score of each classifier, and its rows for all test images: see `Outcomes`."""
    facts: dict[str, Any] = {split: data.count(split) for split in SPLITS}
    facts |= {"without": {split: count for split, count in data.without.items() if count}}
    measure, classes = dataset.measure, len(dataset.classes)
    width = classes if measure == "map" else 1
    if reason := _too_few(kind, data, measure):
        nothing = np.full((len(dataset.parts["test"]), width), np.nan)
        empty = {"measure": measure, "value": None, "interval": None, "too_few": reason, **facts}
        return [(ProbeScore(tokens=kind, classifier=name, **empty), nothing) for name in CLASSIFIERS]
    found, truth = [], data.truth(dataset, "test")
    covered = data.place[data.split == SPLITS.index("test")]
    for classifier, (logits, chosen) in _classified(data, dataset, sweep, progress).items():
        of_covered = rows_of(measure, logits, truth)
        rows = np.full((len(dataset.parts["test"]), width), np.nan)
        rows[covered] = of_covered
        score = ProbeScore(
            tokens=kind,
            classifier=classifier,
            measure=measure,
            value=value(measure, of_covered, truth),
            interval=interval(measure, of_covered, truth, seed),
            chosen=chosen,
            **facts,
        )
        found.append((score, rows))
    return found


def _classified(
    data: TokenData, dataset: LabelledDataset, sweep: KeptSweep, progress: Progress
) -> dict[Classifier, tuple[np.ndarray, dict[str, Any]]]:
    """By classifier: the scores of the classes of the test images, (t, K), and what was chosen."""
    train, val, (features, _) = (data.of_split(split) for split in SPLITS)
    measure, classes, truth = dataset.measure, len(dataset.classes), data.truth(dataset, "val")

    def score(logits: np.ndarray) -> float:
        return value(measure, rows_of(measure, logits, truth), truth)

    def report(done: int, total: int) -> None:
        progress(done, 0, total)

    begun = sweep.read(data.features.device)
    model, c = choose_c(train, val, classes, score, report, begun, sweep.keep)
    bank, labels = (torch.cat(pair) for pair in zip(train, val))
    votes = neighbour_scores(bank, labels, features, classes)
    return {
        "logistic": (model.scores(features), {"C": c}),
        "knn": (votes, {"k": min(NEIGHBOURS, len(bank))}),
    }


def rows_of(measure: Measure, scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The rows of `measures` for the scores of the classes of images, (n, K): see there."""
    if measure == "map":
        return scores
    return (scores.argmax(axis=1) == truth).astype(np.float64)[:, None]


def _too_few(kind: Token, data: TokenData, measure: Measure) -> str:
    """Why nothing can be learned from the tokens that there are; "" if something can."""
    for split, name in zip(SPLITS, ("training", "validation", "test")):
        if not data.count(split):
            return f"no {name} image has {_LACKS.get(kind, 'such a token')}"
        if measure == "map" and not data.of_split(split)[1].any():
            return f"no {name} image with such a token is of a class"
    if measure == "map":
        labels = data.of_split("train")[1]
        tells_apart = labels.any(dim=0) & ~labels.all(dim=0)
        return "" if tells_apart.any() else "no class is in some of the training images and not in others"
    if len(data.of_split("train")[1].unique()) < 2:
        count = data.count("train")
        return f"{counted(count, 'training image')} {agreeing(count, 'have')} it, all of one class"
    return ""
