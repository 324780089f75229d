"""The dense CRF, if its library is installed, and what is checked before a run."""

import numpy as np
import pytest
from helpers import refusal

from lost_reg.masks import refiners
from lost_reg.masks.refiners import REFINERS, check_refiner


def test_an_unknown_refiner_is_refused():
    assert "choose among bilateral, crf" in refusal(check_refiner, "sharper")
    check_refiner("bilateral")


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr(refiners, "find_spec", lambda name: None)
    assert "pip install 'lost-reg[crf]'" in refusal(check_refiner, "crf")
    check_refiner("bilateral")


def two_colours():
    y, x = np.mgrid[:96, :128]
    true = ((y - 45) / 30) ** 2 + ((x - 66) / 41) ** 2 < 1
    noise = np.random.default_rng(0).normal(0, 3, (96, 128, 3))
    pixels = np.where(true[..., None], (190, 60, 50), (60, 100, 150)) + noise
    blocks = true.reshape(6, 16, 8, 16).mean(axis=(1, 3)) > 0.5
    return pixels.clip(0, 255).astype(np.uint8), true, np.kron(blocks, np.ones((16, 16), bool))


@pytest.mark.parametrize("name", REFINERS)
def test_each_finds_the_edges_of_an_object(name):
    if name == "crf":
        pytest.importorskip("pydensecrf")
    pixels, true, coarse = two_colours()
    before = (coarse & true).sum() / (coarse | true).sum()
    refined = REFINERS[name](pixels).refine(coarse)
    assert refined.dtype == bool
    assert before < 0.9 < 0.97 < (refined & true).sum() / (refined | true).sum()


@pytest.mark.parametrize("name", REFINERS)
def test_what_has_too_little_in_common_with_the_coarse_mask_is_not_taken(name):
    if name == "crf":
        pytest.importorskip("pydensecrf")
    coarse = np.zeros((48, 48), bool)
    coarse[20:24, 20:24] = True
    refined = REFINERS[name](np.full((48, 48, 3), 90, np.uint8)).refine(coarse)
    assert (refined == coarse).all()
