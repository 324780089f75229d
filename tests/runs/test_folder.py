"""Run folders, read: what is written comes back, and what is malformed is named by its line."""

from __future__ import annotations

import copy
import json
import os

import pytest
from helpers import prediction, refusal
from run_cases import BROKEN, NOTHING, SETTINGS, A, B, write

from lost_reg.runs.folder import check_free, find_runs, read_run
from lost_reg.types import Failure


def test_what_is_written_is_read_back(tmp_path):
    write(tmp_path / "deep" / "run", A, BROKEN, B, NOTHING)
    got = read_run(tmp_path / "deep" / "run")
    assert got.predictions == {"a.jpg": A, "folder/b.png": B, "nothing.jpg": NOTHING}
    assert got.predictions["nothing.jpg"].box_xyxy is None
    assert got.failures == {"broken.jpg": BROKEN}
    assert got.settings == SETTINGS
    assert (got.record["images"], got.record["versions"]) == (3, {"torch": "2.5"})


def test_predictions_are_one_json_object_per_line(tmp_path):
    write(tmp_path, A, NOTHING)
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "image": "a.jpg",
            "size_hw": [96, 128],
            "grid_hw": [6, 8],
            "objects": [
                {"box_xyxy": [32, 16, 96, 64], "score": 0.25, "seed": [2, 3], "details": {"degree": 4}}
            ],
        },
        {"image": "nothing.jpg", "size_hw": [96, 128], "grid_hw": [6, 8], "objects": []},
    ]


@pytest.mark.parametrize(
    "name", ["new\nline.jpg", 'quo"te\\.jpg', os.fsdecode(b"\xff.jpg"), "日本.jpg", "\u2028.jpg", "\x00.jpg"]
)
def test_any_name_survives(tmp_path, name):
    found = prediction(name, (0, 0, 8, 8))
    failure = Failure(f"bad {name}", f"cannot read {name}")
    write(tmp_path, found, failure)
    got = read_run(tmp_path)
    assert got.predictions == {name: found}
    assert got.failures == {failure.image: failure}
    assert write(tmp_path, resume=True) == {name}


# --- run.json ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "{}", '{"settings": {}}', '{"images": 3}'),
        '{"settings": 5, "images": 3, "sessions": []}',
        '{"settings": {}, "images": "3", "sessions": []}',
        '{"settings": {}, "images": 3, "sessions": [1]}',
        '{"settings": {}, "images": NaN, "sessions": []}',
    ],
)
def test_malformed_record(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    assert f"{tmp_path / 'run.json'} is not the record of a run" in refusal(read_run, tmp_path)


CLUSTERS = {"k": 1, "boxes": 4, "sizes": [4], "names": ["a"], "backbone": "tiny", "silhouette": 0.5}


@pytest.mark.parametrize(
    "changes",
    [
        *(
            {name: value}
            for name in ("created", "root", "data_root", "weights_file")
            for value in (5, [], {})
        ),
        {"images": 10**400},
        {"images": -1},
        {"further": {"deep": [10**400]}},
        {"sessions": [{"finished": "yes"}]},
        {"sessions": {}},
        *({"clusters": value} for value in (5, [], {}, "text")),
        *({"clusters": {**CLUSTERS, name: None}} for name in ("k", "boxes", "sizes", "names", "backbone")),
        {"clusters": {**CLUSTERS, "silhouette": "high"}},
        {"clusters": {**CLUSTERS, "names": []}},
        {"clusters": {**CLUSTERS, "sizes": [1, 2]}},
        {"clusters": {**CLUSTERS, "names": [None]}},
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_a_record_of_other_types_is_one_line(tmp_path, changes):
    write(tmp_path, A)
    record = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**record, "clusters": CLUSTERS}))
    read_run(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({**record, **changes}))
    assert "is not the record of a run" in refusal(read_run, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": None},
        {"backbone": 5},
        {"weights": "dino"},
        {"weights": {"source": "hub"}},
        {"features": []},
        {"options": None},
        {"method": 1},
        {"apply_exif": "yes"},
        {"test_time_registers": {"count": 1}},
        {"test_time_registers": {"count": 1, "rule": "max", "neurons": []}},
    ],
    ids=str,
)
def test_settings_of_another_type_are_named(tmp_path, changes):
    write(tmp_path, A)
    record = json.loads((tmp_path / "run.json").read_text())
    record["settings"].update(changes)
    (tmp_path / "run.json").write_text(json.dumps(record))
    text = refusal(read_run, tmp_path)
    assert f"{tmp_path / 'run.json'} does not hold the settings of a run" in text
    assert next(iter(changes)) in text


def test_features_that_no_run_can_have_are_named(tmp_path):
    write(tmp_path, A)
    record = json.loads((tmp_path / "run.json").read_text())
    record["settings"]["features"]["facet"] = "x"
    (tmp_path / "run.json").write_text(json.dumps(record))
    text = refusal(read_run, tmp_path)
    assert f"{tmp_path / 'run.json'} does not hold" in text and "unknown facet 'x'" in text


REGISTERS = {"count": 1, "rule": "max", "neurons": [[3, 7]]}


def test_settings_that_are_missing_are_named_and_further_ones_kept(tmp_path):
    more = {**copy.deepcopy(SETTINGS), "test_time_registers": REGISTERS, "method": "of the future"}
    write(tmp_path, A, settings=more)
    assert read_run(tmp_path).settings == more
    record = json.loads((tmp_path / "run.json").read_text())
    del record["settings"]["features"]
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert "missing required field 'features'" in refusal(read_run, tmp_path)


def test_record_that_is_no_utf8(tmp_path):
    (tmp_path / "run.json").write_bytes(b'{"settings": {"\xff": 1}, "images": 3}')
    assert "is not the record of a run" in refusal(read_run, tmp_path)


def test_folder_without_a_record(tmp_path):
    assert f"no run in {str(tmp_path)!r}" in refusal(read_run, tmp_path)
    assert "no such folder" in refusal(read_run, tmp_path / "nowhere")
    (tmp_path / "x.jpg").write_text("")
    assert "is a file: name the folder of a run" in refusal(read_run, tmp_path / "x.jpg")
    (tmp_path / "sweep.json").write_text("{}")
    assert "holds a sweep and no run" in refusal(read_run, tmp_path)


def test_record_that_is_a_folder(tmp_path):
    (tmp_path / "run.json").mkdir()
    assert "cannot read" in refusal(read_run, tmp_path)


# --- lines -------------------------------------------------------------------------------------------

OBJECT = {"box_xyxy": [1, 2, 3, 4], "score": 0.5, "seed": [0, 0], "details": {"degree": 0}}
VALID = {"image": "b.jpg", "size_hw": [9, 9], "grid_hw": [1, 1], "objects": [OBJECT]}


def with_object(**wrong) -> dict:
    return {**VALID, "objects": [OBJECT, {**OBJECT, **wrong}]}


@pytest.mark.parametrize(
    "line",
    [
        *("no json", "", "[]", "null", "{}"),
        json.dumps(VALID).replace("[1, 2, 3, 4]", "[1, 2, 3, NaN]"),
        json.dumps(VALID).replace("[1, 2, 3, 4]", "[1, 2, 3, 1e999]"),
        *(
            json.dumps(wrong)
            for wrong in (
                *({key: value for key, value in VALID.items() if key != missing} for missing in VALID),
                {**VALID, "image": 5},
                {**VALID, "size_hw": 5},
                {**VALID, "size_hw": [0, 9]},
                {**VALID, "size_hw": ["9", "9"]},
                {**VALID, "size_hw": [9]},
                {**VALID, "size_hw": [True, 9]},
                {**VALID, "grid_hw": [1, 0]},
                {**VALID, "objects": None},
                {**VALID, "objects": [5]},
                {**VALID, "objects": [{}]},
                with_object(box_xyxy=5),
                with_object(box_xyxy=None),
                with_object(box_xyxy=[1, 2, 3]),
                with_object(box_xyxy=[1, 2, 3, "4"]),
                with_object(box_xyxy=[1, 2, 3, 10**400]),
                with_object(seed=[-1, 0]),
                with_object(seed=[0.5, 0]),
                with_object(score="high"),
                with_object(details={"degree": "many"}),
                with_object(details={"degree": 10**400}),
            )
        ),
    ],
)
def test_malformed_prediction_is_named_by_file_and_line(tmp_path, line):
    write(tmp_path, A, B)
    path = tmp_path / "predictions.jsonl"
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{line}\n{second}\n")
    assert f"malformed line 2 of {path}" in refusal(read_run, tmp_path)


def test_the_valid_line_is_read(tmp_path):
    write(tmp_path)
    (tmp_path / "predictions.jsonl").write_text(json.dumps({**with_object(score=None), "more": 1}) + "\n")
    (found,) = read_run(tmp_path).predictions.values()
    assert [one.score for one in found.objects] == [0.5, None] and found.box_xyxy == (1, 2, 3, 4)


@pytest.mark.parametrize("line", ["no json", "[]", '{"image": "b.jpg"}', '{"image": "b.jpg", "reason": 5}'])
def test_malformed_failure_is_named_by_file_and_line(tmp_path, line):
    write(tmp_path, BROKEN)
    path = tmp_path / "errors.jsonl"
    path.write_text(path.read_text() + line + "\n")
    assert f"malformed line 2 of {path}" in refusal(read_run, tmp_path)


# --- finding runs ------------------------------------------------------------------------------------


def test_runs_are_found_at_and_below_a_folder(tmp_path):
    for name in ("b", "a/deep/er", "a"):
        write(tmp_path / name)
    (tmp_path / "empty").mkdir()
    assert find_runs(tmp_path) == [tmp_path / "a", tmp_path / "a/deep/er", tmp_path / "b"]
    assert find_runs(tmp_path / "b") == [tmp_path / "b"]


def test_no_runs(tmp_path):
    assert "no runs in" in refusal(find_runs, tmp_path)
    assert "no such folder" in refusal(find_runs, tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert "is a file: name the folder of a run" in refusal(find_runs, tmp_path / "file")
    (tmp_path / "sweep.json").write_text("{}")
    assert "holds a sweep and no run" in refusal(find_runs, tmp_path)


def test_free_folder_may_be_written(tmp_path):
    check_free(tmp_path, resume=False)
    check_free(tmp_path / "not" / "there", resume=False)


@pytest.mark.parametrize("name", ["run.json", "predictions.jsonl", "errors.jsonl"])
def test_a_pipe_in_a_run_folder_is_not_waited_for(tmp_path, name):
    write(tmp_path, A)
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    assert refusal(read_run, tmp_path) == f"cannot read {tmp_path / name}: not a regular file"
