"""What was measured, as cells of the papers' tables: from probe.json, sweep.json and artifacts.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lost_reg.artifacts.records import ARTIFACTS_FILE, MEASURES, BackboneArtifacts, read_artifacts
from lost_reg.backbones.zoo import SPECS
from lost_reg.errors import LostRegError
from lost_reg.probing.catalog import SPECS as LABELLED
from lost_reg.probing.published import published_value
from lost_reg.probing.records import PROBE_FILE, ProbeRecord, read_probe
from lost_reg.runs.folder import SWEEP_FILE
from lost_reg.runs.sweep_folder import read_sweep
from lost_reg.scoring.sweep_scores import score_sweep

TEST_TIME = "+test-time"  # what a backbone's name ends in that gets one test-time register
DATASETS = {"voc07": "VOC07", "voc12": "VOC12", "coco20k": "COCO20k"}  # of object discovery
CUTOFF = 150.0  # of Darcet et al., for the norms of ViT-g's output tokens
_TOKENS = {"rest": "normal", "outliers": "outlier"}  # by group of artifacts.json


@dataclass(frozen=True)
class Measured:
    """A measured cell.

    cells: the tables that it belongs to: "discovery", "classes", "linear", "zero-shot", "local" or "share".
    backbone: see `backbone_name`. column: a dataset or measure. token: its kind, "" where there is one only.
    value: None if there was too little to measure it. images: that it was measured on.
    same_setting: whether a published number is of the same weights, images and settings.
    """

    cells: str
    backbone: str
    column: str
    value: float | None
    interval: tuple[float, float] | None
    images: int
    token: str = ""
    same_setting: bool = False


def backbone_name(settings: dict[str, Any], label: str) -> str:
    """A backbone's name if it has its published weights, also with one test-time register; else its label."""
    published = {spec.name: {*spec.hub_ids, spec.official_file} for spec in SPECS}
    registers = settings.get("test_time_registers")
    if settings.get("precision", "fp32") != "fp32":
        return f"{label}, {settings['precision']}"
    if settings["weights"]["name"] not in published.get(settings["backbone"], ()):
        return label
    if not registers:
        return settings["backbone"]
    return settings["backbone"] + TEST_TIME if registers["count"] == 1 else label


def cells_of_probe(record: ProbeRecord) -> Iterator[Measured]:
    """The scores of a probe that some table has: logistic regression, linear heads, zero-shot."""
    name = backbone_name(record.settings, record.label)
    usual = {spec.name: spec.measure for spec in LABELLED}
    for score in record.scores:
        facts = name, record.dataset, score.value, score.interval, score.test
        if record.task in ("segmentation", "depth"):
            yield Measured("linear", *facts)
        elif record.task == "zero-shot" and score.measure == "top1":
            yield Measured("zero-shot", *facts)
        elif score.classifier == "logistic" and score.measure == usual.get(record.dataset):
            same_setting = published_value(record, score) is not None
            yield Measured("classes", *facts, token=score.tokens, same_setting=same_setting)
            if score.tokens == "cls":
                yield Measured("linear", *facts)


def cells_of_artifacts(row: BackboneArtifacts, cutoff: float) -> Iterator[Measured]:
    """The probes of positions and pixels, and the share of outliers by the paper's cut-off."""
    settings = {"backbone": row.backbone, "weights": row.weights, "precision": row.precision}
    name = backbone_name({**settings, "test_time_registers": row.test_time_registers}, row.label)
    share = row.layers[-1].shares["fixed"]
    if cutoff == CUTOFF and share is not None:
        yield Measured("share", name, "share", share, None, row.images)
    for group, scores in row.outliers.probes.items():
        for measure in MEASURES if scores else ():
            facts = getattr(scores, measure), scores.intervals.get(measure), scores.tested_images or 0
            yield Measured("local", name, measure, *facts, token=_TOKENS[group])


def cells_of_sweep(folder: Path, root: Path | None, seed: int) -> Iterator[Measured]:
    """CorLoc of the setting of LOST that is chosen on a tenth of the images, as reproduce.py chooses it.

    Raises:
        LostRegError: a sweep that cannot be read or scored.
    """
    settings = read_sweep(folder).results.settings
    if settings["dataset"] not in DATASETS:
        return
    scores = score_sweep(folder, root=root, partial=True, tune_fraction=0.1, seed=seed)
    tried = [one for one in scores.settings if one.method == "lost" and one.differences]
    if tried:
        best = max(tried, key=lambda one: one.tuned)
        low, high = (end / 100 for end in scores.interval(best))
        facts = settings["dataset"], scores.corloc(best) / 100, (low, high), scores.images_scored
        yield Measured("discovery", backbone_name(settings, scores.backbone), *facts)


def measured_below(
    out: Path, root: Path | None, seed: int
) -> tuple[list[Measured], dict[str, int], list[str]]:
    """All measured cells in a folder, at any depth.

    Returns:
        The cells: those in a published setting first, then those of the most images. How many files of each
        name were found. A line on each that cannot be used.
    """
    readers: dict[str, Callable[[Path], Iterator[Measured]]] = {
        PROBE_FILE: lambda path: cells_of_probe(read_probe(path.parent)),
        SWEEP_FILE: lambda path: cells_of_sweep(path.parent, root, seed),
        ARTIFACTS_FILE: _of_artifacts_file,
    }
    cells, counts, unusable = [], Counter(dict.fromkeys(readers, 0)), []
    for name, read in readers.items():
        for path in sorted(out.rglob(name)):
            counts[name] += 1
            try:
                cells += list(read(path))
            except LostRegError as error:
                unusable.append(f"{path}: {error}")
            except (KeyError, TypeError):
                unusable.append(f"{path}: its settings are incomplete")
    return sorted(cells, key=lambda cell: (not cell.same_setting, -cell.images)), dict(counts), unusable


def _of_artifacts_file(path: Path) -> Iterator[Measured]:
    artifacts = read_artifacts(path)
    for row in artifacts.models:
        yield from cells_of_artifacts(row, artifacts.about.cutoff)
