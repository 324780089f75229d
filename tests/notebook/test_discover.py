"""discover: from images to boxes in pixels, against a one-image pipeline written out here."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from colours import PATCH, patch_means, planted
from helpers import find, found_object, refusal, setting
from hypothesis import given
from hypothesis import strategies as st
from lost_oracle import oracle_lost
from PIL import Image

from lost_reg import FeatureConfig, LoaderOptions, LostConfig, discover
from lost_reg.backbones.base import normalized
from lost_reg.backbones.loading import Preprocessing, load_backbone
from lost_reg.boxes import box_in_original
from lost_reg.discovery.bias import otsu_bias
from lost_reg.discovery.methods import Setting
from lost_reg.errors import LostRegError, UnreadableImage
from lost_reg.images.batching import DecodedImage
from lost_reg.images.decoding import decode
from lost_reg.runs import batches
from lost_reg.types import FoundObject, Prediction

SIZES = [(64, 96), (60, 90), (64, 64), (17, 33), (96, 64), (80, 112)]  # of these, the first two share a grid


@pytest.fixture
def photos(tmp_path) -> list[Path]:
    """12 images of six sizes, mixed; of smooth colours, so that random weights see many shapes in them."""
    paths = [tmp_path / f"{index:02}.png" for index in range(12)]
    for index, path in enumerate(paths):
        height, width = SIZES[index * 5 % 6]
        colours = np.random.default_rng(index).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return paths


# --- against a pipeline for one image ----------------------------------------------------------------


def reference(path: Path, backbone, chosen: Setting) -> Prediction | None:
    """A setting, one step a line; None where float32 rounding decides."""
    pixels = torch.tensor(np.array(Image.open(path).convert("RGB")))
    height, width, _ = pixels.shape
    mean, std = torch.tensor(backbone.mean)[:, None, None], torch.tensor(backbone.std)[:, None, None]
    x = (pixels.permute(2, 0, 1) / 255 - mean) / std
    size = backbone.patch_size
    rows, columns = -(-height // size), -(-width // size)
    padded = torch.zeros(3, rows * size, columns * size)
    padded[:, :height, :width] = x
    features = _reference_features(padded[None], backbone, chosen.features)
    config = chosen.config
    if config.bias == "auto":
        bias = otsu_bias(torch.tensor(features)[None]).item()  # tested by itself
    else:
        bias = config.bias * np.mean((features**2).sum(axis=1))
    found = oracle_lost(features, (rows, columns), config.k_patches, bias)
    xmin, ymin, xmax, ymax = (side * size for side in found.box)
    box = xmin, ymin, min(xmax, width), min(ymax, height)
    score = pytest.approx(found.affinity, abs=1e-4)  # to four decimals
    share = pytest.approx(found.positive_share, abs=1e-6)  # as it is recorded
    exact = FoundObject(box, score, found.seed, {"degree": found.degree, "positive_share": share})
    return None if found.ambiguous else Prediction(str(path), (height, width), (rows, columns), (exact,))


def _reference_features(image: torch.Tensor, backbone, config: FeatureConfig) -> np.ndarray:
    parts = []
    for layer in config.layer if isinstance(config.layer, tuple) else [config.layer]:
        for facet in config.facet:
            part = backbone.features(image, facet, layer)[0].double().numpy()
            parts.append(part - part.mean(axis=0) if config.center else part)
    if len(parts) > 1:
        parts = [_of_length_1(part) for part in parts]
    features = np.concatenate(parts, axis=1)
    return _of_length_1(features) if config.normalize else features


def _of_length_1(features: np.ndarray) -> np.ndarray:
    return features / np.sqrt((features**2).sum(axis=1, keepdims=True))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"k_patches": 3},
        {"facet": "v", "layer": -2},
        {"facet": "q", "layer": 0},
        {"normalize": True, "bias": -0.2},
        {"normalize": True, "bias": -0.3, "layer": -3},
        {"bias": -0.2},
        {"bias": -0.3, "facet": "v", "k_patches": 10},
        {"center": True},
        {"center": True, "normalize": True, "bias": -0.1},
        {"normalize": True, "bias": "auto"},
        {"center": True, "bias": "auto", "facet": "v"},
        {"facet": "qk"},
        {"facet": "vqk", "center": True, "bias": -0.3},
        {"layer": (-3, -1)},
        {"facet": "kv", "layer": (0, 4), "normalize": True, "bias": "auto"},
    ],
    ids=str,
)
def test_predictions_are_those_of_a_pipeline_for_one_image(photos, random_backbone, changes):
    expected = [reference(path, random_backbone, setting(**changes)) for path in photos]
    found = find(photos, random_backbone, setting(**changes), batch_size=4)
    clear = [(want, got) for want, got in zip(expected, found) if want is not None]
    assert len(clear) >= 9
    for want, got in clear:
        assert got == want


def test_each_part_of_a_setting_changes_the_result(photos, random_backbone):
    settings = [
        setting(),
        setting(k_patches=1),
        setting(layer=-2),
        setting(layer=(-2, -1)),
        setting(facet="v"),
        setting(facet="kv"),
        setting(normalize=True, k_patches=20),
        setting(bias=-0.2),
        setting(normalize=True, bias=-0.2),
        setting(max_side=40),
        setting(center=True),
        setting(normalize=True, bias="auto"),
        setting(max_objects=2, normalize=True, bias=-0.3),
    ]
    found = [find(photos, random_backbone, one) for one in settings]
    assert [i for i, one in enumerate(found) if one in found[:i]] == []


# --- what is asked for, and of what ------------------------------------------------------------------


def test_paths_and_arrays_are_accepted_and_their_order_kept(tmp_path, colours):
    arrays = [planted(), planted((32, 32), (0, 0, 8, 8)), planted((48, 64), (8, 24, 24, 40))]
    Image.fromarray(arrays[1]).save(tmp_path / "one.png")
    Image.fromarray(arrays[2]).save(tmp_path / "two.png")
    images = [arrays[0], str(tmp_path / "one.png"), tmp_path / "two.png", arrays[1][:, :, 0]]
    found = discover(images, colours, "lost")
    assert [one.image for one in found] == ["[0]", images[1], str(images[2]), "[3]"]
    assert [one.box_xyxy for one in found] == [(16, 8, 40, 24), (0, 0, 8, 8), (8, 24, 24, 40), (0, 0, 8, 8)]
    assert [one.size_hw for one in found] == [(48, 64), (32, 32), (48, 64), (32, 32)]


def test_an_object_has_box_seed_score_and_details(colours):
    (found,) = discover([planted()], colours, "lost")
    # 3 x 2 of 6 x 8 patches are white; each patch is similar to the others of the very same colour only
    share = pytest.approx((6 * 5 + 42 * 41) / (48 * 47), abs=1e-6)
    white = found_object((16, 8, 40, 24), seed=(1, 2), degree=5, positive_share=share, score=1.0)
    assert found == Prediction("[0]", (48, 64), (6, 8), (white,))
    assert all(type(side) is int for side in found.box_xyxy)


def test_an_array_of_images_is_a_list_of_images(colours):
    found = discover(np.stack([planted(), planted(box_xyxy=(0, 0, 8, 8))]), colours, "lost")
    assert [one.box_xyxy for one in found] == [(16, 8, 40, 24), (0, 0, 8, 8)]


def test_one_image_of_any_kind_is_a_list_of_one(tmp_path, colours):
    path = tmp_path / "a.png"
    Image.fromarray(planted()).save(path)
    tensor = torch.from_numpy(planted()).permute(2, 0, 1)
    for image in (path, str(path), planted(), Image.open(path), tensor, tensor / 255):
        (found,) = discover(image, colours, "lost")
        assert found.box_xyxy == (16, 8, 40, 24)


def test_one_path_may_be_given_twice(photos, random_backbone):
    found = discover([photos[0], photos[1], photos[0]], random_backbone, "lost")
    assert found[0] == found[2] and found[0].image == str(photos[0])


def test_no_images_give_no_predictions(colours):
    assert discover([], colours, "lost") == []


def test_a_method_is_chosen_by_name_or_by_its_options(photos, random_backbone):
    published = discover(photos, random_backbone, "lost")
    assert (
        published
        == discover(photos, random_backbone, "lost")
        == discover(photos, random_backbone, LostConfig())
    )
    features = FeatureConfig(facet="v", normalize=True)
    expected = find(photos, random_backbone, setting(facet="v", normalize=True, bias=-0.2))
    assert discover(photos, random_backbone, LostConfig(bias=-0.2), features) == expected != published
    assert discover(photos, random_backbone, "lost", features=features) == find(
        photos, random_backbone, setting(facet="v", normalize=True)
    )


def test_what_is_no_backbone_and_no_method_is_refused(colours):
    assert "a function and its patch size, but got int" in refusal(discover, [planted()], 3)
    assert refusal(discover, [planted()], "tinny").startswith("unknown backbone 'tinny': did you mean tiny?")
    assert "unknown method 'x': choose among lost" in refusal(discover, [], colours, "x")
    text = refusal(discover, [], colours, {"bias": 0})
    assert "expected a method's options (LostConfig" in text and "but got dict" in text
    assert "but got float" in refusal(discover, [1.5], colours)


@pytest.mark.parametrize("batch_size", [0, -1, "all"])
def test_a_batch_size_below_1_is_refused(colours, batch_size):
    text = refusal(find, [planted()], colours, batch_size=batch_size)
    assert f"expected a `batch_size` of at least 1, or 'auto', but got {batch_size}" in text


@pytest.mark.parametrize(
    "wrong",
    [
        {"facet": "x"},
        {"facet": "kk"},
        {"layer": ()},
        {"bias": float("nan")},
        {"bias": "much"},
        {"k_patches": 0},
        {"max_side": 0},
        {"max_objects": 0},
    ],
    ids=str,
)
def test_a_setting_that_is_not_possible_is_refused(wrong):
    refusal(setting, **wrong)


def test_few_images_are_decoded_in_this_process_whatever_the_batches(colours, monkeypatch):
    workers = []

    def counting(images, decoding, *, workers: int | None, counts=workers):
        counts.append(workers)
        return decode(images, decoding, workers=0)

    monkeypatch.setattr(batches, "decode", counting)
    discover([planted()] * 31, colours, "lost")
    discover([planted()] * 31, colours, "lost", loader=LoaderOptions(batch_size=2))
    discover([planted()] * 32, colours, "lost")
    discover([planted()] * 32, colours, "lost", loader=LoaderOptions(workers=0))
    discover([planted()] * 31, colours, "lost", loader=LoaderOptions(workers=2))
    assert workers == [0, 0, None, 0, 2]


def test_an_unreadable_image_is_an_error_with_its_name(tmp_path, colours):
    (tmp_path / "bad.jpg").write_text("no image")
    with pytest.raises(UnreadableImage, match=r"bad\.jpg: not an image"):
        discover([planted(), tmp_path / "bad.jpg"], colours, "lost")
    with pytest.raises(UnreadableImage, match=r"\[1\]: expected an array of shape"):
        discover([planted(), np.zeros((4, 4, 7), np.uint8)], colours, "lost")


def test_a_function_that_gives_another_number_of_patches_is_refused():
    backbone = load_backbone(
        lambda images: patch_means(images)[:, 1:], preprocessing=Preprocessing(PATCH), device="cpu"
    )
    with pytest.raises(LostRegError, match=r"features of shape \(1, 48, D\) .* but got \(1, 47, 3\)"):
        discover([planted()], backbone, "lost")


# --- scores ------------------------------------------------------------------------------------------


def test_the_score_is_of_the_features_as_they_are_compared(colours):
    # A line of black patches, then yellow and white. Raw, yellow and white have another cosine than centred.
    pixels = np.zeros((8, 64, 3), np.uint8)
    pixels[:, 16:24], pixels[:, 24:32] = (255, 255, 0), (255, 255, 255)
    raw = np.where(pixels[4, 4::8] > 0, 1.0, -1.0)
    scores = []
    for center in (False, True):
        (found,) = discover([pixels], colours, "lost", features=FeatureConfig(center=center))
        expected = oracle_lost(raw - raw.mean(axis=0) * center, (1, 8))
        assert found.box_xyxy == (16, 0, 32, 8) == tuple(8 * np.array(expected.box) * (1, 1, 1, 1))
        scores.append(found.objects[0].score)
        assert scores[-1] == round(expected.affinity, 4)
    assert scores[0] != scores[1]


# --- pixels in, boxes out ----------------------------------------------------------------------------


def test_black_pixels_are_not_mistaken_for_padding(colours):
    images = normalized([DecodedImage("", np.zeros((8, 8, 3), np.uint8), (8, 8), (8, 8))], colours)
    assert images.eq(-1).all()


def test_boxes_are_clipped_to_the_image(colours):
    # the object's last patches reach over the border: 45 is 5.6 patches, 60 is 7.5
    (found,) = discover([planted((45, 60), (40, 32, 60, 45))], colours, "lost")
    assert found.box_xyxy == (40, 32, 60, 45) and found.grid_hw == (6, 8)


@pytest.mark.parametrize("size_hw", [(1, 1), (5, 3), (16, 15)])
def test_an_image_smaller_than_a_patch_is_its_own_box(random_backbone, size_hw):
    (found,) = discover([np.full((*size_hw, 3), 77, np.uint8)], random_backbone, "lost")
    height, width = size_hw
    whole = found_object((0, 0, width, height), degree=0, positive_share=0.0, score=1.0)
    assert found == Prediction("[0]", size_hw, (1, 1), (whole,))


def test_max_side_gives_boxes_in_pixels_of_the_original(colours):
    # scaled by 2, and by 2 and 96/50: the grid is that of the scaled image
    image = planted((96, 128), (32, 16, 80, 48))
    (found,) = find([image], colours, setting(max_side=64))
    assert (found.box_xyxy, found.size_hw, found.grid_hw) == ((32, 16, 80, 48), (96, 128), (6, 8))
    (found,) = find([image], colours, setting(max_side=128))
    assert (found.box_xyxy, found.grid_hw) == ((32, 16, 80, 48), (12, 16))


def test_images_are_scaled_to_448_pixels_unless_a_size_is_given():
    image = np.zeros((32, 1000, 3), np.uint8)
    by_lost = partial(discover, image, (patch_means, PATCH), "lost")
    scaled, whole = (2, 56), (4, 125)
    assert [by_lost(**given)[0].grid_hw for given in ({}, {"max_side": 448}, {"max_side": None})] == [
        scaled, scaled, whole,
    ]  # fmt: skip
    assert by_lost(features=FeatureConfig())[0].grid_hw == whole
    assert discover(image, (patch_means, PATCH), max_side=160)[0].grid_hw == (1, 20)


def test_dino_is_the_default(monkeypatch):
    asked = []
    monkeypatch.setattr("lost_reg.notebook.discover.load_backbone", asked.append)
    with pytest.raises(AttributeError):
        discover(np.zeros((32, 32, 3), np.uint8))
    assert asked == ["dino"]


def test_a_scaled_box_is_clipped_before_it_is_scaled_back():
    # 50 x 75 pixels of 100 x 300: x counts 4 times, y twice; 80 and 56 reach into the padding
    assert box_in_original((8, 48, 80, 56), (50, 75), (100, 300)) == (32, 96, 300, 100)
    assert box_in_original((8, 48, 80, 56), (50, 75), (50, 75)) == (8, 48, 75, 50)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 5000))
def test_a_scaled_box_of_the_whole_image_is_exactly_the_whole_original(height, width, more, wider):
    original_hw = height + more, width + wider
    found = box_in_original((0, 0, width + 7, height + 7), (height, width), original_hw)
    assert found == (0, 0, original_hw[1], original_hw[0])


@pytest.mark.parametrize(
    "apply_exif, box, size_hw",
    [(False, (16, 8, 40, 24), (48, 64)), (True, (24, 16, 40, 40), (64, 48))],
)
def test_exif_orientation_turns_the_box_if_asked_for(tmp_path, colours, apply_exif, box, size_hw):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown a quarter clockwise: (x, y) is at (48 - 1 - y, x)
    Image.fromarray(planted()).save(tmp_path / "a.png", exif=exif)
    (found,) = find([tmp_path / "a.png"], colours, apply_exif=apply_exif)
    assert (found.box_xyxy, found.size_hw) == (box, size_hw)


def test_a_path_with_the_name_of_an_image_in_memory_is_another_image(photos, random_backbone, monkeypatch):
    (photos[0].parent / "[1]").write_bytes(photos[0].read_bytes())
    monkeypatch.chdir(photos[0].parent)
    pixels = np.array(Image.open(photos[1]))
    first, second = discover(["[1]", pixels], random_backbone, "lost")
    assert first.image == second.image == "[1]" and first.size_hw != second.size_hw


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 1.5}, {"workers": -1}, {"workers": "many"}, {"apply_exif": 1}]
)
def test_loader_options_that_are_not_possible_are_refused_by_name(wrong):
    assert f"`{next(iter(wrong))}`" in refusal(LoaderOptions, **wrong)


def test_features_that_are_no_configuration_are_refused(random_backbone):
    text = refusal(discover, np.zeros((16, 16, 3), np.uint8), random_backbone, features="k")
    assert text == "expected a FeatureConfig as features, but got str"
