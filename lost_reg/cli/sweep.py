"""The command `sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lost_reg.backbones import DEFAULT
from lost_reg.cli.completions import backbone_names, dataset_names, method_names
from lost_reg.cli.imports import import_models
from lost_reg.cli.model_options import get_weights, load, model_options, note_trial, own_weights
from lost_reg.cli.options import (
    background_option,
    chosen_loader,
    data_root_option,
    default_name,
    given,
    loader_options,
    max_side_option,
    one_of_json_and_csv,
    overwrite_option,
    resume_or_overwrite,
    shown_rows,
    unannotated_option,
)
from lost_reg.cli.output import print_line, print_message, print_note, print_notes
from lost_reg.cli.run import check_failures, progress_of_run
from lost_reg.cli.setting_options import SweepCommand, values_given
from lost_reg.discovery.features import FeatureConfig
from lost_reg.runs.options import RunOptions

_EACH = {"yes": [True], "no": [False], "both": [False, True]}
_AS_PUBLISHED = "[default: as each method is published]"


@click.command(cls=SweepCommand)
@click.option(
    "--backbone",
    "-b",
    shell_complete=backbone_names,
    default=DEFAULT,
    show_default=True,
    help="As for `run`.",
)
@click.option(
    "--dataset",
    "-d",
    shell_complete=dataset_names,
    required=True,
    help="As for `run`; it needs ground truth.",
)
@click.option(
    "--out", "-o", type=click.Path(path_type=Path),
    help="The sweep folder.  [default: results/DATASET-BACKBONE-sweep]",
)  # fmt: skip
@click.option(
    "--method",
    "methods",
    shell_complete=method_names,
    default="lost",
    show_default=True,
    metavar="NAMES",
    help="Discovery methods to try, separated by commas, such as lost,tokencut; see `lost-reg methods`.",
)
@click.option(
    "--facet",
    metavar="VALUES",
    help=f"Facets to try: k, q, v, or several concatenated, such as qkv.  {_AS_PUBLISHED}",
)
@click.option(
    "--layer", metavar="VALUES",
    help="Layers to try, all from one forward pass, but each with its own work of the methods.  "
    f"[default: {FeatureConfig.__dataclass_fields__['layer'].metadata['sweep']}]",
)  # fmt: skip
@click.option(
    "--normalize", type=click.Choice(list(_EACH)), default="both", show_default=True,
    help="L2-normalise the features, or not, or try both where that makes a difference.",
)  # fmt: skip
@click.option(
    "--center", type=click.Choice(list(_EACH)),
    help=f"Subtract the image's mean patch feature, or not, or try both.  {_AS_PUBLISHED}",
)  # fmt: skip
@max_side_option
@model_options
@background_option
@loader_options
@data_root_option
@unannotated_option
@click.option(
    "--tune-fraction", type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.1, show_default=True,
    help="Share of the images used to choose a setting; the choice is scored on the rest.",
)  # fmt: skip
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Random seed for drawing those images.",
)
@click.option(
    "--resume", is_flag=True, help="Continue the sweep in its folder; a finished one is only scored again."
)
@overwrite_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every setting.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, one line per setting.")
def sweep(
    backbone: str, dataset: str, out: Path | None, as_json: bool, as_csv: bool, **options: Any
) -> None:  # fmt: skip
    """Try many settings, of one method or several, in one pass, and choose one fairly.

    All settings share one forward pass per image, and one size of the images. An option applies to the
    methods that have it. One setting is chosen on a small share of the images and scored on the rest. The
    best in hindsight is shown for comparison. corloc.json in the sweep folder has every setting's CorLoc.

    VALUES is a list separated by commas. An item is a single value or a range that includes both ends:
    FIRST:LAST, such as -4:-1, or START:STOP:STEP, such as -1:0:0.05.
    """
    from lost_reg.backbones.zoo import find_spec
    from lost_reg.datasets.base import LEAVE_OUT
    from lost_reg.datasets.catalog import data_root, find_dataset, short_name
    from lost_reg.runs.folder import SWEEP_FILE, check_free
    from lost_reg.scoring import sweep_scores, sweep_text

    one_of_json_and_csv(as_json, as_csv)
    resume_or_overwrite(options)
    settings = _settings(options)
    backbone, options = own_weights(backbone, options)
    find_spec(backbone)
    out = out or Path("results", f"{default_name(short_name(dataset), backbone)}-sweep")
    check_free(out, resume=options["resume"], overwrite=options["overwrite"], record_file=SWEEP_FILE)
    root = data_root(options["data_root"])
    found = find_dataset(dataset, root)
    if options["unannotated"] == LEAVE_OUT:
        found = found.annotated()
    found.check_annotated()
    print_notes(found.notes)
    chosen = RunOptions(
        loader=chosen_loader(options),
        limit=options["limit"],
        resume=options["resume"],
        overwrite=options["overwrite"],
        data_root=root,
    )
    tune_fraction, seed = options["tune_fraction"], options["seed"]
    # raise for too few images before doing the work
    sweep_scores.tuning_images(len(found.images[: chosen.limit]), tune_fraction, seed)
    _run_sweep(found, backbone, settings, out, chosen, options)
    scores = sweep_scores.score_sweep(
        out,
        root=root,
        tune_fraction=tune_fraction,
        seed=seed,
        partial=chosen.limit is not None,
        unannotated=options["unannotated"],
    )
    sweep_text.write_scores(scores)
    click.echo(shown_rows(sweep_text, scores, as_json, as_csv))
    if warning := sweep_text.chance_warning(scores):
        print_message("Warning", warning)
    if not (as_json or as_csv):
        print_line(f"results in {out}")


def _run_sweep(
    dataset: Any, backbone: str, settings: Any, out: Path, chosen: RunOptions, options: dict[str, Any]
) -> None:
    get_weights(backbone, options)
    import_models()

    from lost_reg.runs.sources import source_of_dataset
    from lost_reg.runs.sweep import sweep as sweep_source

    loaded = load(backbone, options)
    note_trial(loaded)
    with progress_of_run(loaded.name, out) as progress:
        summary = sweep_source(
            source_of_dataset(dataset), loaded, out, settings, chosen, progress=progress, note=print_note
        )
    check_failures(summary, strict=False)


def _settings(options: dict[str, Any]) -> Any:
    """The settings that the command's options ask for."""
    from lost_reg.runs.sweep_grid import parse_values, settings_of_methods

    listed = {name: parse_values(text) for name, text in given(options, ("facet", "layer")).items()}
    chosen = {name: _EACH[word] for name, word in given(options, ("center", "normalize")).items()}
    of_methods = {name: parse_values(text) for name, text in values_given(options).items()}
    methods = [name.strip() for name in options["methods"].split(",")]
    return settings_of_methods(methods, {**listed, **chosen}, of_methods, options["max_side"])
