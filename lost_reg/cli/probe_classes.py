"""`lost-reg probe --task classes`: classes from one token of each image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lost_reg.cli.image_streams import warn_of_failures
from lost_reg.cli.imports import import_models
from lost_reg.cli.model_options import added_registers, get_weights, load
from lost_reg.cli.options import chosen_loader, given, shown_rows, together
from lost_reg.cli.output import print_line, print_note

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


def probe_classes(dataset: str, out: Path, options: dict[str, Any]) -> None:
    """Probe single tokens for the classes of images."""
    from lost_reg.datasets.catalog import data_root
    from lost_reg.files import check_new
    from lost_reg.probing.catalog import find_labelled
    from lost_reg.probing.records import PROBE_FILE, write_probe

    check_new(out / PROBE_FILE)
    added = added_registers(options)
    root = data_root(options["data_root"])
    labelled = find_labelled(dataset, root, download=options["download"], seed=options["seed"])
    labelled = labelled.limited(options["limit"], options["seed"])
    labelled.check_trainable()
    get_weights(options["backbone"], options)
    import_models()

    from lost_reg.artifacts.options import ArtifactOptions
    from lost_reg.probing import class_probe, tables
    from lost_reg.probing.token_cache import remove_tokens
    from lost_reg.progress import progress_of_phases
    from lost_reg.runs.writer import while_locked
    from lost_reg.types import Failure

    outliers = ArtifactOptions(**given(options, ("layer", "rule", "cutoff")))
    kinds = options["tokens"] and tuple(kind.strip() for kind in options["tokens"].split(","))
    chosen = class_probe.ClassProbeOptions(
        tokens=kinds, outliers=outliers, **given(options, ("seed", "resize", "crop"))
    )
    loaded = load(options["backbone"], options, registers=added)
    print_note(f"{labelled.name}: {labelled.title}; splits: {labelled.split_by}")
    click.get_current_context().find_root().obj.message = lambda: "the same command continues"
    with while_locked(out), progress_of_phases() as phase:
        record, outcomes = class_probe.probe_classes(
            labelled, loaded, out, chosen, chosen_loader(options), phase
        )
        write_probe(out, record, outcomes)
        remove_tokens(out)
    images = sum(record.settings["images"].values())
    warn_of_failures((Failure(*one) for one in record.failures.items()), images)
    click.echo(shown_rows(tables, record, options["as_json"], options["as_csv"]))
    if not (options["as_json"] or options["as_csv"]):
        print_line(f"the probe is in {out}")
