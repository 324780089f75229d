"""How results name a backbone."""

from __future__ import annotations

import json

import pytest

from lost_reg.backbones.registers import AddedRegisters, RegisterNeurons
from lost_reg.backbones.weights import Weights
from lost_reg.backbones.zoo import backbone_label

REGISTERS = AddedRegisters(RegisterNeurons(((0, 1), (2, 5))), 2).settings


@pytest.mark.parametrize(
    ("weights", "registers", "more", "label"),
    [
        (Weights("hub", "timm/x", sha256="0" * 64), None, [], "dino"),
        (Weights("bundled", "tiny.safetensors"), None, [], "dino"),
        (Weights("random", "random"), None, [], "dino (RANDOM WEIGHTS)"),
        (Weights("file", "mine.pth"), None, [], "dino (mine.pth)"),
        (Weights("hub", "timm/x"), None, ["bf16"], "dino (bf16)"),
        (Weights("hub", "timm/x"), REGISTERS, [], "dino (2 test-time registers at 2 neurons)"),
        (
            Weights("random", "random"),
            REGISTERS,
            ["bf16", "400 px"],
            "dino (RANDOM WEIGHTS, bf16, 400 px, 2 test-time registers at 2 neurons)",
        ),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_labels_tell_what_sets_results_apart(weights, registers, more, label):
    recorded = json.loads(json.dumps(weights.recorded()))
    assert backbone_label("dino", recorded, registers, more) == label
