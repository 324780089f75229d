"""Names of exported files."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lost_reg.export.base import Stems


@given(st.lists(st.text(max_size=6) | st.text("ab./_-A", max_size=8), max_size=30))
def test_stems_are_plain_and_no_two_alike(images):
    first, second = Stems(), Stems()
    stems = [first.of(image) for image in images]
    assert stems == [second.of(image) for image in images]
    assert len({stem.casefold() for stem in stems}) == len(stems)
    for stem in stems:
        assert stem and stem[0] not in "." and not set(stem) & set("/\\\n\r\0 <&\"'")
        assert len(stem.encode()) < 200 and stem.isprintable()


def test_stems_by_hand():
    stems = Stems()
    images = (
        "x.jpg",
        "x.png",
        "x.png",
        "x.png",
        "a/x.jpg",
        "a_x.jpg",
        "a.b/c  d.jpg",
        "??.jpg",
        "!!.jpg",
        "..",
    )
    assert [stems.of(image) for image in images] == [
        *("x", "x_png", "x_png-2", "x_png-3", "a_x", "a_x_jpg", "a.b_c_d", "image", "jpg", "image-2"),
    ]


def test_many_images_of_one_name_take_no_longer():
    stems = Stems()
    assert (
        len({stems.of("\N{GRINNING FACE}") for _ in range(20_000)}) == 20_000
    )  # 0.1 s; a square would be hours
