"""Loading a backbone: by name, with weights, or from a user's function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lost_reg.backbones import DEFAULT
from lost_reg.backbones.base import PRECISIONS, TOKENS, Backbone
from lost_reg.backbones.filling import filled_model
from lost_reg.backbones.model_objects import device_of, filled_from, is_known, model_of
from lost_reg.backbones.registers import AddedRegisters
from lost_reg.backbones.timm_models import random_model, resolve_spec
from lost_reg.backbones.vit import VitBackbone
from lost_reg.backbones.weights import Weights, find_weights
from lost_reg.discovery.features import Part
from lost_reg.errors import LostRegError
from lost_reg.json_files import check_fields
from lost_reg.text import first_sentence, type_of

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """How images are prepared for a user's function.

    patch_size: in pixels; images are padded to multiples of it.
    mean, std: for normalising images in [0, 1], per channel.
    """

    patch_size: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        """Raises LostRegError for a value that is not possible."""
        check_fields(self)
        if self.patch_size < 1:
            raise LostRegError(f"expected a patch size of at least 1 pixel, but got {self.patch_size}")


class FunctionBackbone(Backbone):
    """A user's function as a backbone.

    The function gets normalised float32 images on `device`, (B, 3, H, W) with H and W multiples of the patch
    size. It returns (B, N, D) features, patches in row-major order. They are its only facet and layer, and
    count as the keys of its last block.
    """

    precision = "fp32"
    depth = 1

    def __init__(
        self, function: Callable[[Tensor], Tensor], preprocessing: Preprocessing, device: torch.device
    ):
        self.function, self.device, self.patch_size = function, device, preprocessing.patch_size
        self.mean, self.std = preprocessing.mean, preprocessing.std
        self.name = getattr(function, "__name__", type(function).__name__)
        self.weights = Weights(source="callable", name=self.name)

    @torch.inference_mode()
    def facets(self, images: Tensor, parts: Sequence[Part]) -> list[Tensor]:
        """The function's features for its one part; see `Backbone.facets`.

        Raises:
            LostRegError: features of the wrong shape, or another facet or layer.
        """
        if any(facet not in ("k", TOKENS) or layer != -1 for facet, layer in parts):
            raise LostRegError(f"facet and layer cannot be chosen for {self.name}: it is a function of yours")
        features = self.function(images.to(self.device))
        batch, _, height, width = images.shape
        patches = (height // self.patch_size) * (width // self.patch_size)
        is_tensor = isinstance(features, Tensor)
        if not is_tensor or features.ndim != 3 or features.shape[:2] != (batch, patches):
            got = str(tuple(features.shape)) if is_tensor else type_of(features)
            raise LostRegError(
                f"expected {self.name} to give features of shape ({batch}, {patches}, D) for images of "
                f"{height} x {width} pixels, but got {got}"
            )
        return [features] * len(parts)


def load_backbone(
    backbone: str | torch.nn.Module | Callable[[Tensor], Tensor] = DEFAULT,
    *,
    weights: str | Path | torch.nn.Module | None = None,
    device: str = "auto",
    precision: str = "fp32",
    offline: bool = False,
    registers: AddedRegisters | None = None,
    preprocessing: Preprocessing | None = None,
) -> Backbone:
    """Load a backbone by name, or use a model or a function as one; by default "dino", LOST's own.

    Args:
        backbone: a name or alias of the table (`lost-reg backbones`), `timm:NAME` for any VisionTransformer
            or Eva of timm, a model of timm or transformers (see `model_of`), or a function (see
            `FunctionBackbone`).
        weights: a checkpoint: a file, a folder, or the id of one on the Hugging Face hub; a model that has
            them, of timm, of transformers or of the authors; "random"; or None for the published weights.
        device: "auto" (CUDA if there is any; where it is, for a model), or a torch device.
        precision: "fp32", "bf16" or "fp16".
        offline: whether weights that are not on this machine are an error; otherwise, they are downloaded.
        registers: test-time registers, for a model that was trained without any.
        preprocessing: of the images passed to a function; a named backbone has its own.

    Raises:
        LostRegError: an unknown name, device or precision; weights that are missing or do not fit; test-time
            registers that the model cannot use; an argument that is not for this kind of backbone.

    Example:
        >>> backbone = load_backbone("tiny")
        >>> backbone.features(torch.zeros(1, 3, 32, 48)).shape
        torch.Size([1, 6, 192])
    """
    torch_device = find_device(device)
    if precision not in PRECISIONS:
        raise LostRegError(f"unknown precision {precision!r}: choose among {', '.join(PRECISIONS)}")
    if is_known(backbone) and preprocessing is None:
        if weights is not None:
            raise LostRegError("`weights` is for backbones by name: a model of yours has its own")
        return _loaded_model(backbone, device, precision, registers)
    if not isinstance(backbone, str):
        others = {"weights": weights is not None, "precision": precision != "fp32"}
        prepared = _of_function(preprocessing, registers, [name for name, given in others.items() if given])
        return FunctionBackbone(backbone, prepared, torch_device)
    if preprocessing is not None:
        raise LostRegError(f"preprocessing is for a function of yours: {backbone} has its own")
    spec = resolve_spec(backbone)
    if registers:
        registers.check_backbone(spec.name, spec.registers)  # before any weights are read
    if isinstance(weights, torch.nn.Module):
        found = _of_object(weights)
        return VitBackbone(spec, filled_from(spec, weights), found, torch_device, precision, registers)
    found = find_weights(spec, weights, offline=offline)
    model = filled_model(spec, found.path) if found.path else random_model(spec)
    return VitBackbone(spec, model, found, torch_device, precision, registers)


def _of_function(
    preprocessing: Preprocessing | None, registers: AddedRegisters | None, others: Sequence[str]
) -> Preprocessing:
    """The preprocessing of a user's function, which takes neither registers nor the other arguments."""
    if registers:
        raise LostRegError("test-time registers need the blocks of a ViT: a function of yours has none")
    if others:
        raise LostRegError(f"`{others[0]}` is for backbones by name: a function of yours has its own")
    if preprocessing is None:
        raise LostRegError(
            "a function as backbone needs its patch size: "
            "load_backbone(function, preprocessing=Preprocessing(patch_size=16))"
        )
    return preprocessing


def _loaded_model(model: Any, device: str, precision: str, registers: AddedRegisters | None) -> Backbone:
    """A model of timm or transformers as a backbone, by default on the device that it is on."""
    spec, own = model_of(model)
    if registers:
        registers.check_backbone(spec.name, spec.registers)
    place = device_of(model) if device == "auto" else find_device(device)
    return VitBackbone(spec, own, _of_object(model), place, precision, registers)


def _of_object(model: torch.nn.Module) -> Weights:
    return Weights("object", type(model).__name__)


def find_device(name: str) -> torch.device:
    """The torch device with this name; "auto" is CUDA if available.

    Raises:
        LostRegError: a device that cannot be used.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).tolist()
    except (RuntimeError, AssertionError, ImportError) as error:
        others = "cpu, cuda or cuda:1" if torch.cuda.is_available() else "cpu"
        raise LostRegError(
            f"device {name!r} cannot be used ({first_sentence(error)[:60]}): try `device` {others}"
        ) from None
    return device
