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
from lost_reg.errors import LostRegError, one_line
from lost_reg.protocols import PRESETS
from lost_reg.ranks import ALONE
from lost_reg.stopping import STOPPED_CODES, prompt_stop


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
        with prompt_stop(lambda text: _say("Interrupted", text)) as context.obj:
            return self._invoke(context)

    def _invoke(self, context: click.Context):
        try:
            return super().invoke(context)
        except LostRegError as error:
            _say("Error", str(error))
            context.exit(error.exit_code)
        except click.UsageError as error:
            command = (error.ctx or context).command_path
            _say("Error", f"{error.format_message()} (see `{command} --help`)")
            context.exit(error.exit_code)
        except KeyboardInterrupt as stopped:
            _say("Interrupted", context.obj.message())
            context.exit(getattr(stopped, "exit_code", STOPPED_CODES[0]))
        except BrokenPipeError:  # `lost-reg corloc ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            context.exit(0)
        except OSError as error:  # a path that is too long, a disk that is full
            where = f": {error.filename!r}" if error.filename else ""
            _say("Error", f"{error.strerror or error}{where}")
            context.exit(1)


class _OrAuto(click.ParamType):
    """What another type takes, or "auto"."""

    def __init__(self, other: click.ParamType):
        self.other = other
        self.name = f"{other.name} or auto"

    def convert(self, value, param, context):
        return value if value == "auto" else self.other.convert(value, param, context)


def _tell(text: str) -> None:
    click.echo(one_line(text))


def _say(kind: str, text: str) -> None:
    click.echo(f"{kind}: {one_line(text)}", err=True)


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
    """


_data_root = click.option(
    "--data-root",
    type=click.Path(path_type=Path),
    help="Folder of the datasets.  [default: $LOST_REG_DATA, then ./data]",
)


_MODEL_OPTIONS = ("weights", "download", "device", "precision")


def _model_options(command):
    """The options of commands that load a model and no more."""
    for option in (
        click.option(
            "--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True
        ),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ..."),
        click.option("--download", is_flag=True, help="Get weights that are not on this machine."),
        click.option("--weights", help="A weight file (.pth, .safetensors), or `random`."),
    ):  # fmt: skip
        command = option(command)
    return command


def _stream_options(command):
    """The options of commands that go through images and find no boxes."""
    for option in (
        click.option("--limit", type=click.IntRange(min=1), help="Only the first so many images."),
        click.option(
            "--workers", type=click.IntRange(min=0), help="Decoding processes.  [default: by the machine]"
        ),
        click.option(
            "--batch-size", type=click.IntRange(min=1), help="Images of one size run together.  [default: 8]"
        ),
        click.option(
            "--max-side", type=click.IntRange(min=1), metavar="PIXELS",
            help="Scale larger images down.  [default: native resolution]",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


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
@_data_root
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
@click.option(
    "--test-time-registers", type=click.IntRange(min=1), metavar="N",
    help="Add N registers to a model that was trained without; needs --register-neurons.",
)  # fmt: skip
@click.option(
    "--register-neurons", type=click.Path(path_type=Path), metavar="FILE.json",
    help="The neurons whose activations they take, as `lost-reg register-neurons` writes them.",
)  # fmt: skip
@click.option(
    "--register-rule", type=click.Choice(["paper", "code"]),
    help="How they take them: as the paper says, or as its published code does.  [default: paper]",
)  # fmt: skip
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
    from lost_reg.datasets import data_root

    if sum(map(bool, (inputs, files_from, dataset))) != 1:
        raise click.UsageError(
            "name either images (files, folders, patterns, shards), or a list (--files-from), or a --dataset"
        )
    registers = _added_registers(backbone, test_time_registers, register_neurons, register_rule)
    root = data_root(options.pop("data_root"))
    out = out or Path("results", _default_name(dataset or files_from or inputs[0], backbone))
    _run(inputs, files_from, dataset, backbone, out, root, download, strict, registers, **options)


def _added_registers(backbone: str, count: int | None, neurons_file: Path | None, rule: str | None):
    """The test-time registers that the options ask for, or None."""
    from lost_reg.registers import DEFAULT_RULE, AddedRegisters, read_neurons
    from lost_reg.zoo import find_spec

    if count is None and neurons_file is None and rule is None:
        return None
    if count is None or neurons_file is None:
        raise click.UsageError("test-time registers need both --test-time-registers and --register-neurons")
    registers = AddedRegisters(read_neurons(neurons_file), count, rule or DEFAULT_RULE)
    spec = find_spec(backbone)
    registers.check_backbone(spec.name, spec.registers)
    return registers


def _default_name(source: str, backbone: str) -> str:
    return f"{Path(source).absolute().stem.replace('*', '') or 'images'}-{backbone}".replace(
        ":", "-"
    ).replace("/", "-")


def _run(
    inputs, files_from, dataset, backbone, out, root, download, strict, registers,
    *, protocol, weights, device, precision, **options,
) -> None:  # fmt: skip
    from lost_reg.protocols import preset_protocol
    from lost_reg.ranks import joined, ranks_of_environment
    from lost_reg.records import Protocol
    from lost_reg.results import check_free
    from lost_reg.weights import RANDOM, weight_file
    from lost_reg.zoo import find_spec

    # What can be wrong is looked at before torch is imported and weights are read.
    ranks = ranks_of_environment()
    protocol = preset_protocol(protocol, find_spec(backbone))
    parts = {name: options.pop(name) for name in Protocol.__dataclass_fields__}
    protocol = replace(protocol, **{name: value for name, value in parts.items() if value is not None})
    if weights not in (None, RANDOM):
        weight_file(weights)
    if ranks.first:  # the others may come when it has begun
        check_free(out, resume=options["resume"])
    source = _source(inputs, files_from, dataset, root, out, download and ranks.first, ranks)

    from lost_reg.backbones import load_backbone
    from lost_reg.run import failed_summary, implausible_summary
    from lost_reg.run import run as run_source

    given = {name: value for name, value in options.items() if value is not None}
    with joined(ranks):
        loaded = load_backbone(
            backbone, weights=weights, device=ranks.device(device), precision=precision,
            download=download, registers=registers,
        )  # fmt: skip
        note = (lambda text: _say("Note", text)) if ranks.first else (lambda text: None)
        if weights == "random":
            note(f"{loaded.name} runs with random weights: its boxes mean nothing")
        if registers and not registers.neurons.are_of(loaded.weights.name, loaded.weights.sha256):
            note(f"the register neurons were found in other weights than {loaded.weights.name}")
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
    if not ranks.first:
        return
    if summary.done_before and (options["visualize"] or options["save_maps"]):
        done_before = f"the {summary.done_before:,} images done before"
        note(f"of {done_before} there are pictures and maps only if they were asked for then")
    before = f", {summary.done_before:,} were done before" if summary.done_before else ""
    rate = summary.done / summary.seconds if summary.seconds else 0
    speed = f"{summary.seconds:.1f} s ({rate:.1f}/s)"
    _tell(f"{summary.done:,} images in {speed}{before}; results in {summary.folder}")
    if summary.implausible:
        _tell(implausible_summary(summary))
    if summary.failed:
        text = failed_summary(summary)
        if strict or not summary.done + summary.done_before:
            raise LostRegError(text)
        _say("Warning", text)


def _source(inputs, files_from, dataset, root: Path, out: Path, download: bool, ranks):
    """The images that the options name."""
    from lost_reg.acquire import DOWNLOADABLE
    from lost_reg.datasets import find_dataset
    from lost_reg.inputs import STANDARD_INPUT, ListedFiles, find_shards, list_images
    from lost_reg.results import PICTURES_FOLDER

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

    from lost_reg.run import source_of_dataset, source_of_files

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
@_model_options
@_stream_options
@_data_root
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
    from lost_reg import sweep_scores
    from lost_reg.datasets import data_root as find_root
    from lost_reg.datasets import find_dataset
    from lost_reg.results import check_free
    from lost_reg.sweep_files import SWEEP_FILE
    from lost_reg.zoo import find_spec

    to_text = _text_function(sweep_scores, as_json, as_csv)
    protocols = _grid(options)
    find_spec(backbone)
    out = out or Path("results", f"{_default_name(dataset, backbone)}-sweep")
    check_free(out, resume=resume, record_file=SWEEP_FILE)
    root = find_root(data_root)
    found = find_dataset(dataset, root)
    given = {name: options.pop(name) for name in ("batch_size", "workers", "limit")}
    given = {name: value for name, value in given.items() if value is not None}

    # too few to choose on is said before the work is done
    sweep_scores.tuning_images(len(found.images[: given.get("limit")]), tune_fraction, seed)

    from lost_reg.run import failed_summary, source_of_dataset
    from lost_reg.sweep import sweep as sweep_source

    loaded = _load(backbone, options)
    with _progress_of_run(loaded.name, out) as progress:
        summary = sweep_source(
            source_of_dataset(found), loaded, out, protocols,
            resume=resume, data_root=root, progress=progress,
            note=lambda text: _say("Note", text), **given,
        )  # fmt: skip
    if summary.failed:
        _say("Warning", failed_summary(summary))
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
    from lost_reg.sweep_grid import grid_of_protocols, parse_biases, parse_facets, parse_layers

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
@_data_root
@click.option("--partial", is_flag=True, help="Score incomplete runs on the images that are done.")
@click.option("--no-hard", is_flag=True, help="Drop difficult and truncated objects (LOST's no_hard).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
def corloc(path, dataset, data_root, partial, no_hard, as_json, as_csv) -> None:
    """CorLoc of the runs below a folder, of a LOST pickle, or of COCO-style detections (.json).

    Beside each stand the trivial baselines on the same images, and a published number if there is one of
    the same weights, protocol and split.
    """
    from lost_reg import scoring

    to_text = _text_function(scoring, as_json, as_csv)
    options = scoring.ScoringOptions(dataset, data_root, partial, count_hard=not no_hard)
    rows, errors = scoring.score_path(path, options)
    if rows:
        click.echo(to_text(rows))
    for error in errors:
        _say("Error", str(error))
    if errors:
        sys.exit(1)


@main.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--dataset", "-d", help="The ground truth, if neither run names it.")
@_data_root
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
    from lost_reg import comparison_text
    from lost_reg.compare import compare as compare_runs
    from lost_reg.scoring import ScoringOptions

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
@_data_root
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
    from lost_reg.report import counted, write_report
    from lost_reg.scoring import ScoringOptions

    options = ScoringOptions(dataset, data_root, partial, count_hard=not no_hard)
    given = {"max_images": max_images} if max_images else {}
    with image_progress("report") as progress:
        summary, errors = write_report(path, out, options, progress=progress, **given)
    shown = f"{summary.shown:,} of " if summary.shown < summary.images else ""
    shown += counted(summary.images, "image")
    _tell(f"{counted(summary.runs, 'run')}, {shown}, {summary.with_maps:,} with maps: open {summary.page}")
    if summary.without_picture:
        _say("Warning", f"{summary.without_picture:,} images could not be read again: they have no picture")
    for error in errors:
        _say("Error", str(error))
    if errors:
        sys.exit(1)


@main.command()
@click.option("--download", metavar="NAME", help="Get the weights of a backbone into the Hugging Face cache.")
def backbones(download) -> None:
    """List the backbones: what each is, and whether its weights are on this machine."""
    from lost_reg import inventory

    if download:
        click.echo(inventory.download_weights(download))
    else:
        click.echo(inventory.backbones_table())


@main.command()
@click.option("--download", metavar="NAME", help="Get a dataset into the data root.")
@_data_root
def datasets(download, data_root) -> None:
    """List the datasets: what each is, and whether it is on this machine."""
    from lost_reg import inventory
    from lost_reg.datasets import data_root as find_root

    root = find_root(data_root)
    if download:
        _download_dataset(download, root)
        _tell(f"{download} is in {root}")
    else:
        click.echo(inventory.datasets_table(root))


@main.command("register-neurons")
@click.argument("inputs", nargs=-1, required=True, metavar="FILES_FOLDERS_GLOBS...")
@click.option("--backbone", "-b", required=True, help="A model that was trained without registers.")
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), metavar="FILE.json",
    help="The neurons file.  [default: register-neurons-BACKBONE.json]",
)  # fmt: skip
@click.option(
    "--threshold", type=float,
    help="Patches with a larger norm are outliers.  [default: mean + 3 sigma of all patches]",
)  # fmt: skip
@click.option(
    "--detect-layer", type=int, default=-2, show_default=True,
    help="Block after which norms are compared with the threshold.",
)  # fmt: skip
@click.option(
    "--top-layer", type=int,
    help="Last block whose neurons are looked at.  [default: the block where outliers begin]",
)  # fmt: skip
@click.option("--top-k", type=click.IntRange(min=1), help="How many neurons.  [default: 45]")
@click.option(
    "--register-rule", type=click.Choice(["paper", "code"]),
    help="Rank by activation (paper) or by its magnitude (code).  [default: paper]",
)  # fmt: skip
@_model_options
@_stream_options
def register_neurons(inputs, backbone, out, register_rule, **options) -> None:
    """Find the neurons that make outliers, from images without labels, for `run --register-neurons`.

    After Jiang et al. 2025: the neurons of the early blocks that are most active where norms are large.
    """
    from lost_reg.registers import check_can_be_added, check_new, write_neurons
    from lost_reg.zoo import find_spec

    spec = find_spec(backbone)
    check_can_be_added(spec.name, spec.registers)
    out = out or Path(f"{_default_name('register-neurons', backbone)}.json")
    check_new(out)
    search = {name: options.pop(name) for name in ("threshold", "detect_layer", "top_layer", "top_k")}
    search["rule"] = register_rule
    given = {name: value for name, value in search.items() if value is not None}
    files, stream = _image_files(inputs, options)

    from lost_reg.neuron_search import SearchOptions, find_register_neurons
    from lost_reg.progress import image_progress

    chosen = SearchOptions(**given)
    loaded = _load(backbone, options)
    failures: list = []
    with image_progress(loaded.name) as progress:
        found = find_register_neurons(stream(), loaded, chosen, failures=failures, progress=progress)
    write_neurons(out, found)
    _warn_of(failures, len(files))
    facts = found.found
    share = f"{100 * facts['outlier_share']:.2f} % of the patches"
    _tell(
        f"{len(found.neurons)} neurons of layers 0 to {facts['top_layer']}, from {facts['images']:,} images: "
        f"{share} have a norm above {facts['threshold']:.4g} after layer {facts['detect_layer']}; in {out}"
    )


@main.command()
@click.argument("inputs", nargs=-1, required=True, metavar="FILES_FOLDERS_GLOBS...")
@click.option(
    "--backbone", "-b", "backbones", multiple=True, required=True, help="May be given more than once."
)
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), default=Path("results", "artifacts"), show_default=True,
    help="The folder of artifacts.json and its figures.",
)  # fmt: skip
@click.option(
    "--layer", type=int, default=-2, show_default=True, help="Block after which outliers are looked for."
)
@click.option("--cutoff", type=float, help="The fixed cut-off of norms.  [default: 150]")
@click.option(
    "--outliers", type=click.Choice(["sigma", "fixed", "reference"]), default="sigma", show_default=True,
    help="Which are outliers: norms above mean + 3 sigma, the fixed cut-off, or the reference's percentile.",
)  # fmt: skip
@click.option(
    "--reference", help="The backbone whose 98th percentile is a cut-off.  [default: the first --backbone]"
)
@_model_options
@_stream_options
def artifacts(inputs, backbones, out, layer, cutoff, outliers, reference, **options) -> None:
    """Measure the outliers of backbones: norms by layer, their share, and what they do.

    Writes artifacts.json, and figures if matplotlib is installed.
    """
    from lost_reg.registers import check_new
    from lost_reg.zoo import find_spec

    reference = find_spec(reference or backbones[0]).name
    wanted = list(dict.fromkeys([reference, *(find_spec(name).name for name in backbones)]))
    if options["weights"] not in (None, "random") and len(wanted) > 1:
        raise click.UsageError("a weight file is of one backbone: name one --backbone with --weights FILE")
    check_new(out / "artifacts.json")
    names, stream = _image_files(inputs, options)

    from lost_reg.artifacts import ArtifactOptions, measure, summary_table, write_artifacts
    from lost_reg.progress import image_progress

    given = {} if cutoff is None else {"cutoff": cutoff}
    chosen = ArtifactOptions(layer=layer, rule=outliers, **given)
    rows: list = []
    failures: list = []
    for name in wanted:  # one model at a time, the reference first
        loaded = _load(name, options)
        with image_progress(loaded.name) as progress:
            first = rows[0] if rows else None
            rows.append(measure(stream(), loaded, chosen, first, failures=failures, progress=progress))
        del loaded
    missing = write_artifacts(out, rows, reference, chosen, max_side=stream().max_side)
    _warn_of(failures, len(names))
    if missing:
        _say("Note", missing)
    click.echo(summary_table(rows))
    _tell(f"all of it is in {out}")


def _image_files(inputs, options: dict):
    """The names of the images, and a function that makes a stream of them; takes its options out."""
    from lost_reg.inputs import list_images

    files = list_images(inputs)
    names = files.names[: options.pop("limit")]
    given = {name: options.pop(name) for name in ("max_side", "batch_size", "workers")}
    given = {name: value for name, value in given.items() if value is not None}

    def stream():
        from lost_reg.token_stats import ImageStream

        return ImageStream([files.root / name for name in names], names, **given)

    return names, stream


def _load(backbone: str, options: dict, **more):
    from lost_reg.backbones import load_backbone

    loaded = load_backbone(backbone, **{**{name: options[name] for name in _MODEL_OPTIONS}, **more})
    if loaded.weights.source == "random":
        _say("Note", f"{loaded.name} runs with random weights: what it shows means nothing")
    return loaded


def _warn_of(failures, images: int) -> None:
    from lost_reg.images import shown_names

    if failures:
        shown = shown_names(f"{failure.image} ({failure.reason})" for failure in failures)
        _say("Warning", f"{len(failures):,} of {images:,} images could not be used: {shown}")


def _download_dataset(name: str, root: Path) -> None:
    from lost_reg.acquire import download_dataset
    from lost_reg.progress import download_progress

    with download_progress() as report:
        download_dataset(name, root, report)
