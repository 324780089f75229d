"""Zero-shot by open_clip: the image tower is open_clip's own, and images go to the nearest prompts."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from lost_reg.cli.app import main
from lost_reg.errors import LostRegError
from lost_reg.probing.open_clip_models import OpenClip, load_open_clip
from lost_reg.probing.records import read_outcomes, read_probe

open_clip = pytest.importorskip("open_clip")
BACKBONE = "timm:vit_xsmall_patch16_clip_224.tinyclip_yfcc15m"
CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 224, "layers": 10, "width": 256, "patch_size": 16, "head_width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> str:
    """The name of a small model that open_clip knows."""
    path = tmp_path_factory.mktemp("configs") / "lost-reg-small.json"
    path.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(path)
    return path.stem


@pytest.fixture
def clip(small) -> OpenClip:
    return load_open_clip(BACKBONE, text_model=small, weights="random", device="cpu")


def test_images_and_prompts_are_embedded_as_by_open_clip(clip, small):
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        theirs = clip.model.encode_image(images, normalize=True)
        texts = open_clip.get_tokenizer(small)(["a cat.", "the cat", "a dog.", "the dog"])
        prompts = clip.model.encode_text(texts, normalize=True).unflatten(0, (2, 2)).mean(dim=1)
    assert torch.allclose(clip.embed_images(images), theirs, atol=1e-4)
    found = clip.embed_classes(["cat", "dog"], ["a {}.", "the {}"])
    assert torch.allclose(found, torch.nn.functional.normalize(prompts, dim=1), atol=1e-5)


def test_weights_are_those_of_a_whole_checkpoint(clip, small, tmp_path):
    torch.save({name: one * 1.1 for name, one in clip.model.state_dict().items()}, tmp_path / "whole.pt")
    loaded = load_open_clip(BACKBONE, text_model=small, weights=str(tmp_path / "whole.pt"), device="cpu")
    assert loaded.backbone.weights.name == "whole.pt" and loaded.backbone.weights.sha256
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        theirs = loaded.model.encode_image(images, normalize=True)
    assert torch.allclose(loaded.embed_images(images), theirs, atol=1e-4)
    visual = {name: one for name, one in clip.model.state_dict().items() if name.startswith("visual.")}
    torch.save(visual, tmp_path / "image.pt")
    with pytest.raises(LostRegError, match="has no text tower"):
        load_open_clip(BACKBONE, text_model=small, weights=str(tmp_path / "image.pt"), device="cpu")


def test_models_that_do_not_belong_together_are_refused(small, monkeypatch):
    with pytest.raises(LostRegError, match="tiny has no text tower"):
        load_open_clip("tiny", weights="random")
    with pytest.raises(LostRegError, match="open_clip has no model 'ViT-9'"):
        load_open_clip(BACKBONE, text_model="ViT-9", weights="random")
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(LostRegError, match=r"pip install 'lost-reg\[openclip\]'"):
        load_open_clip(BACKBONE, text_model=small, weights="random")


# --- the command -------------------------------------------------------------------------------------


@pytest.fixture
def shots(tmp_path):
    """A folder of two classes, of which each image is one colour."""
    for name, colour in (("red_one", (200, 0, 0)), ("blue_one", (0, 0, 200))):
        folder = tmp_path / "shots" / name
        folder.mkdir(parents=True)
        for index in range(10):
            Image.new("RGB", (40, 30), tuple(c + index for c in colour)).save(folder / f"{index}.png")
    return tmp_path / "shots"


@pytest.fixture
def probe(shots, small, tmp_path):
    def run(*more):
        model = ("-b", BACKBONE, "--text-model", small, "--weights", "random", "--device", "cpu")
        arguments = ("probe", shots, "--task", "zero-shot", *model, "--workers", 0, "--out", tmp_path / "out")
        return CliRunner().invoke(main, [*map(str, arguments), *map(str, more)], catch_exceptions=False)

    return run


def test_the_command_scores_test_images_by_the_nearest_prompt(probe, clip, tmp_path):
    (tmp_path / "names.txt").write_text("blue\nred\n")
    (tmp_path / "templates.txt").write_text("a {} thing\n{}\n")
    files = ("--class-names", tmp_path / "names.txt", "--templates", tmp_path / "templates.txt")
    result = probe(*files)
    assert result.exit_code == 0, result.output
    record = read_probe(tmp_path / "out")
    outcomes = read_outcomes(tmp_path / "out", record)
    assert record.settings["class_names"] == ["blue", "red"] and record.task == "zero-shot"
    (score,) = record.scores
    assert score.key == ("cls", "zero-shot", "top1") and score.test == len(outcomes.names)
    classes = clip.embed_classes(["blue", "red"], ["a {} thing", "{}"])
    mean, std = (torch.tensor(one)[:, None, None] for one in (clip.backbone.mean, clip.backbone.std))
    for name, truth, right in zip(outcomes.names, outcomes.truth, outcomes.rows[0][:, 0]):
        pixels = np.asarray(Image.open(tmp_path / "shots" / name))[0, 0]
        image = torch.tensor(pixels / 255, dtype=torch.float32)[:, None, None].expand(3, 224, 224)
        with torch.no_grad():
            of_image = clip.model.encode_image(((image - mean) / std)[None])
        assert (int((of_image @ classes.T).argmax()) == truth) == right
    assert probe(*files).exit_code == 1  # a finished probe is not replaced


def test_bad_names_and_templates_are_one_line(probe, tmp_path):
    file = tmp_path / "lines.txt"
    file.write_text("one\n")
    for option, message in (
        ("--class-names", "has 1 name and"),
        ("--templates", "the template 'one' of"),
    ):
        result = probe(option, file)
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        assert result.exit_code == 1 and message in line
