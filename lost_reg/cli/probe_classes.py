"""`lost-reg probe --task classes`: classes from one token of each image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lost_reg.cli.imports import import_models
from lost_reg.cli.model_options import added_registers, get_weights, load
from lost_reg.cli.options import chosen_loader, given, together
from lost_reg.cli.output import print_note

if TYPE_CHECKING:
    from lost_reg.probing.records import ProbeRecord

class_options = together(
    click.option(
        "--tokens", metavar="KIND,...",
        help="Kinds of tokens, one of each from an image: cls, register, normal, outlier, mean.  "
        "[default: all that the backbone has]",
    ),
    click.option(
        "--layer", type=int,
        help="Outliers are counted after this block; negative counts from the last.  [default: -2]",
    ),
    click.option(
        "--outliers", "rule", type=click.Choice(["sigma", "fixed"]),
        help="Outliers have a norm above mean + 3 sigma of the dataset's patches, or above --cutoff.  "
        "[default: sigma]",
    ),
    click.option("--cutoff", type=float, help="The norm that `--outliers fixed` uses.  [default: 150]"),
    click.option(
        "--resize", type=click.IntRange(min=1), metavar="PIXELS",
        help="Scale images to this shorter side.  [default: 256]",
    ),
    click.option(
        "--crop", type=click.IntRange(min=1), metavar="PIXELS",
        help="Cut a square of this side, to the nearest patch, from their centre.  [default: 224]",
    ),
)  # fmt: skip


def probe_classes(dataset: str, out: Path, options: dict[str, Any]) -> ProbeRecord:
    """Probe single tokens for the classes of images."""
    from lost_reg.datasets.catalog import data_root
    from lost_reg.probing.catalog import find_labelled

    added = added_registers(options)
    root = data_root(options["data_root"])
    labelled = find_labelled(dataset, root, download=options["download"], seed=options["seed"])
    labelled = labelled.limited(options["limit"], options["seed"])
    labelled.check_trainable()
    get_weights(options["backbone"], options)
    import_models()

    from lost_reg.artifacts.options import ArtifactOptions
    from lost_reg.probing import class_probe
    from lost_reg.progress import progress_of_phases

    outliers = ArtifactOptions(**given(options, ("layer", "rule", "cutoff")))
    kinds = options["tokens"] and tuple(kind.strip() for kind in options["tokens"].split(","))
    chosen = class_probe.ClassProbeOptions(
        tokens=kinds, outliers=outliers, **given(options, ("seed", "resize", "crop"))
    )
    loaded = load(options["backbone"], options, registers=added)
    print_note(f"{labelled.name}: {labelled.title}; splits: {labelled.split_by}")
    with progress_of_phases() as phase:
        record, _ = class_probe.probe_classes(labelled, loaded, out, chosen, chosen_loader(options), phase)
    return record
