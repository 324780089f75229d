"""Photos to export, and the command."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from export_cases import prediction

from lost_reg.cli.app import main


@pytest.fixture
def photos(tmp_path, save_scene):
    """Three images of 96 x 128 pixels, and what was found in them and in two that are not there."""
    root = tmp_path / "photos"
    save_scene(root / "a.jpg")
    save_scene(root / "sub/a.png", seed=1)
    save_scene(root / "B.JPEG", seed=2)
    listed = ("a.jpg", "sub/a.png", "B.JPEG", "gone.jpg", "shard-0.tar/key.jpg")
    found = [
        prediction(name, (32, 16, 96, 64), (0, 1, 20, 30.2), size_hw=(96, 128), grid_hw=(6, 8))
        for name in listed
    ]
    return root, found


@pytest.fixture
def upright(photos):
    """Of `photos` what is there, in two files of one folder, as supervision wants them."""
    root, found = photos
    return root, [one for one in found if one.image in ("a.jpg", "B.JPEG")]


@pytest.fixture
def lost_reg():
    """Run `lost-reg ARGS...` in this process."""
    return lambda *args: CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)
