"""Means of speed that lost-reg does not use, each measured beside what it does, and where the time goes.

    python evaluation/trials.py [--backbone dino_vits16] [--precision bf16 ...] [--rounds 5]

All of it is timm's forward_features in full batches of one size, at random weights:

- compiled: torch.compile, with what it costs at the start
- head by head: attention by matrix products of one head at a time, instead of torch's fused kernel
- kept memory: glibc keeps large blocks (ALLOCATOR below) instead of handing them back to the system

The variants take turns within each round; a ratio is taken within its round, and the median is shown.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from benchmark import machine, seconds, timm_model
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile

from lost_reg.backbones.base import PRECISIONS
from lost_reg.backbones.loading import load_backbone

SIZE_HW = (480, 640)
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**28),
}
# what torch's profiler calls the kinds of work; all else is "other"
KINDS = {"attention": "scaled_dot_product", "matrix products": "mm", "GELU": "gelu", "norms": "layer_norm"}
ROWS = 1024  # of one head's affinities at once, so that memory does not grow with the square of the patches


class HeadByHead(TorchFunctionMode):
    """While it is entered, attention is computed by matrix products, one image and head at a time."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.scaled_dot_product_attention:
            return head_by_head(*args[:3])
        return function(*args, **(kwargs or {}))


def head_by_head(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Softmax attention of (B, heads, N, d) queries, keys and values."""
    out = torch.empty_like(queries)
    for image in range(queries.shape[0]):
        for head in range(queries.shape[1]):
            scaled = keys[image, head].T * queries.shape[-1] ** -0.5
            for start in range(0, queries.shape[2], ROWS):
                rows = slice(start, start + ROWS)
                weights = (queries[image, head, rows] @ scaled).softmax(dim=-1)
                out[image, head, rows] = weights @ values[image, head]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backbone", default="dino_vits16")
    parser.add_argument(
        "--precision", action="append", choices=list(PRECISIONS), help="default: fp32 and bf16"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--in-turn", action="store_true", help=argparse.SUPPRESS
    )  # a process of `kept_memory`
    options = parser.parse_args()
    if options.in_turn:
        answer_in_turn(forward_of(options, options.precision[0]), options)
        return
    print(machine(torch.device(options.device)), flush=True)
    for precision in options.precision or ["fp32", "bf16"]:
        size = " x ".join(map(str, SIZE_HW[::-1]))
        print(f"\n### {options.backbone}, {precision}, {options.batch_size} images of {size}\n", flush=True)
        print(compared(options, precision), flush=True)


def forward_of(options: argparse.Namespace, precision: str) -> Callable[[], object]:
    """A function that runs the model on one batch."""
    backbone = load_backbone(options.backbone, weights="random", device=options.device, precision=precision)
    model, patch = timm_model(backbone), backbone.patch_size
    hw = [-(-side // patch) * patch for side in SIZE_HW]
    images = torch.randn(options.batch_size, 3, *hw, device=backbone.device, dtype=PRECISIONS[precision])
    return torch.no_grad()(lambda: model.forward_features(images))  # inference_mode cannot be compiled


def compared(options: argparse.Namespace, precision: str) -> str:
    """The variants beside what is used, and the shares of the kinds of work, as text."""
    device = torch.device(options.device)
    forward = forward_of(options, precision)
    compiled = torch.compile(forward)

    def by_head() -> None:
        with HeadByHead():
            forward()

    forward()
    by_head()
    start = seconds(compiled, device)
    rounds = []
    for _ in range(options.rounds):
        taken = {"as used": seconds(forward, device), "head by head": seconds(by_head, device)}
        rounds.append({**taken, "compiled": seconds(compiled, device)})
    of_process = kept_memory(options, precision)
    ratios = {name: [one["as used"] / one[name] for one in rounds] for name in ("head by head", "compiled")}
    ratios["kept memory"] = [plain / kept for plain, kept in of_process]
    rate = options.batch_size / median(one["as used"] for one in rounds)
    lines = [f"{rate:.2f} images/s as used; the first call of the compiled model takes {start:.0f} s", ""]
    lines += ["| | rate, times that as used |", "|---|---|"]
    lines += [
        f"| {name} | {median(of):.2f} ({min(of):.2f} to {max(of):.2f}) |" for name, of in ratios.items()
    ]
    return "\n".join([*lines, "", shares(forward)])


def shares(forward: Callable[[], object]) -> str:
    """How much of the time each kind of work takes in one batch: of the GPU's, where there is one."""
    on_gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as seen:
        forward()
    times: Counter = Counter()
    for event in seen.key_averages():
        kind = next((kind for kind, part in KINDS.items() if part in event.key), "other")
        times[kind] += event.self_device_time_total if on_gpu else event.self_cpu_time_total
    total = sum(times.values())
    return "Where the time goes: " + ", ".join(f"{k} {100 * t / total:.0f} %" for k, t in times.most_common())


def kept_memory(options: argparse.Namespace, precision: str) -> list[tuple[float, float]]:
    """Seconds of one batch in a process of its own, without and with ALLOCATOR, a pair a round."""
    command = [
        sys.executable, __file__, "--in-turn", "--backbone", options.backbone, "--precision", precision,
        "--device", options.device, "--batch-size", str(options.batch_size),
    ]  # fmt: skip
    processes = [
        subprocess.Popen(
            command, env={**os.environ, **more}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for more in ({}, ALLOCATOR)
    ]

    def one_batch(process: subprocess.Popen) -> float:
        process.stdin.write("\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    try:
        for process in processes:
            one_batch(process)  # warms up
        return [tuple(map(one_batch, processes)) for _ in range(options.rounds)]
    finally:
        for process in processes:
            process.stdin.close()
            process.wait()


def answer_in_turn(forward: Callable[[], object], options: argparse.Namespace) -> None:
    """For each line that comes, run a batch and say how many seconds it took."""
    forward()
    for _ in sys.stdin:
        print(seconds(forward, torch.device(options.device)), flush=True)


if __name__ == "__main__":
    main()
