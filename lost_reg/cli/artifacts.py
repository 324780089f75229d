"""The command `artifacts`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lost_reg.cli.completions import backbone_names, dataset_names
from lost_reg.cli.image_streams import image_files, images_of_dataset, warn_of_failures
from lost_reg.cli.imports import import_models
from lost_reg.cli.model_options import added_registers, load, model_options, own_weights, register_options
from lost_reg.cli.options import (
    continued_by_itself,
    data_root_option,
    given,
    loader_options,
    max_side_option,
    one_of_json_and_csv,
    overwrite_option,
    table_options,
)
from lost_reg.cli.output import print_line, print_note
from lost_reg.cli.parameter_types import Several
from lost_reg.text import counted, table_width

if TYPE_CHECKING:
    from lost_reg.artifacts.records import Steps
    from lost_reg.artifacts.series import Model


@click.command()
@click.argument("inputs", nargs=-1, metavar="FILES_FOLDERS_GLOBS...")
@click.option(
    "--backbone",
    "-b",
    "backbones",
    shell_complete=backbone_names,
    multiple=True,
    required=True,
    help="A backbone to measure, or NAME=FILE with its own weights; repeat it for several.",
)
@click.option(
    "--checkpoints", multiple=True, metavar="PATTERN",
    help="Measure a series of checkpoints of the one --backbone, such as 'run/ckpt-*.pth', by their steps.",
)  # fmt: skip
@click.option(
    "--dataset", "-d", shell_complete=dataset_names,
    help="Measure on the images of this dataset, and score LOST on them.",
)  # fmt: skip
@data_root_option
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), default=Path("results", "artifacts"), show_default=True,
    help="Folder for artifacts.json and the figures.",
)  # fmt: skip
@overwrite_option
@click.option(
    "--layer",
    type=int,
    default=-2,
    show_default=True,
    help="Outliers are counted after this block; negative counts from the last.",
)
@click.option("--cutoff", type=float, help="The norm that `--outliers fixed` uses.  [default: 150]")
@click.option(
    "--outliers", "rule", type=click.Choice(["sigma", "fixed", "reference"]), default="sigma",
    show_default=True,
    help="Outliers have a norm above mean + 3 sigma, --cutoff, or the 98th percentile of --reference.",
)  # fmt: skip
@click.option(
    "--reference",
    help="The backbone or checkpoint that gives that percentile.  [default: the first --backbone, or the "
    "last checkpoint]",
)
@click.option(
    "--controls", type=Several(["mean", "shuffled", "zeroed"]), metavar="LIST",
    help="What becomes of outliers that enter the last block, and of other patches: mean, shuffled, zeroed, "
    "or several of them with commas.",
)  # fmt: skip
@click.option(
    "--lost", type=click.Choice(["published", "normalized"]),
    help="Which LOST is scored, and gives the seeds of --controls: as published, or on normalised keys with "
    "automatic bias, which does more with DINOv2.  [default: published]",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Random seed of the controls.  [default: 0]")
@register_options
@model_options
@max_side_option
@loader_options
@table_options
def artifacts(
    inputs: tuple[str, ...],
    backbones: tuple[str, ...],
    checkpoints: tuple[str, ...],
    reference: str | None,
    as_json: bool,
    as_csv: bool,
    **options: Any,
) -> None:
    """Measure the outlier tokens (artifacts) of backbones.

    Writes artifacts.json and figures: token norms by layer, the share of outliers, what they do to LOST's
    seeds, and what linear probes read from them of position and pixels. With test-time registers, the
    backbone they are added to is measured twice: without and with them.

    With --dataset, images are not given. A command that was interrupted can be given again: what was measured
    stays.
    """
    one_of_json_and_csv(as_json, as_csv)
    if bool(inputs) == bool(options["dataset"]):
        raise click.UsageError("give either images (files, folders, patterns), or a --dataset")
    if options["lost"] and not (options["dataset"] or options["controls"]):
        raise click.UsageError("--lost says which LOST --dataset and --controls use: give one of these, too")
    from lost_reg.artifacts.options import ArtifactOptions

    names = ("layer", "cutoff", "rule", "controls", "seed", "lost")
    chosen = ArtifactOptions(**given(options, names))  # refuses wrong values before anything is read
    steps = None
    if checkpoints:
        _check_alone(backbones, options)
        steps, models = _series(backbones[0], checkpoints, reference)
    else:
        models = _models(backbones, reference, options)
    rows = _measure(models, steps, chosen, _images(inputs, options), options)
    _show(rows, options["out"], as_json, as_csv)


# --- models ------------------------------------------------------------------------------------------


def _models(backbones: tuple[str, ...], reference: str | None, options: dict[str, Any]) -> list[Model]:
    """The models to measure, the reference first, and the one with test-time registers last."""
    weights_of: dict[str, Any] = {}
    for given_name in backbones:
        name, weights = _named(given_name, options)
        if weights_of.setdefault(name, weights) != weights:
            raise click.UsageError(
                f"several weights are given for {name}: measure one after the other, or a series with "
                "--checkpoints"
            )
    first, weights = _named(reference, options) if reference else next(iter(weights_of.items()))
    weights_of.setdefault(first, weights)
    wanted = [first, *(name for name in weights_of if name != first)]
    if options["weights"] not in (None, "random") and len(wanted) > 1:
        raise click.UsageError("a weight file fits one backbone: give each its own, as --backbone NAME=FILE")
    added = added_registers(options)
    with_registers = _backbone_of(added, wanted) if added else None
    import_models()

    from lost_reg.artifacts.series import Model

    models = [Model(name, weights_of[name]) for name in wanted]
    return [*models, *([Model(with_registers, weights_of[with_registers], added)] if with_registers else [])]


def _named(backbone: str, options: dict[str, Any]) -> tuple[str, Any]:
    """The name in the table and the weights of NAME or NAME=WEIGHTS."""
    from lost_reg.backbones.zoo import find_spec

    name, own = own_weights(backbone, options)
    return find_spec(name).name, own["weights"]


def _check_alone(backbones: tuple[str, ...], options: dict[str, Any]) -> None:
    """Refuse what does not go with a series of checkpoints."""
    if len(backbones) > 1 or "=" in backbones[0] or options["weights"]:
        raise click.UsageError(
            "--checkpoints are of one model: give one --backbone, by its name, and no --weights"
        )
    if added_registers(options):
        raise click.UsageError(
            "--register-neurons are found in the weights of one checkpoint, and mean nothing in the others: "
            "measure each alone with its own, as --backbone NAME=FILE"
        )


def _series(backbone: str, patterns: tuple[str, ...], reference: str | None) -> tuple[Steps, list[Model]]:
    """What the steps of a series are, and its checkpoints by step, but the reference first."""
    from lost_reg.backbones.zoo import find_spec

    name = find_spec(backbone).name
    import_models()

    from lost_reg.artifacts.series import Model, find_series

    series = find_series(name, patterns)
    first = series.find(reference) if reference else series.models[-1]
    if first is None:
        first = Model(*_named(reference, {"weights": None}))
    return series.steps, [first, *(one for one in series.models if one != first)]


def _backbone_of(added: Any, wanted: list[str]) -> str:
    """Which of the backbones gets the test-time registers."""
    from lost_reg.backbones.zoo import find_spec

    given_name = added.neurons.backbone
    without = [name for name in wanted if not find_spec(name).registers]
    candidates = [name for name in wanted if name == given_name] if given_name else without
    if len(candidates) > 1:
        raise click.UsageError(
            f"the neurons file does not say whether it belongs to {' or '.join(candidates)}: "
            'add "backbone" to it'
        )
    name = (candidates or wanted)[0]
    added.check_backbone(name, find_spec(name).registers)  # refuses neurons that belong to none of them
    return name


# --- measuring ---------------------------------------------------------------------------------------


def _images(inputs: tuple[str, ...], options: dict[str, Any]) -> tuple[Any, Any]:
    """A stream of the images, and the dataset that they are of, if they are of one."""
    if options["dataset"]:
        return images_of_dataset(options["dataset"], options)
    _, stream = image_files(inputs, options)
    return stream(), None


def _measure(
    models: list[Model], steps: Steps | None, chosen: Any, images: tuple[Any, Any], options: dict[str, Any]
) -> list[Any]:
    """Measure one model at a time, the reference first, and save after each; the rows as they are shown."""
    from dataclasses import replace

    from lost_reg.artifacts.measure import about_artifacts, measure, save_artifacts
    from lost_reg.artifacts.records import Artifacts, check_replaceable
    from lost_reg.artifacts.series import kept_rows
    from lost_reg.progress import image_progress
    from lost_reg.types import Failure

    (stream, dataset), out = images, options["out"]
    about = about_artifacts(
        models[0].title,
        chosen,
        max_side=options["max_side"],
        models=len(models),
        images=stream.digest,
        dataset=dataset.name if dataset else None,
        steps=steps,
    )
    overwrite = options["overwrite"]
    rows = check_replaceable(out, about, overwrite=overwrite)
    for model in models:  # check all before spending hours on the first
        model.check(offline=options["offline"])
    rows = kept_rows(models, rows, options["precision"], out, overwrite=overwrite)
    if rows:
        print_note(f"{len(rows):,} of {len(models):,} models were measured before, and stay")
    continued_by_itself(lambda: f"{len(rows):,} of {counted(len(models), 'model')} measured, in {out}; ")
    for model in models[len(rows) :]:
        loaded = load(model.name, {**options, "weights": model.weights}, registers=model.registers)
        first = rows[0] if rows else None
        with image_progress(model.title) as progress:
            row = measure(stream, loaded, chosen, first, dataset, progress=progress)
        rows.append(replace(row, step=model.step))
        del loaded
        # after each: results are kept if, for example, the next backbone does not have the layer
        save_artifacts(out, rows, about)
    failures = {name: Failure(name, reason) for row in rows for name, reason in row.failures.items()}
    warn_of_failures(failures.values(), len(stream.names))  # an image may fail for some models only
    return Artifacts(about, rows).in_order


def _show(rows: list[Any], out: Path, as_json: bool, as_csv: bool) -> None:
    from lost_reg.artifacts import tables

    if as_json or as_csv:
        click.echo((tables.json_text if as_json else tables.csv_text)(rows))
        return
    click.echo(tables.tables_text(rows, table_width()))
    print_line(f"full results are in {out}")
