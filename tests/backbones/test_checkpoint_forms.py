"""Every form of checkpoint that is read, with the models of Hugging Face transformers as the oracle."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import huggingface_hub
import pytest
import torch
import transformers
from checkpoints import (
    FORMS,
    KINDS,
    WRAPPERS,
    Kind,
    authors_state,
    cases,
    in_blocks,
    prefixed,
    save_folder,
    save_state,
    save_whole,
    token_error,
)
from helpers import refusal

from lost_reg.backbones import checkpoint_files
from lost_reg.backbones.checkpoint_config import vision_config
from lost_reg.backbones.filling import filled_model

CLOSE = 1e-5  # relative to the largest value
DINOV2 = KINDS["DINOv2"]


@cache
def model_of(kind: str) -> transformers.PreTrainedModel:
    """The same model for all forms."""
    return KINDS[kind].model()


def fill(path, kind: Kind = DINOV2) -> torch.nn.Module:
    return filled_model(kind.spec(), path)


@pytest.mark.parametrize(
    ("form", "kind", "save"), list(cases()), ids=lambda one: one if isinstance(one, str) else ""
)
def test_patch_tokens_are_those_of_transformers(form, kind, save, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    model = model_of(kind)
    assert token_error(KINDS[kind], model, save(model, tmp_path / "saved")) < CLOSE


def test_the_forms_are_all_of_the_issue():
    assert {kind.name for kind in KINDS.values()} == {
        "Dinov2Model", "Dinov2WithRegistersModel", "ViTModel", "DINOv3ViTModel", "CLIPVisionModel",
        "SiglipVisionModel",
    }  # fmt: skip
    assert len(FORMS) == 4 and len(WRAPPERS) == 15


def test_transformers_names_differ_between_file_and_memory(tmp_path):
    """Else both forms would be one."""
    save_folder(model_of("DINOv2"), tmp_path)
    in_file = checkpoint_files.read_tensors(tmp_path / "model.safetensors")
    assert "encoder.layer.0.attention.attention.query.weight" in in_file
    assert in_file.keys() != model_of("DINOv2").state_dict().keys()


def test_biases_that_are_zero_need_no_place(tmp_path):
    kind = KINDS["DINOv3 with biases"]
    model = kind.model()
    for name, parameter in model.named_parameters():
        if name.endswith(("q_proj.bias", "v_proj.bias")):
            parameter.detach().zero_()
    path = save_folder(model, tmp_path)
    assert token_error(replace(kind, backbone="dinov3_vits16"), model, path) < CLOSE
    with torch.no_grad():
        model.model.layer[1].attention.v_proj.bias[3] = 0.1
    save_folder(model, tmp_path)
    line = refusal(fill, tmp_path / "model.safetensors", replace(kind, backbone="dinov3_vits16"))
    assert "try timm:vit_small_patch16_dinov3_qkvb" in line


def test_only_the_vision_tower_is_read(monkeypatch, tmp_path):
    path = save_whole(model_of("CLIP"), tmp_path) / "model.safetensors"
    read = []

    def spy(tensors, name):
        read.append(name)
        return tensors.readers[name](name)

    monkeypatch.setattr(checkpoint_files._OnDemand, "__getitem__", spy)
    fill(path, KINDS["CLIP"])
    names = list(checkpoint_files.read_tensors(path))
    assert any(name.startswith("text_model.") for name in names)
    assert sorted(read) == sorted(name for name in names if name.startswith("vision_model."))


# --- wrappers --------------------------------------------------------------------------------------


def test_a_student_alone_is_refused(tmp_path):
    path = save_state(
        {"student": prefixed(authors_state(model_of("DINOv2")), "module.backbone.")}, tmp_path / "a"
    )
    line = refusal(fill, path)
    assert (
        line == f"{str(path)!r} holds only a student (student.module.backbone.*): lost-reg reads its teacher"
    )


def test_the_teacher_is_preferred_to_any_other_backbone(tmp_path):
    model = model_of("DINOv2")
    state = authors_state(model)
    others = {name: tensor + 1 for name, tensor in state.items()}
    both = prefixed(others, "online.backbone.") | prefixed(state, "teacher_backbone.")
    assert token_error(DINOV2, model, save_state(both, tmp_path / "a")) < CLOSE


def test_two_tensors_of_one_meaning_are_refused(tmp_path):
    state = dict(model_of("DINOv2").state_dict())
    state["embeddings.class_embedding"] = state["embeddings.cls_token"][0, 0]
    line = refusal(fill, save_state(state, tmp_path / "a"))
    assert line.endswith("it has embeddings.class_embedding, not part of the model")


def test_of_several_backbones_none_is_guessed(tmp_path):
    state = authors_state(model_of("DINOv2"))
    path = save_state({"state_dict": state, "state_dict_ema": state}, tmp_path / "a")
    line = refusal(fill, path)
    assert line == (
        f"{str(path)!r} holds several backbones (state_dict.*, state_dict_ema.*): save one of them alone"
    )


def test_blocks_that_are_numbered_within_their_chunks_are_refused(tmp_path):
    state = in_blocks(authors_state(model_of("DINOv2")), "blocks.{}.", "blocks.{}.0.")
    line = refusal(fill, save_state(state, tmp_path / "a"))
    assert "has two tensors for blocks.0." in line


# --- config.json -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("DINOv2", {"num_attention_heads": 6}, "6 heads, but dinov2_vits14 has 3"),
        ("DINOv2", {"hidden_act": "relu"}, "the activation relu, but dinov2_vits14 has gelu"),
        ("DINOv2", {"layer_norm_eps": 1e-5}, "a LayerNorm eps of 1e-05, but dinov2_vits14 has 1e-06"),
        ("DINOv3", {"rope_theta": 50.0}, "a rope_theta of 50, but dinov3_vits16 has 100"),
        (
            "OpenCLIP", {"hidden_act": "quick_gelu"},
            "the activation quick_gelu, but openclip has gelu: try timm:vit_base_patch16_clip_quickgelu_224",
        ),
        (
            "CLIP", {"hidden_act": "gelu"},
            "the activation gelu, but timm:vit_base_patch16_clip_quickgelu_224.openai has quick_gelu",
        ),
    ],
)  # fmt: skip
def test_what_shapes_do_not_tell_is_compared_with_the_configuration(kind, change, reason, tmp_path):
    model = model_of(kind)
    path = save_folder(model, tmp_path) / "model.safetensors"
    fill(path, KINDS[kind])
    type(model.config).from_dict({**model.config.to_dict(), **change}).save_pretrained(tmp_path)
    line = refusal(fill, path, KINDS[kind])
    assert line == f"the config.json beside {str(path)!r} says {reason}"


def test_the_configuration_of_a_whole_model_is_compared(tmp_path):
    """transformers leaves out what is its default, as CLIP's quick_gelu."""
    path = save_whole(model_of("CLIP"), tmp_path) / "model.safetensors"
    assert "try timm:vit_base_patch16_clip_quickgelu_224" in refusal(fill, path, KINDS["OpenCLIP"])
    (tmp_path / "config.json").write_text('{"model_type": "clip", "vision_config": {}}')
    assert "says 12 heads" in refusal(fill, path, KINDS["CLIP"])


@pytest.mark.parametrize("kind", {kind.name: name for name, kind in KINDS.items()}.values())
def test_defaults_are_those_of_transformers(kind):
    config = type(model_of(kind).config)
    read = vision_config({"model_type": config.model_type})
    assert read is not None
    for name in ("num_attention_heads", "hidden_act", "layer_norm_eps"):
        assert getattr(read, name) == getattr(config(), name)


@pytest.mark.parametrize("content", ['{"model_type": "detr", "num_attention_heads": [8]}', '{"other": 1}'])
def test_another_configuration_does_not_matter(content, tmp_path):
    path = save_folder(model_of("DINOv2"), tmp_path) / "model.safetensors"
    (tmp_path / "config.json").write_text(content)
    fill(path)


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"model_type": "dinov2", "num_attention_heads": "x"}'])
def test_a_malformed_configuration_is_refused(content, tmp_path):
    path = save_folder(model_of("DINOv2"), tmp_path) / "model.safetensors"
    (tmp_path / "config.json").write_text(content)
    assert "config.json" in refusal(fill, path)
