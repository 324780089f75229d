"""Views of training images: crops, their labels, what the backbone sees, and how many tokens that is."""

from __future__ import annotations

import numpy as np
import pytest
from dense_cases import write_depth, write_segmentation
from hypothesis import given
from hypothesis import strategies as st

from lost_reg.backbones.loading import load_backbone
from lost_reg.datasets.pixel_labels import find_depth, find_segmentation
from lost_reg.images.batching import DecodedImage
from lost_reg.images.reading import pad_to_patches, scaled
from lost_reg.probing import dense, dense_views
from lost_reg.probing.dense import probe_dense
from lost_reg.probing.dense_options import DenseOptions
from lost_reg.probing.dense_views import Crop, Pixels, draw_views
from lost_reg.probing.options import ProbeOptions
from lost_reg.runs.options import LoaderOptions

SIDES = st.integers(1, 90)
HEIGHT, WIDTH, PATCH = 80, 120, 14
EACH = np.arange(HEIGHT * WIDTH, dtype=np.int32)


def ramps() -> np.ndarray:
    """(HEIGHT, WIDTH, 3) uint8: red is the row, green the column, twice each."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([2 * rows, 2 * columns, 0 * rows], axis=2).astype(np.uint8)


def decoded(max_side=None) -> DecodedImage:
    pixels = scaled(ramps(), max_side)
    return DecodedImage("ramps", pad_to_patches(pixels, PATCH), pixels.shape[:2], (HEIGHT, WIDTH))


def test_pixels_of_a_crop_by_hand():
    # 0 . 2    rows 1 and 2, columns 1 and 2 of an image of 3 columns
    # . 4 5    of which 4, 5 and 7 have labels
    # 6 7 .
    whole = Pixels(3, np.array([0, 2, 4, 5, 6, 7]), np.array([0, 20, 40, 50, 60, 70.0]))
    for mirrored, places in ((False, [0, 1, 2]), (True, [1, 0, 3])):
        found = Crop(1, 1, (2, 2), mirrored, False).pixels(whole)
        assert (found.width, found.places.tolist(), found.labels.tolist()) == (2, places, [40, 50, 70])


@given(height=SIDES, width=SIDES, task=st.sampled_from(["segmentation", "depth"]), seed=st.integers(0, 999))
def test_crops_lie_in_the_image(height, width, task, seed):
    crop = Crop.draw((height, width), task, np.random.default_rng(seed))
    least = {"segmentation": 0.5, "depth": 0.85}[task]
    for start, side, whole in zip((crop.top, crop.left), crop.size_hw, (height, width)):
        assert start >= 0 and start + side <= whole and side >= max(1, least * whole - 0.5)
    assert crop.enlarged == (task == "segmentation")
    labelled = Pixels(width, np.arange(height * width, dtype=np.int32), np.zeros(height * width))
    assert sorted(crop.pixels(labelled).places) == list(range(crop.size_hw[0] * crop.size_hw[1]))


def test_crops_are_anywhere_of_any_size_and_mirrored_or_not():
    crops = [Crop.draw((100, 200), "segmentation", np.random.default_rng(seed)) for seed in range(400)]
    assert 160 < sum(crop.mirrored for crop in crops) < 240
    heights = [crop.size_hw[0] for crop in crops]
    assert (min(heights), max(heights)) == pytest.approx((50, 100), abs=1) and 73 < np.mean(heights) < 77
    small = [crop for crop in crops if crop.size_hw[0] < 60]
    assert min(crop.left for crop in small) < 5 and max(crop.left for crop in small) > 80


@pytest.mark.parametrize("task", ["segmentation", "depth"])
@pytest.mark.parametrize("max_side", [None, 60])
def test_labels_lie_where_the_image_shows_them(task, max_side):
    """Red and green tell where in the whole image a pixel of a crop was."""
    labelled = Pixels(WIDTH, EACH, EACH.astype(np.float32))
    views = draw_views("ramps", (HEIGHT, WIDTH), labelled, task, 7, 500, (0,))
    for view in list(views)[1:]:
        seen = view.of(decoded(max_side), PATCH)
        crop, (height, width) = view.crop, view.crop.size_hw
        assert seen.original_hw == crop.size_hw and seen.name == view.name
        down = 2 if max_side else 1
        whole_hw = (HEIGHT // down, WIDTH // down)
        as_is = round(height / down), round(width / down)
        assert seen.size_hw == (whole_hw if task == "segmentation" else as_is)
        rows, columns = np.divmod(view.pixels.places, width)
        at = (
            ((rows + 0.5) * seen.size_hw[0] / height).astype(int),
            ((columns + 0.5) * seen.size_hw[1] / width).astype(int),
        )
        shown = seen.pixels[at].astype(float) / 2
        in_whole = np.stack(np.divmod(view.pixels.labels, WIDTH), axis=1)
        assert np.abs(shown[:, :2] - in_whole).max() <= 2
        assert (seen.pixels.shape[0] % PATCH, seen.pixels.shape[1] % PATCH) == (0, 0)
        assert not seen.pixels[seen.size_hw[0] :].any()


def test_the_first_view_is_the_image_and_all_are_drawn_by_the_seed():
    labelled = Pixels(WIDTH, EACH, EACH.astype(np.float32))

    def views(seed, count=4):
        return list(draw_views("a.png", (HEIGHT, WIDTH), labelled, "depth", count, 50, (seed, 3)))

    whole, *crops = views(0)
    assert whole.crop is None and whole.name == "a.png" and whole.of(decoded(), PATCH).size_hw == (80, 120)
    assert [len(view.pixels.places) for view in views(0)] == [50] * 4
    assert len({view.name for view in views(0)}) == 4 and {view.image for view in crops} == {"a.png"}
    assert [view.crop for view in views(0, 3)] == [None, *(view.crop for view in crops[:2])]
    assert {view.crop for view in views(1)[1:]}.isdisjoint(view.crop for view in crops)
    unread = list(draw_views("a.png", None, labelled, "depth", 4, 50, (0, 3)))
    assert len(unread) == 1 and unread[0].tokens(None, PATCH, 5) == 0


@pytest.mark.parametrize("task", ["segmentation", "depth"])
@pytest.mark.parametrize("max_side", [None, 40])
def test_the_room_that_is_asked_for_is_what_is_used(task, max_side, tmp_path, monkeypatch):
    write, find = {
        "segmentation": (write_segmentation, find_segmentation),
        "depth": (write_depth, find_depth),
    }[task]
    tiny, caches = load_backbone("tiny", device="cpu"), []
    monkeypatch.setitem(dense_views._SMALLEST, "depth", 0.3)

    class Watched(dense.FeatureCache):
        def __init__(self, *args):
            super().__init__(*args)
            caches.append(self)

    seen = []
    whole = dense._Probe._check_room
    monkeypatch.setattr(dense, "FeatureCache", Watched)
    monkeypatch.setattr(dense._Probe, "_check_room", lambda *args: (seen.append(args[1:]), whole(*args)))
    data = find(str(write(tmp_path / "data", train=3, test=1)), None)
    options = DenseOptions(steps=1, views=4, max_side=max_side)
    probe_dense(data, tiny, tmp_path / "out", task, options, ProbeOptions(LoaderOptions(workers=0)))
    width, views = seen[0]
    tokens = sum(view.tokens(max_side, tiny.patch_size, len(tiny.prefix_tokens)) for view in views)
    assert caches[0].bytes == 2 * width * tokens and len(caches[0]) == len(views) == 12
