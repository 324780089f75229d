"""OpenCLIP's models, made by open_clip: a text tower, and the image tower as a lost-reg backbone."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lost_reg.backbones.base import Backbone
from lost_reg.backbones.checkpoint_files import read_tensors
from lost_reg.backbones.checkpoint_folders import checkpoint_digest
from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.registers import AddedRegisters
from lost_reg.backbones.timm_models import resolve_spec
from lost_reg.backbones.weights import RANDOM, Weights, local_checkpoint
from lost_reg.errors import LostRegError
from lost_reg.text import first_sentence

MODELS = {"openclip": "ViT-B-16"}  # open_clip's name of a backbone of lost-reg
_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_LEAST_COSINE = 0.99  # of the two image towers for one image; rounding costs far less


def import_open_clip() -> Any:
    """The module open_clip.

    Raises:
        LostRegError: it is not installed; says how to get it.
    """
    try:
        import open_clip
    except ImportError:
        raise LostRegError("zero-shot needs open_clip: pip install 'lost-reg[openclip]'") from None
    return open_clip


@dataclass(frozen=True)
class OpenClip:
    """A model of OpenCLIP.

    name: open_clip's. backbone: its image tower as lost-reg runs it, possibly with test-time registers.
    model: open_clip's whole model, whose text tower and projection are used.
    """

    name: str
    backbone: Backbone
    model: Any

    @property
    def side(self) -> int:
        """The side of the images that it was trained with, in pixels."""
        return int(self.model.visual.image_size[0])

    @property
    def width(self) -> int:
        """How many numbers an embedding has, E."""
        return int(self.projection.shape[1])

    @property
    def projection(self) -> Tensor:
        """From class tokens to embeddings, (D, E) float32."""
        return self.model.visual.proj.detach()

    def embed_classes(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """The mean of a class's prompts as a vector of length 1: (K, E) float32.

        A prompt is a template with the class's name in place of "{}". All prompts count the same.
        """
        open_clip = import_open_clip()
        fill = [lambda name, template=template: template.replace("{}", name) for template in templates]
        tokenizer = open_clip.get_tokenizer(self.name)
        return open_clip.build_zero_shot_classifier(self.model, tokenizer, list(names), fill).T


@torch.inference_mode()
def embed_images(images: Tensor, tower: Backbone, projection: Tensor) -> Tensor:
    """Normalised images, (B, 3, H, W), as vectors of length 1: (B, E) float32.

    tower: a model's image tower. projection: see `OpenClip`.
    """
    tokens = tower.class_tokens(images).float()
    return torch.nn.functional.normalize(tokens @ projection.to(tokens.device), dim=1)


def load_image_tower(backbone: str, **options: Any) -> Backbone:
    """The image tower alone; arguments and errors are those of `load_open_clip`."""
    return load_open_clip(backbone, **options).backbone


def load_open_clip(
    backbone: str,
    *,
    text_model: str | None = None,
    weights: str | None = None,
    registers: AddedRegisters | None = None,
    offline: bool = False,
    **options: Any,
) -> OpenClip:
    """Load a model of OpenCLIP whose image tower is a backbone.

    Args:
        backbone: its name; text_model: open_clip's name of the model, by default that of the backbone.
        weights: a checkpoint of open_clip's with both towers; "random"; None for the published one.
        options: those of `load_backbone`.

    Raises:
        LostRegError: no open_clip, no such model, weights that are missing or lack a tower, or an image tower
            that the backbone cannot be.
    """
    open_clip = import_open_clip()
    name = text_model or MODELS.get(resolve_spec(backbone).name)
    if name is None:
        raise LostRegError(
            f"{backbone} has no text tower: zero-shot takes the `backbone` openclip, or `text_model`, "
            "open_clip's name of the model that it is the image tower of"
        )
    if name not in open_clip.list_models():
        raise LostRegError(f"open_clip has no model {name!r}: `text_model` is a name such as ViT-B-16")
    torch.manual_seed(0)  # of random weights
    with _quiet():  # open_clip warns of random weights, which are replaced here
        model = open_clip.create_model(name, precision="fp32", pretrained_image=False).eval()
    _check_image_tower(model, name)
    found = _fill(model, backbone, weights, offline)
    plain = load_backbone(backbone, weights=model, **options)
    _check_same(plain, model, backbone, name)
    loaded = load_backbone(backbone, weights=model, registers=registers, **options) if registers else plain
    loaded.weights = found
    return OpenClip(name, loaded, model)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that other libraries log."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _check_image_tower(model: Any, name: str) -> None:
    visual = model.visual
    known = getattr(visual, "pool_type", None) == "tok" and getattr(visual, "attn_pool", None) is None
    if not known or getattr(visual, "proj", None) is None or getattr(visual, "final_ln_after_pool", False):
        raise LostRegError(f"the image tower of {name} is no plain ViT with a class token: not supported")


def _fill(model: Any, backbone: str, weights: str | None, offline: bool) -> Weights:
    """Give the model its weights."""
    if weights == RANDOM:
        return Weights(RANDOM, RANDOM)
    hub_id = str(weights) if weights else resolve_spec(backbone).hub_ids[-1:]
    path = local_checkpoint(weights) if weights else None
    found = Weights("file", path.name, path) if path else _from_hub("".join(hub_id), offline)
    state = {name.removeprefix("module."): one for name, one in read_tensors(found.path).items()}
    if not any(name.startswith(("transformer.", "text.")) for name in state):
        raise LostRegError(
            f"{str(found.path)!r} has no text tower: zero-shot needs the whole checkpoint of open_clip as "
            "`weights`"
        )
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise LostRegError(f"{str(found.path)!r} does not fit open_clip's model: {_reason(error)}") from None
    return replace(found, sha256=checkpoint_digest(found.path))


def _reason(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return first_sentence(RuntimeError(lines[min(1, len(lines) - 1)]))[:200]


def _from_hub(hub_id: str, offline: bool) -> Weights:
    """The file with both towers of a repository of the Hugging Face hub."""
    from huggingface_hub import hf_hub_download

    if not hub_id:
        raise LostRegError("zero-shot needs a checkpoint of open_clip with both towers: give it as `weights`")
    for name in _FILES:
        try:
            return Weights("hub", hub_id, Path(hf_hub_download(hub_id, name, local_files_only=offline)))
        except Exception as error:  # of the network, of the hub, and of files that are not there
            last = error
    raise LostRegError(
        f"cannot get {' or '.join(_FILES)} of {hub_id}: {first_sentence(last)[:160]}; "
        "give the file as `weights`"
    )


def _check_same(plain: Backbone, model: Any, backbone: str, name: str) -> None:
    """Check that the backbone computes what open_clip's image tower does, on an image of noise.

    Raises:
        LostRegError: another activation, another normalisation or the like.
    """
    side = int(model.visual.image_size[0])
    noise = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    ours = embed_images(noise, plain, model.visual.proj).cpu()
    with torch.inference_mode():
        theirs = model.encode_image(noise, normalize=True)
    cosine = float((ours * theirs).sum())
    if not cosine >= _LEAST_COSINE:
        raise LostRegError(
            f"{backbone} is not the image tower of open_clip's {name}: their embeddings of one image have a "
            f"cosine of {cosine:.2f}"
        )
