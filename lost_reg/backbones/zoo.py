"""The table of backbones, one row each, and their labels in results. Names and facts only; loads nothing."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lost_reg.backbones import registers
from lost_reg.errors import LostRegError
from lost_reg.text import RANDOM_WEIGHTS

TIMM_PREFIX = "timm:"


@dataclass(frozen=True)
class BackboneSpec:
    """One backbone.

    architecture: timm's model name, with the tag of its weights.
    patch_size: in pixels; 0 if only the model itself knows (`timm:NAME`).
    registers: number of register tokens from training.
    position_offset: how a learned position embedding is resampled to other grids. A number is added to
        the grid size before dividing by the native grid size; the quotient is the scale factor of a
        bicubic resampling without antialiasing (DINO and DINOv2, dino/vision_transformer.py and
        dinov2/models/vision_transformer.py). None: bicubic and antialiased, to the size of the grid, as
        in timm and in DINOv2 with registers.
    hub_ids: the Hugging Face repositories of the weights: timm's, then the authors' for transformers.
    official_file: the name under which the authors publish the same weights.
    bundled_file: the weights are a file of this package.
    facet: the one that Darcet et al. 2024 and Jiang et al. 2025 use for it: values for DeiT-III and
        OpenCLIP, keys for all others.
    model_args: arguments that change timm's architecture.
    """

    name: str
    family: str
    architecture: str
    patch_size: int
    registers: int = 0
    position_offset: float | None = None
    hub_ids: tuple[str, ...] = ()
    official_file: str | None = None
    bundled_file: str | None = None
    facet: str = "k"
    model_args: dict = field(default_factory=dict)


def _on_hub(
    name: str,
    family: str,
    architecture: str,
    patch_size: int,
    authors_id: str | None = None,
    **more: Any,
) -> BackboneSpec:
    """A row whose weights timm publishes on the Hugging Face hub, and perhaps their authors too."""
    hub_ids = tuple(filter(None, (f"timm/{architecture}", authors_id)))
    return BackboneSpec(name, family, architecture, patch_size, hub_ids=hub_ids, **more)


def _dino(size: str, patch_size: int, official_file: str) -> BackboneSpec:
    short, architecture = f"vit{size[0]}{patch_size}", f"vit_{size}_patch{patch_size}_224.dino"
    facts = {"position_offset": 0.1, "official_file": official_file}
    return _on_hub(f"dino_{short}", "DINO", architecture, patch_size, f"facebook/dino-{short}", **facts)


def _dinov2(size: str) -> BackboneSpec:
    name, architecture = f"dinov2_vit{size[0]}14", f"vit_{size}_patch14_dinov2.lvd142m"
    facts = {"position_offset": 0.1, "official_file": f"{name}_pretrain.pth"}
    return _on_hub(name, "DINOv2", architecture, 14, f"facebook/dinov2-{size}", **facts)


def _dinov2_reg(size: str) -> BackboneSpec:
    name, architecture = f"dinov2_vit{size[0]}14_reg", f"vit_{size}_patch14_reg4_dinov2.lvd142m"
    facts = {"registers": 4, "official_file": f"{name}4_pretrain.pth"}
    authors_id = f"facebook/dinov2-with-registers-{size}"
    return _on_hub(name, "DINOv2 + registers", architecture, 14, authors_id, **facts)


def _dinov3(size: str) -> BackboneSpec:
    short, architecture = f"vit{size[0]}16", f"vit_{size}_patch16_dinov3.lvd1689m"
    authors_id = f"facebook/dinov3-{short}-pretrain-lvd1689m"
    return _on_hub(f"dinov3_{short}", "DINOv3", architecture, 16, authors_id, registers=4)


_DINOV2_SIZES = ("small", "base", "large", "giant")

SPECS: tuple[BackboneSpec, ...] = (
    BackboneSpec(
        "tiny",
        "bundled",
        "vit_tiny_patch16_224",
        16,
        registers=4,
        bundled_file="tiny.safetensors",
        model_args={"depth": 6, "mlp_ratio": 2.0, "reg_tokens": 4, "no_embed_class": True},
    ),
    _dino("small", 16, "dino_deitsmall16_pretrain.pth"),
    _dino("small", 8, "dino_deitsmall8_pretrain.pth"),
    # LOST's own figures for ViT-S/8 come from this checkpoint, which timm does not offer.
    BackboneSpec(
        "dino_vits8_300ep",
        "DINO",
        "vit_small_patch8_224.dino",
        8,
        position_offset=0.1,
        official_file="dino_deitsmall8_300ep_pretrain.pth",
    ),
    _dino("base", 16, "dino_vitbase16_pretrain.pth"),
    _dino("base", 8, "dino_vitbase8_pretrain.pth"),
    *map(_dinov2, _DINOV2_SIZES),
    *map(_dinov2_reg, _DINOV2_SIZES),
    *map(_dinov3, ("small", "base", "large")),
    _on_hub(
        "deit3",
        "DeiT-III",
        "deit3_base_patch16_224.fb_in22k_ft_in1k",
        16,
        official_file="deit_3_base_224_21k.pth",
        facet="v",
    ),
    _on_hub(
        "openclip",
        "OpenCLIP",
        "vit_base_patch16_clip_224.laion2b",
        16,
        "laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
        facet="v",
    ),
)

ALIASES = {
    "dino": "dino_vits16",
    "dinov2": "dinov2_vitl14",
    "dinov2_reg": "dinov2_vitl14_reg",
    "dinov3": "dinov3_vitl16",
}


def register_pairs() -> dict[str, str]:
    """The names of backbones without registers, mapped to their counterparts trained with registers."""
    names = {spec.name for spec in SPECS}
    return {name: f"{name}_reg" for name in sorted(names) if f"{name}_reg" in names}


def find_spec(name: str) -> BackboneSpec:
    """The row of a backbone, by its name or alias; `timm:NAME` makes a row for any timm ViT.

    Raises:
        LostRegError: an unknown name; suggests similar ones.
    """
    if name.startswith(TIMM_PREFIX):
        # timm knows patch size and weights, once it is imported
        return BackboneSpec(name, "timm", name.removeprefix(TIMM_PREFIX), patch_size=0)
    rows = {spec.name: spec for spec in SPECS}
    found = rows.get(ALIASES.get(name, name))
    if found is None:
        close = difflib.get_close_matches(name, [*rows, *ALIASES], n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "`lost-reg backbones` lists them"
        raise LostRegError(f"unknown backbone {name!r}: {hint}")
    return found


def list_backbones() -> list[str]:
    """The names in the table; `timm:NAME` selects any other timm ViT."""
    return [spec.name for spec in SPECS]


def backbone_label(
    name: str,
    weights: Mapping[str, Any],
    test_time_registers: Mapping[str, Any] | None = None,
    more: Sequence[str] = (),
) -> str:
    """A backbone's name with its `backbone_notes`, such as "dinov2_vitl14 (RANDOM WEIGHTS, bf16)"."""
    notes = backbone_notes(name, weights, test_time_registers, more)
    return name + (f" ({', '.join(notes)})" if notes else "")


def backbone_notes(
    name: str,
    weights: Mapping[str, Any],
    test_time_registers: Mapping[str, Any] | None = None,
    more: Sequence[str] = (),
) -> list[str]:
    """What distinguishes a backbone from the one of this name with its published weights.

    Args:
        weights: as `Weights.recorded` gives them.
        test_time_registers: as `AddedRegisters.settings` gives them.
        more: further notes that distinguish a result; placed between weights and registers.
    """
    notes = []
    if weights["source"] == "random":
        notes.append(RANDOM_WEIGHTS)
    elif weights["source"] in ("file", "object") or (
        weights["source"] == "hub" and not _publishes(weights["name"], name)
    ):
        notes.append(weights["name"])
    notes += more
    if test_time_registers:
        notes.append(registers.describe(dict(test_time_registers)))
    return notes


def _publishes(hub_id: str, name: str) -> bool:
    """Whether a repository is timm's, which is named like the model, or the one of the backbone's authors."""
    return hub_id.startswith("timm/") or any(spec.name == name and hub_id in spec.hub_ids for spec in SPECS)
