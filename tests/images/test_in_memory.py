"""Images that a program already has: PIL images, arrays and tensors give what their files give."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import find, refusal
from PIL import Image

from lost_reg.backbones.loading import load_backbone
from lost_reg.images.in_memory import named_images
from lost_reg.types import Prediction


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """(64, 96, 3) uint8 that hold every level, a rectangle among them."""
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (64, 96, 3), dtype=np.uint8)
    image[16:48, 32:80] //= 4
    assert len(np.unique(image)) == 256
    return image


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    """(3, H, W) uint8."""
    return torch.from_numpy(pixels).permute(2, 0, 1)


FORMS = {
    "array": lambda p: p,
    "a view": lambda p: np.asfortranarray(p)[::-1][::-1],
    "float array": lambda p: p / 255,
    "float16 array": lambda p: (p / 255).astype(np.float16),
    "PIL image": lambda p: Image.fromarray(p),
    "PIL image with alpha": lambda p: Image.fromarray(np.dstack([p, p * 0 + 255])[:, :, :4]),
    "uint8 tensor": as_tensor,
    "float tensor": lambda p: as_tensor(p).float() / 255,
    "float64 tensor": lambda p: as_tensor(p).double() / 255,
    "tensor with gradients": lambda p: (as_tensor(p).float() / 255).requires_grad_(),
    "contiguous tensor": lambda p: as_tensor(p).contiguous(),
}


def test_float_tensors_are_rounded_to_the_nearest_level():
    ((_, found),) = named_images(torch.tensor([0.0, 0.001, 0.003, 0.4996, 0.999, 1.0]).expand(3, 2, 6))
    assert found[0, :, 0].tolist() == [0, 0, 1, 127, 255, 255]  # 0.26, 0.77, 127.4 and 254.7 of 255


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_pixels(pixels, form):
    ((name, image),) = named_images(FORMS[form](pixels))
    assert name == "[0]" and image.dtype == np.uint8 and np.array_equal(image, pixels)


def test_every_form_gives_the_boxes_of_the_file(pixels, random_backbone, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    forms = [form(pixels) for form in FORMS.values()]
    of_file, *others = find([tmp_path / "a.png", *forms], random_backbone)
    assert of_file.image == str(tmp_path / "a.png") and of_file.objects
    expected = [
        Prediction(f"[{index}]", (64, 96), (4, 6), of_file.objects) for index in range(1, len(FORMS) + 1)
    ]
    assert others == expected


@pytest.mark.parametrize("grey", [lambda p: p, Image.fromarray], ids=["array", "PIL image"])
def test_grey_images_are_repeated_in_each_channel(pixels, random_backbone, grey):
    repeated = np.repeat(pixels[:, :, :1], 3, axis=2)
    (found,) = find(grey(pixels[:, :, 0]), random_backbone)
    (expected,) = find(repeated, random_backbone)
    assert found == expected


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr"])
def test_pil_images_are_converted_as_pillow_does(pixels, mode):
    image = Image.fromarray(pixels).convert(mode)
    ((_, found),) = named_images(image)
    assert np.array_equal(found, np.asarray(image.convert("RGB"))) and image.mode == mode


def test_a_pil_image_is_as_it_is_shown_to_the_program_and_not_turned(pixels, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        ((_, found),) = named_images(image)
    assert np.array_equal(found, pixels)


# One, many, and their names


def test_one_image_may_stand_for_itself(pixels):
    for form in FORMS.values():
        assert len(named_images(form(pixels))) == 1
    assert named_images("a.jpg") == [("a.jpg", "a.jpg")]
    assert named_images(Path("a.jpg")) == [("a.jpg", Path("a.jpg"))]
    assert len(named_images(pixels[:, :, 0])) == 1  # grey


def test_a_mask_or_a_grey_image_with_a_channel_is_a_grey_image(pixels):
    mask = pixels[:, :, 0] > 99
    for image, expected in (
        (mask, mask * np.uint8(255)),
        (pixels[:, :, :1], pixels[:, :, 0]),
        (pixels[:, :, :1] / 255, pixels[:, :, 0]),
    ):
        ((_, found),) = named_images(image)
        assert found.dtype == np.uint8 and np.array_equal(found, expected)


def test_a_folder_is_its_images_and_those_of_folders_in_it(tmp_path, pixels, save_scene, monkeypatch):
    for name in ("b.jpg", "a.png", "sub/c.jpg", ".hidden/d.jpg"):
        save_scene(tmp_path / "photos" / name)
    (tmp_path / "photos/notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    expected = ["photos/a.png", "photos/b.jpg", "photos/sub/c.jpg"]
    for folder in ("photos", Path("photos"), "photos/"):
        assert [name for name, _ in named_images(folder)] == expected
        assert [name for name, _ in named_images([pixels, folder, "x.jpg"])] == ["[0]", *expected, "x.jpg"]
    (tmp_path / "empty").mkdir()
    assert refusal(named_images, "empty").startswith("no images in 'empty' (looked for ")


def test_what_cannot_be_used_is_a_failure_if_it_may_be_skipped(pixels, tmp_path):
    images = [pixels, torch.zeros(8, 8), tmp_path, "a.jpg", None, pixels * 2.0]
    first, *failures, last, nothing, bright = named_images(images, skip=True)
    assert first[0] == "[0]" and last == ("a.jpg", "a.jpg")
    assert [one.image for one in (*failures, nothing, bright)] == ["[1]", str(tmp_path), "[4]", "[5]"]
    assert "expected a float array in [0, 1]" in bright.reason and "no images in" in failures[1].reason
    assert refusal(named_images, 3, skip=True).startswith("expected paths")


def test_a_batch_is_its_images(pixels):
    several = np.stack([pixels, pixels[::-1]])
    for batch in (several, torch.from_numpy(several).permute(0, 3, 1, 2), list(several), iter(several)):
        named = named_images(batch)
        assert [name for name, _ in named] == ["[0]", "[1]"]
        assert np.array_equal(np.stack([image for _, image in named]), several)


def test_paths_keep_their_names_among_others(pixels):
    names = [name for name, _ in named_images([pixels, "sub/a.jpg", Path("b.jpg"), Image.fromarray(pixels)])]
    assert names == ["[0]", "sub/a.jpg", "b.jpg", "[3]"]


def test_no_images_are_none():
    assert named_images([]) == named_images(np.zeros((0, 8, 8, 3), np.uint8)) == []


# What is refused


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (None, "but got None"),
        (3, "but got int"),
        (b"content of a file", "but got bytes"),
        ({"a": "a.jpg"}, "but got dict"),
        ([None], "[0]: expected paths, (H, W, 3) arrays, PIL images or (3, H, W) tensors"),
        ([["a.jpg"]], "[0]: expected paths"),
        ([b"content of a file"], "but got bytes"),
        (torch.zeros(8, 8, 3), "[0]: expected a tensor of shape (3, H, W), but got (8, 8, 3)"),
        (torch.zeros(1, 8, 8), "but got (1, 8, 8)"),
        (torch.zeros(8, 8), "but got (8, 8)"),
        (torch.tensor(1.0), "but got ()"),
        (torch.zeros(2, 2, 3, 8, 8), "but got (2, 3, 8, 8)"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "expected a uint8 or float tensor, but got torch.int64"),
        (torch.zeros(3, 8, 8, dtype=torch.bool), "but got torch.bool"),
        (torch.zeros(3, 8, 8, dtype=torch.complex64), "but got torch.complex64"),
        (torch.full((3, 8, 8), 1.01), "in [0, 1], before any normalisation"),
        (np.full((8, 8, 3), 1.01), "[0]: expected a float array in [0, 1], before any normalisation"),
        (np.full((8, 8, 3), -0.01), "in [0, 1]"),
        (np.full((8, 8), float("nan")), "in [0, 1]"),
        (torch.full((3, 8, 8), -0.01), "in [0, 1]"),
        (torch.full((3, 8, 8), float("nan")), "in [0, 1]"),
        (torch.full((3, 8, 8), 255.0), "in [0, 1]"),
        (Image.new("I", (8, 8)), "[0]: PIL images of mode I are not supported"),
        (Image.new("F", (8, 8)), "mode F"),
        (Image.new("I;16", (8, 8)), "mode I;16"),
        ([np.zeros((8, 8, 3), np.uint8), torch.zeros(8, 8)], "[1]: expected a tensor"),
    ],
    ids=lambda one: one if isinstance(one, str) else type(one).__name__,
)
def test_what_is_no_image_is_refused_by_its_place(image, words):
    assert words in refusal(named_images, image)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8, 3), np.int64),
        np.zeros((8, 8, 3), np.uint16),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 4)),
        np.zeros((8, 8, 2), bool),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros(8, np.uint8),
        np.array("a.jpg"),
        np.zeros((2, 2, 8, 8, 3), np.uint8),
        torch.zeros(3, 0, 8),
        Image.new("RGB", (0, 8)),
    ],
    ids=lambda image: f"{type(image).__name__}{getattr(image, 'shape', '')}",
)
def test_arrays_of_another_shape_or_type_are_refused_by_their_place(random_backbone, image):
    expected = "[0]: expected an array of shape (H, W, 3) or (H, W) and dtype uint8, but got "
    assert refusal(find, image, random_backbone).startswith(expected)


def test_a_pil_image_whose_file_is_damaged_is_refused(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    for length in (200, len(file.getvalue()) // 2):
        image = Image.open(io.BytesIO(file.getvalue()[:length]))  # the header is whole
        assert refusal(named_images, ["a.jpg", image]).startswith("[1]: cannot be decoded: ")


def test_a_pil_image_is_composited_as_its_file_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 48, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for background in ("white", "black"):
        images = [tmp_path / "a.png", Image.open(tmp_path / "a.png")]
        of_file, of_image = find(images, load_backbone("tiny", weights="random"), background=background)
        assert of_file.objects == of_image.objects
