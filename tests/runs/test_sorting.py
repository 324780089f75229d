"""The lines of a run in the order of its images."""

from __future__ import annotations

import json

import pytest
from helpers import prediction, write_predictions
from hypothesis import given
from hypothesis import strategies as st

from lost_reg import LoaderOptions
from lost_reg.images.sources import list_images
from lost_reg.runs.options import RunOptions
from lost_reg.runs.run import run
from lost_reg.runs.sorting import sort_lines
from lost_reg.runs.sources import source_of_files


def images_of(path) -> list[str]:
    return [json.loads(line)["image"] for line in path.read_text().splitlines()]


@given(st.permutations(range(7)), st.lists(st.integers(0, 9), max_size=12))
def test_lines_are_as_the_names_and_others_follow(tmp_path_factory, there, wanted):
    path = tmp_path_factory.mktemp("sorted") / "lines.jsonl"
    lines = [json.dumps({"image": f"{number}.jpg", "more": "\u2028x" * number}) + "\n" for number in there]
    path.write_text("".join(lines))
    sort_lines(path, (f"{number}.jpg" for number in wanted))
    first = [number for number in dict.fromkeys(wanted) if number in there]
    expected = [*first, *(number for number in there if number not in first)]
    assert images_of(path) == [f"{number}.jpg" for number in expected]
    assert sorted(path.read_text().splitlines(keepends=True)) == sorted(lines)


def test_lines_of_one_image_stay_together(tmp_path):
    found = [prediction(name, (0, 0, 9, 9)) for name in ("b.jpg", "a.jpg", "b.jpg")]
    path = write_predictions(tmp_path / "run", found) / "predictions.jsonl"
    sort_lines(path, ["a.jpg", "b.jpg", "b.jpg"])
    assert images_of(path) == ["a.jpg", "b.jpg", "b.jpg"]


@pytest.fixture
def source(tmp_path, save_scene):
    """Six images of two sizes in turns, which a run takes size by size."""
    for number in range(6):
        save_scene(tmp_path / f"photos/{number}.png", ((48, 64), (64, 48))[number % 2], (0, 0, 32, 32))
    return source_of_files(list_images([str(tmp_path / "photos")]), [str(tmp_path / "photos")])


def options(**changes) -> RunOptions:
    return RunOptions(loader=LoaderOptions(workers=0, batch_size=3), **changes)


def test_a_run_is_sorted_at_its_end_with_what_was_done_before(tmp_path, source, random_backbone):
    names = [f"{number}.png" for number in range(6)]
    run(source, random_backbone, tmp_path / "plain", options=options())
    assert images_of(tmp_path / "plain/predictions.jsonl") != names
    run(source, random_backbone, tmp_path / "run", options=options(limit=4))
    run(source, random_backbone, tmp_path / "run", options=options(resume=True, sort=True))
    assert images_of(tmp_path / "run/predictions.jsonl") == names
    assert sorted((tmp_path / "run/predictions.jsonl").read_text().splitlines()) == sorted(
        (tmp_path / "plain/predictions.jsonl").read_text().splitlines()
    )
