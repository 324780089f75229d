"""Heads as files, and whether they fit a backbone."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from helpers import made_up_head, refusal

from lost_reg.discovery.features import FeatureConfig
from lost_reg.discovery.head import HeadConfig
from lost_reg.discovery.methods import Setting, describe_setting, preset_setting, with_changes
from lost_reg.runs.heads import (
    WORK_FOLDER,
    bundled_heads,
    check_free_for_head,
    drawing,
    fitted,
    is_held_out,
    other_weights,
    read_head,
    write_head,
)

HEAD = made_up_head(192, features=FeatureConfig(facet="v", max_side=96), trained_on={"images": 7})


def test_a_head_is_read_as_it_was_written(tmp_path):
    write_head(HEAD, tmp_path / "a")
    for path in (tmp_path / "a", tmp_path / "a/head.json"):
        assert read_head(path) == HEAD and read_head(path).trained_on == {"images": 7}


@pytest.mark.parametrize(
    "content", ["", "{}", "[1]", '{"weight": ["a"]}', json.dumps({**vars(HEAD), "features": {"facet": "z"}})]
)
def test_a_file_that_is_no_head_is_refused(tmp_path, content):
    (tmp_path / "head.json").write_text(content)
    assert "is not a head" in refusal(read_head, tmp_path)


def test_a_folder_without_a_head_is_refused(tmp_path):
    assert "no head.json in it" in refusal(read_head, tmp_path)
    assert "no such head" in refusal(read_head, tmp_path / "missing")
    (tmp_path / WORK_FOLDER).mkdir()
    assert "its training has not finished" in refusal(read_head, tmp_path)


def test_a_training_that_replaces_a_head_is_resumed(tmp_path):
    write_head(HEAD, tmp_path)
    assert "`overwrite` replaces it" in refusal(check_free_for_head, tmp_path, resume=True)
    (tmp_path / WORK_FOLDER).mkdir()
    check_free_for_head(tmp_path, resume=True)
    assert "`overwrite` replaces it" in refusal(check_free_for_head, tmp_path, resume=False)
    (tmp_path / "head.json").write_text("{")
    assert "; delete it, or choose another `out`" in refusal(check_free_for_head, tmp_path, resume=True)


def test_a_head_decides_on_the_features_and_a_setting_on_the_size(random_backbone):
    setting = Setting(FeatureConfig(), HeadConfig(HEAD))
    assert fitted(setting, random_backbone).features == HEAD.features
    for size in ({"max_side": 200}, {"square": 64}):
        chosen = fitted(replace(setting, features=FeatureConfig(**size)), random_backbone)
        assert chosen.features == replace(HEAD.features, **{"max_side": None, **size})
    same = replace(setting, features=replace(HEAD.features, max_side=50))
    assert fitted(same, random_backbone).features == same.features
    other = replace(setting, features=FeatureConfig(facet="q"))
    assert "leave out `facet`" in refusal(fitted, other, random_backbone)
    assert fitted(Setting(), random_backbone) == Setting()


def test_a_head_of_another_backbone_is_refused(random_backbone):
    setting = Setting(config=HeadConfig(replace(HEAD, backbone="dino_vits16")))
    assert "features of dino_vits16, not of tiny" in refusal(fitted, setting, random_backbone)


def test_without_a_head_the_one_that_comes_along_is_taken(random_backbone, monkeypatch):
    assert "no head comes with lost-reg for tiny" in refusal(fitted, preset_setting("head"), random_backbone)
    for name in bundled_heads():
        monkeypatch.setattr(random_backbone, "name", name)
        head = fitted(preset_setting("head"), random_backbone).config.head
        assert head.backbone == name and head.trained_on["images"] > 100
    assert "dinov2_vits14" in bundled_heads()


def test_other_weights_are_noted(random_backbone):
    setting = Setting(config=HeadConfig(HEAD))
    assert (
        other_weights(setting, random_backbone) is None and other_weights(Setting(), random_backbone) is None
    )
    other = Setting(config=HeadConfig(replace(HEAD, weights_sha256="ab", weights_name="a.pth")))
    assert "trained on features of a.pth" in other_weights(other, random_backbone)


def test_a_setting_names_its_head_by_the_digest():
    setting = with_changes(preset_setting("head"), {"head": HEAD, "max_objects": 3})
    assert setting.config == HeadConfig(HEAD, 3)
    record = setting.recorded()
    assert record["options"]["head"]["trained_on"] == {"images": 7}
    assert HEAD.digest in describe_setting(record) and str(HEAD.weight[0]) not in json.dumps(record)


def test_about_a_share_is_held_out_and_always_the_same():
    names = [f"{index}.jpg" for index in range(2000)]

    def held_out(below, seed=1):
        trained_on = {"options": {"seed": seed}, "held_out_below": below}
        return {name for name in names if is_held_out(name, trained_on)}

    assert 340 < len(held_out(0.2)) < 460 and held_out(0.2) < held_out(0.5)
    assert held_out(0.2) != held_out(0.2, seed=2) and not held_out(0)
    assert len({drawing(0)(name) for name in names}) == 2000
