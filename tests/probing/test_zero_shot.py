"""Zero-shot by open_clip: the image tower is open_clip's own, and images go to the nearest prompts."""

from __future__ import annotations

import json
import logging
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from open_clip_cases import TOWER, add_small_model
from PIL import Image

from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.registers import AddedRegisters, RegisterNeurons
from lost_reg.cli.app import main
from lost_reg.errors import LostRegError
from lost_reg.probing import zero_shot
from lost_reg.probing.open_clip_models import OpenClip, embed_images, load_open_clip
from lost_reg.probing.records import read_outcomes, read_probe
from lost_reg.runs.batches import outcomes_of
from lost_reg.runs.options import LoaderOptions
from lost_reg.types import Failure

open_clip = pytest.importorskip("open_clip")


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> str:
    """The name of a small model that open_clip knows."""
    return add_small_model(tmp_path_factory.mktemp("configs"))


@pytest.fixture
def clip(small) -> OpenClip:
    return load_open_clip(TOWER, text_model=small, weights="random", device="cpu")


def test_images_and_prompts_are_embedded_as_by_open_clip(clip, small):
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        theirs = clip.model.encode_image(images, normalize=True)
        texts = open_clip.get_tokenizer(small)(["a cat.", "the cat", "a dog.", "the dog"])
        prompts = clip.model.encode_text(texts, normalize=True).unflatten(0, (2, 2)).mean(dim=1)
    assert torch.allclose(embed_images(images, clip.backbone, clip.projection), theirs, atol=1e-4)
    found = clip.embed_classes(["cat", "dog"], ["a {}.", "the {}"])
    assert torch.allclose(found, torch.nn.functional.normalize(prompts, dim=1), atol=1e-5)


def test_an_image_whose_embedding_is_not_finite_is_a_failure(clip):
    job = zero_shot.Embeddings(clip.projection * torch.nan, LoaderOptions(workers=0), (224, 224))
    failure, empty = outcomes_of([("a", np.zeros((32, 32, 3), np.uint8))], job, clip.backbone)
    assert failure == Failure("a", "its embedding is not finite in fp32") and empty.names == []


def test_weights_are_those_of_a_whole_checkpoint(clip, small, tmp_path, caplog):
    torch.save({name: one * 1.1 for name, one in clip.model.state_dict().items()}, tmp_path / "whole.pt")
    loaded = load_open_clip(TOWER, text_model=small, weights=str(tmp_path / "whole.pt"), device="cpu")
    assert loaded.backbone.weights.name == "whole.pt" and loaded.backbone.weights.sha256
    assert "No pretrained weights" not in caplog.text  # which open_clip warns of
    logging.warning("of others")
    assert "of others" in caplog.text
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        theirs = loaded.model.encode_image(images, normalize=True)
    assert torch.allclose(embed_images(images, loaded.backbone, loaded.projection), theirs, atol=1e-4)
    visual = {name: one for name, one in clip.model.state_dict().items() if name.startswith("visual.")}
    torch.save(visual, tmp_path / "image.pt")
    with pytest.raises(LostRegError, match="has no text tower"):
        load_open_clip(TOWER, text_model=small, weights=str(tmp_path / "image.pt"), device="cpu")


def test_models_that_do_not_belong_together_are_refused(small, monkeypatch):
    with pytest.raises(LostRegError, match="tiny has no text tower"):
        load_open_clip("tiny", weights="random")
    with pytest.raises(LostRegError, match="open_clip has no model 'ViT-9'"):
        load_open_clip(TOWER, text_model="ViT-9", weights="random")
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(LostRegError, match=r"pip install 'lost-reg\[openclip\]'"):
        load_open_clip(TOWER, text_model=small, weights="random")


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
        model = ("-b", TOWER, "--text-model", small, "--weights", "random", "--device", "cpu")
        arguments = ("probe", shots, "--task", "zero-shot", *model, "--workers", 0, "--out", tmp_path / "out")
        return CliRunner().invoke(main, [*map(str, arguments), *map(str, more)], catch_exceptions=False)

    return run


@pytest.fixture
def one_template(tmp_path):
    """The option for one template: the 80 of open_clip take seconds."""
    (tmp_path / "template.txt").write_text("a {}\n")
    return "--templates", tmp_path / "template.txt"


def one_colour(path, backbone):
    """An image of one colour as the backbone takes it, (1, 3, 224, 224)."""
    mean, std = (torch.tensor(one)[:, None, None] for one in (backbone.mean, backbone.std))
    image = torch.tensor(np.asarray(Image.open(path))[0, 0] / 255, dtype=torch.float32)[:, None, None]
    return ((image - mean) / std).expand(3, 224, 224)[None]


def test_without_any_usable_image_there_is_no_probe(probe, shots, one_template, tmp_path):
    for path in shots.rglob("*.png"):
        path.write_bytes(b"")
    result = probe(*one_template)
    assert result.exit_code == 1 and "none of the 4 images could be used" in result.stderr
    assert not (tmp_path / "out" / "probe.json").exists()


def test_the_command_scores_test_images_by_the_nearest_prompt(probe, clip, tmp_path):
    (tmp_path / "names.txt").write_text("blue\nred\n")
    (tmp_path / "templates.txt").write_text("a {} thing\n{}\n")
    files = ("--class-names", tmp_path / "names.txt", "--templates", tmp_path / "templates.txt")
    result = probe(*files)
    assert result.exit_code == 0, result.output
    assert f"Backbone: {TOWER} (RANDOM WEIGHTS)" in result.stdout.splitlines()
    assert "shots: 2 classes, 4 test images; splits: drawn with seed 0: " in result.stderr
    assert "Note: 4 prompts of 2 classes are embedded after the images\n" in result.stderr
    record = read_probe(tmp_path / "out")
    outcomes = read_outcomes(tmp_path / "out", record)
    assert record.settings["class_names"] == ["blue", "red"] and record.task == "zero-shot"
    (score,) = record.scores
    assert score.key == ("cls", "zero-shot", "top1") and score.test == len(outcomes.names)
    classes = clip.embed_classes(["blue", "red"], ["a {} thing", "{}"])
    for name, truth, right in zip(outcomes.names, outcomes.truth, outcomes.rows[0][:, 0]):
        with torch.no_grad():
            of_image = clip.model.encode_image(one_colour(tmp_path / "shots" / name, clip.backbone))
        assert (int((of_image @ classes.T).argmax()) == truth) == right
    assert probe(*files).exit_code == 1  # a finished probe is not replaced


@torch.no_grad()
def test_test_time_registers_are_in_the_image_tower(probe, clip, one_template, shots, tmp_path):
    neurons = [[layer, neuron] for layer in (2, 5) for neuron in range(100)]
    (tmp_path / "neurons.json").write_text(json.dumps({"neurons": neurons}))
    added = ("--test-time-registers", 2, "--register-neurons", tmp_path / "neurons.json")
    result = probe(*added, *one_template)
    assert result.exit_code == 0, result.output
    record = read_probe(tmp_path / "out")
    assert record.settings["test_time_registers"] == {"count": 2, "rule": "paper", "neurons": neurons}
    assert "2 test-time registers at 200 neurons" in record.label
    registers = AddedRegisters(RegisterNeurons(tuple(map(tuple, neurons))), 2, "paper")
    tower = load_backbone(TOWER, weights=clip.model, registers=registers, device="cpu")
    texts = clip.embed_classes(["blue one", "red one"], ["a {}"])
    outcomes = read_outcomes(tmp_path / "out", record)
    for name, truth, right in zip(outcomes.names, outcomes.truth, outcomes.rows[0][:, 0]):
        image = one_colour(shots / name, tower)
        embedded = torch.nn.functional.normalize(tower.class_tokens(image) @ clip.model.visual.proj, dim=1)
        assert (int((embedded @ texts.T).argmax()) == truth) == right
        assert (embedded - embed_images(image, clip.backbone, clip.projection)).abs().max() > 1e-3


def test_an_interrupted_probe_continues(probe, one_template, tmp_path, monkeypatch):
    one_by_one = (*one_template, "--batch-size", 1)
    whole = probe(*one_template, "--out", tmp_path / "whole")
    assert whole.exit_code == 0, whole.output
    add, added = zero_shot.TokenCache.add, []

    def stop_at_the_third(self, images, tokens):
        if len(added) == 2:
            raise KeyboardInterrupt
        added.extend(images)
        add(self, images, tokens)

    with monkeypatch.context() as patch:
        patch.setattr(zero_shot.TokenCache, "add", stop_at_the_third)
        stopped = probe(*one_by_one)
    assert stopped.exit_code == 130 and "the same command continues" in stopped.stderr
    assert not (tmp_path / "out" / "probe.json").exists()

    def count(self, images, tokens):
        added.extend(images)
        add(self, images, tokens)

    monkeypatch.setattr(zero_shot.TokenCache, "add", count)
    other = probe(*one_by_one, "--seed", 1)
    assert other.exit_code == 1 and "unfinished work with other settings" in other.stderr
    assert probe(*one_by_one).exit_code == 0
    record, again = (read_probe(tmp_path / name) for name in ("whole", "out"))
    assert sorted(added) == list(range(record.scores[0].test)) and again == record
    rows = [read_outcomes(tmp_path / name, record).rows[0] for name in ("whole", "out")]
    assert np.array_equal(*rows)
    assert probe(*one_by_one, "--seed", 1).exit_code == 1
    assert probe(*one_by_one, "--seed", 1, "--overwrite").exit_code == 0
    assert read_probe(tmp_path / "out").settings["seed"] == 1


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
