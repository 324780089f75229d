"""The scripts of evaluation/ run, and what they report is so."""

from __future__ import annotations

import contextlib
import functools
import json
import sys

import agreement
import benchmark
import harness
import how_long
import interrupted_runs
import numpy as np
import objects
import plain
import pytest
import reproduce
import scale
import torch
import trials
from detection import count_images, total
from helpers import found_object, prediction, setting
from PIL import Image

from lost_reg.artifacts.neuron_search import SearchOptions
from lost_reg.backbones.loading import load_backbone
from lost_reg.datasets.catalog import Dataset, find_dataset
from lost_reg.runs.discover import discover
from lost_reg.runs.folder import read_run
from lost_reg.runs.run import run
from lost_reg.runs.sources import source_of_dataset
from lost_reg.scoring.published import published_rows
from lost_reg.scoring.sweep_scores import FoundByImage, SettingScore, SweepScores


@pytest.fixture
def printed(monkeypatch, capsys):
    """A function that runs a script and gives what it prints."""

    def run_main(module, *arguments) -> str:
        monkeypatch.setattr(sys, "argv", [module.__file__, *map(str, arguments)])
        module.main()
        return capsys.readouterr().out

    return run_main


@pytest.fixture
def small_photos(monkeypatch):
    monkeypatch.setattr(harness, "PHOTO_SIZES", {(50, 38): 1, (64, 48): 1})


@pytest.fixture
def files(tmp_path):
    """Smooth colours, in two sizes."""
    paths = [tmp_path / f"{index}.jpg" for index in range(6)]
    for index, path in enumerate(paths):
        colours = np.random.default_rng(index).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        size_wh = (120, 90) if index % 2 else (90, 100)
        Image.fromarray(colours).resize(size_wh, Image.Resampling.BICUBIC).save(path, quality=95)
    return paths


# --- what the scripts share --------------------------------------------------------------------------


def test_rounds_take_turns_and_ratios_are_taken_within_them():
    order = []

    def task(name, values):
        return lambda: (order.append(name), next(values))[1]

    tasks = {"a": task("a", iter([2.0, 3.0, 8.0])), "b": task("b", iter([1.0, 2.0, 2.0]))}
    taken = harness.measure_rounds(tasks, 3)
    assert order == ["a", "b"] * 3
    assert taken == {"a": [2.0, 3.0, 8.0], "b": [1.0, 2.0, 2.0]}
    ratios = harness.ratios(taken["a"], taken["b"])
    assert harness.median_and_range(ratios) == "2.00 (1.50 to 4.00)"


def test_a_table_keeps_its_columns_whatever_the_cells_hold():
    assert harness.markdown_table(["a|b", "c"], [["x|y", 1]]) == "| a/b | c |\n|---|---|\n| x/y | 1 |"


@pytest.mark.parametrize("script", [agreement, benchmark, how_long, reproduce, trials])
def test_a_device_that_does_not_exist_is_one_line(script, monkeypatch):
    monkeypatch.setattr(sys, "argv", [script.__file__, "--out", "nowhere", "--device", "abacus"])
    with pytest.raises(SystemExit) as ended:
        harness.run_script(script.main)
    message = ended.value.code
    assert message.startswith("Error: device 'abacus' cannot be used") and "\n" not in message


# --- agreement.py and plain.py -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["tiny", "dino_vits16", "dinov2_vits14", "dinov2_vits14_reg", "dinov3_vits16"]
)
def test_the_plain_pipeline_and_ours_find_the_same(files, name):
    backbone = load_backbone(name, weights="random", device="cpu")
    found = discover(files, backbone)
    expected = [plain.discover(path, backbone) for path in files]
    assert [one.box_xyxy for one in found] == [one.box_xyxy for one in expected]
    assert [one.objects[0].seed for one in found] == [one.seed for one in expected]


def rounding_can_give(features, seed: int, box) -> bool:
    """Whether rounding can make this the seed and box of patches in a row, each 10 pixels wide."""
    size_hw, grid_hw = (10, 10 * len(features)), (1, len(features))
    expected = plain.lost(torch.tensor(features), grid_hw, size_hw, 10)
    found = prediction("a", found_object(box, seed=(0, seed)), size_hw=size_hw, grid_hw=grid_hw)
    return agreement.rounding_can_decide(expected, found, key_error=1e-6, patch=10)


def test_a_result_within_rounding_is_told_from_one_that_is_not():
    # Affinities (1 1 -1; 1 1 -1; -1 -1 1): degrees 1, 1 and 0, far from any rounding
    clear = [[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0]]
    assert rounding_can_give(clear, 2, (20, 0, 30, 10))
    assert not rounding_can_give(clear, 0, (0, 0, 20, 10))
    assert not rounding_can_give(clear, 2, (10, 0, 30, 10))


def test_an_affinity_within_rounding_of_zero_can_decide_the_box():
    # Of the first two, degrees are 1 and 2, or 0 and 1 where rounding makes their affinity negative: then the
    # second is not in S, nor in the mask.
    near = [[1.0, 0.0], [1e-7, 1.0], [-1.0, 0.5]]
    assert rounding_can_give(near, 0, (0, 0, 20, 10)) and rounding_can_give(near, 0, (0, 0, 10, 10))
    assert not rounding_can_give(near, 0, (0, 0, 30, 10))
    far = [[1.0, 0.0], [1e-2, 1.0], [-1.0, 0.5]]
    assert rounding_can_give(far, 0, (0, 0, 20, 10)) and not rounding_can_give(far, 0, (0, 0, 10, 10))
    assert not rounding_can_give(far, 1, (0, 0, 20, 10))


def test_agreement_prints_its_tables(tmp_path, make_voc, printed):
    make_voc(tmp_path / "voc", {"000001": [("thing", 33, 17, 96, 64)], "000002": [("thing", 1, 1, 50, 50)]})
    output = printed(agreement, "--dataset", tmp_path / "voc", "--backbone", "tiny", "--device", "cpu")
    assert "| 100.0 % | 100.0 % | 100.0 % | 0 of 0 |" in output
    assert "| batches of 8, 4 workers | 100.0 % |" in output
    assert "| fp16, planted tokens |" in output


# --- speed and memory --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "plain_rows"), [("fp32", ["plain"]), ("bf16", ["plain, bf16", "plain, fp32"])]
)
def test_the_benchmark_prints_its_table(precision, plain_rows, small_photos, monkeypatch, printed):
    monkeypatch.setitem(benchmark.BATCH_SIZES, "cpu", (1, 2))
    monkeypatch.setitem(benchmark.MATRIX_SIDE, "cpu", 64)
    arguments = "--device cpu --backbone tiny --images 3 --plain-images 1 --rounds 2 --batch-size 2"
    output = printed(benchmark, *arguments.split(), "--precision", precision)
    assert "| end to end, batch 2 |" in output and "LOST is " in output
    names = [line.split("|")[1].strip() for line in output.splitlines() if line.startswith("| plain")]
    assert names == plain_rows


def test_the_cost_of_a_sweep_is_a_ratio_to_one_setting(small_photos, monkeypatch, printed):
    times = iter([2.0, 3.0, 4.0, 10.0])  # of one setting and of all, in two rounds
    monkeypatch.setattr(benchmark, "seconds", lambda work, device: work() and next(times))
    arguments = "--sweep --device cpu --backbone tiny --images 2 --rounds 2"
    output = printed(benchmark, *arguments.split())
    assert "168 settings take 2.00 (1.50 to 2.50) times as long as one; one takes 1.50 s an image" in output


def test_the_start_is_timed_in_processes(small_photos, monkeypatch, printed):
    monkeypatch.setattr(benchmark, "STARTS", 1)
    commands = []
    monkeypatch.setattr(benchmark, "run_process", lambda *command: commands.append(command))
    monkeypatch.setattr(benchmark, "run_lost_reg", lambda *command: commands.append(command))
    output = printed(benchmark, "--startup", "--device", "cpu")
    assert "| lost-reg run on one image, tiny |" in output
    assert len(commands) == 5 and commands[-1][2:4] == ("--backbone", "tiny")


def test_trials_are_set_beside_what_is_used(monkeypatch, printed):
    @contextlib.contextmanager
    def processes(options, precision):
        yield {"as used": iter([1.0, 1.0, 3.0]).__next__, "kept memory": iter([0.5, 1.0, 1.0]).__next__}

    monkeypatch.setattr(trials, "SIZE_HW", (32, 48))
    monkeypatch.setattr(torch, "compile", lambda function: function)  # it takes half a minute
    monkeypatch.setattr(trials, "in_own_processes", processes)
    arguments = "--device cpu --backbone tiny --precision fp32 --rounds 3 --batch-size 2"
    output = printed(trials, *arguments.split())
    assert "| compiled | " in output and "| kept memory | 2.00 (1.00 to 3.00) |" in output
    assert "matrix products" in output.splitlines()[-1]


def test_attention_head_by_head_is_attention(monkeypatch):
    monkeypatch.setattr(trials, "ROWS", 3)
    queries, keys, values = torch.randn(3, 2, 4, 10, 8, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.scaled_dot_product_attention(queries, keys, values)
    with trials.HeadByHead():
        found = torch.nn.functional.scaled_dot_product_attention(queries, keys, values)
    assert torch.allclose(found, expected, atol=1e-6) and not torch.equal(found, expected)


def test_hours_are_what_the_measured_rates_make(small_photos, monkeypatch, printed):
    # two files in half a second: 4 images a second
    monkeypatch.setattr(how_long, "seconds", lambda work, device: work() and 0.5)
    output = printed(how_long, *["--device", "cpu", "--images", "2", "--backbones", "tiny", "tiny+test-time"])
    lines = output.splitlines()
    assert "tiny: 4.00 images/s" in lines
    hours = [count / 4 / 3600 for count in (5011, 11540, 19817)]
    row = "".join(f" {one:.2f} |" for one in [*hours, sum(hours)])
    assert f"| tiny |{row}" in lines and f"| tiny+test-time |{row}" in lines
    assert lines[-1] == "| all |" + "".join(f" {2 * one:.2f} |" for one in [*hours, sum(hours)])


def test_memory_is_measured_on_the_way(printed):
    sizes = ["--photos", 20, "--files", 1500, "--entries", 1100, "--shard-images", 1100]
    lines = printed(scale, *sizes).splitlines()
    assert [line for line in lines if line.startswith("Listing a folder of 1,500 files: ")]
    assert sum(line.startswith("`--resume` with all done: ") for line in lines) == 3
    last_rows = [line.split(" | ")[0] for line in lines if line.startswith(("| 20 |", "| 1,100 |"))]
    assert last_rows == ["| 20", "| 1,100", "| 1,100"]


# --- runs that something happens to ------------------------------------------------------------------


@pytest.fixture
def interrupted(tmp_path, save_scene):
    """A run of two images that nothing happened to, and a copy that is not complete."""
    for name, box_xyxy in {"a.png": (32, 16, 96, 64), "b.png": (0, 0, 40, 40)}.items():
        save_scene(tmp_path / "photos" / name, box_xyxy=box_xyxy)
    command = ["run", str(tmp_path / "photos"), "--backbone", "tiny", "--device", "cpu"]
    for name, more in (("reference", []), ("run", ["--limit", "1"])):
        with contextlib.suppress(SystemExit):
            interrupted_runs.lost_reg_command([*command, "--save-maps", "--out", str(tmp_path / name), *more])
    results = read_run(tmp_path / "reference")
    lines = (tmp_path / "reference" / "predictions.jsonl").read_bytes().splitlines()
    (tmp_path / "log").touch()
    return tmp_path / "run", interrupted_runs.Reference(tmp_path / "photos", results.folder, results, lines)


def test_an_interrupted_run_may_lack_images_until_its_end(interrupted):
    out, reference = interrupted
    interrupted_runs.check(out, interrupted_runs.Contents.of(out), reference)
    with pytest.raises(interrupted_runs.Lost, match="not those of an uninterrupted run"):
        interrupted_runs.check_end(out, reference, [])
    interrupted_runs.check_end(reference.folder, reference, ["--save-maps"])


def test_what_an_interrupted_run_loses_is_noticed(interrupted):
    out, reference = interrupted
    before = interrupted_runs.Contents.of(out)
    predictions, maps = out / "predictions.jsonl", out / "maps" / "a.png.npz"
    as_it_was = maps.read_bytes()

    def complaint() -> str:
        with pytest.raises(interrupted_runs.Lost) as lost:
            interrupted_runs.check(out, before, reference)
        return str(lost.value)

    reference.log.write_text("Traceback")
    assert "a traceback in" in complaint()
    maps.write_bytes((reference.folder / "maps" / "b.png.npz").read_bytes())
    assert "maps or a picture are damaged" in complaint()
    maps.write_bytes(as_it_was)
    wrong = reference.lines[1].replace(b'"degree": ', b'"degree": 1')
    predictions.write_bytes(before.predictions + wrong + b"\n")
    assert "a prediction differs" in complaint()
    predictions.write_bytes(before.predictions[:-9])
    assert "an earlier line was lost or altered" in complaint()
    assert interrupted_runs.has_half_line(out)


# --- objects.py --------------------------------------------------------------------------------------


def test_several_objects_are_scored(tmp_path, make_voc, printed):
    make_voc(tmp_path / "voc", {"000001": [("a", 33, 17, 96, 64)], "000002": [("a", 1, 1, 50, 50)] * 2})
    dataset = find_dataset(str(tmp_path / "voc"), tmp_path)
    backbone = load_backbone("tiny", device="cpu")
    run(source_of_dataset(dataset), backbone, tmp_path / "ours", setting(max_objects=3))
    output = printed(objects, tmp_path / "ours")
    assert output.startswith("2 images of") and "with 3 objects" in output
    assert "| the whole image | 1 | 2 | 0 | 0.0 (0.0 to 0.0) | 0.0 (0.0 to 0.0) |" in output
    predictions = read_run(tmp_path / "ours").predictions
    counts = total(count_images({name: [one.box_xyxy] for name, one in predictions.items()}, dataset.truths))
    assert f"| ours | 1 | 2 | {counts.matched} | {100 * counts.precision:.1f} (" in output
    boxes = sum(len(one.objects) for one in predictions.values())
    assert f"| ours | 3 | {boxes} |" in output and f"| ours | 1 | 2 | {counts.matched} | " in output
    assert "| first | 2 | score |" in output and "| ours | plausible | " in output


# --- reproduce.py ------------------------------------------------------------------------------------


@pytest.fixture
def small_voc(tmp_path, make_voc):
    objects = {f"{i:06}": [("thing", 33, 17, 96, 64)] for i in range(12)}
    return make_voc(tmp_path / "voc", objects)


@pytest.fixture
def reproduced(printed, monkeypatch):
    """A function that runs reproduce.py with three biases and gives what it prints."""
    monkeypatch.setattr(reproduce, "BIASES", "-0.5:0:0.5")
    return functools.partial(printed, reproduce, "--device", "cpu", "--workers", "0")


def test_reproduce_writes_its_table_continues_and_lists_what_is_missing(
    small_voc, tmp_path, monkeypatch, reproduced
):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    out = tmp_path / "out"
    arguments = ["--out", out, "--backbones", "tiny", "dino_vits8_300ep", "tiny+test-time",
                 "--datasets", small_voc, "voc07", "--data-root", tmp_path]  # fmt: skip
    text = reproduced(*arguments)
    assert text == (out / "reproduce.md").read_text()
    assert "| tiny | LOST as published, all images | k of layer -1, raw, bias 0 | 12 |" in text
    assert "| tiny | chosen on a tenth, on the rest | k of layer " in text and "normalised" in text
    assert "| tiny | BEST IN HINDSIGHT on that rest |" in text
    assert "- dataset voc07: " in text and "`lost-reg datasets --download voc07" in text
    assert "- backbone dino_vits8_300ep: no hub carries" in text
    assert "- tiny+test-time on voc: tiny was trained with 4 registers" in text
    boxes = (out / "tiny-voc" / "boxes.jsonl").read_bytes()
    assert reproduced(*arguments) == text
    assert (out / "tiny-voc" / "boxes.jsonl").read_bytes() == boxes


def test_reproduce_labels_random_weights_and_limits(small_voc, tmp_path, reproduced):
    text = reproduced(
        "--out", tmp_path / "out", "--backbones", "tiny", "--datasets", small_voc,
        "--weights", "random", "--limit", "10",
    )  # fmt: skip
    assert "RANDOM WEIGHTS: these numbers mean nothing" in text and "| tiny (RANDOM WEIGHTS) |" in text
    assert "Only the first 10 images" in text
    assert "| 10 |" in text and "| 9 |" in text


def swept_scores(found, tuning, folder):
    """Scores of LOST as published and of two settings more, by which images each finds."""
    found, tuning = np.array(found, bool), np.array(tuning, bool)
    tried = [setting(), setting(bias=-0.1, normalize=True), setting(bias=-0.2, normalize=True)]
    settings = tuple(
        SettingScore(one.recorded(), int(row[tuning].sum()), int(row[~tuning].sum()))
        for one, row in zip(tried, found)
    )
    images = tuple(f"{index}.jpg" for index in range(len(tuning)))
    return SweepScores(
        folder, "b", "voc07", "trainval", int(tuning.sum()), int((~tuning).sum()), 0, 0, 0.1, 0, settings,
        FoundByImage(images, found, tuning),
    )  # fmt: skip


def planted_cells(tmp_path):
    dataset = Dataset("voc07", "trainval", tmp_path, ("a",) * 5, 5, list)
    tuning = [1, 0, 0, 0, 0]
    a = swept_scores([[0, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 1, 0]], tuning, tmp_path)
    b = swept_scores([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1], [0, 0, 0, 0, 0]], tuning, tmp_path)
    return [reproduce.Cell("dinov2", dataset, a), reproduce.Cell("dinov2_reg", dataset, b)]


def test_reproduce_sets_numbers_beside_the_published_ones_and_pairs_them(tmp_path):
    cells = planted_cells(tmp_path)
    rows = reproduce.rows_of(cells[0], is_random=False)
    # worked out by hand: 1 of 5 as published; the first bias was best on the tenth, and finds 1 of 4
    assert [row[3:5] for row in rows] == [
        ["5", "20.0"],
        ["4", "25.0"],
        ["4", "25.0"],
        ["4", "75.0"],
        ["4", "75.0"],
    ]
    assert [row[6] for row in rows] == ["-", "35.3", "32.2", "35.3", "32.2"]
    assert rows[1][7].startswith("-10.3 (") and rows[2][7].startswith("-7.2 (")
    assert "Darcet" in rows[1][8] and "weights not public" in rows[1][8] and "Jiang" in rows[2][8]
    assert {row[7] for row in reproduce.rows_of(cells[0], is_random=True)} == {"-"}
    (published,) = reproduce.paired_rows(cells, "as published")
    assert (
        published[:6] == ["dinov2", "dinov2_reg", "5", "20.0", "60.0", "+40.0"] and published[7] == "0.5000"
    )
    (chosen,) = reproduce.paired_rows(cells, "chosen")
    assert chosen[:6] == ["dinov2", "dinov2_reg", "4", "25.0", "75.0", "+50.0"] and chosen[7] == "0.6250"


def test_reproduce_knows_the_published_rows_of_all_its_backbones():
    titles = {row["backbone"] for row in published_rows()}
    assert {title for names in reproduce.BACKBONES.values() for title in names} <= titles
    assert {name for pair in reproduce.PAIRS for name in pair} <= reproduce.BACKBONES.keys()


def test_reproduce_finds_neurons_and_gives_a_register(small_voc, tmp_path, monkeypatch, reproduced):
    # no patch of this model at random weights is an outlier by the automatic threshold
    low = functools.partial(SearchOptions, threshold=1.0, top_layer=2)
    monkeypatch.setattr(reproduce, "SearchOptions", low)
    out = tmp_path / "out"
    text = reproduced(
        "--out", out, "--backbones", "timm:test_vit+test-time", "--datasets", small_voc,
        "--weights", "random", "--neuron-images", "3",
    )  # fmt: skip
    assert "timm:test_vit+test-time (RANDOM WEIGHTS)" in text, text
    neurons = json.loads((out / "neurons-timm-test_vit-voc.json").read_text())
    assert neurons["found"]["images"] == 3
    settings = json.loads((out / "timm-test_vit+test-time-voc" / "sweep.json").read_text())["settings"]
    assert settings["test_time_registers"]["count"] == 1
