"""Training a linear head on cached tokens, so that it can be killed at any time and continued.

The batch of a step depends on the seed and the step alone, so a training that was continued ends at the same
weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lost_reg.errors import LostRegError
from lost_reg.probing.dense_heads import DenseHead, at_pixels, head_tokens
from lost_reg.probing.dense_options import BATCH, Protocol
from lost_reg.probing.dense_views import View
from lost_reg.training.checkpoints import CHECKPOINT_FILE, Checkpoint, read_checkpoint, write_checkpoint
from lost_reg.training.feature_cache import FeatureCache

SECONDS_BETWEEN_CHECKPOINTS = 60.0
_HEAD, _OPTIMIZER = "head", "optimizer"  # before the names of the tensors in a checkpoint


@dataclass(frozen=True)
class TrainingViews:
    """What a head learns from: views of images, all of whose tokens are in a cache."""

    cache: FeatureCache
    views: Sequence[View]


def train(
    head: DenseHead,
    training: TrainingViews,
    protocol: Protocol,
    seed: int,
    work: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Train a head, or continue the training that a folder holds.

    Args:
        protocol: its `steps` are taken.
        progress: called with the steps that are done, and all.

    Raises:
        LostRegError: a loss that is not finite, or a checkpoint that is damaged or cannot be written.
    """
    device = next(head.parameters()).device
    optimizer = torch.optim.AdamW(head.parameters(), weight_decay=protocol.weight_decay)
    first, saved = _restore(work, head, optimizer), time.monotonic()
    head.train()
    for step in range(first, protocol.steps):
        for group in optimizer.param_groups:
            group["lr"] = protocol.learning_rate * protocol.rate(step, protocol.steps)
        loss = head.loss(*_batch(head, training, np.random.default_rng((seed, step)), device), step)
        if not torch.isfinite(loss):
            raise LostRegError(f"the loss is not finite in step {step:,}: lower the `learning_rate`")
        optimizer.zero_grad()
        loss.backward()
        if protocol.clip:
            torch.nn.utils.clip_grad_norm_(head.parameters(), protocol.clip)
        optimizer.step()
        done = step + 1
        if done == protocol.steps or time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
            write_checkpoint(work, _checkpoint(done, head, optimizer))
            saved = time.monotonic()
        progress(done, protocol.steps)
    head.eval()


def _batch(
    head: DenseHead, training: TrainingViews, random: np.random.Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The head's outputs at the drawn pixels of some views, (S, K), and the labels there, (S,)."""
    count = len(training.views)
    chosen = [training.views[index] for index in random.choice(count, BATCH, replace=count < BATCH)]
    features = [training.cache.get(view.name) for view in chosen]
    patches = [rows * columns for rows, columns in (one.grid_hw for one in features)]
    tokens = [torch.tensor(one.values, dtype=torch.float32, device=device) for one in features]
    outputs = head(torch.cat([head_tokens(one, count, head) for one, count in zip(tokens, patches)]))
    pixels = [view.pixels for view in chosen]
    found = [
        at_pixels(of_image, one.grid_hw, one.spans_hw, torch.tensor(drawn.places, device=device), drawn.width)
        for of_image, one, drawn in zip(outputs.split(patches), features, pixels)
    ]
    labels = np.concatenate([drawn.labels for drawn in pixels])
    return torch.cat(found), torch.tensor(labels, device=device)


def _restore(work: Path, head: DenseHead, optimizer: torch.optim.Optimizer) -> int:
    """Continue from the last checkpoint, if there is one; returns how many steps were done."""
    checkpoint = read_checkpoint(work)
    if checkpoint is None:
        return 0
    try:
        head.load_state_dict(_of(checkpoint.tensors, _HEAD))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _of(checkpoint.tensors, _OPTIMIZER).items():
            number, _, kind = name.partition(".")
            state.setdefault(int(number), {})[kind] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    except (KeyError, RuntimeError, ValueError):
        raise LostRegError(
            f"{work / CHECKPOINT_FILE} is not of this training: delete it to begin again"
        ) from None
    return checkpoint.step


def _checkpoint(done: int, head: DenseHead, optimizer: torch.optim.Optimizer) -> Checkpoint:
    of_head = {f"{_HEAD}.{name}": tensor for name, tensor in head.state_dict().items()}
    of_optimizer = {
        f"{_OPTIMIZER}.{number}.{kind}": tensor
        for number, state in optimizer.state_dict()["state"].items()
        for kind, tensor in state.items()
    }
    return Checkpoint(done, {}, {**of_head, **of_optimizer})


def _of(tensors: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    names = {name: name.removeprefix(f"{kind}.") for name in tensors if name.startswith(f"{kind}.")}
    return {short: tensors[name] for name, short in names.items()}
