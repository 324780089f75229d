"""A head beside the run that it learned from, on the images held out: by hand, and where it is not known."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from helpers import prediction

from lost_reg.runs.folder import Results
from lost_reg.runs.heads import drawing
from lost_reg.runs.seals import sealed
from lost_reg.scoring import held_out
from lost_reg.scoring.found_boxes import ScoringOptions
from lost_reg.scoring.held_out import score_held_out
from lost_reg.types import ImageTruth

NAMES = [f"{number}.jpg" for number in range(8)]
RIGHT, WRONG = (0, 0, 10, 10), (50, 50, 60, 60)
DRAWN = sorted(NAMES, key=drawing(3))  # the first four are held out
BELOW = drawing(3)(DRAWN[4])
TRAINED_ON = {
    "run": "/runs/lost", "method": "lost", "root": "/photos", "held_out_below": BELOW, "options": {"seed": 3},
    "run_created": "then",
}  # fmt: skip


def results(boxes: dict, trained_on=TRAINED_ON, method="head", root="/photos") -> Results:
    options = {"head": {"trained_on": trained_on}} if method == "head" else {}
    record = {"root": root, "created": "then", "settings": {"method": method, "options": options}}
    return Results(None, sealed(record), {name: prediction(name, box) for name, box in boxes.items()}, {})


@pytest.fixture
def dataset():
    truths = {
        name: ImageTruth(name, name[0], (96, 128), (RIGHT,), ("a",), (False,))
        for name in NAMES
        if name != DRAWN[3]
    }
    truths[DRAWN[3]] = replace(truths[DRAWN[0]], image=DRAWN[3], boxes_xyxy=(), labels=(), hard=())
    return SimpleNamespace(truths=truths, left_out=())


def boxes_where(right) -> dict:
    return {name: RIGHT if name in right else WRONG for name in NAMES}


def test_only_images_held_out_with_a_true_box_count(dataset, monkeypatch):
    """Of the first three, the head finds two and the run one, another one; all others are right for both."""
    of_run = results(boxes_where({DRAWN[2], *DRAWN[4:]}), method="lost")
    monkeypatch.setattr(held_out, "read_run", lambda folder: of_run)
    found = score_held_out(results(boxes_where({*DRAWN[:2], *DRAWN[4:]})), dataset, ScoringOptions())
    paired = found.paired
    assert (paired.both, paired.only_a, paired.only_b, paired.neither) == (0, 1, 2, 0)
    assert found.run == "/runs/lost" and found.method == "lost"


def test_images_that_the_run_has_not_done_do_not_count(dataset, monkeypatch):
    of_run = results({DRAWN[0]: WRONG, DRAWN[5]: RIGHT}, method="lost")
    monkeypatch.setattr(held_out, "read_run", lambda folder: of_run)
    found = score_held_out(results(boxes_where(NAMES)), dataset, ScoringOptions())
    assert (found.paired.images, found.paired.only_b) == (1, 1)


def test_where_it_is_not_known_the_reason_is_given(dataset, monkeypatch, tmp_path):
    options, every = ScoringOptions(), boxes_where(NAMES)
    assert score_held_out(results(every, method="lost"), dataset, options) is None
    assert "no such folder" in score_held_out(results(every), dataset, options).reason
    assert "another folder" in score_held_out(results(every, root="/x"), dataset, options).reason
    monkeypatch.setattr(held_out, "read_run", lambda folder: results(every, method="lost"))
    anew = {**TRAINED_ON, "run_created": "before"}
    assert "another one by now" in score_held_out(results(every, anew), dataset, options).reason
    unknown = {**TRAINED_ON, "options": None}
    assert "is not recorded" in score_held_out(results(every, unknown), dataset, options).reason
    none = {**TRAINED_ON, "held_out_below": 0.0}
    assert score_held_out(results(every, none), dataset, options).reason == "no such image"
    for odd in (None, 3, {"method": "lost"}):
        assert score_held_out(results(every, odd), dataset, options) is None


def test_the_run_that_a_foreign_head_names_is_not_read(dataset, monkeypatch):
    monkeypatch.setattr(held_out, "read_run", lambda folder: pytest.fail("it was read"))
    foreign = results(boxes_where(NAMES))
    foreign.record["created"] = "later"
    assert "was made by somebody else" in score_held_out(foreign, dataset, ScoringOptions()).reason
