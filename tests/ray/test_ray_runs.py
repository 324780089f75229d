"""Runs on a Ray cluster of two nodes: the same results, and nothing lost or twice, whatever dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from detector_cases import run_on_scenes, small
from helpers import refusal
from PIL import Image

import lost_reg
from lost_reg import LoaderOptions, Setting, load_backbone
from lost_reg.backbones.loading import Preprocessing
from lost_reg.cli.app import main
from lost_reg.discovery.features import FeatureConfig
from lost_reg.images.remote import find_remote
from lost_reg.images.shards import find_shards
from lost_reg.images.sources import list_images
from lost_reg.json_files import parse_json
from lost_reg.runs.discovery import Discovery
from lost_reg.runs.engines import Todo
from lost_reg.runs.folder import read_run
from lost_reg.runs.options import RunOptions
from lost_reg.runs.run import run
from lost_reg.runs.sources import source_of_files
from lost_reg.training.detector_data import read_training_set
from lost_reg.training.detector_run import load_detector_model, run_detector
from lost_reg.training.detector_training import TrainingOptions, train_detector
from lost_reg.training.head import train_head
from lost_reg.training.head_config import HeadTraining, TrainOptions
from lost_reg.types import Prediction

pytest.importorskip("ray.data", reason="Ray is not installed: pip install 'lost-reg[ray]'")
import pyarrow.dataset

from lost_reg.ray import RayEngine
from lost_reg.ray.parquet import ParquetFiles

HANG_GUARD = 240  # seconds, after which a test fails that would not end; far more than a busy machine needs
TINY = {"backbone": "tiny", "device": "cpu"}
REPOSITORY = os.path.dirname(lost_reg.__path__[0])
# A file of this name ends the process that decodes it, as a fault of an image library would; one that is
# "held" is not read before a file "open" is beside its folder.
POISON = """
    import sys
    if any("decoder import serve" in argument for argument in sys.orig_argv):
        import os, signal
        from lost_reg.images import decoding
        read = decoding.read_noted

        def read_noted(image, **options):
            import time
            while "held" in str(image) and not os.path.exists(os.path.dirname(image) + "/../open"):
                time.sleep(0.05)
            if "poison" in str(image):
                os.kill(os.getpid(), signal.SIGSEGV)
            return read(image, **options)

        decoding.read_noted = read_noted
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two nodes of two CPUs each, to which this process is connected."""
    from lost_reg.ray.cluster import import_ray

    ray = import_ray()
    from ray.cluster_utils import Cluster

    hook = tmp_path_factory.mktemp("hook")
    (hook / "sitecustomize.py").write_text(textwrap.dedent(POISON))
    node = {"num_cpus": 2, "object_store_memory": 10**9}
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", os.pathsep.join([str(hook), REPOSITORY, *sys.path]))
        patched.setenv("OMP_NUM_THREADS", "1")
        nodes = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        try:
            nodes.add_node(**node)
            ray.init(address=nodes.address, logging_level="ERROR", log_to_driver=False)
            yield nodes
        finally:
            ray.shutdown()
            nodes.shutdown()


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Eighty images of three sizes, one that kills its decoder, one that is none, and an odd name."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(80):
        size_hw = [(64, 96), (96, 64), (80, 80)][number % 3]
        pixels = random.integers(0, 256, (*size_hw, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    (folder / "00.png").rename(folder / "caf\udce9.png")
    (folder / "bad.jpg").write_text("no image")
    (folder / "poison.png").write_bytes((folder / "01.png").read_bytes())
    return folder


@pytest.fixture(scope="module")
def expected(photos, tmp_path_factory) -> list[bytes]:
    """The lines of a run in one process."""
    out = tmp_path_factory.mktemp("plain")
    options = RunOptions(loader=LoaderOptions(workers=0))
    run(source_of(photos), load_backbone("tiny", device="cpu"), out, options=options)
    lines = (out / "predictions.jsonl").read_bytes().splitlines()
    return sorted(line for line in lines if b"poison" not in line)


def source_of(folder: Path):
    return source_of_files(list_images([str(folder)]), [str(folder)])


def on_ray(source, out: Path, arguments=TINY, *, actors: int = 2, workers: int = 1, progress=lambda *_: None):
    load = partial(load_backbone, **arguments)
    options = RunOptions(
        loader=LoaderOptions(workers=workers), engine=RayEngine(load, actors=actors), resume=True
    )
    return run(source, load(), out, options=options, progress=progress)


def lines(out: Path) -> list[bytes]:
    return sorted((out / "predictions.jsonl").read_bytes().splitlines())


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
    assert (session["engine"], session["actors"]) == ("ray", 2) and session["device"].startswith("cpu (")


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


def test_predictions_are_written_as_parquet_and_resumed(cluster, photos, expected, tmp_path):
    """The folder keeps the record and the failures; a killed session's files count."""
    place, source = str(tmp_path / "found"), source_of(photos)
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


def test_a_detector_is_applied_on_ray_as_in_one_process(cluster, photos, tmp_path, save_scene):
    data = read_training_set(run_on_scenes(tmp_path, save_scene))
    train_detector(data, tmp_path / "detector", small(steps=1), TrainingOptions())
    load = partial(load_detector_model, tmp_path / "detector", device="cpu")
    for name, engine in {"plain": None, "ray": RayEngine(load, actors=1)}.items():
        options = RunOptions(loader=LoaderOptions(workers=1), engine=engine, visualize=True)
        run_detector(source_of(tmp_path / "photos"), load(), tmp_path / name, options)
    ray, plain = (read_run(tmp_path / name).predictions for name in ("ray", "plain"))
    assert ray.keys() == plain.keys()
    for name, one in ray.items():  # of other batches, and so rounded differently
        assert one.objects[0].box_xyxy == pytest.approx(plain[name].objects[0].box_xyxy, abs=1e-3)
    assert len(list((tmp_path / "ray" / "pictures").iterdir())) == 4


def test_a_head_learns_from_features_that_actors_compute(cluster, photos, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    for path in photos.glob("1*.png"):
        os.link(path, few / path.name)
    backbone = load_backbone(**TINY)
    run(source_of(few), backbone, tmp_path / "run", options=RunOptions(LoaderOptions(workers=0), masks=True))
    training = HeadTraining(FeatureConfig(facet="k"), rounds=1)
    heads = []
    for engine in (None, RayEngine(partial(load_backbone, **TINY), actors=1)):
        options = TrainOptions(LoaderOptions(workers=0), engine=engine)
        trained = train_head(
            read_run(tmp_path / "run"), backbone, tmp_path / f"{len(heads)}", training, options
        )
        assert trained.images == 8 and not trained.failures
        heads.append(trained.head)
    assert heads[1].weight == pytest.approx(heads[0].weight, abs=1e-4) and heads[0].weight != (0.0,) * 192


def test_a_probe_of_tokens_that_actors_make(cluster, photos, tmp_path):
    """Of the same patches, whichever batch they are in; a damaged image is a failure."""
    for number, path in enumerate([*sorted(photos.glob("[12]*.png")), photos / "bad.jpg"]):
        folder = tmp_path / ("train", "val", "test")[number % 3] / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        os.link(path, folder / path.name)
    given = f"probe {tmp_path} -b tiny --device cpu --tokens cls,normal --resize 48 --crop 48 --json --out"
    here = CliRunner().invoke(main, [*given.split(), str(tmp_path / "here"), "--workers", "0"])
    by_ray = [*given.split(), str(tmp_path / "ray"), "--engine", "ray", "--actors", "1"]
    ray = CliRunner().invoke(main, by_ray)
    assert ray.exit_code == 0 and ray.stdout == here.stdout and "bad.jpg" in ray.stderr, ray.output
    record = json.loads((tmp_path / "ray" / "probe.json").read_text())
    assert len(record["scores"]) >= 2 and list(record["failures"]) == ["test/a/bad.jpg"]


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


def test_the_pipeline_of_the_docs(cluster, photos, tmp_path):
    some = tmp_path / "photos"
    some.mkdir()
    for path in (*photos.glob("0*.png"), photos / "bad.jpg"):  # Arrow lists no names that are not UTF-8
        os.link(path, some / path.name)
    page = (Path(REPOSITORY) / "docs" / "scale.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    code = code.replace("s3://bucket/photos", str(some)).replace("s3://bucket/found", str(tmp_path / "found"))
    code = (
        code.replace('"dinov2_reg"', '"tiny"').replace("size=8", "size=1").replace("num_gpus=1", "num_cpus=1")
    )
    exec(compile(code, "docs/scale.md", "exec"), {})
    rows = pyarrow.dataset.dataset(tmp_path / "found").to_table().to_pylist()
    boxes = {Path(row["path"]).name: row["boxes_xyxy"] for row in rows}
    assert len(rows) == 10 and boxes["bad.jpg"] == [] and len(boxes["01.png"][0]) == 4
