"""From images to boxes in pixels: against a one-image pipeline written out here, and with planted objects."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lost_oracle import oracle_lost
from PIL import Image

from lost_reg.backbones.base import normalized
from lost_reg.backbones.loading import load_backbone
from lost_reg.boxes import box_in_original
from lost_reg.discovery.bias import otsu_bias
from lost_reg.errors import LostRegError, UnreadableImage
from lost_reg.images.batching import BatchSize, DecodedImage
from lost_reg.images.decoding import decode
from lost_reg.runs import discover as discovery
from lost_reg.runs import forecast as workload
from lost_reg.runs.discover import discover, discover_stream, run_lost
from lost_reg.types import Failure, Prediction, Protocol

SIZES = [(64, 96), (60, 90), (64, 64), (17, 33), (96, 64), (80, 112)]  # of these, the first two share a grid


def patch_means(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) to (B, N, 3): the mean colour of each patch of 8 pixels."""
    return torch.nn.functional.avg_pool2d(images, 8).flatten(2).mT


@pytest.fixture
def colours():
    """A backbone whose features are colours: black is (-1, -1, -1), white (1, 1, 1)."""
    return load_backbone(patch_means, patch_size=8, mean=(0.5,) * 3, std=(0.5,) * 3, device="cpu")


def planted(size_hw=(48, 64), box_xyxy=(16, 8, 40, 24)) -> np.ndarray:
    """A white rectangle on black."""
    pixels = np.zeros((*size_hw, 3), np.uint8)
    xmin, ymin, xmax, ymax = box_xyxy
    pixels[ymin:ymax, xmin:xmax] = 255
    return pixels


@pytest.fixture
def photos(tmp_path) -> list[Path]:
    """12 images of six sizes, mixed; of smooth colours, so that random weights see many shapes in them."""
    paths = [tmp_path / f"{index:02}.png" for index in range(12)]
    for index, path in enumerate(paths):
        height, width = SIZES[index * 5 % 6]
        colours = np.random.default_rng(index).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return paths


# Against a pipeline for one image


def reference(path: Path, backbone, protocol: Protocol) -> Prediction | None:
    """The protocol, one step a line; None where float32 rounding decides."""
    pixels = torch.tensor(np.array(Image.open(path).convert("RGB")))
    height, width, _ = pixels.shape
    x = (pixels.permute(2, 0, 1) / 255 - torch.tensor(backbone.mean)[:, None, None]) / torch.tensor(
        backbone.std
    )[:, None, None]
    size = backbone.patch_size
    rows, columns = -(-height // size), -(-width // size)
    padded = torch.zeros(3, rows * size, columns * size)
    padded[:, :height, :width] = x
    features = backbone.features(padded[None], protocol.facet, protocol.layer)[0].double().numpy()
    if protocol.center:
        features = features - features.mean(axis=0)
    if protocol.normalize:
        features = features / np.sqrt((features**2).sum(axis=1, keepdims=True))
    if protocol.bias == "auto":
        bias = otsu_bias(torch.tensor(features)[None]).item()  # tested by itself
    else:
        bias = protocol.bias * np.mean((features**2).sum(axis=1))
    found = oracle_lost(features, (rows, columns), protocol.k_patches, bias)
    xmin, ymin, xmax, ymax = (side * size for side in found.box)
    box = xmin, ymin, min(xmax, width), min(ymax, height)
    affinity = pytest.approx(found.affinity, abs=1e-4)  # to four decimals
    exact = Prediction(str(path), (height, width), box, found.seed, (rows, columns), found.degree, affinity)
    return None if found.ambiguous else exact


@pytest.mark.parametrize(
    "protocol",
    [
        Protocol(),
        Protocol(k_patches=3),
        Protocol(facet="v", layer=-2),
        Protocol(facet="q", layer=0),
        Protocol(normalize=True, bias=-0.2),
        Protocol(normalize=True, bias=-0.3, layer=-3),
        Protocol(bias=-0.2),
        Protocol(bias=-0.3, facet="v", k_patches=10),
        Protocol(center=True),
        Protocol(center=True, normalize=True, bias=-0.1),
        Protocol(normalize=True, bias="auto"),
        Protocol(center=True, bias="auto", facet="v"),
    ],
    ids=str,
)
def test_predictions_are_those_of_a_pipeline_for_one_image(photos, random_backbone, protocol):
    expected = [reference(path, random_backbone, protocol) for path in photos]
    found = discover(photos, random_backbone, protocol, batch_size=4, workers=0)
    clear = [(want, got) for want, got in zip(expected, found) if want is not None]
    assert len(clear) >= 9
    for want, got in clear:
        assert got == want


def test_what_the_protocol_says_reaches_the_result(photos, random_backbone):
    protocols = [
        Protocol(),
        Protocol(k_patches=1),
        Protocol(layer=-2),
        Protocol(facet="v"),
        Protocol(normalize=True, k_patches=20),
        Protocol(bias=-0.2),
        Protocol(normalize=True, bias=-0.2),
        Protocol(max_side=40),
        Protocol(center=True),
        Protocol(normalize=True, bias="auto"),
    ]
    found = [discover(photos, random_backbone, protocol, workers=0) for protocol in protocols]
    assert [i for i, one in enumerate(found) if one in found[:i]] == []


# Lists of images


def test_paths_and_arrays_are_taken_and_their_order_kept(tmp_path, colours):
    arrays = [planted(), planted((32, 32), (0, 0, 8, 8)), planted((48, 64), (8, 24, 24, 40))]
    Image.fromarray(arrays[1]).save(tmp_path / "one.png")
    Image.fromarray(arrays[2]).save(tmp_path / "two.png")
    images = [arrays[0], str(tmp_path / "one.png"), tmp_path / "two.png", arrays[1][:, :, 0]]
    found = discover(images, colours)
    assert [one.image for one in found] == ["[0]", images[1], str(images[2]), "[3]"]
    assert [one.box_xyxy for one in found] == [(16, 8, 40, 24), (0, 0, 8, 8), (8, 24, 24, 40), (0, 0, 8, 8)]
    assert [one.size_hw for one in found] == [(48, 64), (32, 32), (48, 64), (32, 32)]


def test_a_prediction_holds_seed_grid_and_degree(colours):
    (found,) = discover([planted()], colours)
    # 3 x 2 patches are white, so each is similar to 5 others, which are of the very same colour
    assert found == Prediction(
        "[0]", (48, 64), (16, 8, 40, 24), seed=(1, 2), grid_hw=(6, 8), degree=5, affinity=1.0
    )
    assert all(type(side) is int for side in found.box_xyxy)


def test_an_array_of_images_is_a_list_of_images(colours):
    found = discover(np.stack([planted(), planted(box_xyxy=(0, 0, 8, 8))]), colours)
    assert [one.box_xyxy for one in found] == [(16, 8, 40, 24), (0, 0, 8, 8)]


def test_one_path_may_be_given_twice(photos, random_backbone):
    found = discover([photos[0], photos[1], photos[0]], random_backbone)
    assert found[0] == found[2] and found[0].image == str(photos[0])


def test_no_images_give_no_predictions(colours):
    assert discover([], colours) == []


@pytest.mark.parametrize("image", ["a.png", Path("a.png"), planted()], ids=["str", "path", "array"])
def test_a_single_image_instead_of_a_list_is_refused(colours, image):
    with pytest.raises(LostRegError, match=r"expected a list of images, but got one"):
        discover(image, colours)


@pytest.mark.parametrize("batch_size", [0, -1, "all"])
def test_a_batch_size_below_1_is_refused(colours, batch_size):
    with pytest.raises(LostRegError, match=f"batch size of at least 1, or 'auto', but got {batch_size}"):
        discover([planted()], colours, batch_size=batch_size)


# Affinity


def test_affinity_is_of_the_features_as_they_are_compared(colours):
    # Grey levels of a line: 1 and 1/2 against -1. Raw, white and grey have the cosine 1; without the mean of
    # (1 + 1/2 - 6) / 8 = -9/16, still; with colours that differ, centring changes it.
    pixels = np.zeros((8, 64, 3), np.uint8)
    pixels[:, 16:24], pixels[:, 24:32] = (255, 255, 0), (255, 255, 255)
    raw = np.where(pixels[4, 4::8] > 0, 1.0, -1.0)
    for center in (False, True):
        (found,) = discover([pixels], colours, Protocol(center=center))
        expected = oracle_lost(raw - raw.mean(axis=0) * center, (1, 8))
        assert found.box_xyxy == (16, 0, 32, 8) == tuple(8 * np.array(expected.box) * (1, 1, 1, 1))
        assert found.affinity == round(expected.affinity, 4)
    (centred, published) = (
        discover([pixels], colours, Protocol(center=center))[0].affinity for center in (True, False)
    )
    assert centred != published


# Batches and workers


def test_in_float32_the_result_depends_on_neither_batches_nor_workers(photos, random_backbone):
    found = discover(photos, random_backbone, batch_size=1, workers=0)
    assert discover(photos, random_backbone, batch_size=1, workers=0) == found
    assert discover(photos, random_backbone, batch_size=16, workers=0) == found
    assert discover(photos, random_backbone, batch_size=16, workers=4) == found
    assert discover(photos[::-1], random_backbone, batch_size=5, workers=0) == found[::-1]


def test_many_images_are_decoded_by_workers_unless_told_otherwise(colours, monkeypatch):
    counts = []

    def counting(images, decoding, *, workers):
        counts.append(workers)
        return decode(images, decoding, workers=0)

    monkeypatch.setattr(discovery, "decode", counting)
    discover([planted()] * 31, colours)
    discover([planted()] * 32, colours)
    discover([planted()] * 32, colours, workers=0)
    assert counts == [0, None, 0]


def test_images_of_one_grid_are_run_together_and_no_others():
    shapes = []

    def recording(images):
        shapes.append(tuple(images.shape))
        return patch_means(images)

    images = [np.zeros((*size, 3), np.uint8) for size in [(16, 24), (9, 17), (24, 16), (16, 23), (15, 24)]]
    discover(images, load_backbone(recording, patch_size=8, device="cpu"), batch_size=3)
    assert shapes == [(3, 3, 16, 24), (1, 3, 24, 16), (1, 3, 16, 24)]


def test_outcomes_are_given_as_they_are_done(tmp_path, colours):
    """Memory would not be bounded if all images were decoded first."""
    Image.fromarray(planted()).save(tmp_path / "0.png")
    Image.fromarray(planted()).save(tmp_path / "1.png")
    images = [("0", tmp_path / "0.png"), ("1", tmp_path / "1.png")]
    stream = discover_stream(images, colours, batch_size=1, workers=0)
    assert next(stream).image == "0"
    (tmp_path / "1.png").unlink()
    assert next(stream) == Failure("1", "no such file")


# Pixels in, boxes out


def test_padding_is_zero_after_normalising(random_backbone):
    random = np.random.default_rng(0)
    pixels = np.zeros((2, 16, 32, 3), np.uint8)
    pixels[0, :10, :32] = random.integers(0, 256, (10, 32, 3))
    pixels[1, :16, :17] = random.integers(0, 256, (16, 17, 3))
    sizes = [(10, 32), (16, 17)]
    batch = [DecodedImage("", one, size, size) for one, size in zip(pixels, sizes)]
    images = normalized(batch, random_backbone)
    assert images.shape == (2, 3, 16, 32) and images.dtype == torch.float32
    for image, one, (height, width) in zip(images.numpy(), pixels, sizes):
        expected = (one[:height, :width] / 255 - random_backbone.mean) / random_backbone.std
        assert np.allclose(image[:, :height, :width], expected.transpose(2, 0, 1), atol=1e-6)
        assert not image[:, height:].any() and not image[:, :, width:].any()


def test_black_pixels_are_not_mistaken_for_padding(colours):
    images = normalized([DecodedImage("", np.zeros((8, 8, 3), np.uint8), (8, 8), (8, 8))], colours)
    assert images.eq(-1).all()


def test_boxes_are_clipped_to_the_image(colours):
    # the object's last patches reach over the border: 45 is 5.6 patches, 60 is 7.5
    (found,) = discover([planted((45, 60), (40, 32, 60, 45))], colours)
    assert found.box_xyxy == (40, 32, 60, 45) and found.grid_hw == (6, 8)


@pytest.mark.parametrize("size_hw", [(1, 1), (5, 3), (16, 15)])
def test_an_image_smaller_than_a_patch_is_its_own_box(random_backbone, size_hw):
    (found,) = discover([np.full((*size_hw, 3), 77, np.uint8)], random_backbone)
    height, width = size_hw
    assert found == Prediction("[0]", size_hw, (0, 0, width, height), (0, 0), (1, 1), 0, affinity=1.0)


def test_max_side_gives_boxes_in_pixels_of_the_original(colours):
    # scaled by 2, and by 2 and 96/50: the grid is that of the scaled image
    image = planted((96, 128), (32, 16, 80, 48))
    (found,) = discover([image], colours, Protocol(max_side=64))
    assert (found.box_xyxy, found.size_hw, found.grid_hw) == ((32, 16, 80, 48), (96, 128), (6, 8))
    (found,) = discover([image], colours, Protocol(max_side=128))
    assert (found.box_xyxy, found.grid_hw) == ((32, 16, 80, 48), (12, 16))


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
    (found,) = discover([tmp_path / "a.png"], colours, apply_exif=apply_exif)
    assert (found.box_xyxy, found.size_hw) == (box, size_hw)


# Normalising and bias


def test_normalised_features_have_length_1_before_lost():
    # raw: s.q = -1, p.q = 100 * 5: the long p would carry q into the mask; of length 1 all count alike
    features = torch.tensor([[[1.0, 0.0], [100.0, 200.0], [-1.0, 3.0], [-30.0, 90.0]]])
    for protocol in (Protocol(), Protocol(normalize=True), Protocol(normalize=True, bias=-0.2)):
        raw = features[0].numpy().astype(np.float64)
        used = raw / np.linalg.norm(raw, axis=1, keepdims=True) if protocol.normalize else raw
        expected = oracle_lost(used, (1, 4), 100, protocol.bias)
        assert not expected.ambiguous
        found = run_lost(features, (1, 4), protocol)
        assert tuple(found.boxes_xyxy[0].tolist()) == expected.box
        assert found.degrees.tolist() == [expected.degree]


def test_the_bias_of_raw_features_is_in_units_of_each_images_mean_squared_norm():
    # Squared norms 1, 4 and 1 have the mean 2; A = (1 2 -1; 2 4 -2; -1 -2 1). b = -0.9 is -1.8:
    # (-0.8 0.2 -2.8; 0.2 2.2 -3.8; -2.8 -3.8 -0.8). Degrees 1, 1 and 0: the third is the seed, S is empty.
    image = torch.tensor([[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0]])
    # the second image is ten times the first, so its bias is a hundred times as large
    found = run_lost(torch.stack([image, 10 * image]), (1, 3), Protocol(bias=-0.9))
    assert found.boxes_xyxy.tolist() == [[2, 0, 3, 1]] * 2
    assert found.degrees.tolist() == [0, 0]
    # b = -1.1 is -2.2: 2 - 2.2 is negative, so the first has degree 0, too
    found = run_lost(torch.stack([image, 10 * image]), (1, 3), Protocol(bias=-1.1))
    assert found.seeds.tolist() == [[0, 0]] * 2


def test_random_images_with_normalising_and_bias_give_the_oracles_result():
    features = torch.randn(60, 24, 6, generator=torch.Generator().manual_seed(1)) + 0.3
    for protocol in (
        Protocol(normalize=True, bias=-0.2),
        Protocol(bias=-0.2),
        Protocol(bias=-0.4, k_patches=3),
    ):
        found = run_lost(features, (4, 6), protocol)
        compared = 0
        for index, image in enumerate(features.double().numpy()):
            if protocol.normalize:
                image = image / np.linalg.norm(image, axis=1, keepdims=True)
            bias = protocol.bias * (image**2).sum(axis=1).mean()
            expected = oracle_lost(image, (4, 6), protocol.k_patches, bias)
            if not expected.ambiguous:
                compared += 1
                assert tuple(found.boxes_xyxy[index].tolist()) == expected.box
                assert found.degrees[index] == expected.degree
        assert compared >= 50


# Images that cannot be used


def test_an_unreadable_image_is_an_error_with_its_name(tmp_path, colours):
    (tmp_path / "bad.jpg").write_text("no image")
    with pytest.raises(UnreadableImage, match=r"bad\.jpg: not an image"):
        discover([planted(), tmp_path / "bad.jpg"], colours)
    with pytest.raises(UnreadableImage, match=r"\[1\]: expected an array of shape"):
        discover([planted(), np.zeros((4, 4, 7), np.uint8)], colours)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_a_failure_in_a_stream_and_the_others_go_on(tmp_path, colours, workers):
    (tmp_path / "bad.jpg").write_text("no image")
    images = [planted(), tmp_path / "bad.jpg", tmp_path / "gone.jpg", planted(box_xyxy=(0, 0, 8, 8))]
    outcomes = list(discover_stream(zip(["a", "bad", "gone", "b"], images), colours, workers=workers))
    failed = {one.image: one.reason for one in outcomes if isinstance(one, Failure)}
    assert failed == {
        "bad": "not an image, or of a format that is not supported",
        "gone": "no such file",
    }
    boxes = {one.image: one.box_xyxy for one in outcomes if isinstance(one, Prediction)}
    assert boxes == {"a": (16, 8, 40, 24), "b": (0, 0, 8, 8)}


def _overflowing(precision: str, value: float) -> SimpleNamespace:
    """A backbone of that precision that gives `value` for images whose first pixel is grey."""

    def features(images, facet, layer):
        means = patch_means(images)
        means[images[:, 0, 0, 0].abs() < 0.5, 2, 1] = value
        return means

    return SimpleNamespace(
        name="overflowing", features=features, patch_size=8, mean=(0.5,) * 3, std=(0.5,) * 3,
        device=torch.device("cpu"), precision=precision,
    )  # fmt: skip


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_fail_their_image_alone(value):
    grey = planted()
    grey[0, 0] = 128
    images = [planted(), grey, planted(box_xyxy=(0, 0, 8, 8))]
    outcomes = list(discover_stream(zip(["a", "grey", "b"], images), _overflowing("fp16", value)))
    failures = [one for one in outcomes if isinstance(one, Failure)]
    assert failures == [Failure("grey", "its features are not finite in fp16: use --precision fp32")]
    boxes = {one.image: one.box_xyxy for one in outcomes if isinstance(one, Prediction)}
    assert boxes == {"a": (16, 8, 40, 24), "b": (0, 0, 8, 8)}
    # all of a batch
    assert list(discover_stream([("grey", grey)], _overflowing("fp16", value))) == failures


def test_no_other_precision_is_advised_where_float32_is_not_finite():
    grey = np.full((48, 64, 3), 128, np.uint8)
    (failure,) = discover_stream([("grey", grey)], _overflowing("fp32", float("nan")))
    assert failure == Failure("grey", "its features are not finite in fp32")


def test_a_function_that_gives_another_number_of_patches_is_refused():
    backbone = load_backbone(lambda images: patch_means(images)[:, 1:], patch_size=8, device="cpu")
    with pytest.raises(LostRegError, match=r"features of shape \(1, 48, D\) .* but got \(1, 47, 3\)"):
        discover([planted()], backbone)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 7 bytes")],
)
@pytest.mark.parametrize("batch_size", [8, "auto"])
def test_a_batch_that_does_not_fit_the_memory_is_halved_and_later_ones_are_as_small(
    random_backbone, monkeypatch, error, batch_size
):
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (32, 48, 3), dtype=np.uint8) for _ in range(17)]
    expected = discover(images, random_backbone, workers=0)
    whole, tried = random_backbone.features, []

    def features(batch, facet, layer):
        tried.append(len(batch))
        if len(batch) > 3:
            raise error
        return whole(batch, facet, layer)

    monkeypatch.setattr(random_backbone, "features", features)
    monkeypatch.setattr(workload, "pixels_at_once", lambda backbone: 8.9 * 32 * 48)
    assert discover(images, random_backbone, batch_size=batch_size, workers=0) == expected
    assert tried == [8, 4, 2, 2, 2, 2] + [2] * 4 + [1]


def test_larger_images_go_in_smaller_batches_after_the_memory_did_not_suffice(random_backbone):
    size = BatchSize(8)
    assert size.of((32, 48)) == 8 and size.lowered == 0
    size.lower(5, (32, 48))
    assert [size.of(hw) for hw in [(32, 48), (16, 48), (16, 16), (64, 48), (999, 999)]] == [2, 4, 8, 1, 1]
    assert size.lowered == 1


def test_an_error_of_another_kind_is_not_taken_for_a_lack_of_memory(random_backbone, monkeypatch):
    def features(batch, facet, layer):
        raise RuntimeError("shapes do not agree")

    monkeypatch.setattr(random_backbone, "features", features)
    with pytest.raises(RuntimeError, match="shapes do not agree"):
        discover([planted()], random_backbone)


def test_an_image_that_does_not_fit_the_memory_is_a_failure(random_backbone, monkeypatch):
    def features(batch, facet, layer):
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(random_backbone, "features", features)
    (outcome,) = discover_stream([("a", np.zeros((32, 48, 3), np.uint8))], random_backbone, workers=0)
    assert (
        isinstance(outcome, Failure) and "48 x 32 pixels" in outcome.reason and "--max-side" in outcome.reason
    )


@pytest.mark.parametrize(
    "wrong", [{"facet": "x"}, {"bias": float("nan")}, {"bias": "much"}, {"k_patches": 0}, {"max_side": 0}]
)
def test_a_protocol_that_cannot_be_is_refused(wrong):
    with pytest.raises(LostRegError):
        Protocol(**wrong)
