"""Another discovery method, a few lines long, through every command: what it takes to add one."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, make_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from lost_reg import discover, list_methods
from lost_reg.backbones.loading import load_backbone
from lost_reg.cli.app import main
from lost_reg.discovery.features import FeatureConfig, PatchFeatures, option
from lost_reg.discovery.method import Deferred, Method, PatchObject, Preset
from lost_reg.discovery.methods import METHODS
from lost_reg.runs.folder import read_run
from lost_reg.runs.map_files import read_maps

# --- the method --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ToyConfig:
    margin: int = option(1, "Patches by which the box is larger on each side.", min=0)
    least: float = option(0.0, "Nothing is found in images whose largest norm is below.")


def discover_toy(features: PatchFeatures, config: ToyConfig) -> Deferred:
    """The patch of largest norm, grown by a margin; its norm is the score."""
    norms, patches = features.values.norm(dim=2).max(dim=1)  # each (B,)
    return lambda: [
        [grown(patch, norm, features.grid_hw, config.margin)] if norm >= config.least else []
        for patch, norm in zip(patches.tolist(), norms.tolist())
    ]


def grown(patch: int, norm: float, grid_hw: tuple[int, int], margin: int) -> PatchObject:
    (rows, columns), (row, column) = grid_hw, divmod(patch, grid_hw[1])
    xmin, ymin = max(0, column - margin), max(0, row - margin)
    xmax, ymax = min(columns, column + margin + 1), min(rows, row + margin + 1)
    return PatchObject(
        (xmin, ymin, xmax, ymax), (row, column), norm, {"patches": (xmax - xmin) * (ymax - ymin)}
    )


TOY = Method(
    name="toy",
    title="Toy",
    about="the patch of largest norm, grown by a margin",
    config=ToyConfig,
    discover=discover_toy,
    operations=lambda patches, width, config: 2.0 * patches * width,
    peak_bytes=lambda images, patches: 4.0 * images * patches,
    main_option="margin",
    presets={"published": Preset("nowhere", FeatureConfig(center=True), ToyConfig())},
)

# --- what it finds, in plain numpy -------------------------------------------------------------------------


def plain_boxes(root: Path, margin: int) -> dict[str, tuple[tuple[int, ...], tuple[int, int], float]]:
    """Box in pixels, seed and norm by the name of each image."""
    backbone, found = load_backbone("tiny", device="cpu"), {}
    for path in sorted(root.rglob("*.jpg")):
        pixels = (np.asarray(Image.open(path)) / 255 - backbone.mean) / backbone.std
        features = backbone.features(torch.tensor(pixels).permute(2, 0, 1)[None].float())[0].double().numpy()
        norms = np.linalg.norm(features - features.mean(axis=0), axis=1).reshape(6, 8)
        row, column = map(int, np.unravel_index(norms.argmax(), norms.shape))
        box = column - margin, row - margin, column + margin + 1, row + margin + 1
        clipped = tuple(16 * int(side) for side in np.clip(box, 0, (8, 6, 8, 6)))
        found[path.name] = clipped, (row, column), float(norms.max())
    return found


def plain_corloc(boxes, truths) -> float:
    found = 0
    for name, (xmin, ymin, xmax, ymax) in truths.items():
        left, top, right, bottom = boxes[name][0]
        overlap = max(0, min(right, xmax) - max(left, xmin)) * max(0, min(bottom, ymax) - max(top, ymin))
        union = (right - left) * (bottom - top) + (xmax - xmin) * (ymax - ymin) - overlap
        found += overlap / union >= 0.5
    return 100 * found / len(truths)


# --- the commands ------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(METHODS, "toy", TOY)


@pytest.fixture
def truths(tmp_path, make_voc):
    """Eight images of voc07 in which the boxes of margin 1 are the objects: by name."""
    folder = tmp_path / "root" / "VOCdevkit" / "VOC2007"
    stems = [f"{number:06}" for number in range(8)]
    make_voc(folder, {stem: [] for stem in stems})
    boxes = {name: box for name, (box, _, _) in plain_boxes(folder, 1).items()}
    as_voc = {
        stem: (lambda x, y, *end: ("thing", x + 1, y + 1, *end))(*boxes[f"{stem}.jpg"]) for stem in stems
    }
    make_voc(folder, {stem: [thing] for stem, thing in as_voc.items()})
    return boxes


@pytest.fixture
def lost_reg(tmp_path, monkeypatch):
    """Run `lost-reg ARGS...` where the data root is; what it prints."""
    monkeypatch.setenv("LOST_REG_DATA", str(tmp_path / "root"))
    monkeypatch.chdir(tmp_path)

    def invoke(text: str) -> str:
        result = CliRunner().invoke(main, text.split(), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    return invoke


@pytest.fixture
def refused(lost_reg):
    """Run `lost-reg ARGS...`, which fails with one line, and perhaps a table; that line."""

    def invoke(text: str) -> str:
        result = CliRunner().invoke(main, text.split(), catch_exceptions=False)
        assert result.exit_code, result.output
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        return line.removeprefix("Error: ")

    return invoke


def test_it_is_listed_with_its_options(lost_reg):
    assert list_methods()["toy"] == TOY.about
    assert "toy" in lost_reg("methods")
    text = " ".join(lost_reg("run --help").split())
    assert "--margin" in text and "Patches by which the box is larger on each side. [toy; default: 1]" in text


def test_it_is_called_from_python_by_its_options(truths, tmp_path):
    root = tmp_path / "root"
    backbone = load_backbone("tiny", device="cpu")
    paths = sorted(root.rglob("*.jpg"))
    for method, margin in [("toy", 1), (ToyConfig(margin=2), 2)]:  # on its own published features
        expected = plain_boxes(root, margin)
        for path, found in zip(paths, discover(paths, backbone, method)):
            box, seed, norm = expected[path.name]
            (one,) = found.objects
            assert (one.box_xyxy, one.seed) == (box, seed) and one.score == pytest.approx(norm, rel=1e-4)
    assert all(found.objects == () for found in discover(paths, backbone, ToyConfig(least=1e9)))


def test_a_run_is_recorded_continued_and_drawn(lost_reg, refused, truths, tmp_path):
    run = "run --dataset voc07 --method toy --margin 2 --save-maps --visualize --out run"
    lost_reg(f"{run} --limit 3")
    for other in ("--margin 0", "--margin 2 --least 1", "--margin 2 --no-center", "--margin 2 --layer -2"):
        text = refused(f"run --dataset voc07 --method toy {other} --out run --resume")
        assert "holds a run with other settings" in text
    assert "other settings (bias, center, k_patches, " in refused("run --dataset voc07 --out run --resume")
    lost_reg(f"{run} --resume")
    found = read_run(tmp_path / "run")
    assert found.settings["method"] == "toy" and found.settings["options"] == {"margin": 2, "least": 0.0}
    assert found.settings["features"]["center"] is True
    expected = plain_boxes(tmp_path / "root", 2)
    assert list(found.predictions) == list(expected) and found.failures == {}
    for name, (box, seed, norm) in expected.items():
        (one,) = found.predictions[name].objects
        assert (tuple(one.box_xyxy), one.seed) == (box, seed) and one.score == pytest.approx(norm, rel=1e-4)
        assert one.details == {"patches": (box[2] - box[0]) * (box[3] - box[1]) // 256}
        maps = read_maps(tmp_path / "run" / "maps" / f"{name}.npz")
        assert list(maps.values) == ["norms"] and maps.seed == seed and maps.values["norms"].shape == (6, 8)
        with Image.open(tmp_path / "run" / "pictures" / name) as picture:
            assert picture.size == (128, 96)


def test_its_types_need_not_be_postponed(lost_reg, refused, truths, tmp_path, monkeypatch):
    """In a module without `from __future__ import annotations`, the type of a field is no text."""
    fields = [("margin", int, option(1, "Patches.", min=0)), ("least", float, option(0.0, "Norm."))]
    config = make_dataclass("ToyConfig", fields, frozen=True)
    presets = {"published": Preset("nowhere", FeatureConfig(center=True), config())}
    monkeypatch.setitem(METHODS, "toy", replace(TOY, config=config, presets=presets))
    lost_reg("run --dataset voc07 --method toy --margin 2 --least 0.5 --out run")
    assert read_run(tmp_path / "run").settings["options"] == {"margin": 2, "least": 0.5}
    assert "'much' is not a valid integer" in refused(
        "run --dataset voc07 --method toy --margin much --out a"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--method toy --k-patches 9", "the method toy has no option --k-patches"),
        ("--method toy --bias auto", "the method toy has no option --bias"),
        ("--margin 2", "the method lost has no option --margin: it belongs to --method toy"),
        ("--method toy --margin -1", "-1 is not in the range x>=0"),
        ("--method toy --margin much", "'much' is not a valid integer"),
        ("--method toy --preset best", "stands for the method spread with this backbone: leave out --method"),
    ],
)
def test_options_that_it_does_not_have_are_refused(refused, truths, tmp_path, options, words):
    assert words in refused(f"run --dataset voc07 {options} --out run")
    assert not (tmp_path / "run").exists()


def test_a_sweep_over_its_option_chooses_the_best(lost_reg, refused, truths, tmp_path):
    sweep = "sweep --dataset voc07 --method toy --layer -1 --normalize no --center yes --tune-fraction 0.5"
    lost_reg(f"{sweep} --margin=0,1,2 --out swept --limit 3")
    assert "other settings" in refused(f"{sweep} --margin=0,1 --out swept --resume")
    table = lost_reg(f"{sweep} --margin=0,1,2 --out swept --resume")
    published = next(line for line in table.splitlines() if line.startswith("Toy as published"))
    assert "LOST" not in table and "margin 1" in published  # the main option is named at its default, too
    scores = json.loads(lost_reg(f"{sweep} --margin=0,1,2 --out swept --resume --json"))
    assert [one["options"] for one in scores["settings"]] == [{"margin": m, "least": 0.0} for m in (0, 1, 2)]
    assert (scores["chosen"], scores["hindsight"], scores["images_tuned"], scores["images_scored"]) == (
        1,
        1,
        4,
        4,
    )
    for margin, one in enumerate(scores["settings"]):
        expected = plain_corloc(plain_boxes(tmp_path / "root", margin), truths)
        assert (one["tuned"] + one["found"]) / 8 * 100 == expected
    assert scores["settings"][1]["corloc"] == 100 > scores["settings"][0]["corloc"]
    rows = list(csv.DictReader(io.StringIO(lost_reg(f"{sweep} --margin=0,1,2 --out swept --resume --csv"))))
    assert [(row["method"], row["margin"]) for row in rows] == [("toy", "0"), ("toy", "1"), ("toy", "2")]
    assert "the method toy has no option --bias" in refused(f"{sweep} --bias 0 --out other")
    for value in ("much", "1.5", "true"):
        assert "margin" in refused(f"{sweep} --margin={value} --out other")
    assert not (tmp_path / "other").exists()


@pytest.fixture
def results(lost_reg, truths, tmp_path):
    """A folder with two runs of it, one that finds nothing, and one of LOST."""
    for options in ("--margin 1", "--margin 2 --save-maps", "--least 1e9 --save-maps"):
        name = options.split()[0].strip("-") + options.split()[1]
        lost_reg(f"run --dataset voc07 --method toy {options} --out results/{name}")
    lost_reg("run --dataset voc07 --out results/lost")
    return tmp_path / "results"


def test_its_runs_are_scored_compared_exported_and_shown(
    results, lost_reg, refused, truths, tmp_path, monkeypatch
):
    at_2 = plain_corloc(plain_boxes(tmp_path / "root", 2), truths)
    assert at_2 < 100
    labels = {
        "margin1": "tiny (toy)",
        "margin2": "tiny (toy, margin=2)",
        "least1e9": "tiny (toy, least=1000000000.0)",
        "lost": "tiny",
    }
    rows = {Path(row["path"]).name: row for row in json.loads(lost_reg("corloc results --json"))}
    assert {name: row["backbone"] for name, row in rows.items()} == labels
    assert [rows[name]["corloc"] for name in ("margin1", "margin2", "least1e9")] == [100, at_2, 0]

    compared = json.loads(lost_reg("compare results/margin1 results/margin2 --json"))
    assert compared["differences"] == [{"setting": "margin", "a": 1, "b": 2}]
    assert compared["total"]["difference"] == at_2 - 100
    text = lost_reg("compare results/margin1 results/lost")
    assert "tiny (toy)" in text and "toy   lost" in text  # the methods, among what differs

    lost_reg("export results/margin2 --to csv --out boxes.csv")
    exported = list(csv.DictReader((tmp_path / "boxes.csv").open()))
    expected = plain_boxes(tmp_path / "root", 2)
    assert [row["image"] for row in exported] == list(expected)
    for row in exported:
        box, _, norm = expected[row["image"]]
        assert tuple(float(row[side]) for side in ("xmin", "ymin", "xmax", "ymax")) == box
        assert float(row["score"]) == pytest.approx(norm, rel=1e-4) and row["degree"] == ""
    assert "no boxes" in refused("export results/least1e9 --to csv --out nothing.csv")

    sweep = "sweep --dataset voc07 --method toy --layer -1 --normalize no --center yes --tune-fraction 0.5"
    lost_reg(f"{sweep} --margin=0,1,2 --out results/swept")
    lost_reg("report results --out report")
    page = (tmp_path / "report" / "index.html").read_text()
    assert all(label in page for label in labels.values())
    assert "margin" in page and "tiny (toy) on voc07 trainval" in page  # the sweep's curve, over the margin

    monkeypatch.delitem(METHODS, "toy")  # a run of a method that is not installed
    again = {Path(row["path"]).name: row for row in json.loads(lost_reg("corloc results --json"))}
    assert {name: row["corloc"] for name, row in again.items()} == {
        name: row["corloc"] for name, row in rows.items()
    }
    assert again["margin2"]["backbone"] == "tiny (toy, center=True, margin=2, least=0.0)"
    lost_reg("compare results/margin1 results/lost")
    lost_reg("report results --out report-2")
