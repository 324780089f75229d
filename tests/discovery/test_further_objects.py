"""Further objects: against a plain loop on the oracle, and with planted ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lost_oracle import oracle_lost

from lost_reg.backbones.loading import load_backbone
from lost_reg.boxes import iou
from lost_reg.discovery import further_objects as objects
from lost_reg.discovery.bias import otsu_bias
from lost_reg.discovery.further_objects import is_another
from lost_reg.errors import LostRegError
from lost_reg.plausibility import implausible
from lost_reg.runs.discover import discover
from lost_reg.runs.scheduler import discover_by_each
from lost_reg.types import FoundObject, Prediction, Protocol

PATCH = 8


def field_backbone(features_of_means=lambda means: means):
    """A backbone whose features are the mean colours of patches of 8 pixels, or made from them."""

    def features(images):
        means = torch.nn.functional.avg_pool2d(images, PATCH).flatten(2).mT
        return features_of_means(means)

    return load_backbone(features, patch_size=PATCH, mean=(0.5,) * 3, std=(0.5,) * 3, device="cpu")


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
    (found,) = discover([SCENE], colours, Protocol(max_objects=10))
    assert boxes(found) == [(1, 1, 3, 4), (7, 1, 9, 5), (4, 5, 7, 8)]
    assert [one.degree for one in found.objects] == [4, 7, 8]
    assert [one.seed for one in found.objects] == [(1, 1), (1, 7), (5, 4)]
    assert found.affinity == pytest.approx((5 - 1 / 3) / 6, abs=1e-4)  # red's box holds a patch of background
    assert [one.affinity for one in found.further] == [1.0, 1.0]


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_fewer_objects_are_the_first_of_more(colours, most):
    (whole,) = discover([SCENE], colours, Protocol(max_objects=9))
    (found,) = discover([SCENE], colours, Protocol(max_objects=most))
    assert found.objects == whole.objects[:most]


def test_one_object_is_the_default(colours):
    (found,) = discover([SCENE], colours)
    assert found.further == () and found == discover([SCENE], colours, Protocol(max_objects=1))[0]


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
    (found,) = discover([corner], colours, Protocol(max_objects=5))
    assert boxes(found) == [(1, 1, 5, 6), (7, 3, 11, 6)]


def test_the_search_ends_at_each_image_alone(colours):
    empty = painted(*["." * 10] * 8)
    one = painted("..........", "..rr......", "..rr......", *[".........."] * 5)
    images = [SCENE, empty, one, SCENE[:, ::-1]]
    together = discover(images, colours, Protocol(max_objects=5), batch_size=4, workers=0)
    assert [len(found.objects) for found in together] == [3, 1, 1, 3]
    apart = [discover([image], colours, Protocol(max_objects=5))[0] for image in images]
    assert [found.objects for found in together] == [found.objects for found in apart]


def test_features_that_are_not_finite_disturb_no_other_image():
    def broken(means):
        means = means.clone()
        means[means[:, 0, 0] > 0] = float("nan")  # images whose first patch is red
        return means

    backbone = field_backbone(broken)
    bad = SCENE.copy()
    bad[:8, :8] = 255
    outcomes = list(
        discover_by_each([("bad", bad), ("good", SCENE)], backbone, [Protocol(max_objects=3)], workers=0)
    )
    assert outcomes[0].reason.startswith("its features are not finite")
    assert len(outcomes[1][0].objects) == 3


def test_features_that_carry_gradients_are_taken():
    weight = torch.ones(3, requires_grad=True)
    (found,) = discover([SCENE], field_backbone(lambda means: means * weight), Protocol(max_objects=3))
    assert len(found.objects) == 3


def test_several_protocols_find_one_object_each(colours):
    with pytest.raises(LostRegError, match="max_objects is 1"):
        list(discover_by_each([("a", SCENE)], colours, [Protocol(), Protocol(max_objects=2)]))
    (found,) = discover_by_each([("a", SCENE)], colours, [Protocol(), Protocol(k_patches=3)])
    assert [one.affinity for one in found] == [None, None]


@pytest.mark.parametrize("most", [0, -1])
def test_less_than_one_object_is_refused(most):
    with pytest.raises(LostRegError, match=f"max_objects of at least 1, but got {most}"):
        Protocol(max_objects=most)


# When it ends

IMAGE = Prediction("a", (80, 80), (0, 0, 24, 24), (0, 0), (10, 10), 3)


def found_with(box_xyxy=(40, 40, 64, 64), degree=5) -> FoundObject:
    return FoundObject(box_xyxy, (5, 5), degree, 0.5)


def test_a_seed_that_is_similar_to_more_than_half_of_the_rest_is_background():
    assert is_another(found_with(degree=5), IMAGE, remaining=11)  # 5 of 10 others
    assert not is_another(found_with(degree=6), IMAGE, remaining=11)
    assert not is_another(found_with(degree=5), IMAGE, remaining=10)


@pytest.mark.parametrize("box", [(0, 0, 80, 80), (40, 40, 48, 48), (0, 72, 80, 80)])
def test_an_implausible_box_ends_the_search(box):
    assert implausible(found_with(box), IMAGE)
    assert not is_another(found_with(box), IMAGE, remaining=91)


def test_a_box_on_an_earlier_one_ends_the_search():
    assert not is_another(found_with((0, 0, 24, 16)), IMAGE, remaining=91)  # IoU 2 / 3
    assert not is_another(found_with((0, 0, 24, 12)), IMAGE, remaining=91)  # exactly one half
    assert is_another(found_with((0, 0, 24, 11)), IMAGE, remaining=91)
    further = Prediction(**{**vars(IMAGE), "further": (found_with(),)})
    assert not is_another(found_with((40, 40, 64, 60)), further, remaining=91)


# Against a plain loop


def by_loop(features: np.ndarray, grid_hw, protocol: Protocol, bias: float) -> tuple[list, bool]:
    """(box in patches, seed, degree) of each object by the oracle, and whether rounding may decide."""
    rows, columns = grid_hw
    taken: set[int] = set()
    found: list = []
    while len(found) < protocol.max_objects and len(taken) < rows * columns:
        one = oracle_lost(features, grid_hw, protocol.k_patches, bias, taken)
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
    "protocol",
    [
        Protocol(max_objects=4),
        Protocol(max_objects=6, center=True, k_patches=8),
        Protocol(max_objects=3, normalize=True, bias=-0.2),
        Protocol(max_objects=4, center=True, bias="auto"),
    ],
    ids=str,
)
def test_objects_are_those_of_a_plain_loop(protocol):
    random = np.random.default_rng(3)
    coarse = random.integers(0, 256, (30, 4, 5, 3), dtype=np.uint8)
    images = [torch.tensor(one).permute(2, 0, 1)[None].float() for one in coarse]
    images = [
        torch.nn.functional.interpolate(one, (72, 96), mode="bicubic").clamp(0, 255)[0] for one in images
    ]
    images = [one.permute(1, 2, 0).to(torch.uint8).numpy() for one in images]
    backbone = field_backbone(lambda means: torch.cat([means, means.roll(1, 2) * means], dim=2))
    found = discover(images, backbone, protocol, batch_size=7, workers=0)
    compared, several = 0, 0
    for image, got in zip(images, found):
        pixels = (torch.tensor(image).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
        features = backbone.features(pixels, "k", -1)[0].double()
        if protocol.center:
            features = features - features.mean(dim=0)
        if protocol.normalize:
            features = features / features.norm(dim=1, keepdim=True)
        bias = protocol.bias
        if bias == "auto":
            bias = otsu_bias(features[None]).item()
        else:
            bias *= features.square().sum(dim=1).mean().item()
        expected, ambiguous = by_loop(features.numpy(), (9, 12), protocol, bias)
        if not ambiguous:
            compared += 1
            several += len(expected) > 1
            assert [(patches(one.box_xyxy), one.seed, one.degree) for one in got.objects] == expected
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
    (whole,) = discover([image], backbone, Protocol(max_objects=20))
    (found,) = discover([image], backbone, Protocol(max_objects=most))
    assert found.objects == whole.objects[:most]
    (alone,) = discover([image], backbone)
    assert alone.objects == whole.objects[:1]
    for index, one in enumerate(whole.objects):
        row, column = one.seed
        for earlier in whole.objects[:index]:
            xmin, ymin, xmax, ymax = patches(earlier.box_xyxy)
            assert not (xmin <= column < xmax and ymin <= row < ymax)  # a patch is taken once
            assert iou(one.box_xyxy, [earlier.box_xyxy])[0] < 0.5
        assert index == 0 or not implausible(one, whole)
        assert -1 <= one.affinity <= 1


def test_images_that_are_done_leave_the_batch(colours, monkeypatch):
    asked = []
    whole = objects.Graph.lost

    def counted(self, images, remaining_hw):
        asked.append(images)
        return whole(self, images, remaining_hw)

    monkeypatch.setattr(objects.Graph, "lost", counted)
    one = painted("..........", "..rr......", "..rr......", *[".........."] * 5)
    empty = painted(*["." * 10] * 8)  # its first box is the whole image
    discover([one, empty, SCENE], colours, Protocol(max_objects=10), workers=0)
    assert asked == [[0, 2], [2], [2]]
