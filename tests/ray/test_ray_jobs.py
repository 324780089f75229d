"""What else is done on Ray than runs of methods: detectors, features of heads and probes, own pipelines."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner
from detector_cases import run_on_scenes, small
from open_clip_cases import TOWER, add_small_model

from lost_reg import LoaderOptions, load_backbone
from lost_reg.cli.app import main
from lost_reg.discovery.features import FeatureConfig
from lost_reg.probing import open_clip_models
from lost_reg.probing.records import read_outcomes, read_probe
from lost_reg.runs.folder import read_run
from lost_reg.runs.options import RunOptions
from lost_reg.runs.run import run
from lost_reg.training.detector_data import read_training_set
from lost_reg.training.detector_run import load_detector_model, run_detector
from lost_reg.training.detector_training import TrainingOptions, train_detector
from lost_reg.training.head import train_head
from lost_reg.training.head_config import HeadTraining, TrainOptions

pytest.importorskip("ray.data", reason="Ray is not installed: pip install 'lost-reg[ray]'")
import pyarrow.dataset
from ray_cases import REPOSITORY, TINY, source_of

from lost_reg.ray import RayEngine


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


def linked_classes(photos: Path, folder: Path) -> None:
    """Splits of two classes with some of the photos, and one image that is damaged."""
    for number, path in enumerate([*sorted(photos.glob("[12]*.png")), photos / "bad.jpg"]):
        of_class = folder / ("train", "val", "test")[number % 3] / "ab"[number % 2]
        of_class.mkdir(parents=True, exist_ok=True)
        os.link(path, of_class / path.name)


def test_a_probe_of_tokens_that_actors_make(cluster, photos, tmp_path):
    """Of the same patches, whichever batch they are in; a damaged image is a failure."""
    linked_classes(photos, tmp_path)
    given = f"probe {tmp_path} -b tiny --device cpu --tokens cls,normal --resize 48 --crop 48 --json --out"
    here = CliRunner().invoke(main, [*given.split(), str(tmp_path / "here"), "--workers", "0"])
    by_ray = [*given.split(), str(tmp_path / "ray"), "--engine", "ray", "--actors", "1"]
    ray = CliRunner().invoke(main, by_ray)
    assert ray.exit_code == 0 and ray.stdout == here.stdout and "bad.jpg" in ray.stderr, ray.output
    record = json.loads((tmp_path / "ray" / "probe.json").read_text())
    assert len(record["scores"]) >= 2 and list(record["failures"]) == ["test/a/bad.jpg"]


def test_zero_shot_with_image_towers_in_actors(cluster, photos, tmp_path, monkeypatch):
    pytest.importorskip("open_clip")
    linked_classes(photos, tmp_path)
    model, load = add_small_model(tmp_path), open_clip_models.load_image_tower
    (tmp_path / "template.txt").write_text("a {}\n")

    def load_in_actor(*arguments, **options):  # whose open_clip does not know the model yet
        import open_clip

        open_clip.add_model_config(tmp_path / f"{model}.json")
        (tmp_path / "loaded").touch()
        return load(*arguments, **options)

    monkeypatch.setattr(open_clip_models, "load_image_tower", load_in_actor)
    given = f"probe {tmp_path} --task zero-shot -b {TOWER} --text-model {model} --weights random --device cpu"
    given += f" --templates {tmp_path}/template.txt --json --out"
    here = CliRunner().invoke(main, [*given.split(), str(tmp_path / "here"), "--workers", "0"])
    by_ray = [*given.split(), str(tmp_path / "ray"), "--engine", "ray", "--actors", "1"]
    ray = CliRunner().invoke(main, by_ray)
    assert ray.exit_code == 0 and ray.stdout == here.stdout, ray.output
    assert (tmp_path / "loaded").exists()
    records = [read_probe(tmp_path / name) for name in ("here", "ray")]
    rows = [read_outcomes(tmp_path / name, records[0]).rows[0] for name in ("here", "ray")]
    assert records[0] == records[1] and rows[0].tobytes() == rows[1].tobytes()
    assert records[1].scores[0].test == 6 and list(records[1].failures) == ["test/a/bad.jpg"]


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
