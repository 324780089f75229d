"""The numbers of the page are those of a run, and those of LOST's definition in plain loops."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import refusal
from lost_oracle import flood

from lost_reg.artifacts.norms import block_norms
from lost_reg.backbones.base import normalized
from lost_reg.cli.setting_options import chosen_setting
from lost_reg.discovery.methods import PUBLISHED
from lost_reg.discovery.presets import OWN_IMAGES_SIDE
from lost_reg.explore import MOST_SIDE
from lost_reg.explore.features import FeatureStore, OneImage
from lost_reg.explore.reader import Reader, page_image
from lost_reg.explore.views import (
    attention_of,
    centre_of,
    found_by,
    lost_seed,
    method_titles,
    methods_offered,
    patch_at,
    patch_view,
    rescaled,
    scale_of,
    scales_of,
    setting_of,
    token_norms,
)
from lost_reg.images.reading import pad_to_patches
from lost_reg.masks.grids import cells
from lost_reg.notebook.discover import discover, discover_stream
from lost_reg.runs.options import LoaderOptions

LOST, TOKENCUT, HEAD = (f"{name}/{PUBLISHED}" for name in ("lost", "tokencut", "head"))
WITHOUT_A_HEAD = [key for key in method_titles() if key != HEAD]


@pytest.fixture(scope="module")
def batch(tiny, image):
    """The image as the backbone gets it."""
    return normalized([replace(image, pixels=pad_to_patches(image.pixels, tiny.patch_size))], tiny)


@pytest.mark.parametrize("method", WITHOUT_A_HEAD)
def test_objects_are_those_of_a_run(one, tiny, photo, image, method):
    setting = setting_of(tiny, method, {"attention_head": 1}, 131)  # DINO-seg's 4 is none of tiny's
    prediction, maps = found_by(one, setting)
    (expected,) = discover(photo, tiny, setting, masks=True)
    found = rescaled(prediction, image.original_hw)
    assert found.objects and found.size_hw == expected.size_hw == (150, 200)
    for ours, theirs in zip(found.objects, expected.objects, strict=True):
        assert (ours.box_xyxy, ours.score, ours.seed) == (theirs.box_xyxy, theirs.score, theirs.seed)
        assert ours.mask.counts == theirs.mask.counts
        assert ours.mask.spans_hw == pytest.approx(theirs.mask.spans_hw)
    assert maps.mask.shape == one.grid_hw == (7, 9)


@pytest.mark.parametrize("method", ["/best", LOST, "maskcut/published"])
def test_each_preset_finds_what_a_run_on_ones_own_photo_finds(tiny, large, method):
    """At its own size: 336 pixels, 448, and a square of 480."""
    name, _, preset = method.partition("/")
    options = {"method": name or None, "preset": preset}
    of_run = chosen_setting(options, tiny.family, own_images=True)
    setting = setting_of(tiny, method)
    assert setting == of_run
    with Reader([large]) as reader:
        image = page_image(reader.listed(0), scales_of([tiny]))
    prediction, _ = found_by(OneImage(tiny, image.at[scale_of(setting)]), setting)
    (expected,) = discover(large, tiny, of_run)
    found = rescaled(prediction, image.original_hw).objects
    assert found and [one.box_xyxy for one in found] == [one.box_xyxy for one in expected.objects]


def test_features_are_computed_once_for_each_size_whatever_is_asked(tiny, large, monkeypatch):
    with Reader([large]) as reader:
        image = page_image(reader.listed(0), {(64, None), (48, None)})
    passes, compute = [], type(tiny).facets
    monkeypatch.setattr(type(tiny), "facets", lambda self, *args: passes.append(1) or compute(self, *args))
    store = FeatureStore()
    for side in (64, 48, 64):
        for method in WITHOUT_A_HEAD:
            for changes in ({}, {"facet": "q", "layer": (-3, -1)}, {"bias": -0.3, "tau": 0.4}):
                setting = setting_of(tiny, method, {"attention_head": 2, **changes}, side)
                one = store.of(tiny, image.at[scale_of(setting)])
                found_by(one, setting)
                patch_view(one, setting, (2, 2))
        token_norms(one, -2), attention_of(one, "class", -2)
    assert len(passes) == 2


@pytest.mark.parametrize("changes", [{}, {"bias": -0.2}, {"bias": "auto", "facet": "qkv"}], ids=str)
def test_at_its_own_seed_lost_expands_what_it_finds(one, tiny, changes):
    setting = setting_of(tiny, LOST, changes)
    (expected,) = found_by(one, setting)[0].objects
    view = patch_view(one, setting, lost_seed(one, setting))
    (grown,) = view.expanded.objects
    assert grown == expected and view.patch == expected.seed and view.degree == expected.details["degree"]


@pytest.mark.parametrize("patch", [(0, 0), (3, 4), (6, 8)])
@pytest.mark.parametrize("bias", [0.0, -0.3])
def test_any_patch_expands_by_losts_definition(one, tiny, patch, bias):
    """Its candidates are the patch and then those of lowest degree, as if its own were the lowest."""
    k = 20
    setting = setting_of(tiny, LOST, {"bias": bias})
    setting = replace(setting, config=replace(setting.config, k_patches=k))
    view = patch_view(one, setting, patch)
    features = one.features_by(setting.features).values[0].double().numpy()
    gram = features @ features.T + bias * np.square(features).sum(axis=1).mean()
    rows, columns = one.grid_hw
    seed = patch[0] * columns + patch[1]
    degrees = [sum(gram[p, q] > 0 for q in range(len(gram)) if q != p) for p in range(len(gram))]
    ordered = sorted(range(len(gram)), key=lambda p: (p != seed, degrees[p], p))
    similar = [p for p in ordered[:k] if gram[seed, p] > 0]
    mask = [bool(gram[similar, q].sum() > 0) or q == seed for q in range(len(gram))]
    expected = flood(mask, seed, rows, columns)
    (grown,) = view.expanded.objects
    assert set(np.flatnonzero(cells(grown.mask))) == expected
    assert view.degree == degrees[seed]
    assert view.positive == pytest.approx(sum(degrees) / (len(gram) * (len(gram) - 1)), abs=1e-6)
    np.testing.assert_allclose(view.affinities.ravel(), gram[seed], rtol=1e-4, atol=1e-4 * abs(gram).max())
    assert not view.above_tau


def test_cut_methods_show_cosines_above_tau(one, tiny):
    view = patch_view(one, setting_of(tiny, TOKENCUT, {"tau": 0.35}), (2, 5))
    features = one.features_by(setting_of(tiny, TOKENCUT).features).values[0].double()
    units = features / features.norm(dim=1, keepdim=True)
    assert view.above_tau
    expected = (units @ units[2 * 9 + 5] - 0.35).numpy()
    np.testing.assert_allclose(view.affinities.ravel(), expected, atol=1e-5)


def test_norms_are_those_of_the_tokens_that_enter_a_block(one, tiny, batch):
    after_blocks = block_norms(tiny, batch)  # (blocks, 1, N)
    for layer in range(1, tiny.depth):
        np.testing.assert_allclose(token_norms(one, layer).ravel(), after_blocks[layer - 1, 0], rtol=1e-5)


def test_norms_and_attention_are_those_of_a_runs_maps(one, tiny, image):
    found = []
    images = [("a", image.pixels)]
    list(
        discover_stream(
            images, tiny, "lost", loader=LoaderOptions(workers=0), on_maps=lambda *a: found.append(a[1])
        )
    )
    (maps,) = found
    np.testing.assert_array_equal(token_norms(one, -1), maps.values["norms"])
    mean, *heads = maps.attention["class"]
    np.testing.assert_allclose(attention_of(one, "class", -1), mean, rtol=1e-6)
    for head, expected in enumerate(heads):
        np.testing.assert_array_equal(attention_of(one, "class", -1, head), expected)


def test_attention_is_that_of_the_chosen_block_and_token(one, tiny, batch):
    for layer in (0, -2):
        expected = tiny.prefix_attention(batch, layer)[0, 0]
        np.testing.assert_array_equal(attention_of(one, "class", layer, 1).ravel(), expected[1])
    register = attention_of(one, "register 4", -1)
    np.testing.assert_allclose(register.ravel(), tiny.prefix_attention(batch)[0, 4].mean(dim=0), rtol=1e-6)
    assert "no token 'register 5'" in refusal(attention_of, one, "register 5", -1)
    assert f"heads 0 to {tiny.heads - 1}" in refusal(attention_of, one, "class", -1, tiny.heads)


def test_positions_and_patches_belong_together(one):
    """Also in the last row and column, most of which is padding."""
    rows, columns = one.grid_hw
    for row in range(rows):
        for col in range(columns):
            position = centre_of(one, (row, col))
            assert max(position) <= 1 and patch_at(one, position) == (row, col)
    assert patch_at(one, (0.0, 0.0)) == (0, 0) and patch_at(one, (1.0, 1.0)) == (rows - 1, columns - 1)
    assert patch_at(one, (-5.0, 7.0)) == (0, columns - 1)
    assert patch_view(one, setting_of(one, LOST), (99, -1)).patch == (rows - 1, 0)


def test_a_preset_brings_its_size_and_a_given_one_replaces_it(tiny):
    sizes = {method: scale_of(setting_of(tiny, method)) for method in WITHOUT_A_HEAD}
    own = {"/best": (336, None), "maskcut/published": (None, 480), "maskcut/native": (MOST_SIDE, None)}
    assert sizes == {**dict.fromkeys(sizes, (OWN_IMAGES_SIDE, None)), **own}
    assert scales_of([tiny]) == {(336, None), (448, None), (None, 480), (1024, None)}
    assert {scale_of(setting_of(tiny, method, None, 200)) for method in sizes} == {(200, None)}
    assert scales_of([tiny], 200) == {(200, None)}


def test_settings_take_what_the_method_has(tiny):
    every = {"bias": -0.25, "tau": 0.3, "max_objects": 4, "facet": "q", "layer": -2}
    for method in WITHOUT_A_HEAD:
        setting = setting_of(tiny, method, every)
        for name, value in every.items():
            if hasattr(setting.config, name):
                assert getattr(setting.config, name) == value
    assert setting_of(tiny, LOST, every).features.facet == "q"
    assert setting_of(tiny, LOST, every).features.layer == -2
    assert setting_of(tiny, "/best").method.name == "spread"


@pytest.mark.parametrize(
    "method, changes, reason",
    [
        ("nonsense", {}, "unknown method 'nonsense'"),
        (LOST, {"facet": "x"}, "unknown facet 'x'"),
        (LOST, {"bias": float("nan")}, "`bias`"),
        (TOKENCUT, {"tau": 3.0}, "`tau` from -1 to 1"),
        (LOST, {"layer": "x"}, "`layer` cannot be 'x'"),
    ],
)
def test_settings_that_are_none_are_refused(tiny, method, changes, reason):
    assert reason in refusal(setting_of, tiny, method, changes)


def test_a_head_is_offered_where_there_is_one(tiny):
    dinov2 = SimpleNamespace(
        name="dinov2_vits14",
        family="DINOv2",
        prefix_tokens=("class",),
        heads=6,
        from_last=lambda layer: layer,
    )
    assert HEAD not in methods_offered(tiny) and HEAD in methods_offered(dinov2)
    assert "no head comes with lost-reg for tiny" in refusal(setting_of, tiny, HEAD)
    setting = setting_of(dinov2, HEAD)
    assert setting.config.head.backbone == "dinov2_vits14"
    assert setting.features == setting.config.head.features and scale_of(setting) in scales_of([dinov2])


def test_only_what_works_with_the_backbone_is_offered(tiny):
    dino_seg = {"dino-seg/published", "dino-seg/lost-script"}  # head 4; tiny has three
    assert set(method_titles()) - set(methods_offered(tiny)) == {HEAD, *dino_seg}
    without_class = SimpleNamespace(
        name="siglip", family="", prefix_tokens=(), heads=12, from_last=lambda layer: layer
    )
    assert set(method_titles()) - set(methods_offered(without_class)) == {
        HEAD, "background/published", *dino_seg,
    }  # fmt: skip


def test_a_layer_that_is_not_there_is_refused(one, tiny):
    assert "has no layer -99" in refusal(found_by, one, setting_of(tiny, LOST, {"layer": -99}))


def test_degenerate_features_have_no_infinite_map(tiny, image):
    """A grey image: all affinities are alike, and nothing divides by zero."""
    grey = replace(image, pixels=np.full_like(image.pixels, 128))
    one = OneImage(tiny, grey)
    for method in (LOST, TOKENCUT):
        view = patch_view(one, setting_of(tiny, method), (1, 1))
        assert np.isfinite(view.affinities).all() and len(view.expanded.objects) == 1
    assert torch.isfinite(torch.from_numpy(token_norms(one, -1))).all()
