"""ONNX files: weights under the names of the exported model, and what is refused in one line."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
import torch
from backbone_cases import deviation, load
from helpers import refusal
from onnx import helper
from onnx_cases import EXPORTERS, write_onnx
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model

from lost_reg.backbones.onnx_files import read_onnx


def random(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(shape).standard_normal(shape).astype(np.float32))


LAYER = "backbone.encoder.layer.0"
STATE = {
    "backbone.embeddings.cls_token": random(1, 1, 8),
    "backbone.embeddings.register_tokens": random(1, 4, 8),
    "backbone.embeddings.position_embeddings": random(1, 10, 8),
    "backbone.embeddings.patch_embeddings.projection.weight": random(8, 3, 2, 2),
    f"{LAYER}.norm1.bias": random(8),
    f"{LAYER}.mlp.fc1.weight": random(32, 8),
    f"{LAYER}.mlp.fc2.weight": random(8, 32),
    f"{LAYER}.attention.attention.key.weight": random(9, 9)[:8, :8],  # square: transposed as well
    "head.weight": random(3, 8),
}


def same(read: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return read.keys() == expected.keys() and all(torch.equal(read[name], expected[name]) for name in read)


@pytest.fixture(params=EXPORTERS)
def exporter(request) -> str:
    return request.param


def test_folded_weights_get_the_names_of_the_model(exporter, tmp_path):
    assert same(read_onnx(write_onnx(tmp_path / "model.onnx", STATE, exporter)), STATE)


@pytest.mark.usefixtures("small_models")
@torch.inference_mode()
def test_an_exported_dinov2_gives_the_same_patch_tokens(exporter, tmp_path):
    config = Dinov2Config(hidden_size=48, num_hidden_layers=2, num_attention_heads=3, image_size=518)
    model = Dinov2Model(config).eval()
    for parameter in model.parameters():
        parameter.normal_(std=0.2)
    exported = {f"backbone.{name}": values for name, values in model.state_dict().items()}
    path = write_onnx(tmp_path / "model.onnx", exported | {"head.weight": random(3, 48)}, exporter)
    images = random(1, 3, 518, 518)
    *_, got = load("dinov2_vits14", path).block_outputs(images)
    expected = model(images, output_hidden_states=True).hidden_states[-1][:, 1:]
    assert deviation(got, expected) < 1e-5


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_become_float32(dtype, tmp_path):
    read = read_onnx(write_onnx(tmp_path / "model.onnx", STATE, "old", dtype))
    assert same(
        read, {name: torch.from_numpy(values.numpy().astype(dtype)).float() for name, values in STATE.items()}
    )


def test_parameters_of_equal_values_are_read_from_the_one_that_is_stored(tmp_path):
    path = write_onnx(tmp_path / "model.onnx", STATE, "old")
    model = onnx.load(path)
    copied = f"{LAYER}.norm2.bias"
    model.graph.node.insert(0, helper.make_node("Identity", [f"{LAYER}.norm1.bias"], [copied], "Identity_0"))
    onnx.save(model, path)
    assert same(read_onnx(path), STATE | {copied: STATE[f"{LAYER}.norm1.bias"]})


def test_weights_in_another_file_are_refused_and_read_once_saved_as_one(tmp_path):
    path = write_onnx(tmp_path / "model.onnx", STATE, "new")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.data", size_threshold=0)
    line = refusal(read_onnx, path)
    assert line.startswith(f"{str(path)!r} has its weights in another file: save both as one, with ")
    onnx.save(onnx.load(path), tmp_path / "one.onnx")  # as the line says
    assert same(read_onnx(tmp_path / "one.onnx"), STATE)


@pytest.mark.parametrize("content", [b"", b"These are no weights.\n", bytes(99), "cut"], ids=str)
def test_another_kind_of_file_is_refused(content, tmp_path):
    path = write_onnx(tmp_path / "model.onnx", STATE, "old")
    path.write_bytes(path.read_bytes()[:-40] if content == "cut" else content)
    line = refusal(load, "dinov2_vits14", path)
    assert line.startswith((f"cannot read weights from {str(path)!r}: ", f"{str(path)!r} holds no weights: "))


def test_a_model_that_is_no_vit_is_refused(tmp_path):
    path = write_onnx(tmp_path / "model.onnx", {"conv.weight": random(3, 3, 2, 2)}, "old")
    assert "holds no ViT that lost-reg knows: it has conv.weight" in refusal(load, "dinov2_vits14", path)


def test_without_onnx_the_error_says_how_to_install_it(monkeypatch, tmp_path):
    path = write_onnx(tmp_path / "model.onnx", STATE, "old")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert refusal(read_onnx, path).endswith("needs the package onnx: pip install 'lost-reg[onnx]'")


def test_many_layers_of_one_weight_are_not_copied(tmp_path):
    """Each would be a transposed copy: a file of megabytes, memory of any size."""

    weight = onnx.numpy_helper.from_array(np.zeros((100, 100), np.float32), "onnx::MatMul_1")
    nodes = [
        onnx.helper.make_node("MatMul", ["x", weight.name], [str(n)], name=f"/encoder/layer.{n}/fc/MatMul")
        for n in range(100)
    ]
    onnx.save(
        onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [], [weight])), tmp_path / "a.onnx"
    )
    line = refusal(read_onnx, tmp_path / "a.onnx")
    assert line.startswith("its weights take 4,000,000 bytes, over 16 times those of ")
