"""`lost-reg probe --task segmentation` and `--task depth`: dense labels from patch tokens."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lost_reg.cli.engine_options import closing_engine, engine_of_backbone
from lost_reg.cli.imports import import_models
from lost_reg.cli.model_options import added_registers, get_weights, load, note_trial
from lost_reg.cli.options import chosen_loader, given
from lost_reg.cli.setting_options import options_of
from lost_reg.probing.dense_options import DenseOptions

if TYPE_CHECKING:
    from lost_reg.probing.records import ProbeRecord

dense_options = options_of(DenseOptions)


def probe_segmentation(dataset: str, out: Path, options: dict[str, Any]) -> ProbeRecord:
    """Probe patch tokens for the class of each pixel."""
    from lost_reg.datasets.pixel_labels import find_segmentation

    return _probe(find_segmentation, dataset, "segmentation", out, options)


def probe_depth(dataset: str, out: Path, options: dict[str, Any]) -> ProbeRecord:
    """Probe patch tokens for the depth of each pixel."""
    from lost_reg.datasets.pixel_labels import find_depth

    return _probe(find_depth, dataset, "depth", out, options)


def _probe(find: Any, dataset: str, task: Any, out: Path, options: dict[str, Any]) -> ProbeRecord:
    from lost_reg.datasets.catalog import data_root

    if options["download"]:
        raise click.UsageError("datasets of dense tasks are downloaded by hand: leave out --download")
    chosen = DenseOptions(**given(options, [item.name for item in fields(DenseOptions)]))
    data = find(dataset, data_root(options["data_root"])).limited(options["limit"], options["seed"])
    registers = added_registers(options)
    get_weights(options["backbone"], options)
    import_models()

    from lost_reg.probing.dense import probe_dense
    from lost_reg.probing.options import ProbeOptions
    from lost_reg.progress import progress_of_phases

    backbone = load(options["backbone"], options, registers=registers)
    note_trial(backbone)
    engine = engine_of_backbone(options, options["backbone"], registers)
    how = ProbeOptions(chosen_loader(options), options["overwrite"], engine)
    with closing_engine(engine), progress_of_phases() as progress:
        return probe_dense(data, backbone, out, task, chosen, how, progress=progress)
