"""Training a head on a run: what it finds, the same result twice and after an interruption, and refusals."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import refusal
from PIL import Image

from lost_reg.backbones.loading import load_backbone
from lost_reg.boxes import iou
from lost_reg.discovery.features import FeatureConfig
from lost_reg.discovery.head import HeadConfig
from lost_reg.discovery.methods import Setting
from lost_reg.images.sources import list_images
from lost_reg.masks.grids import stored
from lost_reg.notebook.discover import discover
from lost_reg.progress import no_phases, no_progress
from lost_reg.runs.folder import Results, read_run
from lost_reg.runs.heads import WORK_FOLDER, is_held_out, read_head
from lost_reg.runs.image_folder import ImageRoot
from lost_reg.runs.options import LoaderOptions, RunOptions
from lost_reg.runs.run import run
from lost_reg.runs.sources import source_of_files
from lost_reg.training import feature_cache
from lost_reg.training.feature_cache import FeatureCache
from lost_reg.training.head import train_head
from lost_reg.training.head_config import HeadTraining, TrainOptions
from lost_reg.training.head_fit import in_chunks
from lost_reg.training.head_images import FeatureSource, as_in_run, images_to_train_on

LOADER = LoaderOptions(workers=0)
FEATURES = FeatureConfig(facet="k", max_side=128)
ROUNDS = HeadTraining(FEATURES, rounds=3)


@pytest.fixture(scope="module")
def tiny():
    return load_backbone("tiny", device="cpu")


@pytest.fixture(scope="module")
def results(tmp_path_factory, tiny, save_scene) -> Results:
    """A run with masks on twelve scenes, each with one coloured rectangle; of two sizes."""
    folder = tmp_path_factory.mktemp("scenes")
    random = np.random.default_rng(0)
    for number in range(12):
        size_hw = (96, 128) if number % 3 else (128, 96)
        top, left = (int(random.integers(0, side // 2)) for side in size_hw)
        box = (left, top, left + 48, top + 48)
        save_scene(folder / "images" / f"{number:02}.png", size_hw, box, seed=number)
    source = source_of_files(list_images([str(folder / "images")]), [str(folder)])
    run(source, tiny, folder / "run", Setting(), RunOptions(LOADER, masks=True))
    return read_run(folder / "run")


def train(results, tiny, out, training=ROUNDS, **options):
    progress = options.pop("progress", no_phases)
    chosen = TrainOptions(**{"loader": LOADER, **options})
    return train_head(results, tiny, out, training, chosen, progress=progress)


def numbers(head) -> tuple:
    return (*head.weight, head.bias)


def images(results) -> list[Path]:
    return [Path(results.record["root"], name) for name in sorted(results.predictions)]


def test_it_finds_what_the_run_found_on_images_held_out(results, tiny, tmp_path):
    trained = train(results, tiny, tmp_path)
    held_out = {name for name in results.predictions if is_held_out(name, trained.head.trained_on)}
    assert trained.held_out == len(held_out) == 2 and trained.images == 10
    assert read_head(tmp_path) == trained.head and sorted(path.name for path in tmp_path.iterdir()) == [
        ".lock", "head.json",
    ]  # fmt: skip
    found = discover(images(results), tiny, Setting(FeatureConfig(), HeadConfig(trained.head)))
    overlaps = {
        Path(one.image).name: float(
            iou(one.box_xyxy, [results.predictions[Path(one.image).name].box_xyxy])[0]
        )
        for one in found
    }
    assert np.mean([*overlaps.values()]) > 0.7 and all(overlaps[name] > 0.4 for name in held_out)


def test_what_it_was_trained_on_is_recorded(results, tiny, tmp_path):
    recorded = train(results, tiny, tmp_path, limit=5).head.trained_on
    assert (recorded["images"], recorded["limit"], recorded["method"]) == (5, 5, "lost")
    assert recorded["run"] == str(results.folder) and recorded["root"] == results.record["root"]
    assert recorded["options"] == {"rounds": 3, "ridge": 1.0, "refine": False, "holdout": 0.2, "seed": 0}
    json.dumps(recorded)


def test_the_same_twice_and_with_other_batches(results, tiny, tmp_path):
    one, two = (train(results, tiny, tmp_path / name).head for name in "ab")
    assert numbers(one) == numbers(two)
    other = train(results, tiny, tmp_path / "c", loader=LoaderOptions(batch_size=3, workers=0)).head
    assert numbers(other) == numbers(one)


@pytest.mark.parametrize(("phase", "calls"), [("features", 4), ("learning", 5), ("learning", 30)])
def test_an_interrupted_training_ends_as_one_that_was_not(results, tiny, tmp_path, phase, calls):
    count = 0

    def progress(what):
        def stop(*_):
            nonlocal count
            count += what == phase
            if count > calls:
                raise KeyboardInterrupt

        return stop

    with pytest.raises(KeyboardInterrupt):
        train(results, tiny, tmp_path / "stopped", progress=progress)
    assert (tmp_path / "stopped" / WORK_FOLDER).is_dir()
    assert "`resume` continues it" in refusal(train, results, tiny, tmp_path / "stopped")
    again = train(results, tiny, tmp_path / "stopped", resume=True)
    assert numbers(again.head) == numbers(train(results, tiny, tmp_path / "whole").head)
    assert "holds a head already" in refusal(train, results, tiny, tmp_path / "stopped", resume=True)


def test_a_training_with_other_options_is_not_continued(results, tiny, tmp_path):
    def stop(what):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(results, tiny, tmp_path, progress=stop)
    other = replace(ROUNDS, ridge=2.0)
    assert "with other settings (ridge)" in refusal(train, results, tiny, tmp_path, other, resume=True)


@pytest.mark.parametrize("gib", [0.0, 30e-6])
def test_features_beyond_the_budget_are_computed_anew(results, tiny, tmp_path, gib):
    without = train(results, tiny, tmp_path / "a", replace(ROUNDS, cache_gib=gib)).head
    cached = train(results, tiny, tmp_path / "b").head
    assert np.allclose(numbers(without), numbers(cached), atol=2e-3 * max(map(abs, cached.weight)))


def test_images_that_cannot_be_used_are_left_out_and_named(results, tiny, tmp_path):
    trained_on = train(results, tiny, tmp_path / "whole").head.trained_on
    names = sorted(name for name in results.predictions if not is_held_out(name, trained_on))
    root = tmp_path / "images"
    root.mkdir()
    for name in names:
        (root / name).write_bytes(Path(results.record["root"], name).read_bytes())
    (root / names[0]).write_bytes(b"no image")
    with Image.open(root / names[1]) as image:
        image.resize((64, 64)).save(root / names[1])
    trained = train(results, tiny, tmp_path / "head", image_root=ImageRoot(root))
    assert trained.images == len(names) - 2 and {*trained.failures} == {*names[:2]}
    assert "size is not the one" in trained.failures[names[1]]
    for name in names:
        (root / name).write_bytes(b"no image")
    line = refusal(train, results, tiny, tmp_path / "none", image_root=ImageRoot(root))
    assert line.startswith(f"none of the {len(names)} images could be used: ")
    (root / names[2]).unlink()
    assert f"1 of {len(names)} images" in refusal(
        train, results, tiny, tmp_path / "h", image_root=ImageRoot(root)
    )


def test_a_full_disk_is_one_line_and_what_was_done_is_kept(results, tiny, tmp_path, monkeypatch):
    def full(self, features):
        raise self._cannot_write(OSError(errno.ENOSPC, "No space left on device"))

    with monkeypatch.context() as patched:
        patched.setattr(feature_cache.FeatureCache, "add", full)
        assert "No space left" in refusal(train, results, tiny, tmp_path)
    assert numbers(train(results, tiny, tmp_path, resume=True).head)


def test_a_run_that_nothing_can_be_learned_from_is_refused(results, tiny, tmp_path):
    bare = {
        name: replace(one, objects=tuple(replace(found, mask=None) for found in one.objects))
        for name, one in results.predictions.items()
    }
    assert "no masks: run again with `masks`" in refusal(
        train, replace(results, predictions=bare), tiny, tmp_path
    )
    nothing = {name: replace(one, objects=()) for name, one in results.predictions.items()}
    assert "found no objects" in refusal(train, replace(results, predictions=nothing), tiny, tmp_path)
    few = dict([*results.predictions.items()][:1])
    chosen = replace(ROUNDS, holdout=0.0)
    assert "1 are left to learn from" in refusal(
        train, replace(results, predictions=few), tiny, tmp_path, chosen
    )
    assert "no such folder of images" in refusal(
        train, results, tiny, tmp_path, image_root=ImageRoot(tmp_path / "x")
    )
    (tmp_path / "file").write_text("")
    assert "it is a file" in refusal(train, results, tiny, tmp_path / "file")


def test_its_own_masks_are_refined_if_asked_for(results, tiny, tmp_path):
    """The bilateral solver takes back a mask that reaches a column of patches beyond the rectangle."""
    image, pixels = "00.png", np.full((128, 96, 3), 90, np.uint8)
    pixels[32:96, 16:64] = (200, 40, 40)
    Image.fromarray(pixels).save(tmp_path / image)
    images = images_to_train_on(results, replace(ROUNDS, holdout=0.0), TrainOptions(LOADER))
    images.paths[image] = tmp_path / image
    coarse, exact = np.zeros((2, 8, 6), bool)
    coarse[2:6, 1:5] = exact[2:6, 1:4] = True
    with FeatureCache(tmp_path / "cache", 1e9) as cache:
        source = FeatureSource(images, tiny, FEATURES, LOADER, cache)
        source.fill(no_progress)
        (chunk,) = in_chunks([cache.get(image)], tiny.device)
        (refined,) = source.refined(lambda _: [coarse])(chunk)
        (none,) = source.refined(lambda _: [coarse & False])(chunk)
    assert (refined == exact).all() and not none.any()


def test_images_are_read_as_the_run_read_them(results):
    for apply_exif, background in ((True, "#102030"), (False, None)):
        settings = {**results.settings, "apply_exif": apply_exif, "background": background}
        loader = as_in_run(LOADER, replace(results, record={**results.record, "settings": settings}))
        assert (loader.apply_exif, loader.background) == (apply_exif, background)
        assert loader.workers == LOADER.workers


def test_a_head_that_refines_its_masks_is_another(results, tiny, tmp_path):
    refined = train(results, tiny, tmp_path / "a", replace(ROUNDS, refine=True)).head
    assert refined.trained_on["options"]["refine"] is True
    assert numbers(refined) != numbers(train(results, tiny, tmp_path / "b").head)


def test_masks_of_whole_images_teach_nothing(results, tiny, tmp_path):
    predictions = {
        name: replace(
            one, objects=(replace(one.objects[0], mask=stored(np.ones((1, 1), bool), one.size_hw)),)
        )
        for name, one in results.predictions.items()
    }
    assert "cover all of each image" in refusal(
        train, replace(results, predictions=predictions), tiny, tmp_path
    )


@pytest.mark.parametrize(
    "changes",
    [{"rounds": -1}, {"ridge": 0.0}, {"holdout": 1.0}, {"cache_gib": -1.0}, {"ridge": float("nan")}],
)
def test_options_that_are_not_possible_are_refused(changes):
    assert f"`{next(iter(changes))}`" in refusal(HeadTraining, **changes)
