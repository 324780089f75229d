"""The page, built without a server: what its columns say, and what its events do."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from helpers import refusal
from small_models import small_backbone

from lost_reg.backbones.registers import AddedRegisters, RegisterNeurons
from lost_reg.explore.columns import (
    SLOTS,
    Choice,
    Model,
    all_tokens,
    shown_of_method,
    shown_of_patch,
    title_of,
)
from lost_reg.explore.features import FeatureStore
from lost_reg.explore.reader import Reader, Size

gr = pytest.importorskip("gradio", reason="gradio is not installed")

from lost_reg.explore.page import _clicked, _Page, _Session, look, page  # noqa: E402

SPACE = Path(__file__).parents[2] / "docs" / "space" / "app.py"


@pytest.fixture(scope="module")
def store():
    return FeatureStore()


@pytest.fixture(scope="module")
def with_registers():
    return small_backbone("CLIP", AddedRegisters(RegisterNeurons(((1, 5),))))


@pytest.fixture(scope="module")
def built(tiny, with_registers, photo):
    with Reader([photo.parent], Size(max_side=131)) as reader:
        yield _Page([Model(tiny), Model(small_backbone("CLIP"), with_registers)], reader)


# --- columns


def test_a_column_has_all_pictures_and_says_what_they_are(tiny, image, store):
    choice = Choice("lost/published", {"bias": -0.2}, token="register 2", head=1)
    of_method, of_patch = (
        shown_of_method(tiny, image, choice, store),
        shown_of_patch(tiny, image, choice, (0.5, 0.5), store),
    )
    pictures = {**of_method.pictures, **of_patch.pictures}
    assert set(pictures) == set(SLOTS) and len({picture.size for picture in pictures.values()}) == 1
    assert of_method.labels["attention"] == "Attention of register 2, head 1"
    assert of_method.maps == ["degrees", "affinities"] and of_method.errors == []
    found, setting = of_method.lines
    assert found.startswith("1 object: [") and setting == "LOST: k of layer -1, raw, bias -0.2"
    (line,) = of_patch.lines
    assert line.startswith("Patch in row 3, column 4 of 7 x 9: similar to ") and of_patch.patch == (3, 4)


def test_the_map_is_the_one_that_is_chosen(tiny, image, store):
    labels = [
        shown_of_method(tiny, image, Choice("lost/published", map=name), store).labels["map"]
        for name in ("", "affinities", "votes")  # the last belongs to another method
    ]
    assert labels == ["Degree, and the seed", "Affinity to the seed, and the seed", "Degree, and the seed"]


def test_what_a_backbone_does_not_have_is_one_line_beside_the_rest(tiny, image, store):
    shown = shown_of_method(tiny, image, Choice("dino-seg/published", token="register 9"), store)
    assert shown.errors == [
        "tiny has no token 'register 9'",
        "there is no `attention_head` 4: the backbone has heads 0 to 2",
    ]
    assert shown.pictures["norms"] and shown.pictures["attention"] is None and shown.pictures["objects"]
    shown = shown_of_method(tiny, image, Choice("head/published"), store)
    assert len(shown.errors) == 1 and not shown.pictures
    assert not shown_of_patch(tiny, image, Choice("head/published"), None, store).pictures


def test_test_time_registers_change_what_is_shown(with_registers, image, store):
    model = Model(small_backbone("CLIP"), with_registers)
    assert model.chosen(False) is model.plain and model.chosen(True) is with_registers
    assert Model(model.plain).chosen(True) is model.plain
    assert title_of(with_registers) == "openclip, 1 test-time register at 1 neuron"
    assert all_tokens([model]) == ["class", "test-time register"]
    choice = Choice("lost/published", token="test-time register")
    assert shown_of_method(with_registers, image, choice, store).pictures["attention"]
    assert "no token" in shown_of_method(model.plain, image, choice, store).errors[0]


# --- events


def values_of(built, **changes) -> dict:
    """The values of all components as the page starts, some of them changed."""
    values = {one: one.value for one in (*built.controls.values(), built.row, built.col, built.number)}
    values |= {built.session: built._listed(_Session(), 0), built.upload: None}
    named = {**built.controls, **{name: getattr(built, name) for name in ("row", "col", "number", "session")}}
    return values | {named[name]: value for name, value in changes.items()}


def text_of(built, changes: dict, column: int = 0, kind: str = "method") -> str:
    return str(changes[built.columns[column][kind]])


def test_the_page_starts_with_the_first_image(built):
    changes = built._show(values_of(built))
    assert "a.png" in changes[built.status] and "200 x 150 pixels, used at 131 x 98" in changes[built.status]
    assert "tiny" in text_of(built, changes) and "openclip" in text_of(built, changes, 1)
    for parts in built.columns:
        assert all(changes[parts[slot]]["value"] for slot in SLOTS)
    assert changes[built.row] is not None and changes[built.col] is not None


def test_a_click_is_a_place_in_the_image_for_every_backbone(built):
    session = values_of(built)[built.session]
    event = gr.SelectData(None, {"index": (256, 96), "value": None})  # of a picture of 512 x 383
    session = _clicked(session, event)
    assert session.position == pytest.approx((96 / 383, 0.5))
    changes = built._show_patch(values_of(built, session=session))
    assert (changes[built.row], changes[built.col]) == (1, 4)
    assert all("Patch in row 1, column 4 of 7 x 9" in text_of(built, changes, at, "patch") for at in (0, 1))
    touched = {id(one) for one in changes}
    assert id(built.columns[0]["objects"]) not in touched and id(built.columns[0]["affinities"]) in touched


def test_a_row_and_a_column_can_be_typed(built):
    session = built._placed(values_of(built, row=5, col=8))
    changes = built._show_patch(values_of(built, session=session))
    assert (changes[built.row], changes[built.col]) == (5, 8)
    session = built._placed(values_of(built, row=500, col=-3))
    changes = built._show_patch(values_of(built, session=session))
    assert (changes[built.row], changes[built.col]) == (6, 0)
    assert built._placed(values_of(built, row=None, col=1)).position is None


def test_a_method_brings_its_own_controls(built):
    def visible(method: str) -> set[str]:
        changes = built._method_chosen(values_of(built, method=method))
        names = {one: name for name, one in built.controls.items()}
        return {names[one] for one, change in changes.items() if change.get("visible")}

    features = {"facet", "layer"}
    assert visible("/best") == features
    assert visible("lost/published") == {*features, "bias", "bias_auto", "max_objects"}
    assert visible("maskcut/published") == {*features, "tau", "tau_auto", "max_objects"}
    assert visible("dino-seg/published") == {"layer"}
    changes = built._method_chosen(values_of(built, method="maskcut/published"))
    assert changes[built.controls["tau"]]["value"] == 0.15
    assert changes[built.controls["max_objects"]]["value"] == 3


def test_the_controls_change_what_is_found(built):
    changes = built._show(values_of(built, method="lost/published", bias=-0.35, facet="q", layer="-3"))
    assert "LOST: q of layer -3, raw, bias -0.35" in text_of(built, changes)
    changes = built._show(values_of(built, method="tokencut/published", tau=0.2, tau_auto=True))
    assert "TokenCut: k of layer -1, tau auto" in text_of(built, changes)
    changes = built._show(values_of(built, registers=True))
    assert "openclip, 1 test-time register" in text_of(built, changes, 1)
    assert "register" not in text_of(built, changes, 0)


def test_a_value_that_the_page_does_not_offer_is_one_line(built):
    for method in ("nonsense", "/nonsense", "lost/nonsense"):
        changes = built._show(values_of(built, method=method))
        assert 'class="error"' in text_of(built, changes)


def test_a_damaged_upload_leaves_the_image_that_was_there(built, tmp_path, recwarn):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    values = values_of(built)
    session, upload = built._uploaded({**values, built.upload: str(tmp_path / "broken.png")})
    assert session == values[built.session] and upload is None


def test_names_of_images_are_text(built, photo, tmp_path):
    name = "<img src=x onerror=alert(1)>.png"
    (tmp_path / name).write_bytes(photo.read_bytes())
    session, _ = built._uploaded({**values_of(built), built.upload: str(tmp_path / name)})
    assert session.image.name == name
    status = built._show(values_of(built, session=session))[built.status]
    assert "&lt;img src=x" in status and "<img" not in status


def test_paging_stays_within_the_folder(built):
    assert built.reader.count == 1
    for by in (-1, 0, 1):
        assert built._listed(_Session(), by).index == 0
    assert built._numbered(values_of(built, number=77)).index == 0


# --- as a whole


def test_a_page_needs_a_backbone():
    assert "at least one backbone" in refusal(page, [])


def test_fonts_are_the_systems():
    theme = look()["theme"]
    assert not theme._stylesheets
    assert not re.search(r"@import|@font-face|url\(.?http", theme._get_theme_css())


def test_the_space_builds_its_page(monkeypatch, tmp_path):
    monkeypatch.setenv("LOST_REG_SPACE_BACKBONES", "tiny")
    spec = importlib.util.spec_from_file_location("space_app", SPACE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert isinstance(module.demo, gr.Blocks) and not module.demo.is_running
