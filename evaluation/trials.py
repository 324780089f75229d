"""Ways to be faster that lost-reg does not use, each measured beside what it does; and where the time goes.

    python evaluation/trials.py [--backbone dino_vits16] [--precision bf16 ...] [--rounds 5]

All of it is timm's forward_features in full batches of one size, at random weights:

- compiled: torch.compile, with what it costs at the start
- head by head: attention by matrix products of one head at a time, instead of torch's fused kernel
- kept memory: glibc keeps large blocks (ALLOCATOR below) instead of handing them back to the system

In each round every variant has its turn; a ratio is taken within its round, and the median is shown.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from statistics import median

import torch
import torch.nn.functional as F
from harness import (
    argument_parser,
    describe_machine,
    markdown_table,
    measure_rounds,
    median_and_range,
    ratios,
    run_script,
    seconds,
    timm_model,
)
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
    """A context in which attention is computed by matrix products, one image and head at a time."""

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
    options = parse()
    if options.in_turn:
        answer_in_turn(forward_of(options, options.precision[0]), options.device)
        return
    print(describe_machine(options.device), flush=True)
    for precision in options.precision or ["fp32", "bf16"]:
        size = " x ".join(map(str, SIZE_HW[::-1]))
        print(f"\n### {options.backbone}, {precision}, {options.batch_size} images of {size}\n", flush=True)
        print(compared(options, precision), flush=True)


def parse() -> argparse.Namespace:
    parser = argument_parser(__doc__, device=True)
    parser.add_argument("--backbone", default="dino_vits16")
    parser.add_argument("--precision", action="append", choices=PRECISIONS, help="default: fp32 and bf16")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    # for the processes of `in_own_processes`
    parser.add_argument("--in-turn", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def forward_of(options: argparse.Namespace, precision: str) -> Callable[[], object]:
    """A function that runs the model on one batch."""
    backbone = load_backbone(
        options.backbone, weights="random", device=str(options.device), precision=precision
    )
    model, patch = timm_model(backbone), backbone.patch_size
    hw = [-(-side // patch) * patch for side in SIZE_HW]
    images = torch.randn(options.batch_size, 3, *hw, device=backbone.device, dtype=PRECISIONS[precision])
    return torch.no_grad()(lambda: model.forward_features(images))  # inference_mode cannot be compiled


def compared(options: argparse.Namespace, precision: str) -> str:
    """The variants beside what is used, and the shares of the kinds of work, as text."""
    forward = forward_of(options, precision)
    compiled = torch.compile(forward)

    def by_head() -> None:
        with HeadByHead():
            forward()

    variants = {"as used": forward, "head by head": by_head, "compiled": compiled}
    forward()
    by_head()
    start = seconds(compiled, options.device)
    tasks = {name: lambda work=work: seconds(work, options.device) for name, work in variants.items()}
    taken = measure_rounds(tasks, options.rounds)
    with in_own_processes(options, precision) as processes:
        own = measure_rounds(processes, options.rounds)
    rates = {name: ratios(taken["as used"], taken[name]) for name in ("head by head", "compiled")}
    rates["kept memory"] = ratios(own["as used"], own["kept memory"])
    rate = options.batch_size / median(taken["as used"])
    rows = [[name, median_and_range(values)] for name, values in rates.items()]
    return "\n\n".join(
        [
            f"{rate:.2f} images/s as used; the first call of the compiled model takes {start:.0f} s",
            markdown_table(["", "rate, times that as used"], rows),
            shares(forward),
        ]
    )


def shares(forward: Callable[[], object]) -> str:
    """How much of the time each kind of work takes in one batch: of the GPU's, where there is one."""
    on_gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiled:
        forward()
    times: Counter = Counter()
    for event in profiled.key_averages():
        kind = next((kind for kind, part in KINDS.items() if part in event.key), "other")
        times[kind] += event.self_device_time_total if on_gpu else event.self_cpu_time_total
    total = sum(times.values())
    return "Where the time goes: " + ", ".join(f"{k} {100 * t / total:.0f} %" for k, t in times.most_common())


@contextlib.contextmanager
def in_own_processes(options: argparse.Namespace, precision: str) -> Iterator[dict[str, Callable[[], float]]]:
    """Functions that run one batch in a process of their own, without and with ALLOCATOR, and time it."""
    command = [
        sys.executable, __file__, "--in-turn", "--backbone", options.backbone, "--precision", precision,
        "--device", str(options.device), "--batch-size", str(options.batch_size),
    ]  # fmt: skip
    processes = {
        name: subprocess.Popen(
            command, env={**os.environ, **more}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name, more in {"as used": {}, "kept memory": ALLOCATOR}.items()
    }

    def one_batch(process: subprocess.Popen) -> float:
        process.stdin.write("\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    try:
        for process in processes.values():
            one_batch(process)  # warms up
        yield {name: lambda process=process: one_batch(process) for name, process in processes.items()}
    finally:
        for process in processes.values():
            process.stdin.close()
            process.wait()


def answer_in_turn(forward: Callable[[], object], device: torch.device) -> None:
    """For each line on standard input, run a batch and print how many seconds it took."""
    forward()
    for _ in sys.stdin:
        print(seconds(forward, device), flush=True)


if __name__ == "__main__":
    run_script(main)
