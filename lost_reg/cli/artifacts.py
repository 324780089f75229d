"""The command `artifacts`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lost_reg.cli.completions import backbone_names
from lost_reg.cli.image_streams import image_files, warn_of_failures
from lost_reg.cli.imports import import_models
from lost_reg.cli.model_options import added_registers, load, model_options, own_weights, register_options
from lost_reg.cli.options import given, loader_options, max_side_option
from lost_reg.cli.output import print_line


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="FILES_FOLDERS_GLOBS...")
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
    "--out", "-o", type=click.Path(path_type=Path), default=Path("results", "artifacts"), show_default=True,
    help="Folder for artifacts.json and the figures.",
)  # fmt: skip
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
@click.option("--reference", help="The backbone that gives that percentile.  [default: the first --backbone]")
@register_options
@model_options
@max_side_option
@loader_options
def artifacts(
    inputs: tuple[str, ...], backbones: tuple[str, ...], out: Path, reference: str | None, **options: Any
) -> None:
    """Measure the outlier tokens (artifacts) of backbones.

    Writes artifacts.json and figures: token norms by layer, the share of outliers, and what they do to LOST's
    seeds. With test-time registers, the backbone they are added to is measured twice: without and with them.
    A command that was interrupted can be given again.
    """
    from lost_reg.backbones.zoo import find_spec

    each: dict[str, dict[str, Any]] = {}  # the options of each backbone, with its weights
    for given_name in backbones:
        name, own = own_weights(given_name, options)
        name = find_spec(name).name
        if each.setdefault(name, own) != own:
            raise click.UsageError(f"several weights are given for {name}: measure one after the other")
    reference = find_spec(reference).name if reference else next(iter(each))
    each.setdefault(reference, options)
    wanted = [reference, *(name for name in each if name != reference)]
    if options["weights"] not in (None, "random") and len(wanted) > 1:
        raise click.UsageError("a weight file fits one backbone: give each its own, as --backbone NAME=FILE")
    added = added_registers(options)
    models = [(name, None) for name in wanted]
    if added:
        models.append((_backbone_of(added, wanted), added))
    names, stream = image_files(inputs, options)
    _measure(models, reference, out, stream, len(names), {**options, "of_each": each})


def _measure(
    models: list[tuple[str, Any]],
    reference: str,
    out: Path,
    stream: Any,
    images: int,
    options: dict[str, Any],
) -> None:
    """Measure one model at a time, the reference first, and save after each."""
    import_models()

    from lost_reg.artifacts.measure import ArtifactOptions, about_artifacts, measure, save_artifacts
    from lost_reg.artifacts.records import check_replaceable
    from lost_reg.artifacts.tables import probe_rows, summary_table
    from lost_reg.backbones.timm_models import resolve_spec
    from lost_reg.backbones.weights import locate
    from lost_reg.progress import image_progress
    from lost_reg.text import text_table

    chosen = ArtifactOptions(**given(options, ("layer", "cutoff", "rule")))
    about = about_artifacts(reference, chosen, max_side=options["max_side"], models=len(models))
    measured = check_replaceable(out, about)
    for name, _ in models:  # check all before spending hours on the first
        locate(resolve_spec(name), options["of_each"][name]["weights"], offline=options["offline"])
    rows: list[Any] = []
    failures: dict[str, Any] = {}  # by image name: an image may fail for some backbones only
    for name, registers in models:
        loaded = load(name, options["of_each"][name], registers=registers)
        unusable: list[Any] = []
        first = rows[0] if rows else None
        with image_progress(loaded.name) as progress:
            rows.append(measure(stream(), loaded, chosen, first, failures=unusable, progress=progress))
        failures |= {failure.image: failure for failure in unusable}
        del loaded
        # after each: results are kept if, for example, the next backbone does not have the layer
        if len(rows) >= measured:  # no fewer than an interrupted command has left
            save_artifacts(out, rows, about)
    warn_of_failures(failures.values(), images)
    click.echo(summary_table(rows))
    click.echo("\nLinear probes, with 95 % intervals over images:")
    click.echo(text_table(probe_rows(rows)))
    print_line(f"full results are in {out}")


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
