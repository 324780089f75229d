"""The command `explore`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from socket import socket
from typing import Any

import click

from lost_reg.backbones import DEFAULT
from lost_reg.cli.completions import backbone_names
from lost_reg.cli.image_streams import note_passed_over
from lost_reg.cli.imports import import_models
from lost_reg.cli.model_options import (
    added_registers,
    get_weights,
    load,
    model_options,
    own_weights,
    register_options,
)
from lost_reg.cli.options import background_option, given
from lost_reg.cli.output import print_line
from lost_reg.errors import LostRegError
from lost_reg.explore import MOST_SIDE


@click.command()
@click.argument("inputs", nargs=-1, metavar="[FILES_FOLDERS_GLOBS...]")
@click.option(
    "--backbone", "-b", "backbones", multiple=True, default=[DEFAULT], show_default=True,
    shell_complete=backbone_names,
    help="A backbone to look at, or NAME=FILE with its own weights; repeat it for several side by side.",
)  # fmt: skip
@click.option(
    "--max-side", type=click.IntRange(min=16, max=MOST_SIDE), metavar="PIXELS",
    help="Scale images down so that the longer side is at most this.  [default: each preset's, or "
    "448]",
)  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=7860, show_default=True,
    help="The port to listen at; 0: any that is free.",
)  # fmt: skip
@click.option("--open/--no-open", "opens", default=True, help="Open the page in a browser.  [default: open]")
@click.option("--follow-links", is_flag=True, help="Also read images that are links out of their folder.")
@background_option
@register_options
@model_options
def explore(
    inputs: tuple[str, ...], backbones: tuple[str, ...], host: str, port: int, opens: bool, **options: Any
) -> None:
    """Look into images on a page in the browser, patch by patch.

    The page takes images that are dropped on it, and pages through those of the inputs, if there are any. It
    shows backbones and settings side by side: what a method finds, the affinities of a patch and what LOST
    expands from it, norms of tokens, and attention. Needs `pip install 'lost-reg[explore]'`.
    """
    from lost_reg.backbones.zoo import TIMM_PREFIX, find_spec

    added = added_registers(options)
    each: dict[str, dict[str, Any]] = {}  # the options of each backbone, with its weights
    for backbone in backbones:
        name, own = own_weights(backbone, options)
        each[name if name.startswith(TIMM_PREFIX) else find_spec(name).name] = own
    if options["weights"] not in (None, "random") and len(each) > 1:
        raise click.UsageError("a weight file fits one backbone: give each its own, as --backbone NAME=FILE")
    with _reader(inputs, options) as reader, _listening(host, port) as listening:
        for name, own in each.items():
            get_weights(name, own)
        models = _models(each, added)
        stopping = click.get_current_context().find_root().obj
        stopping.message = lambda: "the page is closed"

        def on_ready(address: str) -> None:
            import webbrowser

            print_line(f"{', '.join(each)} at {address}; Ctrl-C ends it")
            if opens:
                webbrowser.open(address)

        from lost_reg.explore.server import serve

        serve(listening, host, models, reader, options["max_side"], on_ready)


def _reader(inputs: tuple[str, ...], options: dict[str, Any]) -> Any:
    from lost_reg.explore.reader import Reader

    reader = Reader(inputs, **given(options, ("background", "follow_links")))
    if reader.files:
        note_passed_over(reader.files)
    return reader


def _listening(host: str, port: int) -> AbstractContextManager[socket]:
    """See `bound`; imports what the page needs, which takes seconds."""
    from lost_reg.explore.server import bound, import_gradio

    import_gradio()
    return bound(host, port)


def _models(each: dict[str, dict[str, Any]], added: Any) -> list[Any]:
    """The backbones, by name, with their options; those that test-time registers fit, with and without."""
    import_models()

    from lost_reg.backbones.timm_models import resolve_spec
    from lost_reg.explore.columns import Model

    without = [name for name in each if added and not resolve_spec(name).registers]
    fits = [name for name in without if added.neurons.backbone in (None, name)]
    models = []
    for name, options in each.items():
        plain = load(name, options)
        models.append(Model(plain, load(name, options, registers=added) if name in fits else None))
    if added and not fits:
        raise LostRegError(
            f"test-time registers need a `backbone` without registers, and the one of the neurons file "
            f"({added.neurons.backbone or 'which does not say'})"
        )
    return models
