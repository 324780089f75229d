"""Test-time registers: cases worked out by hand, a slow formulation for one image, files, and refusals."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from helpers import refusal
from small_models import MODELS, small_backbone
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.registers import AddedRegisters, RegisterNeurons, describe, move_activations
from lost_reg.backbones.vit import VitBackbone, resample_position
from lost_reg.errors import LostRegError

NEURONS = RegisterNeurons(((2, 5), (0, 3), (0, 1), (2, 7), (1, 0)))


def some_images(backbone: VitBackbone, batch: int = 3, grid_hw=(3, 4)) -> Tensor:
    height, width = (side * backbone.patch_size for side in grid_hw)
    return torch.randn((batch, 3, height, width), generator=torch.Generator().manual_seed(2))


def test_rotary_models_are_refused():
    with pytest.raises(LostRegError, match=r"^dinov3_vits16 was trained with 4 registers: .*$"):
        load_backbone("dinov3_vits16", weights="random", device="cpu", registers=AddedRegisters(NEURONS))
    name = "timm:eva02_tiny_patch14_224"
    line = rf"^test-time registers do not support rotary positions, which {name} has$"
    with pytest.raises(LostRegError, match=line):
        load_backbone(name, weights="random", device="cpu", registers=AddedRegisters(NEURONS))


# --- the slow formulation: one image, the register at the end as in the paper, neuron by neuron --------


@torch.inference_mode()
def slow_features(
    backbone: VitBackbone, image: Tensor, added: AddedRegisters, layer: int, facet="k"
) -> Tensor:
    model = backbone.model
    grid = model.patch_embed(image[None])[0]
    patches = grid.flatten(0, 1)
    prefix = torch.zeros(0, patches.shape[1]) if model.cls_token is None else model.cls_token[0]
    own = len(prefix)
    position = model.pos_embed[:, 0 if model.no_embed_class else own :]
    patches = patches + resample_position(position, tuple(grid.shape[:2]), backbone.spec.position_offset)[0]
    if own:
        prefix = prefix + model.pos_embed[0, :own]
    tokens = torch.cat([prefix, patches, torch.zeros(added.count, patches.shape[1])])
    tokens = model.norm_pre(tokens)
    for index in range(layer):
        block = model.blocks[index]
        tokens = tokens + block.ls1(block.attn(block.norm1(tokens)[None])[0])
        hidden = slow_hidden(block.mlp, block.norm2(tokens))
        neurons = [neuron for where, neuron in added.neurons.neurons if where == index]
        slow_move(hidden, neurons, own, added)
        tokens = tokens + block.ls2(hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias)
    block = model.blocks[layer]
    return facet_of(block.attn, block.norm1(tokens)[own : -added.count], facet)


def facet_of(attention, tokens: Tensor, facet: str) -> Tensor:
    return attention.qkv(tokens).chunk(3, dim=-1)["qkv".index(facet)]


def slow_hidden(mlp, tokens: Tensor) -> Tensor:
    if hasattr(mlp, "fc1_g"):
        return mlp.act(mlp.fc1_g(tokens)) * mlp.fc1_x(tokens)
    if mlp.fc2.in_features < mlp.fc1.out_features:
        gate, value = mlp.fc1(tokens).chunk(2, dim=1)
        return mlp.act(gate) * value
    return mlp.act(mlp.fc1(tokens))


def slow_move(hidden: Tensor, neurons: list[int], own: int, added: AddedRegisters) -> None:
    tokens = len(hidden)
    registers = range(tokens - added.count, tokens)
    if neurons and added.rule == "code":
        values = [float(hidden[token, neuron]) for token in range(tokens) for neuron in neurons]
        value = max(values, key=abs)
    for neuron in neurons:
        if added.rule == "paper":
            value = max(float(hidden[token, neuron]) for token in range(tokens - added.count))
        for token in range(tokens):
            if token in registers:
                hidden[token, neuron] = value
            elif added.rule == "paper" or token >= own:
                hidden[token, neuron] = 0


@pytest.mark.parametrize("rule", ["paper", "code"])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_features_are_those_of_the_slow_formulation(name, count, rule):
    added = AddedRegisters(NEURONS, count, rule)
    backbone, plain = small_backbone(name, added), small_backbone(name)
    images = some_images(backbone)
    for layer, facet in [(3, "k"), (3, "v"), (1, "k")]:
        features = backbone.features(images, facet, layer)
        expected = torch.stack([slow_features(plain, image, added, layer, facet) for image in images])
        assert features.shape == expected.shape == (3, 12, 48)
        scale = expected.abs().max()
        assert (features - expected).abs().max() < 1e-4 * scale
        # that the registers do something is what makes this a test
        assert (features - plain.features(images, facet, layer)).abs().max() > 1e-2 * scale


def test_the_outputs_of_blocks_are_of_patches_alone():
    backbone = small_backbone("MLP", AddedRegisters(NEURONS, 2))
    images = some_images(backbone)
    outputs = list(backbone.block_outputs(images))
    assert [tuple(tokens.shape) for tokens in outputs] == [(3, 12, 48)] * 4
    block = backbone.model.blocks[3]
    keys = facet_of(block.attn, block.norm1(outputs[2]), "k")
    assert torch.allclose(keys, backbone.features(images), atol=1e-5)
    assert backbone.patch_embeddings(images).shape == (3, 12, 48)


def test_a_plain_backbone_is_as_it_was():
    assert torch.equal(
        small_backbone("MLP").features(some_images(small_backbone("MLP"))),
        small_backbone("MLP", None).features(some_images(small_backbone("MLP"))),
    )
    assert small_backbone("MLP").num_prefix_tokens == 1 and small_backbone("MLP").registers is None


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("added", [None, AddedRegisters(NEURONS, 3)], ids=["plain", "registers"])
def test_the_cost_counts_registers_and_every_kind_of_mlp(name, added):
    backbone = small_backbone(name, added)
    size_hw = (2 * backbone.patch_size, 3 * backbone.patch_size)
    math_alone = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, math_alone:
        backbone.features(torch.zeros(1, 3, *size_hw))
    assert backbone.cost.feature_operations(size_hw, 3) == counter.get_total_flops()
    assert backbone.cost.width == 48


# --- by hand ---------------------------------------------------------------------------------------------

# two images of a class token, a register and two patches; three neurons, of which 0 and 2 are moved
HIDDEN = torch.tensor(
    [
        [[1.0, 10.0, 5.0], [9.0, 20.0, 0.0], [2.0, 30.0, -7.0], [3.0, 40.0, 1.0]],
        [[-1.0, 11.0, -8.0], [0.0, 21.0, 0.5], [-4.0, 31.0, -2.0], [-6.0, 41.0, -3.0]],
    ]
)


def test_the_papers_rule_by_hand():
    moved = move_activations(HIDDEN, [0, 2], slice(1, 2), 1, "paper")
    # the register's own 9 and 0.5 do not count; each image and each neuron has its own largest
    assert moved.tolist() == [
        [[0.0, 10.0, 0.0], [3.0, 20.0, 5.0], [0.0, 30.0, 0.0], [0.0, 40.0, 0.0]],
        [[0.0, 11.0, 0.0], [-1.0, 21.0, -2.0], [0.0, 31.0, 0.0], [0.0, 41.0, 0.0]],
    ]


def test_the_codes_rule_by_hand():
    moved = move_activations(HIDDEN, [0, 2], slice(1, 2), 1, "code")
    # one value for both neurons, the register's 9 among them, signed; the class token keeps its own
    assert moved.tolist() == [
        [[1.0, 10.0, 5.0], [9.0, 20.0, 9.0], [0.0, 30.0, 0.0], [0.0, 40.0, 0.0]],
        [[-1.0, 11.0, -8.0], [-8.0, 21.0, -8.0], [0.0, 31.0, 0.0], [0.0, 41.0, 0.0]],
    ]


@pytest.mark.parametrize("rule", ["paper", "code"])
def test_the_activations_given_are_not_changed(rule):
    before = HIDDEN.clone()
    move_activations(HIDDEN, torch.tensor([0, 2]), slice(1, 2), 1, rule)
    assert torch.equal(HIDDEN, before)


# --- what is refused ---------------------------------------------------------------------------------------


def test_a_model_with_registers_is_refused_before_its_weights_are_looked_for():
    text = refusal(load_backbone, "dinov2_reg", registers=AddedRegisters(NEURONS))
    assert text.startswith("dinov2_vitl14_reg was trained with 4 registers")


def test_a_model_of_timm_with_registers_is_refused():
    text = refusal(
        load_backbone,
        "timm:vit_small_patch14_reg4_dinov2",
        weights="random",
        device="cpu",
        registers=AddedRegisters(NEURONS),
    )
    assert "was trained with 4 registers" in text


def test_a_function_is_refused():
    text = refusal(load_backbone, lambda images: images, registers=AddedRegisters(NEURONS))
    assert "a function of yours has none" in text


def test_neurons_of_another_backbone_are_refused():
    other = replace(NEURONS, backbone="dinov2_vitl14")
    assert "those of dinov2_vitl14, and the backbone is dinov2_vits14" in refusal(
        small_backbone, "MLP", AddedRegisters(other)
    )
    assert "those of dinov2_vitl14" in refusal(load_backbone, "dino", registers=AddedRegisters(other))
    small_backbone("MLP", AddedRegisters(replace(NEURONS, backbone="dinov2_vits14")))


@pytest.mark.parametrize(
    ("name", "pair", "text"),
    [
        ("MLP", (4, 0), "no register neuron can be in layer 4: dinov2_vits14 has layers 0 to 3"),
        ("MLP", (0, 192), "layer 0 of dinov2_vits14 has no neuron 192: they are 0 to 191"),
        # of a gated MLP, neurons are counted after the gate
        ("SwiGLU, packed", (3, 128), "layer 3 of dinov2_vitg14 has no neuron 128: they are 0 to 127"),
    ],
)
def test_layers_and_neurons_out_of_range_are_refused(name, pair, text):
    assert refusal(small_backbone, name, AddedRegisters(RegisterNeurons((pair,)))) == text
    layer, neuron = pair
    last = (layer - 1, neuron) if "no register neuron" in text else (layer, neuron - 1)
    small_backbone(name, AddedRegisters(RegisterNeurons((last,))))


def test_counts_and_rules_that_cannot_be_are_refused():
    assert refusal(AddedRegisters, NEURONS, 0) == "expected at least 1 test-time register, but got 0"
    assert refusal(AddedRegisters, NEURONS, 1, "other").endswith("choose among paper, code")


# --- settings -------------------------------------------------------------------------------------------


def test_settings_do_not_depend_on_the_order_of_neurons():
    shuffled = replace(NEURONS, neurons=NEURONS.neurons[::-1])
    settings = AddedRegisters(shuffled, 2).settings
    assert settings == AddedRegisters(NEURONS, 2).settings
    assert settings == json.loads(json.dumps(settings))  # as run.json gives it back
    assert settings == {
        "count": 2,
        "rule": "paper",
        "neurons": [[0, 1], [0, 3], [1, 0], [2, 5], [2, 7]],
    }


def test_settings_in_words():
    assert describe(AddedRegisters(NEURONS, 2).settings) == "2 test-time registers at 5 neurons"
    one = AddedRegisters(RegisterNeurons(((1, 2),)), 1, "code")
    assert describe(one.settings) == "1 test-time register at 1 neuron by the code rule"
