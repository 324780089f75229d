"""Training a detector on the boxes of a run, so that it can be killed at any time and continued.

What is random in a step depends on the seed, the step and the rank alone, and the learning rate on the step.
So a training that was killed and resumed from its last checkpoint ends at the same weights, bit for bit on
one CPU.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lost_reg.backbones.base import PRECISIONS, Backbone
from lost_reg.errors import LostRegError
from lost_reg.files import check_kind, file_digest
from lost_reg.runs.seals import is_own
from lost_reg.runs.sessions import now, versions
from lost_reg.runs.writer import while_locked
from lost_reg.training.checkpoints import CHECKPOINT_FILE, Checkpoint, read_checkpoint, write_checkpoint
from lost_reg.training.detector_config import VIT, DetectorConfig
from lost_reg.training.detector_data import Steps, Target, TrainingSet, steps_from
from lost_reg.training.detector_folder import (
    DETECTOR_FILE,
    Log,
    begin_detector,
    load_vit,
    plain,
    read_detector_record,
    recorded_vit,
    write_detector_record,
    write_model,
)
from lost_reg.training.detector_models import build_detector, trained_parameters
from lost_reg.training.ranks import ALONE, Ranks

_CPU = torch.device("cpu")

StepProgress = Callable[[int, int], None]  # steps done, in total


@dataclass(frozen=True)
class TrainingOptions:
    """How a training runs; its result does not depend on it, but for rounding.

    weights: a ResNet's; for a frozen ViT, those of the run, by default where they were.
    workers: processes that read images; 0 reads in this one.
    save_every: steps between checkpoints; there is also one every five minutes.
    resume: continue the training in the folder. overwrite: replace the detector in the folder,
        once the model has been built.
    """

    device: torch.device = _CPU
    precision: str = "fp32"
    weights: Path | None = None
    workers: int = 0
    save_every: int = 200
    resume: bool = False
    overwrite: bool = False
    ranks: Ranks = ALONE


@dataclass(frozen=True)
class TrainingSummary:
    """How a training ended: steps of this session, their seconds, and the last loss (None without steps)."""

    folder: Path
    steps: int
    seconds: float
    loss: float | None


def train_detector(
    data: TrainingSet,
    out: Path,
    config: DetectorConfig,
    options: TrainingOptions,
    progress: StepProgress = lambda done, total: None,
) -> TrainingSummary:
    """Train a detector on the boxes of a run, and write its folder.

    Raises:
        LostRegError: a folder that holds another training, or one although `resume` is not given; weights
            that do not fit; an image that cannot be read; a loss that is not finite; a full disk.
    """
    ranks = options.ranks
    if ranks.first:
        check_trainable(out, resume=options.resume, overwrite=options.overwrite)
    with while_locked(out) if ranks.first else nullcontext():
        record = _record(data, config, options)
        if ranks.first and not options.overwrite:
            _check_same(out, record)
        ranks.wait()  # none reads the folder before it is checked
        training = _Training(data, out, config, options)
        if ranks.first and (options.overwrite or not (out / DETECTOR_FILE).exists()):
            begin_detector(out, record)
        summary = training.run(progress)
        if ranks.first:
            training.finish()
        ranks.wait()
    return summary


def check_trainable(out: Path, *, resume: bool, overwrite: bool = False) -> None:
    """Check that a detector may be trained in a folder.

    Raises:
        LostRegError: a file, other files in it, a damaged record, or a training although neither `resume` nor
            `overwrite` is given.
    """
    if out.exists() and not out.is_dir():
        raise LostRegError(f"cannot write a detector to {str(out)!r}: it is a file; choose a folder as `out`")
    if (out / DETECTOR_FILE).exists():
        if not (resume or overwrite):
            raise LostRegError(
                f"{str(out)!r} holds a detector already: `resume` continues it, `overwrite` starts it anew, "
                "or choose another `out`"
            )
        check_kind(out / DETECTOR_FILE, lambda: read_detector_record(out))
    elif out.is_dir() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise LostRegError(f"{str(out)!r} holds other files: choose another `out`")


def _record(data: TrainingSet, config: DetectorConfig, options: TrainingOptions) -> dict[str, Any]:
    weights = options.weights if config.backbone != VIT else None  # these are in `vit`
    digest = file_digest(weights, "sha256") if weights and weights.is_file() else None
    return {
        "created": now(),
        "finished": False,
        "config": plain(config),
        "classes": list(data.classes) if data.labelled else None,
        "vit": recorded_vit(data.settings, data.record) if config.backbone == VIT else None,
        "weights": {"name": weights.name, "sha256": digest} if weights else None,
        "precision": options.precision,
        "trained_on": {
            "method": data.settings["method"], "backbone": data.settings["backbone"],
            "dataset": data.settings.get("dataset"), "images": len(data.images), "boxes": data.boxes,
            "sha256": data.digest,
        },
        "versions": {**versions(), "torchvision": torchvision.__version__},
    }  # fmt: skip


def _check_same(out: Path, record: dict[str, Any]) -> None:
    """Check that the training in a folder, if any, is of the same boxes with the same options."""
    if not (out / DETECTOR_FILE).exists():
        return
    earlier = read_detector_record(out)
    before = {**earlier["config"], **{key: earlier.get(key) for key in _SAME}}
    after = {**record["config"], **{key: record[key] for key in _SAME}}
    other = [key for key in after if before.get(key) != after[key]]
    if other:
        shown = "; ".join(
            f"{key.replace('trained_on', 'boxes')}: {_short(before.get(key))}, now {_short(after[key])}"
            for key in other
        )
        raise LostRegError(
            f"{str(out)!r} holds another training ({shown}): choose another `out`, or `overwrite` it"
        )


_SECONDS_BETWEEN_CHECKPOINTS = 300.0
_SAME = ("classes", "vit", "weights", "precision", "trained_on")
_MODEL, _MOMENTUM = "model", "momentum"  # before the names of the tensors in a checkpoint


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 300 else f"...{text[-300:]}"


def _vit_of(data: TrainingSet, options: TrainingOptions) -> Backbone:
    given = str(options.weights) if options.weights else None
    recorded = recorded_vit(data.settings, data.record)
    return load_vit(recorded, options.device, data.run, own=is_own(data.record), given=given)


class _Training:
    """A model, its optimizer and where its training stands."""

    def __init__(self, data: TrainingSet, out: Path, config: DetectorConfig, options: TrainingOptions):
        self._out, self._config, self._options = out, config, options
        self._steps = Steps(data, config, options.ranks)
        device, ranks = options.device, options.ranks
        if device.index is not None:
            torch.cuda.set_device(device)  # for nccl
        vit = _vit_of(data, options) if config.backbone == VIT else None
        weights = None if vit else options.weights
        self._model = build_detector(config, len(data.classes), vit, weights).to(device)
        if ranks.count > 1 and device.type == "cuda" and config.norm == "batch":
            self._model = nn.SyncBatchNorm.convert_sync_batchnorm(self._model)
        self._optimizer = torch.optim.SGD(
            trained_parameters(self._model), lr=config.lr, momentum=config.momentum,
            weight_decay=config.weight_decay,
        )  # fmt: skip
        self._scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "fp16")
        self._done = self._restore()
        self._parallel: nn.Module = self._model
        if ranks.count > 1:
            devices = [device] if device.type == "cuda" else None
            self._parallel = DistributedDataParallel(self._model, devices)

    def _restore(self) -> int:
        """Continue from the last checkpoint, if there is one; returns how many steps were done."""
        if self._options.overwrite or not (self._out / DETECTOR_FILE).exists():
            return 0
        if read_detector_record(self._out)["finished"]:
            return self._config.steps
        checkpoint = read_checkpoint(self._out)
        if checkpoint is None:
            return 0
        try:
            self._load(checkpoint)
        except (KeyError, RuntimeError, ValueError):
            raise LostRegError(
                f"{self._out / CHECKPOINT_FILE} is not of this training: delete it to begin again"
            ) from None
        return checkpoint.step

    def _load(self, checkpoint: Checkpoint) -> None:
        """Raises KeyError, RuntimeError or ValueError for the state of another training."""
        self._model.load_state_dict(_of(checkpoint.tensors, _MODEL))
        momenta = {int(number): one for number, one in _of(checkpoint.tensors, _MOMENTUM).items()}
        parameters = dict(enumerate(trained_parameters(self._model)))
        if any(parameters[number].shape != one.shape for number, one in momenta.items()):
            raise ValueError("momenta of other parameters")
        state = {number: {"momentum_buffer": one} for number, one in momenta.items()}
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": state})
        self._scaler.load_state_dict(checkpoint.scaler)

    def _checkpoint(self) -> Checkpoint:
        momenta = {
            f"{_MOMENTUM}.{number}": state["momentum_buffer"]
            for number, state in self._optimizer.state_dict()["state"].items()
            if state.get("momentum_buffer") is not None  # it is for a training without momentum
        }
        model = {f"{_MODEL}.{name}": tensor for name, tensor in self._model.state_dict().items()}
        return Checkpoint(self._done, self._scaler.state_dict(), {**model, **momenta})

    def run(self, progress: StepProgress) -> TrainingSummary:
        """Train the steps that are left."""
        first, total, ranks = self._done, self._config.steps, self._options.ranks
        log = Log(self._out, first) if ranks.first and first < total else None
        began = before = self._saved_at = time.perf_counter()
        progress(first, total)
        loss = None
        self._parallel.train()
        for step, images in zip(range(first, total), steps_from(self._steps, first, self._options.workers)):
            losses = self._step(step, images)
            loss = losses["loss"]
            after = time.perf_counter()
            if log:
                rate = self._config.batch_size / (after - before)
                log.add(
                    {
                        "step": step,
                        "lr": self._config.lr_at(step),
                        **losses,
                        "images_per_second": f"{rate:.2f}",
                    }
                )
            before = after
            self._done = step + 1
            if log and self._is_due(total):
                self._save()
                log.draw()
            progress(self._done, total)
        if log:
            self._save()
            log.draw()
        return TrainingSummary(self._out, total - first, time.perf_counter() - began, loss)

    def _step(self, step: int, images: list[tuple[Tensor, Target]]) -> dict[str, float]:
        """One step of SGD; returns the losses of this rank."""
        options = self._options
        torch.manual_seed(_seed(self._config.seed, step, options.ranks.rank))
        for group in self._optimizer.param_groups:
            group["lr"] = self._config.lr_at(step)
        pixels = [image.to(options.device, non_blocking=True).float() / 255 for image, _ in images]
        targets = [{name: one.to(options.device) for name, one in target.items()} for _, target in images]
        with torch.autocast(options.device.type, PRECISIONS[options.precision], options.precision != "fp32"):
            losses = self._parallel(pixels, targets)
            loss = torch.stack(list(losses.values())).sum()
        if not math.isfinite(value := loss.item()):
            raise LostRegError(
                f"the loss of step {step} is not finite: train with a smaller `lr`, or with `precision` "
                "fp32, and `overwrite` this training, or choose another `out`"
            )
        self._optimizer.zero_grad()
        self._scaler.scale(loss).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return {"loss": value, **{name: one.item() for name, one in losses.items()}}

    def _is_due(self, total: int) -> bool:
        """Whether a checkpoint is due: after so many steps, or so long after the last."""
        late = time.perf_counter() - self._saved_at > _SECONDS_BETWEEN_CHECKPOINTS
        return self._done < total and (late or self._done % self._options.save_every == 0)

    def _save(self) -> None:
        self._saved_at = time.perf_counter()
        write_checkpoint(self._out, self._checkpoint())

    def finish(self) -> None:
        """Write the trained model, then its record, and delete the checkpoint."""
        record = read_detector_record(self._out)
        if record["finished"]:
            return
        write_model(self._out, self._model)
        write_detector_record(self._out, {**record, "finished": True})
        (self._out / CHECKPOINT_FILE).unlink(missing_ok=True)


def _of(tensors: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Those of a kind, without it in their names."""
    return {
        name.removeprefix(f"{kind}."): one for name, one in tensors.items() if name.startswith(f"{kind}.")
    }


def _seed(*numbers: int) -> int:
    """A seed for torch from several numbers."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8], "big") >> 1
