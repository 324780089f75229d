"""The command `train head`."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click

from lost_reg.cli.engine_options import (
    actor_options,
    choose_engine,
    closing_engine,
    engine_of_backbone,
)
from lost_reg.cli.imports import import_models
from lost_reg.cli.model_options import load, model_options
from lost_reg.cli.options import (
    chosen_loader,
    given,
    image_root_of,
    image_root_options,
    loader_options,
    overwrite_option,
    resume_or_overwrite,
)
from lost_reg.cli.output import print_line, print_message, print_note
from lost_reg.cli.setting_options import options_of, without_native
from lost_reg.discovery.features import FeatureConfig
from lost_reg.text import counted, shown_names
from lost_reg.training.head_config import FEATURES, HeadTraining, TrainOptions


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), default="head", show_default=True,
    help="The folder of the head.",
)  # fmt: skip
@options_of(HeadTraining)
@options_of(FeatureConfig, **vars(FEATURES))
@model_options
@loader_options
@actor_options
@image_root_options
@click.option("--resume", is_flag=True, help="Continue a training that was interrupted.")
@overwrite_option
def head(run: Path, out: Path, resume: bool, overwrite: bool, **options: Any) -> None:
    """Train one linear layer to see what a run found.

    RUN is the folder of a run with --masks, of any method. The layer learns from its masks, without labels,
    and then from its own predictions; --limit takes images at random. `lost-reg run --method head --head
    HEAD` finds objects with it. Some images are held out: on them, `lost-reg score` of such a run says how it
    compares with the run that it learned from. The backbone is that of the run, and so are its weights,
    unless --weights names where they are now.
    """
    from lost_reg.runs.folder import read_run
    from lost_reg.runs.heads import check_free_for_head
    from lost_reg.training.head_images import images_to_train_on
    from lost_reg.training.run_backbone import backbone_and_weights, check_same_weights

    resume_or_overwrite({"resume": resume, "overwrite": overwrite})
    choose_engine(options)
    changes = without_native(given(options, [item.name for item in fields(FeatureConfig)]))
    scale = {"max_side": None} if "square" in changes else {}
    features = replace(FEATURES, **{**scale, **changes})
    names = [item.name for item in fields(HeadTraining)]
    training = HeadTraining(features=features, **given(options, names))
    check_free_for_head(out, resume=resume, overwrite=overwrite)
    results = read_run(run)
    chosen = TrainOptions(chosen_loader(options), options["limit"], image_root_of(options), resume, overwrite)
    images_to_train_on(results, training, chosen)  # says what is wrong with them before reading weights
    are_named = options["weights"] is not None
    backbone, weights = backbone_and_weights(results, None, options["weights"])
    import_models()

    from lost_reg.progress import progress_of_phases
    from lost_reg.training.head import train_head

    options["weights"] = weights
    loaded = load(backbone, options, print_note)
    if not are_named:
        check_same_weights(results, loaded)
    context = click.get_current_context().find_root().obj
    context.message = lambda: f"what was done is in {out}; --resume continues"
    chosen = replace(chosen, engine=engine_of_backbone(options, backbone))
    with closing_engine(chosen.engine), progress_of_phases() as progress:
        trained = train_head(results, loaded, out, training, chosen, progress=progress)
    _print(trained, out)


def _print(trained: Any, out: Path) -> None:
    if trained.failures:
        count, reasons = len(trained.failures), (f"{name} ({why})" for name, why in trained.failures.items())
        print_message(
            "Warning", f"{counted(count, 'image')} could not be used: {shown_names(reasons, of=count)}"
        )
    print_line(
        f"a head of {counted(len(trained.head.weight), 'weight')}, trained on "
        f"{counted(trained.images, 'image')}; {counted(trained.held_out, 'image')} held out; in {out}"
    )
    print_line(f"`lost-reg run IMAGES --backbone {trained.head.backbone} --method head --head {out}` uses it")
