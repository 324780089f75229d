"""The tokens of a whole dataset, each image once, kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lost_reg.artifacts.options import ArtifactOptions
from lost_reg.artifacts.streams import ImageStream, no_usable_image
from lost_reg.backbones.base import Backbone
from lost_reg.files import read_regular, whole_file
from lost_reg.json_files import MALFORMED, as_json, parse_json
from lost_reg.probing.cutoffs import measured_cutoff
from lost_reg.probing.labelled import SPLITS, LabelledDataset
from lost_reg.probing.records import Token
from lost_reg.probing.token_cache import TokenCache
from lost_reg.probing.tokens import Tokens, tokens_of
from lost_reg.progress import Progress
from lost_reg.runs.engines import Engine
from lost_reg.runs.options import LoaderOptions
from lost_reg.types import Failure

CUTOFF_FILE = "cutoff.json"
_BY_OUTLIERS: tuple[Token, ...] = ("normal", "outlier")  # the kinds that need a cut-off


@dataclass(frozen=True)
class Extraction:
    """The tokens of a dataset, in a cache.

    cutoff: the norm above which patches are outliers; None if no kind of token depends on it.
    images: (n,) int64, those that have tokens, as indices into the splits in their order.
    """

    cutoff: float | None
    failures: list[Failure]
    cache: TokenCache
    images: np.ndarray


@dataclass(frozen=True)
class Extractor:
    """What tokens are made of: see `probe_classes`.

    crop: see `Decoding`. engine: what makes the tokens, if not this process.
    """

    dataset: LabelledDataset
    backbone: Backbone
    kinds: Sequence[Token]
    outliers: ArtifactOptions
    crop: tuple[int, int]
    loader: LoaderOptions
    engine: Engine | None = None

    def extract(self, work: Path, seed: int, phase: Callable[[str], Progress]) -> Extraction:
        """Make the tokens that a folder of unfinished work does not have yet.

        Raises:
            LostRegError: none of the images can be used, a layer that the backbone lacks, or a folder that
                cannot be written.
        """
        layer = self.backbone.block_index(self.outliers.layer)
        cutoff = self._cutoff(work, phase) if set(self.kinds) & set(_BY_OUTLIERS) else None
        names = list(chain.from_iterable(self.dataset.parts[split].names for split in SPLITS))
        cache = TokenCache(work, len(self.kinds), self._width())
        failures: list[Failure] = []
        index_of = {name: index for index, name in enumerate(names)}
        images = chain.from_iterable(self.dataset.parts[split].images for split in SPLITS)
        done = set(cache.images().tolist())
        left = [pair for index, pair in enumerate(zip(names, images)) if index not in done]
        if left:
            stream = self._stream(*zip(*left))
            seeds = {name: (seed, index_of[name]) for name, _ in left}
            above = np.inf if cutoff is None else cutoff
            job = Tokens(self.kinds, layer, above, seeds, stream.loader, stream.crop)
            batches = tokens_of(stream, self.backbone, job, failures, phase("tokens"), self.engine)
            for batch in batches:
                cache.add(np.array([index_of[name] for name in batch.names], dtype=np.int64), batch.tokens)
        if not len(cache.images()):
            raise no_usable_image(len(names), failures)
        return Extraction(cutoff, failures, cache, cache.images())

    def _cutoff(self, work: Path, phase: Callable[[str], Progress]) -> float:
        """The norm above which patches are outliers, measured once."""
        file = work / CUTOFF_FILE
        try:
            return parse_json(read_regular(file), float)
        except (FileNotFoundError, *MALFORMED):
            pass
        train = self.dataset.parts["train"]
        stream = self._stream(train.names, train.images)
        measured = measured_cutoff(stream, self.backbone, self.outliers, phase("outliers"))
        cutoff = float(f"{measured:.5g}")
        with whole_file(file) as part:
            part.write_text(as_json(cutoff), encoding="utf-8")
        return cutoff

    def _stream(self, names: Sequence[str], images: Sequence[Any]) -> ImageStream:
        loader = replace(self.loader, apply_exif=self.dataset.apply_exif)
        return ImageStream(images, names, loader=loader, crop=self.crop)

    def _width(self) -> int:
        """How many numbers a token has, from an image of one patch."""
        side = self.backbone.patch_size
        return self.backbone.patch_embeddings(torch.zeros(1, 3, side, side)).shape[2]
