"""`lost-reg probe --task classes`: classes from one token of each image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lost_reg.cli.engine_options import closing_engine, engine_of_backbone
from lost_reg.cli.imports import import_models
from lost_reg.cli.model_options import added_registers, get_weights, load
from lost_reg.cli.options import chosen_loader, given, together
from lost_reg.cli.output import print_note
from lost_reg.cli.parameter_types import NumberOrFile, Several

if TYPE_CHECKING:
    from lost_reg.artifacts.records import Artifacts
    from lost_reg.probing.records import ProbeRecord

class_options = together(
    click.option(
        "--tokens", type=Several(["cls", "register", "normal", "outlier", "mean"]), metavar="KIND,...",
        help="Kinds of tokens, one of each from an image: cls, register, normal, outlier, mean.  "
        "[default: all that the backbone has]",
    ),
    click.option(
        "--layer", type=int,
        help="Outliers are counted after this block; negative counts from the last.  [default: -2]",
    ),
    click.option(
        "--outliers", "rule", type=click.Choice(["sigma", "fixed", "reference"]),
        help="Outliers have a norm above mean + 3 sigma of the dataset's patches, --cutoff, or the 98th "
        "percentile of a reference, which an artifacts.json has.  [default: sigma]",
    ),
    click.option(
        "--cutoff", type=NumberOrFile(), metavar="NUMBER|FILE",
        help="The norm that `--outliers fixed` uses; or an artifacts.json, for the cut-off that was measured "
        "there of this backbone.  [default: 150]",
    ),
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
    from lost_reg.artifacts.options import ArtifactOptions
    from lost_reg.datasets.catalog import data_root
    from lost_reg.probing.catalog import find_labelled

    artifacts = _artifacts_of(options)
    names = ("layer", "rule") if artifacts else ("layer", "rule", "cutoff")
    outliers = ArtifactOptions(**given(options, names))
    added = added_registers(options)
    root = data_root(options["data_root"])
    labelled = find_labelled(dataset, root, download=options["download"], seed=options["seed"])
    labelled = labelled.limited(options["limit"], options["seed"])
    labelled.check_trainable()
    get_weights(options["backbone"], options)
    import_models()

    from lost_reg.probing import class_probe
    from lost_reg.probing.cutoffs import outliers_as_measured
    from lost_reg.probing.options import ProbeOptions
    from lost_reg.progress import progress_of_phases

    chosen = class_probe.ClassProbeOptions(
        tokens=options["tokens"], outliers=outliers, **given(options, ("seed", "resize", "crop"))
    )
    loaded = load(options["backbone"], options, registers=added)
    if artifacts:
        outliers, what = outliers_as_measured(
            options["cutoff"], artifacts, loaded, options["layer"], options["rule"]
        )
        chosen = replace(chosen, outliers=outliers)
        print_note(f"outliers have a norm above {what}")
    print_note(f"{labelled.name}: {labelled.title}; splits: {labelled.split_by}")
    engine = engine_of_backbone(options, options["backbone"], added)
    how = ProbeOptions(chosen_loader(options), options["overwrite"], engine)
    with closing_engine(engine), progress_of_phases() as phase:
        record, _ = class_probe.probe_classes(labelled, loaded, out, chosen, how, phase)
    return record


def _artifacts_of(options: dict[str, Any]) -> Artifacts | None:
    """What is in the file of --cutoff, if it is one."""
    from lost_reg.artifacts.records import read_artifacts

    cutoff, rule = options["cutoff"], options["rule"]
    if isinstance(cutoff, Path):
        return read_artifacts(cutoff)
    if rule == "reference":
        raise click.UsageError(
            "--outliers reference is measured by `lost-reg artifacts`: give its artifacts.json as --cutoff"
        )
    if cutoff is not None and rule != "fixed":
        raise click.UsageError("a number as --cutoff is for --outliers fixed")
    return None
