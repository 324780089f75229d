"""`lost-reg backbones` and `lost-reg datasets`: what there is, and what cannot be downloaded."""

from __future__ import annotations

from lost_reg.text import display_width


def test_backbones(lost_reg):
    result = lost_reg("backbones")
    assert result.exit_code == 0
    assert "dinov2_vitl14_reg" in result.stdout and "dinov2_reg" in result.stdout
    lines = result.stdout.partition("\nLeft out to fit the width: ")[0].splitlines()
    assert max(map(display_width, lines)) <= 80 and len(lines[0]) < len(lines[1])
    assert "give dino_deitsmall8_300ep_pretrain.pth as --weights" in " ".join(result.stdout.split())


def test_datasets(lost_reg, voc):
    result = lost_reg("datasets", "--data-root", voc)
    assert "here: 3 images of it" in result.stdout and "not here" in result.stdout


def test_what_cannot_be_downloaded(refused):
    assert "samples" in refused("datasets", "--download", "samples")
    assert "dino_deitsmall8_300ep_pretrain.pth" in refused("backbones", "--download", "dino_vits8_300ep")
