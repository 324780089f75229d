"""Test-time registers: a register for models that were trained without one.

Jiang et al., "Vision Transformers Don't Need Trained Registers" (NeurIPS 2025): a few neurons write the large
vectors that turn patches into outliers. If an extra token takes what they write, the patches stay clean. This
module has the rule that moves an activation, and adds registers to a model; `neurons.py` has the neurons.
torch is imported only where a model is changed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lost_reg.backbones.neurons import RegisterNeurons
from lost_reg.errors import LostRegError

if TYPE_CHECKING:
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer
    from torch import Tensor, nn

RULES = ("paper", "code")
DEFAULT_RULE = "paper"


@dataclass(frozen=True)
class AddedRegisters:
    """Test-time registers for one model.

    neurons: whose activations they take.
    count: how many; each takes the same (more than one changes little, by the paper).
    rule: which value they take, from which tokens; see `move_activations`.
    """

    neurons: RegisterNeurons
    count: int = 1
    rule: str = DEFAULT_RULE

    def __post_init__(self) -> None:
        """Raises LostRegError for an impossible count or rule."""
        if self.count < 1:
            raise LostRegError(f"expected at least 1 test-time register, but got {self.count}")
        if self.rule not in RULES:
            raise LostRegError(f"unknown register rule {self.rule!r}: choose among {', '.join(RULES)}")

    def check_backbone(self, name: str, trained: int) -> None:
        """Check that these registers are for a backbone.

        Args:
            name: of the backbone; trained: how many registers it was trained with.

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
        """What results depend on, as run.json holds it; the order of the neurons does not matter."""
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
    """Check that a model was trained without registers: with them, it keeps its outliers there already.

    Args:
        name: of the backbone; registers: how many it was trained with.

    Raises:
        LostRegError: it was trained with registers.
    """
    if registers:
        raise LostRegError(
            f"{name} was trained with {registers} registers: test-time registers are for models without"
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
        LostRegError: neurons of another backbone, or that the model does not have; a model with registers,
            or with rotary positions.
    """
    import torch

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
    """The last linear layer of each block's MLP, whose inputs are the neurons.

    Raises:
        LostRegError: an MLP of another structure.
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
                f"no register neuron can be in layer {layer}: {name} has layers 0 to {len(linears) - 1}"
            )
        width = linears[layer].in_features
        if neurons[-1] >= width:
            raise LostRegError(
                f"layer {layer} of {name} has no neuron {neurons[-1]}: they are 0 to {width - 1}"
            )
