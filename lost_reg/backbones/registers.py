"""Test-time registers: a register for models that were trained without one.

Jiang et al., "Vision Transformers Don't Need Trained Registers" (NeurIPS 2025): a few neurons write the large
vectors that turn patches into outliers. If an extra token takes what they write, the patches stay clean. This
module holds the neurons and their files, the rule that moves activations, and adds registers to a model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lost_reg.errors import LostRegError
from lost_reg.files import check_new, read_regular, whole_file
from lost_reg.json_files import MALFORMED, as_json, convert, parse_json, reason_of
from lost_reg.lazy import torch
from lost_reg.text import counted
from lost_reg.types import Number

if TYPE_CHECKING:
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer
    from torch import Tensor, nn

RULES = ("paper", "code")
DEFAULT_RULE = "paper"


@dataclass(frozen=True)
class RegisterNeurons:
    """Register neurons of one model.

    A neuron is one input of the last linear layer of a block's MLP: after the non-linearity and, in gated
    MLPs such as SwiGLU, after the gate.

    neurons: (layer, neuron) pairs, both from 0; none if they were searched for and nothing stood out.
    backbone: the name of the backbone they belong to; None if not known.
    weights: source, name and sha256 of its weights, if known.
    found: how they were found; `stands_out`, if it is there, says whether the outliers stood out.
    """

    neurons: tuple[tuple[int, int], ...]
    backbone: str | None = None
    weights: dict[str, Any] | None = None
    found: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises LostRegError for an empty list, a duplicate, or a neuron that is not a pair of indices."""
        if not self.neurons and self.may_be_real:
            raise LostRegError("expected at least one register neuron, but got none")
        for pair in self.neurons:
            if len(pair) != 2 or not all(type(index) is int and index >= 0 for index in pair):
                raise LostRegError(f"expected [layer, neuron], both whole numbers from 0, but got {pair}")
        if len(set(self.neurons)) < len(self.neurons):
            twice = next(pair for pair in self.neurons if self.neurons.count(pair) > 1)
            raise LostRegError(f"neuron {twice[1]} of layer {twice[0]} is given twice")

    @property
    def may_be_real(self) -> bool:
        """False if a search found that no outliers stand out; True also if nothing is known."""
        return self.found.get("stands_out") is not False

    def are_of(self, name: str, sha256: str | None) -> bool:
        """Whether they can belong to weights of this name and checksum; they can if nothing is known."""
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
class _NeuronsFile:
    """The content of a neurons file; rows of published lists have the activation as a third number."""

    neurons: list[list[Number]]
    backbone: str | None = None
    weights: dict[str, Any] | None = None
    found: dict[str, Any] = field(default_factory=dict)


def read_neurons(path: Path) -> RegisterNeurons:
    """Read a neurons file: {"neurons": [[layer, neuron], ...]}, and the further keys of `write_neurons`.

    A bare list is accepted too, and a third number in a row is ignored.

    Raises:
        LostRegError: a file that is missing, is not JSON, or has other content.
    """
    try:
        content = parse_json(read_regular(path), Any)
        rows = {"neurons": content} if isinstance(content, list) else content
        file = convert(rows, _NeuronsFile)
        pairs: Any = tuple(tuple(row[:2] if len(row) == 3 else row) for row in file.neurons)
        return RegisterNeurons(pairs, file.backbone, file.weights, file.found)
    except OSError as error:
        raise LostRegError(f"cannot read the neurons file {str(path)!r}: {error.strerror}") from None
    except (*MALFORMED, LostRegError) as error:
        raise LostRegError(f"{str(path)!r} is not a neurons file: {reason_of(error)}") from None


def write_neurons(path: Path, neurons: RegisterNeurons, *, overwrite: bool = False) -> None:
    """Write a neurons file, one pair per line.

    Raises:
        LostRegError: a path that cannot be written, or exists already and `overwrite` is not given.
    """
    about = {"backbone": neurons.backbone, "weights": neurons.weights, "found": neurons.found}
    head = "".join(f'  "{key}": {as_json(value)},\n' for key, value in about.items())
    pairs = ",\n".join(f"    {as_json(pair)}" for pair in neurons.neurons)
    check_new(path, overwrite=overwrite)
    with whole_file(path) as part:
        part.write_text(f'{{\n{head}  "neurons": [\n{pairs}\n  ]\n}}\n', encoding="utf-8")


@dataclass(frozen=True)
class AddedRegisters:
    """Test-time registers for one model.

    neurons: the neurons whose activations they take.
    count: how many; each takes the same (according to the paper, more than one changes little).
    rule: which value they take, from which tokens; see `move_activations`.
    """

    neurons: RegisterNeurons
    count: int = 1
    rule: str = DEFAULT_RULE

    def __post_init__(self) -> None:
        """Raises LostRegError for an impossible count or rule, or without neurons."""
        if not self.neurons.neurons:
            raise LostRegError(
                f"nothing stood out in {self.neurons.backbone or 'the model'} when register neurons were "
                "searched for: there are none, and no outliers for test-time registers to take"
            )
        if self.count < 1:
            raise LostRegError(f"expected at least 1 test-time register, but got {self.count}")
        if self.rule not in RULES:
            raise LostRegError(f"unknown register rule {self.rule!r}: choose among {', '.join(RULES)}")

    def check_backbone(self, name: str, trained: int) -> None:
        """Check that these registers fit the backbone `name`, which has `trained` registers from training.

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
        """The settings that results depend on, as in run.json; the order of the neurons does not matter."""
        neurons = [list(pair) for pair in sorted(self.neurons.neurons)]
        return {"count": self.count, "rule": self.rule, "neurons": neurons}


def describe(settings: dict[str, Any]) -> str:
    """`AddedRegisters.settings` in a few words, for tables."""
    count, neurons = settings["count"], len(settings["neurons"])
    rule = "" if settings["rule"] == DEFAULT_RULE else f" by the {settings['rule']} rule"
    return f"{count} test-time register{'s' * (count > 1)} at {neurons} neuron{'s' * (neurons > 1)}{rule}"


def move_activations(
    hidden: Tensor, neurons: Sequence[int] | Tensor, registers: slice, own_prefix: int, rule: str
) -> Tensor:
    """Move the register neurons' activations to the registers, image by image.

    In the paper (Jiang et al. 2025, algorithm 2) a register takes, at each register neuron, the largest
    activation over the image's own tokens, whose activations are set to 0. The published code differs, and
    it is not known which of the two produced the paper's figures. There all register neurons of a layer
    get one value, the activation of largest magnitude, with its sign, over all of them and all tokens
    (registers too); and the class token keeps its own. (It edits only the first image of a batch; here
    every image is edited.)

    Args:
        hidden: (B, T, H), the input of the last linear layer of one block's MLP.
        neurons: indices in 0 to H - 1.
        registers: which of the T tokens are test-time registers.
        own_prefix: how many tokens before the patches are the model's own: the first of the T.
        rule: "paper" or "code".

    Returns:
        (B, T, H), a new tensor; other neurons are unchanged.
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
    """Raises LostRegError for a model trained with registers, where its outliers go already."""
    if registers:
        raise LostRegError(
            f"{name} was trained with {counted(registers, 'register')}: test-time registers are for models "
            "without"
        )


def trained_registers(model: VisionTransformer | Eva) -> int:
    """How many registers a model was trained with."""
    return 0 if model.reg_token is None else model.reg_token.shape[1]


def add_registers(model: VisionTransformer | Eva, added: AddedRegisters, name: str) -> None:
    """Make a model's MLPs move the activations of register neurons, in every forward pass from now on.

    The test-time registers are expected between the model's own prefix tokens and the patches; attention
    does not depend on the order of tokens.

    Args:
        name: the model's name in errors.

    Raises:
        LostRegError: neurons of another backbone, or ones that the model does not have; a model with
            registers or rotary positions.
    """
    added.check_backbone(name, trained_registers(model))
    if getattr(model, "rope", None) is not None:  # every token after the trained prefix is rotated
        raise LostRegError(f"test-time registers do not support rotary positions, which {name} has")
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
    """The last linear layer of each block's MLP; its inputs are the neurons.

    Raises:
        LostRegError: an MLP with another structure.
    """
    linears = [getattr(block.mlp, "fc2", None) for block in model.blocks]
    if not all(isinstance(linear, torch.nn.Linear) for linear in linears):
        raise LostRegError(
            f"the MLPs of {name} do not end in a linear layer fc2: their neurons are not known"
        )
    return linears


def _check_range(by_layer: dict[int, list[int]], linears: Sequence[nn.Linear], name: str) -> None:
    for layer, neurons in by_layer.items():
        if layer >= len(linears):
            raise LostRegError(
                f"no register neuron can be in layer {layer}: {name} has layers 0 to {len(linears) - 1}"
            )
        width = linears[layer].in_features
        if neurons[-1] >= width:
            raise LostRegError(
                f"layer {layer} of {name} has no neuron {neurons[-1]}: they are 0 to {width - 1}"
            )
