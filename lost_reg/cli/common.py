"""What several modules of the command line share: options, and how things are said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from lost_reg.errors import one_line


def tell(text: str) -> None:
    """One line of what was asked for, on standard output."""
    click.echo(one_line(text))


def say(kind: str, text: str) -> None:
    """One line on standard error, such as "Note: ..."."""
    click.echo(f"{kind}: {one_line(text)}", err=True)


data_root_option = click.option(
    "--data-root",
    type=click.Path(path_type=Path),
    help="Folder of the datasets.  [default: $LOST_REG_DATA, then ./data]",
)


def _together(*options: Callable) -> Callable:
    """A decorator that gives a command several options; --help shows the last of them first."""

    def decorate(command):
        for option in options:
            command = option(command)
        return command

    return decorate


MODEL_OPTIONS = ("weights", "download", "device", "precision")


# The options of commands that load a model and no more.
model_options = _together(
    click.option(
        "--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True
    ),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ..."),
    click.option("--download", is_flag=True, help="Get weights that are not on this machine."),
    click.option("--weights", help="A weight file (.pth, .safetensors), or `random`."),
)  # fmt: skip


# The options of commands that can give a model test-time registers.
register_options = _together(
    click.option(
        "--register-rule", type=click.Choice(["paper", "code"]),
        help="How they take them: as the paper says, or as its published code does.  [default: paper]",
    ),
    click.option(
        "--register-neurons", type=click.Path(path_type=Path), metavar="FILE.json",
        help="The neurons whose activations they take, as `lost-reg register-neurons` writes them.",
    ),
    click.option(
        "--test-time-registers", type=click.IntRange(min=1), metavar="N",
        help="Add N registers to a model that was trained without; needs --register-neurons.",
    ),
)  # fmt: skip


def added_registers(count: int | None, neurons_file: Path | None, rule: str | None):
    """The test-time registers that `register_options` ask for, or None."""
    from lost_reg.backbones.registers import DEFAULT_RULE, AddedRegisters, read_neurons

    if count is None and neurons_file is None and rule is None:
        return None
    if count is None or neurons_file is None:
        raise click.UsageError("test-time registers need both --test-time-registers and --register-neurons")
    return AddedRegisters(read_neurons(neurons_file), count, rule or DEFAULT_RULE)


def neurons_of_other_weights(backbone) -> str | None:
    """A note, if a backbone's test-time registers take neurons that were found in other weights."""
    weights, added = backbone.weights, backbone.registers
    if added is None or added.neurons.are_of(weights.name, weights.sha256):
        return None
    return f"the register neurons were found in other weights than {weights.name}"


# The options of commands that go through images and find no boxes.
stream_options = _together(
    click.option("--limit", type=click.IntRange(min=1), help="Only the first so many images."),
    click.option(
        "--workers", type=click.IntRange(min=0), help="Decoding processes.  [default: by the machine]"
    ),
    click.option(
        "--batch-size", type=click.IntRange(min=1), help="Images of one size run together.  [default: 8]"
    ),
    click.option(
        "--max-side", type=click.IntRange(min=1), metavar="PIXELS",
        help="Scale larger images down.  [default: native resolution]",
    ),
)  # fmt: skip


def default_name(source: str, backbone: str) -> str:
    """What results are called if no name is given."""
    return f"{Path(source).absolute().stem.replace('*', '') or 'images'}-{backbone}".replace(
        ":", "-"
    ).replace("/", "-")


def load(backbone: str, options: dict, **more):
    """The backbone that a command's model options ask for."""
    from lost_reg.backbones.vit import load_backbone

    loaded = load_backbone(backbone, **{**{name: options[name] for name in MODEL_OPTIONS}, **more})
    if loaded.weights.source == "random":
        say("Note", f"{loaded.name} runs with random weights: what it shows means nothing")
    return loaded
