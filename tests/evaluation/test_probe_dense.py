"""probe_dense.py: the scenes' labels and depths, and its tables with the bundled backbone."""

from __future__ import annotations

import cv2
import numpy as np
import probe_dense
from tiny.scenes import Scene

from lost_reg.backbones.loading import load_backbone
from lost_reg.probing.records import Outcomes


def test_labels_and_depths_by_hand():
    instances = np.zeros((5, 3), np.uint8)
    instances[1:3, 0], instances[4, 2] = 1, 3  # the second object is hidden
    scene = Scene(np.zeros((5, 3, 3), np.uint8), instances, ("machine", "lump", "creature"))
    assert probe_dense.classes_of(scene).tolist() == [[0, 0, 0], [3, 0, 0], [3, 0, 0], [0, 0, 0], [0, 0, 1]]
    rows = [5000, 2500, 1667, 1250, 1000]  # 1 m over 0.2, 0.4, 0.6, 0.8 and 1
    expected = np.repeat(np.array(rows)[:, None], 3, axis=1)
    expected[1, 0] = 1667  # it stands on the third row
    assert (probe_dense.depths_of(scene) == expected).all()


def test_tables(tmp_path, printed, monkeypatch):
    monkeypatch.setattr(probe_dense, "SIDE", 112)
    arguments = probe_dense, tmp_path, "--backbone", "tiny", "--train", 2, "--test", 2, "--steps", 2
    output = printed(*arguments)
    names = [
        f"{task}-{of}" for task in ("segmentation", "depth") for of in ("real-2", "planted-2", "real-2-4")
    ]
    minutes = [line.split(":")[0] for line in output.splitlines() if "core minutes" in line]
    assert minutes == names
    rows = [line for line in output.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows] == [
        f"| {name}"
        for title in ("mIoU, %", "RMSE, m")
        for name in ("steps", "2", title, "everywhere", "in the planted patches")
    ]
    views = [line for line in output.splitlines() if line.startswith("The real model with 4 views")]
    assert len(views) == 2
    again = printed(*arguments)  # read, not done again
    assert [line for line in again.splitlines() if line.startswith("| ")] == rows
    assert "core minutes" not in again


def test_the_labels_of_planted_patches_are_where_the_model_is_planted(tmp_path):
    backbone = load_backbone("tiny", device="cpu")
    probe_dense.save_scenes(tmp_path / "scenes", backbone, 0, 1)
    folder = tmp_path / "scenes" / "val"
    whole, only = (cv2.imread(str(folder / "labels" / name), -1) for name in ("000.png", "000-planted.png"))
    kept = only != probe_dense.NO_CLASS
    assert kept.sum() == probe_dense.PLANTED * 16**2 and (only[kept] == whole[kept]).all()
    depths = cv2.imread(str(folder / "depths" / "000-planted.png"), -1)
    assert ((depths > 0) == kept).all()
    # where the tokens after the middle block are alike: the planted ones
    images = probe_dense.normalized(
        [probe_dense.decoded(folder / "images" / "000.png", backbone.patch_size)], backbone
    )
    texture = images[0].reshape(3, 14, 16, 14, 16).permute(1, 3, 0, 2, 4).flatten(2).std(dim=2).numpy()
    of_patches = kept[::16, ::16]
    assert texture[of_patches].max() < texture[~of_patches].min()
    planted = probe_dense.planted(backbone, probe_dense.PLANTED)
    tokens = list(planted.block_outputs(images))[backbone.depth // 2 - 1][0]
    chosen = (tokens.norm(dim=1) > 10 * tokens.norm(dim=1).median()).view(14, 14).numpy()
    assert (chosen.repeat(16, axis=0).repeat(16, axis=1) == kept).all()


def outcomes(*errors: float) -> Outcomes:
    """Of the scenes 7, 8 and 9, each with all labels and with those of its planted patches."""
    names = tuple(f"val/images/{number}{end}.png" for number in (7, 8, 9) for end in ("", probe_dense.ONLY))
    return Outcomes(names, None, (np.array(errors, np.float64)[:, None],))


def test_each_row_of_the_table_has_its_own_images(capsys):
    same, real, changed = outcomes(*[9] * 6), outcomes(7, 7, 1, 2, 3, 4), outcomes(8, 9, 1, 4, 3, 6)
    probe_dense.print_scores("rmse", same, {"real": real, "planted": changed}, fresh=8)
    _, _, *rows = capsys.readouterr().out.splitlines()
    assert [row.split(" | ")[-1] for row in rows] == [
        "0.000 (0.000 to 0.000) |",
        "2.000 (2.000 to 2.000) |",
    ]
    assert [row.split(" | ")[2].split()[0] for row in rows] == ["2.000", "3.000"]


def test_steps_are_chosen_on_the_first_half_and_views_compared_on_the_second(capsys):
    few, many = outcomes(3, 9, 1, 9, 1, 9), outcomes(2, 9, 5, 9, 5, 9)
    assert probe_dense.chosen_steps("rmse", {300: few, 1000: many}, fresh=8) == 1000
    assert probe_dense.chosen_steps("rmse", {300: few, 1000: many}, fresh=10) == 300
    capsys.readouterr()
    probe_dense.print_views("rmse", few, many, fresh=8)
    assert "4 views of each training image: 5.000, minus one view: 4.000 (" in capsys.readouterr().out
