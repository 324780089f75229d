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
        (Weights("hub", "timm/vit_small_patch16_224.dino", sha256="0" * 64), None, [], "dino_vits16"),
        (Weights("hub", "facebook/dino-vits16"), None, [], "dino_vits16"),
        (Weights("hub", "someone/model"), None, [], "dino_vits16 (someone/model)"),
        (Weights("hub", "facebook/dino-vits8"), None, [], "dino_vits16 (facebook/dino-vits8)"),
        (Weights("bundled", "tiny.safetensors"), None, [], "dino_vits16"),
        (Weights("random", "random"), None, [], "dino_vits16 (RANDOM WEIGHTS)"),
        (Weights("file", "mine.pth"), None, [], "dino_vits16 (mine.pth)"),
        (Weights("hub", "facebook/dino-vits16"), None, ["bf16"], "dino_vits16 (bf16)"),
        (
            Weights("hub", "facebook/dino-vits16"),
            REGISTERS,
            [],
            "dino_vits16 (2 test-time registers at 2 neurons)",
        ),
        (
            Weights("random", "random"),
            REGISTERS,
            ["bf16", "400 px"],
            "dino_vits16 (RANDOM WEIGHTS, bf16, 400 px, 2 test-time registers at 2 neurons)",
        ),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_labels_tell_what_sets_results_apart(weights, registers, more, label):
    recorded = json.loads(json.dumps(weights.recorded()))
    assert backbone_label("dino_vits16", recorded, registers, more) == label
