"""`lost-reg probe`: from folders of classes to a table, and one line for what is wrong."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lost_reg.artifacts.records import RULES, read_artifacts
from lost_reg.probing import class_probe, logistic, tables
from lost_reg.probing.published import published_value
from lost_reg.probing.records import ProbeRecord, ProbeScore, read_outcomes, read_probe
from lost_reg.text import display_width

SMALL = ("--resize", 48, "--crop", 48, "--workers", 0)


@pytest.fixture(autouse=True)
def fewer_values_of_c(monkeypatch):
    monkeypatch.setattr(logistic, "CS", logistic.CS[16:33:8])


@pytest.fixture
def classes(tmp_path):
    """Ten images of each of two classes: dark and bright."""
    random = np.random.default_rng(0)
    for name, base in {"dark": 20, "bright": 160}.items():
        folder = tmp_path / "classes" / name
        folder.mkdir(parents=True)
        for index in range(20):
            pixels = base + random.integers(0, 60, (60, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index:02d}.png")
    return tmp_path / "classes"


def test_a_table_and_a_folder(lost_reg, classes, tmp_path):
    (classes / "dark" / "broken.png").write_text("no image")
    out = tmp_path / "out"
    result = lost_reg("probe", classes, "-b", "tiny", "--out", out, *SMALL)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == [
        "tokens",
        "classifier",
        "measure",
        "value",
        "95",
        "%",
        "interval",
        "chosen",
        "test",
        "without",
    ]
    assert lines[-1] == f"the probe is in {out}"
    assert max(map(display_width, tables.text_table(read_probe(out), 80).splitlines()[:3])) <= 80
    assert [line.split()[:4] for line in lines if line.startswith(("cls", "mean"))] == [
        ["cls", "logistic", "top-1", "100.0"], ["cls", "knn", "top-1", "100.0"],
        ["mean", "logistic", "top-1", "100.0"], ["mean", "knn", "top-1", "100.0"],
    ]  # fmt: skip
    assert (
        "2 classes, 30 training, 3 validation and 8 test images; splits: drawn with seed 0" in result.stderr
    )
    assert "1 of 41 images could not be used: dark/broken.png" in result.stderr
    record = read_probe(out)
    assert (
        record.label == "tiny"
        and record.dataset == str(classes)
        and list(record.failures) == ["dark/broken.png"]
    )
    assert [one.tokens for one in record.scores[::2]] == ["cls", "register", "normal", "outlier", "mean"]
    assert len(read_outcomes(out, record).rows) == 10
    assert {path.name for path in out.iterdir()} - {".lock"} == {"probe.json", "outcomes.npz"}


def test_scores_of_several_measures_are_one_table():
    score = ProbeScore("cls", "zero-shot", "top1", 0.5, (0.25, 0.75), train=0, val=0, test=8)
    other = replace(score, measure="mean_per_class", value=0.25)
    record = ProbeRecord("zero-shot", "pets", "openclip", 37, {}, [score, other])
    assert "Backbone" not in tables.text_table(replace(record, settings={"backbone": "openclip"}))
    labelled = replace(record, label="openclip (bf16)", settings={"backbone": "openclip"})
    assert tables.text_table(labelled).splitlines()[-1] == "Backbone: openclip (bf16)"
    header, _, *rows = tables.text_table(record).splitlines()
    assert "chosen" not in header and "without" not in header
    assert [row.split()[:4] for row in rows] == [
        ["cls", "zero-shot", "top-1", "50.0"], ["cls", "zero-shot", "per", "class"],
    ]  # fmt: skip


def test_json_and_csv(lost_reg, classes, tmp_path):
    chosen = ("-b", "tiny", "--tokens", "mean, cls", "--limit", 6, "--seed", 3, *SMALL)
    result = lost_reg("probe", classes, *chosen, "--out", tmp_path / "a", "--json")
    content = json.loads(result.stdout)
    assert [(one["tokens"], one["train"], one["published"]) for one in content["scores"][::2]] == [
        ("cls", 6, None),
        ("mean", 6, None),
    ]
    assert content["settings"]["limit"] == 6 and content["settings"]["seed"] == 3
    result = lost_reg("probe", classes, *chosen, "--out", tmp_path / "b", "--csv")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [(row["tokens"], row["classifier"]) for row in rows][1] == ("cls", "knn")
    assert float(rows[0]["value"]) == content["scores"][0]["value"]
    chosen = content["scores"][0]["chosen"], content["scores"][1]["chosen"]
    assert [row["chosen"] for row in rows[:2]] == [f"C {chosen[0]['C']:.3g}", f"k {chosen[1]['k']}"]


def test_test_time_registers_are_probed(lost_reg, classes, tmp_path):
    neurons = tmp_path / "neurons.json"
    neurons.write_text(json.dumps({"neurons": [[3, 1], [2, 70]]}))
    added = ("--test-time-registers", 1, "--register-neurons", neurons)
    model = ("-b", "timm:vit_tiny_patch16_224", "--weights", "random", "--tokens", "register")
    result = lost_reg("probe", classes, *model, *added, *SMALL, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    record = read_probe(tmp_path / "out")
    assert [one.tokens for one in record.scores] == ["register", "register"]
    assert record.settings["test_time_registers"]["count"] == 1


def test_a_cut_off_of_artifacts_is_taken(lost_reg, refused, classes, tmp_path):
    images, small = (classes / "dark", classes / "bright" / "00.png"), ("--max-side", 48, "--workers", 0)
    measured = lost_reg(
        "artifacts", *images, "-b", "tiny", "--layer", 1, *small, "--out", tmp_path / "artifacts"
    )
    assert measured.exit_code == 0, measured.output
    file = tmp_path / "artifacts" / "artifacts.json"
    (row,) = read_artifacts(file).backbones
    model = ("-b", "tiny", "--tokens", "normal", *SMALL)
    for more, layer, rule in (
        ((), 1, "sigma"),
        (("--layer", -1, "--outliers", "reference"), -1, "reference"),
    ):
        out = tmp_path / rule
        result = lost_reg("probe", classes, *model, "--cutoff", file, *more, "--out", out)
        assert result.exit_code == 0, result.output
        settings, cutoff = read_probe(out).settings, row.layers[layer].cutoffs[rule]
        assert settings["cutoff"] == pytest.approx(cutoff, rel=1e-4)
        assert (settings["layer"], settings["outliers"]) == (layer, "fixed")
        assert f"outliers have a norm above {cutoff:.5g}, {RULES[rule]} after layer {layer}" in result.stderr
    other = ("-b", "timm:vit_tiny_patch16_224", "--weights", "random", *SMALL, "--cutoff", file)
    assert "has no cut-off of timm:vit_tiny_patch16_224" in refused("probe", classes, *other)


def test_a_cut_off_that_cannot_be_used_is_one_line(refused, classes, tmp_path):
    for options, said, code in (
        (("--cutoff", 150), "a number as --cutoff is for --outliers fixed", 2),
        (("--outliers", "reference"), "give its artifacts.json as --cutoff", 2),
        (("--outliers", "fixed", "--cutoff", "inf"), "a finite --cutoff above 0", 1),
        (("--cutoff", tmp_path / "none.json"), "none.json: No such file", 1),
        (("--cutoff", classes / "dark" / "00.png"), "does not hold artifacts", 1),
    ):
        assert said in refused("probe", classes, "-b", "tiny", *SMALL, *options, exit_code=code)


def test_what_is_wrong_is_one_line(refused, lost_reg, classes, tmp_path):
    model = ("-b", "tiny", *SMALL)
    assert "unknown dataset 'nothing'" in refused("probe", "nothing", *model)
    missing = refused("probe", "cifar10", *model, "--data-root", tmp_path)
    assert "CIFAR-10 is not there" in missing and "--data-root" in missing and "--download gets it" in missing
    one = tmp_path / "one"
    (one / "cat").mkdir(parents=True)
    (classes / "dark" / "00.png").rename(one / "cat" / "a.png")
    assert "only the class 'cat': a probe needs at least two" in refused("probe", one, *model)
    assert "fewer training images than classes: 1 of 2" in refused("probe", classes, *model, "--limit", 1)
    without = ("-b", "timm:vit_tiny_patch16_224", "--weights", "random", "--tokens", "cls,register")
    assert "has no registers: choose other --tokens" in refused("probe", classes, *without, *SMALL)
    assert "at most --resize" in refused("probe", classes, "-b", "tiny", "--crop", 300)
    out = tmp_path / "out"
    assert lost_reg("probe", classes, *model, "--tokens", "cls", "--out", out).exit_code == 0
    assert "exists already: choose another --out" in refused("probe", classes, *model, "--out", out)
    assert "choose one of --json and --csv" in refused(
        "probe", classes, *model, "--json", "--csv", exit_code=2
    )


def test_the_same_command_continues(classes, tmp_path):
    """Stopped in the middle, in a process of its own; then given again."""
    script = tmp_path / "stopped.py"
    script.write_text(
        "import sys\n"
        "from lost_reg.cli.app import main\n"
        "from lost_reg.probing import extraction\n"
        "add, calls = extraction.TokenCache.add, []\n"
        "def stop(self, *args):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 3: raise KeyboardInterrupt\n"
        "    add(self, *args)\n"
        "extraction.TokenCache.add = stop\n"
        "main(sys.argv[1:])\n"
    )
    arguments = ["probe", str(classes), "-b", "tiny", "--tokens", "cls", *map(str, SMALL),
                 "--batch-size", "4", "--out", str(tmp_path / "out")]  # fmt: skip
    stopped = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True)
    assert stopped.returncode == 130 and "the same command continues" in stopped.stderr
    assert (tmp_path / "out" / "unfinished" / "tokens.bin").stat().st_size == 8 * (8 + 4 * 192)
    again = subprocess.run([sys.executable, "-m", "lost_reg", *arguments], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert read_probe(tmp_path / "out").scores[0].train == 29


def published_record(**changes) -> ProbeRecord:
    settings = {
        "weights": {"name": "facebook/dinov2-giant"}, "test_time_registers": None, "crop": 224, "limit": None,
        "apply_exif": False, "layer": -1, "outliers": "fixed", "cutoff": 150.0, **changes.pop("settings", {}),
    }  # fmt: skip
    facts = {"measure": "top1", "value": 0.9, "interval": (0.8, 1.0), "train": 9, "val": 1, "test": 9}
    scores = [ProbeScore(kind, "logistic", **facts) for kind in ("cls", "normal", "outlier", "mean")]
    fields = {"task": "classes", "dataset": "cub200", "label": "dinov2_vitg14", "classes": 200, **changes}
    return ProbeRecord(settings=settings, scores=scores, **fields)


def test_published_numbers_stand_beside_comparable_probes_only():
    def published(**changes):
        record = published_record(**changes)
        return [published_value(record, score) for score in record.scores]

    assert published() == pytest.approx([0.913, 0.186, 0.849, None])
    assert published(settings={"cutoff": 100.0}) == pytest.approx([0.913, None, None, None])
    for changes in (
        {"dataset": "sun397"},
        {"dataset": "/home/me/cub200"},
        {"settings": {"weights": {"name": "facebook/dinov2-large"}}},
        {"settings": {"test_time_registers": {"count": 1}}},
        {"settings": {"limit": 100}},
        {"settings": {"crop": 112}},
    ):
        assert published(**changes) == [None] * 4


def test_overwriting_removes_the_probe_and_nothing_else(lost_reg, refused, classes, tmp_path):
    out = tmp_path / "out"
    probe = ("probe", classes, "-b", "tiny", "--out", out, *SMALL, "--tokens", "mean")
    assert lost_reg(*probe).exit_code == 0
    (out / "mine.txt").write_text("mine")
    assert "choose another --out, or --overwrite it" in refused(*probe, "--seed", 1)
    assert lost_reg(*probe, "--seed", 1, "--overwrite").exit_code == 0
    assert read_probe(out).settings["seed"] == 1
    assert {path.name for path in out.iterdir()} == {".lock", "mine.txt", "probe.json", "outcomes.npz"}
    assert "unknown dataset" in refused("probe", "nothing", *probe[2:], "--overwrite")
    assert (out / "probe.json").is_file()
    (out / "probe.json").write_text('{"somebody": "else"}')
    text = refused(*probe, "--overwrite")
    assert "does not hold a probe" in text and "; delete it, or choose another --out" in text
    assert (out / "outcomes.npz").is_file()


def test_a_probe_stays_if_the_new_one_cannot_be_made(lost_reg, refused, classes, tmp_path):
    out = tmp_path / "out"
    probe = ("probe", classes, "-b", "tiny", "--out", out, *SMALL, "--tokens", "mean")
    assert lost_reg(*probe).exit_code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for more, text in (
        (("--layer", 99), "layer"),
        (("-b", "timm:vit_tiny_patch16_224", "--weights", "random", "--tokens", "register"), "register"),
        (("--limit", 1, "--tokens", "cls"), "class"),
    ):
        assert text in refused(*probe, *more, "--overwrite")
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_stopped_probe_that_replaces_one_is_continued(lost_reg, refused, classes, tmp_path, monkeypatch):
    out, real, scored = tmp_path / "out", class_probe._scored, []
    probe = ("probe", classes, "-b", "tiny", "--out", out, *SMALL, "--tokens", "mean,cls")
    assert lost_reg(*probe).exit_code == 0
    before = (out / "probe.json").read_bytes()

    def stop_at_the_second(kind, *args):
        if scored == ["cls"] or scored == ["mean"]:
            scored.append("stopped")
            raise KeyboardInterrupt
        scored.append(kind)
        return real(kind, *args)

    monkeypatch.setattr(class_probe, "_scored", stop_at_the_second)
    stopped = lost_reg(*probe, "--seed", 1, "--overwrite")
    assert stopped.stderr.endswith("the same command continues\n")
    assert (out / "probe.json").read_bytes() == before
    assert lost_reg(*probe, "--seed", 1, "--overwrite").exit_code == 0
    assert len(scored) == 3 and read_probe(out).settings["seed"] == 1
    assert not (out / "unfinished").exists()
