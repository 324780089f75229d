"""The command line. Thin: it parses, calls the library, and turns its errors into one line.

torch is imported only by the commands that need it, inside them.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import click

from lost_reg import __version__
from lost_reg.cli.common import (
    added_registers,
    data_root_option,
    default_name,
    load,
    model_options,
    neurons_of_other_weights,
    register_options,
    say,
    stream_options,
    tell,
)
from lost_reg.cli.export import export
from lost_reg.cli.registers import artifacts, register_neurons
from lost_reg.cli.stopping import STOPPED_CODES, prompt_stop
from lost_reg.errors import LostRegError
from lost_reg.runs.presets import PRESETS
from lost_reg.runs.ranks import ALONE


class _Commands(click.Group):
    """A group whose library errors become one line on standard error and an exit code."""

    def __call__(self, *args, **options):
        """As a program: once it is stopped it is gone, without the second that torch takes to be put away."""
        try:
            return super().__call__(*args, **options)
        except SystemExit as ended:
            if ended.code in STOPPED_CODES:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(ended.code)
            raise

    def invoke(self, context: click.Context):
        with prompt_stop(lambda text: say("Interrupted", text)) as context.obj:
            return self._invoke(context)

    def _invoke(self, context: click.Context):
        try:
            return super().invoke(context)
        except LostRegError as error:
            say("Error", str(error))
            context.exit(error.exit_code)
        except click.UsageError as error:
            command = (error.ctx or context).command_path
            say("Error", f"{error.format_message()} (see `{command} --help`)")
            context.exit(error.exit_code)
        except KeyboardInterrupt as stopped:
            say("Interrupted", context.obj.message())
            context.exit(getattr(stopped, "exit_code", STOPPED_CODES[0]))
        except BrokenPipeError:  # `lost-reg corloc ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            context.exit(0)
        except OSError as error:  # a path that is too long, a disk that is full
            where = f": {error.filename!r}" if error.filename else ""
            say("Error", f"{error.strerror or error}{where}")
            context.exit(1)


class _OrAuto(click.ParamType):
    """What another type takes, or "auto"."""

    def __init__(self, other: click.ParamType):
        self.other = other
        self.name = f"{other.name} or auto"

    def convert(self, value, param, context):
        return value if value == "auto" else self.other.convert(value, param, context)


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="lost-reg")
def main() -> None:
    """Object discovery in images without labels: LOST on DINO, DINOv2 and DINOv2 with registers.

    \b
    lost-reg run photos/ --backbone dino --out results/      boxes for a folder of images
    lost-reg run --backbone dinov2_reg --dataset voc07       a dataset, to be scored
    lost-reg corloc results/                                 CorLoc of all runs below a folder
    lost-reg compare results/a results/b                     do two runs differ, and on which images?
    lost-reg sweep --backbone dinov2_reg --dataset voc07     which layer and bias? chosen without cheating
    lost-reg report results/                                 a page with charts and a gallery of the images
    lost-reg export results/a --to coco --out a.json         the boxes for other programs
    """


@main.command()
@click.argument("inputs", nargs=-1, metavar="FILES_FOLDERS_GLOBS_SHARDS...")
@click.option(
    "--backbone",
    "-b",
    default="tiny",
    show_default=True,
    help="A name of `lost-reg backbones`, or timm:NAME.",
)
@click.option(
    "--dataset", "-d", help="A name of `lost-reg datasets`, a folder in VOC layout, or a COCO .json."
)
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path),
    help="The run folder.  [default: results/DATASET-BACKBONE]",
)
@click.option(
    "--files-from", metavar="LIST",
    help="A file that names the images, one path in a line (or ended by NUL); - is the standard input.",
)  # fmt: skip
@click.option("--weights", help="A weight file (.pth, .safetensors), or `random` for benchmarks.")
@click.option("--download", is_flag=True, help="Get data and weights that are not on this machine.")
@data_root_option
@click.option(
    "--protocol", type=click.Choice(PRESETS), default="lost", show_default=True,
    help="LOST as published; or ours for DINOv2: normalised, --bias auto. The options below change parts.",
)  # fmt: skip
@click.option("--facet", type=click.Choice(["k", "q", "v"]), help="Keys, queries or values.  [default: k]")
@click.option(
    "--layer", type=int, help="Block of the features; negative counts from the last.  [default: -1]"
)
@click.option(
    "--center/--no-center", default=None, help="Subtract the image's mean patch feature, first of all."
)
@click.option("--normalize/--raw", default=None, help="L2-normalise the features.  [default: raw]")
@click.option(
    "--bias", type=_OrAuto(click.FLOAT), metavar="X|auto",
    help="Added to the affinities, in units of the mean squared feature norm; auto: found in each image, "
    "without labels.  [default: 0]",
)  # fmt: skip
@click.option("--k-patches", type=click.IntRange(min=1), help="LOST's k.  [default: 100]")
@click.option(
    "--max-side", type=click.IntRange(min=1), metavar="PIXELS",
    help="Scale larger images down; boxes stay in pixels of the original.  [default: native resolution]",
)  # fmt: skip
@click.option(
    "--max-objects", type=click.IntRange(min=1), metavar="N",
    help="Up to N objects an image, found one after another; corloc scores the first alone.  [default: 1]",
)  # fmt: skip
@register_options
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True)
@click.option(
    "--batch-size", type=_OrAuto(click.IntRange(min=1)), metavar="N|auto",
    help="Images of one size run together; auto: as many as the device has room for.  [default: 8]",
)  # fmt: skip
@click.option("--workers", type=click.IntRange(min=0), help="Decoding processes.  [default: by the machine]")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many images.")
@click.option("--resume", is_flag=True, help="Continue the run in the run folder.")
@click.option("--visualize", is_flag=True, help="Also write each image done now with its box and its seed.")
@click.option(
    "--save-maps", is_flag=True, help="Also write each image's maps done now, for `lost-reg report`."
)
@click.option("--strict", is_flag=True, help="Exit with an error if any image could not be used.")
def run(
    inputs, files_from, dataset, backbone, out, download, strict,
    test_time_registers, register_neurons, register_rule, **options,
) -> None:  # fmt: skip
    """Discover objects in the images of a dataset, or of files, folders and tar shards of yours.

    The run folder gets predictions.jsonl, errors.jsonl and run.json. Boxes are [xmin, ymin, xmax, ymax],
    half-open, in pixels of the original image. Started by torchrun, the processes share the images.
    """
    from lost_reg.backbones.zoo import find_spec
    from lost_reg.datasets.catalog import data_root

    if sum(map(bool, (inputs, files_from, dataset))) != 1:
        raise click.UsageError(
            "name either images (files, folders, patterns, shards), or a list (--files-from), or a --dataset"
        )
    registers = added_registers(test_time_registers, register_neurons, register_rule)
    if registers:
        spec = find_spec(backbone)
        registers.check_backbone(spec.name, spec.registers)
    root = data_root(options.pop("data_root"))
    out = out or Path("results", default_name(dataset or files_from or inputs[0], backbone))
    _run(inputs, files_from, dataset, backbone, out, root, download, strict, registers, **options)


def _run(
    inputs, files_from, dataset, backbone, out, root, download, strict, registers,
    *, protocol, weights, device, precision, **options,
) -> None:  # fmt: skip
    from lost_reg.backbones.weights import RANDOM, weight_file
    from lost_reg.backbones.zoo import find_spec
    from lost_reg.runs.folder import check_free
    from lost_reg.runs.presets import preset_protocol
    from lost_reg.runs.ranks import joined, ranks_of_environment
    from lost_reg.types import Protocol

    # What can be wrong is looked at before torch is imported and weights are read.
    ranks = ranks_of_environment()
    protocol = preset_protocol(protocol, find_spec(backbone))
    parts = {name: options.pop(name) for name in Protocol.__dataclass_fields__}
    protocol = replace(protocol, **{name: value for name, value in parts.items() if value is not None})
    if weights not in (None, RANDOM):
        weight_file(weights)
    if ranks.first:  # the others may come when it has begun
        check_free(out, resume=options["resume"])
    source = _source(inputs, files_from, dataset, root, out, download, ranks)

    from lost_reg.backbones.vit import load_backbone
    from lost_reg.runs.run import check_drawable
    from lost_reg.runs.run import run as run_source

    if options["visualize"]:
        check_drawable(source)  # before weights are read
    given = {name: value for name, value in options.items() if value is not None}
    with joined(ranks):
        loaded = load_backbone(
            backbone, weights=weights, device=ranks.device(device), precision=precision,
            download=download, registers=registers,
        )  # fmt: skip
        note = (lambda text: say("Note", text)) if ranks.first else (lambda text: None)
        if weights == "random":
            note(f"{loaded.name} runs with random weights: its boxes mean nothing")
        if other := neurons_of_other_weights(loaded):
            note(other)
        with _progress_of_run(loaded.name, out, ranks) as progress:
            summary = run_source(
                source,
                loaded,
                out,
                protocol,
                data_root=root if dataset else None,
                ranks=ranks,
                progress=progress,
                note=note,
                **given,
            )
    if ranks.first:
        _tell_of_run(summary, strict, asked_for_files=options["visualize"] or options["save_maps"])


def _tell_of_run(summary, strict: bool, asked_for_files: bool) -> None:
    """What a run did, and what it could not."""
    from lost_reg.runs.run import failed_summary, implausible_summary

    if summary.done_before and asked_for_files:
        done_before = f"the {summary.done_before:,} images done before"
        say("Note", f"of {done_before} there are pictures and maps only if they were asked for then")
    before = f", {summary.done_before:,} were done before" if summary.done_before else ""
    rate = summary.done / summary.seconds if summary.seconds else 0
    speed = f"{summary.seconds:.1f} s ({rate:.1f}/s)"
    tell(f"{summary.done:,} images in {speed}{before}; results in {summary.folder}")
    if summary.implausible:
        tell(implausible_summary(summary))
    if summary.failed:
        text = failed_summary(summary)
        if strict or not summary.done + summary.done_before:
            raise LostRegError(text)
        say("Warning", text)


def _source(inputs, files_from, dataset, root: Path, out: Path, download: bool, ranks):
    """The images that the options name."""
    from lost_reg.datasets.acquire import DOWNLOADABLE
    from lost_reg.datasets.catalog import find_dataset
    from lost_reg.images.inputs import STANDARD_INPUT, ListedFiles, find_shards, list_images
    from lost_reg.runs.folder import PICTURES_FOLDER

    if dataset:
        if download and dataset in DOWNLOADABLE:
            _download_dataset(dataset, root)
        found = find_dataset(dataset, root)
    elif files_from:
        if files_from == STANDARD_INPUT and ranks.count > 1:
            raise LostRegError("only one process can read the standard input: --files-from takes a file, too")
        images = ListedFiles.read(files_from)
    else:
        images = find_shards(inputs) or list_images(inputs, exclude=out / PICTURES_FOLDER)

    from lost_reg.runs.run import source_of_dataset, source_of_files

    return source_of_dataset(found) if dataset else source_of_files(images, inputs or [files_from])


@contextmanager
def _progress_of_run(what: str, out: Path, ranks=ALONE):
    """Progress to be shown by the first rank, and to be told if the run is stopped."""
    from lost_reg.progress import image_progress

    done_now = 0
    stopping = click.get_current_context().find_root().obj
    stopping.message = lambda: f"{done_now:,} images were done; what was done is in {out}; --resume goes on"

    def counted(done: int, failed: int, total: int | None) -> None:
        nonlocal done_now
        done_now = done
        show(done, failed, total)

    with image_progress(what) if ranks.first else nullcontext(lambda *_: None) as show:
        yield counted


@main.command()
@click.option("--backbone", "-b", default="tiny", show_default=True, help="As for `run`.")
@click.option("--dataset", "-d", required=True, help="As for `run`; it needs ground truth.")
@click.option(
    "--out", "-o", type=click.Path(path_type=Path),
    help="The sweep folder.  [default: results/DATASET-BACKBONE-sweep]",
)  # fmt: skip
@click.option("--facets", default="k", show_default=True, help="Some of k,q,v.")
@click.option("--layers", default="-1", show_default=True, help="Such as -4:-1 (both ends) or -4,-1.")
@click.option(
    "--bias", "biases", default="-1:0:0.05", show_default=True,
    help="START:STOP:STEP (both ends), numbers and auto, separated by commas.",
)  # fmt: skip
@click.option(
    "--normalize", type=click.Choice(["yes", "no", "both"]), default="both", show_default=True,
    help="L2-normalised features, raw ones, or each.",
)  # fmt: skip
@click.option(
    "--center", type=click.Choice(["yes", "no", "both"]), default="no", show_default=True,
    help="Without the image's mean patch feature, with it, or each.",
)  # fmt: skip
@click.option("--k-patches", type=click.IntRange(min=1), default=100, show_default=True, help="LOST's k.")
@model_options
@stream_options
@data_root_option
@click.option(
    "--tune-fraction", type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.1, show_default=True,
    help="Share of the images that a setting is chosen on; it is reported on the others.",
)  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the draw of those."
)
@click.option(
    "--resume", is_flag=True, help="Continue the sweep in its folder; if all is done, score it again."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, every setting included.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, a line for each setting.")
def sweep(backbone, dataset, out, tune_fraction, seed, resume, as_json, as_csv, data_root, **options) -> None:
    """Try many settings on a dataset with one forward pass an image, and choose one without cheating.

    The choice is made on some of the images and reported on the others, beside the best in hindsight. Every
    setting's CorLoc goes into corloc.json in the folder.
    """
    from lost_reg.backbones.zoo import find_spec
    from lost_reg.datasets.catalog import data_root as find_root
    from lost_reg.datasets.catalog import find_dataset
    from lost_reg.runs.folder import check_free
    from lost_reg.runs.sweep_folder import SWEEP_FILE
    from lost_reg.scoring import sweep_scores

    to_text = _text_function(sweep_scores, as_json, as_csv)
    protocols = _grid(options)
    find_spec(backbone)
    out = out or Path("results", f"{default_name(dataset, backbone)}-sweep")
    check_free(out, resume=resume, record_file=SWEEP_FILE)
    root = find_root(data_root)
    found = find_dataset(dataset, root)
    given = {name: options.pop(name) for name in ("batch_size", "workers", "limit")}
    given = {name: value for name, value in given.items() if value is not None}

    # too few to choose on is said before the work is done
    sweep_scores.tuning_images(len(found.images[: given.get("limit")]), tune_fraction, seed)

    from lost_reg.runs.run import failed_summary, source_of_dataset
    from lost_reg.runs.sweep import sweep as sweep_source

    loaded = load(backbone, options)
    with _progress_of_run(loaded.name, out) as progress:
        summary = sweep_source(
            source_of_dataset(found), loaded, out, protocols,
            resume=resume, data_root=root, progress=progress,
            note=lambda text: say("Note", text), **given,
        )  # fmt: skip
    if summary.failed:
        say("Warning", failed_summary(summary))
    scores = sweep_scores.score_sweep(
        out, root=root, tune_fraction=tune_fraction, seed=seed, partial="limit" in given
    )
    sweep_scores.write_scores(scores)
    click.echo(to_text(scores))


def _text_function(module, as_json: bool, as_csv: bool):
    """What of a module turns its result into JSON, CSV or a table for people."""
    _not_both(as_json, as_csv)
    return module.json_text if as_json else module.csv_text if as_csv else module.text_table


def _not_both(as_json: bool, as_csv: bool) -> None:
    if as_json and as_csv:
        raise click.UsageError("choose one of --json and --csv")


def _grid(options: dict):
    """The settings of a sweep, from its options, which are taken out."""
    from lost_reg.runs.sweep_grid import grid_of_protocols, parse_biases, parse_facets, parse_layers

    each = {"yes": [True], "no": [False], "both": [False, True]}
    return grid_of_protocols(
        facets=parse_facets(options.pop("facets")),
        layers=parse_layers(options.pop("layers")),
        biases=parse_biases(options.pop("biases")),
        normalize=each[options.pop("normalize")],
        center=each[options.pop("center")],
        k_patches=options.pop("k_patches"),
        max_side=options.pop("max_side"),
    )


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--dataset", "-d", help="The ground truth, for files and for runs on files of your own.")
@data_root_option
@click.option("--partial", is_flag=True, help="Score incomplete runs on the images that are done.")
@click.option("--no-hard", is_flag=True, help="Drop difficult and truncated objects (LOST's no_hard).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
def corloc(path, dataset, data_root, partial, no_hard, as_json, as_csv) -> None:
    """CorLoc of the runs below a folder, of a LOST pickle, or of COCO-style detections (.json).

    Beside each stand the trivial baselines on the same images, and a published number if there is one of
    the same weights, protocol and split.
    """
    from lost_reg.scoring import score_runs as scoring

    to_text = _text_function(scoring, as_json, as_csv)
    options = scoring.ScoringOptions(dataset, data_root, partial, count_hard=not no_hard)
    rows, errors = scoring.score_path(path, options)
    if rows:
        click.echo(to_text(rows))
    for error in errors:
        say("Error", str(error))
    if errors:
        sys.exit(1)


@main.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--dataset", "-d", help="The ground truth, if neither run names it.")
@data_root_option
@click.option("--partial", is_flag=True, help="Compare incomplete runs on the images that both did.")
@click.option("--no-hard", is_flag=True, help="Drop difficult and truncated objects (LOST's no_hard).")
@click.option("--images", "all_images", is_flag=True, help="List every image that only one of them found.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, all such images included.")
@click.option("--csv", "as_csv", is_flag=True, help="Print the table as CSV; with --images, those images.")
def compare(a, b, dataset, data_root, partial, no_hard, all_images, as_json, as_csv) -> None:
    """Compare two runs on the same images: which finds more, and could it be chance?

    A and B are run folders, LOST pickles or COCO-style detections (.json). Differences are B less A, in
    points of CorLoc, with a 95 % paired bootstrap interval and the p value of McNemar's exact test: over all
    images, by the share of the image that its largest object covers, and per class. What differs in the
    settings stands on top.

    A class counts the images that hold it, found if the box has IoU >= 0.5 with an object of that class.
    Where there are several rows, go by p (Holm), which allows for their number.
    """
    from lost_reg.scoring import comparison_text
    from lost_reg.scoring.compare import compare as compare_runs
    from lost_reg.scoring.score_runs import ScoringOptions

    _not_both(as_json, as_csv)
    options = ScoringOptions(dataset, data_root, partial, count_hard=not no_hard)
    comparison = compare_runs(a, b, options)
    if as_json:
        shown = comparison_text.json_text(comparison)
    elif as_csv and all_images:
        shown = comparison_text.images_csv_text(comparison)
    elif as_csv:
        shown = comparison_text.csv_text(comparison)
    else:
        shown = comparison_text.text(comparison, all_images=all_images)
    click.echo(shown)


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), default="report", show_default=True,
    help="The folder of the report; an earlier report in it is replaced.",
)  # fmt: skip
@click.option("--dataset", "-d", help="The ground truth of runs on files of your own.")
@data_root_option
@click.option("--partial", is_flag=True, help="Take incomplete runs, too, on the images that are done.")
@click.option("--no-hard", is_flag=True, help="Drop difficult and truncated objects (LOST's no_hard).")
@click.option(
    "--max-images", type=click.IntRange(min=1), help="At most so many of each dataset, evenly spaced, in the "
    "gallery.  [default: 2000]",
)  # fmt: skip
def report(path, out, dataset, data_root, partial, no_hard, max_images) -> None:
    """A page of the runs below a folder: CorLoc table, charts, and a gallery of the images.

    It opens from disk, in any browser. Runs with --save-maps also show how LOST came to its boxes. Sweeps and
    artifacts below the folder are shown, too.
    """
    from lost_reg.progress import image_progress
    from lost_reg.report.report import counted, write_report
    from lost_reg.scoring.score_runs import ScoringOptions

    options = ScoringOptions(dataset, data_root, partial, count_hard=not no_hard)
    given = {"max_images": max_images} if max_images else {}
    with image_progress("report") as progress:
        summary, errors = write_report(path, out, options, progress=progress, **given)
    parts = {"sweep": summary.sweeps, "artifact measurement": summary.artifacts}
    shown = [counted(count, name) for name, count in parts.items() if count]
    if summary.runs:
        images = f"{summary.shown:,} of " if summary.shown < summary.images else ""
        images += counted(summary.images, "image")
        shown = [counted(summary.runs, "run"), images, f"{summary.with_maps:,} with maps", *shown]
    tell(f"{', '.join(shown)}: open {summary.page}")
    if summary.without_picture:
        say("Warning", f"{summary.without_picture:,} images could not be read again: they have no picture")
    for error in errors:
        say("Error", str(error))
    if errors:
        sys.exit(1)


@main.command()
@click.option("--download", metavar="NAME", help="Get the weights of a backbone into the Hugging Face cache.")
def backbones(download) -> None:
    """List the backbones: what each is, and whether its weights are on this machine."""
    from lost_reg.cli import inventory

    if download:
        click.echo(inventory.download_weights(download))
    else:
        click.echo(inventory.backbones_table())


@main.command()
@click.option("--download", metavar="NAME", help="Get a dataset into the data root.")
@data_root_option
def datasets(download, data_root) -> None:
    """List the datasets: what each is, and whether it is on this machine."""
    from lost_reg.cli import inventory
    from lost_reg.datasets.catalog import data_root as find_root

    root = find_root(data_root)
    if download:
        _download_dataset(download, root)
        tell(f"{download} is in {root}")
    else:
        click.echo(inventory.datasets_table(root))


def _download_dataset(name: str, root: Path) -> None:
    from lost_reg.datasets.acquire import download_dataset
    from lost_reg.progress import download_progress

    with download_progress() as report:
        download_dataset(name, root, report)


for command in (register_neurons, artifacts, export):
    main.add_command(command)
