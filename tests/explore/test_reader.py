"""The page's images: by number from the inputs, or uploaded; never from elsewhere, nor decoded here."""

from __future__ import annotations

import os

import numpy as np
import pytest
from helpers import refusal
from PIL import Image

from lost_reg.explore.reader import Reader, page_image
from lost_reg.images import reading

BOX = (4, 4, 16, 20)


@pytest.fixture
def folder(tmp_path, save_scene):
    save_scene(tmp_path / "photos" / "a.png", (40, 60), BOX)
    save_scene(tmp_path / "photos" / "sub" / "b.png", (30, 20), BOX, seed=1)
    return tmp_path / "photos"


def test_images_of_a_folder_go_by_number(folder):
    with Reader([folder]) as reader:
        assert reader.count == 2
        first, second = reader.listed(0), reader.listed(1)
        assert (first.name, first.size_hw, first.original_hw) == ("a.png", (40, 60), (40, 60))
        assert (second.name, second.size_hw, second.original_hw) == ("sub/b.png", (30, 20), (30, 20))
        original = reading.read_image(folder / "a.png", apply_exif=True)
        np.testing.assert_array_equal(first.pixels, original)
        for index in (-1, 2):
            assert refusal(reader.listed, index) == f"there is no image {index + 1}: there are 2"


def test_an_image_of_the_page_is_there_in_each_size_as_a_run_scales_it(folder):
    with Reader([folder]) as reader:
        image = page_image(reader.listed(0), [(30, None), (None, 48), (448, None)])
    assert (image.name, image.original_hw) == ("a.png", (40, 60))
    original = reading.read_image(folder / "a.png", apply_exif=True)
    for scale, size_hw in {(30, None): (20, 30), (None, 48): (48, 48), (448, None): (40, 60)}.items():
        assert image.at[scale].size_hw == size_hw and image.at[scale].original_hw == (40, 60)
        np.testing.assert_array_equal(image.at[scale].pixels, reading.scaled(original, *scale))


def test_links_out_of_the_folder_are_not_followed(folder, tmp_path, save_scene):
    save_scene(tmp_path / "secret.png", (50, 50), BOX)
    os.symlink(tmp_path / "secret.png", folder / "c.png")
    with Reader([folder]) as reader:
        assert reader.files.names[1] == "c.png"
        assert "is a link out of" in refusal(reader.listed, 1)
    with Reader([folder], follow_links=True) as reader:
        assert reader.listed(1).size_hw == (50, 50)


def test_files_are_decoded_in_another_process(folder, monkeypatch):
    def decode_here(*_, **__):
        raise AssertionError("decoded in the server's process")

    monkeypatch.setattr(Image, "open", decode_here)
    with Reader([folder]) as reader:
        assert reader.listed(0).size_hw == (40, 60) and reader.uploaded(folder / "a.png").name == "a.png"


def test_what_is_no_image_is_one_line_and_the_next_is_read(folder, tmp_path):
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (tmp_path / "y.png").write_text("<svg onload=alert(1)>")
    with Reader([folder]) as reader:
        assert refusal(reader.uploaded, tmp_path / "x.png").startswith("x.png: ")
        assert refusal(reader.uploaded, tmp_path / "y.png").startswith("y.png: ")
        assert "no such file" in refusal(reader.uploaded, tmp_path / "z.png")
        assert reader.listed(0).size_hw == (40, 60)
        (folder / "a.png").unlink()
        assert refusal(reader.listed, 0) == "a.png: no such file"


def test_a_decoder_that_dies_is_replaced(folder):
    with Reader([folder]) as reader:
        reader.listed(0)
        reader._process._process.kill()
        assert "crashed its decoder" in refusal(reader.listed, 0)
        assert reader.listed(0).size_hw == (40, 60)
    assert reader._process._process.poll() is not None  # it ends with the reader


def test_transparent_images_get_the_background(tmp_path):
    Image.new("RGBA", (32, 32), (255, 0, 0, 0)).save(tmp_path / "t.png")
    with Reader([tmp_path], background="#102030") as reader:
        assert (reader.listed(0).pixels == (16, 32, 48)).all()
    assert "background" in refusal(Reader, background="nonsense")


def test_without_inputs_there_are_only_uploads(tmp_path):
    with Reader() as reader:
        assert reader.count == 0 and reader.files is None
    assert "no images in" in refusal(Reader, [tmp_path])
    assert "no such file or folder" in refusal(Reader, [tmp_path / "nowhere"])
