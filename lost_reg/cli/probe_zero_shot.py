"""`lost-reg probe --task zero-shot`: classes from their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lost_reg.cli.image_streams import warn_of_failures
from lost_reg.cli.imports import import_models
from lost_reg.cli.model_options import added_registers
from lost_reg.cli.options import chosen_loader, shown_rows, together
from lost_reg.cli.output import print_line, print_note

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


def probe_zero_shot(dataset: str, out: Path, options: dict[str, Any]) -> None:
    """Classify images by the names of the classes."""
    from lost_reg.datasets.catalog import data_root
    from lost_reg.files import check_new
    from lost_reg.probing.catalog import find_labelled
    from lost_reg.probing.records import PROBE_FILE, write_probe

    check_new(out / PROBE_FILE)
    added = added_registers(options)
    root, seed = data_root(options["data_root"]), options["seed"]
    labelled = find_labelled(dataset, root, download=options["download"], seed=seed)
    labelled = labelled.limited(options["limit"], seed)
    import_models()

    from lost_reg.probing import open_clip_models, tables, zero_shot
    from lost_reg.probing.token_cache import remove_tokens
    from lost_reg.progress import image_progress
    from lost_reg.runs.writer import while_locked
    from lost_reg.types import Failure

    prompts = zero_shot.prompts_of(labelled, options["class_names"], options["templates"])
    names = ("text_model", "weights", "offline", "device", "precision")
    clip = open_clip_models.load_open_clip(
        options["backbone"], registers=added, **{name: options[name] for name in names}
    )
    if clip.backbone.weights.source == "random":
        print_note(f"{clip.name} runs with random weights: its results are meaningless")
    print_note(f"{labelled.name}: {labelled.title}; splits: {labelled.split_by}")
    click.get_current_context().find_root().obj.message = lambda: "the same command continues"
    with while_locked(out), image_progress("zero-shot") as progress:
        record, outcomes = zero_shot.probe_zero_shot(
            labelled, clip, prompts, out, chosen_loader(options), seed=seed, progress=progress
        )
        write_probe(out, record, outcomes)
        remove_tokens(out)
    failures = (Failure(*one) for one in record.failures.items())
    warn_of_failures(failures, record.settings["images"]["test"])
    click.echo(shown_rows(tables, record, options["as_json"], options["as_csv"]))
    print_line(f"the probe is in {out}")
