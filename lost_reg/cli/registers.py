"""The commands on registers and artifacts: `register-neurons` and `artifacts`."""

from __future__ import annotations

from pathlib import Path

import click

from lost_reg.cli.common import (
    added_registers,
    default_name,
    load,
    model_options,
    neurons_of_other_weights,
    register_options,
    say,
    stream_options,
    tell,
)


@click.command("register-neurons")
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
@model_options
@stream_options
def register_neurons(inputs, backbone, out, register_rule, **options) -> None:
    """Find the neurons that make outliers, from images without labels, for `run --register-neurons`.

    After Jiang et al. 2025: the neurons of the early blocks that are most active where norms are large.
    """
    from lost_reg.backbones.registers import check_can_be_added, check_new, write_neurons
    from lost_reg.backbones.zoo import find_spec

    spec = find_spec(backbone)
    check_can_be_added(spec.name, spec.registers)
    out = out or Path(f"{default_name('register-neurons', backbone)}.json")
    check_new(out)
    search = {name: options.pop(name) for name in ("threshold", "detect_layer", "top_layer", "top_k")}
    search["rule"] = register_rule
    given = {name: value for name, value in search.items() if value is not None}
    files, stream = _image_files(inputs, options)

    from lost_reg.artifacts.neuron_search import SearchOptions, find_register_neurons
    from lost_reg.progress import image_progress

    chosen = SearchOptions(**given)
    loaded = load(backbone, options)
    failures: list = []
    with image_progress(loaded.name) as progress:
        found = find_register_neurons(stream(), loaded, chosen, failures=failures, progress=progress)
    write_neurons(out, found)
    _warn_of(failures, len(files))
    facts = found.found
    share = f"{100 * facts['outlier_share']:.2f} % of the patches"
    tell(
        f"{len(found.neurons)} neurons of layers 0 to {facts['top_layer']}, from {facts['images']:,} images: "
        f"{share} have a norm above {facts['threshold']:.4g} after layer {facts['detect_layer']}; in {out}"
    )


@click.command()
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
@register_options
@model_options
@stream_options
def artifacts(
    inputs, backbones, out, layer, cutoff, outliers, reference,
    test_time_registers, register_neurons, register_rule, **options,
) -> None:  # fmt: skip
    """Measure the outliers of backbones: norms by layer, their share, and what they do.

    Writes artifacts.json, and figures if matplotlib is installed. With test-time registers, the backbone that
    the neurons are of is measured twice: as it is, and with them.
    """
    from lost_reg.backbones.registers import check_new
    from lost_reg.backbones.zoo import find_spec

    reference = find_spec(reference or backbones[0]).name
    wanted = list(dict.fromkeys([reference, *(find_spec(name).name for name in backbones)]))
    if options["weights"] not in (None, "random") and len(wanted) > 1:
        raise click.UsageError("a weight file is of one backbone: name one --backbone with --weights FILE")
    added = added_registers(test_time_registers, register_neurons, register_rule)
    measured = [(name, None) for name in wanted]
    if added:
        measured.append((_backbone_of(added, wanted), added))
    check_new(out / "artifacts.json")
    names, stream = _image_files(inputs, options)

    from lost_reg.artifacts.measure import ArtifactOptions, measure, summary_table, write_artifacts
    from lost_reg.backbones.vit import resolve_spec
    from lost_reg.backbones.weights import find_weights
    from lost_reg.progress import image_progress

    given = {} if cutoff is None else {"cutoff": cutoff}
    chosen = ArtifactOptions(layer=layer, rule=outliers, **given)
    for name in wanted:  # before hours are spent on the first of them
        find_weights(resolve_spec(name), options["weights"], download=options["download"])
    rows: list = []
    failures: dict = {}  # by the image's name: what one backbone cannot take, another may
    for name, registers in measured:  # one model at a time, the reference first
        loaded = load(name, options, registers=registers)
        if other := neurons_of_other_weights(loaded):
            say("Note", other)
        unusable: list = []
        first = rows[0] if rows else None
        with image_progress(loaded.name) as progress:
            rows.append(measure(stream(), loaded, chosen, first, failures=unusable, progress=progress))
        failures |= {failure.image: failure for failure in unusable}
        del loaded
        # each time: what was measured stays if the next backbone turns out not to have the layer, say
        missing = write_artifacts(out, rows, reference, chosen, max_side=stream().max_side)
    _warn_of(failures.values(), len(names))
    if missing:
        say("Note", missing)
    click.echo(summary_table(rows))
    tell(f"all of it is in {out}")


def _backbone_of(added, wanted: list[str]) -> str:
    """Which of the wanted backbones gets the test-time registers."""
    from lost_reg.backbones.zoo import find_spec

    given = added.neurons.backbone
    without = [name for name in wanted if not find_spec(name).registers]
    candidates = [name for name in wanted if name == given] if given else without
    if len(candidates) > 1:
        raise click.UsageError(
            f'the neurons file does not say whether it is of {" or ".join(candidates)}: add "backbone" to it'
        )
    name = (candidates or wanted)[0]
    added.check_backbone(name, find_spec(name).registers)  # if it is of none of them, this says so
    return name


def _image_files(inputs, options: dict):
    """The names of the images, and a function that makes a stream of them; takes its options out."""
    from lost_reg.images.inputs import list_images

    files = list_images(inputs)
    for folder in files.failures:
        say("Warning", f"{folder.image} {folder.reason}")
    names = files.names[: options.pop("limit")]
    given = {name: options.pop(name) for name in ("max_side", "batch_size", "workers")}
    given = {name: value for name, value in given.items() if value is not None}

    def stream():
        from lost_reg.artifacts.token_stats import ImageStream

        return ImageStream([files.root / name for name in names], names, **given)

    return names, stream


def _warn_of(failures, images: int) -> None:
    from lost_reg.images.reading import shown_names

    if failures:
        shown = shown_names(f"{failure.image} ({failure.reason})" for failure in failures)
        say("Warning", f"{len(failures):,} of {images:,} images could not be used: {shown}")
