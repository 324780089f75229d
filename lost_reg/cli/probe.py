"""The command `probe`. What belongs to one task is in a file of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from lost_reg.cli.completions import backbone_names
from lost_reg.cli.engine_options import actor_options, choose_engine
from lost_reg.cli.image_streams import warn_of_failures
from lost_reg.cli.model_options import model_options, register_options
from lost_reg.cli.options import (
    continued_by_itself,
    data_root_option,
    decoding_options,
    default_name,
    one_of_json_and_csv,
    overwrite_option,
    shown_rows,
    table_options,
)
from lost_reg.cli.output import print_line
from lost_reg.cli.probe_classes import class_options, probe_classes
from lost_reg.cli.probe_dense import dense_options, probe_depth, probe_segmentation
from lost_reg.cli.probe_zero_shot import probe_zero_shot, zero_shot_options

if TYPE_CHECKING:
    from lost_reg.probing.records import ProbeRecord

CLASSES = "classes"
# Each takes the dataset, the probe's folder and the options of the command; it writes the probe.
TASKS: dict[str, Callable[[str, Path, dict[str, Any]], ProbeRecord]] = {
    CLASSES: probe_classes,
    "segmentation": probe_segmentation,
    "depth": probe_depth,
    "zero-shot": probe_zero_shot,
}


@click.command()
@click.argument("dataset")
@click.option(
    "--backbone", "-b", shell_complete=backbone_names, required=True,
    help="The backbone whose features are probed.",
)  # fmt: skip
@click.option(
    "--task", type=click.Choice(list(TASKS)), default=CLASSES, show_default=True,
    help="What is read from the features: classes from one token an image, dense labels from patches, or "
    "classes from their names.",
)  # fmt: skip
@click.option(
    "--out", "-o", type=click.Path(path_type=Path),
    help="Folder of the probe.  [default: results/probe-DATASET-BACKBONE]",
)  # fmt: skip
@overwrite_option
@class_options
@dense_options
@zero_shot_options
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True,
    help="Of all that is drawn: splits, patches, intervals.",
)  # fmt: skip
@data_root_option
@click.option("--download", is_flag=True, help="Download the dataset if it is missing and can be.")
@register_options
@model_options
@decoding_options
@actor_options
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N",
    help="Use only N images of each split, drawn by the seed.",
)  # fmt: skip
@table_options
def probe(dataset: str, task: str, out: Path | None, **options: Any) -> None:
    """Measure what the frozen features of a backbone know about a dataset.

    DATASET is a name, or a folder. Writes probe.json, which `lost-reg compare` reads, with the outcome of
    each test image. A command that was interrupted can be given again: it continues.
    """
    from lost_reg.probing import tables
    from lost_reg.probing.records import check_replaceable
    from lost_reg.types import Failure

    one_of_json_and_csv(options["as_json"], options["as_csv"])
    _check_task(task)
    choose_engine(options)
    of_task = "probe" if task == CLASSES else f"probe-{task}"
    out = out or Path("results", f"{of_task}-{default_name(dataset, options['backbone'])}")
    check_replaceable(out, overwrite=options["overwrite"])
    continued_by_itself()
    record = TASKS[task](dataset, out, options)
    failures = (Failure(*one) for one in record.failures.items())
    warn_of_failures(failures, sum(record.settings["images"].values()))
    click.echo(shown_rows(tables, record, options["as_json"], options["as_csv"]))
    if not (options["as_json"] or options["as_csv"]):
        print_line(f"the probe is in {out}")


def _check_task(task: str) -> None:
    """Raises click.UsageError for an option of another task."""
    context = click.get_current_context()
    for tasks, options in _OPTIONS.items():
        for option in options:
            given = context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
            if given and task not in tasks:
                raise click.UsageError(f"{option.opts[0]} belongs to --task {' or '.join(tasks)}")


def _options_of(decorate: Callable[[Any], Any]) -> list[click.Parameter]:
    """The options that a decorator adds to a command."""
    return click.command()(decorate(lambda: None)).params


_OPTIONS = {
    (CLASSES,): _options_of(class_options),
    ("segmentation", "depth"): _options_of(dense_options),
    ("zero-shot",): _options_of(zero_shot_options),
}
