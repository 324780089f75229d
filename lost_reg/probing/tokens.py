"""One token of each kind from each image, after the last block and the final norm.

After Darcet et al., "Vision Transformers Need Registers" (ICLR 2024), table 1: the class token, a random
patch token that is an outlier, and one that is not; besides, the first register and the mean patch token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from lost_reg.artifacts.norms import Moments, block_norms
from lost_reg.artifacts.options import ArtifactOptions
from lost_reg.artifacts.streams import ImageStream, check_blocks
from lost_reg.backbones.base import Backbone, normalized
from lost_reg.discovery.features import finite_images
from lost_reg.errors import LostRegError
from lost_reg.images.batching import DecodedImage
from lost_reg.probing.records import Token
from lost_reg.progress import Progress, no_progress
from lost_reg.types import Failure

KINDS: tuple[Token, ...] = ("cls", "register", "normal", "outlier", "mean")
CUTOFF_IMAGES = 1000  # from which mean + 3 sigma is measured: 256,000 patches at 224 pixels


@dataclass(frozen=True)
class ImageTokens:
    """Tokens of a batch of b images that could be used.

    names: of the images. tokens: (b, kinds, D) float32, NaN where an image has none of a kind.
    """

    names: list[str]
    tokens: np.ndarray


@dataclass(frozen=True)
class _Batch:
    """prefix: kinds before the patches, (B, D) each. patches: (B, N, D). is_outlier: (B, N), on the CPU."""

    prefix: dict[Token, Tensor]
    patches: Tensor
    is_outlier: Tensor


def check_kinds(backbone: Backbone, kinds: Sequence[str] | None) -> tuple[Token, ...]:
    """The kinds of tokens to probe; None for all that the backbone has.

    Raises:
        LostRegError: an unknown kind, one that the backbone lacks, or a backbone without blocks.
    """
    check_blocks(backbone)
    if kinds is None:
        return tuple(kind for kind in KINDS if not _lack(backbone, kind))
    for kind in kinds:
        if kind not in KINDS:
            raise LostRegError(f"unknown kind of token {kind!r} in `tokens`: choose among {', '.join(KINDS)}")
        if lack := _lack(backbone, kind):
            raise LostRegError(lack)
    if not kinds:
        raise LostRegError(f"`tokens` names no kind of token: choose among {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in kinds)


def _lack(backbone: Backbone, kind: str) -> str:
    """Why a backbone does not have tokens of a kind; "" if it has."""
    if kind == "register" and backbone.register_row is None:
        return f"{backbone.name} has no registers: choose other `tokens`, or another `backbone`"
    if kind == "cls":
        try:
            backbone.check_class_token()
        except LostRegError as error:
            return str(error)
    return ""


def measured_cutoff(
    stream: ImageStream, backbone: Backbone, options: ArtifactOptions, progress: Progress = no_progress
) -> float:
    """The norm above which a patch is an outlier: the fixed one, or mean + 3 sigma over some images.

    Raises:
        LostRegError: another rule, a layer that the backbone lacks, or no usable image.
    """
    layer = backbone.block_index(options.layer)
    if options.rule == "fixed":
        return options.cutoff
    if options.rule != "sigma":
        raise LostRegError(f"`outliers` {options.rule} needs another model: choose sigma or fixed")
    every = -(-len(stream.names) // CUTOFF_IMAGES)
    some = replace(stream, images=stream.images[::every], names=stream.names[::every])
    moments = Moments()
    of_layer = partial(block_norms, backbone, blocks=layer + 1)
    for norms in some.map_batches(backbone, of_layer, [], progress):
        moments.update(norms[layer].flatten()[None])
    return float(moments.cutoff[0])


class TokenMaker:
    """Makes tokens of the given kinds.

    layer, cutoff: patches with a larger norm after this block (0 is the first) are outliers.
    """

    def __init__(self, backbone: Backbone, kinds: Sequence[Token], layer: int, cutoff: float):
        self._backbone, self._kinds, self._layer, self._cutoff = backbone, tuple(kinds), layer, cutoff

    def of_stream(
        self,
        stream: ImageStream,
        seeds: dict[str, tuple[int, int]],
        failures: list[Failure],
        progress: Progress = no_progress,
        *,
        allow_empty: bool = False,
    ) -> Iterator[ImageTokens]:
        """Tokens of each batch.

        Args:
            seeds: for each name, what patches are drawn with: the user's seed, and the image's number.
            failures: filled with the images that could not be used.
            allow_empty: do not raise if none of the images can be used.

        Raises:
            LostRegError: none of the images can be used.
        """
        unreadable: list[Failure] = []
        reason = self._backbone.not_finite(f"tokens of {self._backbone.name} are")
        batches = stream.map_decoded(
            self._backbone, self._of_images, unreadable, progress, allow_empty=allow_empty
        )
        for names, batch in batches:
            usable = finite_images(batch.patches).cpu()
            for of_kind in batch.prefix.values():
                usable &= of_kind.isfinite().all(dim=1).cpu()
            drawn = self._drawn(batch, [seeds[name] for name in names])
            of_names = dict(zip(names, usable.tolist()))
            failures += [Failure(name, reason) for name, good in of_names.items() if not good]
            yield ImageTokens([name for name, good in of_names.items() if good], drawn[usable.numpy()])
        failures += unreadable

    def _of_images(self, images: list[DecodedImage]) -> tuple[list[str], _Batch]:
        return [image.name for image in images], self._of_batch(normalized(images, self._backbone))

    def _of_batch(self, images: Tensor) -> _Batch:
        """Tokens of (B, 3, H, W) normalised images."""
        backbone = self._backbone
        patch_count = (images.shape[2] // backbone.patch_size) * (images.shape[3] // backbone.patch_size)
        for layer, output in enumerate(backbone.block_outputs(images, with_prefix=True)):
            if layer == self._layer:
                is_outlier = output[:, -patch_count:].float().norm(dim=2).cpu() > self._cutoff
        tokens = backbone.final_norm(output).float()
        rows = {"cls": 0, "register": backbone.register_row}
        prefix: dict[Token, Tensor] = {kind: tokens[:, rows[kind]] for kind in self._kinds if kind in rows}
        return _Batch(prefix, tokens[:, -patch_count:], is_outlier)

    def _drawn(self, batch: _Batch, seeds: Sequence[tuple[int, int]]) -> np.ndarray:
        """(B, kinds, D) float32."""
        count, width = batch.patches.shape[1:]
        order = torch.from_numpy(np.stack([np.random.default_rng(seed).random(count) for seed in seeds]))
        chosen = {"normal": ~batch.is_outlier, "outlier": batch.is_outlier}
        kinds: list[Tensor] = []
        for kind in self._kinds:
            if kind in batch.prefix:
                kinds.append(batch.prefix[kind].cpu())
            elif kind == "mean":
                kinds.append(batch.patches.mean(dim=1).cpu())
            else:
                place = order.masked_fill(~chosen[kind], -1).argmax(dim=1)  # (B,)
                at = place.to(batch.patches.device)[:, None, None].expand(-1, 1, width)
                drawn = batch.patches.gather(1, at)[:, 0].cpu()
                kinds.append(drawn.masked_fill(~chosen[kind].any(dim=1)[:, None], torch.nan))
        return torch.stack(kinds, dim=1).numpy()
