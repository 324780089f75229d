"""The command `draw`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from lost_reg.cli.image_streams import warn_of_failures
from lost_reg.cli.imports import import_models
from lost_reg.cli.model_options import load, weights_options
from lost_reg.cli.options import (
    chosen_loader,
    continued_by_itself,
    image_root_of,
    image_root_options,
    loader_options,
)
from lost_reg.cli.output import print_line
from lost_reg.text import agreeing, counted

_KINDS = ("pictures", "maps")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--only", type=click.Choice(_KINDS), help="Make only the pictures, or only the maps.  [default: both]"
)
@image_root_options
@weights_options
@loader_options
def draw(run: Path, only: str | None, **options: Any) -> None:
    """Make the pictures and maps of a finished run.

    Pictures show each image with its boxes, seed and masks; maps are for `lost-reg report`, and take the
    features again. Both go into the folder of the run, as with `lost-reg run --visualize --save-maps`. What
    is there already is not made again. --limit takes the first images of the run.
    """
    from lost_reg.runs.folder import read_run
    from lost_reg.runs.image_folder import image_folder

    results = read_run(run)
    if options["limit"]:
        first = list(results.predictions.items())[: options["limit"]]
        results = replace(results, predictions=dict(first))
    continued_by_itself()
    images = image_folder(run, results.record, image_root_of(options))
    for kind in [only] if only else _KINDS:
        drawn = _pictures(results, images) if kind == "pictures" else _maps(results, images, options)
        before = f", {drawn.there:,} {agreeing(drawn.there, 'were')} there before" if drawn.there else ""
        what = counted(drawn.made, {"pictures": "picture", "maps": "file"}[kind])
        of_maps = " of maps" if kind == "maps" else ""
        print_line(f"{what}{of_maps} in {run / kind}{before}")
        warn_of_failures(drawn.failures, len(results.predictions))


def _pictures(results: Any, images: Any) -> Any:
    from lost_reg.progress import image_progress
    from lost_reg.runs.drawing import draw_pictures

    with image_progress("pictures") as progress:
        return draw_pictures(results, images, progress)


def _maps(results: Any, images: Any, options: dict[str, Any]) -> Any:
    import_models()

    from lost_reg.images.reading import as_recorded
    from lost_reg.progress import image_progress
    from lost_reg.runs.drawing import draw_maps, recorded_registers, recorded_setting
    from lost_reg.training.run_backbone import backbone_and_weights, check_same_weights

    recorded_setting(results)  # refuses what cannot be made, before weights are read
    name, weights = backbone_and_weights(results, None, options["weights"])
    precision = results.settings["precision"]
    own = {**options, "weights": weights, "precision": precision}
    loaded = load(name, own, registers=recorded_registers(results))
    check_same_weights(results, loaded)
    loader = replace(chosen_loader(options), **as_recorded(results.settings))
    with image_progress("maps") as progress:
        return draw_maps(results, images, loaded, loader, progress)
