"""What several test modules check in the same way."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lost_reg.discovery.features import FeatureConfig
from lost_reg.discovery.head import Head, HeadConfig
from lost_reg.discovery.method import Method
from lost_reg.discovery.methods import Setting, with_changes
from lost_reg.errors import LostRegError
from lost_reg.notebook.discover import discover
from lost_reg.runs.options import LoaderOptions
from lost_reg.runs.writer import RunWriter
from lost_reg.types import Failure, FoundObject, Prediction


def refusal(call, *args, **kwargs) -> str:
    """The one line that a call is refused with."""
    with pytest.raises(LostRegError) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    assert text and "\n" not in text
    return text


def without_notes(result) -> list[str]:
    """What a command printed on standard error, without notes and the warning of random weights."""
    lines = [line for line in result.stderr.splitlines() if not line.startswith("Note: ")]
    return [line for line in lines if "runs with random weights" not in line]


def made_up_head(width: int, **changes) -> Head:
    """A head of `tiny` with weights of no meaning."""
    weight = tuple(torch.randn(width, generator=torch.Generator().manual_seed(5)).tolist())
    fields = {"backbone": "tiny", "weights_name": "random", "weights_sha256": None, "bias": 0.1}
    return Head(**{**fields, "features": FeatureConfig(), "weight": weight, **changes})


def config_of(method: Method, width: int):
    """The options of a method as published; for features of this width, if it is the method `head`."""
    return HeadConfig(head=made_up_head(width)) if method.name == "head" else method.config()


def batches_of(stream, backbone) -> list:
    """The batches of normalised images of an ImageStream."""
    return list(stream.map_batches(backbone, lambda images: images, []))


def scarce_memory(monkeypatch, backbone, *, images_at_most=math.inf, pixels_at_most=math.inf) -> list[int]:
    """Let a backbone run out of memory where a batch has more; the sizes of batches tried, to be filled."""
    whole, tried = backbone.block_outputs, []

    def block_outputs(images, **options):
        tried.append(len(images))
        if len(images) > images_at_most or images.shape[2:].numel() > pixels_at_most:
            raise torch.OutOfMemoryError("too much")
        return whole(images, **options)

    monkeypatch.setattr(backbone, "block_outputs", block_outputs)
    return tried


def counted_operations(function, *args) -> float:
    """Arithmetic operations of a call, as torch counts them."""
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        function(*args)
    return counter.get_total_flops()


def approximately(content, expected) -> bool:
    """Whether two JSON-like contents are the same but for the rounding of numbers."""
    if isinstance(expected, dict):
        same = content.keys() == expected.keys()
        return same and all(approximately(content[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(content) == len(expected) and all(map(approximately, content, expected))
    if isinstance(expected, float):
        return content == pytest.approx(expected, rel=1e-4, abs=1e-4)
    return content == expected


def names(folder: Path) -> list[str]:
    """Files and folders below a folder, without locks."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return sorted(name for name in found if not name.endswith(".lock"))


def setting(**changes) -> Setting:
    """LOST as published, with other values of fields of its features or its options."""
    return with_changes(Setting(), changes)


def find(images, backbone, chosen: Setting | None = None, **loader) -> list[Prediction]:
    """`discover` by a setting, in this process unless `workers` says otherwise."""
    chosen = chosen or Setting()
    options = LoaderOptions(**{"workers": 0, **loader})
    return discover(images, backbone, chosen.config, chosen.features, loader=options)


def found_object(box_xyxy, *, seed=(0, 0), degree=1, score=0.25, **details) -> FoundObject:
    """An object as LOST records it; without its share of positive affinities, as older versions did."""
    return FoundObject(tuple(box_xyxy), score, seed, {"degree": degree, **details})


def prediction(image: str, *boxes, size_hw=(96, 128), grid_hw=(6, 8)) -> Prediction:
    """What LOST found in an image, by its boxes or by whole objects."""
    objects = (one if isinstance(one, FoundObject) else found_object(one) for one in boxes)
    return Prediction(image, size_hw, grid_hw, tuple(objects))


def run_settings(**other) -> dict:
    """The settings of a run of DINO on VOC07, with others in their place."""
    return {
        "dataset": "voc07",
        "split": "trainval",
        "apply_exif": False,
        "backbone": "dino_vits16",
        "weights": {"source": "hub", "name": "timm/vit_small_patch16_224.dino", "sha256": "0" * 64},
        "precision": "fp32",
        **Setting().recorded(),
        **other,
    }


def write_run(folder: Path, root: Path | None, boxes, failures=(), *, size_hw=(96, 128), **settings) -> Path:
    """Write a run folder: boxes by image name, and the names of images that could not be used."""
    predictions = [prediction(image, box, size_hw=size_hw) for image, box in boxes.items()]
    return write_predictions(folder, predictions, failures, data_root=str(root) if root else None, **settings)


def write_predictions(
    folder: Path, predictions, failures=(), *, data_root=None, root=None, **settings
) -> Path:
    """Write a run folder of predictions, and the names of images that could not be used.

    root: the folder of the images, as it is recorded.
    """
    record = {"images": len(predictions) + len(failures), "data_root": data_root, "root": root and str(root)}
    with RunWriter(folder, run_settings(**settings), record) as writer:
        for prediction in predictions:
            writer.write(prediction)
        for image in failures:
            writer.write(Failure(image, "cannot be decoded"))
    return folder
