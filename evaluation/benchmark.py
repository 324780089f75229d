"""How fast lost-reg is, from JPEG files on disk to boxes in the results file, beside its backbone alone.

    python evaluation/benchmark.py [--backbone NAME ...] [--precision fp32 ...] [--device cuda] [--images 40]

On files that it makes itself, at random weights, for each backbone and precision:

- end to end: lost_reg.run.run on the files, from decoding to predictions.jsonl
- alone: timm's forward_features on random tensors on the device, at the batch size that is best for it
- plain: plain.py, what a careful user writes from the papers, in the same precision and in float32
- the stages apart, memory, and the share of the device's matrix products at full speed that the work needs

All are measured in turn in each round; a ratio is taken within its round, and the median is shown.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import plain
import psutil
import timm
import torch

from lost_reg.backbones.base import PRECISIONS
from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.preprocessing import normalized
from lost_reg.backbones.vit import VitBackbone
from lost_reg.images.batching import DecodedImage
from lost_reg.images.files import list_images
from lost_reg.images.reading import pad_to_patches, read_image
from lost_reg.runs.discover import LOST_AS_PUBLISHED, run_lost
from lost_reg.runs.forecast import feature_operations, matrix_rate
from lost_reg.runs.run import run
from lost_reg.runs.sources import source_of_files
from lost_reg.runs.sweep import sweep
from lost_reg.runs.sweep_grid import grid_of_protocols, parse_biases, parse_layers
from lost_reg.runs.writer import RunWriter
from lost_reg.types import Prediction

# (width, height): how many of 20 photos have it, about as in VOC (first three) and COCO
SIZES = {(500, 375): 6, (375, 500): 2, (500, 333): 2, (640, 480): 6, (480, 640): 2, (640, 427): 2}
CPU_BACKBONES = ["dino_vits16", "dinov2_vits14_reg"]
CUDA_BACKBONES = ["dino_vits16", "dino_vits8", "dinov2_vitb14_reg", "dinov2_vitl14_reg"]
BATCH_SIZES = {"cpu": (1, 2, 4, 8, 16), "cuda": (8, 16, 32, 64)}
MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}


@dataclass(frozen=True)
class Bench:
    """One backbone in one precision, on the files of a folder; batch_size is lost-reg's.

    model: timm's own, all blocks and the norm; lost-reg leaves out the norm and most of the last block.
    """

    backbone: VitBackbone
    plain: dict[str, VitBackbone]  # what plain.py runs, by what it is called in the table
    model: torch.nn.Module
    folder: Path
    batch_size: int | str
    shapes: Counter  # padded (height, width): how many files have it

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir())

    @property
    def device(self) -> torch.device:
        return self.backbone.device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backbone", action="append", help="default: by the device")
    parser.add_argument(
        "--precision", action="append", choices=list(PRECISIONS), help="default: by the device"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--plain-images", type=int, default=20)
    parser.add_argument("--batch-size", default="8", help="of lost-reg: a number, or auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sweep", action="store_true", help="only what a sweep of 168 settings costs")
    parser.add_argument("--startup", action="store_true", help="only the time until the first image")
    options = parser.parse_args()
    print(machine(torch.device(options.device)), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        make_photos(Path(folder), 1 if options.startup else options.images)
        if options.startup:
            print(startup(Path(folder)))
            return
        names = options.backbone or (CPU_BACKBONES if options.device == "cpu" else CUDA_BACKBONES)
        precisions = options.precision or (["fp32"] if options.device == "cpu" else ["bf16", "fp32"])
        size = options.batch_size if options.batch_size == "auto" else int(options.batch_size)
        for name, precision in itertools.product(names, precisions):
            backbone = load_backbone(name, weights="random", device=options.device, precision=precision)
            if options.sweep:
                cost = sweep_cost(backbone, Path(folder), options.rounds)
                print(f"\n{name}, {precision}: {cost}", flush=True)
                continue
            shapes = shapes_of(Path(folder), backbone.patch_size)
            bench = Bench(
                backbone, plain_backbones(backbone), timm_model(backbone), Path(folder), size, shapes
            )
            print(f"\n### {name}, {precision}\n\n{measured(bench, options)}", flush=True)


def machine(device: torch.device) -> str:
    """What the figures were measured on."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = {line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")}
    gpu = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    return (
        f"{', '.join(models) or platform.processor()}, {os.cpu_count()} cores{gpu}; "
        f"torch {torch.__version__}, timm {timm.__version__}, Python {platform.python_version()}"
    )


def plain_backbones(backbone: VitBackbone) -> dict[str, VitBackbone]:
    """The backbone as it is, and in float32, which a user who does not think of precision gets."""
    if backbone.precision == "fp32":
        return {"plain": backbone}
    exact = load_backbone(backbone.name, weights="random", device=str(backbone.device))
    return {f"plain, {backbone.precision}": backbone, "plain, fp32": exact}


def make_photos(folder: Path, count: int, shrink: int = 1) -> None:
    """JPEG files of SIZES, in their shares, with detail at every scale, half a byte a pixel as COCO's."""
    random = np.random.default_rng(0)
    sizes = [size for size, share in SIZES.items() for _ in range(share)]
    for index in range(count):
        width, height = (
            side // shrink for side in sizes[index * 7 % len(sizes)]
        )  # 7 and 20 have no common factor: shares are kept
        pixels = np.full((height, width, 3), 128, np.float32)
        for cells in 2 ** np.arange(2, 10):
            grid = random.standard_normal((cells, cells, 3), dtype=np.float32)
            pixels += 70 / cells**0.35 * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        path = str(folder / f"{index:05}.jpg")
        cv2.imwrite(path, pixels.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])


def shapes_of(folder: Path, patch: int) -> Counter:
    return Counter(padded_size(path, patch) for path in sorted(folder.iterdir()))


def measured(bench: Bench, options: argparse.Namespace) -> str:
    """All measurements of one backbone, as text."""
    held = memory(bench)  # also warms up
    batch = best_batch(bench)
    rounds = [
        {
            f"end to end, batch {bench.batch_size}": end_to_end(bench),
            f"backbone alone, batch {batch}": backbone_alone(bench, batch),
            **{name: plain_rate(bench, one, options.plain_images) for name, one in bench.plain.items()},
            "ceiling": matrix_rate(bench.device, bench.backbone.precision, MATRIX_SIDE[bench.device.type]),
        }
        for _ in range(options.rounds)
    ]
    return "\n".join([*ratios(rounds, bench), "", stages(bench), "", held])


def ratios(rounds: list[dict[str, float]], bench: Bench) -> list[str]:
    """Rates and the ratios to them, medians with their ranges."""
    whole, *others, ceiling = rounds[0]
    work = sum(feature_operations(bench.backbone, s) * n for s, n in bench.shapes.items())
    work /= sum(bench.shapes.values())

    def middle(values: list[float], form: str) -> str:
        low, mid, high = min(values), statistics.median(values), max(values)
        return f"{mid:{form}} ({low:{form}} to {high:{form}})"

    lines = ["| | images/s | end to end is |", "|---|---|---|"]
    lines.append(f"| {whole} | {middle([r[whole] for r in rounds], '.2f')} | |")
    for name in others:
        rate = middle([r[name] for r in rounds], ".2f")
        lines.append(f"| {name} | {rate} | {middle([r[whole] / r[name] for r in rounds], '.3f')} times |")
    share = middle([100 * r[whole] * work / r[ceiling] for r in rounds], ".0f")
    ceilings = middle([r[ceiling] / 1e12 for r in rounds], ".3f")
    lines.append(f"| matrix products at {ceilings} TFLOP/s | | {share} % of them |")
    return lines


def best_batch(bench: Bench) -> int:
    """The batch size at which the backbone alone is fastest, on the commonest shape."""
    shape = bench.shapes.most_common(1)[0][0]
    rates = {}
    for size in BATCH_SIZES[bench.device.type]:
        with contextlib.suppress(torch.OutOfMemoryError):
            rates[size] = max(size / forward_seconds(bench, size, shape) for _ in range(3))
    return max(rates, key=rates.get)


def timm_model(backbone: VitBackbone) -> torch.nn.Module:
    spec = backbone.spec
    model = timm.create_model(spec.architecture, num_classes=0, dynamic_img_size=True, **spec.model_args)
    return model.eval().requires_grad_(False).to(backbone.device, PRECISIONS[backbone.precision])


@torch.inference_mode()
def forward_seconds(bench: Bench, batch: int, hw: tuple[int, int], repeats: int = 1) -> float:
    """Seconds that so many batches take in timm's forward_features, their pixels on the device already."""
    images = torch.randn(batch, 3, *hw, device=bench.device, dtype=PRECISIONS[bench.backbone.precision])
    return seconds(lambda: [bench.model.forward_features(images) for _ in range(repeats)], bench.device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """How long `work` takes, until the device is done with it."""
    wait_for(device)
    began = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - began


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def backbone_alone(bench: Bench, batch: int) -> float:
    """Images a second of forward_features in full batches, the shapes in the files' shares."""
    total = 0.0
    for shape, count in bench.shapes.items():
        repeats = max(1, round(count / batch))
        total += forward_seconds(bench, batch, shape, repeats) * count / (repeats * batch)
    return sum(bench.shapes.values()) / total


def end_to_end(bench: Bench) -> float:
    """Images a second from files to a run folder."""
    source = source_of_files(list_images([bench.folder]), [])
    with tempfile.TemporaryDirectory() as out:
        taken = seconds(
            lambda: run(source, bench.backbone, Path(out, "run"), batch_size=bench.batch_size), bench.device
        )
    return len(bench.files) / taken


@contextlib.contextmanager
def peak_resident() -> Iterator[Callable[[], float]]:
    """The most memory that this process and its decoding workers held meanwhile, in bytes."""
    peak, stop = 0.0, threading.Event()
    process = psutil.Process()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.05):
            # a worker's pages that it shares with this process are counted once
            own = sum(uss(child) for child in process.children(recursive=True))
            peak = max(peak, process.memory_info().rss + own)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: peak
    finally:
        stop.set()
        thread.join()


def uss(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return process.memory_full_info().uss
    return 0


def plain_rate(bench: Bench, backbone: VitBackbone, most: int) -> float:
    """Images a second of plain.py."""
    files = bench.files[:most]
    work = lambda: [plain.discover(path, backbone) for path in files]  # noqa: E731
    return len(files) / seconds(work, bench.device)


def stages(bench: Bench) -> str:
    """Milliseconds an image of each stage by itself, in full batches; decoding on one core."""
    sums: Counter = Counter()
    for shape, count in bench.shapes.items():
        for name, taken in stages_of_shape(bench, shape).items():
            sums[name] += 1000 * taken * count / sum(bench.shapes.values())
    shown = ", ".join(f"{name} {taken:.2f}" for name, taken in sums.items())
    ratio = sums["LOST"] / sums["its Gram matrix"]
    return f"Milliseconds an image: {shown}. LOST is {ratio:.2f} times its Gram matrix."


def stages_of_shape(bench: Bench, shape: tuple[int, int]) -> dict[str, float]:
    """Seconds an image of each stage, for the files of one shape."""
    backbone, patch = bench.backbone, bench.backbone.patch_size
    size = 8 if bench.batch_size == "auto" else bench.batch_size
    files = [path for path in bench.files if padded_size(path, patch) == shape]
    files = list(itertools.islice(itertools.cycle(files), size))
    batch = [decoded(path, patch) for path in files]
    grid_hw = shape[0] // patch, shape[1] // patch
    images = normalized(batch, backbone)
    features = backbone.features(images)
    by_sign = features.is_cuda and features.dtype == torch.bfloat16  # as LOST compares them
    compared = features if by_sign else features.float()
    found = Prediction("name.jpg", shape, (0, 0, 320, 240), (3, 4), grid_hw, 17)
    with tempfile.TemporaryDirectory() as out, RunWriter(Path(out, "run"), {}, {}, resume=False) as writer:
        work = {
            "decode": lambda: [decoded(path, patch) for path in files],
            "copy": lambda: normalized(batch, backbone),
            "keys": lambda: backbone.features(images),
            "LOST": lambda: run_lost(features, grid_hw, LOST_AS_PUBLISHED),
            "its Gram matrix": lambda: compared @ compared.mT,
            "write": lambda: [writer.write(found) for _ in range(size)],
        }
        return {
            name: statistics.median([seconds(stage, bench.device) for _ in range(6)][1:]) / size
            for name, stage in work.items()
        }


def decoded(path: Path, patch: int) -> DecodedImage:
    pixels = read_image(path, apply_exif=False)
    return DecodedImage(path.name, pad_to_patches(pixels, patch), pixels.shape[:2], pixels.shape[:2])


def padded_size(path: Path, patch: int) -> tuple[int, int]:
    height, width = cv2.imread(str(path)).shape[:2]
    return height + -height % patch, width + -width % patch


def memory(bench: Bench) -> str:
    """Peak memory end to end, of this process with all it has loaded, and of the decoding processes."""
    with peak_resident() as host:
        if bench.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(bench.device)
        end_to_end(bench)
    text = f"Peak memory end to end: {host() / 2**20:,.0f} MiB on the host"
    if bench.device.type != "cuda":
        return f"{text}."
    return f"{text}, {torch.cuda.max_memory_allocated(bench.device) / 2**20:,.0f} MiB on the device."


def sweep_cost(backbone: VitBackbone, folder: Path, rounds: int) -> str:
    """How many times as long as one setting a sweep takes: 4 layers, 21 biases, normalised and raw."""
    source = source_of_files(list_images([folder]), [])
    protocols = grid_of_protocols(
        facets=["k"], layers=parse_layers("-4:-1"), biases=parse_biases("-1:0:0.05"),
        normalize=[False, True], center=[False], k_patches=100, max_side=None,
    )  # fmt: skip
    ratios, alone = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as out:
            one = seconds(lambda: run(source, backbone, Path(out, "run")), backbone.device)
            many = seconds(lambda: sweep(source, backbone, Path(out, "sweep"), protocols), backbone.device)
        ratios.append(many / one)
        alone.append(one / len(source.files.names))
    return (
        f"{len(protocols)} settings take {statistics.median(ratios):.2f} times as long as one "
        f"({min(ratios):.2f} to {max(ratios):.2f}); one takes {statistics.median(alone):.2f} s an image"
    )


def startup(folder: Path) -> str:
    """Seconds until `lost-reg run` has done one image with `tiny`, and what importing alone takes."""
    program = [sys.executable, "-c"]
    with tempfile.TemporaryDirectory() as out:
        commands = {
            "python -c pass": [*program, "pass"],
            "lost-reg --help": [sys.executable, "-m", "lost_reg", "--help"],
            "import torch": [*program, "import torch"],
            "import torch, timm": [*program, "import torch, timm"],
        }
        best: dict[str, float] = {
            name: min(timed(command) for _ in range(5)) for name, command in commands.items()
        }
        runs = []
        for number in range(5):
            target = Path(out, str(number))
            runs.append(
                timed(
                    [sys.executable, "-m", "lost_reg", "run", folder, "--backbone", "tiny", "--out", target]
                )
            )
        best["lost-reg run on one image, tiny"] = min(runs)
    return "\n".join(
        ["| | seconds, best of 5 |", "|---|---|", *(f"| {n} | {s:.2f} |" for n, s in best.items())]
    )


def timed(command: list) -> float:
    began = time.perf_counter()
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
