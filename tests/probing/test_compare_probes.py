"""Comparing two probes: the same images, each score, what is left out, and what cannot be compared."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from probe_cases import column, write_case

from lost_reg.cli.app import main
from lost_reg.errors import LostRegError
from lost_reg.probing.compare import compare_probes
from lost_reg.probing.measures import difference_interval
from lost_reg.probing.records import OUTCOMES_FILE, PROBE_FILE
from lost_reg.scoring.paired import Paired
from lost_reg.text import display_width

TOP1 = ("cls", "logistic", "top1")
OUTLIER = ("outlier", "logistic", "top1")
A = column(1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1)  # 3 right in both, 1 of A alone, 7 of B alone, 1 in neither
B = column(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0)
NAN = np.nan


@pytest.fixture
def pair(tmp_path):
    """A function that writes A and B; keyword arguments are those of B."""

    def write(rows_a, rows_b, truth=None, **of_b):
        a = write_case(tmp_path / "a", rows_a, truth=truth)
        return a, write_case(tmp_path / "b", rows_b, truth=truth, **of_b)

    return write


def test_top1_is_tested_as_runs_are(pair):
    (score,) = compare_probes(*pair({TOP1: A}, {TOP1: B})).scores
    as_runs = Paired(both=3, only_a=1, only_b=7, neither=1)
    assert (score.images, score.a, score.b) == (12, 4 / 12, 10 / 12)
    assert score.difference == pytest.approx(as_runs.difference / 100)
    assert score.interval == pytest.approx([end / 100 for end in as_runs.interval])
    assert score.p == score.p_holm == as_runs.p == pytest.approx(2 * (1 + 8) / 2**8)


def test_images_that_only_one_covers_are_left_out_and_counted(pair):
    a = {TOP1: A, OUTLIER: column(NAN, NAN, NAN, *[0] * 8, 1)}
    b = {TOP1: B, OUTLIER: column(1, 1, NAN, NAN, *[1] * 7, 0)}
    _, score = compare_probes(*pair(a, b)).scores
    assert (score.images, score.only_a, score.only_b) == (8, 1, 2)
    assert (score.a, score.b) == (1 / 8, 7 / 8)


def test_an_image_that_one_could_not_use_is_not_covered_by_it(tmp_path):
    a = write_case(tmp_path / "a", {TOP1: A})
    names = [f"{index}.png" for index in range(11, 0, -1)]  # in another order, too
    b = write_case(tmp_path / "b", {TOP1: B[:0:-1]}, names=names, failures={"0.png": "cannot be decoded"})
    for one, other, left_out in ((a, b, (1, 0)), (b, a, (0, 1))):
        (score,) = compare_probes(one, other).scores
        assert (score.images, (score.only_a, score.only_b)) == (11, left_out)
        assert abs(score.difference) == pytest.approx(6 / 11)


def test_other_measures_have_the_interval_and_p_of_the_bootstrap(pair):
    random = np.random.default_rng(0)
    truth = np.arange(40) % 4
    per_class, rmse = ("mean", "knn", "mean_per_class"), ("patches", "linear", "rmse")
    a, b = (
        {
            per_class: (random.random((40, 1)) < share).astype(float),
            rmse: random.gamma(2, size=(40, 1)) * share,
        }
        for share in (0.4, 0.8)
    )
    found = compare_probes(*pair(a, b, truth=truth)).scores
    for score, key in zip(found, (per_class, rmse)):
        interval, p = difference_interval(key[2], a[key], b[key], truth)
        assert (score.interval, score.p) == (interval, p)
    smaller, larger = sorted(score.p for score in found)
    assert sorted(score.p_holm for score in found) == [min(1, 2 * smaller), max(larger, 2 * smaller)]


def test_scores_that_cannot_be_compared_are_told(pair):
    knn = ("cls", "knn", "top1")
    found = compare_probes(*pair({TOP1: A, OUTLIER: None}, {TOP1: B, OUTLIER: B, knn: B}))
    assert [score.name for score in found.scores] == ["cls logistic top-1"]
    assert found.notes == (
        "outlier logistic top-1 is not compared: A has no value (3 images)",
        "cls knn top-1 is not compared: A does not have it",
    )


@pytest.mark.parametrize(
    "of_b, message",
    [
        ({"dataset": "cifar100"}, "the dataset of "),
        ({"task": "zero-shot"}, "the task of "),
        ({"classes": 9}, "the classes of "),
        ({"names": [*map(str, range(12))]}, "12 of those of "),
        ({"names": [*(f"{i}.png" for i in range(11)), "x.png"]}, "1 of those of "),
    ],
)
def test_probes_of_other_images_are_refused(pair, of_b, message):
    with pytest.raises(LostRegError, match=f"not the same test images: {message}"):
        compare_probes(*pair({TOP1: A}, {TOP1: B}, **of_b))


def test_other_classes_of_the_same_images_are_refused(tmp_path):
    for name, truth in (("a", np.zeros(12, int)), ("b", np.ones(12, int))):
        write_case(tmp_path / name, {TOP1: A}, truth=truth)
    with pytest.raises(LostRegError, match=r"their classes in .*a are others than in .*b"):
        compare_probes(tmp_path / "a", tmp_path / "b")


def test_nothing_in_common_is_refused_with_the_reasons(pair):
    with pytest.raises(LostRegError, match=r"nothing to compare in .*: cls logistic top-1 .* B does not"):
        compare_probes(*pair({TOP1: A}, {OUTLIER: B}))


# --- damaged files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        {"rows0": A[:5]},
        {"rows0": A[:, 0]},
        {"rows0": A + 0.5},
        {"rows0": A + np.inf},
        {"rows0": np.hstack([A, A])},
        {"rows0": A.astype(np.float32)},
        {"names": np.array([b"same"] * 12)},
        {"names": np.zeros(0, np.bytes_), "rows0": A[:0]},
        {"truth": np.zeros(3, int)},
        {"truth": np.full(12, -1)},
        {"truth": np.full(12, 10)},
        {"truth": np.zeros(12)},
    ],
)
def test_outcomes_that_do_not_fit_their_probe_are_one_line(pair, changed):
    a, b = pair({TOP1: A}, {TOP1: B})
    with np.load(b / OUTCOMES_FILE) as arrays:
        np.savez(b / OUTCOMES_FILE, **{**arrays, **changed})
    with pytest.raises(LostRegError, match="does not hold the outcomes of its probe: probe again"):
        compare_probes(a, b)


@pytest.fixture(scope="module")
def pair_folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return write_case(folder / "a", {TOP1: A}), write_case(folder / "b", {TOP1: B})


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1), byte=st.integers(0, 255))
def test_outcomes_with_another_byte_are_read_or_refused(tmp_path_factory, pair_folders, place, byte):
    a, b = pair_folders
    content = bytearray((b / OUTCOMES_FILE).read_bytes())
    content[int(place * (len(content) - 1))] = byte
    damaged = tmp_path_factory.mktemp("damaged")
    (damaged / PROBE_FILE).write_bytes((b / PROBE_FILE).read_bytes())
    (damaged / OUTCOMES_FILE).write_bytes(content)
    with contextlib.suppress(LostRegError):
        compare_probes(a, damaged)


@pytest.mark.parametrize("measure", ["mean_per_class", "map"])
def test_measures_of_classes_need_the_truth(tmp_path, measure):
    truth = {"mean_per_class": np.zeros(12, int), "map": np.ones((12, 1), np.int8)}[measure]
    folder = write_case(tmp_path / "a", {("cls", "logistic", measure): A}, truth=truth)
    with np.load(folder / OUTCOMES_FILE) as arrays:
        np.savez(folder / OUTCOMES_FILE, **{name: one for name, one in arrays.items() if name != "truth"})
    with pytest.raises(LostRegError, match="does not hold the outcomes"):
        compare_probes(folder, folder)


@pytest.mark.parametrize("classes, width", [(3, 4), (3, 5), (0, 0), (0, 2)])
def test_pixels_of_classes_are_those_of_the_record(tmp_path, classes, width):
    miou = ("patches", "linear", "miou")
    whole = write_case(tmp_path / "whole", {miou: np.ones((3, 6))}, task="segmentation", classes=3)
    assert compare_probes(whole, whole).scores[0].a == 1
    with np.load(whole / OUTCOMES_FILE) as arrays:
        np.savez(whole / OUTCOMES_FILE, **{**arrays, "rows0": np.ones((3, width))})
    record = json.loads((whole / PROBE_FILE).read_text())
    (whole / PROBE_FILE).write_text(json.dumps({**record, "classes": classes}))
    with pytest.raises(LostRegError, match="does not hold the outcomes of its probe"):
        compare_probes(whole, whole)


# --- the command -------------------------------------------------------------------------------------


def lost_reg(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)


def test_the_command_shows_settings_first_and_fits_80_columns(pair):
    per_class = ("register", "logistic", "mean_per_class")
    a = {TOP1: A, OUTLIER: column(NAN, *A[1:, 0]), per_class: 0 * A}
    b = {TOP1: B, OUTLIER: B, per_class: 0 * B + 1, ("cls", "knn", "top1"): B}
    paths = pair(a, b, truth=np.zeros(12, int), backbone="dinov2_vits14_reg", label="dinov2_vits14_reg")
    lines = lost_reg("compare", *paths).stdout.splitlines()
    assert lines[0] == f"A: dinov2_vits14, {paths[0]}" and lines[2] == "cifar10, classes: 12 test images"
    assert lines[4].split() == ["differs", "A", "B"]
    start = next(place for place, line in enumerate(lines) if line.startswith("score "))
    table = lines[start : start + 5]
    assert max(map(display_width, table)) <= 80 and "p (Holm)" in table[0]
    numbers = ["33.3", "83.3", "+50.0", "+8.3", "to", "+83.3"]
    assert table[2].split()[:9] == ["cls", "logistic", "top-1", *numbers]
    assert "outlier logistic top-1: left out: 0 images that only A covers, 1 that only B covers." in lines
    assert "cls knn top-1 is not compared: A does not have it." in lines
    assert lines[-1] == (
        "Of 3 scores, these differ significantly after Holm's correction: "
        "register logistic per class (+100.0)."
    )


def test_errors_of_depth_are_in_their_unit_and_one_score_has_its_own_verdict(tmp_path):
    rmse = ("patches", "linear", "rmse")
    a = write_case(tmp_path / "a", {rmse: column(0.5, 0.75)}, task="depth", classes=0)
    b = write_case(tmp_path / "b", {rmse: column(0.25, 0.5)}, task="depth", classes=0)
    out = lost_reg("compare", a, b).stdout
    assert " 0.625  0.375  -0.250  -0.250 to -0.250" in out and out.endswith("linear RMSE (-0.250).\n")
    assert lost_reg("compare", a, a).stdout.endswith("No significant difference between A and B.\n")


def test_json_and_csv_have_all_numbers(pair):
    paths = pair({TOP1: A}, {TOP1: B}, seed=1)
    content = json.loads(lost_reg("compare", *paths, "--json").stdout)
    (score,) = content["scores"]
    assert content["differences"] == [{"setting": "seed", "a": 0, "b": 1}]
    assert score["difference"] == 0.5 and score["p_holm"] == pytest.approx(0.0703125)
    header, row = lost_reg("compare", *paths, "--csv").stdout.splitlines()
    cells = dict(zip(header.split(","), row.split(",")))
    assert {name: str(one) for name, one in score.items()} == cells


def test_what_the_command_cannot_compare_is_one_line(pair, tmp_path):
    a, b = pair({TOP1: A}, {TOP1: B})
    other = tmp_path / "run"
    other.mkdir()
    (other / "run.json").write_text("{}")
    for arguments, message in (
        ((a, other), "'{a}' is a probe and '{other}' is none"),
        ((other, a), "'{a}' is a probe and '{other}' is none"),
        ((a, b, "--partial"), "--partial is for runs"),
        ((a, b, "--images"), "--images is for runs"),
        ((a, b, "-d", "voc07"), "--dataset is for runs"),
        ((a, b, "--json", "--csv"), "--json and --csv"),
    ):
        result = lost_reg("compare", *arguments)
        assert result.exit_code in (1, 2)
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        assert message.format(a=a, other=other) in line
    (b / PROBE_FILE).write_text("{}")
    assert "probe.json does not hold a probe" in lost_reg("compare", a, b).stderr
