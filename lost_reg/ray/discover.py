"""A class that `Dataset.map_batches` of Ray Data calls: encoded images in, boxes out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lost_reg.backbones import DEFAULT
from lost_reg.backbones.loading import load_backbone
from lost_reg.discovery.methods import Setting
from lost_reg.errors import LostRegError
from lost_reg.images.decoding import ImageInput
from lost_reg.notebook.discover import setting_of
from lost_reg.ray.workers import Worker
from lost_reg.runs.discovery import Discovery
from lost_reg.runs.options import LoaderOptions
from lost_reg.runs.run import settled
from lost_reg.runs.writer import line_of
from lost_reg.types import Failure, Prediction


class Discover:
    """Finds the objects of each batch of a dataset; an actor loads the backbone once.

    Args:
        backbone: as in `load_backbone`.
        method, options: as in `lost_reg.discover`.
        loader: batch size and decoding processes; by default one process.
        load: other arguments of `load_backbone`, such as {"precision": "bf16"}.

    A batch has the column "bytes" of encoded images, as `ray.data.read_binary_files` gives, or "image" of
    arrays, as `ray.data.read_images` does, or "path" of files that all nodes see, by their paths or their
    addresses, such as s3://bucket/a.jpg. All columns stay, and three are added: "boxes_xyxy", (objects, 4)
    for each image, in pixels; "prediction", the image's line of JSON as in predictions.jsonl; and "reason",
    why an image could not be used, or "".

    Raises:
        LostRegError: a backbone, a method or an option that cannot be used, or a batch without images.

    Example:
        >>> images = ray.data.read_binary_files("s3://bucket/photos", include_paths=True)
        >>> pool = ray.data.ActorPoolStrategy(size=8)
        >>> images.map_batches(
        ...     Discover, fn_constructor_args=("dinov2_reg",), batch_size=64, compute=pool, num_gpus=1
        ... )
    """

    def __init__(
        self,
        backbone: Any = DEFAULT,
        *,
        method: str | Setting | None = None,
        loader: LoaderOptions | None = None,
        load: dict[str, Any] | None = None,
        **options: Any,
    ):
        model = load_backbone(backbone, **(load or {}))
        masks = bool(options.pop("masks", False))
        setting = settled(setting_of(model, method, None, options), model)
        discovery = Discovery(setting, loader or LoaderOptions(workers=1), Path(), Path(), masks)
        self._worker = Worker(model, discovery, discovery.loader.workers)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The batch with three more columns, its rows in their order."""
        images = _images(batch)
        named = [(str(number), image) for number, image in enumerate(images)]
        found = {one.image: one for one in self._worker.outcomes(named)}
        outcomes = [found[name] for name, _ in named]
        return {
            **batch,
            "boxes_xyxy": _column([_boxes(one) for one in outcomes]),
            "prediction": _column(
                [_line(one, name) for one, name in zip(outcomes, _names(batch, len(named)))]
            ),
            "reason": _column([one.reason if isinstance(one, Failure) else "" for one in outcomes]),
        }


def _images(batch: dict[str, np.ndarray]) -> list[ImageInput]:
    if "bytes" in batch:
        return [bytes(one) for one in batch["bytes"]]
    if "image" in batch:
        return [np.asarray(one) for one in batch["image"]]
    if "path" in batch:
        return [str(one) for one in batch["path"]]
    raise LostRegError(f"expected a column bytes, image or path, but got {', '.join(sorted(batch))}")


def _boxes(outcome: Prediction | Failure) -> list[list[float]]:
    objects = () if isinstance(outcome, Failure) else outcome.objects
    return [[float(side) for side in one.box_xyxy] for one in objects]


def _names(batch: dict[str, np.ndarray], count: int) -> list[str]:
    return list(map(str, batch["path"])) if "path" in batch else [""] * count


def _line(outcome: Prediction | Failure, name: str) -> str:
    return "" if isinstance(outcome, Failure) else line_of(replace(outcome, image=name)).decode().rstrip()


def _column(values: list[Any]) -> np.ndarray:
    column = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):  # at once, numpy would look into lists
        column[row] = value
    return column
