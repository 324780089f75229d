"""The table of backbones, one row each. Knows names and facts only; loads nothing."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field

from lost_reg.errors import LostRegError

TIMM_PREFIX = "timm:"


@dataclass(frozen=True)
class BackboneSpec:
    """One backbone.

    architecture: timm's model name, with the tag of its weights.
    patch_size: in pixels; 0 where only the model itself knows (`timm:NAME`).
    registers: register tokens beside the class token.
    position_offset: how a learned position embedding is resampled to other grids. A number is added to
        the grid before it is divided by the native grid, and the quotient is the scale factor of a
        bicubic resampling without antialiasing (DINO and DINOv2, dino/vision_transformer.py and
        dinov2/models/vision_transformer.py). None is timm's way and that of DINOv2 with
        registers: bicubic, antialiased, to the size of the grid.
    hub_id: the Hugging Face repository of the weights, or None.
    official_file: the name under which the authors publish the same weights.
    bundled_file: the weights are a file of this package.
    facet: the one that Darcet et al. 2024 and Jiang et al. 2025 use for it: values for DeiT-III and
        OpenCLIP, keys for all others.
    model_args: what differs from timm's architecture.
    """

    name: str
    family: str
    architecture: str
    patch_size: int
    registers: int = 0
    position_offset: float | None = None
    hub_id: str | None = None
    official_file: str | None = None
    bundled_file: str | None = None
    facet: str = "k"
    model_args: dict = field(default_factory=dict)


def _dino(size: str, letter: str, patch: int, official_file: str) -> BackboneSpec:
    architecture = f"vit_{size}_patch{patch}_224.dino"
    return BackboneSpec(
        name=f"dino_vit{letter}{patch}",
        family="DINO",
        architecture=architecture,
        patch_size=patch,
        position_offset=0.1,
        hub_id=f"timm/{architecture}",
        official_file=official_file,
    )


def _dinov2(size: str) -> BackboneSpec:
    architecture = f"vit_{size}_patch14_dinov2.lvd142m"
    return BackboneSpec(
        name=f"dinov2_vit{size[0]}14",
        family="DINOv2",
        architecture=architecture,
        patch_size=14,
        position_offset=0.1,
        hub_id=f"timm/{architecture}",
        official_file=f"dinov2_vit{size[0]}14_pretrain.pth",
    )


def _dinov2_reg(size: str) -> BackboneSpec:
    architecture = f"vit_{size}_patch14_reg4_dinov2.lvd142m"
    return BackboneSpec(
        name=f"dinov2_vit{size[0]}14_reg",
        family="DINOv2 + registers",
        architecture=architecture,
        patch_size=14,
        registers=4,
        hub_id=f"timm/{architecture}",
        official_file=f"dinov2_vit{size[0]}14_reg4_pretrain.pth",
    )


def _dinov3(size: str) -> BackboneSpec:
    architecture = f"vit_{size}_patch16_dinov3.lvd1689m"
    return BackboneSpec(
        name=f"dinov3_vit{size[0]}16",
        family="DINOv3",
        architecture=architecture,
        patch_size=16,
        registers=4,
        hub_id=f"timm/{architecture}",
    )


_DINOV2_SIZES = ("small", "base", "large", "giant")

SPECS: tuple[BackboneSpec, ...] = (
    BackboneSpec(
        name="tiny",
        family="bundled",
        architecture="vit_tiny_patch16_224",
        patch_size=16,
        registers=4,
        bundled_file="tiny.safetensors",
        model_args={"depth": 6, "mlp_ratio": 2.0, "reg_tokens": 4, "no_embed_class": True},
    ),
    _dino("small", "s", 16, "dino_deitsmall16_pretrain.pth"),
    _dino("small", "s", 8, "dino_deitsmall8_pretrain.pth"),
    # LOST's own figures for ViT-S/8 come from this checkpoint, which timm does not carry.
    BackboneSpec(
        name="dino_vits8_300ep",
        family="DINO",
        architecture="vit_small_patch8_224.dino",
        patch_size=8,
        position_offset=0.1,
        official_file="dino_deitsmall8_300ep_pretrain.pth",
    ),
    _dino("base", "b", 16, "dino_vitbase16_pretrain.pth"),
    _dino("base", "b", 8, "dino_vitbase8_pretrain.pth"),
    *map(_dinov2, _DINOV2_SIZES),
    *map(_dinov2_reg, _DINOV2_SIZES),
    *map(_dinov3, ("small", "base", "large")),
    BackboneSpec(
        name="deit3",
        family="DeiT-III",
        architecture="deit3_base_patch16_224.fb_in22k_ft_in1k",
        patch_size=16,
        hub_id="timm/deit3_base_patch16_224.fb_in22k_ft_in1k",
        official_file="deit_3_base_224_21k.pth",
        facet="v",
    ),
    BackboneSpec(
        name="openclip",
        family="OpenCLIP",
        architecture="vit_base_patch16_clip_224.laion2b",
        patch_size=16,
        hub_id="timm/vit_base_patch16_clip_224.laion2b",
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
    """Backbones without registers, and the names of the same ones trained with them."""
    names = {spec.name for spec in SPECS}
    return {name: f"{name}_reg" for name in sorted(names) if f"{name}_reg" in names}


def find_spec(name: str) -> BackboneSpec:
    """The row of a backbone, by its name or alias; `timm:NAME` makes a row for any timm ViT.

    Raises:
        LostRegError: an unknown name, with similar ones.
    """
    if name.startswith(TIMM_PREFIX):
        # timm knows patch size and weights, once it is imported
        return BackboneSpec(
            name=name, family="timm", architecture=name.removeprefix(TIMM_PREFIX), patch_size=0
        )
    rows = {spec.name: spec for spec in SPECS}
    found = rows.get(ALIASES.get(name, name))
    if found is None:
        close = difflib.get_close_matches(name, [*rows, *ALIASES], n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "`lost-reg backbones` lists them"
        raise LostRegError(f"unknown backbone {name!r}: {hint}")
    return found


def list_backbones() -> list[str]:
    """The names of the table; `timm:NAME` stands for any other ViT of timm."""
    return [spec.name for spec in SPECS]
