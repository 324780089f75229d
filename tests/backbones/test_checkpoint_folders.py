"""Folders with checkpoints, shards, and what files are that hold no weights."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path

import pytest
import torch
from backbone_cases import dino_state, has_keys_of, load, saved
from helpers import refusal

from lost_reg.backbones.checkpoint_folders import checkpoint_in, files_of
from lost_reg.backbones.weights import Weights

pytestmark = pytest.mark.usefixtures("small_models")


# --- folders ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_folder_is_read_as_transformers_does(suffix, tmp_path):
    state = dino_state()
    name = "model.safetensors" if suffix == "safetensors" else "pytorch_model.bin"
    path = saved(tmp_path / "mine" / name, state)
    saved(tmp_path / "mine" / "training_args.bin", {"x": torch.ones(1)})
    backbone = load("dino", tmp_path / "mine")
    assert has_keys_of(backbone, state)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert backbone.weights == Weights("file", "mine", path, digest)


def test_the_only_weight_file_of_a_folder_is_read(tmp_path):
    state = dino_state()
    saved(tmp_path / "last.pth", state)
    (tmp_path / "log.txt").write_text("")
    assert has_keys_of(load("dino", tmp_path), state)


def test_safetensors_are_preferred(tmp_path):
    for name in ("pytorch_model.bin", "model.safetensors.index.json", "model.safetensors"):
        (tmp_path / name).touch()
        assert checkpoint_in(tmp_path) == tmp_path / name


def test_a_folder_without_weights_is_refused(tmp_path):
    (tmp_path / "log.txt").write_text("")
    assert refusal(load, "dino", tmp_path).startswith(f"the folder {str(tmp_path)!r} holds no weights: ")


def test_of_several_weight_files_none_is_guessed(tmp_path):
    for name in ("b.pth", "a.safetensors"):
        (tmp_path / name).touch()
    line = refusal(load, "dino", tmp_path)
    assert line == (
        f"the folder {str(tmp_path)!r} holds several weight files (a.safetensors, b.pth): name one of them"
    )


# --- shards ----------------------------------------------------------------------------------------


def save_shards(folder: Path, suffix: str = ".safetensors") -> Path:
    """A DINO in two shards, of which the index names the second first; its index."""
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    names = list(dino_state())
    shards = {f"{stem}-2{suffix}": names[:5], f"{stem}-1{suffix}": names[5:]}
    for shard, held in shards.items():
        saved(folder / shard, {name: dino_state()[name] for name in held})
    index = folder / f"{stem}{suffix}.index.json"
    index.write_text(
        json.dumps({"weight_map": {name: file for file, held in shards.items() for name in held}})
    )
    return index


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("given", ["folder", "index"])
def test_shards_are_read(suffix, given, tmp_path):
    index = save_shards(tmp_path, suffix)
    backbone = load("dino", tmp_path if given == "folder" else index)
    assert has_keys_of(backbone, dino_state())
    assert backbone.weights.path == index


def test_the_checksum_of_shards_is_that_of_their_bytes_in_the_order_of_the_index(tmp_path):
    index = save_shards(tmp_path)
    parts = [(tmp_path / f"model-{number}.safetensors").read_bytes() for number in (2, 1)]
    assert load("dino", index).weights.sha256 == hashlib.sha256(b"".join(parts)).hexdigest()
    assert [path.name for path in files_of(index)] == ["model-2.safetensors", "model-1.safetensors"]


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards_that_are_missing_or_incomplete_are_named(suffix, tmp_path):
    index = save_shards(tmp_path, suffix)
    second = files_of(index)[1]
    second.unlink()
    assert f"names {second.name!r}, which is not there" in refusal(load, "dino", tmp_path)
    saved(second, {"norm.bias": torch.ones(48)})
    line = refusal(load, "dino", tmp_path)
    assert line.startswith(f"the shards of {str(index)!r} lack 'blocks.0.norm1.weight': ")


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", "..", "", 3]
)
def test_an_index_cannot_name_files_elsewhere(name, tmp_path):
    folder = tmp_path / "folder"
    saved(tmp_path / "model.safetensors", dino_state())
    saved(folder / "sub" / "model.safetensors", dino_state())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"cls_token": name}}))
    assert "model.safetensors.index.json" in refusal(load, "dino", folder)


def test_an_index_cannot_name_another(tmp_path):
    """Indices that name each other twice would be read 2 ** n times."""
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"cls_token": index.name}}))
    assert refusal(load, "dino", index) == f"{str(index)!r} names another index: {index.name!r}"


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "config.json"])
def test_a_json_file_of_endless_length_is_not_read(name, tmp_path, monkeypatch):
    saved(tmp_path / "pytorch_model.bin", dino_state())
    path = tmp_path / name
    path.write_text("{}")
    os.truncate(path, 2**30)
    monkeypatch.setattr(Path, "read_bytes", None)
    assert str(path) in refusal(load, "dino", tmp_path)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {}}', "[" * 100_000]
)
def test_a_malformed_index_is_refused(content, tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(content)
    assert str(index) in refusal(load, "dino", tmp_path)


# --- what files are --------------------------------------------------------------------------------

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 88283115\n"


@pytest.mark.parametrize("name", ["weights.pth", "model.safetensors", "weights"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (LFS, "it is a Git LFS pointer: `git lfs pull` gets the file itself"),
        (b"\n<!DOCTYPE html>\n<html>404</html>", "it is a web page"),
        (b"<HTML>", "it is a web page"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "it is an HDF5 file, of TensorFlow"),
        (b"", "it is empty"),
    ],
)
def test_what_is_often_taken_for_weights_is_recognised(name, content, what, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    line = refusal(load, "dino", path)
    assert line.startswith(f"cannot read weights from {str(path)!r}: {what}")


@pytest.mark.parametrize("legacy", [True, False])
def test_a_whole_pickled_model_is_recognised(legacy, tmp_path):
    path = tmp_path / "model.pth"
    torch.save(torch.nn.Linear(2, 2), path, _use_new_zipfile_serialization=not legacy)
    line = refusal(load, "dino", path)
    assert line.endswith(
        "it asks for torch.nn.modules.linear.Linear, which is not data (nothing in it was executed): "
        "save the model's state_dict()"
    )


def test_a_torchscript_program_is_recognised(tmp_path):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:  # as torch.jit.save writes one
        for name in ("data.pkl", "code/__torch__.py", "constants.pkl", "version"):
            archive.writestr(f"model/{name}", b"")
    assert refusal(load, "dino", path).endswith(
        "it is a TorchScript program, which is not executed: save its state_dict()"
    )


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("name", ["weights", "0a1b2c", "weights.pth.part"])
def test_a_file_without_a_suffix_is_read_by_its_content(name, legacy, tmp_path):
    state = dino_state()
    torch.save(state, tmp_path / name, _use_new_zipfile_serialization=not legacy)
    assert has_keys_of(load("dino", tmp_path / name), state)
    saved(tmp_path / "model.safetensors", state).rename(tmp_path / name)
    assert has_keys_of(load("dino", tmp_path / name), state)


def test_a_model_does_not_depend_on_its_file_any_more(tmp_path):
    for name in ("weights.pth", "model.safetensors"):
        path = saved(tmp_path / name, dino_state())
        backbone = load("dino", path)
        with path.open("r+b") as file:  # as a training that goes on writes it
            file.write(bytes(path.stat().st_size))
        assert has_keys_of(backbone, dino_state())


def test_a_hole_of_a_terabyte_is_not_read(tmp_path):
    """It is made in no time, and takes an hour to read."""
    path = tmp_path / "a.pth"
    with path.open("wb") as file:
        file.truncate(2**40)
    assert refusal(load, "dino", path) == f"{str(path)!r} has 1,024 GiB, which is no weight file"
