"""Weight files: which formats are read, and what is refused in one line."""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import re
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest import mock

import original_vits
import pytest
import timm
import torch
from backbone_cases import (
    SMALL,
    TOLERANCE,
    deviation,
    dino_state,
    dinov2_state,
    has_keys_of,
    load,
    random_images,
    saved,
)
from checkpoints import KINDS
from helpers import refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lost_reg.backbones import filling, timm_models, zoo
from lost_reg.backbones.checkpoint_files import read_tensors
from lost_reg.backbones.checkpoint_names import backbone_state
from lost_reg.backbones.vit import VitBackbone
from lost_reg.backbones.weights import Weights
from lost_reg.errors import LostRegError

pytestmark = pytest.mark.usefixtures("small_models")


# --- formats ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("dino_vits16", dino_state()),
        ("dino_vits8_300ep", dino_state(patch=8, native=28)),
        ("dinov2_vits14", dinov2_state()),
        ("dinov2_vits14_reg", dinov2_state(registers=4)),
    ],
    ids=["dino", "dino 300 epochs", "dinov2", "registers"],
)
def test_metas_files_are_read(name, state, tmp_path):
    path = saved(tmp_path / "official.pth", state)
    backbone = load(name, path)
    assert has_keys_of(backbone, state)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert backbone.weights == Weights(source="file", name="official.pth", path=path, sha256=digest)


def training_checkpoint(teacher: dict[str, Tensor]) -> dict:
    """What DINO's main_dino.py saves, with another network as student."""
    student = {f"module.backbone.{name}": tensor for name, tensor in dino_state(seed=1).items()}
    return {
        "student": student | {"module.head.mlp.0.weight": torch.zeros(3, 3)},
        "teacher": teacher,
        "optimizer": {"state": {0: {"step": 1, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
        "epoch": 3,
        "args": argparse.Namespace(arch="vit_small", patch_size=16, global_crops_scale=(0.4, 1.0)),
        "dino_loss": {"center": torch.zeros(1, 3)},
    }


@pytest.mark.parametrize("prefix", ["module.backbone.", "backbone."])
def test_the_teacher_of_a_training_checkpoint_is_read(prefix, tmp_path):
    state = dino_state()
    teacher = {prefix + name: tensor for name, tensor in state.items()}
    teacher[prefix.replace("backbone", "head") + "mlp.0.weight"] = torch.zeros(3, 3)
    path = saved(tmp_path / "checkpoint.pth", training_checkpoint(teacher))
    read = backbone_state(read_tensors(path), path)
    assert read.keys() == state.keys()
    assert torch.equal(read["cls_token"], state["cls_token"])
    assert has_keys_of(load("dino", path), state)


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_weights_under_a_key_are_read(key, tmp_path):
    state = dino_state()
    assert has_keys_of(load("dino", saved(tmp_path / "nested.pth", {key: state, "epoch": 3})), state)


def test_safetensors_in_float16_are_read(tmp_path):
    state = dino_state()
    path = saved(tmp_path / "half.safetensors", {name: tensor.half() for name, tensor in state.items()})
    backbone = load("dino", path)
    assert {p.dtype for p in backbone.model.parameters()} == {torch.float32}
    assert has_keys_of(backbone, {name: tensor.half().float() for name, tensor in state.items()})
    assert has_keys_of(backbone, state, tolerance=1e-2)


@pytest.mark.parametrize("name", ["dino_vits16", "dinov2_vits14", "dinov2_vits14_reg"])
def test_timms_safetensors_are_read(name, tmp_path):
    model = timm.create_model(zoo.find_spec(name).architecture, num_classes=5, **SMALL)
    path = saved(tmp_path / "model.safetensors", model.state_dict())
    loaded = load(name, path).model.state_dict()
    assert not [key for key in loaded if key.startswith("head.")]
    for key, tensor in loaded.items():
        assert torch.equal(tensor, model.state_dict()[key]), key


def rotary_model() -> torch.nn.Module:
    """timm's DINOv3, with weights whose every part weighs in."""
    model = timm.create_model("vit_small_patch16_dinov3", **SMALL).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


@torch.inference_mode()
def has_tokens_of(backbone: VitBackbone, model: torch.nn.Module) -> bool:
    """Whether the patch tokens after the last block are those of timm's model."""
    images = random_images((4, 6), 16)
    model.norm = torch.nn.Identity()
    expected = model.forward_features(images)[:, model.num_prefix_tokens :]
    *_, tokens = backbone.block_outputs(images)
    return deviation(tokens, expected) < TOLERANCE


def authors_dinov3(model: torch.nn.Module) -> dict[str, Tensor]:
    """The same under the names of DINOv3's authors: biases that are zero, and NaN where a mask takes them."""
    names = {"reg_token": "storage_tokens", ".gamma_1": ".ls1.gamma", ".gamma_2": ".ls2.gamma"}
    state = {}
    for key, tensor in model.state_dict().items():
        for timms, authors in names.items():
            key = key.replace(timms, authors)
        state[key] = tensor
        if key.endswith("qkv.weight"):
            bias = torch.zeros(len(tensor))
            bias[48:96] = torch.nan
            state[key.replace("weight", "bias")] = bias
            state[key.replace("weight", "bias_mask")] = torch.ones(len(tensor))
    return state | {"mask_token": torch.zeros(1, 48), "rope_embed.periods": torch.ones(4)}


def test_dinov3_is_read_from_timms_file_and_from_its_authors(tmp_path, capfd):
    model = rotary_model()
    timms = saved(tmp_path / "model.safetensors", model.state_dict())
    authors = saved(tmp_path / "official.pth", authors_dinov3(model))
    for path in (timms, authors):
        assert has_tokens_of(load("dinov3_vits16", path), model), path.name
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("names", ["timm", "authors"])
def test_deit3_is_read_from_timms_file_and_from_its_authors(names, tmp_path):
    model = timm.create_model("deit3_base_patch16_224", dynamic_img_size=True, **SMALL).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    state = model.state_dict()
    if names == "authors":
        scales = {key: re.sub(r"ls(\d)\.gamma", r"gamma_\1", key) for key in state}
        assert scales["blocks.0.ls1.gamma"] == "blocks.0.gamma_1"
        state = {"model": {scales[key]: tensor for key, tensor in state.items()}}
    assert has_tokens_of(load("deit3", saved(tmp_path / "deit3.pth", state)), model)


# --- positions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("native", [5, 24])
@pytest.mark.parametrize("name", ["dino_vits16", "timm:vit_small_patch16_224"])
def test_positions_of_another_square_grid_are_resampled_once(name, native, monkeypatch, tmp_path):
    monkeypatch.setattr(timm_models, "create_model", small(timm_models.create_model))
    state = dino_state(native=native)
    backbone = load(name, saved(tmp_path / "grid.pth", state))
    assert torch.equal(backbone.model.pos_embed, state["pos_embed"])
    if name == "dino_vits16":
        assert has_keys_of(backbone, state)
    else:  # timm's own way to resample
        model = timm.create_model(
            "vit_small_patch16_224", img_size=16 * native, dynamic_img_size=True, **SMALL
        )
        model.load_state_dict(state, strict=False)
        assert has_tokens_of(backbone, model.eval())


def small(create):
    """timm's models of any row, with two narrow blocks."""
    return lambda spec: create(replace(spec, model_args=spec.model_args | SMALL))


def test_positions_of_no_square_grid_are_refused(tmp_path):
    state = dino_state() | {"pos_embed": torch.zeros(1, 1 + 14 * 15, 48)}
    line = refusal(load, "dino", saved(tmp_path / "grid.pth", state))
    assert line.endswith("does not fit dino_vits16: pos_embed is (1, 211, 48) and should be (1, 197, 48)")


# --- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "name", "reason"),
    [
        (dinov2_state(registers=4), "dinov2_vits14", "has 4 register tokens: try dinov2_vits14_reg or "),
        (dinov2_state(), "dinov2_vits14_reg", "has no register tokens: try dinov2_vits14 or "),
        (dino_state(), "dino_vitb16", "width 48: try dino_vits16"),
        (dino_state(8, 28), "dino_vits16", "patch size 8: try dino_vits8 or dino_vits8_300ep"),
        (dino_state(), "dino_vits8", "patch size 16: try dino_vits16"),
        (dino_state(), "dinov2_vitb14", "patch size 16, width 48: try dino_vits16"),
        (dino_state(), "deit3", "other layers: try dino_vits16"),
    ],
)
def test_the_backbone_that_fits_is_advised(state, name, reason, tmp_path):
    path = saved(tmp_path / "other.pth", state)
    start = f"{str(path)!r} does not fit {zoo.find_spec(name).name}: {reason}"
    line = refusal(load, name, path)
    assert line.startswith(start) if reason.endswith("or ") else line == start


def test_a_checkpoint_that_fits_no_backbone_tells_its_size(tmp_path):
    deep = original_vits.random_state(16, 14, dim=48, depth=3)
    line = refusal(load, "dino", saved(tmp_path / "deep.pth", deep))
    assert line.endswith(
        "does not fit dino_vits16: 3 blocks; it has blocks.2.norm1.weight, blocks.2.norm1.bias, "
        "blocks.2.norm2.weight and 11 more, not part of the model"
    )


def test_biases_that_a_dinov3_of_timm_has_no_place_for_are_refused(tmp_path):
    state = authors_dinov3(rotary_model())
    state["blocks.1.attn.qkv.bias"][3] = 0.1
    line = refusal(load, "dinov3_vits16", saved(tmp_path / "biased.pth", state))
    assert line.endswith("does not fit dinov3_vits16: other layers: try timm:vit_small_patch16_dinov3_qkvb")


def test_missing_keys_are_named(tmp_path):
    state = dino_state()
    del state["blocks.1.attn.qkv.weight"], state["cls_token"]
    line = refusal(load, "dino", saved(tmp_path / "partial.pth", state))
    assert line.endswith("does not fit dino_vits16: it lacks cls_token, blocks.1.attn.qkv.weight")


def test_keys_too_many_are_named(tmp_path):
    state = dino_state() | {"blocks.0.ls1.gamma": torch.ones(48)}
    line = refusal(load, "dino", saved(tmp_path / "more.pth", state))
    assert line.endswith("does not fit dino_vits16: it has blocks.0.ls1.gamma, not part of the model")


def test_many_misfits_are_counted_not_listed(tmp_path):
    state = {key.replace("mlp", "ffn"): tensor for key, tensor in dino_state().items()}
    line = refusal(load, "dino", saved(tmp_path / "other.pth", state))
    assert line.endswith(
        "does not fit dino_vits16: it lacks blocks.0.mlp.fc1.weight, blocks.0.mlp.fc1.bias, "
        "blocks.0.mlp.fc2.weight and 5 more; it has blocks.0.ffn.fc1.weight, blocks.0.ffn.fc1.bias, "
        "blocks.0.ffn.fc2.weight and 5 more, not part of the model"
    )


def test_what_is_no_vit_is_refused_with_what_it_has(tmp_path):
    alien = {f"fc.{index}.weight": torch.ones(3) for index in range(5)}
    line = refusal(load, "dino", saved(tmp_path / "alien.pth", alien))
    assert line.endswith(
        "holds no ViT that lost-reg knows: it has fc.0.weight, fc.1.weight, fc.2.weight and 2 more, but "
        "lacks a patch embedding, such as patch_embed.proj.weight"
    )


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused_by_name(value, tmp_path):
    state = dino_state()
    state["blocks.1.mlp.fc1.bias"][7] = value
    path = saved(tmp_path / "broken.pth", state)
    assert refusal(load, "dino", path) == f"{str(path)!r} has NaN or infinite values in blocks.1.mlp.fc1.bias"


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64], ids=str)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_that_are_no_floating_point_numbers_are_refused_by_name(suffix, dtype, tmp_path):
    state = dino_state()
    for name in ("cls_token", "blocks.1.mlp.fc1.weight", "blocks.0.attn.qkv.bias"):
        path = saved(tmp_path / f"odd{suffix}", state | {name: state[name].to(dtype)})
        line = refusal(load, "dino", path)
        assert line == f"{str(path)!r} has other weights than floating-point numbers: {name} is {dtype}"


def test_integers_that_would_become_floats_among_others_are_refused(tmp_path):
    """Joined with floating-point numbers, q, k and v once became such."""
    state = KINDS["DINOv2"].model().state_dict()
    name = next(name for name in state if re.search(r"\bq(uery|_proj)\.weight$", name))
    path = saved(tmp_path / "odd.pth", state | {name: state[name].to(torch.int64)})
    assert f"numbers: {name} is torch.int64" in refusal(load, "dinov2_vits14", path)


def test_indices_may_be_integers(tmp_path):
    state = dino_state() | {"head.mask": torch.ones(3, dtype=torch.bool)}
    assert has_keys_of(load("dino", saved(tmp_path / "more.pth", state)), dino_state())


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"model": {}},
        {"cls_token": 1},
        [torch.ones(1)],
        torch.ones(1),
        3,
    ],
    ids=str,
)
def test_a_file_without_named_tensors_is_refused(content, tmp_path):
    line = refusal(load, "dino", saved(tmp_path / "weights.pth", content))
    assert "weights.pth' holds no weights: expected a dictionary of named tensors" in line


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"These are no weights.\n", b"<html>\n404\n</html>\n", bytes(99)])
def test_another_kind_of_file_is_refused(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    assert refusal(load, "dino", path).startswith(f"cannot read weights from {str(path)!r}: ")


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_truncated_file_is_refused(name, tmp_path):
    path = saved(tmp_path / name, dino_state())
    for size in (100, path.stat().st_size // 2, path.stat().st_size - 1):
        os.truncate(path, size)
        assert refusal(load, "dino", path).startswith(f"cannot read weights from {str(path)!r}: damaged")
        saved(path, dino_state())


class Exploit:
    """What a malicious weight file holds: unpickled, it makes a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("save", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x, protocol=2))])
@pytest.mark.parametrize("where", ["weights", "args"])
def test_code_in_a_file_is_not_executed(save, where, tmp_path):
    exploit = Exploit(tmp_path / "executed")
    checkpoint = training_checkpoint({"module.backbone.cls_token": torch.ones(1)})
    path = tmp_path / "malicious.pth"
    save({"cls_token": exploit} if where == "weights" else checkpoint | {"args": exploit}, path)
    line = refusal(load, "dino", path)
    assert "nothing in it was executed" in line
    assert "weights_only" not in line  # no advice to execute it nevertheless
    assert not exploit.folder.exists()
    pickle.loads(pickle.dumps(exploit))
    assert exploit.folder.exists()  # the file was dangerous


def test_a_path_that_is_not_there_is_refused(tmp_path):
    path = tmp_path / "nowhere.pth"
    assert refusal(load, "dino", path).startswith(f"no weight file {str(path)!r}: ")


def test_an_empty_path_is_not_the_working_directory(monkeypatch, tmp_path):
    saved(tmp_path / "model.safetensors", dino_state())
    monkeypatch.chdir(tmp_path)
    assert refusal(load, "dino", "").startswith("`weights` is empty")


@pytest.mark.parametrize("text", ["hello world", "123", "Traceback (most recent"])
def test_a_text_is_not_a_weight_file(text, tmp_path):
    path = tmp_path / "notes.pth"
    path.write_text(text)
    assert refusal(load, "dino", path).endswith("it is not a weight file")


# --- hostile content -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sparse", "meta"])
def test_tensors_without_plain_values_are_refused(kind, tmp_path):
    state = dino_state()
    name = "blocks.1.mlp.fc1.weight"
    state[name] = state[name].to_sparse() if kind == "sparse" else state[name].to("meta")
    path = saved(tmp_path / "odd.pth", state)
    assert (
        refusal(load, "dino", path) == f"{str(path)!r} has no plain values for {name}: it is a {kind} tensor"
    )


def test_parameters_are_read_like_tensors(tmp_path):
    state = {name: torch.nn.Parameter(tensor) for name, tensor in dino_state().items()}
    backbone = load("dino", saved(tmp_path / "parameters.pth", state))
    assert has_keys_of(backbone, dino_state())
    assert all(parameter.is_leaf for parameter in backbone.model.parameters())


@cache
def authors_states() -> dict[str, dict[str, Tensor]]:
    """A state of each family, by the backbone that it fits."""
    return {
        "dino_vits16": dino_state(),
        "dinov2_vits14_reg": dinov2_state(registers=4),
        "dinov3_vits16": authors_dinov3(rotary_model()),
        "openclip": KINDS["OpenCLIP"].model().state_dict(),
    }


@settings(max_examples=20)
@given(data=st.data())
def test_tensors_of_any_shape_never_end_in_a_traceback(data):
    name = data.draw(st.sampled_from(sorted(authors_states())))
    state = dict(authors_states()[name])
    for key in data.draw(st.lists(st.sampled_from(sorted(state)), min_size=1, max_size=3)):
        dtype = data.draw(st.sampled_from([torch.float32, torch.int8, torch.cfloat]))
        state[key] = torch.zeros(data.draw(st.lists(st.integers(0, 3), max_size=4)), dtype=dtype)
    row = zoo.find_spec(name)
    spec = replace(row, model_args=row.model_args | SMALL)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(zoo, "SPECS", (spec,)):
        path = saved(Path(folder, "hostile.pth"), state)
        try:
            filling.filled_model(replace(spec, name="another"), path)
        except LostRegError as error:
            assert "\n" not in str(error)
