"""Test-time registers: a register for models that were trained without one.

Jiang et al., "Vision Transformers Don't Need Trained Registers" (NeurIPS 2025): a few neurons write the
large vectors that make outliers of some patches; let an extra token take what they write, and the patches
stay clean. Here are the neurons file, which rule moves an activation, and how it is put into a model.
`neuron_search.py` finds the neurons. torch is imported only where a model is changed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lost_reg.errors import LostRegError
from lost_reg.files import whole_file

if TYPE_CHECKING:
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer
    from torch import Tensor, nn

RULES = ("paper", "code")
DEFAULT_RULE = "paper"


@dataclass(frozen=True)
class RegisterNeurons:
    """Register neurons of one model.

    A neuron is one input of the last linear layer of a block's MLP: after the non-linearity, and for gated
    ones such as SwiGLU after the gate.

    neurons: (layer, neuron) pairs, both from 0.
    backbone: the name of the backbone they are of; None if that is not known.
    weights: source, name and sha256 of its weights, if known.
    found: how they were found, for people to read.
    """

    neurons: tuple[tuple[int, int], ...]
    backbone: str | None = None
    weights: dict[str, Any] | None = None
    found: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises LostRegError for no neurons, one that is given twice, or one that is no pair of indices."""
        if not self.neurons:
            raise LostRegError("expected at least one register neuron, but got none")
        for pair in self.neurons:
            if len(pair) != 2 or not all(type(index) is int and index >= 0 for index in pair):
                raise LostRegError(f"expected [layer, neuron], both whole numbers from 0, but got {pair}")
        if len(set(self.neurons)) < len(self.neurons):
            twice = next(pair for pair in self.neurons if self.neurons.count(pair) > 1)
            raise LostRegError(f"neuron {twice[1]} of layer {twice[0]} is given twice")

    def are_of(self, name: str, sha256: str | None) -> bool:
        """Whether they can be those of weights of this name and checksum; so they can if nothing is known."""
        known = self.weights or {}
        same_file = sha256 is not None and known.get("sha256") == sha256
        return not known or same_file or known.get("name") == name

    @property
    def by_layer(self) -> dict[int, list[int]]:
        """The neurons of each layer that has any, ascending."""
        layers: dict[int, list[int]] = {}
        for layer, neuron in sorted(self.neurons):
            layers.setdefault(layer, []).append(neuron)
        return layers


@dataclass(frozen=True)
class AddedRegisters:
    """Test-time registers for one model.

    neurons: whose activations they take.
    count: how many; each takes the same (more than one changes little, by the paper).
    rule: which value they take, and from which tokens; see `move_activations`.
    """

    neurons: RegisterNeurons
    count: int = 1
    rule: str = DEFAULT_RULE

    def __post_init__(self) -> None:
        """Raises LostRegError for a count or a rule that cannot be."""
        if self.count < 1:
            raise LostRegError(f"expected at least 1 test-time register, but got {self.count}")
        if self.rule not in RULES:
            raise LostRegError(f"unknown register rule {self.rule!r}: choose among {', '.join(RULES)}")

    def check_backbone(self, name: str, trained: int) -> None:
        """See that these registers are for a backbone, known by its name and number of trained registers.

        Raises:
            LostRegError: neurons of another backbone, or a model that was trained with registers.
        """
        check_can_be_added(name, trained)
        if self.neurons.backbone not in (None, name):
            raise LostRegError(
                f"the register neurons are those of {self.neurons.backbone}, and the backbone is {name}: "
                f"`lost-reg register-neurons` finds those of {name}"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """What results depend on, as run.json holds it; the neurons' order does not matter."""
        neurons = [list(pair) for pair in sorted(self.neurons.neurons)]
        return {"count": self.count, "rule": self.rule, "neurons": neurons}


def describe(settings: dict[str, Any]) -> str:
    """`AddedRegisters.settings` in a few words, for tables."""
    count, neurons = settings["count"], len(settings["neurons"])
    rule = "" if settings["rule"] == DEFAULT_RULE else f" by the {settings['rule']} rule"
    return f"{count} test-time register{'s' * (count > 1)} at {neurons} neuron{'s' * (neurons > 1)}{rule}"


# --- the file ----------------------------------------------------------------------------------------


def read_neurons(path: Path) -> RegisterNeurons:
    """Read a neurons file: {"neurons": [[layer, neuron], ...]}, and whatever `write_neurons` adds to it.

    A list alone is read too, and a third number in a pair (published lists have the activation there) is
    passed over.

    Raises:
        LostRegError: a file that is missing, is no JSON, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LostRegError(f"cannot read the neurons file {str(path)!r}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise LostRegError(f"{str(path)!r} is no neurons file: it is not JSON ({error})") from None
    try:
        return _neurons_of(content)
    except LostRegError as error:
        raise LostRegError(f"{str(path)!r} is no neurons file: {error}") from None


def _neurons_of(content: Any) -> RegisterNeurons:
    if isinstance(content, list):
        content = {"neurons": content}
    rows = content.get("neurons") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise LostRegError('expected {"neurons": [[layer, neuron], ...]}')
    pairs = [tuple(row[:2]) if len(row) == 3 and _is_number(row[2]) else tuple(row) for row in rows]
    kinds = {"backbone": (str, type(None)), "weights": (dict, type(None)), "found": (dict,)}
    given = {key: content[key] for key in kinds if key in content}
    for key, value in given.items():
        if not isinstance(value, kinds[key]):
            raise LostRegError(f"its {key!r} is a {type(value).__name__}")
    return RegisterNeurons(tuple(pairs), **given)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def write_neurons(path: Path, neurons: RegisterNeurons) -> None:
    """Write a neurons file, a pair a line.

    Raises:
        LostRegError: a path that cannot be written, or is there already.
    """
    about = {"backbone": neurons.backbone, "weights": neurons.weights, "found": neurons.found}
    head = "".join(f'  "{key}": {json.dumps(value)},\n' for key, value in about.items())
    pairs = ",\n".join(f"    {json.dumps(pair)}" for pair in neurons.neurons)
    check_new(path)
    with whole_file(path) as part:
        part.write_text(f'{{\n{head}  "neurons": [\n{pairs}\n  ]\n}}\n', encoding="utf-8")


def check_new(path: Path) -> None:
    """See that a file is not there yet and can be written, before work is done for it.

    Raises:
        LostRegError: it is, or cannot be.
    """
    if path.exists():
        raise LostRegError(f"{str(path)!r} is there already: name another --out")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise LostRegError(f"cannot write {str(path)!r}: {str(above)!r} is no folder that can be written to")


# --- the intervention --------------------------------------------------------------------------------


def move_activations(
    hidden: Tensor, neurons: Sequence[int] | Tensor, registers: slice, own_prefix: int, rule: str
) -> Tensor:
    """Give the register neurons' activations to the registers, image by image.

    By the paper (Jiang et al. 2025, algorithm 2) a register takes, at each register neuron, the largest
    activation over the image's own tokens, and those take 0. The code published with it differs, and
    which of the two gave the paper's figures is not known: there the value is the activation of largest
    magnitude, with its sign, over all tokens (registers too) and all register neurons of the layer, one
    for all of them; and the class token keeps its own. (It edits the first image of a batch only; here
    every image is edited.)

    Args:
        hidden: (B, T, H), what enters the last linear layer of one block's MLP.
        neurons: indices in 0 to H - 1.
        registers: which of the T tokens are test-time registers.
        own_prefix: how many tokens before the patches are the model's own: the first ones of T.
        rule: "paper" or "code".

    Returns:
        (B, T, H), a new tensor; other neurons are as they were.
    """
    values = hidden[:, :, neurons]  # (B, T, K), a copy
    if rule == "paper":
        zeroed_from = 0
        values[:, registers] = -math.inf
        taken = values.amax(dim=1)  # (B, K)
    else:
        zeroed_from = own_prefix
        values = values.flatten(1)  # (B, T * K)
        taken = values.gather(1, values.abs().argmax(dim=1, keepdim=True))  # (B, 1)
    moved = hidden.clone()
    moved[:, zeroed_from:, neurons] = 0
    moved[:, registers, neurons] = taken[:, None]
    return moved


def check_can_be_added(name: str, registers: int) -> None:
    """See that a model was trained without registers: those are whom the method is for, and a model that
    has registers keeps its outliers in them already.

    Args:
        name: of the backbone; registers: how many it was trained with.

    Raises:
        LostRegError: it was trained with some.
    """
    if registers:
        raise LostRegError(
            f"{name} was trained with {registers} registers: test-time registers are for models without"
        )


def trained_registers(model: VisionTransformer | Eva) -> int:
    """How many registers a model was trained with."""
    return 0 if model.reg_token is None else model.reg_token.shape[1]


def add_registers(model: VisionTransformer | Eva, added: AddedRegisters, name: str) -> None:
    """Let a model's MLPs move the activations of register neurons, from now on and at each call.

    The test-time registers are expected between the model's own prefix tokens and the patches; attention
    does not mind where a token stands.

    Args:
        name: what the model is called in errors.

    Raises:
        LostRegError: neurons of another backbone, or that the model does not have; a model with registers,
            or with rotary positions.
    """
    import torch

    added.check_backbone(name, trained_registers(model))
    if getattr(model, "rope", None) is not None:  # every token after the trained prefix is rotated
        raise LostRegError(f"test-time registers are not made for rotary positions, which {name} has")
    own_prefix = model.num_prefix_tokens
    registers = slice(own_prefix, own_prefix + added.count)
    outputs = last_linears(model, name)
    _check_range(added.neurons.by_layer, outputs, name)
    for layer, neurons in added.neurons.by_layer.items():
        linear = outputs[layer]
        index = torch.tensor(neurons, device=linear.weight.device)

        def move(_, inputs, index=index):
            return (move_activations(inputs[0], index, registers, own_prefix, added.rule),)

        linear.register_forward_pre_hook(move)


def last_linears(model: VisionTransformer | Eva, name: str) -> list[nn.Linear]:
    """The last linear layer of each block's MLP, whose inputs are the neurons.

    Raises:
        LostRegError: an MLP that timm builds otherwise.
    """
    from torch import nn

    linears = [getattr(block.mlp, "fc2", None) for block in model.blocks]
    if not all(isinstance(linear, nn.Linear) for linear in linears):
        raise LostRegError(
            f"the MLPs of {name} do not end in a linear layer fc2: their neurons are not known"
        )
    return linears


def _check_range(by_layer: dict[int, list[int]], linears: Sequence[nn.Linear], name: str) -> None:
    for layer, neurons in by_layer.items():
        if layer >= len(linears):
            raise LostRegError(
                f"no register neuron can be of layer {layer}: {name} has layers 0 to {len(linears) - 1}"
            )
        width = linears[layer].in_features
        if neurons[-1] >= width:
            raise LostRegError(
                f"layer {layer} of {name} has no neuron {neurons[-1]}: they are 0 to {width - 1}"
            )
