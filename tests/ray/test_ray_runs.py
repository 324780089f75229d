"""Runs on a Ray cluster of two nodes: the same results, and nothing lost or twice, whatever dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest
from helpers import refusal
from ray_cases import REPOSITORY, TINY, lines, on_ray, source_of

from lost_reg import LoaderOptions, Setting, load_backbone
from lost_reg.backbones.loading import Preprocessing
from lost_reg.images.remote import find_remote
from lost_reg.images.shards import find_shards
from lost_reg.images.sources import ImageFiles, ListedFiles
from lost_reg.json_files import parse_json
from lost_reg.runs.discovery import Discovery
from lost_reg.runs.engines import Todo
from lost_reg.runs.folder import read_run
from lost_reg.runs.options import RunOptions
from lost_reg.runs.run import run
from lost_reg.runs.sources import source_of_files
from lost_reg.types import Prediction

pytest.importorskip("ray.data", reason="Ray is not installed: pip install 'lost-reg[ray]'")
import pyarrow.dataset

from lost_reg.ray import RayEngine
from lost_reg.ray.parquet import ParquetFiles

HANG_GUARD = 240  # seconds, after which a test fails that would not end; far more than a busy machine needs


@pytest.fixture(scope="module")
def expected(photos, tmp_path_factory) -> list[bytes]:
    """The lines of a run in one process."""
    out = tmp_path_factory.mktemp("plain")
    options = RunOptions(loader=LoaderOptions(workers=0))
    run(source_of(photos), load_backbone("tiny", device="cpu"), out, options=options)
    lines = (out / "predictions.jsonl").read_bytes().splitlines()
    return sorted(line for line in lines if b"poison" not in line)


def actors() -> list[psutil.Process]:
    """Those of the cluster of these tests, which are running."""
    here = psutil.Process().children(recursive=True)
    return [one for one in here if one.is_running() and "MapWorker" in " ".join(one.cmdline())]


def once(action):
    """A progress function that acts after the first images."""
    acted = []

    def progress(done, failed, total):
        if done and not acted:
            acted.append(True)
            action()

    return progress


def test_a_run_on_ray_equals_one_in_one_process(cluster, photos, expected, tmp_path):
    summary = on_ray(source_of(photos), tmp_path)
    assert lines(tmp_path) == expected
    assert (summary.done, summary.failed) == (80, 2)
    failures = [json.loads(line) for line in (tmp_path / "errors.jsonl").read_text().splitlines()]
    reasons = {one["image"]: one["reason"] for one in failures}
    assert reasons["poison.png"] == "crashed its decoder (SIGSEGV)" and "not an image" in reasons["bad.jpg"]
    (session,) = json.loads((tmp_path / "run.json").read_text())["sessions"]
    assert session["engine"] == "ray" and session["device"].startswith("cpu (")
    assert session["actors"] in (1, 2)  # one may have been done before the other was there


def test_more_actors_than_there_is_room_for(cluster, photos, tmp_path):
    """The others never start, and nothing waits for them."""
    images = ImageFiles(photos, ("01.png", "02.png", "03.png", "04.png"))
    summary = on_ray(replace(source_of(photos), images=images), tmp_path, actors=20, workers=0)
    assert (summary.done, summary.failed) == (4, 0)
    (session,) = json.loads((tmp_path / "run.json").read_text())["sessions"]
    assert 1 <= session["actors"] <= 4


def test_relative_paths_start_from_the_commands_folder(cluster, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos.parent)
    images = ImageFiles(Path(photos.name), ("01.png", "02.png"))
    summary = on_ray(replace(source_of(photos), images=images), tmp_path, actors=1)
    assert (summary.done, summary.failed) == (2, 0)


@pytest.mark.parametrize("rows, expected", [(10, 9), (100, 1)])
def test_each_block_of_images_is_given_to_an_actor_of_its_own(cluster, photos, rows, expected):
    from lost_reg.ray.cluster import import_ray
    from lost_reg.ray.inputs import dataset_of

    images = source_of(photos).images
    assert dataset_of(import_ray(), Todo(images), rows).materialize().num_blocks() == expected
    of_names = dataset_of(import_ray(), find_remote([f"file://{photos}"]).todo(()), rows)
    assert of_names.materialize().num_blocks() == expected


def test_an_actor_that_is_killed_and_a_node_that_is_removed(cluster, photos, expected, tmp_path):
    """They are replaced, and the blocks they were at are done again."""
    killed = []

    def kill():
        killed.append(actors()[0])
        killed[0].send_signal(signal.SIGKILL)

    summary = on_ray(source_of(photos), tmp_path / "actor", progress=once(kill))
    assert killed and lines(tmp_path / "actor") == expected and (summary.done, summary.failed) == (80, 2)

    (node,) = cluster.worker_nodes
    removed = once(lambda: cluster.remove_node(node, allow_graceful=False))
    summary = on_ray(source_of(photos), tmp_path / "node", progress=removed)
    assert not cluster.worker_nodes
    assert lines(tmp_path / "node") == expected and (summary.done, summary.failed) == (80, 2)


def test_a_driver_that_is_killed_is_resumed(cluster, photos, expected, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "79.png").rename(tmp_path / "photos" / "zz-held.png")
    given = ("run", tmp_path / "photos", "-b", "tiny", "--device", "cpu", "--preset", "lost")
    given = (
        *given,
        "--out",
        tmp_path / "out",
        "--engine",
        "ray",
        "--address",
        cluster.address,
        "--actors",
        1,
    )
    environment = {**os.environ, "PYTHONPATH": REPOSITORY}
    command = [sys.executable, "-m", "lost_reg", *map(str, given)]
    driver = subprocess.Popen(command, env=environment, stdout=-3, stderr=-3)
    found = tmp_path / "out" / "predictions.jsonl"
    end = time.monotonic() + HANG_GUARD
    while not (found.exists() and found.stat().st_size) and time.monotonic() < end:
        time.sleep(0.02)
    driver.kill()  # the last block waits for the image that is held
    driver.wait()
    (tmp_path / "open").touch()
    before = found.read_bytes().count(b"\n")
    assert 0 < before < 80
    resumed = subprocess.run([*command, "--resume"], env=environment, capture_output=True, text=True)
    assert resumed.returncode == 0 and f"{80 - before} images in" in resumed.stdout, resumed.stderr
    names = Counter(json.loads(line)["image"].replace("zz-held", "79") for line in lines(tmp_path / "out"))
    assert names == Counter(json.loads(line)["image"] for line in expected)
    assert resumed.stderr.count("\n") < 10 and "Traceback" not in resumed.stderr


def test_shards_are_read_by_tasks_and_resumed_from_a_plain_run(cluster, photos, expected, tmp_path):
    for name, members in {"a": sorted(photos.glob("[0-3]*")), "b": sorted(photos.glob("[4-7]*"))}.items():
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            for path in members:
                tar.add(path, path.name)
    (tmp_path / "damaged.tar").write_bytes(b"no archive")
    shards = [str(tmp_path / f"{name}.tar") for name in ("a", "b", "damaged")]
    source = source_of_files(find_shards(shards), shards)
    options = RunOptions(loader=LoaderOptions(workers=0), limit=20)
    run(source, load_backbone("tiny", device="cpu"), tmp_path / "out", options=options)
    rest = on_ray(source, tmp_path / "out", actors=1)
    assert (rest.done, rest.failed, rest.done_before) == (59, 1, 20)
    of_files = {json.loads(line)["image"]: json.loads(line)["objects"] for line in expected}
    of_shards = {json.loads(line)["image"]: json.loads(line)["objects"] for line in lines(tmp_path / "out")}
    assert len(of_shards) == 79 and all(
        of_shards[f"{'a' if name < '4' else 'b'}.tar/{name}"] == objects
        for name, objects in of_files.items() if name[0].isdigit()
    )  # fmt: skip
    assert "no tar archive" in (tmp_path / "out" / "errors.jsonl").read_text()


def test_images_at_addresses_are_fetched_by_tasks(cluster, photos, expected, tmp_path):
    source = source_of_files(find_remote([f"file://{photos}/[0-4]*"]), [f"file://{photos}"])
    summary = on_ray(source, tmp_path / "out", workers=0)
    some = [line for line in expected if b'"0' < line.removeprefix(b'{"image": ') < b'"5']
    assert lines(tmp_path / "out") == some
    assert (summary.done, summary.failed) == (49, 0)
    assert on_ray(source, tmp_path / "out", workers=0).done_before == 49


def test_a_list_of_addresses_and_paths_is_fetched_by_tasks(cluster, photos, expected, tmp_path, monkeypatch):
    monkeypatch.setattr("lost_reg.images.fetching.opened", None)  # in the command, which fetches nothing
    names = [f"{number:02}.png" for number in range(1, 31)]
    entries = [f"file://{photos}/{name}" if name < "20" else str(photos / name) for name in names]
    (tmp_path / "list").write_text("\n".join([*entries, f"file://{photos}/gone.png"]))
    source = source_of_files(ListedFiles.read(str(tmp_path / "list")), ["list"])
    summary = on_ray(source, tmp_path / "out", actors=1)
    assert (summary.done, summary.failed) == (30, 1)
    of_names = {json.loads(line)["image"]: json.loads(line)["objects"] for line in expected}
    of_list = {json.loads(line)["image"]: json.loads(line)["objects"] for line in lines(tmp_path / "out")}
    named = zip(entries, names)
    assert of_list == {entry if "://" in entry else name: of_names[name] for entry, name in named}
    (failure,) = (tmp_path / "out" / "errors.jsonl").read_text().splitlines()
    assert json.loads(failure) == {
        "image": f"file://{photos}/gone.png", "reason": "cannot be fetched: no such file"
    }  # fmt: skip
    assert on_ray(source, tmp_path / "out", actors=1).done_before == 30


def test_predictions_are_written_as_parquet_and_resumed(cluster, photos, expected, tmp_path):
    """The folder keeps the record and the failures; a killed session's files count."""
    place, source = str(tmp_path / "found"), source_of(photos)
    ParquetFiles(place).make()
    ParquetFiles(place).write([parse_json(line, Prediction) for line in expected[:30]])
    engine_of = partial(RayEngine, partial(load_backbone, **TINY), actors=1, parquet=place)
    options = RunOptions(loader=LoaderOptions(workers=1), engine=engine_of())
    assert "of another run" in refusal(run, source, load_backbone("tiny"), tmp_path / "out", options=options)

    shutil.rmtree(place)
    few = replace(options, engine=engine_of(), limit=20)
    first = run(source, load_backbone("tiny"), tmp_path / "out", options=few)
    rest = replace(options, engine=engine_of(), resume=True)
    second = run(source, load_backbone("tiny"), tmp_path / "out", options=rest)
    assert (first.done, second.done, second.done_before, second.failed) == (20, 59, 20, 3)
    table = pyarrow.dataset.dataset(place).to_table()
    named = [line for line in expected if b"caf" not in line]
    assert sorted(table["prediction"].to_pylist()) == [line.decode() for line in named]
    row = next(one for one in table.to_pylist() if one["image"] == "01.png")
    (object,) = parse_json(row["prediction"], Prediction).objects
    assert (row["height"], row["width"], row["scores"]) == (96, 64, [object.score])
    assert row["boxes_xyxy"] == [list(object.box_xyxy)]
    errors = (tmp_path / "out" / "errors.jsonl").read_text().splitlines()
    reasons = {one["image"]: one["reason"] for one in map(json.loads, errors)}
    assert "not UTF-8" in reasons.pop("caf\udce9.png") and set(reasons) == {"bad.jpg", "poison.png"}
    assert "in Parquet files" in refusal(read_run, tmp_path / "out")


def test_an_image_that_kills_its_actor_ends_the_run(cluster, photos, tmp_path, monkeypatch):
    """Restarts are bounded, so it does not go on for ever; what was done before is kept."""

    monkeypatch.setattr("lost_reg.ray.engine.RESTARTS", 1)

    def deadly(images):
        import os

        os._exit(1)

    arguments = {"backbone": deadly, "preprocessing": Preprocessing(16), "device": "cpu"}
    assert "The actor died" in refusal(on_ray, source_of(photos), tmp_path, arguments, actors=1)


def test_the_reason_of_an_actor_that_fails_is_told(cluster, photos, tmp_path):
    def broken(images):
        raise ValueError("an illegal memory access")

    arguments = {"backbone": broken, "preprocessing": Preprocessing(16), "device": "cpu"}
    assert "an illegal memory access" in refusal(on_ray, source_of(photos), tmp_path, arguments, actors=1)


@pytest.mark.parametrize("arguments, sha256, reason", [
    ({"backbone": "tiny", "device": "cuda:7"}, None, "device 'cuda:7' cannot be used"),
    (TINY, "0" * 64, "not those of the run"),
])  # fmt: skip
def test_what_an_actor_cannot_load_ends_the_run_by_one_line(photos, arguments, sha256, reason):
    """It is reported as an outcome: Ray would try an actor that raises again."""
    from lost_reg.ray.engine import RayEngine
    from lost_reg.ray.workers import Recipe, RunActor

    discovery = Discovery(Setting(), LoaderOptions(workers=0), photos, photos)
    load = partial(load_backbone, **arguments)
    told = RunActor(Recipe(load, sha256, None), discovery, 0).report([])
    assert reason in refusal(RayEngine(load).taken, told)


def test_a_stopped_run_is_recorded_before_ray_ends(cluster, photos, tmp_path, monkeypatch):
    """Ray takes longer to end than a stopped command has."""
    from lost_reg.ray import RayEngine, engine

    at_end = []

    @contextmanager
    def connected(address):
        with engine_connected(address) as ray:
            yield ray
            at_end.extend(json.loads((tmp_path / "run.json").read_text())["sessions"])

    def stopped_after_the_first(self, report):
        yield from taken(self, report)[:1]
        raise KeyboardInterrupt

    engine_connected, taken = engine.connected, RayEngine.taken
    monkeypatch.setattr(engine, "connected", connected)
    monkeypatch.setattr(RayEngine, "taken", stopped_after_the_first)
    with pytest.raises(KeyboardInterrupt):
        on_ray(source_of(photos), tmp_path, actors=1)
    (session,) = at_end
    assert (session["images"], session["actors"]) == (1, 1)
