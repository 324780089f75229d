"""Features on disk: read as they were written, within the budget, whatever a killed process left."""

from __future__ import annotations

import errno

import numpy as np
import pytest
from helpers import refusal
from hypothesis import given
from hypothesis import strategies as st

from lost_reg.training.feature_cache import FeatureCache, ImageFeatures


def image(number: int, rows: int = 2, columns: int = 3) -> ImageFeatures:
    values = np.random.default_rng(number).normal(size=(rows * columns, 4)).astype(np.float32)
    return ImageFeatures(f"{number}.jpg", values, (rows, columns), (20.5, 31.0))


def check(cache: FeatureCache, *numbers: int) -> None:
    assert len(cache) == len(numbers)
    for number in numbers:
        expected, got = image(number), cache.get(f"{number}.jpg")
        assert np.abs(got.values - expected.values).max() < 2e-3
        assert (got.grid_hw, got.spans_hw) == (expected.grid_hw, expected.spans_hw)


def test_features_are_read_in_any_order_and_by_the_next_process(tmp_path):
    with FeatureCache(tmp_path, 1e6) as cache:
        assert all(cache.add(image(number)) for number in (3, 1))
        check(cache, 1, 3)
        assert cache.add(image(2)) and "2.jpg" in cache and "4.jpg" not in cache
        check(cache, 1, 2, 3)
    with FeatureCache(tmp_path, 1e6) as cache:
        check(cache, 3, 2, 1)
        assert cache.bytes == 3 * 6 * 4 * 2


def test_the_budget_is_kept(tmp_path):
    with FeatureCache(tmp_path, 100) as cache:
        assert cache.add(image(0)) and cache.add(image(1))
        assert not cache.add(image(2)) and "2.jpg" not in cache
        check(cache, 0, 1)
    assert sum(path.stat().st_size for path in tmp_path.glob("*.bin")) == 96


def test_values_beyond_the_type_stay_finite(tmp_path):
    with FeatureCache(tmp_path, 1e6) as cache:
        cache.add(ImageFeatures("a", np.full((1, 4), 1e6, np.float32), (1, 1), (1.0, 1.0)))
        assert np.isfinite(cache.get("a").values).all()


@given(lost=st.integers(0, 144), cut=st.integers(0, 320))
def test_what_is_not_whole_is_computed_again(lost, cut, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with FeatureCache(folder, 1e6) as cache:
        for number in range(3):
            cache.add(image(number))
    for name, less in (("features.bin", lost), ("features.jsonl", cut)):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: max(0, len(content) - less)])
    with FeatureCache(folder, 1e6) as cache:
        kept = len(cache)
        check(cache, *range(kept))
        assert kept <= 3 - -(-lost // 48)
        for number in range(kept, 3):
            cache.add(image(number))
        check(cache, 0, 1, 2)


@pytest.mark.parametrize("continues", ["`resume`", "the same command"])
def test_a_full_disk_is_one_line(tmp_path, monkeypatch, continues):
    with FeatureCache(tmp_path, 1e6, continues) as cache:

        class Full:
            def write(self, content):
                raise OSError(errno.ENOSPC, "No space left on device")

            def close(self):
                pass

        monkeypatch.setattr(cache, "_values", Full())
        text = refusal(cache.add, image(0))
        assert f"No space left on device; what was done is kept, {continues} continues" in text


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write to" in refusal(FeatureCache, tmp_path / "file", 1)


@pytest.mark.parametrize("line", ['{"image": 1}\n', "null\n", "nonsense\n"])
def test_an_index_that_says_something_else_is_begun_anew(tmp_path, line):
    (tmp_path / "features.jsonl").write_text(line)
    with FeatureCache(tmp_path, 1e6) as cache:
        assert not len(cache) and cache.add(image(0))
    with FeatureCache(tmp_path, 1e6) as cache:
        check(cache, 0)


def test_tokens_before_the_patches_are_kept(tmp_path):
    values = np.arange(32, dtype=np.float32).reshape(8, 4)
    for _ in range(2):  # the second reads what the first wrote
        with FeatureCache(tmp_path, 1e6) as cache:
            if "a" not in cache:
                cache.add(ImageFeatures("a", values, (2, 3), (1.0, 1.0)))
            assert (cache.get("a").values == values).all()
