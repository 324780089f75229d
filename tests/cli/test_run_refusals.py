"""`lost-reg run` with bad input: one clear line, an exit code, and nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
from image_cases import make_shard
from run_cases import lines_of

from lost_reg.backbones.loading import load_backbone

ROOT = Path(__file__).parent.parent.parent


def test_no_such_path(refused, tmp_path):
    assert "no such file or folder" in refused("run", tmp_path / "nowhere", "--out", tmp_path / "out")


def test_empty_folder(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no images in" in refused("run", tmp_path / "empty", "--out", tmp_path / "out")


def test_nothing_usable(refused, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    line = refused("run", tmp_path / "text.jpg", "--out", tmp_path / "out")
    assert "1 of 1 image could not be used" in line and "not an image" in line


def test_a_list_of_what_is_not_there(refused, tmp_path):
    (tmp_path / "list").write_text(f"{tmp_path}/photos/gone.jpg\n~/a.jpg\n")
    text = refused("run", "--files-from", tmp_path / "list", "--out", tmp_path / "out", "--workers", 0)
    assert f"(no such file: '{tmp_path}/photos/gone.jpg')" in text
    assert f"no such file: '{Path.cwd()}/~/a.jpg'; entries of a list are paths or addresses: write" in text


def test_shards_without_images(refused, lost_reg, photos, tmp_path):
    for name in ("a", "b"):
        make_shard(tmp_path / f"{name}.tar", {"0.json": b"{}", "0.cls": b"1"})
    only = ("run", tmp_path / "a.tar", tmp_path / "b.tar", "--out", tmp_path / "run", "--workers", 0)
    text = refused(*only)
    assert "2 of 2 images could not be used: a.tar (no images: it holds 1 .cls, 1 .json" in text
    make_shard(tmp_path / "c.tar", {"0.jpg": (photos / "a.jpg").read_bytes()})
    result = lost_reg(*only, tmp_path / "c.tar", "--out", tmp_path / "other")
    assert result.exit_code == 0 and "2 of 3 images could not be used" in result.stderr


def test_strict(refused, photos, tmp_path):
    whole = (photos / "a.jpg").read_bytes()
    (photos / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    line = refused("run", photos, "--strict", "--out", tmp_path / "out")
    assert "1 of 3 images could not be used: cut.jpg" in line
    assert len(lines_of(tmp_path / "out")) == 2  # and what was done is there


def test_unknown_backbone(refused, photos, tmp_path):
    line = refused("run", photos, "--backbone", "dinov2_rag", "--out", tmp_path / "out")
    assert "did you mean" in line and "dinov2_reg" in line


def test_unknown_timm_model(refused, photos, tmp_path):
    assert "not supported" in refused("run", photos, "-b", "timm:resnet18", "--out", tmp_path / "out")


def test_unknown_dataset(refused, tmp_path):
    assert "voc07" in refused("run", "--dataset", "voc08", "--out", tmp_path / "out")


def test_dataset_not_there(refused, tmp_path):
    line = refused("run", "--dataset", "voc07", "--data-root", tmp_path, "--out", tmp_path / "out")
    assert str(tmp_path / "VOCdevkit/VOC2007") in line and "lost-reg datasets --download voc07" in line


def test_dataset_with_missing_images(refused, voc, tmp_path):
    (voc / "VOCdevkit/VOC2007/JPEGImages/000002.jpg").unlink()
    line = refused("run", "--dataset", "voc07", "--data-root", voc, "--out", tmp_path / "out")
    assert "2 of 3 images found in" in line and "without 000002.jpg" in line and "--download" in line


def test_weights_not_there(refused, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    line = refused("run", photos, "--backbone", "dinov2_reg", "--offline", "--out", tmp_path / "out")
    assert (
        f"timm/vit_large_patch14_reg4_dinov2.lvd142m and facebook/dinov2-with-registers-large in {tmp_path}"
        in line
    )
    assert "--offline forbids downloading them: get model.safetensors from https://" in line
    assert "give it with --weights FILE; docs/backbones.md" in line
    assert "; --backbone tiny is for offline trials" in line


@pytest.mark.parametrize("command", [["run", "photos"], ["sweep", "--dataset", "samples"]])
def test_by_default_a_backbone_for_photos_is_used_and_never_tiny(
    refused, photos, tmp_path, monkeypatch, command
):
    """Where the hub cannot be reached, that is said before torch is imported."""
    for name in ("LOST_REG_RUN_BACKBONE", "LOST_REG_SWEEP_BACKBONE"):
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOST_REG_DATA", str(ROOT / "data"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")  # nobody listens there
    monkeypatch.setattr("lost_reg.cli.run.import_models", None)
    monkeypatch.setattr("lost_reg.cli.sweep.import_models", None)
    line = refused(*command)
    assert "the Hugging Face hub cannot be reached (" in line and "/vit_small_patch16_224.dino/" in line
    assert "--weights FILE" in line and "--backbone tiny" in line
    assert not (tmp_path / "results").exists()


def test_weight_file_not_there(refused, photos, tmp_path):
    assert "nope.pth" in refused("run", photos, "--weights", "nope.pth", "--out", tmp_path / "out")
    # noticed before a dataset is looked for, or downloaded
    line = refused("run", "-d", "voc07", "--weights", "nope.pth", "--data-root", tmp_path)
    assert "nope.pth" in line


def test_weights_of_another_model(refused, photos, tmp_path):
    tiny = load_backbone("tiny").weights.path
    line = refused("run", photos, "-b", "dinov2_vits14", "--weights", tiny, "--out", tmp_path / "out")
    assert "does not fit dinov2_vits14: has 4 register tokens, patch size 16" in line and "try tiny" in line


def test_a_name_that_is_too_long(refused, photos, tmp_path):
    assert "no such file" in refused("run", "x" * 300, "--out", tmp_path / "out")
    assert "too long" in refused("run", photos, "--out", tmp_path / ("x" * 300))


def test_a_bias_that_is_no_number(refused, photos, tmp_path):
    assert "finite --bias or 'auto'" in refused(
        "run", photos, "--method", "lost", "--bias", "nan", "--out", tmp_path / "out"
    )


def test_output_path_is_a_file(refused, photos, tmp_path):
    (tmp_path / "file").touch()
    assert "it is a file" in refused("run", photos, "--out", tmp_path / "file")
    assert "cannot write results" in refused("run", photos, "--out", tmp_path / "file" / "below")


def test_a_run_is_not_overwritten(lost_reg, refused, photos, tmp_path):
    lost_reg("run", photos, "--out", tmp_path / "out")
    before = (tmp_path / "out/predictions.jsonl").read_bytes()
    assert "--resume" in refused("run", photos, "--out", tmp_path / "out")
    result = lost_reg("run", photos, "--facet", "v", "--resume", "--out", tmp_path / "out")
    assert result.exit_code == 1 and "other settings (facet)" in result.stderr
    assert (tmp_path / "out/predictions.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "option",
    [
        ("--precision", "fp8"),
        ("--batch-size", "0"),
        ("--batch-size", "all"),
        ("--layer", "a"),
        ("--k-patches", "0"),
        ("--max-side", "-3"),
        ("--limit", "0"),
        ("--nonsense",),
    ],
)
def test_unknown_option_values(refused, photos, tmp_path, option):
    assert option[0] in refused("run", photos, *option, "--out", tmp_path / "out", exit_code=2)


def test_options_that_only_the_library_can_judge(refused, photos, tmp_path):
    assert "unknown facet 'x'" in refused("run", photos, "--facet", "x", "--out", tmp_path / "out")
    line = refused("run", photos, "--layer=-1,-1", "--out", tmp_path / "out")
    assert "several different ones" in line
    assert "no layer 6" in refused("run", photos, "--layer", 6, "--out", tmp_path / "out")
    assert "nonsense" in refused("run", photos, "--device", "nonsense", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_and_a_dataset_at_once_or_neither(refused, photos):
    assert "either" in refused("run", photos, "--dataset", "voc07", exit_code=2)
    assert "either" in refused("run", exit_code=2)


def test_hostile_names_stay_on_one_line(refused, tmp_path):
    (tmp_path / "a\nError: b\x1b[31m.jpg").write_text("no image")
    assert "\\n" in refused("run", tmp_path, "--out", tmp_path / "out")


def test_a_refinement_that_is_not_installed(refused, photos, tmp_path, monkeypatch):
    from lost_reg.masks import refiners

    monkeypatch.setattr(refiners, "find_spec", lambda name: None)
    line = refused("run", photos, "--refine", "crf", "--out", tmp_path / "out")
    assert line.startswith("Error: --refine crf needs pydensecrf2") and not (tmp_path / "out").exists()
