"""One token of each kind from each image, after the last block and the final norm.

After Darcet et al., "Vision Transformers Need Registers" (ICLR 2024), table 1: the class token, a random
patch token that is an outlier, and one that is not; besides, the first register and the mean patch token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from lost_reg.artifacts.streams import ImageStream, check_blocks
from lost_reg.backbones.base import Backbone, normalized
from lost_reg.discovery.features import FeatureConfig, finite_images
from lost_reg.errors import LostRegError
from lost_reg.images.batching import BatchSize, DecodedImage
from lost_reg.images.decoding import Decoding
from lost_reg.probing.records import Token
from lost_reg.progress import Progress, no_progress
from lost_reg.runs.batches import decoding_of, outcomes_of, results_of
from lost_reg.runs.engines import Engine, Job
from lost_reg.runs.options import LoaderOptions
from lost_reg.types import Failure

KINDS: tuple[Token, ...] = ("cls", "register", "normal", "outlier", "mean")


@dataclass(frozen=True)
class ImageTokens:
    """Tokens, or other vectors, of a batch of b images that could be used.

    names: of the images. tokens: (b, kinds, D) float32, NaN where an image has none of a kind.
    """

    names: list[str]
    tokens: np.ndarray


@dataclass(frozen=True)
class _Batch:
    """prefix: kinds before the patches, (B, D) each. patches: (B, N, D). norms: (B, N), on the CPU."""

    prefix: dict[Token, Tensor]
    patches: Tensor
    norms: Tensor


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


@dataclass(frozen=True)
class Tokens:
    """The job of making tokens; see `Job`.

    layer, cutoff: patches with a larger norm after this block (0 is the first) are outliers.
    seeds: for each image's name, what patches are drawn with: the user's seed, and the image's number.
    crop: see `Decoding`.
    """

    kinds: Sequence[Token]
    layer: int
    cutoff: float
    seeds: dict[str, tuple[int, int]]
    loader: LoaderOptions
    crop: tuple[int, int] | None = None

    def decoding(self, patch_size: int) -> Decoding:
        """See `Job`."""
        return decoding_of(patch_size, FeatureConfig(), self.loader, self.crop)

    def outcomes(
        self, batches: Iterable[list[DecodedImage] | Failure], backbone: Backbone, size: BatchSize
    ) -> Iterator[ImageTokens | Failure]:
        """The tokens of each batch, and a Failure for each image that cannot be used; see `Job`."""
        reason = backbone.not_finite(f"tokens of {backbone.name} are")
        for result in results_of(batches, size, backbone.device, partial(self._of_part, backbone)):
            if isinstance(result, Failure):
                yield result
                continue
            part, (usable, tokens) = result
            yield from (Failure(image.name, reason) for image, good in zip(part, usable) if not good)
            yield ImageTokens([image.name for image, good in zip(part, usable) if good], tokens[usable])

    def _of_part(self, backbone: Backbone, part: list[DecodedImage]) -> tuple[np.ndarray, np.ndarray]:
        """Which images can be used, (B,) bool, and the tokens of all, (B, kinds, D) float32."""
        batch = self._of_batch(backbone, normalized(part, backbone))
        usable = finite_images(batch.patches).cpu() & batch.norms.isfinite().all(dim=1)
        for of_kind in batch.prefix.values():
            usable &= of_kind.isfinite().all(dim=1).cpu()
        return usable.numpy(), self._drawn(batch, [self.seeds[image.name] for image in part])

    def _of_batch(self, backbone: Backbone, images: Tensor) -> _Batch:
        """Tokens of (B, 3, H, W) normalised images."""
        patch_count = (images.shape[2] // backbone.patch_size) * (images.shape[3] // backbone.patch_size)
        for layer, output in enumerate(backbone.block_outputs(images, with_prefix=True)):
            if layer == self.layer:
                norms = output[:, -patch_count:].float().norm(dim=2).cpu()
        tokens = backbone.final_norm(output).float()
        rows = {"cls": 0, "register": backbone.register_row}
        prefix: dict[Token, Tensor] = {kind: tokens[:, rows[kind]] for kind in self.kinds if kind in rows}
        return _Batch(prefix, tokens[:, -patch_count:], norms)

    def _drawn(self, batch: _Batch, seeds: Sequence[tuple[int, int]]) -> np.ndarray:
        """(B, kinds, D) float32."""
        count, width = batch.patches.shape[1:]
        order = torch.from_numpy(np.stack([np.random.default_rng(seed).random(count) for seed in seeds]))
        is_outlier = batch.norms > self.cutoff
        chosen = {"normal": ~is_outlier, "outlier": is_outlier}
        kinds: list[Tensor] = []
        for kind in self.kinds:
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


def tokens_of(
    stream: ImageStream,
    backbone: Backbone,
    job: Job,
    failures: list[Failure],
    progress: Progress = no_progress,
    engine: Engine | None = None,
) -> Iterator[ImageTokens]:
    """The tokens of images, here or by an engine, batch by batch in any order.

    Args:
        job: makes `ImageTokens` of batches.
        failures: receives the images that cannot be used.
    """
    done, total = 0, len(stream.names)
    progress(0, 0, total)
    for outcome in outcomes_of(zip(stream.names, stream.images), job, backbone, engine=engine):
        if isinstance(outcome, Failure):
            failures.append(outcome)
        else:
            done += len(outcome.names)
            yield outcome
        progress(done, len(failures), total)
