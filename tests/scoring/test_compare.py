"""Two runs compared: against a case worked out by hand and a naive count; and what is refused."""

from __future__ import annotations

import csv
import io
import json
import pickle
from dataclasses import replace
from pathlib import Path

import helpers
import numpy as np
import pytest

from lost_reg.scoring.compare import SettingDifference, causes_of, compare
from lost_reg.scoring.comparison_text import csv_text, images_csv_text, json_text, text
from lost_reg.scoring.found_boxes import ScoringOptions
from lost_reg.scoring.paired import Paired
from lost_reg.scoring.score_runs import score_path

# In images of 96 x 128 = 12,288 pixels, as VOC writes boxes: 33, 17, 96, 64 is (32, 16, 96, 64).
OBJECTS = {
    "1": [("dog", 33, 17, 96, 64)],  # 25 % of the image
    "2": [("cat", 1, 1, 128, 96)],  # all of it
    "3": [("dog", 1, 1, 20, 20)],  # 3 %
    "4": [],
    "5": [("dog", 1, 1, 40, 40), ("cat", 65, 1, 128, 96)],  # 13 %, and exactly one half
    "6": [("bird", 1, 49, 64, 96)],  # 25 %, and hard
}
WRONG = (100, 70, 128, 96)
RIGHT = {"1": (32, 16, 96, 64), "2": (0, 0, 128, 96), "5": (64, 0, 128, 96), "6": (0, 48, 64, 96)}
DOG_OF_5 = (0, 0, 40, 40)


def by_image(**boxes) -> dict:
    """A box for each image; the wrong one where none is given. None leaves the image out."""
    named = {f"{stem}.jpg": boxes.get(f"i{stem}", WRONG) for stem in OBJECTS}
    return {name: box for name, box in named.items() if box is not None}


BOXES_A = by_image(i1=RIGHT["1"], i5=DOG_OF_5, i6=None)  # 6 could not be read
BOXES_B = by_image(i2=RIGHT["2"], i5=RIGHT["5"], i6=RIGHT["6"])


@pytest.fixture
def root(tmp_path, make_voc) -> Path:
    make_voc(tmp_path / "root" / "VOCdevkit" / "VOC2007", OBJECTS, hard=("bird",))
    return tmp_path / "root"


@pytest.fixture
def a(root, tmp_path) -> Path:
    return helpers.write_run(tmp_path / "a", root, BOXES_A, ["6.jpg"])


@pytest.fixture
def b(root, tmp_path) -> Path:
    return helpers.write_run(tmp_path / "b", root, BOXES_B, backbone="dinov2_vitl14")


def paired_by_name(groups) -> dict[str, Paired]:
    return {group.name: group.paired for group in groups}


def refusal(*args, **options) -> str:
    return helpers.refusal(compare, *args, ScoringOptions(**options))


# --- worked out by hand ------------------------------------------------------------------------------


def test_two_runs_worked_out_by_hand(a, b):
    found = compare(a, b)
    assert (found.dataset, found.split) == ("voc07", "trainval")
    assert found.total == Paired(both=1, only_a=1, only_b=2, neither=1)
    assert (found.total.corloc_a, found.total.corloc_b, found.total.difference) == (40, 60, 20)
    assert (found.only_a, found.only_b) == (("1.jpg",), ("2.jpg", "6.jpg"))
    assert (found.without_truth, found.not_done) == (1, 0)
    assert (found.a.unusable, found.b.unusable) == (1, 0)
    assert (found.a.path, found.a.title) == (a, "dino_vits16")
    assert (found.b.path, found.b.title) == (b, "dinov2_vitl14")


def test_a_class_is_found_by_a_box_on_an_object_of_it(a, b):
    """Both found image 5: A its dog and B its cat."""
    assert paired_by_name(compare(a, b).classes) == {
        "bird": Paired(0, 0, 1, 0),
        "cat": Paired(0, 0, 2, 0),
        "dog": Paired(0, 2, 0, 1),
    }


def test_sizes_are_those_of_the_largest_object_and_any_object_counts(a, b):
    assert paired_by_name(compare(a, b).sizes) == {
        "< 5 %": Paired(0, 0, 0, 1),
        "20-50 %": Paired(0, 1, 1, 0),
        ">= 50 %": Paired(1, 0, 1, 0),
    }


def test_two_objects_of_one_class_are_one_image(tmp_path, make_voc):
    mine = make_voc(tmp_path / "mine", {"1": [("dog", 1, 1, 40, 40), ("dog", 65, 1, 128, 96)]})
    runs = [helpers.write_run(tmp_path / n, None, {"1.jpg": DOG_OF_5}, dataset=str(mine)) for n in "ab"]
    assert paired_by_name(compare(*runs).classes) == {"dog": Paired(1, 0, 0, 0)}


def test_hard_objects_can_be_left_out(a, b):
    found = compare(a, b, ScoringOptions(count_hard=False))
    assert found.split == "trainval no_hard"
    assert found.total == Paired(1, 1, 1, 1)
    assert (found.without_truth, found.a.unusable) == (2, 0)
    assert list(paired_by_name(found.classes)) == ["cat", "dog"]


@pytest.fixture
def sixteen(tmp_path, make_voc):
    """A finds none of ten dogs and six cats, B all of them."""
    objects = {f"{n:02}": [("dog" if n < 10 else "cat", 33, 17, 96, 64)] for n in range(16)}
    mine = make_voc(tmp_path / "mine", objects)
    boxes = {"a": WRONG, "b": (32, 16, 96, 64)}
    return [
        helpers.write_run(tmp_path / n, None, {f"{s}.jpg": box for s in objects}, dataset=str(mine))
        for n, box in boxes.items()
    ]


def test_p_values_and_verdict_worked_out_by_hand(sixteen):
    found = compare(*sixteen)
    assert found.total.p == 2 / 2**16
    dog, cat = sorted(found.classes, key=lambda group: group.paired.p)
    assert (dog.paired.p, cat.paired.p) == (2 / 2**10, 2 / 2**6)
    assert (dog.p_holm, cat.p_holm) == (2 * 2 / 2**10, 2 / 2**6)
    assert found.sizes[0].p_holm == 2 / 2**16  # one group alone
    assert found.verdict == (
        "B finds more than A: +100.0 points of CorLoc (95 % +100.0 to +100.0; McNemar p < 0.0001)."
    )
    assert compare(*sixteen[::-1]).verdict.startswith("B finds less than A: -100.0 points")
    assert "\nlargest: 20-50 % " in text(found, width=1)  # sizes are never cut
    shown = text(found)
    assert "Of 1 sizes, these differ significantly after Holm's correction: 20-50 % (+100.0)." in shown
    assert (
        "Of 2 classes, these differ significantly after Holm's correction: cat (+100.0), dog (+100.0)."
        in shown
    )
    assert "fewer than 6 images" not in shown


def test_swapped_sides(a, b):
    one, other = compare(a, b), compare(b, a)
    assert other.total.difference == -one.total.difference and other.total.p == one.total.p
    assert (other.only_a, other.only_b) == (one.only_b, one.only_a)
    assert other.differences == tuple(SettingDifference(d.setting, d.b, d.a) for d in one.differences)
    for kind in ("classes", "sizes"):
        for group, swapped in zip(getattr(one, kind), getattr(other, kind)):
            assert (swapped.name, swapped.p_holm) == (group.name, group.p_holm)
            assert swapped.paired.difference == -group.paired.difference


def test_a_run_against_itself(b):
    found = compare(b, b)
    assert (found.total.difference, found.total.interval, found.total.p) == (0, (0, 0), 1)
    assert (found.only_a, found.only_b, found.differences) == ((), (), ())
    assert found.verdict.startswith("No significant difference between A and B: +0.0 points")
    assert "The settings of A and B are the same." in text(found)
    assert "Found by A alone: none" in text(found)


def test_an_image_without_any_object_found_is_a_miss(a, root, tmp_path):
    predictions = [
        helpers.prediction(name, *([] if name == "1.jpg" else [box])) for name, box in BOXES_A.items()
    ]
    other = helpers.write_predictions(tmp_path / "other", predictions, ["6.jpg"], data_root=str(root))
    found = compare(a, other)
    assert (found.only_a, found.only_b, found.b.unusable) == (("1.jpg",), (), 1)
    assert paired_by_name(found.classes)["dog"] == Paired(1, 1, 0, 1)


# --- against a naive count ---------------------------------------------------------------------------


def overlaps_by_half(box, other) -> bool:
    """IoU >= 0.5 by counting pixels."""
    pixels = [{(x, y) for x in range(xa, xb) for y in range(ya, yb)} for xa, ya, xb, yb in (box, other)]
    return 2 * len(pixels[0] & pixels[1]) >= len(pixels[0] | pixels[1])


def test_counts_are_those_of_a_naive_count(tmp_path, make_voc):
    random = np.random.default_rng(3)

    def random_box():
        x, y = random.integers(0, 40, 2)
        return tuple(int(side) for side in (x, y, x + random.integers(8, 56), y + random.integers(8, 56)))

    truths = {
        f"{n:02}": [(str(random.choice(["ant", "bee", "cow"])), random_box()) for _ in range(n % 4)]
        for n in range(40)
    }
    written = {
        stem: [(label, x + 1, y + 1, right, low) for label, (x, y, right, low) in objects]
        for stem, objects in truths.items()
    }
    mine = make_voc(tmp_path / "mine", written)
    boxes = [{stem: random_box() for stem in truths} for _ in range(2)]
    for found, objects in zip(boxes, [truths, truths]):  # every second box is nearly right
        for stem in list(found)[::2]:
            if objects[stem]:
                found[stem] = objects[stem][int(random.integers(len(objects[stem])))][1]
    runs = [
        helpers.write_run(
            tmp_path / name,
            None,
            {f"{stem}.jpg": box for stem, box in found.items()},
            dataset=str(mine),
        )
        for name, found in zip("ab", boxes)
    ]
    compared = compare(*runs)

    def naive(stems, counts=lambda label: True) -> Paired:
        table = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}
        for stem in stems:
            table[
                tuple(
                    any(counts(label) and overlaps_by_half(found[stem], box) for label, box in truths[stem])
                    for found in boxes
                )
            ] += 1
        return Paired(*table.values())

    with_objects = [stem for stem in truths if truths[stem]]
    assert compared.total == naive(with_objects)
    assert compared.total.only_a and compared.total.only_b and compared.total.both
    for label, paired in paired_by_name(compared.classes).items():
        holding = [stem for stem in truths if label in [one for one, _ in truths[stem]]]
        assert paired == naive(holding, lambda one, label=label: one == label)
    rows = paired_by_name(compared.sizes).values()
    assert len(rows) > 1
    for count in ("both", "only_a", "only_b", "neither"):
        assert sum(getattr(row, count) for row in rows) == getattr(compared.total, count)


def test_corloc_of_either_side_is_that_of_the_corloc_table(a, b):
    found = compare(a, b)
    for side, corloc in ((a, found.total.corloc_a), (b, found.total.corloc_b)):
        (row,), _ = score_path(side, ScoringOptions())
        assert (row.score.corloc, row.score.images) == (corloc, found.total.images)


# --- what differs ------------------------------------------------------------------------------------


def test_settings_that_differ_stand_on_top(a, root, tmp_path):
    other = helpers.write_run(
        tmp_path / "other",
        root,
        BOXES_B,
        backbone="dinov2_vitl14_reg",
        weights={"source": "file", "name": "mine.pth", "sha256": "1" * 64},
        precision="bf16",
        **helpers.setting(layer=-2, max_side=512).recorded(),
        registers={"test_time": 1},
    )
    found = compare(a, other)
    assert {one.setting: (one.a, one.b) for one in found.differences} == {
        "backbone": ("dino_vits16", "dinov2_vitl14_reg"),
        "weights.source": ("hub", "file"),
        "weights.name": ("timm/vit_small_patch16_224.dino", "mine.pth"),
        "weights.sha256": ("0" * 64, "1" * 64),
        "precision": ("fp32", "bf16"),
        "layer": (-1, -2),
        "max_side": (None, 512),
        "registers.test_time": (None, 1),
    }
    assert causes_of(found.differences) == (
        "backbone",
        "precision",
        "layer",
        "max_side",
        "registers.test_time",
    )
    lines = text(found).splitlines()
    assert [line.split() for line in lines if line.startswith("max_side")] == [["max_side", "none", "512"]]
    assert (
        "Several settings differ (backbone, precision, layer, max_side, registers.test_time): "
        "any can be the cause."
    ) in lines
    assert lines.index(next(line for line in lines if line.startswith("layer"))) < lines.index(
        next(line for line in lines if line.startswith("all images"))
    )


def test_a_backbone_and_its_weights_are_one_cause(a, b):
    found = compare(a, b)
    assert causes_of(found.differences) == ("backbone",)
    assert "Several settings differ" not in text(found)


def test_where_the_images_were_is_no_cause(a, root, tmp_path):
    own = helpers.write_run(
        tmp_path / "own", None, BOXES_B, dataset=None, split=None, inputs=["photos"], apply_exif=True
    )
    found = compare(a, own, ScoringOptions(data_root=root))
    assert causes_of(found.differences) == ("apply_exif",)
    assert {one.setting for one in found.differences} == {"dataset", "split", "inputs", "apply_exif"}


def test_further_objects_are_no_cause(a, root, tmp_path):
    several = helpers.setting(max_objects=3).recorded()
    found = compare(a, helpers.write_run(tmp_path / "several", root, BOXES_B, **several))
    assert [(one.setting, one.a, one.b) for one in found.differences] == [("max_objects", 1, 3)]
    assert causes_of(found.differences) == ()


# --- the same images ---------------------------------------------------------------------------------


def test_other_dataset_is_refused(a, root, tmp_path):
    other = helpers.write_run(tmp_path / "other", root, BOXES_B, dataset="voc12")
    line = refusal(a, other)
    assert f"the dataset of {a} is 'voc07', that of {other} is 'voc12'" in line and "their `dataset`" in line
    assert compare(a, other, ScoringOptions(dataset="voc07")).total.images == 5


def test_other_split_is_refused(a, root, tmp_path):
    other = helpers.write_run(tmp_path / "other", root, BOXES_B, split="all")
    assert f"the split of {a} is 'trainval', that of {other} is 'all'" in refusal(a, other)


def test_images_of_another_size_are_refused(a, root, tmp_path):
    other = helpers.write_run(tmp_path / "other", root, BOXES_B, size_hw=(128, 96))
    line = refusal(a, other)
    assert "5 of them are of another size" in line and "1.jpg, 2.jpg, 3.jpg and 2 more" in line
    assert "EXIF" in line


def test_images_that_are_of_another_size_in_both_are_said(root, tmp_path):
    runs = [helpers.write_run(tmp_path / n, root, BOXES_B, size_hw=(128, 96)) for n in "ab"]
    found = compare(*runs)
    assert found.a.other_size == found.b.other_size == 6
    assert text(found).count("the size of 6 images differs from the annotated one") == 2


@pytest.mark.parametrize("incomplete", [0, 1])
def test_incomplete_run_is_refused_or_compared_on_what_both_did(b, root, tmp_path, incomplete):
    part = helpers.write_run(tmp_path / "part", root, {"1.jpg": RIGHT["1"], "4.jpg": WRONG}, ["2.jpg"])
    runs = [part, b] if incomplete == 0 else [b, part]
    line = refusal(*runs)
    assert f"{part} covers 3 of the 6 images of voc07" in line
    assert "`partial` compares the images that both did" in line and "`resume`" in line
    found = compare(*runs, ScoringOptions(partial=True))
    assert found.total.images == 2 and (found.without_truth, found.not_done) == (1, 3)
    assert {found.only_a, found.only_b} == {("1.jpg",), ("2.jpg",)}


def test_incomplete_runs_that_share_no_image(root, tmp_path):
    runs = [helpers.write_run(tmp_path / n, root, {f"{n}.jpg": WRONG}) for n in ("1", "2")]
    assert "nothing to compare" in refusal(*runs, partial=True)


def test_image_without_ground_truth(a, root, tmp_path):
    other = helpers.write_run(tmp_path / "other", root, {**BOXES_B, "stranger.jpg": WRONG})
    assert "no ground truth for stranger.jpg" in refusal(a, other)


def test_runs_on_own_files_need_the_ground_truth_named(root, tmp_path):
    own = [
        helpers.write_run(tmp_path / n, None, BOXES_B, dataset=None, split=None, apply_exif=True)
        for n in "ab"
    ]
    assert "was run on files of your own" in refusal(*own)
    assert compare(*own, ScoringOptions(dataset="voc07", data_root=root)).total.both == 3


def test_annotation_that_does_not_tell_the_image_size(tmp_path, make_voc):
    """The run does, or else the image; one that could not be read has none."""
    mine = make_voc(tmp_path / "mine", {"1": [("dog", 1, 1, 40, 40)], "2": [("dog", 1, 1, 40, 40)]})
    for stem in "12":
        annotation = mine / "Annotations" / f"{stem}.xml"
        annotation.write_text(annotation.read_text().replace("<width>128</width>", ""))
    (mine / "JPEGImages" / "2.jpg").write_bytes(b"no image")
    run = helpers.write_run(tmp_path / "a", None, {"1.jpg": DOG_OF_5}, ["2.jpg"], dataset=str(mine))
    found = paired_by_name(compare(run, run).sizes)
    assert found == {"5-20 %": Paired(1, 0, 0, 0), "unknown": Paired(0, 0, 0, 1)}


# --- folders and files -------------------------------------------------------------------------------


def test_folder_that_holds_one_run_or_several(a, b, root, tmp_path):
    line = refusal(tmp_path, b)
    assert f"holds 2 runs ({a}, {b})" in line and "name the one" in line
    helpers.write_run(tmp_path / "deep" / "run", root, BOXES_A, ["6.jpg"])
    assert compare(tmp_path / "deep", b).total == compare(a, b).total


def test_missing_and_malformed(a, b, tmp_path):
    assert "no such folder" in refusal(a, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "no runs in" in refusal(tmp_path / "empty", b)
    (b / "predictions.jsonl").write_text("no json\n")
    assert "malformed line 1" in refusal(a, b)
    (b / "run.json").write_text('{"settings": {}, "images": 6, "sessions": []}')
    (b / "predictions.jsonl").write_text("")
    assert str(b / "run.json") in refusal(a, b)


def test_pickle_against_a_run_is_of_the_dataset_of_the_run(a, b, tmp_path):
    path = tmp_path / "preds.pkl"
    path.write_bytes(pickle.dumps({name: np.array(box) for name, box in BOXES_B.items()}))
    expected = compare(a, b)
    for found in (compare(a, path), compare(a, path, ScoringOptions(dataset="voc07"))):
        assert (found.total, found.classes, found.only_b) == (
            expected.total,
            expected.classes,
            expected.only_b,
        )
        assert (found.b.title, found.b.settings, found.differences) == ("preds.pkl", None, None)
        assert "what differs is not known" in text(found)
        assert json.loads(json_text(found))["differences"] is None
    assert compare(path, a).total.only_a == 2
    assert "name the ground truth" in refusal(path, path)


def test_part_of_a_pickle(a, tmp_path):
    path = tmp_path / "preds.pkl"
    path.write_bytes(pickle.dumps({"1": WRONG}))
    line = refusal(a, path)
    assert "covers 1 of the 6 images" in line and "`resume`" not in line
    assert compare(a, path, ScoringOptions(partial=True)).total == Paired(0, 1, 0, 0)


# --- text, JSON, CSV ---------------------------------------------------------------------------------


def test_text_worked_out_by_hand(a, b):
    lines = text(compare(a, b)).splitlines()
    assert lines[0] == f"A: dino_vits16, {a}; 1 undecodable (counted as misses)"
    assert lines[1] == f"B: dinov2_vitl14, {b}"
    assert lines[2] == "voc07 trainval: 5 images; left out: 1 without any box, 0 not done by both"
    (row,) = [line for line in lines if line.startswith("all images")]
    # of 5 draws that gain at 0.4 and lose at 0.2, 5 gains have 1.0 %, 4 or more 6.1 %; -3 or less 2.0 %
    assert " ".join(row.split()) == "all images 5 40.0 60.0 +20.0 -40.0 to +80.0 1 1 2 1 1.0000"
    assert "6 groups of fewer than 6 images are not shown" in "\n".join(lines)
    assert "Where A alone and B alone add up to fewer than 6 images" in "\n".join(lines)
    assert lines[-5].startswith("No significant difference between A and B: +20.0 points")
    assert lines[-2:] == ["Found by A alone: 1.jpg", "Found by B alone: 2.jpg, 6.jpg"]


def test_images_are_named_by_the_few_or_all(sixteen):
    found = compare(*sixteen)
    assert "B alone: 00.jpg, 01.jpg, 02.jpg, 03.jpg, 04.jpg and 11 more (`images` lists them)" in text(found)
    lines = text(found, all_images=True).splitlines()
    start = lines.index("Found by B alone: 16")
    assert lines[start + 1 :] == [f"  {n:02}.jpg" for n in range(16)]


def test_text_json_and_csv_carry_the_same_numbers(a, b):
    found = compare(a, b)
    content = json.loads(json_text(found))
    rows = [content["total"], *content["sizes"], *content["classes"]]
    for row, from_csv in zip(rows, csv.DictReader(io.StringIO(csv_text(found))), strict=True):
        assert {key: str(value) for key, value in row.items()}.items() <= from_csv.items()
    assert (content["total"]["only_b"], content["total"]["p"]) == (2, 1.0)
    assert (content["total"]["interval_low"], content["total"]["interval_high"]) == found.total.interval
    assert content["sizes"][0]["kind"] == "largest object" and content["classes"][0]["name"] == "bird"
    assert (content["only_a"], content["only_b"]) == (["1.jpg"], ["2.jpg", "6.jpg"])
    assert content["a"]["path"] == str(a) and content["b"]["settings"]["backbone"] == "dinov2_vitl14"
    assert content["differences"] == [{"setting": "backbone", "a": "dino_vits16", "b": "dinov2_vitl14"}]
    assert content["verdict"] == found.verdict
    assert (content["dataset"], content["split"]) == ("voc07", "trainval")
    assert (content["without_truth"], content["not_done"]) == (1, 0)
    assert content["a"]["unusable"] == 1


def test_images_as_csv(a, b):
    assert images_csv_text(compare(a, b)).splitlines() == ["image,found_by", "1.jpg,A", "2.jpg,B", "6.jpg,B"]
    assert images_csv_text(compare(a, a)) == "image,found_by"


def test_class_name_with_control_codes_stays_on_its_line(tmp_path, make_voc):
    mine = make_voc(tmp_path / "mine", {f"{n}": [("a\nb", 33, 17, 96, 64)] for n in range(6)})
    runs = [
        helpers.write_run(tmp_path / n, None, {f"{s}.jpg": box for s in range(6)}, dataset=str(mine))
        for n, box in (("a", WRONG), ("b", (32, 16, 96, 64)))
    ]
    found = compare(*runs)
    assert "class: a\\nb" in text(found) and "a\\nb (+100.0)" in text(found)
    assert csv_text(found).splitlines()[-1].startswith("class,a\\nb,6,")


def test_names_that_are_no_utf8_can_be_printed(a, b):
    found = replace(compare(a, b), only_a=("1\udcff.jpg",))
    found = replace(found, a=replace(found.a, path=Path("runs\udcff")))
    for shown in (text(found), text(found, all_images=True), images_csv_text(found), json_text(found)):
        assert "1\\udcff.jpg" in shown and shown.encode()
