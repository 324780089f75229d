"""Several objects per image, as evaluation/objects.py scores them."""

from __future__ import annotations

import functools
from dataclasses import replace

import objects
import pytest
from detection import count_images, total
from helpers import prediction, setting, write_predictions

from lost_reg.backbones.loading import load_backbone
from lost_reg.datasets.catalog import find_dataset
from lost_reg.runs.folder import read_run
from lost_reg.runs.options import LoaderOptions, RunOptions
from lost_reg.runs.run import run
from lost_reg.runs.sources import source_of_dataset


@pytest.fixture
def voc(tmp_path, make_voc):
    """Two images, of one and of two objects."""
    return make_voc(
        tmp_path / "voc", {"000001": [("a", 33, 17, 96, 64)], "000002": [("a", 1, 1, 50, 50)] * 2}
    )


@pytest.fixture
def tables(printed):
    """A function that gives what the script prints of a run folder."""
    return functools.partial(printed, objects)


def test_several_objects_are_scored(tmp_path, voc, tables):
    dataset = find_dataset(str(voc), tmp_path)
    options = RunOptions(loader=LoaderOptions(workers=0))
    backbone = load_backbone("tiny", device="cpu")
    run(source_of_dataset(dataset), backbone, tmp_path / "ours", setting(max_objects=3), options)
    output = tables(tmp_path / "ours")
    assert output.startswith("2 images of") and "with 3 objects" in output
    assert "| the whole image | 1 | 2 | 0 | 0.0 (0.0 to 0.0) | 0.0 (0.0 to 0.0) |" in output
    predictions = read_run(tmp_path / "ours").predictions
    counts = total(count_images({name: [one.box_xyxy] for name, one in predictions.items()}, dataset.truths))
    assert f"| ours | 1 | 2 | {counts.matched} | {100 * counts.precision:.1f} (" in output
    boxes = sum(len(one.objects) for one in predictions.values())
    assert f"| ours | 3 | {boxes} |" in output and f"| ours | 1 | 2 | {counts.matched} | " in output
    assert "| first | 2 | score |" in output and "| ours | plausible | " in output


def test_images_without_objects_and_methods_without_scores(tmp_path, voc, tables):
    found = [prediction("000001.jpg", (32, 16, 96, 64)), prediction("000002.jpg")]
    unscored = replace(found[0].objects[0], score=None, details={})
    found[0] = replace(found[0], objects=(unscored,))
    output = tables(
        write_predictions(tmp_path / "other", found, dataset=str(voc), method="other", options={})
    )
    assert "| other | 1 | 1 | 1 | 100.0 (" in output and "| other | plausible | 1 | 1 |" in output
    assert "| first | 1 | area |" in output
    assert "score" not in output and "degree" not in output
