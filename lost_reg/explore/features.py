"""The features of an image: computed once for each backbone, whatever is asked of them afterwards."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lost_reg.backbones.base import ATTENTION, TOKENS, Backbone, normalized
from lost_reg.discovery.features import (
    FACETS,
    FeatureConfig,
    Part,
    PatchFeatures,
    compose,
    finite_images,
    part_norms,
)
from lost_reg.errors import LostRegError
from lost_reg.images.batching import DecodedImage
from lost_reg.images.reading import pad_to_patches

MOST_BYTES = 2**31  # of all features that are kept
_OF_THE_MODEL = (
    "name", "family", "patch_size", "mean", "std", "weights", "device", "precision", "depth", "heads",
    "prefix_tokens", "registers", "cost",
)  # fmt: skip


class OneImage(Backbone):
    """A backbone for one image, which gives what it computed when it was made.

    One forward pass gives all facets of all layers, the tokens that enter each block, and the attention of
    the tokens before the patches. So the pipeline of a run works on it without computing anything again.

    Attributes besides those of `Backbone`:
        image: unpadded; size_hw is that of its pixels.
        grid_hw: its patch grid. nbytes: the memory that its features take.

    Raises:
        LostRegError: features that are not finite, or that do not fit in memory.
    """

    def __init__(self, model: Backbone, image: DecodedImage):
        for name in _OF_THE_MODEL:
            setattr(self, name, getattr(model, name))
        self.image = image
        padded = pad_to_patches(image.pixels, model.patch_size)
        images = normalized([replace(image, pixels=padded)], model)
        self.grid_hw = (images.shape[2] // self.patch_size, images.shape[3] // self.patch_size)
        parts = _all_parts(model)
        try:
            self._parts = dict(zip(parts, model.facets(images, parts)))
        except torch.OutOfMemoryError:
            raise LostRegError(f"out of memory on {model.device}: `max_side` scales images down") from None
        if not all(finite_images(values.flatten(2)).all() for values in self._parts.values()):
            raise LostRegError(model.not_finite("its features are"))

    @property
    def nbytes(self) -> int:
        return sum(values.nbytes for values in self._parts.values())

    @property
    def extent_hw(self) -> tuple[float, float]:
        """The height and width of the image in patches, see `PatchFeatures.extents_hw`."""
        height, width = self.image.size_hw
        return height / self.patch_size, width / self.patch_size

    def facets(self, images: Tensor | None, parts: Sequence[Part]) -> list[Tensor]:
        """Those of the image, whatever `images` are: see `Backbone.facets`."""
        found = [(facet, self.from_last(layer)) for facet, layer in parts]
        missing = [facet for facet, layer in found if (facet, layer) not in self._parts]
        if missing:
            raise LostRegError(f"{self.name} has no {missing[0]} to choose")
        return [self._parts[part] for part in found]

    def features_by(self, config: FeatureConfig) -> PatchFeatures:
        """The features of the image that a configuration asks for, B = 1, without attention."""
        parts = dict(zip(config.parts, self.facets(None, config.parts)))
        values, norms = compose(parts, config), part_norms(parts, config)
        return PatchFeatures(values, self.grid_hw, [self.extent_hw], len(config.parts), norms)


def _all_parts(model: Backbone) -> list[Part]:
    """All that a backbone gives; a user's function, which has no family, has keys alone."""
    kinds = [*(FACETS if model.family else "k"), TOKENS, *([ATTENTION] if model.prefix_tokens else [])]
    return [(kind, layer) for layer in range(-model.depth, 0) for kind in kinds]


class FeatureStore:
    """The features of the images that were shown last, with bounded memory; for several threads.

    Images are told apart by their pixels, and models by identity. What was used longest ago is dropped first;
    the latest stays, however large it is.
    """

    def __init__(self, most_bytes: int = MOST_BYTES):
        self._most_bytes, self._lock = most_bytes, threading.Lock()
        self._kept: OrderedDict[tuple[int, str], OneImage] = OrderedDict()

    def of(self, model: Backbone, image: DecodedImage) -> OneImage:
        """The features of an image by a model; computed if they are not kept.

        Raises:
            LostRegError: see `OneImage`.
        """
        key = id(model), _digest(image)
        with self._lock:  # also while computing: two at once would only take more memory
            found = self._kept.pop(key, None) or OneImage(model, image)
            self._kept[key] = found
            while len(self._kept) > 1 and sum(one.nbytes for one in self._kept.values()) > self._most_bytes:
                self._kept.popitem(last=False)
            return found


def _digest(image: DecodedImage) -> str:
    shape = str((image.pixels.shape, image.original_hw)).encode()
    return hashlib.blake2b(image.pixels.tobytes() + shape, digest_size=16).hexdigest()
