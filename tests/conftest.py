"""What all tests share: no network, no cache of the user's, and small images and datasets.

Where a test names no backbone to `run` or `sweep`, it is `tiny`, by a variable of the environment.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from pathlib import Path

# Before the hub library is imported; also for the processes that tests start.
os.environ |= {"HF_HUB_OFFLINE": "1", "LOST_REG_RUN_BACKBONE": "tiny", "LOST_REG_SWEEP_BACKBONE": "tiny"}

import hypothesis
import numpy as np
import pytest
import torch
from PIL import Image

from lost_reg.backbones.loading import load_backbone
from lost_reg.images import reading

torch.set_num_threads(1)  # on small tensors, threads cost more than they give
hypothesis.settings.register_profile("any-machine", deadline=None)  # a busy one takes its time
hypothesis.settings.load_profile("any-machine")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Any connection to another machine fails the test."""
    connect = socket.socket.connect

    def connect_here(self, address):
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "localhost", "::1"):
            raise AssertionError(f"a test tried to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)


@pytest.fixture(autouse=True, scope="session")
def own_state(tmp_path_factory):
    """The key that seals runs, and the cache of torch.hub, are not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))
        yield


@pytest.fixture(autouse=True)
def no_data_root(monkeypatch):
    """A data root of the user's does not reach into the tests."""
    monkeypatch.delenv("LOST_REG_DATA", raising=False)


@pytest.fixture(scope="module")
def browser():
    """A Chromium, on the PATH, named by LOST_REG_CHROMIUM or installed by playwright; without, it skips."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        found = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
        path = os.environ.get("LOST_REG_CHROMIUM") or next(
            filter(None, found), driver.chromium.executable_path
        )
        if not Path(path).is_file():
            pytest.skip("no Chromium: `make chromium` installs it, or says how")
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def random_backbone():
    """The smallest backbone, at random weights: for shapes and agreement."""
    return load_backbone("tiny", weights="random", device="cpu")


@pytest.fixture(scope="session")
def save_scene():
    """A function that writes a grey image with one coloured, textured rectangle in it."""
    return _save_scene


def _save_scene(path: Path, size_hw=(96, 128), box_xyxy=(32, 16, 96, 64), seed=0) -> Path:
    random = np.random.default_rng(seed)
    height, width = size_hw
    pixels = random.integers(110, 130, (height, width, 3), dtype=np.uint8)
    xmin, ymin, xmax, ymax = box_xyxy
    pixels[ymin:ymax, xmin:xmax] = random.integers(0, 256, (ymax - ymin, xmax - xmin, 3)) * (1.0, 0.3, 0.1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def make_voc():
    """A function that makes a folder in VOC layout: {stem: [(label, xmin, ymin, xmax, ymax), ...]}.

    The boxes are written as they are given: VOC's, 1-based and inclusive.
    """
    return _make_voc


def _make_voc(folder: Path, objects: dict[str, list[tuple]], size_hw=(96, 128), hard=()) -> Path:
    for number, (stem, boxes) in enumerate(objects.items()):
        _save_scene(folder / "JPEGImages" / f"{stem}.jpg", size_hw, seed=number)
        xml = "".join(
            f"<object><name>{label}</name><truncated>0</truncated><difficult>{int(label in hard)}</difficult>"
            f"<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>"
            for label, xmin, ymin, xmax, ymax in boxes
        )
        size = f"<size><width>{size_hw[1]}</width><height>{size_hw[0]}</height><depth>3</depth></size>"
        _write(folder / "Annotations" / f"{stem}.xml", f"<annotation>{size}{xml}</annotation>")
    _write(folder / "ImageSets" / "Main" / "trainval.txt", "".join(f"{stem}\n" for stem in objects))
    return folder


@pytest.fixture
def make_coco():
    """A function that makes a COCO file and its images: {file name: [(x, y, w, h, iscrowd), ...]}."""
    return _make_coco


def _make_coco(folder: Path, objects: dict[str, list[tuple]], size_hw=(96, 128)) -> Path:
    images, annotations = [], []
    for image_id, (name, boxes) in enumerate(objects.items(), start=1):
        _save_scene(folder / "images" / name, size_hw, seed=image_id)
        images.append({"id": image_id, "file_name": name, "height": size_hw[0], "width": size_hw[1]})
        for x, y, width, height, crowd in boxes:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": crowd,
                }
            )
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    return _write(folder / "instances.json", json.dumps(content))


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def without_heif(monkeypatch):
    """As on a machine without pillow-heif."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    reading.heif_is_readable.cache_clear()
    yield
    reading.heif_is_readable.cache_clear()
