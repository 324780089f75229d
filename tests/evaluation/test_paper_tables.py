"""reproduce.py --tables all: published, measured and missing cells, from made-up measurements."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import helpers
import numpy as np
import paper_tables
import pytest
import reproduce
from artifact_cases import backbone_artifacts
from probe_cases import column, write_case

from lost_reg.artifacts.records import About, Artifacts, ProbeScores, write_artifacts
from lost_reg.backbones.zoo import find_spec
from lost_reg.cli.app import main
from lost_reg.runs.seals import sealed
from lost_reg.scoring.sweep_scores import score_sweep

LOGISTIC = ("cls", "logistic", "top1")
GIANT_AS_PUBLISHED = {
    "test_time_registers": None, "limit": None, "crop": 224, "apply_exif": False, "layer": -1,
    "outliers": "fixed", "cutoff": 150.0,
}  # fmt: skip


def backbone(name: str, **more) -> dict:
    """The settings of a probe or run of a backbone with its published weights."""
    spec = find_spec(name)
    weights = {"source": "hub", "name": spec.hub_ids[0], "sha256": "0" * 64}
    return {"backbone": spec.name, "weights": weights, "precision": "fp32", **more}


def outcomes(right: int, images: int) -> np.ndarray:
    return column(*[1] * right, *[0] * (images - right))


def sections(text: str) -> dict[str, str]:
    return dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL))


def lines_of(text: str, section: str) -> dict[tuple[str, str], list[str]]:
    """The cells of a section's table, by model and "published" or "measured"."""
    table = [line for line in sections(text)[section].splitlines() if line.startswith("|")][2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return {(model, kind): rest for model, kind, *rest in cells}


def commands_of(text: str) -> list[str]:
    return re.search(r"```bash\n(.*?)\n```", sections(text)["Not here"], flags=re.DOTALL)[1].splitlines()


def tables_of(out: Path, **more) -> str:
    return paper_tables.tables_text(out, **more)


# --- published ---------------------------------------------------------------------------------------

# typed in a second time, from Darcet et al. 2024 and Jiang et al. 2025
FIGURES = {
    "Object discovery: Darcet et al. 2024, table 3": {
        "DeiT-III ViT-B (IN-22k)": "11.7 13.1 10.7",
        "DeiT-III ViT-B (IN-22k) + registers": "27.1 32.7 25.1",
        "OpenCLIP ViT-B/16": "38.8 44.3 31.0",
        "OpenCLIP ViT-B/16 + registers": "37.1 42.0 27.9",
        "DINOv2 ViT-L (IN-22k)": "35.3 40.2 26.9",
        "DINOv2 ViT-L (IN-22k) + registers": "55.4 60.0 42.0",
    },
    "Object discovery: Jiang et al. 2025, table 5": {
        "DINOv2 ViT-L/14": "32.2 36.8 25.4",
        "DINOv2 ViT-L/14 + registers": "56.2 60.2 42.3",
        "DINOv2 ViT-L/14 + test-time register": "53.8 57.9 41.9",
        "OpenCLIP ViT-B/16": "30.8 35.9 23.4",
        "OpenCLIP ViT-B/16 + test-time register": "30.9 35.9 23.6",
    },
    "Classes from one token": {
        "DINOv2 ViT-g/14, cls": "86.0 66.4 87.3 99.4 94.5 91.3 96.9 91.5 85.2 99.7 94.7 96.9 78.6 89.1",
        "DINOv2 ViT-g/14, normal": "65.8 53.1 17.1 97.1 81.3 18.6 73.2 10.8 63.1 59.5 74.2 47.8 37.7 70.8",
        "DINOv2 ViT-g/14, outlier": "69.0 55.1 79.1 99.3 93.7 84.9 97.6 85.2 84.9 99.6 93.5 94.1 78.5 89.7",
    },
    "Linear evaluation": {
        "DeiT-III ViT-B (IN-22k)": "84.7 38.9 0.511",
        "DeiT-III ViT-B (IN-22k) + registers": "84.7 39.1 0.512",
        "OpenCLIP ViT-B/16": "78.2 26.6 0.702",
        "OpenCLIP ViT-B/16 + registers": "78.1 26.7 0.661",
        "DINOv2 ViT-L (IN-22k)": "84.3 46.6 0.378",
        "DINOv2 ViT-L (IN-22k) + registers": "84.8 47.9 0.366",
    },
    "Zero-shot classification": {"OpenCLIP ViT-B/16": "59.9", "OpenCLIP ViT-B/16 + registers": "60.1"},
    "Position and pixels of patches": {
        "DINOv2 ViT-g/14, normal": "41.7 0.79 18.38",
        "DINOv2 ViT-g/14, outlier": "22.8 5.09 25.23",
    },
    "Outliers": {"DINOv2 ViT-g/14": "2.37"},
}


def test_every_published_number_stands_in_its_table_and_nothing_is_measured_in_an_empty_folder(tmp_path):
    text = tables_of(tmp_path)
    for title, lines in FIGURES.items():
        found = lines_of(text, title)
        published = {model: " ".join(cells) for (model, kind), cells in found.items() if kind == "published"}
        assert published == lines
        measured = {cell for (_, kind), cells in found.items() if kind == "measured" for cell in cells}
        assert measured == {"not here"}
    assert sections(text).keys() == {*FIGURES, "Not here"}
    assert f"measurements in {tmp_path}: 0 probe.json, 0 sweep.json, 0 artifacts.json." in text


# --- measured ----------------------------------------------------------------------------------------


def test_class_probes_stand_beside_the_published_tokens(tmp_path):
    rows = {
        LOGISTIC: outcomes(9, 10),
        ("cls", "knn", "top1"): outcomes(1, 10),
        ("normal", "logistic", "top1"): outcomes(6, 10),
        ("outlier", "logistic", "top1"): None,
        ("mean", "logistic", "top1"): outcomes(2, 10),
    }
    giant = backbone("dinov2_vitg14", **GIANT_AS_PUBLISHED)
    write_case(tmp_path / "deep" / "giant", rows, label="dinov2_vitg14", **giant)
    small = backbone("dinov2_vits14", **GIANT_AS_PUBLISHED)
    both = {("cls", "knn", "top1"): outcomes(8, 10), LOGISTIC: outcomes(3, 10)}
    write_case(tmp_path / "small", both, label="dinov2_vits14", **small)
    found = lines_of(tables_of(tmp_path), "Classes from one token")
    cifar10 = {title: cells[3] for title, cells in found.items()}
    assert re.fullmatch(r"90\.0 \(59\.6 to 98\.2; 10 images\)", cifar10["dinov2_vitg14, cls", "measured"])
    assert cifar10["dinov2_vitg14, normal", "measured"].startswith("60.0 (")
    assert cifar10["dinov2_vitg14, outlier", "measured"] == "too few"
    assert cifar10["dinov2_vits14, cls", "measured"].startswith("30.0* (")
    assert not [title for title, _ in found if "mean" in title]
    assert found["dinov2_vitg14, cls", "measured"][:3] == ["not here"] * 3


def test_what_was_measured_otherwise_than_published_has_a_star_and_comes_second(tmp_path):
    """A probe with outliers by another rule, on more images; and one at random weights."""
    token = ("outlier", "logistic", "top1")
    giant = backbone("dinov2_vitg14", **GIANT_AS_PUBLISHED)
    name = "dinov2_vitg14, outlier", "measured"
    write_case(tmp_path / "a", {token: outcomes(5, 50)}, label="g", **{**giant, "outliers": "sigma"})
    assert lines_of(tables_of(tmp_path), "Classes from one token")[name][3].startswith("10.0* (")
    write_case(tmp_path / "b", {token: outcomes(5, 10)}, label="g", **giant)
    assert lines_of(tables_of(tmp_path), "Classes from one token")[name][3].startswith("50.0 (")
    random = {**giant, "weights": {"source": "random", "name": "random", "sha256": None}}
    write_case(tmp_path / "c", {token: outcomes(0, 10)}, label="g (RANDOM WEIGHTS)", **random)
    found = lines_of(tables_of(tmp_path), "Classes from one token")
    assert found[name][3].startswith("50.0 (")
    assert found["g (RANDOM WEIGHTS), outlier", "measured"][3].startswith("0.0* (")


def test_linear_evaluation_and_zero_shot_come_from_probes_of_their_tasks(tmp_path):
    dense, reg = ("patches", "linear"), backbone("dinov2_reg", **GIANT_AS_PUBLISHED)
    halves = np.array([[1.0, 2.0]] * 3)  # one class: half of its pixels in each image
    cases = {
        "ade20k": ({(*dense, "miou"): halves}, "segmentation"),
        "nyud": ({(*dense, "rmse"): column(0.25, 0.75)}, "depth"),
        "imagenet": ({LOGISTIC: outcomes(8, 10)}, "classes"),
    }
    for dataset, (rows, task) in cases.items():
        write_case(tmp_path / dataset, rows, task=task, dataset=dataset, label="dinov2_vitl14_reg", **reg)
    zero_shot = {("cls", "zero-shot", "top1"): outcomes(7, 10)}
    clip = {"task": "zero-shot", "dataset": "imagenet", "label": "openclip", **backbone("openclip")}
    write_case(tmp_path / "zero-shot", zero_shot, **clip)
    text = tables_of(tmp_path)
    linear = lines_of(text, "Linear evaluation")
    imagenet, ade20k, nyud = linear["dinov2_vitl14_reg", "measured"]
    assert imagenet.startswith("80.0 (") and ade20k == "50.0 (50.0 to 50.0; 3 images)"
    assert nyud == "0.500 (0.250 to 0.750; 2 images)"
    assert linear["openclip", "measured"][0] == "not here"
    assert lines_of(text, "Zero-shot classification")["openclip", "measured"][0].startswith("70.0 (")
    assert lines_of(text, "Classes from one token")["dinov2_vitl14_reg, cls", "measured"][0].startswith(
        "80.0*"
    )


def test_the_measurement_on_the_most_images_is_shown(tmp_path):
    for folder, right, images in (("a", 1, 10), ("b", 30, 40), ("c", 1, 20)):
        rows, facts = {("cls", "zero-shot", "top1"): outcomes(right, images)}, backbone("openclip")
        write_case(tmp_path / folder, rows, task="zero-shot", dataset="imagenet", label="openclip", **facts)
    (cell,) = lines_of(tables_of(tmp_path), "Zero-shot classification")["openclip", "measured"]
    assert cell.startswith("75.0 (") and cell.endswith("; 40 images)")


def write_giant(folder: Path, *, cutoff=150.0, **changed) -> None:
    row = backbone_artifacts("dinov2_vitg14")
    last = replace(row.layers[-1], shares={"sigma": 0.5, "fixed": 0.0241, "reference": None})
    few = ProbeScores(10, 12, tested_images=5, too_few="too few patches")
    outliers = replace(row.outliers, probes={"rest": row.outliers.probes["outliers"], "outliers": few})
    weights = backbone("dinov2_vitg14")["weights"]
    row = replace(row, weights=weights, layers=[*row.layers[:-1], last], outliers=outliers, **changed)
    folder.mkdir()
    write_artifacts(folder, Artifacts(About("dinov2_vitg14", -1, cutoff, "fixed"), [row]))


def test_positions_pixels_and_the_share_come_from_artifacts(tmp_path):
    write_giant(tmp_path / "a")
    text = tables_of(tmp_path)
    local = lines_of(text, "Position and pixels of patches")
    assert local["dinov2_vitg14, normal", "measured"] == [
        "25.0 (20.0 to 30.0; 40 images)",
        "3.50 (3.00 to 4.00; 40 images)",
        "12.25 (12.00 to 12.50; 40 images)",
    ]
    assert local["dinov2_vitg14, outlier", "measured"] == ["too few"] * 3
    assert lines_of(text, "Outliers")["dinov2_vitg14", "measured"] == ["2.41 (9 images)"]
    assert not [command for command in commands_of(text) if "artifacts" in command]


def test_another_cutoff_and_checkpoints_give_no_share(tmp_path):
    write_giant(tmp_path / "other", cutoff=140.0)
    assert lines_of(tables_of(tmp_path), "Outliers")["dinov2_vitg14", "measured"] == ["not here"]
    write_giant(tmp_path / "series", step=100)
    text = tables_of(tmp_path)
    assert lines_of(text, "Outliers")["dinov2_vitg14", "measured"] == ["not here"]
    assert [command for command in commands_of(text) if command.startswith("lost-reg artifacts")]


@pytest.fixture
def data(tmp_path, make_voc) -> Path:
    """A data root with twelve images as VOC07, each with one object."""
    objects = {f"{i:06}": [("thing", 33, 17, 96, 64)] for i in range(12)}
    make_voc(tmp_path / "data" / "VOCdevkit" / "VOC2007", objects)
    return tmp_path / "data"


def write_sweep(folder: Path, name: str, *, registers=None, dataset="voc07") -> Path:
    """A sweep of LOST as published, which finds all, and of two biases: the better one finds 9 of 12."""
    folder.mkdir(parents=True)
    tried = [helpers.setting(), *(helpers.setting(bias=bias, normalize=True) for bias in (-0.5, -0.25))]
    settings = helpers.run_settings(**backbone(name), dataset=dataset)
    del settings["features"], settings["options"], settings["method"]
    settings |= {"tried": [one.recorded() for one in tried], "test_time_registers": registers}
    record = {"settings": settings, "images": 12, "sessions": []}
    (folder / "sweep.json").write_text(json.dumps(sealed(record)))
    right, wrong = [32, 16, 96, 64], [100, 80, 101, 81]
    boxes = [
        [right, right if index < 2 else wrong, wrong if index in (3, 5, 7) else right] for index in range(12)
    ]
    names = [f"{index:06}.jpg" for index in range(12)]
    lines = ({"image": one, "size_hw": [96, 128], "boxes_xyxy": of_it} for one, of_it in zip(names, boxes))
    (folder / "boxes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_discovery_comes_from_sweeps_with_the_setting_that_reproduce_chooses(data, tmp_path):
    out = tmp_path / "out"
    registers = {"count": 1, "rule": "paper", "neurons": [[3, 5]]}
    plain = write_sweep(out / "plain", "dinov2")
    write_sweep(out / "test-time", "dinov2", registers=registers)
    write_sweep(out / "two", "openclip", registers={**registers, "count": 2})
    write_sweep(out / "dino", "dino")
    text = tables_of(out, root=data)
    darcet, jiang = (lines_of(text, title) for title in list(FIGURES)[:2])
    chosen = reproduce.chosen_of(score_sweep(plain, root=data, seed=0))
    expected = f"{100 * chosen.found / 11:.1f} ("
    for table, name in (
        (darcet, "dinov2_vitl14"),
        (jiang, "dinov2_vitl14"),
        (jiang, "dinov2_vitl14+test-time"),
    ):
        voc07, *others = table[name, "measured"]
        assert voc07.startswith(expected) and voc07.endswith("; 11 images)") and others == ["not here"] * 2
    assert not expected.startswith("100")  # LOST as published found all, but is not to choose from
    assert ("dino_vits16", "measured") in darcet and ("dino_vits16", "measured") not in jiang
    assert jiang["openclip+test-time", "measured"] == ["not here"] * 3
    (two,) = (name for name, _ in darcet if "test-time registers" in name)
    assert two.startswith("openclip (") and darcet[two, "measured"][0].startswith(expected)


# --- missing -----------------------------------------------------------------------------------------


def test_every_command_for_what_is_missing_parses_and_goes_once_it_is_there(
    data, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    before = commands_of(tables_of(out, root=data))
    assert len(before) == len({*before})
    for words in map(shlex.split, before):
        assert words[words.index("--out") + 1].startswith(str(out))
        if words[0] == "lost-reg":
            main.commands[words[1]].make_context(words[1], words[2:])
        else:
            monkeypatch.setattr("sys.argv", words[1:])
            assert reproduce.parse().datasets == ["voc07", "voc12", "coco20k"]
    tasks = [words[words.index("--task") + 1] for words in map(shlex.split, before) if "--task" in words]
    assert {task: tasks.count(task) for task in tasks} == {
        "classes": 14 + 4, "segmentation": 4, "depth": 4, "zero-shot": 1,
    }  # fmt: skip
    write_sweep(out / "dinov2-voc07", "dinov2")
    facts = {"task": "zero-shot", "dataset": "imagenet", "label": "openclip", **backbone("openclip")}
    write_case(out / "zero-shot", {("cls", "zero-shot", "top1"): outcomes(7, 10)}, **facts)
    after = commands_of(tables_of(out, root=data))
    gone, new = {*before} - {*after}, {*after} - {*before}
    assert sorted(command.split()[0] for command in gone) == ["lost-reg", "python"]
    (rest,) = new
    assert f"--backbones dinov2 --datasets voc12 coco20k --data-root {data}" in rest


def test_what_cannot_be_used_is_listed_and_the_rest_is_shown(data, tmp_path):
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "probe.json").write_text("{")
    write_sweep(tmp_path / "elsewhere", "dinov2")
    write_sweep(tmp_path / "own", "dinov2", dataset=str(data))  # in no table
    facts = {"task": "zero-shot", "dataset": "imagenet", "label": "openclip", **backbone("openclip")}
    write_case(tmp_path / "zero-shot", {("cls", "zero-shot", "top1"): outcomes(7, 10)}, **facts)
    write_case(tmp_path / "bare", {LOGISTIC: outcomes(7, 10)}, weights={})
    text = tables_of(tmp_path, root=tmp_path / "none")
    bare, damaged, elsewhere = sections(text)["Could not be used"].strip().splitlines()
    assert "bare/probe.json: its settings are incomplete" in bare
    assert "does not hold a probe" in damaged and "elsewhere/sweep.json" in elsewhere
    assert lines_of(text, "Zero-shot classification")["openclip", "measured"][0].startswith("70.0 (")
    assert "3 probe.json, 2 sweep.json, 0 artifacts.json" in text


# --- the script --------------------------------------------------------------------------------------


def test_the_script_writes_the_tables_and_computes_nothing(tmp_path, printed):
    text = printed(reproduce, "--out", tmp_path / "out", "--tables", "all")
    assert text == (tmp_path / "out" / "tables.md").read_text() == tables_of(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tables.md"]


@pytest.mark.parametrize("option", [("--backbones", "tiny"), ("--weights", "random"), ("--limit", "3")])
def test_options_of_the_work_are_refused_where_nothing_is_computed(option, tmp_path, printed, capsys):
    with pytest.raises(SystemExit):
        printed(reproduce, "--out", tmp_path / "out", "--tables", "all", *option)
    assert "--tables all computes nothing: leave out" in capsys.readouterr().err
