"""Further objects: against a plain loop on the oracle, and with planted ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import find, refusal, setting
from hypothesis import given, settings
from hypothesis import strategies as st
from lost_oracle import oracle_lost

from lost_reg.backbones.loading import Preprocessing, load_backbone
from lost_reg.boxes import iou
from lost_reg.discovery import lost as lost_module
from lost_reg.discovery.bias import otsu_bias
from lost_reg.discovery.features import FeatureConfig
from lost_reg.discovery.further_objects import Graph, is_another, with_further_objects
from lost_reg.discovery.lost import LostConfig
from lost_reg.discovery.method import PatchObject
from lost_reg.discovery.methods import Setting
from lost_reg.plausibility import implausible
from lost_reg.runs.options import LoaderOptions
from lost_reg.runs.scheduler import discover_by_each
from lost_reg.types import Prediction

PATCH = 8


def field_backbone(features_of_means=lambda means: means):
    """A backbone whose features are the mean colours of patches of 8 pixels, or made from them."""

    def features(images):
        means = torch.nn.functional.avg_pool2d(images, PATCH).flatten(2).mT
        return features_of_means(means)

    preprocessing = Preprocessing(PATCH, mean=(0.5,) * 3, std=(0.5,) * 3)
    return load_backbone(features, preprocessing=preprocessing, device="cpu")


@pytest.fixture
def colours():
    return field_backbone()


def painted(*rows: str) -> np.ndarray:
    """An image of a patch a letter; all four colours are unlike each other (their products are negative)."""
    values = {".": (0, 0, 0), "r": (255, 255, 0), "g": (0, 255, 255), "b": (255, 0, 255)}
    pixels = np.array([[values[letter] for letter in row] for row in rows], dtype=np.uint8)
    return pixels.repeat(PATCH, axis=0).repeat(PATCH, axis=1)


def patches(box_xyxy) -> tuple[int, ...]:
    return tuple(side // PATCH for side in box_xyxy)


def boxes(found: Prediction) -> list[tuple[int, ...]]:
    return [patches(one.box_xyxy) for one in found.objects]


SCENE = painted(
    "..........",
    ".rr....gg.",
    ".rr....gg.",
    ".r.....gg.",
    ".......gg.",
    "....bbb...",
    "....bbb...",
    "....bbb...",
)


def test_objects_are_found_one_after_another_until_nothing_is_left(colours):
    # red (5 patches), green (8) and blue (9); what is left is background, all of it similar to each other
    (found,) = find([SCENE], colours, setting(max_objects=10))
    assert boxes(found) == [(1, 1, 3, 4), (7, 1, 9, 5), (4, 5, 7, 8)]
    assert [one.details["degree"] for one in found.objects] == [4, 7, 8]
    # each colour is similar to itself only; red's box takes a patch of background with it
    background = [58 * 57, 57 * 56, 57 * 56]
    pairs = [5 * 4 + 8 * 7 + 9 * 8, 8 * 7 + 9 * 8, 9 * 8]
    shares = [(a + b) / (n * (n - 1)) for a, b, n in zip(background, pairs, (80, 74, 66))]
    assert [one.details["positive_share"] for one in found.objects] == pytest.approx(shares, abs=1e-6)
    assert [one.seed for one in found.objects] == [(1, 1), (1, 7), (5, 4)]
    red, *others = (one.score for one in found.objects)
    assert red == pytest.approx((5 - 1 / 3) / 6, abs=1e-4)  # its box holds a patch of background
    assert others == [1.0, 1.0]


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_fewer_objects_are_the_first_of_more(colours, most):
    (whole,) = find([SCENE], colours, setting(max_objects=9))
    (found,) = find([SCENE], colours, setting(max_objects=most))
    assert found.objects == whole.objects[:most]


def test_one_object_is_the_default(colours):
    (found,) = find([SCENE], colours)
    assert len(found.objects) == 1 and found == find([SCENE], colours, setting(max_objects=1))[0]


def test_what_else_lies_in_a_box_is_no_object_of_its_own(colours):
    # red (8 patches) goes around two sides of green (9), and is found first
    corner = painted(
        "............",
        ".r..........",
        ".rggg.......",
        ".rggg..bbbb.",
        ".rggg..bbbb.",
        ".rrrr..bbbb.",
        "............",
    )
    (found,) = find([corner], colours, setting(max_objects=5))
    assert boxes(found) == [(1, 1, 5, 6), (7, 3, 11, 6)]


def test_the_search_ends_at_each_image_alone(colours):
    empty = painted(*["." * 10] * 8)
    one = painted("..........", "..rr......", "..rr......", *[".........."] * 5)
    images = [SCENE, empty, one, SCENE[:, ::-1]]
    together = find(images, colours, setting(max_objects=5), batch_size=4)
    assert [len(found.objects) for found in together] == [3, 1, 1, 3]
    apart = [find([image], colours, setting(max_objects=5))[0] for image in images]
    assert [found.objects for found in together] == [found.objects for found in apart]


def test_features_that_are_not_finite_disturb_no_other_image():
    def broken(means):
        means = means.clone()
        means[means[:, 0, 0] > 0] = float("nan")  # images whose first patch is red
        return means

    backbone = field_backbone(broken)
    bad = SCENE.copy()
    bad[:8, :8] = 255
    images, loader = [("bad", bad), ("good", SCENE)], LoaderOptions(workers=0)
    outcomes = list(discover_by_each(images, backbone, [setting(max_objects=3)], loader))
    assert outcomes[0].reason.startswith("its features are not finite")
    assert len(outcomes[1][0].objects) == 3


def test_features_that_carry_gradients_are_taken():
    weight = torch.ones(3, requires_grad=True)
    (found,) = find([SCENE], field_backbone(lambda means: means * weight), setting(max_objects=3))
    assert len(found.objects) == 3


def test_several_settings_find_one_object_each(colours):
    def by_each(*chosen):
        return list(discover_by_each([("a", SCENE)], colours, chosen, LoaderOptions(workers=0)))

    assert "`max_objects` is 1" in refusal(by_each, Setting(), setting(max_objects=2))
    (found,) = by_each(Setting(), setting(k_patches=3))
    assert [[one.score for one in prediction.objects] for prediction in found] == [[None], [None]]


@pytest.mark.parametrize("most", [0, -1])
def test_less_than_one_object_is_refused(most):
    assert f"`max_objects` of at least 1, but got {most}" in refusal(LostConfig, max_objects=most)


# When it ends

GRID_HW = (10, 10)
FIRST = PatchObject((0, 0, 3, 3), (0, 0), 0.5, {"degree": 3})


def candidate(box_xyxy=(5, 5, 8, 8), degree=5) -> PatchObject:
    return PatchObject(box_xyxy, (5, 5), 0.5, {"degree": degree})


def goes_on(one: PatchObject, *earlier: PatchObject, remaining=91, extent_hw=GRID_HW) -> bool:
    graph = Graph(GRID_HW, [extent_hw], grow=None)
    return is_another(one, earlier or [FIRST], graph, 0, remaining)


def test_a_seed_that_is_similar_to_more_than_half_of_the_rest_is_background():
    assert goes_on(candidate(degree=5), remaining=11)  # 5 of 10 others
    assert not goes_on(candidate(degree=6), remaining=11)
    assert not goes_on(candidate(degree=5), remaining=10)


@pytest.mark.parametrize("box", [(0, 0, 10, 10), (5, 5, 6, 6), (0, 9, 10, 10)])
def test_an_implausible_box_ends_the_search(box):
    assert implausible(box, GRID_HW, GRID_HW)
    assert not goes_on(candidate(box))


def test_a_box_on_an_earlier_one_ends_the_search():
    assert not goes_on(candidate((0, 0, 3, 2)))  # IoU 2 / 3
    assert not goes_on(candidate((0, 0, 3, 6)))  # exactly one half
    assert goes_on(candidate((0, 0, 3, 7)))
    assert not goes_on(candidate((5, 5, 8, 7)), FIRST, candidate())  # of the second of two


def test_what_lies_in_the_padding_does_not_count():
    # the image ends after 8.25 rows and 8.5 columns of ten
    extent_hw = (8.25, 8.5)
    assert goes_on(candidate((0, 0, 9, 8))) and not goes_on(candidate((0, 0, 9, 8)), extent_hw=extent_hw)
    # the last row of patches: a quarter of a patch high, along the whole of the lower edge
    assert goes_on(candidate((0, 8, 9, 9))) and not goes_on(candidate((0, 8, 9, 9)), extent_hw=extent_hw)
    # two boxes that begin a row apart: IoU 2 / 3 with the padding, 0.25 / 1.25 without
    above, below = candidate((5, 7, 8, 10)), candidate((5, 8, 8, 10))
    assert not goes_on(below, above)
    assert goes_on(below, above, extent_hw=(8.25, 10))
    left, right = candidate((7, 5, 10, 8)), candidate((8, 5, 10, 8))  # and a column apart
    assert not goes_on(right, left)
    assert goes_on(right, left, extent_hw=(10, 8.25))


def test_the_patches_of_whole_boxes_leave_the_graph():
    asked = []

    def grow(images, remaining_hw):
        asked.append((images, (~remaining_hw).sum(dim=(1, 2)).tolist()))
        return [candidate((5, 5, 8, 8) if len(asked) == 1 else (5, 1, 8, 4)) for _ in images]

    graph = Graph(GRID_HW, [GRID_HW] * 2, grow)
    other = PatchObject((1, 1, 5, 3), (1, 1), 0.5, {"degree": 3})
    found = with_further_objects([[FIRST], [other]], graph, 3)
    assert asked == [([0, 1], [9, 8]), ([0, 1], [18, 17])]
    further = [candidate(), candidate((5, 1, 8, 4))]
    assert found == [[FIRST, *further], [other, *further]]


# Against a plain loop


def by_loop(features: np.ndarray, grid_hw, config: LostConfig, bias: float) -> tuple[list, bool]:
    """(box in patches, seed, degree) of each object by the oracle, and whether rounding may decide."""
    rows, columns = grid_hw
    taken: set[int] = set()
    found: list = []
    while len(found) < config.max_objects and len(taken) < rows * columns:
        one = oracle_lost(features, grid_hw, config.k_patches, bias, taken)
        if one.ambiguous:
            return found, True
        xmin, ymin, xmax, ymax = one.box
        if found:
            others = rows * columns - len(taken) - 1
            wide, high = xmax - xmin, ymax - ymin
            strip = (wide == columns and high < rows / 8 and (ymin == 0 or ymax == rows)) or (
                high == rows and wide < columns / 8 and (xmin == 0 or xmax == columns)
            )
            fits = max(iou(one.box, [earlier[0]])[0] for earlier in found)
            whole = wide * high > 0.85 * rows * columns
            if one.degree > others / 2 or wide * high == 1 or whole or strip or fits >= 0.5:
                break
        found.append((one.box, one.seed, one.degree))
        taken |= {row * columns + column for row in range(ymin, ymax) for column in range(xmin, xmax)}
    return found, False


@pytest.mark.parametrize(
    "features, config",
    [
        (FeatureConfig(), LostConfig(max_objects=4)),
        (FeatureConfig(center=True), LostConfig(max_objects=6, k_patches=8)),
        (FeatureConfig(normalize=True), LostConfig(max_objects=3, bias=-0.2)),
        (FeatureConfig(center=True), LostConfig(max_objects=4, bias="auto")),
    ],
    ids=str,
)
def test_objects_are_those_of_a_plain_loop(features, config):
    random = np.random.default_rng(3)
    coarse = random.integers(0, 256, (30, 4, 5, 3), dtype=np.uint8)
    images = [torch.tensor(one).permute(2, 0, 1)[None].float() for one in coarse]
    images = [
        torch.nn.functional.interpolate(one, (72, 96), mode="bicubic").clamp(0, 255)[0] for one in images
    ]
    images = [one.permute(1, 2, 0).to(torch.uint8).numpy() for one in images]
    backbone = field_backbone(lambda means: torch.cat([means, means.roll(1, 2) * means], dim=2))
    found = find(images, backbone, Setting(features, config), batch_size=7)
    compared, several = 0, 0
    for image, got in zip(images, found):
        pixels = (torch.tensor(image).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
        values = backbone.features(pixels, "k", -1)[0].double()
        if features.center:
            values = values - values.mean(dim=0)
        if features.normalize:
            values = values / values.norm(dim=1, keepdim=True)
        bias = config.bias
        if bias == "auto":
            bias = otsu_bias(values[None]).item()
        else:
            bias *= values.square().sum(dim=1).mean().item()
        expected, ambiguous = by_loop(values.numpy(), (9, 12), config, bias)
        if not ambiguous:
            compared += 1
            several += len(expected) > 1
            objects = [(patches(one.box_xyxy), one.seed, one.details["degree"]) for one in got.objects]
            assert objects == expected
    assert compared >= 15 and several >= 3


@st.composite
def random_scenes(draw):
    rows, columns = draw(st.integers(3, 8)), draw(st.integers(3, 8))
    letters = st.lists(st.sampled_from("..rgb"), min_size=columns, max_size=columns).map("".join)
    return painted(*draw(st.lists(letters, min_size=rows, max_size=rows)))


@settings(max_examples=40)
@given(random_scenes(), st.integers(1, 4))
def test_objects_are_seeded_apart_plausible_and_do_not_depend_on_their_number(image, most):
    backbone = field_backbone()
    (whole,) = find([image], backbone, setting(max_objects=20))
    (found,) = find([image], backbone, setting(max_objects=most))
    assert found.objects == whole.objects[:most]
    (alone,) = find([image], backbone)
    assert alone.objects == whole.objects[:1]
    for index, one in enumerate(whole.objects):
        row, column = one.seed
        for earlier in whole.objects[:index]:
            xmin, ymin, xmax, ymax = patches(earlier.box_xyxy)
            assert not (xmin <= column < xmax and ymin <= row < ymax)  # a patch is taken once
            assert iou(one.box_xyxy, [earlier.box_xyxy])[0] < 0.5
        assert index == 0 or not implausible(one.box_xyxy, whole.size_hw, whole.grid_hw)
        assert -1 <= one.score <= 1


def test_images_that_are_done_leave_the_batch(colours, monkeypatch):
    asked = []

    def counting(grid_hw, extents_hw, grow):
        def counted(images, remaining_hw):
            asked.append(images)
            return grow(images, remaining_hw)

        return Graph(grid_hw, extents_hw, counted)

    monkeypatch.setattr(lost_module, "Graph", counting)
    one = painted("..........", "..rr......", "..rr......", *[".........."] * 5)
    empty = painted(*["." * 10] * 8)  # its first box is the whole image
    find([one, empty, SCENE], colours, setting(max_objects=10))
    assert asked == [[0, 2], [2], [2]]
