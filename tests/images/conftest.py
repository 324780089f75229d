"""What tests of images share: a folder of files with names of many kinds."""

from __future__ import annotations

import pytest


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A folder to stand in, with images (empty files will do) and other things."""
    for name in ["b.jpg", "a.PNG", "notes.txt", "sub/c.jpeg", "sub/deep/d.TIFF", "sub/b.jpg", "other/e.webp"]:
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path
