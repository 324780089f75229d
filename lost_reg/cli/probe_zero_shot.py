"""`lost-reg probe --task zero-shot`: classes from their names."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lost_reg.cli.engine_options import closing_engine, engine_of
from lost_reg.cli.imports import import_models
from lost_reg.cli.model_options import added_registers
from lost_reg.cli.options import chosen_loader, together
from lost_reg.cli.output import print_note

if TYPE_CHECKING:
    from lost_reg.probing.records import ProbeRecord

zero_shot_options = together(
    click.option(
        "--class-names", type=click.Path(path_type=Path), metavar="FILE",
        help="For zero-shot: the names of the classes in prompts, one a line, in the order of the dataset's "
        "classes.  [default: the dataset's names; open_clip's for ImageNet]",
    ),
    click.option(
        "--templates", type=click.Path(path_type=Path), metavar="FILE",
        help="For zero-shot: prompts, one a line, with {} for the name.  [default: open_clip's for ImageNet]",
    ),
    click.option(
        "--text-model", metavar="NAME",
        help="For zero-shot: open_clip's name of the model whose image tower the backbone is.  "
        "[default: that of the backbone openclip]",
    ),
)  # fmt: skip


def probe_zero_shot(dataset: str, out: Path, options: dict[str, Any]) -> ProbeRecord:
    """Classify images by the names of the classes."""
    from lost_reg.datasets.catalog import data_root
    from lost_reg.probing.catalog import find_labelled

    added = added_registers(options)
    root, seed = data_root(options["data_root"]), options["seed"]
    labelled = find_labelled(dataset, root, download=options["download"], seed=seed)
    labelled = labelled.limited(options["limit"], seed)
    import_models()

    from lost_reg.probing import open_clip_models, zero_shot
    from lost_reg.probing.options import ProbeOptions
    from lost_reg.progress import image_progress
    from lost_reg.text import agreeing, counted

    prompts = zero_shot.prompts_of(labelled, options["class_names"], options["templates"])
    names = ("text_model", "weights", "offline", "device", "precision")
    arguments = {"registers": added, **{name: options[name] for name in names}}
    clip = open_clip_models.load_open_clip(options["backbone"], **arguments)
    if clip.backbone.weights.source == "random":
        print_note(f"{clip.name} runs with random weights: its results are meaningless")
    classes, images = counted(len(labelled.classes), "class"), len(labelled.parts["test"])
    print_note(f"{labelled.name}: {classes}, {counted(images, 'test image')}; splits: {labelled.split_by}")
    count = len(prompts.names) * len(prompts.templates)
    print_note(f"{counted(count, 'prompt')} of {classes} {agreeing(count, 'are')} embedded after the images")
    engine = engine_of(options, partial(open_clip_models.load_image_tower, options["backbone"], **arguments))
    how = ProbeOptions(chosen_loader(options), options["overwrite"], engine)
    with closing_engine(engine), image_progress("zero-shot") as progress:
        record, _ = zero_shot.probe_zero_shot(labelled, clip, prompts, out, seed, how, progress=progress)
    return record
