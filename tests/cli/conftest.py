"""What tests of the command line share."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from helpers import without_notes

from lost_reg.cli.app import main


@pytest.fixture
def lost_reg():
    """Run `lost-reg ARGS...` in this process."""

    def invoke(*args):
        return CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)

    return invoke


@pytest.fixture
def refused(lost_reg):
    """Run `lost-reg ARGS...`, check that it fails with one line beside notes, and return that line."""

    def invoke(*args, exit_code=1):
        result = lost_reg(*args)
        assert result.exit_code == exit_code, result.output
        lines = without_notes(result)
        assert len(lines) == 1 and lines[0].startswith("Error: "), result.stderr
        return lines[0]

    return invoke


@pytest.fixture
def photos(tmp_path, save_scene):
    folder = tmp_path / "photos"
    save_scene(folder / "a.jpg")
    save_scene(folder / "sub" / "B.PNG", size_hw=(80, 70), box_xyxy=(10, 10, 50, 60), seed=1)
    return folder


@pytest.fixture
def voc(tmp_path, make_voc):
    """A data root with three images of voc07; the second has no object."""
    objects = {
        "000001": [("thing", 33, 17, 96, 64)],
        "000002": [],
        "000003": [("thing", 1, 1, 8, 8), ("thing", 33, 17, 96, 64)],
    }
    make_voc(tmp_path / "root" / "VOCdevkit" / "VOC2007", objects)
    return tmp_path / "root"
