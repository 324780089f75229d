"""Do registers restore object discovery? The published tables, computed again with the public weights.

    python evaluation/reproduce.py --out results/reproduce [--data-root DATA] [--device cuda]
    python evaluation/reproduce.py --out results/try --backbones tiny --datasets samples --data-root data

Darcet et al. 2024, table 3, and Jiang et al. 2025, table 5. Each backbone and dataset gets one sweep folder
under --out, which the same command continues after an interruption. Then, as Markdown on the screen and in
reproduce.md,

- LOST as published, on all images
- the setting chosen on a seeded tenth of the images (last four layers, bias -1 to 0, normalised), on the rest
- the best in hindsight on that rest, too good to be compared

beside the published numbers, and pairs of backbones by McNemar's test and the paired bootstrap. Weights and
datasets that are missing are listed with the command that gets each. evaluation/registers.md has the steps.

    python evaluation/reproduce.py --out results/reproduce --tables all

computes nothing: it lays out every table of the papers, with what is measured in --out, in tables.md.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from harness import argument_parser, markdown_table, run_script
from paper_cells import DATASETS, TEST_TIME
from paper_tables import BACKBONES, tables_text

from lost_reg.artifacts.neuron_search import SearchOptions, find_register_neurons
from lost_reg.artifacts.streams import ImageStream
from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.registers import AddedRegisters, RegisterNeurons, read_neurons, write_neurons
from lost_reg.backbones.timm_models import resolve_spec
from lost_reg.backbones.vit import VitBackbone
from lost_reg.backbones.weights import RANDOM, find_weights
from lost_reg.datasets.catalog import Dataset, data_root, find_dataset
from lost_reg.discovery.methods import Setting, describe_setting
from lost_reg.errors import LostRegError, one_line
from lost_reg.progress import image_progress
from lost_reg.runs.options import LoaderOptions, RunOptions
from lost_reg.runs.sources import source_of_dataset
from lost_reg.runs.sweep import sweep
from lost_reg.runs.sweep_grid import Grid, grid_of_settings, parse_values
from lost_reg.scoring.corloc import wilson_interval
from lost_reg.scoring.paired import Paired, holm
from lost_reg.scoring.published import published_rows
from lost_reg.scoring.sweep_scores import SettingScore, SweepScores, score_sweep

PAIRS = (
    ("dinov2", "dinov2_reg"),
    ("dinov2", f"dinov2{TEST_TIME}"),
    (f"dinov2{TEST_TIME}", "dinov2_reg"),
    ("openclip", f"openclip{TEST_TIME}"),
)
# The constants of Jiang et al. 2025; those of other models are found by their heuristics.
SEARCHES = {
    "dinov2_vitl14": SearchOptions(threshold=150.0, top_layer=17, top_k=45),
    "openclip": SearchOptions(threshold=75.0, top_layer=5, top_k=10),
}
BIASES = "-1:0:0.05"


@dataclass(frozen=True)
class Cell:
    """The scores of a backbone on a dataset."""

    name: str
    dataset: Dataset
    scores: SweepScores


@dataclass(frozen=True)
class Line:
    """One line of a table: `found` of `images`, and the published numbers that may stand beside it."""

    what: str
    setting: SettingScore
    found: int
    images: int
    published: tuple[tuple[float, str], ...]


def main() -> None:
    args = parse()
    missing: list[str] = []
    args.out.mkdir(parents=True, exist_ok=True)
    if args.tables == "all":
        publish(tables_text(args.out, args.data_root, args.seed), args.out / "tables.md")
        return
    try:
        cells = all_cells(args, missing)
    except KeyboardInterrupt:
        sys.exit(f"Interrupted: what was done is in {args.out}; the same command continues it")
    publish(report(cells, missing, args), args.out / "reproduce.md")


def publish(text: str, path: Path) -> None:
    """Write a text, and print it."""
    path.write_text(text, encoding="utf-8")
    print(text, end="")


def parse() -> argparse.Namespace:
    parser = argument_parser(__doc__, device=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the sweeps and of reproduce.md")
    parser.add_argument(
        "--tables", choices=("discovery", "all"), default="discovery",
        help="all: compute nothing, lay out every table with what is measured in --out",
    )  # fmt: skip
    parser.add_argument(
        "--backbones", "-b", nargs="+", action="extend", default=[],
        help=f"NAME or NAME{TEST_TIME}, or NAME=FILE with its weights; by default all",
    )  # fmt: skip
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS))
    parser.add_argument("--data-root", type=Path)
    parser.add_argument(
        "--weights", action="append", default=[], help="random, or NAME=FILE; may be given more than once"
    )
    parser.add_argument("--limit", type=int, help="only the first images of each dataset, for a quick try")
    parser.add_argument("--neuron-images", type=int, default=500, help="images that neurons are found on")
    parser.add_argument("--seed", type=int, default=0, help="of all random draws of images")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--workers", type=int)
    args = parser.parse_args()
    if args.tables == "all" and (args.backbones or args.weights or args.limit):
        parser.error("--tables all computes nothing: leave out --backbones, --weights and --limit")
    args.weights += [given for given in args.backbones if "=" in given]
    args.backbones = [given.partition("=")[0] for given in args.backbones] or list(BACKBONES)
    for given in args.weights:
        if given != RANDOM and "=" not in given:
            parser.error(f"expected --weights random or --weights NAME=FILE, but got {given!r}")
    for name in ("limit", "neuron_images"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"expected --{name.replace('_', '-')} of at least 1")
    return args


# --- the work ----------------------------------------------------------------------------------------


def all_cells(args: argparse.Namespace, missing: list[str]) -> list[Cell]:
    """Every cell that the weights and the data at hand allow; a line is added to `missing` for the others."""
    datasets = found_datasets(args, missing)
    cells = []
    for name in args.backbones:
        try:
            spec = resolve_spec(name.removesuffix(TEST_TIME))
            find_weights(spec, weights_of(name, args))
        except LostRegError as error:
            missing.append(f"backbone {name}: {error}")
            continue
        for dataset in datasets:
            try:
                cells.append(Cell(name, dataset, cell_scores(name, dataset, args)))
            except LostRegError as error:
                missing.append(f"{name} on {dataset.title}: {error}")
    return cells


def found_datasets(args: argparse.Namespace, missing: list[str]) -> list[Dataset]:
    """The datasets that are here as a whole."""
    found = []
    for name in args.datasets:
        try:
            dataset = find_dataset(name, data_root(args.data_root))
            source_of_dataset(dataset)  # refuses one with missing images
            found.append(dataset)
        except LostRegError as error:
            missing.append(f"dataset {name}: {error}")
    return found


def weights_of(name: str, args: argparse.Namespace) -> str | None:
    """What --weights gives for a backbone."""
    files = dict(given.split("=", 1) for given in args.weights if given != RANDOM)
    bare = name.removesuffix(TEST_TIME)
    return files.get(name, files.get(bare, RANDOM if RANDOM in args.weights else None))


def cell_scores(name: str, dataset: Dataset, args: argparse.Namespace) -> SweepScores:
    """Run, or finish, the sweep of a backbone on a dataset, and score it."""
    folder = args.out / file_name(f"{name}-{dataset.title}")
    backbone = loaded(name, args)
    if name.endswith(TEST_TIME):
        neurons = neurons_of(backbone, dataset, args)
        backbone = loaded(name, args, AddedRegisters(neurons))
    loader = LoaderOptions(workers=args.workers)
    options = RunOptions(loader, args.limit, resume=True, data_root=data_root(args.data_root))
    with image_progress(f"{name} on {dataset.title}") as progress:
        sweep(
            source_of_dataset(dataset), backbone, folder, settings_for(backbone), options,
            progress=progress, note=lambda text: print(f"Note: {one_line(text)}", file=sys.stderr),
        )  # fmt: skip
    return score_sweep(
        folder, root=args.data_root, partial=args.limit is not None, tune_fraction=0.1, seed=args.seed
    )


def file_name(text: str) -> str:
    return text.replace(":", "-").replace("/", "-")


def loaded(name: str, args: argparse.Namespace, registers: AddedRegisters | None = None) -> VitBackbone:
    return load_backbone(
        name.removesuffix(TEST_TIME), weights=weights_of(name, args), device=str(args.device),
        precision=args.precision, registers=registers,
    )  # fmt: skip


def settings_for(backbone: VitBackbone) -> list[Setting]:
    """LOST as published, and the settings that the papers describe: values for OpenCLIP and DeiT-III."""
    features = {"facet": [backbone.spec.facet], "layer": [-4, -3, -2, -1], "normalize": [True]}
    return [Setting(), *grid_of_settings(Grid(features=features, options={"bias": parse_values(BIASES)}))]


def neurons_of(backbone: VitBackbone, dataset: Dataset, args: argparse.Namespace) -> RegisterNeurons:
    """Register neurons, found on a seeded draw of the dataset's images, or those of an earlier session."""
    path = args.out / file_name(f"neurons-{backbone.name}-{dataset.title}.json")
    if path.exists():
        neurons = read_neurons(path)
        if not neurons.are_of(backbone.weights.name, backbone.weights.sha256):
            raise LostRegError(f"{path} holds neurons of other weights than {backbone.weights.name}")
        return neurons
    drawn = np.random.default_rng(args.seed).permutation(len(dataset.images))[: args.neuron_images]
    names = [dataset.images[index] for index in sorted(drawn)]
    loader = LoaderOptions(workers=args.workers, apply_exif=False)
    stream = ImageStream([dataset.root / name for name in names], names, loader=loader)
    is_random = backbone.weights.source == RANDOM
    options = SearchOptions() if is_random else SEARCHES.get(backbone.name, SearchOptions())
    with image_progress(f"register neurons of {backbone.name}") as progress:
        neurons = find_register_neurons(stream, backbone, options, progress=progress)
    write_neurons(path, neurons)
    return neurons


# --- the tables --------------------------------------------------------------------------------------


def lines_of(cell: Cell) -> list[Line]:
    """The three lines of a cell."""
    scores, rest = cell.scores, cell.scores.images_scored
    plain, swept = published_of(cell)
    as_published = scores.as_published["lost"]
    everything = as_published.tuned + as_published.found, scores.images_tuned + rest
    chosen, hindsight = chosen_of(scores), hindsight_of(scores)
    return [
        Line("LOST as published, all images", as_published, *everything, plain),
        Line(f"chosen on a tenth, on the rest{_ties(scores, 'tuned')}", chosen, chosen.found, rest, swept),
        Line(
            f"BEST IN HINDSIGHT on that rest{_ties(scores, 'found')}", hindsight, hindsight.found, rest, swept
        ),
    ]


def _ties(scores: SweepScores, count: str) -> str:
    """How many settings have the highest count: the first of them in the grid is shown."""
    counts = [getattr(one, count) for one in scores.settings[1:]]
    tied = counts.count(max(counts))
    return f" (the first of {tied} that tie)" if tied > 1 else ""


def chosen_of(scores: SweepScores) -> SettingScore:
    """The best of the papers' settings on the images for choosing; LOST as published is not one of them."""
    return max(scores.settings[1:], key=lambda one: one.tuned)


def hindsight_of(scores: SweepScores) -> SettingScore:
    return max(scores.settings[1:], key=lambda one: one.found)


def published_of(cell: Cell) -> tuple[tuple[tuple[float, str], ...], tuple[tuple[float, str], ...]]:
    """Published numbers: of LOST as published, and of settings that were not published in full."""
    plain, swept = [], []
    for row in published_rows():
        number = row["corloc"].get(cell.dataset.name)
        if row["backbone"] in BACKBONES.get(cell.name, ()) and row["method"] == "lost" and number is not None:
            note = f"; {row['note']}" if "note" in row else ""
            is_plain = bool(row["options"]) and row["options"]["bias"] == 0
            (plain if is_plain else swept).append((number, row["source"] + note))
    return tuple(plain), tuple(swept)


def rows_of(cell: Cell, is_random: bool) -> list[list[str]]:
    rows = []
    for line in lines_of(cell):
        low, high = (100 * end for end in wilson_interval(line.found, line.images))
        corloc = 100 * line.found / line.images
        name = f"{cell.name} (RANDOM WEIGHTS)" if is_random else cell.name
        setting = describe_setting(line.setting.setting)
        ours = [name, line.what, setting, f"{line.images:,}", f"{corloc:.1f}", f"{low:.1f} to {high:.1f}"]
        comparable = cell.dataset.is_full and not cell.scores.not_done and not is_random
        for number, source in line.published or ((None, ""),):
            difference = (
                f"{corloc - number:+.1f} ({low - number:+.1f} to {high - number:+.1f})"
                if number is not None and comparable
                else "-"
            )
            rows.append([*ours, "-" if number is None else f"{number:.1f}", difference, source])
    return rows


def paired_rows(cells: list[Cell], kind: str) -> list[list[str]]:
    """Pairs of backbones on one dataset: kind is "as published" or "chosen"."""
    by_name = {cell.name: cell.scores for cell in cells}
    pairs = [(a, b) for a, b in PAIRS if a in by_name and b in by_name]
    counts = [paired(by_name[a], by_name[b], kind) for a, b in pairs]
    return [
        [
            a, b, f"{one.images:,}", f"{one.corloc_a:.1f}", f"{one.corloc_b:.1f}", f"{one.difference:+.1f}",
            "{:+.1f} to {:+.1f}".format(*one.interval), f"{one.p:.4f}", f"{adjusted:.4f}",
        ]
        for (a, b), one, adjusted in zip(pairs, counts, holm([one.p for one in counts]))
    ]  # fmt: skip


def paired(a: SweepScores, b: SweepScores, kind: str) -> Paired:
    """Two backbones on the same images: all of them, or those that did not choose.

    Raises:
        LostRegError: sweeps of different images.
    """
    if a.by_image.images != b.by_image.images:
        raise LostRegError(f"not the same images are done in {a.folder} and in {b.folder}")
    found_a, found_b = (found_of(scores, kind) for scores in (a, b))
    both, only_a, only_b = found_a & found_b, found_a & ~found_b, found_b & ~found_a
    neither = ~(found_a | found_b)
    return Paired(*(int(which.sum()) for which in (both, only_a, only_b, neither)))


def found_of(scores: SweepScores, kind: str) -> np.ndarray:
    """(images,) bool: all images for LOST as published, those that did not choose for the chosen setting."""
    if kind == "as published":
        return scores.by_image.found[0]
    return scores.by_image.found[scores.settings.index(chosen_of(scores))][~scores.by_image.tuning]


def report(cells: list[Cell], missing: list[str], args: argparse.Namespace) -> str:
    """All of it, as Markdown."""
    header = ["backbone", "what", "setting", "images", "CorLoc", "95 %", "published", "difference", "source"]
    parts = ["# Registers and object discovery, reproduced"]
    if RANDOM in args.weights:
        parts.append("**RANDOM WEIGHTS: these numbers mean nothing. They show that the script runs.**")
    if args.limit:
        parts.append(f"Only the first {args.limit:,} images of each dataset: no published number compares.")
    parts.append(
        "The difference is ours less the published number, with the 95 % interval of ours (Wilson). "
        f"The settings to choose from: last four layers, normalised, bias {BIASES}. The tenth that they are "
        f"chosen on was drawn with seed {args.seed}. The best in hindsight is chosen on the images that it "
        "is scored on: too high to be compared, but the papers do not say how they chose."
    )
    for dataset in {cell.dataset.name: cell.dataset for cell in cells}.values():
        of_it = [cell for cell in cells if cell.dataset is dataset]
        rows = [row for cell in of_it for row in rows_of(cell, weights_of(cell.name, args) == RANDOM)]
        parts += [f"## {dataset.title} {dataset.split}", markdown_table(header, rows)]
        parts += pairs_text(of_it)
    if missing:
        parts += ["## Missing", "\n".join(f"- {one_line(line)}" for line in missing)]
    return "\n\n".join(parts) + "\n"


def pairs_text(cells: list[Cell]) -> list[str]:
    header = ["A", "B", "images", "A", "B", "B - A", "95 %", "p (McNemar)", "p (Holm)"]
    parts = []
    for kind in ("as published", "chosen"):
        if rows := paired_rows(cells, kind):
            parts += [f"Pairs on the same images, {kind}:", markdown_table(header, rows)]
    return parts


if __name__ == "__main__":
    run_script(main)
