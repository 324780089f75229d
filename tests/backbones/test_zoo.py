"""The table of backbones against the papers' facts (DESIGN.md, "Backbones") and against timm."""

from __future__ import annotations

import huggingface_hub
import pytest
import timm

from lost_reg.backbones import weights
from lost_reg.backbones.zoo import ALIASES, SPECS, find_spec
from lost_reg.errors import LostRegError

# family: name, patch size, timm's architecture
DINO = [
    ("dino_vits16", 16, "vit_small_patch16_224.dino"),
    ("dino_vits8", 8, "vit_small_patch8_224.dino"),
    ("dino_vits8_300ep", 8, "vit_small_patch8_224.dino"),
    ("dino_vitb16", 16, "vit_base_patch16_224.dino"),
    ("dino_vitb8", 8, "vit_base_patch8_224.dino"),
]
DINOV2 = [
    ("dinov2_vits14", 14, "vit_small_patch14_dinov2.lvd142m"),
    ("dinov2_vitb14", 14, "vit_base_patch14_dinov2.lvd142m"),
    ("dinov2_vitl14", 14, "vit_large_patch14_dinov2.lvd142m"),
    ("dinov2_vitg14", 14, "vit_giant_patch14_dinov2.lvd142m"),
]
DINOV2_REG = [
    ("dinov2_vits14_reg", 14, "vit_small_patch14_reg4_dinov2.lvd142m"),
    ("dinov2_vitb14_reg", 14, "vit_base_patch14_reg4_dinov2.lvd142m"),
    ("dinov2_vitl14_reg", 14, "vit_large_patch14_reg4_dinov2.lvd142m"),
    ("dinov2_vitg14_reg", 14, "vit_giant_patch14_reg4_dinov2.lvd142m"),
]
DINOV3 = [
    ("dinov3_vits16", 16, "vit_small_patch16_dinov3.lvd1689m"),
    ("dinov3_vitb16", 16, "vit_base_patch16_dinov3.lvd1689m"),
    ("dinov3_vitl16", 16, "vit_large_patch16_dinov3.lvd1689m"),
]
OTHERS = [
    ("deit3", 16, "deit3_base_patch16_224.fb_in22k_ft_in1k"),
    ("openclip", 16, "vit_base_patch16_clip_224.laion2b"),
]


def test_the_table_has_the_rows_of_the_design():
    rows = [*DINO, *DINOV2, *DINOV2_REG, *DINOV3, *OTHERS]
    assert {spec.name for spec in SPECS} == {"tiny", *(name for name, _, _ in rows)}
    assert len({spec.name for spec in SPECS}) == len(SPECS)
    for name, patch_size, architecture in rows:
        assert (find_spec(name).patch_size, find_spec(name).architecture) == (patch_size, architecture)


@pytest.mark.parametrize(
    ("rows", "registers", "position_offset"),
    [(DINO, 0, 0.1), (DINOV2, 0, 0.1), (DINOV2_REG, 4, None), (DINOV3, 4, None), (OTHERS, 0, None)],
    ids=["dino", "dinov2", "dinov2 with registers", "dinov3", "others"],
)
def test_registers_and_position_rule_of_each_family(rows, registers, position_offset):
    for name, _, _ in rows:
        assert (find_spec(name).registers, find_spec(name).position_offset) == (registers, position_offset)


def test_aliases():
    assert ALIASES == {
        "dino": "dino_vits16",
        "dinov2": "dinov2_vitl14",
        "dinov2_reg": "dinov2_vitl14_reg",
        "dinov3": "dinov3_vitl16",
    }
    for alias, name in ALIASES.items():
        assert find_spec(alias) is find_spec(name)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_timm_knows_every_architecture_and_carries_its_weights(spec):
    assert timm.is_model(spec.architecture)
    published_elsewhere = spec.bundled_file is not None or spec.name == "dino_vits8_300ep"
    hub_id = timm.get_pretrained_cfg(spec.architecture).hf_hub_id
    assert spec.hub_ids[:1] == (() if published_elsewhere else (hub_id,))


def test_the_checkpoint_of_lost_is_not_timms():
    assert find_spec("dino_vits8_300ep").official_file == "dino_deitsmall8_300ep_pretrain.pth"
    assert find_spec("dino_vits8").official_file == "dino_deitsmall8_pretrain.pth"


@pytest.mark.parametrize(
    "spec", [spec for spec in SPECS if spec.hub_ids and spec.official_file], ids=lambda spec: spec.name
)
def test_the_official_file_is_the_one_that_timm_converted(spec):
    assert timm.get_pretrained_cfg(spec.architecture).url.rsplit("/", 1)[-1] == spec.official_file


def test_a_timm_name_makes_a_row():
    spec = find_spec("timm:vit_tiny_patch16_224")
    assert (spec.name, spec.architecture) == ("timm:vit_tiny_patch16_224", "vit_tiny_patch16_224")
    assert spec.position_offset is None


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("dinov2_vits14reg", "dinov2_vits14_reg"),
        ("dino-vits16", "dino_vits16"),
        ("opencIip", "openclip"),
        ("dinov2-reg", "dinov2_reg"),
    ],
)
def test_an_unknown_name_gets_close_ones(name, close):
    with pytest.raises(LostRegError, match=rf"^unknown backbone '{name}': did you mean .*\b{close}\b.*\?$"):
        find_spec(name)


def test_a_name_close_to_none_gets_the_command_that_lists_them():
    with pytest.raises(LostRegError, match=r"^unknown backbone 'xyz': `lost-reg backbones` lists them$"):
        find_spec("xyz")


def test_the_inventory_lists_all(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    table = weights.backbones_table()
    cells = {line.split()[0]: line.split() for line in table.splitlines() if line.strip()}
    for spec in SPECS:
        row = cells[spec.name]
        assert str(spec.patch_size) in row
        assert str(spec.registers) in row
        assert (*spec.hub_ids, spec.official_file or "here:")[0] in row
    for alias, name in ALIASES.items():
        assert alias in cells[name]
    assert str(tmp_path) in table
