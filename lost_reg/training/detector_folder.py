"""The folder of a detector.

detector.json            what it is and what it was trained on; written first, and again at the end
model.safetensors        its weights, once it is trained; without those of a frozen ViT
checkpoint.safetensors   the state of an unfinished training
log.csv, loss.svg        the losses of its steps

A detector of others can say anything: files that its record names are read only if its seal holds, or if the
user names them.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from msgspec import Meta
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torchvision.models.detection import FasterRCNN

from lost_reg.backbones.base import Backbone
from lost_reg.backbones.loading import load_backbone
from lost_reg.charts import COLOURS, chart_file
from lost_reg.errors import LostRegError
from lost_reg.files import file_digest, read_regular, remove_files, whole_file
from lost_reg.json_files import MALFORMED, as_json, convert, parse_json, reason_of
from lost_reg.runs.folder import RecordedWeights
from lost_reg.runs.seals import OF_DETECTORS, is_own, sealed
from lost_reg.text import first_sentence
from lost_reg.training.checkpoints import CHECKPOINT_FILE, OLD_CHECKPOINT, packed
from lost_reg.training.detector_config import MOST_CLASSES, VIT, DetectorConfig
from lost_reg.training.detector_models import build_detector
from lost_reg.training.run_backbone import weights_of

DETECTOR_FILE, MODEL_FILE = "detector.json", "model.safetensors"
LOG_FILE, CHART_FILE = "log.csv", "loss.svg"

LOG_COLUMNS = (
    "step", "lr", "loss", "loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg",
    "images_per_second",
)  # fmt: skip


@dataclass(frozen=True)
class _Vit:
    """The frozen ViT of a detector, as a run recorded it."""

    backbone: str
    weights: RecordedWeights
    weights_file: str | None


@dataclass(frozen=True)
class _Record:
    """What detector.json holds, besides where it came from."""

    config: dict[str, Any]
    classes: Annotated[tuple[str, ...], Meta(max_length=MOST_CLASSES)] | None
    vit: _Vit | None
    finished: bool
    trained_on: dict[str, Any]


@dataclass(frozen=True)
class Detector:
    """A trained detector.

    classes: the names of its classes; None for one class.
    digest: of its weights. vit: the frozen ViT, if it has one.
    """

    path: Path
    config: DetectorConfig
    classes: tuple[str, ...] | None
    model: FasterRCNN
    digest: str
    vit: Backbone | None


def read_detector_record(folder: Path) -> dict[str, Any]:
    """What detector.json holds.

    Raises:
        LostRegError: no detector in the folder, or a file that is malformed.
    """
    path = folder / DETECTOR_FILE
    try:
        record = parse_json(read_regular(path), dict[str, Any])
        convert(record, _Record)
    except (FileNotFoundError, NotADirectoryError):
        missing = f"no {DETECTOR_FILE} in it" if folder.is_dir() else "there is no such folder"
        raise LostRegError(
            f"no detector in {str(folder)!r}: {missing}; `lost-reg train detector` makes one"
        ) from None
    except OSError as error:
        raise LostRegError(f"cannot read {path}: {error.strerror}") from None
    except MALFORMED as error:
        raise LostRegError(f"{path} is not the record of a detector: {reason_of(error)}") from None
    return record


def config_of(record: dict[str, Any], path: Path) -> DetectorConfig:
    """The configuration in a record.

    Raises:
        LostRegError: it is malformed.
    """
    try:
        return convert(record["config"], DetectorConfig)
    except (*MALFORMED, LostRegError) as error:
        raise LostRegError(f"{path} is not the record of a detector: {reason_of(error)}") from None


def load_detector(folder: Path, device: torch.device, vit_weights: str | None = None) -> Detector:
    """A trained detector, ready to be applied.

    Args:
        vit_weights: the weights of its frozen ViT; by default the recorded ones, which are not read from a
            file that another user's detector names.

    Raises:
        LostRegError: no detector, one whose training is not finished, files that are missing or do not fit,
            or weights for a detector without a ViT.
    """
    record = read_detector_record(folder)
    config = config_of(record, folder / DETECTOR_FILE)
    weights = folder / MODEL_FILE
    if not record["finished"] or not weights.is_file():
        raise LostRegError(
            f"the detector in {str(folder)!r} is not finished: `lost-reg train detector` with `resume` "
            "continues its training"
        )
    vit = None
    if config.backbone == VIT and record["vit"]:
        own = is_own(record, OF_DETECTORS)
        vit = load_vit(record["vit"], device, folder, own=own, given=vit_weights)
    elif vit_weights:
        raise LostRegError("`weights` does not apply to this detector, which has its own: leave it out")
    classes = tuple(record["classes"]) if record["classes"] else None
    model = build_detector(config, len(classes) if classes else 1, vit)
    try:
        model.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = first_sentence(error)
        raise LostRegError(f"{weights} does not hold the weights of this detector: {reason}") from None
    return Detector(folder, config, classes, model.to(device).eval(), file_digest(weights, "sha256"), vit)


def recorded_vit(settings: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """What identifies a run's own backbone."""
    return {
        "backbone": settings["backbone"],
        "weights": settings["weights"],
        "weights_file": record.get("weights_file"),
    }


def load_vit(
    recorded: dict[str, Any], device: torch.device, folder: Path, *, own: bool, given: str | None = None
) -> Backbone:
    """The frozen ViT of a detector, whose weights must be those of the run.

    Args:
        folder: of the detector, or of the run that it is trained on.
        own: whether this user made it. given: weights in place of the recorded ones.

    Raises:
        LostRegError: weights that are missing or others, a model without blocks, or a file of weights that
            only another user's record names.
    """
    if recorded["weights"]["source"] == "callable":
        raise LostRegError("the run's features are a function of yours: choose a ResNet as `backbone`")
    found = given or weights_of(folder, recorded["weights"], recorded["weights_file"], own=own)
    vit = load_backbone(recorded["backbone"], weights=found, device=str(device))
    if vit.weights.sha256 != recorded["weights"]["sha256"]:
        raise LostRegError(
            f"the weights of {vit.name} ({vit.weights.name}) are not those of the run: "
            f"{recorded['weights']['name']} has changed"
        )
    return vit


# --- writing -----------------------------------------------------------------------------------------


def write_detector_record(folder: Path, record: dict[str, Any]) -> None:
    """Write detector.json, sealed, whole or not at all."""
    with whole_file(folder / DETECTOR_FILE, durable=True) as part:
        part.write_text(as_json(sealed(record, OF_DETECTORS), indent=2) + "\n", encoding="utf-8")


def write_model(folder: Path, model: nn.Module) -> None:
    """Write the weights of a trained detector."""
    with whole_file(folder / MODEL_FILE, durable=True) as part:
        part.write_bytes(packed(model.state_dict()))


def begin_detector(folder: Path, record: dict[str, Any]) -> None:
    """Write the record of a new training, in place of the detector in the folder, of which no file stays."""
    remove_files(folder, (CHECKPOINT_FILE, OLD_CHECKPOINT, MODEL_FILE, LOG_FILE, CHART_FILE))
    write_detector_record(folder, record)


class Log:
    """log.csv, one row per step, without the rows of steps from `first` on that a killed training wrote."""

    def __init__(self, folder: Path, first: int):
        self._path, self._chart = folder / LOG_FILE, folder / CHART_FILE
        rows = [row for row in _rows(self._path) if int(row["step"]) < first]
        with whole_file(self._path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, LOG_COLUMNS)
            writer.writeheader()
            writer.writerows(rows)

    def add(self, row: dict[str, Any]) -> None:
        """Append a step."""
        line = io.StringIO(newline="")
        csv.DictWriter(line, LOG_COLUMNS).writerow(row)
        try:
            with self._path.open("a", newline="", encoding="utf-8") as file:
                file.write(line.getvalue())
        except OSError as error:
            raise LostRegError(
                f"cannot write {self._path}: {error.strerror}; the checkpoint is kept, `resume` continues"
            ) from None

    def draw(self) -> None:
        """Draw the losses: each step's, and the mean of the steps around it."""
        rows = _rows(self._path)
        steps, losses = [int(row["step"]) for row in rows], [float(row["loss"]) for row in rows]
        around, count = max(1, len(losses) // 50), len(losses)
        sums = np.concatenate([[0.0], np.cumsum(losses)])
        ends = np.clip(np.arange(count)[:, None] + [-around, around + 1], 0, count)
        means = (sums[ends[:, 1]] - sums[ends[:, 0]]) / (ends[:, 1] - ends[:, 0])

        def draw(axes: Any) -> None:
            axes.plot(steps, losses, color=COLOURS["line"], linewidth=1, label="each step")
            axes.plot(steps, means, color=COLOURS["bar-with"], label="mean")
            axes.set(xlabel="step", ylabel="loss", ylim=(0, None))

        with whole_file(self._chart) as part:
            part.write_text(chart_file([("Loss of the detector", draw)]), encoding="utf-8")


def _rows(path: Path) -> list[dict[str, str]]:
    """The whole rows of a log."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise LostRegError(f"cannot read {path}: {getattr(error, 'strerror', error)}") from None
    rows = csv.DictReader([line for line in lines if line.endswith("\n")])
    return [row for row in rows if None not in row.values() and str(row.get("step", "")).isdecimal()]


def plain(config: DetectorConfig) -> dict[str, Any]:
    """A configuration as JSON gives it back."""
    return dict(json.loads(as_json(asdict(config))))
