"""Detectors: which weights they load, which they train, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from detector_cases import SIDE, small
from helpers import refusal
from torchvision.models import resnet18

from lost_reg.backbones.loading import load_backbone
from lost_reg.training.detector_config import DetectorConfig, chosen_config
from lost_reg.training.detector_models import SimplePyramid, build_detector


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(3)
    return resnet18().state_dict()


def resnet(path=None, **changes):
    return build_detector(small(backbone="resnet18", norm="frozen", **changes), 1, weights=path)


@pytest.mark.parametrize("prefix", ["", "module.", "teacher.backbone."])
def test_a_resnets_weights_are_found_under_any_prefix(tmp_path, weights, prefix):
    held = {f"{prefix}{name}": value for name, value in weights.items()}
    if prefix.startswith("teacher"):
        held |= {f"student.module.backbone.{name}": value + 1 for name, value in weights.items()}
    torch.save(held, tmp_path / "resnet.pth")
    body = resnet(tmp_path / "resnet.pth").backbone.body
    assert torch.equal(body.layer4[1].conv2.weight, weights["layer4.1.conv2.weight"])
    assert torch.equal(body.layer2[0].bn1.running_mean, weights["layer2.0.bn1.running_mean"])


def test_weights_that_do_not_fit_are_refused(tmp_path, weights):
    path = tmp_path / "resnet.pth"

    def refused(held, **changes):
        torch.save(held, path)
        return refusal(resnet, path, **changes)

    assert "it lacks layer1.0.bn1.weight" in refused(
        {name: value for name, value in weights.items() if name != "layer1.0.bn1.weight"}
    )
    assert "has shape (64, 1, 7, 7)" in refused({**weights, "conv1.weight": torch.zeros(64, 1, 7, 7)})
    assert "also holds layer4.9.x" in refused({**weights, "layer4.9.x": torch.zeros(1)})
    assert "holds no ResNet" in refused({"a": torch.zeros(1)})
    torch.save(weights, path)
    group = small(backbone="resnet18", norm="group")
    assert "`norm` frozen or batch" in refusal(build_detector, group, 1, weights=path)
    path.write_bytes(b"nothing")
    assert "weight" in refusal(resnet, path)
    assert "no weight file" in refusal(resnet, tmp_path / "missing.pth")


def test_norms_of_frozen_stages_keep_their_statistics():
    model = build_detector(small(backbone="resnet18", norm="batch", trainable_stages=3), 1).train()
    body = model.backbone.body
    before = {name: value.clone() for name, value in body.state_dict().items() if "running" in name}
    body(torch.rand(2, 3, 64, 64))
    changed = {name.split(".")[0] for name, old in before.items() if not body.state_dict()[name].equal(old)}
    assert changed == {"layer2", "layer3", "layer4"}


def test_stages_are_frozen():
    model = resnet(trainable_stages=3)
    trained = {name for name, one in model.backbone.body.named_parameters() if one.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"layer2", "layer3", "layer4"}
    everything = build_detector(small(backbone="resnet18"), 1)
    assert all(one.requires_grad for one in everything.parameters())


def test_a_frozen_vit_is_neither_trained_nor_saved():
    vit = load_backbone("tiny", device="cpu")
    model = build_detector(small(), 1, vit)
    assert sum(one.numel() for one in model.backbone.parameters()) < 1e6  # of 5e6
    maps = SimplePyramid(vit, 8)(torch.zeros(1, 3, SIDE, 2 * SIDE))
    assert [tuple(one.shape[1:]) for one in maps.values()] == [
        (8, 16, 32), (8, 8, 16), (8, 4, 8), (8, 2, 4), (8, 1, 2)
    ]  # fmt: skip
    sum(one.sum() for one in maps.values()).backward()  # not through the ViT's inference mode


def test_images_keep_their_size():
    """torchvision would scale them to its 800 pixels when a detector is applied."""
    model = build_detector(small(), 1, load_backbone("tiny", device="cpu")).eval()
    shapes = []
    model.backbone.register_forward_hook(lambda _, images, __: shapes.append(tuple(images[0].shape)))
    model([torch.zeros(3, 60, 64)])
    assert shapes == [(1, 3, 64, 64)]


def test_losts_cad_is_a_c4_with_a_norm_after_its_head():
    config = chosen_config("lost-cad", backbone="resnet18")
    model = build_detector(config, 1).eval()
    assert model.backbone(torch.zeros(1, 3, 64, 96)).shape == (1, 256, 4, 6)
    names = [type(one).__name__ for one in model.roi_heads.box_head]
    assert names == ["Sequential", "BatchNorm2d", "AdaptiveAvgPool2d", "Flatten"]
    assert model.roi_heads.box_head(torch.zeros(2, 256, 14, 14)).shape == (2, 512)
    assert (model.roi_heads.score_thresh, model.roi_heads.nms_thresh) == (0.01, 0.4)
    assert model.rpn.pre_nms_top_n() == 6000 and model.rpn.post_nms_top_n() == 1000


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"neck": "c4"}, "`neck` c4"),
        ({"lr": 0.0}, "`lr`"),
        ({"steps": 0}, "`steps`"),
        ({"min_sizes": (8,)}, "`min_size`"),
        ({"backbone": "vgg"}, "unknown `backbone`"),
        ({"trainable_stages": 6}, "`trainable_stages`"),
        ({"batch_size": "2"}, "`batch_size`"),
    ],
)
def test_values_that_are_not_possible_are_refused(changes, named):
    assert named in refusal(DetectorConfig, **changes)
