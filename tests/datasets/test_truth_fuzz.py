"""Any single field of COCO and VOC annotations, missing, of another type or out of range.

Each gives the score that it implies, by an oracle that reads the fields on its own, or one clear line. Where
the score is another one than before, either the mutated field says so (a box, a mark, the image that a box
belongs to), or a note counts what was left out.
"""

from __future__ import annotations

import json
import math
import pickle
from collections import Counter
from copy import deepcopy
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lost_reg.errors import LostRegError
from lost_reg.scoring.found_boxes import ScoringOptions
from lost_reg.scoring.score_runs import score_path

GONE, HUGE, BEYOND = "<gone>", "<400 digits>", "<1e999>"
VALUES = (
    GONE, HUGE, BEYOND, 10**400, math.nan, -math.inf, None, True, False, 0, -1, 1, 2, 1.5, 2.0, 1e7, -1e300,
    2**64, "", " ", "1", "2.0", "0", "-1", "nan", "text", "a.jpg", "../a.jpg", "/a.jpg", "\0", "\ud800",
    "é" * 300, [], [1], [1, 2, 3, 4], ["1", 2, 3, 4], [None] * 4, [math.nan, 1, 2, 3], {}, {"a": 1}, [[[]]],
)  # fmt: skip
FOUND = (10, 10, 60, 60)
STEMS = "abc"
BASE = (2, 3)  # found, of so many images


def is_found(box) -> bool:
    """Whether FOUND has IoU >= 0.5 with a box, by hand."""
    width, height = (min(FOUND[i + 2], box[i + 2]) - max(FOUND[i], box[i]) for i in (0, 1))
    overlap = max(0, width) * max(0, height)
    union = 2500 + (box[2] - box[0]) * (box[3] - box[1]) - overlap
    return union > 0 and overlap / union >= 0.5


def tally(boxes_by_image) -> tuple[int, int]:
    having = [boxes for boxes in boxes_by_image.values() if boxes]
    return sum(any(map(is_found, boxes)) for boxes in having), len(having)


def outcome(top: Path, dataset: Path):
    """(found, images, notes), or the line of the refusal."""
    try:
        (row,), errors = score_path(top / "preds.pkl", ScoringOptions(dataset=str(dataset)))
    except LostRegError as error:
        text = str(error)
        assert text and "\n" not in text and not any(word in text for word in ("Error ", "Traceback"))
        return text
    assert not errors
    return row.score.found, row.score.images, row.notes


def check(got, implied, place, excused: bool, counts: Counter) -> None:
    if isinstance(got, str):
        counts["one line"] += 1
        return
    *score, notes = got
    assert implied is not None, f"{place} was scored: {score}"
    assert tuple(score) == implied, place
    assert implied == BASE or excused or notes, f"{place}: another score without a word"
    counts["the same score" if implied == BASE else "the score implied"] += 1


@pytest.fixture(scope="module")
def top(tmp_path_factory, save_scene):
    """Two datasets and the boxes that were found in either."""
    folder = tmp_path_factory.mktemp("fuzz")
    for stem in STEMS:
        save_scene(folder / "images" / f"{stem}.jpg")
        save_scene(folder / "voc" / "JPEGImages" / f"{stem}.jpg")
    (folder / "voc" / "Annotations").mkdir()
    (folder / "preds.pkl").write_bytes(pickle.dumps({f"{stem}.jpg": list(FOUND) for stem in STEMS}))
    return folder


# --- COCO --------------------------------------------------------------------------------------------


def coco() -> dict:
    """The boxes of a and c are right, that of b is wrong, and a crowd does not count."""
    boxes = {1: (1, [10, 10, 50, 50], 0), 2: (2, [90, 60, 20, 20], 0), 3: (3, [10, 10, 50, 40], 0)}
    boxes[4] = (2, [10, 10, 50, 50], 1)
    return {
        "images": [
            {"id": number, "file_name": f"{stem}.jpg", "height": 96, "width": 128}
            for number, stem in enumerate(STEMS, start=1)
        ],
        "annotations": [
            {"id": key, "image_id": image, "category_id": 1, "bbox": box, "iscrowd": crowd, "area": 1}
            for key, (image, box, crowd) in boxes.items()
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }


def places(content, path=()):
    """The path of every field, at any depth."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


def mutated(content, place, value):
    """A copy with a value, or nothing, in the place of a field."""
    content = deepcopy(content)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    if value == GONE:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return content


def as_json(content) -> str:
    return json.dumps(content).replace(json.dumps(HUGE), "9" * 400).replace(json.dumps(BEYOND), "1e999")


def whole(value):
    """139, 139.0, "139" and "139.0" as 139; other texts as they are. Raises for anything else."""
    if type(value) in (int, float) or (
        isinstance(value, str) and value.strip("-").replace(".0", "").isdigit()
    ):
        assert float(value) == int(float(value))
        return int(float(value))
    assert isinstance(value, str) and value.strip()
    return value


def marked(value) -> bool:
    return {"1": True, "true": True, "0": False, "false": False, "none": False, "1.0": True, "0.0": False}[
        str(value).lower()
    ]


def implied_by_coco(text: str):
    """(found, images) of a COCO file, or None if it has none: read with plain loops."""
    try:
        content = json.loads(text)
        names = {whole(one["id"]): str.rpartition(one["file_name"], "/")[2] for one in content["images"]}
        assert sorted(names.values()) == [f"{stem}.jpg" for stem in STEMS]
        boxes: dict = {name: [] for name in names.values()}
        for one in content["annotations"]:
            image = names.get(whole(one["image_id"]))
            if image is None or marked(one.get("iscrowd", 0)):
                continue
            x, y, w, h = one["bbox"]
            assert all(type(side) in (int, float) and abs(side) <= 1e6 for side in (x, y, w, h))
            assert w >= 0 and h >= 0
            boxes[image].append((round(x), round(y), round(x + w), round(y + h)))
        for image in content["images"]:
            for side in (image.get("height"), image.get("width")):
                assert side is None or (type(side) in (int, float) and side >= 1 and side == int(side))
        return tally(boxes)
    except (AssertionError, KeyError, TypeError, ValueError, OverflowError):
        return None


def check_coco(top: Path, place, value, counts: Counter) -> None:
    path = top / "instances.json"
    text = as_json(mutated(coco(), place, value))
    path.write_text(text)
    says_so = place[0] == "annotations" and (len(place) < 3 or place[2] in ("bbox", "iscrowd", "image_id"))
    check(outcome(top, path), implied_by_coco(text), (place, value), says_so, counts)


def test_every_field_of_coco_with_every_value(top):
    """Of one image, one object and the crowd: the others are like them."""
    counts: Counter = Counter()
    alike = {("images", 1), ("images", 2), ("annotations", 1), ("annotations", 2)}
    for place in (one for one in places(coco()) if one[:2] not in alike):
        for value in VALUES:
            check_coco(top, place, value, counts)
    assert min(counts[one] for one in ("one line", "the same score", "the score implied")) > 5


def test_coco_as_it_is(top):
    path = top / "instances.json"
    path.write_text(json.dumps(coco()))
    assert implied_by_coco(path.read_text()) == BASE and outcome(top, path) == (*BASE, ())


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(VALUES),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from([*places(coco())]), value=anything)
def test_any_field_of_coco_with_anything(top, place, value):
    check_coco(top, place, value, Counter())


# --- VOC ---------------------------------------------------------------------------------------------

TEXTS = (
    GONE, "", " ", "0", "1", "-1", "2.0", " 50 ", "50.5", "nan", "inf", "-inf", "1e400", "1e3", "9" * 400,
    "0x10", "1_0", "\uff14", "text", "true", "True", "[1, 2]", "<x/>", "&a;", "\0", "1,5", "--1", "1e",
)  # fmt: skip
SIDES = ("xmin", "ymin", "xmax", "ymax")
FIELDS = ("width", "height", "name", "difficult", "truncated", *SIDES)
RIGHT = {"width": "128", "height": "96", "name": "dog", "difficult": "0", "truncated": "0"}
RIGHT |= dict(zip(SIDES, ("11", "11", "60", "60")))
WRONG = {**RIGHT, **dict(zip(SIDES, ("91", "61", "110", "80")))}


def element(name: str, text: str) -> str:
    return "" if text == GONE else f"<{name}>{text}</{name}>"


def voc_xml(fields: dict) -> str:
    parts = {name: element(name, text) for name, text in fields.items()}
    size = f"<size>{parts['width']}{parts['height']}<depth>3</depth></size>"
    box = "".join(parts[side] for side in SIDES)
    flags = "".join(parts[name] for name in ("name", "difficult", "truncated"))
    return f"<annotation>{size}<object>{flags}<bndbox>{box}</bndbox></object></annotation>"


def number(text: str) -> float:
    value = float(text)
    assert text.isascii() and "_" not in text and abs(value) <= 1e6
    return value


def implied_by_voc(fields: dict):
    try:
        for name in ("width", "height"):
            if fields[name] != GONE:
                assert number(fields[name]) >= 1 and number(fields[name]) % 1 == 0
        for name in ("difficult", "truncated"):
            assert fields[name] in ("", GONE) or marked(fields[name].strip()) in (True, False)
        xmin, ymin, xmax, ymax = (number(fields[side]) for side in SIDES)
        assert xmax >= xmin - 1 and ymax >= ymin - 1
        others = {"b": [(90, 60, 110, 80)], "c": [(10, 10, 60, 60)]}
        return tally({"a": [(xmin - 1, ymin - 1, xmax, ymax)], **others})
    except (AssertionError, ValueError, KeyError):
        return None


def check_voc(top: Path, name: str, text: str, counts: Counter) -> None:
    fields = {**RIGHT, name: text}
    folder = top / "voc" / "Annotations"
    for stem, one in {"a": fields, "b": WRONG, "c": RIGHT}.items():
        (folder / f"{stem}.xml").write_text(voc_xml(one), encoding="utf-8", errors="surrogatepass")
    check(outcome(top, top / "voc"), implied_by_voc(fields), (name, text), name in SIDES, counts)


def test_every_field_of_voc_with_every_text(top):
    counts: Counter = Counter()
    for name in FIELDS:
        for text in TEXTS:
            check_voc(top, name, text, counts)
    assert min(counts[one] for one in ("one line", "the same score", "the score implied")) > 5


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FIELDS), text=st.text(max_size=9) | st.floats().map(str) | st.integers().map(str))
def test_any_field_of_voc_with_any_text(top, name, text):
    if not (set("<>&") & set(text)):  # other elements are other files
        check_voc(top, name, text, Counter())
