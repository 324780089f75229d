"""What several test modules check in the same way."""

from __future__ import annotations

from pathlib import Path

import pytest

from lost_reg.errors import LostRegError
from lost_reg.records import Failure, Prediction, Protocol
from lost_reg.results import RunWriter


def refusal(call, *args, **kwargs) -> str:
    """The one line that a call is refused with."""
    with pytest.raises(LostRegError) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    assert text and "\n" not in text
    return text


def names(folder: Path) -> list[str]:
    """Files and folders below a folder, without locks."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return sorted(name for name in found if not name.endswith(".lock"))


def run_settings(**other) -> dict:
    """The settings of a run of DINO on VOC07, with others in their place."""
    return {
        "dataset": "voc07",
        "split": "trainval",
        "apply_exif": False,
        "backbone": "dino_vits16",
        "weights": {"source": "hub", "name": "timm/vit_small_patch16_224.dino", "sha256": "0" * 64},
        "precision": "fp32",
        "protocol": Protocol().recorded(),
        **other,
    }


def write_run(folder: Path, root: Path | None, boxes, failures=(), *, size_hw=(96, 128), **settings) -> Path:
    """Write a run folder: boxes by image name, and the names of images that could not be used."""
    predictions = [Prediction(image, size_hw, box, (0, 0), (6, 8), 1) for image, box in boxes.items()]
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
