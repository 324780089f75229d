"""`lost-reg probe --task segmentation` and `--task depth`: dense labels from patch tokens."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from lost_reg.cli.image_streams import warn_of_failures
from lost_reg.cli.imports import import_models
from lost_reg.cli.model_options import added_registers, get_weights, load, note_trial
from lost_reg.cli.options import chosen_loader, given, shown_rows
from lost_reg.cli.output import print_note
from lost_reg.cli.setting_options import options_of
from lost_reg.probing.dense_options import DenseOptions

dense_options = options_of(DenseOptions)


def probe_segmentation(dataset: str, out: Path, options: dict[str, Any]) -> None:
    """Probe patch tokens for the class of each pixel."""
    from lost_reg.datasets.catalog import data_root
    from lost_reg.datasets.pixel_labels import find_segmentation

    _probe(find_segmentation(dataset, data_root(options["data_root"])), "segmentation", out, options)


def probe_depth(dataset: str, out: Path, options: dict[str, Any]) -> None:
    """Probe patch tokens for the depth of each pixel."""
    from lost_reg.datasets.catalog import data_root
    from lost_reg.datasets.pixel_labels import find_depth

    _probe(find_depth(dataset, data_root(options["data_root"])), "depth", out, options)


def _probe(data: Any, task: Any, out: Path, options: dict[str, Any]) -> None:
    from lost_reg.files import check_new
    from lost_reg.probing import tables
    from lost_reg.probing.records import PROBE_FILE

    if options["download"]:
        raise click.UsageError("datasets of dense tasks are downloaded by hand: leave out --download")
    chosen = DenseOptions(**given(options, [item.name for item in fields(DenseOptions)]))
    data = data.limited(options["limit"], options["seed"])
    check_new(out / PROBE_FILE)
    registers = added_registers(options)
    get_weights(options["backbone"], options)
    import_models()

    from lost_reg.probing.dense import probe_dense
    from lost_reg.progress import progress_of_phases
    from lost_reg.types import Failure

    backbone = load(options["backbone"], options, registers=registers)
    note_trial(backbone)
    context = click.get_current_context().find_root().obj
    context.message = lambda: f"what was done is in {out}; the same command continues"
    with progress_of_phases() as progress:
        record = probe_dense(data, backbone, out, task, chosen, chosen_loader(options), progress=progress)
    failures = [Failure(name, reason) for name, reason in record.failures.items()]
    warn_of_failures(failures, len(data.train) + len(data.test))
    click.echo(shown_rows(tables, record, options["as_json"], options["as_csv"]))
    print_note(f"the probe is in {out}")
