"""The line on a run of implausible boxes: when there is one, and what it says of any method."""

from __future__ import annotations

import dataclasses

import pytest
from helpers import found_object, prediction, run_settings

from lost_reg.discovery import methods
from lost_reg.runs.degenerate import degenerate_line

WHOLE, PART = (0, 0, 128, 96), (32, 16, 64, 64)
PATCH, STRIP = (16, 16, 32, 32), (0, 0, 128, 8)
HINT = "try `preset` best; `lost-reg sweep` compares settings"


def line(*images, **settings) -> str | None:
    return degenerate_line(lambda: iter(images), run_settings(**settings))


def images(*boxes):
    return [prediction(f"{index}.jpg", box) for index, box in enumerate(boxes)]


@pytest.mark.parametrize(
    ("boxes", "text"),
    [
        ([WHOLE], "the box is the whole image"),
        ([WHOLE, PART], "1 of 2 boxes is the whole image"),
        ([WHOLE, WHOLE, PART], "2 of 3 boxes are the whole image"),
        ([WHOLE, PART, PART], None),
        ([PART], None),
        ([], None),
        ([PATCH], "the box is a single patch"),
        ([PATCH, PATCH, STRIP, PART], "2 of 4 boxes are a single patch"),
        ([STRIP, STRIP, PATCH], "2 of 3 boxes are a border strip"),
        ([WHOLE, PATCH, PART, PART], "2 of 4 boxes are implausible"),
        ([WHOLE, PATCH, PART, PART, PART], None),
    ],
)
def test_a_line_where_at_least_half_are_implausible(boxes, text):
    assert line(*images(*boxes)) == (text and f"{text}; {HINT}")


def test_a_line_where_most_images_have_no_object():
    empty = [prediction(f"{index}.jpg") for index in range(3)]
    assert line(*empty) == f"nothing was found in 3 of 3 images; {HINT}"
    assert line(*empty, *images(PART, PART)) == f"nothing was found in 3 of 5 images; {HINT}"
    assert line(*empty, *images(PART, PART, PART)) is None
    assert line(*empty, method="spread").endswith("images; `lost-reg sweep` compares settings")


def test_only_the_first_box_of_an_image_that_has_any_counts():
    first, further = prediction("a.jpg", WHOLE, PART, PART), prediction("b.jpg", PART, WHOLE)
    assert line(first, further, prediction("c.jpg")).startswith("1 of 2 boxes")


def test_the_method_says_why_and_of_these_images_only(monkeypatch):
    def explain(kind, images):
        return f"{kind} of {[one.image for one in images]}"

    method = dataclasses.replace(methods.METHODS["lost"], why_implausible=explain)
    monkeypatch.setitem(methods.METHODS, "lost", method)
    assert line(*images(WHOLE, PART, WHOLE)) == (
        f"2 of 3 boxes are the whole image: whole image of ['0.jpg', '2.jpg']; {HINT}"
    )


def test_the_method_need_not_know_nor_be_installed(monkeypatch):
    tied = prediction("a.jpg", found_object(WHOLE, degree=47, positive_share=1.0))
    assert "100 % of the affinities" in line(tied)
    assert line(tied, method="another") == f"the box is the whole image; {HINT}"
    method = dataclasses.replace(methods.METHODS["lost"], why_implausible=None)
    monkeypatch.setitem(methods.METHODS, "lost", method)
    assert line(tied) == f"the box is the whole image; {HINT}"
