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
    shown_of_method,
    shown_of_patch,
    title_of,
    tokens_of,
)
from lost_reg.explore.features import FeatureStore
from lost_reg.explore.reader import Reader

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
    with Reader([photo.parent]) as reader:
        yield _Page([Model(tiny), Model(small_backbone("CLIP"), with_registers)], reader, 131)


# --- columns


def chosen(*given, **named) -> Choice:
    return Choice(*given, max_side=131, **named)


def test_a_column_has_all_pictures_and_says_what_they_are(tiny, of_page, store):
    choice = chosen("lost/published", {"bias": -0.2}, token="register 2", head=1)
    of_method, of_patch = (
        shown_of_method(tiny, of_page, choice, store),
        shown_of_patch(tiny, of_page, choice, (0.5, 0.5), store),
    )
    pictures = {**of_method.pictures, **of_patch.pictures}
    assert set(pictures) == set(SLOTS) and len({picture.size for picture in pictures.values()}) == 1
    assert of_method.labels["attention"] == "Attention of register 2, head 1"
    assert of_method.maps == ["degrees", "affinities"] and of_method.errors == []
    found, setting, size = of_method.lines
    assert found.startswith("1 object: [") and size == "Used at 131 x 98 pixels"
    assert setting == "LOST: k of layer -1, raw, max side 131, bias -0.2"
    assert of_method.labels["norms"].startswith("Token norms at layer -1, ")
    assert of_patch.labels["expansion"] == "What LOST expands from your patch"
    place, degree = of_patch.lines
    assert place == "Your patch: row 3, column 4 of 7 x 9" and of_patch.patch == (3, 4)
    assert degree.startswith("Similar to ")


def test_without_a_patch_the_seed_of_lost_is_shown(tiny, of_page, store):
    for method, label in (
        ("lost/published", "Affinity to LOST's seed: red is similar"),
        ("tokencut/published", "Cosine to LOST's seed: red is above tau"),
    ):
        shown = shown_of_patch(tiny, of_page, chosen(method), None, store)
        assert shown.lines[0].startswith("LOST's seed: row ") and shown.labels["affinities"] == label


def test_the_map_is_the_one_that_is_chosen(tiny, of_page, store):
    labels = [
        shown_of_method(tiny, of_page, chosen("lost/published", map=name), store).labels["map"]
        for name in ("", "affinities", "votes")  # the last belongs to another method
    ]
    assert labels == [
        "Degree, and LOST's seed",
        "Affinity to the seed, and LOST's seed",
        "Degree, and LOST's seed",
    ]


def test_what_a_backbone_does_not_have_is_one_line_beside_the_rest(tiny, of_page, store):
    shown = shown_of_method(tiny, of_page, chosen("dino-seg/published", token="register 9"), store)
    assert shown.errors == [
        "tiny has no token 'register 9'",
        "there is no `attention_head` 4: the backbone has heads 0 to 2",
    ]
    assert shown.pictures["norms"] and shown.pictures["attention"] is None and shown.pictures["objects"]
    shown = shown_of_method(tiny, of_page, chosen("head/published"), store)
    assert len(shown.errors) == 1 and not shown.pictures
    assert not shown_of_patch(tiny, of_page, chosen("head/published"), None, store).pictures


def test_test_time_registers_change_what_is_shown(with_registers, of_page, store):
    model = Model(small_backbone("CLIP"), with_registers)
    assert model.chosen(False) is model.plain and model.chosen(True) is with_registers
    assert Model(model.plain).chosen(True) is model.plain
    assert title_of(with_registers) == "openclip, 1 test-time register at 1 neuron"
    assert tokens_of(model) == ["class", "test-time register"]
    choice = chosen("lost/published", token="test-time register")
    assert shown_of_method(with_registers, of_page, choice, store).pictures["attention"]
    assert "no token" in shown_of_method(model.plain, of_page, choice, store).errors[0]


# --- events


def values_of(built, column: int = 0, **changes) -> dict:
    """The values of all components as the page starts, some of them changed; controls are of one column."""
    own = [built.row, built.col, built.number, built.count]
    values = {one: one.value for panel in built.panels for one in panel.controls.values()}
    values |= {one: one.value for one in own}
    values |= {built.session: built._listed(_Session(), 0), built.upload: None}
    of_page = {name: getattr(built, name) for name in ("row", "col", "number", "count", "session")}
    named = {**built.panels[column].controls, **of_page}
    return values | {named[name]: value for name, value in changes.items()}


def text_of(built, changes: dict, column: int = 0, kind: str = "method") -> str:
    return str(changes[built.panels[column].parts[kind]])


def test_the_page_starts_with_the_first_image(built):
    changes = built._show(values_of(built))
    assert "a.png" in changes[built.status] and "200 x 150 pixels" in changes[built.status]
    assert "tiny" in text_of(built, changes) and "openclip" in text_of(built, changes, 1)
    for at, panel in enumerate(built.panels):
        assert all((panel.parts[slot] in changes) == (at < 2) for slot in SLOTS)
        assert at >= 2 or all(changes[panel.parts[slot]]["value"] for slot in SLOTS)
    assert [panel.block.visible for panel in built.panels] == [True, True, False, False]
    assert changes[built.row] is not None and changes[built.col] is not None


def test_a_click_is_a_place_in_the_image_for_every_backbone(built):
    session = values_of(built)[built.session]
    event = gr.SelectData(None, {"index": (256, 96), "value": None})  # of a picture of 512 x 384
    session = _clicked(session, event)
    assert session.position == pytest.approx((96 / 384, 0.5))
    changes = built._show_patch(values_of(built, session=session))
    assert (changes[built.row], changes[built.col]) == (1, 4)
    assert all(
        "Your patch: row 1, column 4 of 7 x 9" in text_of(built, changes, at, "patch") for at in (0, 1)
    )
    touched, parts = {id(one) for one in changes}, built.panels[0].parts
    assert id(parts["objects"]) not in touched and id(parts["affinities"]) in touched


def test_a_row_and_a_column_can_be_typed(built):
    session = built._placed(values_of(built, row=5, col=8))
    changes = built._show_patch(values_of(built, session=session))
    assert (changes[built.row], changes[built.col]) == (5, 8)
    session = built._placed(values_of(built, row=500, col=-3))
    changes = built._show_patch(values_of(built, session=session))
    assert (changes[built.row], changes[built.col]) == (6, 0)
    assert built._placed(values_of(built, row=None, col=1)).position is None


def test_a_method_brings_its_own_controls(built):
    panel = built.panels[0]

    def visible(method: str) -> set[str]:
        changes = panel.of_method(values_of(built, method=method))
        names = {one: name for name, one in panel.controls.items()}
        return {names[one] for one, change in changes.items() if change.get("visible")}

    features = {"facet", "layer"}
    assert visible("/best") == features == {
        name for name in (*features, "bias", "tau", "max_objects") if panel.controls[name].visible
    }  # fmt: skip
    assert visible("lost/published") == {*features, "bias", "bias_auto", "max_objects"}
    assert visible("maskcut/published") == {*features, "tau", "tau_auto", "max_objects"}
    assert visible("dino-seg/published") == {"layer"}
    changes = panel.of_method(values_of(built, method="maskcut/published"))
    values = {
        name: changes[panel.controls[name]]["value"] for name in ("facet", "layer", "tau", "max_objects")
    }
    assert values == {"facet": "k", "layer": [-1], "tau": 0.15, "max_objects": 3}
    assert panel.controls["facet"].value == "qkv"  # of the preset that the page starts with


def test_a_backbone_brings_what_it_offers_and_leaves_what_is_chosen(built):
    panel = built.panels[1]

    def of_tiny(**chosen) -> dict:
        changes = panel.of_backbone(values_of(built, 1, backbone=0, **chosen))
        return {name: changes[one] for name, one in panel.controls.items() if one in changes}

    changes = of_tiny(method="dino-seg/published", head="3", token="test-time register")  # none of tiny's
    started = {"method": "/best", "head": "mean", "token": "class", "facet": "qkv", "layer": [-1]}
    assert {name: changes[name]["value"] for name in started} == started
    assert not {"dino-seg/published", "head/published"} & {key for _, key in changes["method"]["choices"]}
    assert [head for head, _ in changes["head"]["choices"]] == ["mean", "0", "1", "2"]
    assert [layer for _, layer in changes["layer"]["choices"]] == [-1, -2, -3, -4, -5, -6]
    assert not changes["registers"]["visible"] and panel.controls["registers"].visible
    kept = {"method": "tokencut/published", "head": "2", "token": "class"}
    changes = of_tiny(**kept)
    assert {name: changes[name]["value"] for name in kept} == kept and changes["facet"]["value"] == "k"


def test_the_controls_change_what_is_found(built):
    changes = built._show(values_of(built, method="lost/published", bias=-0.35, facet="q", layer=[-3]))
    assert "LOST: q of layer -3, raw, max side 131, bias -0.35" in text_of(built, changes)
    changes = built._show(values_of(built, method="lost/published", facet="kv", layer=[-1, -3]))
    assert "LOST: kv of layers -1 and -3, raw" in text_of(built, changes)
    changes = built._show(values_of(built, method="tokencut/published", facet="k", tau=0.2, tau_auto=True))
    assert "TokenCut: k of layer -1, max side 131, tau auto" in text_of(built, changes)
    changes = built._show(values_of(built, 1, registers=True))
    assert "openclip, 1 test-time register" in text_of(built, changes, 1)
    assert "register" not in text_of(built, changes, 0)


def test_columns_differ_in_backbone_and_setting(built):
    """One backbone three times: in facet, in layers, and in method."""
    values = values_of(built, count=4)
    for at, (method, facet, layer) in enumerate(
        [
            ("lost/published", "k", [-1]),
            ("lost/published", "q", [-1, -2]),
            ("background/published", "k", [-1]),
        ]
    ):
        controls = built.panels[at].controls
        values |= {
            controls[name]: value for name, value in zip(("method", "facet", "layer"), (method, facet, layer))
        }
        values[controls["backbone"]] = 0
    changes = built._show(values)
    texts = [text_of(built, changes, at) for at in range(4)]
    assert ["tiny" in one for one in texts] == [True, True, True, False]
    assert "LOST: k of layer -1, raw" in texts[0] and "LOST: q of layers -1 and -2, raw" in texts[1]
    assert "LOST" not in texts[2] and "openclip" in texts[3]
    again = built._show_panel(built.panels[1], values)
    parts = {id(one) for one in (*built.panels[1].parts.values(), built.panels[1].controls["map"])}
    assert {id(one) for one in again} == parts  # and nothing of the other columns


def test_columns_are_shown_and_hidden(built):
    assert [change["visible"] for change in built._counted(3)] == [True, True, True, False]
    values = values_of(built, count=1)
    for changes in (built._show(values), built._show_patch(values)):
        touched = {id(one) for one in changes}
        assert id(built.panels[0].parts["patch"]) in touched
        assert not touched & {id(one) for panel in built.panels[1:] for one in panel.parts.values()}


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


def test_an_upload_has_no_number_in_the_folder(built, photo):
    session, _ = built._uploaded({**values_of(built), built.upload: str(photo)})
    assert built._show(values_of(built, session=session))[built.number] is None
    assert built._show(values_of(built, session=built._listed(session, 0)))[built.number] == 1


def test_paging_stays_within_the_folder(built):
    assert built.reader.count == 1 and set(values_of(built)[built.session].image.at) == {(131, None)}
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
