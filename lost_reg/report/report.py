"""A report of runs as one page that opens from disk: table, charts, and a gallery of the images.

The page needs no server and no network, and runs no script but its own: a content security policy holds the
hashes of its script and style, and all names from outside are escaped here or set as text there.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from lost_reg import __version__
from lost_reg.backbones.zoo import register_pairs
from lost_reg.datasets.catalog import Dataset, data_root, find_dataset
from lost_reg.errors import LostRegError, one_line
from lost_reg.files import folders_with, whole_file
from lost_reg.report.artifact_charts import load_artifacts
from lost_reg.report.charts import Bar, Line, bar_chart, difference_mark
from lost_reg.report.gallery import THUMBNAILS_FOLDER, GalleryRun, ramp, write_gallery
from lost_reg.report.markup import notes as notes_of
from lost_reg.report.markup import table
from lost_reg.report.sweep_curves import ReportSweep, curves_html, load_sweeps
from lost_reg.runs.folder import MAPS_FOLDER, RUN_FILE, Results, find_runs, read_run
from lost_reg.scoring.compare import LEAST_P, Comparison, compare
from lost_reg.scoring.score_runs import (
    NO_NUMBER,
    ScoredRun,
    ScoringOptions,
    describe_backbone,
    register_kind,
    score_run,
)

PAGE_FILE = "index.html"
MAX_IMAGES = 2000
_PAGE_PARTS = Path(__file__).parent / "page"
_MARK = '<meta name="generator" content="lost-reg'  # by which a folder is known as a report of ours


@dataclass(frozen=True)
class ReportRun:
    """One run of a report.

    name: its backbone with all that sets it apart from the report's other runs on the dataset.
    dataset, row: its ground truth and its score; None for a run on files of the user's own.
    """

    name: str
    results: Results
    dataset: Dataset | None
    row: ScoredRun | None


@dataclass(frozen=True)
class Extras:
    """What a report shows beside runs; false if that is nothing.

    unscored: sweep folders without scores; artifacts: markup, of each artifacts.json.
    """

    sweeps: Sequence[ReportSweep]
    unscored: Sequence[Path]
    artifacts: Sequence[str]
    errors: Sequence[LostRegError]

    def __bool__(self) -> bool:
        return bool(self.sweeps or self.artifacts)


@dataclass(frozen=True)
class Section:
    """A part of the page: html is trusted, what it shows from outside must be escaped in it."""

    anchor: str
    title: str
    html: str


@dataclass(frozen=True)
class ReportSummary:
    """What was written: the page, what it shows, and how many images of how many."""

    page: Path
    runs: int
    sweeps: int
    artifacts: int
    shown: int
    images: int
    with_maps: int
    without_picture: int


def write_report(
    top: Path,
    out: Path,
    options: ScoringOptions,
    *,
    max_images: int = MAX_IMAGES,
    progress: Callable[[int, int, int], None] = lambda done, failed, total: None,
) -> tuple[ReportSummary, list[LostRegError]]:
    """Write a report of all runs at and below a folder.

    Args:
        out: the folder of the report; an earlier report in it is replaced, anything else is left alone.
        options: as for scoring.
        max_images: how many images of each dataset the gallery shows at most, evenly spaced.
        progress: called with the gallery's images done, those of them without a picture, and all.

    Returns:
        What was written, and the errors of the runs that could not be scored and are left out.

    Raises:
        LostRegError: no runs, none that can be shown, or a folder that is not free or cannot be written.
    """
    check_free(out)
    extras = load_extras(top)
    runs, errors = ([], []) if extras and not folders_with(top, RUN_FILE) else load_runs(top, options)
    errors += extras.errors
    if not runs and not extras:
        raise errors[0]
    _prepare(out)
    shown = [GalleryRun(run.name, run.results, run.dataset, options.count_hard) for run in runs]
    gallery = write_gallery(shown, out, max_images, progress)
    gallery["pair"] = _default_pair(runs, gallery["runs"])
    _write(out / PAGE_FILE, page(_sections(runs, extras, errors, options, gallery), gallery))
    datasets, items = gallery["datasets"], gallery["items"]
    with_maps = sum(any("maps" in entry for entry in item["entries"].values()) for item in items)
    images = sum(dataset["images"] for dataset in datasets)
    summary = ReportSummary(
        page=out / PAGE_FILE,
        runs=len(runs),
        sweeps=len(extras.sweeps),
        artifacts=len(extras.artifacts),
        shown=len(items),
        images=images,
        with_maps=with_maps,
        without_picture=gallery["without_picture"],
    )
    return summary, errors


# --- runs ---------------------------------------------------------------------------------------------


def load_runs(top: Path, options: ScoringOptions) -> tuple[list[ReportRun], list[LostRegError]]:
    """The runs at and below a folder with their scores, and the errors of those that cannot be scored.

    Raises:
        LostRegError: no such folder, or none in it.
    """
    runs, errors = [], []
    datasets: dict[tuple[str, Path], Dataset] = {}
    for folder in find_runs(top):
        try:
            runs.append(_load_run(folder, options, datasets))
        except LostRegError as error:
            errors.append(error)
    return _told_apart(runs, top), errors


def load_extras(top: Path) -> Extras:
    """The sweeps and the artifacts at and below a folder."""
    sweeps, unscored, errors = load_sweeps(top)
    artifacts, more_errors = load_artifacts(top)
    return Extras(sweeps, unscored, artifacts, [*errors, *more_errors])


def _load_run(folder: Path, options: ScoringOptions, datasets: dict) -> ReportRun:
    results = read_run(folder)
    try:
        name, title = describe_backbone(results), options.dataset or results.settings["dataset"]
    except (KeyError, TypeError) as error:
        reason = f"{type(error).__name__} {error}"
        raise LostRegError(f"{folder / RUN_FILE} does not hold the settings of a run: {reason}") from None
    if title is None:
        return ReportRun(name, results, None, None)
    row = score_run(folder, options)
    root = data_root(options.data_root, results.record.get("data_root"))
    if (title, root) not in datasets:  # its annotations are read once for all runs
        datasets[title, root] = find_dataset(title, root)
    return ReportRun(name, results, datasets[title, root], row)


def _told_apart(runs: list[ReportRun], top: Path) -> list[ReportRun]:
    """Runs of one name on one dataset get their folder's name beside it."""

    def key(run: ReportRun):
        return run.name, run.dataset and (run.dataset.name, run.dataset.split), run.results.record.get("root")

    keys = [key(run) for run in runs]
    return [
        ReportRun(f"{run.name}, {run.results.folder.relative_to(top)}", run.results, run.dataset, run.row)
        if keys.count(key(run)) > 1
        else run
        for run in runs
    ]


def paired_by_registers(runs: Sequence[ReportRun]) -> list[tuple[ReportRun, ReportRun]]:
    """Runs without registers, and with trained or test-time ones, that differ in nothing else.

    They share backbone, dataset and protocol; those with test-time registers also the very weights. Of each
    run without, the pairs with trained registers come first.
    """
    return [
        (one, other)
        for one in runs
        if register_kind(one.results.settings) == "without"
        for kind in ("with", "test-time")
        for other in runs
        if register_kind(other.results.settings) == kind and _differ_in_registers(one, other)
    ]


def _differ_in_registers(one: ReportRun, other: ReportRun) -> bool:
    """Whether a run with registers is of the model, the data and the protocol of a run without."""
    settings, others = one.results.settings, other.results.settings
    if _conditions(one) != _conditions(other):
        return False
    if others.get("test_time_registers"):
        same_weights = settings["weights"]["sha256"] == others["weights"]["sha256"]
        return settings["backbone"] == others["backbone"] and same_weights
    return register_pairs().get(settings["backbone"]) == others["backbone"]


def _conditions(run: ReportRun) -> tuple:
    """What runs share that differ in their registers alone."""
    settings = run.results.settings
    dataset = (run.row.dataset, run.row.split) if run.row else run.results.record.get("root")
    is_random = settings["weights"]["source"] == "random"
    return dataset, json.dumps(settings["protocol"], sort_keys=True), settings["precision"], is_random


def _default_pair(runs: Sequence[ReportRun], names: list[str]) -> list[int]:
    """The two runs that the gallery shows first, by their place among its names."""
    pairs = paired_by_registers(runs)
    if pairs:
        return [names.index(run.name) for run in pairs[0]]
    return list(range(min(2, len(names))))


# --- sections -----------------------------------------------------------------------------------------


def _sections(
    runs: list[ReportRun],
    extras: Extras,
    errors: list[LostRegError],
    options: ScoringOptions,
    gallery: dict[str, Any],
) -> list[Section]:
    """The parts of the page in their order; a part that has nothing to show is left out."""
    sections = (
        _table_section(runs, errors),
        _bars_section(runs),
        _paired_section(runs, options),
        _sweeps_section(extras),
        _artifacts_section(extras),
        _gallery_section(gallery),
    )
    return [section for section in sections if section]


_DIFFERENCE = "B \N{MINUS SIGN} A"
_NUMBERS = ("images", "found", "CorLoc", "centred box", "whole image", "A alone", "B alone", _DIFFERENCE)


def _table_section(runs: Sequence[ReportRun], errors: Sequence[LostRegError]) -> Section | None:
    rows = [(run.name, run.row) for run in runs if run.row]
    notes = "".join(f"<li>{escape(one_line(str(error)))}</li>" for error in errors)
    left_out = f'<div class="notice"><p>Left out:</p><ul>{notes}</ul></div>' if errors else ""
    if not rows:
        return Section("corloc", "CorLoc", left_out) if errors else None
    header = ("backbone", "dataset", *_NUMBERS[:3], "95 % interval", *_NUMBERS[3:5], "published")
    cells = [_table_cells(name, row) for name, row in rows]
    html = (
        '<p class="lead">The share of images in which the one box found has an IoU of at least 0.5 with an '
        "object, in percent.</p>"
        f"{table('CorLoc table', header, cells, _NUMBERS, 'corloc')}{notes_of(_counts(rows))}{left_out}"
    )
    return Section("corloc", "CorLoc", html)


def _table_cells(name: str, row: ScoredRun) -> list[str]:
    low, high = row.score.interval
    published = f"{row.published.corloc:.1f} ({row.published.source})" if row.published else NO_NUMBER
    cells = (
        name,
        f"{row.dataset} {row.split}",
        f"{row.score.images:,}",
        f"{row.score.found:,}",
        f"{row.score.corloc:.1f}",
        f"{low:.1f} to {high:.1f}",
        f"{row.score.centred:.1f}",
        f"{row.score.whole:.1f}",
        published,
    )
    return [escape(one_line(cell)) for cell in cells]


def _counts(rows: Sequence[tuple[str, ScoredRun]]) -> list[str]:
    """What did not count, for the runs where anything did not."""
    lines = []
    for name, row in rows:
        counted = {
            "undecodable, counted as misses": row.score.unusable,
            "without any box, left out": row.score.without_truth,
            "not done, left out": row.score.not_done,
            "not of the size that was annotated": row.other_size,
        }
        said = "; ".join(f"{count:,} {what}" for what, count in counted.items() if count)
        if said:
            lines.append(f"{name} on {row.dataset} {row.split}: {said}")
    return lines


def _bars_section(runs: Sequence[ReportRun]) -> Section | None:
    titles = list(dict.fromkeys((run.row.dataset, run.row.split) for run in runs if run.row))
    if not titles:
        return None
    charts = []
    for title in titles:
        of_dataset = [run for run in runs if run.row and (run.row.dataset, run.row.split) == title]
        charts.append(bar_chart(one_line(" ".join(title)), _bars(of_dataset), _baselines(of_dataset)))
    has_pairs = bool(paired_by_registers([run for run in runs if run.row]))
    heading = "With and without registers" if has_pairs else "CorLoc by backbone"
    return Section("bars", heading, f'<div class="charts">{"".join(charts)}</div>')


def _bars(runs: Sequence[ReportRun]) -> list[Bar]:
    """A bar for each run; those with registers of any kind right after their counterparts without."""
    bars, done = [], set()
    for pair in paired_by_registers(runs):
        for run in pair:
            if id(run) not in done:
                done.add(id(run))
                kind = register_kind(run.results.settings)
                bars.append(_bar(run, kind, joined=kind != "without"))
    return bars + [_bar(run, "plain") for run in runs if id(run) not in done]


def _bar(run: ReportRun, kind: str, *, joined: bool = False) -> Bar:
    row = run.row
    published = row.published.corloc if row.published else None
    return Bar(one_line(run.name), row.score.corloc, row.score.interval, kind, published, joined)


def _baselines(runs: Sequence[ReportRun]) -> list[Line]:
    """The trivial boxes, where they are the same for all runs: on the same images."""
    scores = [run.row.score for run in runs]
    kinds = (("centred", "a centred box of 80 % side"), ("whole", "the whole image"))
    return [
        Line(label, getattr(scores[0], kind), kind)
        for kind, label in kinds
        if len({getattr(score, kind) for score in scores}) == 1
    ]


def _paired_section(runs: Sequence[ReportRun], options: ScoringOptions) -> Section | None:
    """Differences on the same images: with registers less without, or else each run less the first."""
    compared, notes = [], []
    for a, b in _pairs_to_compare([run for run in runs if run.row]):
        try:
            compared.append((a, b, compare(a.results.folder, b.results.folder, options)))
        except LostRegError as error:
            notes.append(f"{a.name} and {b.name}: {error}")
    if not compared:
        return None
    top = max(5.0, *(abs(bound) for *_, one in compared for bound in one.total.interval))
    cells = [_paired_cells(*one, top) for one in compared]
    rows = [list(one.values()) for one in cells]
    html = (
        '<p class="lead">B less A in points of CorLoc, on the same images: the 95 % paired bootstrap '
        "interval, and the p value of McNemar's exact test on the images that one alone found.</p>"
        f"{table('Paired differences', list(cells[0]), rows, _NUMBERS, 'paired')}{notes_of(notes)}"
    )
    return Section("paired", "Paired differences", html)


def _pairs_to_compare(runs: Sequence[ReportRun]) -> list[tuple[ReportRun, ReportRun]]:
    pairs = []
    for title in dict.fromkeys((run.row.dataset, run.row.split) for run in runs):
        of_dataset = [run for run in runs if (run.row.dataset, run.row.split) == title]
        pairs += paired_by_registers(of_dataset) or [(of_dataset[0], other) for other in of_dataset[1:]]
    return pairs


def _paired_cells(a: ReportRun, b: ReportRun, comparison: Comparison, top: float) -> dict[str, str]:
    """The cells of a row, as markup, by their columns."""
    total = comparison.total
    low, high = total.interval
    texts = {
        "A": a.name,
        "B": b.name,
        "dataset": f"{comparison.dataset} {comparison.split}",
        "images": f"{total.images:,}",
        "A alone": f"{total.only_a:,}",
        "B alone": f"{total.only_b:,}",
        _DIFFERENCE: f"{total.difference:+.1f}",
        "95 % interval": f"{low:+.1f} to {high:+.1f}",
        "p": f"{total.p:.4f}" if total.p >= LEAST_P else f"below {LEAST_P}",
    }
    cells = {column: escape(one_line(text)) for column, text in texts.items()}
    return {**cells, "": difference_mark(total.difference, total.interval, top)}


def _sweeps_section(extras: Extras) -> Section | None:
    if not extras.sweeps and not extras.unscored:
        return None
    return Section("sweeps", "Which layer, which bias", curves_html(extras.sweeps, extras.unscored))


def _artifacts_section(extras: Extras) -> Section | None:
    if not extras.artifacts:
        return None
    lead = (
        '<p class="lead">Patches whose token has a norm that stands far out are outliers. Shown are norms by '
        "layer and how they are distributed, how similar patches are to their neighbours at the patch "
        "embedding, and how often LOST as published seeds at an outlier.</p>\n"
    )
    return Section("artifacts", "Artifacts", lead + "\n".join(extras.artifacts))


def _gallery_section(gallery: dict[str, Any]) -> Section | None:
    if not gallery["items"]:
        return None
    notes = [
        f"{dataset['name']}: {dataset['shown']:,} of its {dataset['images']:,} images, evenly spaced "
        "(--max-images shows more); the numbers above are of all"
        for dataset in gallery["datasets"]
        if dataset["shown"] < dataset["images"]
    ]
    if gallery["without_picture"]:
        notes.append(f"{gallery['without_picture']:,} images could not be read again: they have no picture")
    if not any("maps" in entry for item in gallery["items"] for entry in item["entries"].values()):
        notes.append("No maps: runs with --save-maps show token norms, degrees, affinities and masks")
    html = (_PAGE_PARTS / "gallery.html").read_text(encoding="utf-8")
    return Section("gallery", "Gallery", Template(html).substitute(notes=notes_of(notes), ramp=_ramp_stops()))


def _ramp_stops() -> str:
    colours = ramp()[::21]
    return "".join(
        f'<stop offset="{index / (len(colours) - 1):.3f}" stop-color="rgb{colour}"/>'
        for index, colour in enumerate(colours)
    )


# --- the page -----------------------------------------------------------------------------------------


def page(sections: Sequence[Section], gallery: dict[str, Any]) -> str:
    """The whole page as text."""
    style, script = ((_PAGE_PARTS / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    links = "".join(f'<a href="#{one.anchor}">{escape(one.title)}</a>' for one in sections)
    body = "\n".join(
        f'<section id="{one.anchor}" aria-labelledby="{one.anchor}-title">'
        f'<h2 id="{one.anchor}-title">{escape(one.title)}</h2>\n{one.html}\n</section>'
        for one in sections
    )
    return Template((_PAGE_PARTS / "page.html").read_text(encoding="utf-8")).substitute(
        generator=f'{_MARK} {__version__}">',
        policy=f"script-src {_hash(script)}; style-src {_hash(style)}",
        style=style,
        script=script,
        links=links,
        sections=body,
        summary=escape(_summary(gallery)),
        data=json_for_page(gallery),
        created=f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        version=__version__,
    )


def _summary(gallery: dict[str, Any]) -> str:
    if not gallery["datasets"]:
        return "No runs: sweeps and artifacts alone"
    runs = sum(len(dataset["runs"]) for dataset in gallery["datasets"])
    names = ", ".join(dataset["name"] for dataset in gallery["datasets"])
    images = sum(dataset["images"] for dataset in gallery["datasets"])
    return f"{counted(runs, 'run')} on {names}: {counted(images, 'image')}"


def counted(number: int, what: str) -> str:
    """A number of things, such as "1 run" and "2 runs"."""
    return f"{number:,} {what if number == 1 else what + 's'}"


def json_for_page(content: Any) -> str:
    """JSON that can stand in a script element: ASCII, and nothing in it can end the element."""
    text = json.dumps(content, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"


def check_free(out: Path) -> None:
    """See that a report may be written to a folder.

    Raises:
        LostRegError: a file, or a folder that holds anything else than an earlier report.
    """
    if out.exists() and not out.is_dir():
        raise LostRegError(f"cannot write the report to {str(out)!r}: it is a file; name a folder by --out")
    if out.is_dir() and any(out.iterdir()) and not _is_report(out):
        raise LostRegError(
            f"{str(out)!r} holds other files than a report: empty it, or name another folder by --out"
        )


def _is_report(folder: Path) -> bool:
    try:
        with (folder / PAGE_FILE).open(encoding="utf-8", errors="replace") as file:
            return _MARK in file.read(2000)
    except OSError:
        return False


def _prepare(out: Path) -> None:
    """An empty folder for the report but for a page, which marks it as ours while it is being filled."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not (out / PAGE_FILE).exists():
            unfinished = f'<!doctype html>\n{_MARK} {__version__}">\n<p>This report is not finished.</p>\n'
            _write(out / PAGE_FILE, unfinished)
        for name in (THUMBNAILS_FOLDER, MAPS_FOLDER):
            if (out / name).is_dir():
                shutil.rmtree(out / name)
            (out / name).mkdir()
    except OSError as error:
        raise LostRegError(f"cannot write the report to {str(out)!r}: {error.strerror or error}") from None


def _write(path: Path, text: str) -> None:
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")
