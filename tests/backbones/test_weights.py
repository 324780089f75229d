"""Published weights: where they are looked for, and how they are downloaded."""

from __future__ import annotations

import hashlib
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from backbone_cases import dino_state, has_keys_of, load, saved
from helpers import refusal
from torch import Tensor

from lost_reg.backbones import hub, weights, zoo
from lost_reg.backbones.weights import RANDOM, Weights, find_weights

pytestmark = pytest.mark.usefixtures("small_models", "hub_cache")


def put_in_cache(cache: Path, hub_id: str, state: dict[str, Tensor]) -> Path:
    """Lay a file into a Hugging Face cache as hf_hub_download does; its path."""
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    return saved(snapshot / "model.safetensors", state)


def test_published_weights_are_found_in_the_cache(hub_cache):
    state = dino_state()
    path = put_in_cache(hub_cache, "timm/vit_small_patch16_224.dino", state)
    backbone = load("dino")
    assert has_keys_of(backbone, state)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert backbone.weights == Weights("hub", "timm/vit_small_patch16_224.dino", path, digest)


def test_published_weights_of_a_timm_model_are_found_in_the_cache(hub_cache):
    model = timm.create_model("test_vit")
    path = put_in_cache(hub_cache, "timm/test_vit.r160_in1k", model.state_dict())
    assert load("timm:test_vit").weights.path == path


def test_the_cache_is_shown_in_the_table(hub_cache):
    put_in_cache(hub_cache, "timm/vit_small_patch16_224.dino", dino_state())
    rows = {line.split()[0]: line for line in weights.backbones_table().splitlines() if line.strip()}
    assert "  here: timm/vit_small_patch16_224.dino" in rows["dino_vits16"]
    assert "  not here: timm/vit_small_patch8_224.dino" in rows["dino_vits8"]


def test_published_weights_are_found_in_the_cache_of_torch_hub(monkeypatch, tmp_path, hub_cache):
    """Where the authors' own code keeps them; the cache of Hugging Face comes first."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    state = dino_state()
    path = saved(tmp_path / "torch/hub/checkpoints/dino_deitsmall16_pretrain.pth", state)
    backbone = load("dino", offline=True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert backbone.weights == Weights("torch.hub", path.name, path, digest) and has_keys_of(backbone, state)
    assert zoo.backbone_notes("dino_vits16", backbone.weights.recorded()) == []  # the published ones
    assert str(hub.torch_hub_cache()) == torch.hub.get_dir() + "/checkpoints"
    rows = {line.split()[0]: line for line in weights.backbones_table().splitlines() if line.strip()}
    assert f"  here: {path.name} in torch.hub's cache" in rows["dino_vits16"]
    put_in_cache(hub_cache, "timm/vit_small_patch16_224.dino", dino_state(seed=1))
    assert load("dino", offline=True).weights.source == "hub"


def test_the_cache_of_torch_hub_is_that_of_torch(monkeypatch):
    monkeypatch.delenv("TORCH_HOME")
    for cache in ("~/elsewhere", None):
        if cache:
            monkeypatch.setenv("XDG_CACHE_HOME", cache)
        else:
            monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        assert hub.torch_hub_cache() == Path(torch.hub.get_dir(), "checkpoints")


def test_cached_weights_are_not_downloaded_again(monkeypatch, hub_cache):
    path = put_in_cache(hub_cache, "timm/vit_small_patch16_224.dino", dino_state())
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", None)
    assert load("dino").weights.path == path


@pytest.mark.parametrize("offline", [False, True])
def test_weights_that_no_hub_carries_are_named(offline):
    line = refusal(load, "dino_vits8_300ep", None, offline=offline)
    assert "dino_deitsmall8_300ep_pretrain.pth" in line
    assert "`weights`" in line


def test_the_bundled_weights_are_part_of_the_package():
    found = find_weights(zoo.find_spec("tiny"))
    assert (found.source, found.name) == ("bundled", "tiny.safetensors")
    assert found.sha256 == hashlib.sha256(found.path.read_bytes()).hexdigest()


def test_random_weights_have_no_file():
    assert find_weights(zoo.find_spec("tiny"), RANDOM) == Weights("random", "random", None, None)
