"""The bilateral solver, against a dense one in plain loops, and on images whose edges are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lost_reg.masks import bilateral
from lost_reg.masks.bilateral import BilateralSolver, bilateral_grid


def vertex_of(pixel, x, y) -> tuple[int, ...]:
    red, green, blue = map(float, pixel)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    first = -0.168736 * red - 0.331264 * green + 0.5 * blue + 128
    second = 0.5 * red - 0.418688 * green - 0.081312 * blue + 128
    # exact sums of these decimals; binary ones can be a hair below a whole number
    return x // 16, y // 16, *(int(round(value, 9)) // sigma for value, sigma in
                               ((luma, 16), (first, 8), (second, 8)))  # fmt: skip


def dense_solution(pixels, target):
    """The solution of the paper's linear system, with plain loops and dense matrices."""
    height, width = target.shape
    places = [vertex_of(pixels[y, x], x, y) for y in range(height) for x in range(width)]
    vertices = sorted(set(places))
    size = len(vertices)
    blur, splat = np.zeros((size, size)), np.zeros((size, height * width))
    for i, one in enumerate(vertices):
        for j, other in enumerate(vertices):
            distance = sum(abs(a - b) for a, b in zip(one, other))
            blur[i, j] = {0: 10, 1: 1}.get(distance, 0)
    for pixel, place in enumerate(places):
        splat[vertices.index(place), pixel] = 1
    m = splat @ np.ones(height * width)
    n = np.ones(size)
    for _ in range(10):
        n = np.sqrt(n * m / (blur @ n))
    m = n * (blur @ n)
    confidence = np.full(height * width, 0.999)
    system = 256 * (np.diag(m) - np.diag(n) @ blur @ np.diag(n)) + np.diag(splat @ confidence)
    solution = np.linalg.solve(system, splat @ (confidence * target.ravel()))
    return (splat.T @ solution).reshape(height, width)


@st.composite
def small_images(draw):
    height, width = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    colours = draw(hnp.arrays(np.uint8, (4, 3)))
    which = draw(hnp.arrays(np.int8, (height, width), elements=st.integers(0, 3)))
    return colours[which], draw(hnp.arrays(bool, (height, width)))


@given(small_images())
@settings(max_examples=40, deadline=None)
def test_it_solves_the_system_of_the_paper(drawn):
    pixels, target = drawn
    expected = dense_solution(pixels, target)
    np.testing.assert_allclose(BilateralSolver(pixels).smooth(target), expected, atol=1e-3)


def test_it_solves_a_larger_system_exactly_if_it_may(monkeypatch):
    monkeypatch.setattr(bilateral, "_MOST_STEPS", 1000)
    monkeypatch.setattr(bilateral, "_TOLERANCE", 1e-12)
    y, x = np.mgrid[:40, :56]
    pixels = np.stack([4 * x + y, 90 + 2 * y, 120 - x], axis=2).astype(np.uint8)
    target = (x - 20) ** 2 + (y - 25) ** 2 < 200
    expected = dense_solution(pixels, target)
    assert expected.max() - expected.min() > 0.3  # not all is smoothed away
    np.testing.assert_allclose(BilateralSolver(pixels).smooth(target), expected, atol=1e-8)


def test_the_ends_of_two_rows_are_no_neighbours():
    _, blur = bilateral_grid(np.zeros((32, 32, 3), np.uint8))
    assert blur.toarray().tolist() == [[10, 1, 1, 0], [1, 10, 0, 1], [1, 0, 10, 1], [0, 1, 1, 10]]


def test_greys_have_one_chroma():
    greys = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    _, blur = bilateral_grid(greys)
    assert blur.shape == (16, 16)


def test_the_grid_by_hand():
    pixels = np.zeros((1, 34, 3), np.uint8)
    pixels[0, 16:20] = 16  # grey: luma 16, one level up
    pixels[0, 20:] = 255  # white, far from both
    vertex_of_pixel, blur = bilateral_grid(pixels)
    # by luma first, then x: black at 0; grey and white at 1; white at 2
    first, grey, white, last = (vertex_of_pixel[x] for x in (0, 16, 20, 33))
    assert blur.shape == (4, 4) and sorted({first, grey, white, last}) == [0, 1, 2, 3]
    expected = 10 * np.eye(4)
    expected[white, last] = expected[last, white] = 1  # black to grey are two steps: x and luma
    assert (blur.toarray() == expected).all()


def test_a_plain_image_is_smoothed_to_one_value():
    target = np.zeros((16, 16), bool)
    target[:, :4] = True
    np.testing.assert_allclose(BilateralSolver(np.full((16, 16, 3), 90, np.uint8)).smooth(target), 0.25)


def scene(seed=0):
    """A red ellipse on blue, both noisy; its true mask, and that mask on patches of 16 pixels."""
    height, width = 128, 192
    y, x = np.mgrid[:height, :width]
    true = ((y - 60) / 40) ** 2 + ((x - 100) / 61) ** 2 < 1
    noise = np.random.default_rng(seed).normal(0, 6, (height, width, 3))
    pixels = np.where(true[..., None], (190, 60, 50), (60, 100, 150)) + noise
    blocks = true.reshape(height // 16, 16, width // 16, 16).mean(axis=(1, 3)) > 0.5
    return pixels.clip(0, 255).astype(np.uint8), true, np.kron(blocks, np.ones((16, 16), bool))


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def test_the_edge_of_an_object_is_recovered():
    pixels, true, coarse = scene()
    assert iou(coarse, true) < 0.92
    assert iou(BilateralSolver(pixels).refine(coarse), true) > 0.99


def test_holes_are_filled_and_small_parts_dropped():
    pixels, true, coarse = scene()
    coarse = coarse.copy()
    pixels[48:72, 88:112] = 0
    coarse[48:72, 88:112] = False  # a hole in the object
    pixels[100:128, :40] = pixels[60, 100]  # a second one of its colour
    coarse[96:128, :32] = True
    assert iou(BilateralSolver(pixels).refine(coarse), true) > 0.98


@pytest.mark.parametrize("side", [40, 8])
def test_what_has_too_little_in_common_with_the_coarse_mask_is_not_taken(side):
    """Of a plain image, all is above 0.5, or nothing is: then it is the whole image."""
    coarse = np.zeros((48, 48), bool)
    coarse[:side, :side] = True
    refined = BilateralSolver(np.full((48, 48, 3), 90, np.uint8)).refine(coarse)
    assert refined.all() if side == 40 else (refined == coarse).all()


def test_the_largest_component_is_taken_even_if_it_is_larger_than_the_background():
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, 4:] = 250
    coarse = np.zeros((32, 64), bool)
    coarse[:, 8:] = True
    expected = np.zeros((32, 64), bool)
    expected[:, 4:] = True
    assert (BilateralSolver(pixels).refine(coarse) == expected).all()


def test_the_constants_are_those_published():
    assert (bilateral.SIGMA_SPATIAL, bilateral.SIGMA_LUMA, bilateral.SIGMA_CHROMA) == (16, 16, 8)
    assert (bilateral.SMOOTHNESS, bilateral.CONFIDENCE) == (256, 0.999)
    assert (bilateral._TOLERANCE, bilateral._MOST_STEPS) == (1e-5, 25)
