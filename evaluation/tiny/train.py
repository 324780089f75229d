"""Train the backbone `tiny` on generated scenes, so that LOST on its keys finds objects. No photo is used.

    python evaluation/tiny/train.py --out lost_reg/backbones/bundled/tiny.safetensors

Two stages: small scenes, then scenes of up to a photo's size, whose parts are rendered at twice the detail.
STAGES and --seed determine the training; time limits play no part.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.pool import Pool
from pathlib import Path

import cv2
import numpy as np
import scenes
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from lost_reg.boxes import is_found
from lost_reg.discovery.lost import lost

FORK = multiprocessing.get_context("fork")  # the pool's processes inherit the bank
BANK: list = []
# Read when a process starts. By default glibc returns large blocks to the system and maps them again at each
# step, which costs more than the arithmetic. OpenMP threads that spin while waiting slow down a busy machine.
ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**28),
    "OMP_WAIT_POLICY": "PASSIVE",
}
PATCH = 16


@dataclass(frozen=True)
class Stage:
    """One stage of training, starting from the weights of the stage before.

    rate: peak learning rate.
    parts: backgrounds in the bank, which has twice as many objects, all rendered at `detail`.
    batch_tokens: patches in a batch.
    grids: the scenes' (rows, columns) in patches, each with its probability.
    """

    steps: int
    rate: float
    parts: int
    detail: int
    batch_tokens: int
    grids: dict[tuple[int, int], float]


SMALL = {(10, 10): 0.15, (10, 14): 0.1, (14, 10): 0.05, (14, 14): 0.4, (12, 16): 0.1, (15, 20): 0.15}
SMALL[18, 24] = 0.05
LARGE = {(14, 14): 0.3, (15, 20): 0.2, (20, 15): 0.05, (20, 27): 0.1, (24, 32): 0.1, (27, 40): 0.1}
LARGE |= {(30, 40): 0.1, (40, 30): 0.05}
STAGES = (
    Stage(steps=1000, rate=1.5e-3, parts=1500, detail=1, batch_tokens=32 * 196, grids=SMALL),
    Stage(steps=900, rate=8e-4, parts=450, detail=2, batch_tokens=7200, grids=LARGE),
)
# Seeds for choices during training, by the scenes' (height, width). README.md lists all seeds in use.
VALIDATION = {(224, 224): range(1_000_000, 1_000_100), (480, 640): range(1_001_000, 1_001_060)}


def build_model() -> torch.nn.Module:
    """The architecture of `tiny`; with timm's random initial weights."""
    shape = {"depth": 6, "mlp_ratio": 2.0, "reg_tokens": 4, "no_embed_class": True}
    return timm.create_model("vit_tiny_patch16_224", **shape, dynamic_img_size=True, num_classes=0)


def keys(model: torch.nn.Module, images: Tensor) -> Tensor:
    """(B, N, D) the patches' keys of the last block, for uint8 images (B, 3, H, W)."""
    tokens = model.norm_pre(model._pos_embed(model.patch_embed(images.float() / 127.5 - 1)))
    for block in model.blocks[:-1]:
        tokens = block(tokens)
    last, width = model.blocks[-1], tokens.shape[-1]
    qkv, rows = last.attn.qkv, slice(width, 2 * width)
    return F.linear(last.norm1(tokens), qkv.weight[rows], qkv.bias[rows])[:, model.num_prefix_tokens :]


def patch_coverage(instances: Tensor) -> Tensor:
    """(B, N, 5) share of each patch that is background and object 1 to 4, for instances (B, H, W) uint8."""
    masks = F.one_hot(instances.long(), 5).permute(0, 3, 1, 2).float()
    return F.avg_pool2d(masks, PATCH).flatten(2).transpose(1, 2)


def pair_loss(affinity: Tensor, coverage: Tensor) -> Tensor:
    """(B,) Binary cross-entropy on the affinity's sign: positive within a segment, negative across.

    Averaged first over the pairs of each kind: within objects, within background, object and background, two
    objects. The kinds therefore weigh the same however large the objects are.
    affinity: (B, N, N); coverage: (B, N, 5).
    """
    cost = F.softplus(affinity)
    across = coverage.mT @ cost @ coverage  # (B, 5, 5), summed over pairs: the cost of being positive
    within = across - coverage.mT @ affinity @ coverage  # softplus(-a) = softplus(a) - a
    size = coverage.sum(1)
    pairs = size[:, :, None] * size[:, None, :]
    objects = torch.eye(5, device=cost.device)
    objects[0, 0] = 0
    two_objects = 1 - objects
    two_objects[0], two_objects[:, 0] = 0, 0

    def mean(total: Tensor, kind: Tensor) -> Tensor:
        return (total * kind).sum((1, 2)) / ((pairs * kind).sum((1, 2)) + 1)

    same = mean(within, objects) + within[:, 0, 0] / (pairs[:, 0, 0] + 1)
    background = torch.zeros(5, 5, device=cost.device)
    background[0, 1:] = 1
    return same + 2 * mean(across, background) + 0.3 * mean(across, two_objects)


def seed_loss(affinity: Tensor, coverage: Tensor) -> Tensor:
    """(B,) -log of the chance that a seed drawn by its low degree lies on an object.

    An object counts by its size relative to the largest, which a single box should find.
    """
    size = coverage[..., 1:].sum(1, keepdim=True)  # (B, 1, 4)
    worth = (coverage[..., 1:] * size / (size.amax(2, keepdim=True) + 1e-3)).sum(2)
    degree = torch.sigmoid(2 * affinity).mean(2)
    return -torch.log((torch.softmax(-25 * degree, 1) * worth).sum(1) + 1e-4)


def mask_loss(affinity: Tensor, coverage: Tensor, potentials: int) -> Tensor:
    """(B,) Cross-entropy of LOST's expanded map M against the object that the seed is on.

    The seed is drawn by its low degree. The choices of seed and potentials are LOST's and carry no gradient;
    the affinities summed into M do.
    """
    batch = torch.arange(len(affinity))
    with torch.no_grad():
        degree = (affinity > 0).float().mean(2)
        draw = -40 * degree - torch.log(-torch.log(torch.rand_like(degree).clamp(1e-6, 1 - 1e-6)))
        seed = draw.argmax(1)
        rank = degree.argsort(1).argsort(1)
        chosen = ((rank < potentials) & (affinity[batch, seed] > 0)).float()
        chosen[batch, seed] = 1
        owner = coverage[batch, seed]  # (B, 5)
        owner = torch.cat([torch.zeros_like(owner[:, :1]), owner[:, 1:]], 1)
    map_m = (affinity * chosen[:, None]).sum(2) / chosen.sum(1, keepdim=True)
    label = owner.argmax(1)
    target = coverage[batch, :, label]
    other = 1 - target - 0.7 * (1 - target - coverage[..., 0]).clamp(min=0)  # other objects count less
    inside = (target * F.softplus(-map_m)).sum(1) / (target.sum(1) + 1)
    outside = (other * F.softplus(map_m)).sum(1) / (other.sum(1) + 1)
    return owner.sum(1) * (inside + outside)


def random_filters(images: Tensor, share: float = 0.5) -> Tensor:
    """The uint8 images (B, 3, H, W), a share of them each convolved with a random small filter.

    RandConv (Xu et al., ICLR 2021): textures and colours change and shapes stay, so the model learns shapes.
    Each filtered image is mixed with the original and keeps its mean and standard deviation.
    """
    chosen = (torch.rand(len(images)) < share).nonzero().flatten()
    if not len(chosen):
        return images
    plain, size = images[chosen].float(), 2 * int(torch.randint(0, 3, ())) + 1
    weight = torch.randn(3 * len(chosen), 3, size, size) / (3**0.5 * size)
    filtered = F.conv2d(plain.flatten(0, 1)[None], weight, padding=size // 2, groups=len(chosen))
    own = torch.rand(len(chosen), 1, 1, 1)
    axes = (1, 2, 3)
    mean, deviation = plain.mean(axes, keepdim=True), plain.std(axes, keepdim=True)
    mixed = own * plain + (1 - own) * filtered.view_as(plain)
    mixed = (mixed - mixed.mean(axes, keepdim=True)) / (mixed.std(axes, keepdim=True) + 1)
    images = images.clone()
    images[chosen] = (mixed * deviation + mean).clamp(0, 255).byte()
    return images


def loss_of(
    model: torch.nn.Module, images: Tensor, instances: Tensor, potentials: int
) -> tuple[Tensor, Tensor]:
    """The loss to minimise and, detached, its three terms (pairs, seed, mask), means over the batch."""
    features = keys(model, random_filters(images))
    coverage = patch_coverage(instances)
    affinity = features @ features.mT / features.shape[-1] ** 0.5
    foreground = 1 - coverage[..., 0]
    # Where objects fill much of the image, low degrees belong to the background: little to learn there.
    weight = torch.where(foreground.mean(1) > 0.5, 0.3, 1.0) * (foreground.sum(1) > 0.5)
    pairs, seed = pair_loss(affinity, coverage), seed_loss(affinity, coverage)
    terms = torch.stack([pairs, seed, mask_loss(affinity, coverage, potentials)])  # (3, B)
    terms = (terms * weight).sum(1) / weight.sum().clamp(min=1)
    return terms[0] + 0.5 * terms[1] + terms[2], terms.detach()


def render_batch(job: tuple[range, tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Images (B, 3, H, W) and instances (B, H, W), uint8, of these seeds, composed from the bank."""
    seeds, hw = job
    made = [scenes.compose_from(BANK, seed, hw) for seed in seeds]
    return np.stack([s.image.transpose(2, 0, 1) for s in made]), np.stack([s.instances for s in made])


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024): momentum, orthogonalised by five Newton-Schulz steps; q, k and v separately.

    torch.optim.Muon always does this in bfloat16, which on a CPU without bfloat16 arithmetic costs more than
    the rest of the step.
    """

    def __init__(self, matrices: list[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.05):
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for matrix in (p for p in group["params"] if p.grad is not None):
                average = self.state[matrix].setdefault("average", torch.zeros_like(matrix))
                average.lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonal(matrix.grad.lerp(average, group["momentum"]))
                matrix.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * update)


def orthogonal(update: Tensor) -> Tensor:
    """About the nearest (semi-)orthogonal matrix, scaled to AdamW's usual root mean square of 0.2."""
    rows, columns = update.shape
    x = update.view(3, -1, columns) if rows == 3 * columns else update[None]
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    scale = 0.2 * max(x.shape[1:]) ** 0.5
    return scale * (x.mT if tall else x).reshape(rows, columns)


def optimisers(model: torch.nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for the other parameters."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and name.startswith("blocks")]
    ids = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in ids]
    return [Muon(matrices, rate), torch.optim.AdamW(others, lr=rate, weight_decay=0.05, betas=(0.9, 0.98))]


def corloc_of(model: torch.nn.Module, made: list[scenes.Scene]) -> float:
    """CorLoc in percent of LOST on these scenes, all of one size."""
    images = torch.from_numpy(np.stack([s.image.transpose(2, 0, 1) for s in made]))
    grid_hw = images.shape[2] // PATCH, images.shape[3] // PATCH
    with torch.inference_mode():
        boxes = torch.cat([lost(keys(model, part), grid_hw).boxes_xyxy for part in images.split(10)]) * PATCH
    found = [is_found(box, s.boxes_xyxy) for box, s in zip(boxes.tolist(), made, strict=True)]
    return 100 * sum(found) / len(found)


def save(model: torch.nn.Module, path: Path) -> None:
    """Write the weights in float16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half().contiguous() for name, value in model.state_dict().items()}, path)


def parse() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("lost_reg/backbones/bundled/tiny.safetensors"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=100, help="steps between validations")
    parser.add_argument("--after", type=Path, help="weights of the first stage; run only the second")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if os.environ.get("MALLOC_MMAP_MAX_") != "0":
        os.environ.update(ENVIRONMENT)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    cv2.setNumThreads(1)
    torch.set_num_threads(2)
    began = time.time()
    with FORK.Pool(2) as pool:
        validation = [
            pool.starmap(scenes.make_scene, [(seed, hw) for seed in seeds], chunksize=10)
            for hw, seeds in VALIDATION.items()
        ]
    weights = options.after
    for number, stage in enumerate(STAGES):
        if options.after and number == 0:
            continue
        torch.manual_seed(options.seed)
        model = build_model()
        if weights:
            model.load_state_dict({name: value.float() for name, value in load_file(weights).items()})
        render_bank(stage)
        print(f"stage {number + 1}: bank of {len(BANK)} parts after {time.time() - began:.0f} s", flush=True)
        with FORK.Pool(2) as pool:  # a new one, which inherits the bank
            for step, average, terms in train(model, stage, number, options.seed, pool):
                if step % options.every == 0 or step == stage.steps:
                    save(average, options.out)
                    scores = " and ".join(f"{corloc_of(average, made):.1f}" for made in validation)
                    print(
                        f"step {step} of {stage.steps}, {time.time() - began:.0f} s: pairs, seed, mask "
                        f"{terms.numpy().round(3)}, CorLoc {scores}",
                        flush=True,
                    )
        weights = options.out


def render_bank(stage: Stage) -> None:
    """Fill BANK for a stage; processes forked afterwards inherit it."""
    with FORK.Pool(2) as pool:
        jobs = [(seed, stage.detail) for seed in range(stage.parts)]
        BANK[:] = pool.starmap(scenes.render_part, jobs, chunksize=8)


def train(
    model: torch.nn.Module, stage: Stage, number: int, seed: int, pool: Pool
) -> Iterator[tuple[int, torch.nn.Module, Tensor]]:
    """Train the model through one stage, in place.

    Yields after each step: the number of steps done, the moving average of the model, the mean terms of the
    loss (3,).
    """
    rng = np.random.default_rng(seed)
    grids, chances = list(stage.grids), list(stage.grids.values())
    average = copy.deepcopy(model).requires_grad_(False)
    optims = optimisers(model, stage.rate)
    next_seed, terms = number * 10**7, torch.zeros(3)  # no scene comes twice
    for step in range(stage.steps):
        cosine = 0.5 * (1 + np.cos(np.pi * step / stage.steps))
        for group in (group for optim in optims for group in optim.param_groups):
            group["lr"] = stage.rate * min(1.0, (step + 1) / 50) * (0.01 + 0.99 * cosine)
        rows, columns = grids[rng.choice(len(grids), p=chances)]
        seeds = range(next_seed, next_seed + stage.batch_tokens // (rows * columns))
        next_seed = seeds.stop
        hw = (rows * PATCH, columns * PATCH)
        batches = pool.map(render_batch, [(seeds[::2], hw), (seeds[1::2], hw)])
        images, instances = (torch.from_numpy(np.concatenate(both)) for both in zip(*batches, strict=True))
        loss, now = loss_of(model, images, instances, potentials=int(rng.integers(20, 101)))
        for optim in optims:
            optim.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optim in optims:
            optim.step()
        update(average, model, keep=min(0.99, (step + 1) / (step + 10)))
        terms = terms.lerp(now, 0.05 if step else 1.0)
        yield step + 1, average, terms


@torch.no_grad()
def update(average: torch.nn.Module, model: torch.nn.Module, keep: float) -> None:
    """Move the moving average towards the model, in place."""
    for mean, value in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(value, 1 - keep)


if __name__ == "__main__":
    main()
