"""Detectors on the command line: `train detector`, and `run --method detector`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from lost_reg.cli.engine_options import engine_of
from lost_reg.cli.imports import import_models
from lost_reg.cli.options import (
    chosen_loader,
    default_name,
    given,
    image_root_of,
    image_root_options,
    overwrite_option,
    resume_or_overwrite,
)
from lost_reg.cli.output import print_line, print_note
from lost_reg.cli.run_config import recorded_options
from lost_reg.cli.setting_options import options_of
from lost_reg.discovery.methods import DETECTOR
from lost_reg.errors import LostRegError
from lost_reg.text import counted
from lost_reg.training.detector_config import PRESETS, SMALL, TORCHVISION, VIT, DetectorConfig, chosen_config

# What `run --method detector` takes of the options of `run`; the others are for methods on features.
_OF_DETECTORS = frozenset((
    "inputs", "files_from", "dataset", "out", "method", "detector", "max_objects", "device", "precision",
    "data_root", "weights", "download", "offline", "batch_size", "workers", "limit", "resume", "overwrite",
    "config", "visualize", "sort", "strict", "engine", "address", "actors",
    "write_parquet",
))  # fmt: skip


_DEFAULTS = {item.name: f"the preset's; {item.default} for {SMALL}" for item in fields(DetectorConfig)}


@click.command("detector")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), required=True, help="The detector's folder."
)  # fmt: skip
@click.option(
    "--preset", type=click.Choice(list(PRESETS)), default=SMALL, show_default=True,
    help="A recipe, which the options below override: small, for a machine without a GPU; torchvision's "
    "reference; or lost-cad, LOST's class-agnostic detector.",
)  # fmt: skip
@click.option("--classes", is_flag=True, help="Train on the objects' labels, from `lost-reg cluster`.")
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N",
    help="Use only the first N images with a box, by name.",
)  # fmt: skip
@image_root_options
@click.option(
    "--weights", type=click.Path(path_type=Path), metavar="FILE",
    help="The weights of a ResNet, such as DINO's; of vit, the file with the weights of RUN.  [default: "
    "random; for vit, where they were]",
)  # fmt: skip
@click.option(
    "--min-size", metavar="PIXELS,...",
    help="Shorter sides of the images, of which each gets one at random; the largest is used by `run`.  "
    "[default: the preset's; 320,352,384 for small]",
)  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="Device: auto, cpu, cuda, cuda:1, ...")
@click.option(
    "--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True,
    help="Mixed precision, if not fp32.",
)  # fmt: skip
@click.option(
    "--workers", type=click.IntRange(min=0), metavar="N",
    help="Processes that read images.  [default: 4 on a GPU, else 0]",
)  # fmt: skip
@click.option(
    "--save-every", type=click.IntRange(min=1), default=200, show_default=True, metavar="N",
    help="Steps between checkpoints; there is also one every five minutes.",
)  # fmt: skip
@click.option("--resume", is_flag=True, help="Continue an interrupted training in its folder.")
@overwrite_option
@options_of(DetectorConfig, **_DEFAULTS)
def detector(run: Path, out: Path, **options: Any) -> None:
    """Train a detector on the boxes of RUN (LOST's CAD): a Faster R-CNN of torchvision.

    It learns the boxes as one class, or the clusters as classes. `lost-reg run --method detector` applies it:
    it finds several objects an image, with scores. Under torchrun, the processes share each step.
    """
    from lost_reg.training.ranks import joined, ranks_of_environment

    resume_or_overwrite(options)
    changes = given(options, _DEFAULTS)
    if options["min_size"]:
        changes["min_sizes"] = _sizes(options["min_size"])
    is_vit = {**PRESETS[options["preset"]], **changes}.get("backbone", VIT) == VIT
    of_resnet = options["weights"] and not is_vit
    if of_resnet and options["preset"] == SMALL:
        changes = {"norm": "frozen", **changes}
    if not of_resnet:  # nothing that is random stays as it is
        norm = {"norm": "batch"} if options["preset"] == TORCHVISION else {}
        changes = {"trainable_stages": 5, **norm, **changes}
    config = chosen_config(options["preset"], **changes)
    ranks = ranks_of_environment()
    import_models()

    from lost_reg.backbones.loading import find_device
    from lost_reg.training.detector_data import read_training_set
    from lost_reg.training.detector_training import TrainingOptions, check_trainable, train_detector

    if ranks.first:
        check_trainable(out, resume=options["resume"], overwrite=options["overwrite"])
    images = image_root_of(options)
    data = read_training_set(
        run, image_root=images, **{name: options[name] for name in ("classes", "limit")}
    )  # fmt: skip
    device = find_device(ranks.device(options["device"]))
    workers = options["workers"] if options["workers"] is not None else 4 * (device.type == "cuda")
    chosen = TrainingOptions(
        device, workers=workers, ranks=ranks,
        **{name: options[name] for name in ("precision", "weights", "save_every", "resume", "overwrite")},
    )  # fmt: skip
    if ranks.first:
        of_classes = f", {counted(len(data.classes), 'class')}" if data.labelled else ""
        print_note(
            f"training on {counted(data.boxes, 'box')} of {counted(len(data.images), 'image')}{of_classes}"
        )
        if config.backbone != VIT and not options["weights"]:
            print_note("the ResNet starts from random weights; --weights gives others, such as DINO's")
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with joined(ranks, backend), _progress(out, ranks) as progress:
        summary = train_detector(data, out, config, chosen, progress)
    if ranks.first:
        rate = f"{summary.steps * config.batch_size / summary.seconds:.1f} images/s" if summary.steps else ""
        did = (
            f"{counted(summary.steps, 'step')} ({rate}), last loss {summary.loss:.3f}"
            if rate
            else "was trained"
        )
        print_line(f"{did}; the detector is in {out}")


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise LostRegError(f"`min_size` cannot be {text!r}: it is one size in pixels, or several") from None


@contextmanager
def _progress(out: Path, ranks: Any) -> Iterator[Any]:
    """Progress, shown by the first rank, and reported if the training is stopped."""
    from lost_reg.progress import step_progress

    reached = 0
    stopping = click.get_current_context().find_root().obj
    stopping.message = lambda: (
        f"stopped after {counted(reached, 'step')}; --resume continues in {out} from the last checkpoint, or "
        "from the start if there is none yet"
    )

    def count(done: int, total: int) -> None:
        nonlocal reached
        reached = done
        show(done, total)

    with step_progress("training") if ranks.first else nullcontext(lambda *_: None) as show:
        yield count


# --- applying ----------------------------------------------------------------------------------------


def apply_detector(
    inputs: tuple[str, ...],
    files_from: str | None,
    dataset: str | None,
    out: Path | None,
    folder: Path | None,
    options: dict[str, Any],
) -> None:
    """`run --method detector`: apply a trained detector to images, and write a run folder."""
    from lost_reg.cli.run import checked_source, print_summary, progress_of_run
    from lost_reg.datasets.catalog import data_root, short_name
    from lost_reg.runs.options import RunOptions

    _check_options(folder, options["method"])
    root = data_root(options["data_root"])
    chosen = RunOptions(
        loader=chosen_loader(options), data_root=root if dataset else None,
        command=recorded_options(click.get_current_context().params),
        **{name: options[name] for name in ("limit", "resume", "overwrite", "visualize", "sort")},
    )  # fmt: skip
    source_name = short_name(dataset) if dataset else files_from or inputs[0]
    out = out or Path("results", default_name(source_name, DETECTOR))
    source: Any = checked_source(inputs, files_from, dataset, root, out, options, chosen)
    import_models()

    from lost_reg.training.detector_run import load_detector_model, run_detector

    load = partial(
        load_detector_model, folder, device=options["device"], precision=options["precision"],
        vit_weights=options["weights"],
    )  # fmt: skip
    chosen = replace(chosen, engine=engine_of(options, load))
    with progress_of_run(f"detector {folder}", out) as progress:
        summary = run_detector(
            source, load(), out, chosen, progress=progress, note=print_note, **given(options, ["max_objects"])
        )
    print_summary(summary, options["strict"])


def _check_options(folder: Path | None, method: str | None) -> None:
    """Check that the detector is named, and that no option was given that only other methods have."""
    if method != DETECTOR:
        raise click.UsageError("--detector needs --method detector")
    if folder is None:
        raise click.UsageError("--method detector needs --detector, the folder of a trained detector")
    context = click.get_current_context()
    explicit = [
        name for name in context.params
        if context.get_parameter_source(name) == ParameterSource.COMMANDLINE and name not in _OF_DETECTORS
    ]  # fmt: skip
    if explicit:
        raise LostRegError(f"`{explicit[0]}` does not apply to a detector, which has its own: leave it out")
