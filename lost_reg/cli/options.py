"""Options shared by commands, besides those for settings and models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from lost_reg.cli.completions import dataset_names
from lost_reg.cli.output import as_options, print_message, print_note
from lost_reg.cli.parameter_types import OrWord
from lost_reg.errors import LostRegError
from lost_reg.runs.options import BATCH_SIZE, MOST_PATCHES, LoaderOptions
from lost_reg.text import agreeing, counted, shown_names, table_width

F = TypeVar("F", bound=Callable[..., Any])


def together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """A decorator that gives a command several options, in this order in its help."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def shown_rows(module: Any, rows: Any, as_json: bool, as_csv: bool) -> str:
    """Rows as `text_table`, `json_text` or `csv_text` of a module shows them; a table fits the terminal."""
    if as_json or as_csv:
        return str((module.json_text if as_json else module.csv_text)(rows))
    return as_options(module.text_table(rows, table_width()))


def given(options: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Those of the named options that were given; the library's defaults apply to the others."""
    return {name: options[name] for name in names if options.get(name) is not None}


data_root_option = click.option(
    "--data-root",
    type=click.Path(path_type=Path),
    help="Folder that holds the datasets.  [default: $LOST_REG_DATA, then ./data]",
)

decoding_options = together(
    click.option(
        "--batch-size", type=OrWord(click.IntRange(min=1)), metavar="N|auto",
        help="How many images of one size run together; auto: as many as fit on the device.  "
        f"[default: {BATCH_SIZE}]",
    ),
    click.option(
        "--workers", type=click.IntRange(min=0), metavar="N",
        help="Number of decoding processes.  [default: depends on the machine]",
    ),
    click.option(
        "--max-patches", type=click.IntRange(min=1), metavar="N",
        help=f"Refuse images of more patches than this, once scaled.  [default: {MOST_PATCHES:,}]",
    ),
)  # fmt: skip

loader_options = together(
    decoding_options,
    click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Process only the first N images."),
)

background_option = click.option(
    "--background", metavar="COLOUR",
    help="The colour under transparent images: a name, or a value such as #808080.  [default: white]",
)  # fmt: skip

max_side_option = click.option(
    "--max-side", type=click.IntRange(min=1), metavar="PIXELS",
    help="Scale images down so that the longer side is at most this.  [default: native resolution]",
)  # fmt: skip

image_root_options = together(
    click.option(
        "--image-root", type=click.Path(path_type=Path),
        help="Folder of the images, if it moved since the run or the run is not yours.  [default: the run's]",
    ),
    click.option("--follow-links", is_flag=True, help="Also read images that are links out of their folder."),
)  # fmt: skip


def image_root_of(options: dict[str, Any]) -> Any:
    """The ImageRoot of `image_root_options`, which are taken out of the options."""
    from lost_reg.runs.image_folder import ImageRoot

    return ImageRoot(options.pop("image_root"), options.pop("follow_links"))


unannotated_option = click.option(
    "--unannotated", type=click.Choice(["refuse", "leave-out"]), default="refuse", show_default=True,
    help="What to do about images of a VOC folder that have no annotation.",
)  # fmt: skip

scoring_options = together(
    click.option(
        "--dataset",
        "-d",
        shell_complete=dataset_names,
        help="The ground truth, for prediction files and for runs on your own images.",
    ),
    data_root_option,
    click.option(
        "--partial", is_flag=True, help="Accept incomplete runs, using only the images that are done."
    ),
    click.option(
        "--no-hard", is_flag=True, help="Ignore VOC's difficult and truncated objects (LOST's no_hard)."
    ),
    unannotated_option,
)

table_options = together(
    click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table."),
    click.option("--csv", "as_csv", is_flag=True, help="Print CSV instead of a table."),
)


overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace what an earlier command wrote there."
)


def resume_or_overwrite(options: Mapping[str, Any]) -> None:
    """Raises click.UsageError if both are requested."""
    if options["resume"] and options["overwrite"]:
        raise click.UsageError("choose one of --resume and --overwrite")


def continued_by_itself(done: Callable[[], str] = str) -> None:
    """Let a command that is stopped say that the same one, given again, continues.

    Args:
        done: what comes before that, such as "1 of 2 models is measured; "; asked when it is stopped.
    """
    stopping = click.get_current_context().find_root().obj
    stopping.message = lambda: f"{done()}the same command continues"


def one_of_json_and_csv(as_json: bool, as_csv: bool) -> None:
    """Raises click.UsageError if both are requested."""
    if as_json and as_csv:
        raise click.UsageError("choose one of --json and --csv")


def chosen_loader(options: Mapping[str, Any]) -> LoaderOptions:
    """How images are loaded, according to the `loader_options` that were given."""
    return LoaderOptions(**given(options, ("batch_size", "workers", "background", "max_patches")))


def scoring_options_of(
    dataset: str | None, data_root: Path | None, partial: bool, no_hard: bool, unannotated: str
) -> Any:
    """The values of `scoring_options` as a `ScoringOptions`."""
    from lost_reg.scoring.found_boxes import ScoringOptions

    return ScoringOptions(dataset, data_root, partial, count_hard=not no_hard, unannotated=unannotated)


def print_unscored(errors: Sequence[LostRegError], *, any_scored: bool) -> None:
    """Print why runs have no scores, and exit with 1; those on own images are only noted beside others.

    Raises:
        LostRegError: nothing was scored, as all runs are on a user's own images.
    """
    from lost_reg.scoring.found_boxes import WithoutTruth

    own = [error.path for error in errors if isinstance(error, WithoutTruth)]
    others = [error for error in errors if not isinstance(error, WithoutTruth)]
    for error in others:
        print_message("Error", str(error))
    if own:
        have = agreeing(len(own), "have")
        runs = counted(len(own), "run")
        line = f"{runs} on your own images {have} no annotations: {shown_names(map(str, own))}"
        if not (any_scored or others):
            raise LostRegError(f"{line}: name their ground truth with `dataset`")
        print_note(line)
    if others:
        raise click.exceptions.Exit(1)


def default_name(source: str, backbone: str) -> str:
    """The name for results if none is given."""
    stem = Path(source).absolute().stem.replace("*", "") or "images"
    return f"{stem}-{backbone}".replace(":", "-").replace("/", "-")
