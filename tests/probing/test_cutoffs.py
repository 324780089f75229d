"""Cut-offs that were measured before: of which backbone, layer and rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from artifact_cases import backbone_artifacts
from helpers import refusal
from small_models import small_backbone

from lost_reg.artifacts.options import ArtifactOptions
from lost_reg.artifacts.records import About, Artifacts
from lost_reg.backbones.registers import AddedRegisters, RegisterNeurons
from lost_reg.backbones.weights import Weights
from lost_reg.probing.cutoffs import outliers_as_measured

PATH = Path("artifacts.json")
DIGEST = "a" * 64


@pytest.fixture
def backbone():
    backbone = small_backbone("MLP")
    backbone.weights = Weights("file", "mine.pth", sha256=DIGEST)
    return backbone


def artifacts_of(model, **changed) -> Artifacts:
    """An artifacts.json of another model, and of a backbone with a cut-off for each layer."""
    other = backbone_artifacts("other")
    layers = [
        replace(
            other.layers[0],
            layer=layer,
            cutoffs={
                "sigma": 10.0 * layer + 1,
                "fixed": 150.0,
                "reference": 10.0 * layer + 2 if layer else None,
            },
        )
        for layer in range(4)
    ]
    row = replace(other, label="mine", layers=layers, **{**model.recorded(), **changed})
    return Artifacts(About("other", -3, 150.0, "reference"), [other, row])


def test_the_cut_off_of_the_layer_and_the_rule(backbone):
    artifacts = artifacts_of(backbone)
    for chosen, layer, cutoff in (
        ((), -3, 12.0), ((-1,), -1, 32.0), ((-1, "sigma"), -1, 31.0), ((None, "fixed"), -3, 150.0),
        ((0, "sigma"), 0, 1.0),
    ):  # fmt: skip
        outliers, what = outliers_as_measured(PATH, artifacts, backbone, *chosen)
        assert outliers == ArtifactOptions(layer=layer, rule="fixed", cutoff=cutoff)
        assert what.startswith(f"{cutoff:g}, ") and what.endswith(f"after layer {layer} of 9 images")


def test_it_is_of_the_same_backbone(backbone):
    elsewhere = artifacts_of(backbone, weights={"source": "hub", "name": "w", "sha256": DIGEST})
    assert outliers_as_measured(PATH, elsewhere, backbone)[0].cutoff == 12.0
    half = artifacts_of(backbone, precision="bf16")
    assert outliers_as_measured(PATH, half, backbone)[0].cutoff == 12.0
    registers = AddedRegisters(RegisterNeurons(((1, 3),))).settings
    for changed in (
        {"weights": {"source": "file", "name": "mine.pth", "sha256": "b" * 64}},
        {"test_time_registers": registers},
        {"backbone": "dino_vits16"},
    ):
        text = refusal(outliers_as_measured, PATH, artifacts_of(backbone, **changed), backbone)
        assert "artifacts.json has no cut-off of dinov2_vits14" in text and "it has other, mine" in text


def test_what_is_not_there_is_refused(backbone):
    artifacts = artifacts_of(backbone)
    text = refusal(outliers_as_measured, PATH, artifacts, backbone, 0)
    assert "has no cut-off by `outliers` reference after layer 0 of mine" in text
    assert "has no layer 9" in refusal(outliers_as_measured, PATH, artifacts, backbone, 9)
