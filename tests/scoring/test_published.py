"""Published numbers, typed in a second time, and which results may stand beside them."""

from __future__ import annotations

import helpers
import pytest

from lost_reg.backbones import zoo
from lost_reg.scoring.published import comparable_number, published_rows

LOST_README = "valeoai/LOST README"
TOKENCUT = "YangtaoWANG95/TokenCut README"
DARCET = "Darcet et al. 2024"
JIANG = "arXiv 2506.08010, table 5"

# (method, backbone): VOC07, VOC12, COCO20k, source; from shared/PUBLISHED.md
FIGURES = {
    ("lost", "DINO ViT-S/16", LOST_README): (61.9, 64.0, 50.7),
    ("lost", "DINO ViT-S/8", LOST_README): (55.5, 57.0, 49.5),
    ("lost", "DINO ViT-B/16", LOST_README): (60.1, 63.3, 50.0),
    ("lost+cad", "DINO ViT-S/16", LOST_README): (65.7, 70.4, 57.5),
    ("lost", "DeiT-III ViT-B (IN-22k)", DARCET): (11.7, 13.1, 10.7),
    ("lost", "DeiT-III ViT-B (IN-22k) + registers", DARCET): (27.1, 32.7, 25.1),
    ("lost", "OpenCLIP ViT-B/16", DARCET): (38.8, 44.3, 31.0),
    ("lost", "OpenCLIP ViT-B/16 + registers", DARCET): (37.1, 42.0, 27.9),
    ("lost", "DINOv2 ViT-L (IN-22k)", DARCET): (35.3, 40.2, 26.9),
    ("lost", "DINOv2 ViT-L (IN-22k) + registers", DARCET): (55.4, 60.0, 42.0),
    ("lost", "DINOv2 ViT-L/14", JIANG): (32.2, 36.8, 25.4),
    ("lost", "DINOv2 ViT-L/14 + registers", JIANG): (56.2, 60.2, 42.3),
    ("lost", "DINOv2 ViT-L/14 + test-time register", JIANG): (53.8, 57.9, 41.9),
    ("lost", "OpenCLIP ViT-B/16", JIANG): (30.8, 35.9, 23.4),
    ("lost", "OpenCLIP ViT-B/16 + test-time register", JIANG): (30.9, 35.9, 23.6),
    ("lost", "DINOv2 + registers", "facebookresearch/dinov2 issue 381"): (None, 35.9, 23.4),
    ("tokencut", "DINO ViT-S/16", TOKENCUT): (68.8, 72.1, 58.8),
    ("tokencut", "DINO ViT-S/8", TOKENCUT): (67.3, 71.6, 60.7),
    ("tokencut", "DINO ViT-B/16", TOKENCUT): (68.8, 72.4, 59.0),
    ("tokencut (masks)", "DINO ViT-S/16", TOKENCUT): (None, None, None),
    ("tokencut + bilateral solver (masks)", "DINO ViT-S/16", TOKENCUT): (None, None, None),
    ("dino-seg", "DINO ViT-S/16", "LOST's paper; remembered"): (45.8, 46.2, 42.1),
    ("lost", "DINO ResNet-50", LOST_README): (36.8, 42.7, 26.5),
    ("lost", "ImageNet ResNet-50", LOST_README): (33.5, 39.1, 25.5),
    ("dss", "DINO ViT", "Deep Spectral Methods; remembered"): (62.7, 66.4, 52.2),
    ("selfmask", "DINO ViT", "SelfMask; remembered"): (72.3, 75.3, 62.7),
    ("found", "DINO ViT-S/8", "FOUND; remembered"): (72.5, 76.1, 62.9),
    ("move", "DINO ViT", "MOVE; remembered"): (76.0, 78.8, 66.6),
    ("peekaboo", "DINO ViT-S/8", "hasibzunair/peekaboo README"): (72.7, 75.9, 64.0),
    ("cutler", "Cascade Mask R-CNN trained on MaskCut", "facebookresearch/CutLER README"): (None, None, None),
}
# Of masks: max F, IoU, accuracy on ECSSD, DUTS-TE and DUT-OMRON.
MASKS = {
    "tokencut (masks)": ((80.3, 71.2, 91.8), (67.2, 57.6, 90.3), (60.0, 53.3, 88.0)),
    "tokencut + bilateral solver (masks)": ((87.4, 77.2, 93.4), (75.5, 62.4, 91.4), (69.7, 61.8, 89.7)),
}
DATASETS = ("voc07", "voc12", "coco20k")
FEATURES = {"facet", "layer", "center", "normalize", "max_side"}
OPTIONS = {
    "lost": {"bias", "k_patches"},
    "tokencut": {"tau", "eps"},
    "dino-seg": {"attention_head", "mass", "rule"},
}
TOKENCUT_OPTIONS = {"tau": 0.2, "eps": 1e-5}
DINO_SEG_OPTIONS = {"attention_head": 4, "mass": 0.6, "rule": "code"}


def run_settings(weights="timm/vit_small_patch16_224.dino", *, source="hub", **changes):
    """The settings of a run of LOST as published, with other values of features or options."""
    recorded = {"source": source, "name": weights, "sha256": "0" * 64}
    return helpers.run_settings(weights=recorded, **helpers.setting(**changes).recorded())


@pytest.mark.parametrize(("method", "backbone", "source"), FIGURES)
def test_figures_are_the_published_ones(method, backbone, source):
    rows = [
        row
        for row in published_rows()
        if (row["method"], row["backbone"]) == (method, backbone) and source in row["source"]
    ]
    assert len(rows) == 1
    assert tuple(rows[0]["corloc"].get(dataset) for dataset in DATASETS) == FIGURES[method, backbone, source]


def test_there_are_no_other_rows_and_each_has_a_source():
    assert len(published_rows()) == len(FIGURES)
    for row in published_rows():
        assert any(source in row["source"] for *_, source in FIGURES)
        assert row["features"] is None or set(row["features"]) == FEATURES
        assert row["options"] is None or set(row["options"]) == OPTIONS[row["method"]]


@pytest.mark.parametrize("method", MASKS)
def test_figures_of_masks_are_the_published_ones(method):
    (row,) = (row for row in published_rows() if row["method"] == method)
    scores = [row["scores"][dataset] for dataset in ("ecssd", "duts-te", "dut-omron")]
    assert [(one["max_f"], one["iou"], one["accuracy"]) for one in scores] == list(MASKS[method])


def test_every_weights_name_is_one_that_a_run_can_have():
    known = {name for spec in zoo.SPECS for name in (*spec.hub_ids, spec.official_file)}
    assert {name for row in published_rows() for name in row["weights"] or ()} <= known


def test_weights_that_are_published_in_several_places_are_recognised_in_each():
    for spec in zoo.SPECS:
        names = {*spec.hub_ids, spec.official_file} - {None}
        for row in published_rows():
            assert names.isdisjoint(row["weights"] or ()) or names <= set(row["weights"])


@pytest.mark.parametrize(
    ("weights", "source", "figures"),
    [
        ("facebook/dino-vits16", "hub", (61.9, 64.0, 50.7)),
        ("facebook/dino-vitb16", "hub", (60.1, 63.3, 50.0)),
        ("timm/vit_small_patch16_224.dino", "hub", (61.9, 64.0, 50.7)),
        ("dino_deitsmall16_pretrain.pth", "file", (61.9, 64.0, 50.7)),
        ("dino_deitsmall8_300ep_pretrain.pth", "file", (55.5, 57.0, 49.5)),
        ("timm/vit_base_patch16_224.dino", "hub", (60.1, 63.3, 50.0)),
        ("dino_vitbase16_pretrain.pth", "file", (60.1, 63.3, 50.0)),
    ],
)
def test_lost_as_published_is_comparable(weights, source, figures):
    settings = run_settings(weights, source=source)
    got = [comparable_number(settings, dataset, is_full_split=True) for dataset in DATASETS]
    assert [number.corloc for number in got] == list(figures)
    assert {number.source for number in got} == {LOST_README}


@pytest.mark.parametrize(
    "difference",
    [
        {"facet": "q"},
        {"facet": "v"},
        {"layer": -2},
        {"layer": (-2, -1)},
        {"facet": "qk"},
        {"normalize": True},
        {"center": True},
        {"bias": -0.1},
        {"k_patches": 99},
        {"max_side": 512},
    ],
)
def test_another_setting_is_not_comparable(difference):
    assert comparable_number(run_settings(**difference), "voc07", is_full_split=True) is None


def test_further_objects_change_nothing_in_the_first():
    found = comparable_number(run_settings(max_objects=5), "voc07", is_full_split=True)
    assert found == comparable_number(run_settings(), "voc07", is_full_split=True) is not None


@pytest.mark.parametrize(
    "difference",
    [
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"apply_exif": True},
        {"backbone": None},
        {"refine": "bilateral"},
    ],
)
def test_another_way_of_running_is_not_comparable(difference):
    # timm's own rows resample the position embedding otherwise than DINO was trained
    settings = {**run_settings(), **difference}
    settings["backbone"] = settings["backbone"] or "timm:vit_small_patch16_224.dino"
    assert comparable_number(settings, "voc07", is_full_split=True) is None


@pytest.mark.parametrize("dataset", ["samples", "/home/me/voc07", "VOC07"])
def test_another_dataset_is_not_comparable(dataset):
    assert comparable_number(run_settings(), dataset, is_full_split=True) is None


def test_part_of_the_split_is_not_comparable():
    assert comparable_number(run_settings(), "voc07", is_full_split=False) is None


@pytest.mark.parametrize(
    "weights",
    [
        "random",
        "tiny.safetensors",
        "mine.pth",
        "timm/vit_small_patch8_224.dino",  # LOST's 55.5 is of the checkpoint of 300 epochs
        "dino_deitsmall8_pretrain.pth",
        "timm/vit_base_patch8_224.dino",
        "facebook/dino-vits8",
    ],
)
def test_other_weights_are_not_comparable(weights):
    for dataset in DATASETS:
        assert comparable_number(run_settings(weights), dataset, is_full_split=True) is None


@pytest.mark.parametrize("layer", [-1, -2])
@pytest.mark.parametrize("bias", [0.0, -0.5])
@pytest.mark.parametrize("facet", ["k", "v"])
@pytest.mark.parametrize("normalize", [True, False])
def test_rows_that_do_not_tell_layer_and_bias_never_match(layer, bias, facet, normalize):
    swept = {name for row in published_rows() if JIANG in row["source"] for name in row["weights"]}
    assert len(swept) == 8
    for weights in swept:
        settings = run_settings(weights, layer=layer, bias=bias, facet=facet, normalize=normalize)
        for dataset in DATASETS:
            assert comparable_number(settings, dataset, is_full_split=True) is None


def test_other_methods_never_match():
    """The weights of LOST + CAD, TokenCut and DINO-seg are those of plain LOST, which alone may match."""
    for row in (row for row in published_rows() if row["method"] != "lost"):
        for weights in row["weights"] or ():
            for dataset in DATASETS:
                number = comparable_number(run_settings(weights), dataset, is_full_split=True)
                assert number.source == LOST_README
                assert number.corloc != row["corloc"].get(dataset)
                settings = {**run_settings(weights), "method": row["method"]}
                assert comparable_number(settings, dataset, is_full_split=True) is None


def other_run(method, options, weights="timm/vit_small_patch16_224.dino", **changes):
    """The settings of a run of another method on the features of plain LOST."""
    return {**run_settings(weights), "method": method, "options": options, **changes}


@pytest.mark.parametrize(
    ("method", "options", "weights", "figures"),
    [
        ("tokencut", TOKENCUT_OPTIONS, "facebook/dino-vits16", (68.8, 72.1, 58.8)),
        ("tokencut", {**TOKENCUT_OPTIONS, "max_objects": 1}, "facebook/dino-vits16", (68.8, 72.1, 58.8)),
        ("tokencut", TOKENCUT_OPTIONS, "dino_deitsmall8_300ep_pretrain.pth", (67.3, 71.6, 60.7)),
        ("tokencut", TOKENCUT_OPTIONS, "facebook/dino-vitb16", (68.8, 72.4, 59.0)),
        ("dino-seg", DINO_SEG_OPTIONS, "facebook/dino-vits16", (45.8, 46.2, 42.1)),
    ],
)
def test_other_methods_as_published_are_comparable(method, options, weights, figures):
    settings = other_run(method, options, weights)
    got = [comparable_number(settings, dataset, is_full_split=True).corloc for dataset in DATASETS]
    assert got == list(figures)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("tokencut", {**TOKENCUT_OPTIONS, "tau": "auto"}),
        ("tokencut", {**TOKENCUT_OPTIONS, "tau": 0.5}),
        ("dino-seg", {"attention_head": 4, "mass": 0.6, "rule": "plain"}),
        ("dino-seg", {"attention_head": "mean", "mass": 0.6, "rule": "code"}),
    ],
)
def test_other_methods_in_another_setting_are_not(method, options):
    assert comparable_number(other_run(method, options), "voc07", is_full_split=True) is None


def test_a_feature_that_is_switched_off_changes_nothing():
    """One that rows do not name, as it is newer than they are."""
    settings = run_settings()
    for square, is_comparable in ((None, True), (480, False)):
        of_run = {**settings, "features": {**settings["features"], "square": square}}
        assert (comparable_number(of_run, "voc07", is_full_split=True) is not None) is is_comparable


def test_boxes_of_refined_masks_are_not_comparable():
    settings = other_run("tokencut", TOKENCUT_OPTIONS, refine="bilateral")
    assert comparable_number(settings, "voc07", is_full_split=True) is None


def test_figures_of_masks_stand_beside_no_run():
    for dataset in ("ecssd", "duts-te", "dut-omron"):
        assert comparable_number(other_run("tokencut", TOKENCUT_OPTIONS), dataset, is_full_split=True) is None
