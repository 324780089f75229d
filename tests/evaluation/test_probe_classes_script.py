"""What evaluation/probe_classes.py plants."""

from __future__ import annotations

import probe_classes
import torch

from lost_reg.backbones.loading import load_backbone

FLAT = (0, 7), (3, 0), (4, 7), (7, 0), (7, 5)  # at the border of 8 x 8 patches


def test_chosen_patches_hold_the_class_token_and_are_the_outliers():
    backbone = load_backbone("tiny", device="cpu")
    side, first = backbone.patch_size, backbone.num_prefix_tokens
    images = torch.randn(2, 3, 8 * side, 8 * side, generator=torch.Generator().manual_seed(0))
    is_flat = torch.zeros(8, 8, dtype=torch.bool)
    for row, column in FLAT:
        is_flat[row, column] = True
        images[:, :, row * side : (row + 1) * side, column * side : (column + 1) * side] = 0.3
    *_, before, last = backbone.block_outputs(images, with_prefix=True)
    backbone = probe_classes.planted(backbone, images)
    *_, written, _ = backbone.block_outputs(images, with_prefix=True)
    norms, typical = written[:, first:].norm(dim=2), before[:, first:].norm(dim=2).median()
    assert ((norms > norms.mean() + 3 * norms.std()) == is_flat.flatten()).all()
    class_token = last[:, :1] / last[:, :1].norm(dim=2, keepdim=True)
    expected = (probe_classes.TIMES_TYPICAL * typical * class_token).expand(-1, len(FLAT), -1)
    torch.testing.assert_close(written[:, first:][:, is_flat.flatten()], expected)
    torch.testing.assert_close(
        written[:, first:][:, ~is_flat.flatten()], before[:, first:][:, ~is_flat.flatten()]
    )
    torch.testing.assert_close(written[:, :first], before[:, :first])
