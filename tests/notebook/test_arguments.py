"""What `discover` takes besides images: presets, options by name, what stands for a backbone, and errors."""

from __future__ import annotations

import numpy as np
import pytest
from colours import PATCH, patch_means, planted, smooth
from helpers import made_up_head, refusal
from PIL import Image

from lost_reg import (
    FeatureConfig,
    LostConfig,
    Preprocessing,
    Setting,
    discover,
    discover_stream,
    load_backbone,
)
from lost_reg.discovery.methods import preset_setting, with_changes
from lost_reg.discovery.presets import chosen_preset, scaled_for_own_images
from lost_reg.notebook.discover import setting_of as _setting
from lost_reg.runs.heads import write_head


def setting_of(backbone, method=None, features=None, **options) -> Setting:
    return _setting(backbone, method, features, options)


OF_LOST = scaled_for_own_images(Setting(), None)  # as published, at a longest side of 448 pixels


# --- settings ----------------------------------------------------------------------------------------


def test_by_default_the_preset_best_is_used(random_backbone):
    best = chosen_preset(None, "best", "bundled")
    assert setting_of(random_backbone) == setting_of(random_backbone, "best") == best
    assert setting_of(random_backbone, preset="best") == best != Setting()


def test_a_preset_of_a_method_is_chosen_with_it_or_alone(random_backbone):
    native = preset_setting("maskcut", "native")
    assert setting_of(random_backbone, "maskcut", preset="native") == native
    assert setting_of(random_backbone, "maskcut") == preset_setting("maskcut") != native
    assert setting_of(random_backbone, preset="published") == OF_LOST
    line = refusal(setting_of, random_backbone, preset="native")
    assert line == "the preset 'native' belongs to a method: add `method` maskcut"


def test_lost_is_the_method_by_its_name_and_the_preset_where_that_is_asked_for(colours, random_backbone):
    assert setting_of(colours, "lost") == OF_LOST
    assert setting_of(colours, preset="lost").method.name == "lost-rim"
    assert setting_of(random_backbone, preset="lost") == OF_LOST  # of a family that LOST finds objects in


def test_options_change_the_fields_of_features_and_of_the_method(random_backbone):
    chosen = setting_of(random_backbone, "lost", max_side=64, max_objects=3, facet="qk", bias=-0.2)
    changes = {"max_side": 64, "max_objects": 3, "facet": "qk", "bias": -0.2}
    assert chosen == with_changes(Setting(), changes)
    assert setting_of(random_backbone, LostConfig(bias=-0.2), max_objects=2) == Setting(
        OF_LOST.features, LostConfig(bias=-0.2, max_objects=2)
    )
    assert setting_of(
        random_backbone, "lost", FeatureConfig(facet="v"), max_side=64
    ).features == FeatureConfig(facet="v", max_side=64)
    assert setting_of(random_backbone, "lost", refine="bilateral").refine == "bilateral"
    whole = Setting(FeatureConfig(facet="v"), LostConfig(k_patches=3))
    assert setting_of(random_backbone, whole, max_objects=2).config == LostConfig(k_patches=3, max_objects=2)


def test_options_reach_what_is_found(colours, random_backbone):
    image = planted((96, 128), (32, 16, 80, 48))
    (found,) = discover(image, colours, "lost", max_side=64)
    assert found.grid_hw == (6, 8) and found.box_xyxy == (32, 16, 80, 48)
    image_of_many = smooth((96, 128))
    counts = [
        len(discover(image_of_many, random_backbone, "lost", bias=-0.5, max_objects=most)[0].objects)
        for most in (1, 3)
    ]
    assert counts == [1, 3]
    assert discover(image, colours, "lost")[0].objects[0].mask is None
    assert discover(image, colours, "lost", masks=True)[0].objects[0].mask is not None
    (streamed,) = discover_stream([("a", image)], colours, "lost", max_side=64, masks=True)
    assert streamed.grid_hw == (6, 8) and streamed.objects[0].mask is not None


def test_a_head_is_read_from_its_folder(random_backbone, tmp_path):
    head = made_up_head(192)
    write_head(head, tmp_path)
    assert setting_of(random_backbone, "head", head=str(tmp_path)).config.head == head


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"preset": "x"}, "unknown `preset` 'x': choose among"),
        ({"max_sides": 3}, "has no option `max_sides`"),
        (
            {"tau": 0.2, "method": "lost"},
            "the method lost has no option `tau`: it belongs to `method` tokencut",
        ),
        ({"max_side": 0}, "expected a `max_side` of at least 1"),
        ({"max_side": "big"}, "`max_side` cannot be 'big'"),
        ({"max_objects": 0, "method": "lost"}, "`max_objects`"),
        ({"refine": "x"}, "`refine`"),
        ({"method": LostConfig(), "preset": "best"}, "`preset` stands for options"),
        ({"method": "tokencut", "preset": "best"}, "leave out `method`"),
        ({"method": Setting(), "features": FeatureConfig()}, "a Setting has features of its own"),
    ],
    ids=str,
)
def test_what_is_not_possible_is_named_as_in_python(random_backbone, given, words):
    line = refusal(discover, planted(), random_backbone, **given)
    assert words in line and "--" not in line


# --- what stands for a backbone ----------------------------------------------------------------------


def test_a_name_or_a_function_with_its_patch_size_stands_for_a_backbone():
    image = planted()
    assert discover(image, "tiny") == discover(image, load_backbone("tiny"))
    expected = discover(image, load_backbone(patch_means, preprocessing=Preprocessing(PATCH)), "lost")
    assert discover(image, (patch_means, PATCH), "lost") == expected


def test_a_function_without_its_patch_size_is_refused():
    line = refusal(discover, planted(), patch_means)
    assert line == "a function as `backbone` needs its patch size: give both, as (function, 16)"
    assert "patch size of at least 1" in refusal(discover, planted(), (patch_means, 0))


# --- errors ------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path):
    """A folder with an image, a damaged one and an empty file."""
    Image.fromarray(planted()).save(tmp_path / "b.png")
    (tmp_path / "a.jpg").write_text("no image")
    (tmp_path / "c.jpg").touch()
    return tmp_path


def test_images_that_cannot_be_used_are_an_error_or_skipped(mixed, colours):
    assert refusal(discover, mixed, colours, "lost").startswith(f"{mixed / 'a.jpg'}: not an image")
    images = [planted(), mixed, mixed / "gone.jpg", np.zeros((2, 2, 7), np.uint8), planted() * 2.0, planted()]
    found = discover(images, colours, "lost", on_error="skip")
    assert [one.image for one in found] == ["[0]", str(mixed / "b.png"), "[5]"]
    assert all(one.box_xyxy == (16, 8, 40, 24) for one in found)
    names = [str(mixed / "a.jpg"), str(mixed / "c.jpg"), str(mixed / "gone.jpg"), "[3]", "[4]"]
    assert [one.image for one in found.failures] == names
    assert all(one.reason for one in found.failures)
    assert discover(planted(), colours, "lost").failures == ()


def test_another_word_for_what_happens_to_errors_is_refused(colours):
    line = refusal(discover, planted(), colours, on_error="ignore")
    assert line == "expected `on_error` to be 'raise' or 'skip', but got 'ignore'"
