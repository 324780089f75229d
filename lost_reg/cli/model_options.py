"""Options for the model: its weights, where it runs, and test-time registers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from lost_reg.backbones import DEFAULT
from lost_reg.cli.options import together
from lost_reg.cli.output import print_detail, print_note, print_warning, verbose_option

MODEL_OPTIONS = ("weights", "offline", "device", "precision")

weights_options = together(
    click.option(
        "--weights", metavar="FILE|FOLDER|ID|random",
        help="A checkpoint: a file, a folder, or a Hugging Face id; or `random` for benchmarks.  "
        "[default: the published weights]",
    ),
    click.option(
        "--offline", is_flag=True, help="Download no weights; otherwise, missing ones are downloaded."
    ),
    click.option("--device", default="auto", show_default=True, help="Device: auto, cpu, cuda, cuda:1, ..."),
    verbose_option,
)  # fmt: skip

model_options = together(
    weights_options,
    click.option(
        "--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True,
        help="Floating-point precision of the backbone.",
    ),
)  # fmt: skip

register_options = together(
    click.option(
        "--test-time-registers", type=click.IntRange(min=1), metavar="N",
        help="Add N register tokens to a model trained without any; needs --register-neurons.",
    ),
    click.option(
        "--register-neurons", type=click.Path(path_type=Path), metavar="FILE.json",
        help="The neurons whose activations move to the registers, from `lost-reg register-neurons`.",
    ),
    click.option(
        "--register-rule", type=click.Choice(["paper", "code"]),
        help="How activations move to the registers: as in the paper, or in its code.  [default: paper]",
    ),
)  # fmt: skip


def added_registers(options: dict[str, Any]) -> Any:
    """The test-time registers that `register_options` ask for, or None; removes these from `options`."""
    from lost_reg.backbones.registers import DEFAULT_RULE, AddedRegisters, read_neurons

    names = ("test_time_registers", "register_neurons", "register_rule")
    count, file, rule = (options.pop(name) for name in names)
    if count is None and file is None and rule is None:
        return None
    if count is None or file is None:
        raise click.UsageError("test-time registers need both --test-time-registers and --register-neurons")
    return AddedRegisters(read_neurons(file), count, rule or DEFAULT_RULE)


def own_weights(backbone: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name of a backbone that is given as NAME or NAME=WEIGHTS, and the options with its weights.

    Raises:
        click.UsageError: weights by the name, and by --weights, too.
    """
    name, _, weights = backbone.partition("=")
    if weights and options["weights"]:
        raise click.UsageError(f"give the weights of {name} either as {name}=FILE or as --weights FILE")
    return name, {**options, "weights": weights or options["weights"]}


def get_weights(backbone: str, options: Mapping[str, Any]) -> None:
    """Download the weights that a command's model options ask for, if they are missing.

    Call it before torch is imported, which takes seconds, so that a refusal comes at once. The weights of
    timm's other models are left to `load`, because only timm knows them.
    """
    from lost_reg.backbones.weights import locate
    from lost_reg.backbones.zoo import TIMM_PREFIX, find_spec

    if not backbone.startswith(TIMM_PREFIX):
        locate(find_spec(backbone), options["weights"], offline=options["offline"])


def load(
    backbone: str,
    options: Mapping[str, Any],
    note: Callable[[str], None] = print_note,
    warn: Callable[[str], None] = print_warning,
    **changes: Any,
) -> Any:
    """The backbone that a command's model options ask for; prints what the user should know."""
    from lost_reg.backbones.loading import load_backbone

    loaded = load_backbone(backbone, **{**{name: options[name] for name in MODEL_OPTIONS}, **changes})
    weights = loaded.weights
    where = f", {weights.path}" if weights.path else ""
    print_detail(
        f"{loaded.name} has the weights {weights.name} ({weights.source}{where}), in {loaded.precision} on "
        f"{loaded.device}"
    )
    if loaded.weights.source == "random":
        warn(f"{loaded.name} runs with random weights: its results are meaningless")
    added = loaded.registers
    if added and not added.neurons.are_of(loaded.weights.name, loaded.weights.sha256):
        note(f"the register neurons were found in other weights than {loaded.weights.name}")
    if added and not added.neurons.may_be_real:
        note("nothing stood out when the register neurons were searched for: they need not be any")
    return loaded


def note_trial(loaded: Any, note: Callable[[str], None] = print_note) -> None:
    """Say what the bundled weights are for, if the backbone has them."""
    if loaded.weights.source == "bundled":
        note(f"{loaded.name} is for offline trials and tests: `backbone` {DEFAULT} finds objects in photos")
