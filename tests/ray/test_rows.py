"""What is sent over Ray, and kept as Parquet: blocks of bounded size, and each image once."""

from __future__ import annotations

import os

import numpy as np
import pytest
from helpers import prediction, refusal

from lost_reg.runs.engines import Todo
from lost_reg.runs.options import LoaderOptions
from lost_reg.types import Failure, Prediction

pytest.importorskip("ray.data", reason="Ray is not installed: pip install 'lost-reg[ray]'")
import pyarrow.dataset

from lost_reg.cli.run_config import recorded_options
from lost_reg.images.sources import ImageFiles
from lost_reg.json_files import parse_json
from lost_reg.ray.cluster import connected
from lost_reg.ray.discover import Discover
from lost_reg.ray.engine import RayEngine
from lost_reg.ray.inputs import BYTES_OF_A_ROW, blocks
from lost_reg.ray.parquet import ParquetFiles
from lost_reg.ray.workers import Recipe, Report, _in_rows
from lost_reg.runs.writer import NameSet

A, B, C = (prediction(f"{name}.jpg", (0, 0, 16, 16)) for name in "abc")


def images_at(folder) -> list[str]:
    return sorted(pyarrow.dataset.dataset(folder).to_table()["image"].to_pylist())


def test_a_block_that_is_done_again_replaces_its_file(tmp_path):
    """Also if another of its images has failed."""
    files = ParquetFiles(str(tmp_path / "found"))
    files.make()
    files.write([A, Failure("b.jpg", "not mounted")])
    files.write([B, A])
    files.write([C, Failure("caf\udce9.jpg", "its name")])
    files.write([Failure("d.jpg", "damaged")])
    assert images_at(tmp_path / "found") == sorted(files.images()) == ["a.jpg", "b.jpg", "c.jpg"]
    assert len(list((tmp_path / "found").iterdir())) == 2


def test_a_file_that_is_half_written_is_hidden_and_a_damaged_one_is_named(tmp_path):
    files = ParquetFiles(str(tmp_path / "found"))
    files.make()
    files.write([A])
    (tmp_path / "found" / ".b.parquet.0a1b").write_bytes(b"PAR1")
    assert list(files.images()) == images_at(tmp_path / "found") == ["a.jpg"]
    (tmp_path / "found" / "b.parquet").write_bytes(b"PAR1 half")
    assert "b.parquet" in refusal(lambda: list(files.images()))
    (tmp_path / "file").touch()
    assert "cannot write Parquet files" in refusal(ParquetFiles(str(tmp_path / "file")).make)
    assert "cannot write Parquet files" in refusal(ParquetFiles(str(tmp_path / "gone")).write, [A])
    assert list(ParquetFiles(str(tmp_path / "none")).images()) == []


def test_blocks_are_bounded_by_images_and_by_bytes():
    small = [(str(number), b"x") for number in range(7)]
    assert [len(block) for block in blocks(small, 3)] == [3, 3, 1]
    half = bytes(BYTES_OF_A_ROW // 2)
    large = [
        ("a", half),
        ("b", half),
        Failure("c", "none"),
        ("d", np.zeros(BYTES_OF_A_ROW, np.uint8)),
        ("e", "f"),
    ]
    assert [len(block) for block in blocks(large, 9)] == [2, 2, 1]
    assert [len(row) for row in _in_rows([bytes(BYTES_OF_A_ROW // 3)] * 5)] == [2, 2, 1]
    assert list(_in_rows([])) == [[]] and list(_in_rows([1, 2])) == [[1, 2]]


def test_what_is_left_is_counted_without_reading(tmp_path):
    images = ImageFiles(tmp_path, ("a", "b", "c"), (Failure("folder", "denied"),))
    assert [Todo(images).left, Todo(images, NameSet(["a"])).left, Todo(images, NameSet(["a"]), 2).left] == [
        3,
        2,
        1,
    ]
    nothing = Todo(images, NameSet("abc"))
    assert list(RayEngine(None).outcomes(nothing, None, None)) == [Failure("folder", "denied")]
    assert list(RayEngine(None).outcomes([], None, None)) == []  # and Ray was not started


@pytest.mark.parametrize("address, reason", [
    ("127.0.0.1:1", "no cluster of Ray answers at '127.0.0.1:1'"), ("nonsense", "HOST:PORT"),
    ("ray://127.0.0.1:10001", "HOST:PORT"), ("host:99999999", "no cluster of Ray answers"),
])  # fmt: skip
def test_a_cluster_that_does_not_answer_is_one_line_at_once(address, reason):
    with pytest.raises(Exception) as error, connected(address):
        pass
    assert reason in str(error.value)


def test_the_actors_that_did_images_are_counted_once():
    engine = RayEngine(None)
    assert engine.facts == {"engine": "ray"}
    for report in (Report(["A"], "1", "cpu"), Report(["B"], "2", "cuda", 1), Report(["C"], "1", "cpu")):
        assert engine.taken(report) == report.outcomes
    assert engine.facts == {"engine": "ray", "actors": 2, "device": "cpu, cuda", "out_of_memory": 1}


def test_a_node_with_another_version_is_refused():
    assert "a node has lost-reg" in refusal(Recipe(None, None, None, version="0.0.1").load)


def test_a_pipeline_names_files_by_paths_and_addresses(tmp_path, save_scene):
    save_scene(tmp_path / "a.jpg")
    paths = [str(tmp_path / "a.jpg"), f"file://{tmp_path}/a.jpg", f"file://{tmp_path}/gone.jpg"]
    discover = Discover("tiny", load={"device": "cpu"}, loader=LoaderOptions(workers=0))
    found = discover({"path": np.array(paths)})
    assert found["boxes_xyxy"][0] == found["boxes_xyxy"][1] != [] == found["boxes_xyxy"][2]
    assert [parse_json(line, Prediction).image for line in found["prediction"][:2]] == paths[:2]
    assert list(found["reason"]) == ["", "", "cannot be fetched: no such file"]


def test_a_place_is_recorded_absolute():
    assert recorded_options({"write_parquet": "found"}) == {"write_parquet": os.path.abspath("found")}
    assert recorded_options({"write_parquet": "s3://b/x"}) == {"write_parquet": "s3://b/x"}
