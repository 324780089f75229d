"""Loading backbones: names, devices, precisions, and random weights that are always the same."""

from __future__ import annotations

import pytest
import torch

from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.weights import RANDOM, Weights
from lost_reg.errors import LostRegError


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "swin_tiny_patch4_window7_224",
        "vit_small_resnet26d_224",
        "vit_small_patch16_rope_mixed_224",  # Eva, with a rotation of each block's own
    ],
)
def test_other_models_of_timm_are_refused(name, tmp_path):
    path = tmp_path / "weights.pth"
    path.touch()  # with a file the model is refused before it costs the time of random weights
    with pytest.raises(LostRegError, match=rf"^{name} is not .* not supported$"):
        load_backbone(f"timm:{name}", weights=path, device="cpu")


@pytest.mark.parametrize("name", ["nope", "vit_tiny_patch16_224.nope", ""])
def test_names_that_timm_does_not_know_are_refused(name):
    with pytest.raises(LostRegError, match=r"^timm has no model .*$"):
        load_backbone(f"timm:{name}", weights=RANDOM, device="cpu")


@pytest.fixture
def random_state():
    """A state of torch's random numbers that no earlier test has left behind."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(12345)
        yield torch.random.get_rng_state()


def test_random_weights_are_the_same_in_every_load(random_state):
    first, again = (
        load_backbone("timm:vit_tiny_patch16_224", weights=RANDOM, device="cpu") for _ in range(2)
    )
    assert torch.equal(torch.random.get_rng_state(), random_state)
    for (name, one), other in zip(first.model.state_dict().items(), again.model.state_dict().values()):
        assert torch.equal(one, other), name
    assert again.weights == Weights(source="random", name="random")


def test_loading_a_file_leaves_the_random_state_alone(random_state):
    load_backbone("tiny", device="cpu")
    assert torch.equal(torch.random.get_rng_state(), random_state)


def test_the_bundled_backbone_is_small():
    tiny = load_backbone("tiny", device="cpu")
    assert tiny.weights.source == "bundled"
    assert sum(p.numel() for p in tiny.model.parameters()) <= 2e6
    assert tiny.weights.path.stat().st_size <= 4e6
    assert tiny.features(torch.zeros(1, 3, 32, 48)).isfinite().all()


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", "", "meta", "hpu", "mps:7"])
def test_a_device_that_cannot_be_used_is_refused(device):
    said = r"^device .* cannot be used \(.+\): try `device` cpu(, cuda or cuda:1)?$"
    with pytest.raises(LostRegError, match=said) as caught:
        load_backbone("tiny", weights=RANDOM, device=device)
    assert len(str(caught.value)) < 400


def test_an_unknown_precision_is_refused():
    with pytest.raises(LostRegError, match=r"^unknown precision 'fp8': choose among fp32, bf16, fp16$"):
        load_backbone("tiny", weights=RANDOM, device="cpu", precision="fp8")
