"""The command `run`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from lost_reg.backbones import DEFAULT
from lost_reg.cli.completions import backbone_names, dataset_names
from lost_reg.cli.engine_options import choose_engine, engine_of_backbone, engine_options
from lost_reg.cli.image_streams import note_passed_over
from lost_reg.cli.imports import import_models
from lost_reg.cli.model_options import (
    added_registers,
    get_weights,
    load,
    model_options,
    note_trial,
    own_weights,
    register_options,
)
from lost_reg.cli.options import (
    background_option,
    chosen_loader,
    data_root_option,
    default_name,
    loader_options,
    overwrite_option,
    resume_or_overwrite,
)
from lost_reg.cli.output import print_detail, print_line, print_message, print_note
from lost_reg.cli.run_config import ConfiguredCommand, recorded_options
from lost_reg.cli.setting_options import chosen_setting
from lost_reg.cli.train_detector import apply_detector
from lost_reg.discovery.methods import DETECTOR, METHODS, describe_setting
from lost_reg.discovery.presets import described
from lost_reg.errors import LostRegError
from lost_reg.masks.refiners import REFINERS
from lost_reg.runs.options import RunOptions
from lost_reg.text import agreeing, counted

_RUN_OPTIONS = ("limit", "resume", "overwrite", "visualize", "masks", "save_maps", "sort")


class _RunCommand(ConfiguredCommand):
    """Besides the methods on features, a trained detector can be applied."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        params = super().get_params(ctx)
        (method,) = (one for one in params if one.name == "method")
        method.type = click.Choice([*METHODS, DETECTOR])
        return params


@click.command(cls=_RunCommand)
@click.argument("inputs", nargs=-1, type=click.Path(), metavar="[FILES_FOLDERS_GLOBS_SHARDS...]")
@click.option(
    "--backbone",
    "-b",
    shell_complete=backbone_names,
    default=DEFAULT,
    show_default=True,
    help="A backbone that `lost-reg backbones` lists, or timm:NAME of timm's; or NAME=FILE with its weights.",
)
@click.option(
    "--dataset",
    "-d",
    shell_complete=dataset_names,
    help="A dataset that `lost-reg datasets` lists, a folder in VOC layout, a COCO .json, or images with PNG "
    "masks, such as ecssd=FOLDER or masks=FOLDER.",
)
@click.option(
    "--out", "-o", type=click.Path(path_type=Path),
    help="The run folder.  [default: results/DATASET-BACKBONE]",
)  # fmt: skip
@click.option(
    "--files-from", metavar="LIST",
    help="A file with one path or address of an image per line (or NUL-separated); - reads standard input.",
)  # fmt: skip
@model_options
@click.option("--download", is_flag=True, help="Download a dataset that is missing, such as voc07.")
@data_root_option
@register_options
@background_option
@loader_options
@engine_options
@click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE.toml",
    help="Take options from a file, such as the run.toml of a run; others that are given count first.",
)  # fmt: skip
@click.option(
    "--resume", is_flag=True,
    help="Continue an interrupted run in its folder; with only --out, on all its images, by its options.",
)  # fmt: skip
@overwrite_option
@click.option(
    "--visualize",
    is_flag=True,
    help="Also save each image with its boxes, seed and masks; with --resume, only the remaining images.",
)
@click.option("--masks", is_flag=True, help="Also write the mask of each object, as COCO RLE.")
@click.option(
    "--refine", type=click.Choice(list(REFINERS)),
    help="Refine masks to pixels, and take boxes from them; implies --masks. crf needs lost-reg[crf].",
)  # fmt: skip
@click.option(
    "--save-maps",
    is_flag=True,
    help="Also save maps for `lost-reg report`: token norms, attention, and the method's own; with --resume, "
    "only of the remaining images.",
)
@click.option(
    "--detector", type=click.Path(path_type=Path), metavar="FOLDER",
    help="The detector that --method detector applies, from `lost-reg train detector`.",
)  # fmt: skip
@click.option("--sort", is_flag=True, help="At the end, put the predictions into the order of the images.")
@click.option("--strict", is_flag=True, help="Exit with an error if any image could not be used.")
def run(
    inputs: tuple[str, ...],
    backbone: str,
    dataset: str | None,
    out: Path | None,
    files_from: str | None,
    strict: bool,
    detector: Path | None,
    **options: Any,
) -> None:
    """Find objects in a dataset or in your own images.

    Your own images are files, folders, glob patterns or tar shards. Results go into a run folder, as
    predictions.jsonl, errors.jsonl and run.json. Boxes are [xmin, ymin, xmax, ymax] in pixels of the original
    image; xmax and ymax are exclusive. --engine ray spreads the images over GPUs and machines.
    """
    from lost_reg.backbones.zoo import find_spec
    from lost_reg.datasets.catalog import data_root, short_name

    resume_or_overwrite(options)
    if options["resume"] and not out and not (inputs or files_from or dataset):
        raise click.UsageError("--resume continues the run in the folder that --out names: give that")
    if sum(map(bool, (inputs, files_from, dataset))) != 1:
        raise click.UsageError(
            "give either images (files, folders, patterns, shards), or a list (--files-from), or a --dataset"
        )
    choose_engine(options)
    if detector or options["method"] == DETECTOR:
        apply_detector(inputs, files_from, dataset, out, detector, {**options, "strict": strict})
        return
    # Check everything that can be wrong before importing torch and reading weights.
    backbone, options = own_weights(backbone, options)
    params = {**click.get_current_context().params, "weights": options["weights"]}
    registers = added_registers(options)
    spec = find_spec(backbone)
    if registers:
        registers.check_backbone(spec.name, spec.registers)
    setting = chosen_setting(options, spec.family, own_images=not dataset)
    setting = replace(setting, refine=options.pop("refine"))
    root = data_root(options.pop("data_root"))
    chosen = RunOptions(
        loader=chosen_loader(options),
        data_root=root if dataset else None,
        command=recorded_options(params, spec.name, setting),
        **{name: options[name] for name in _RUN_OPTIONS},
    )
    source_name = short_name(dataset) if dataset else files_from or inputs[0]
    out = out or Path("results", default_name(source_name, backbone))
    source = checked_source(inputs, files_from, dataset, root, out, options, chosen)
    _run(source, backbone, setting, out, chosen, {**options, "registers": registers}, strict)


def checked_source(
    inputs: tuple[str, ...],
    files_from: str | None,
    dataset: str | None,
    root: Path,
    out: Path,
    options: dict[str, Any],
    chosen: RunOptions,
) -> Any:
    """The images that the options name, after checking that weight file and run folder are usable."""
    from lost_reg.backbones.weights import RANDOM, local_checkpoint
    from lost_reg.runs.folder import check_free

    if options["weights"] not in (None, RANDOM):
        local_checkpoint(options["weights"])
    check_free(out, resume=chosen.resume, overwrite=chosen.overwrite)
    if dataset:
        return _dataset_source(dataset, root, options["download"])
    source = _files_source(inputs, files_from, out)
    note_passed_over(source.images)
    return source


def _dataset_source(dataset: str, root: Path, download: bool) -> Any:
    from lost_reg.cli.listings import download_with_progress
    from lost_reg.datasets.catalog import DOWNLOADABLE, find_dataset

    if download and dataset in DOWNLOADABLE:
        download_with_progress(dataset, root)
    found = find_dataset(dataset, root)

    from lost_reg.runs.sources import source_of_dataset

    return source_of_dataset(found)


def _files_source(inputs: tuple[str, ...], files_from: str | None, out: Path) -> Any:
    from lost_reg.images.remote import find_remote
    from lost_reg.images.shards import find_shards
    from lost_reg.images.sources import ListedFiles, list_images
    from lost_reg.runs.folder import PICTURES_FOLDER
    from lost_reg.runs.sources import source_of_files

    if files_from:
        return source_of_files(ListedFiles.read(files_from), [files_from])
    images = find_shards(inputs) or find_remote(inputs) or list_images(inputs, exclude=out / PICTURES_FOLDER)
    return source_of_files(images, inputs)


def _run(
    source: Any,
    backbone: str,
    setting: Any,
    out: Path,
    chosen: RunOptions,
    options: dict[str, Any],
    strict: bool,
) -> None:
    from lost_reg.runs.sources import check_drawable

    if chosen.visualize:
        check_drawable(source)  # before weights are read
    get_weights(backbone, options)
    import_models()

    from lost_reg.runs.run import run as run_source

    loaded = load(backbone, options, registers=options["registers"])
    note_trial(loaded)
    print_detail(f"settings: {setting.method.name}, {describe_setting(setting.recorded())}")
    chosen = replace(chosen, engine=engine_of_backbone(options, backbone, options["registers"]))
    with progress_of_run(loaded.name, out) as progress:
        summary = run_source(source, loaded, out, setting, chosen, progress=progress, note=print_note)
    print_summary(summary, strict)


def print_summary(summary: Any, strict: bool) -> None:
    """Print what a run did, and what failed."""
    from lost_reg.runs.degenerate import degenerate_line
    from lost_reg.runs.folder import RUN_FILE, read_outcomes, read_record
    from lost_reg.runs.sessions import implausible_summary, noted_summary, objects_summary

    settings = read_record(summary.folder / RUN_FILE)["settings"]
    how = f", by {described(settings)}" if settings["method"] in METHODS else ""
    print_line(f"{_done_summary(summary)}{how}; results in {summary.folder}")
    if summary.done and settings["options"].get("max_objects", 1) != 1:
        print_line(objects_summary(summary))
    if summary.implausible:
        print_line(implausible_summary(summary))
    if summary.noted:
        print_line(noted_summary(summary))
    if line := degenerate_line(lambda: read_outcomes(summary.folder), settings):
        print_message("Warning", line)
    check_failures(summary, strict=strict)


def check_failures(summary: Any, *, strict: bool) -> None:
    """Warn of images that failed.

    Raises:
        LostRegError: all images failed, or any if `strict`.
    """
    from lost_reg.runs.sessions import failed_summary

    if summary.failed:
        text = failed_summary(summary)
        if strict or not summary.done + summary.done_before:
            raise LostRegError(text)
        print_message("Warning", text)


def _done_summary(summary: Any) -> str:
    """How many images a run did, and how many were done before."""
    before = summary.done_before
    if before and not summary.done and not summary.failed:
        return (
            f"all {counted(before, 'image')} were done before" if before > 1 else "the image was done before"
        )
    rate = summary.done / summary.seconds if summary.seconds else 0
    done = f"{counted(summary.done, 'image')} in {summary.seconds:.1f} s ({rate:.1f}/s)"
    return f"{done}, {before:,} {agreeing(before, 'were')} done before" if before else done


@contextmanager
def progress_of_run(what: str, out: Path) -> Iterator[Any]:
    """Progress, shown, and reported if the run is stopped."""
    from lost_reg.progress import image_progress

    done_now = 0
    stopping = click.get_current_context().find_root().obj
    stopping.message = lambda: (
        f"{counted(done_now, 'image')} {agreeing(done_now, 'were')} done; "
        f"results are in {out}; --resume continues"
    )

    def count(done: int, failed: int, total: int | None) -> None:
        nonlocal done_now
        done_now = done
        show(done, failed, total)

    with image_progress(what) as show:
        yield count
