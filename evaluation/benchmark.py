"""How fast lost-reg is, from JPEG files on disk to boxes in the results file, beside its backbone alone.

    python evaluation/benchmark.py [--backbone NAME ...] [--precision fp32 ...] [--device cuda] [--seconds 3]
    python evaluation/benchmark.py --startup    the time until the first image

On files that it makes itself, at random weights, for each backbone and precision:

- end to end: lost_reg.runs.run.run on the files, from decoding to predictions.jsonl; and without its start
- alone: timm's forward_features on random tensors on the device, at the batch size that is best for it
- plain: plain.py, what a careful user writes from the papers, in the same precision and in float32
- each stage by itself; memory; the share of the device's matrix products at full speed that the work needs

In each round all of them have their turn; a ratio is taken within its round, and the median is shown.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import plain
import torch
from harness import (
    MIB,
    argument_parser,
    decoded,
    describe_machine,
    make_photos,
    markdown_table,
    measure_rounds,
    median_and_range,
    peak_memory,
    ratios,
    run_script,
    seconds,
    source_of_folder,
    timm_model,
)

from lost_reg.backbones.base import PRECISIONS, normalized
from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.vit import VitBackbone
from lost_reg.discovery.features import PatchFeatures
from lost_reg.discovery.lost import LOST, LostConfig
from lost_reg.runs.forecast import matrix_rate
from lost_reg.runs.options import LoaderOptions, RunOptions
from lost_reg.runs.run import run
from lost_reg.runs.writer import RunWriter
from lost_reg.types import FoundObject, Prediction

CPU_BACKBONES = ["dino_vits16", "dinov2_vits14_reg"]
CUDA_BACKBONES = ["dino_vits16", "dino_vits8", "dinov2_vitb14_reg", "dinov2_vitl14_reg"]
BATCH_SIZES = {"cpu": (1, 2, 4, 8, 16), "cuda": (8, 16, 32, 64)}
MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
STARTS = 5  # of which the fastest is shown


@dataclass(frozen=True)
class Bench:
    """One backbone in one precision, on the files of a folder.

    plain: what plain.py runs, by its name in the table.
    model: timm's own, all blocks and the norm; lost-reg leaves out the norm and most of the last block.
    loader: lost-reg's batch size and decoding processes.
    shapes: padded (height, width), and how many files have it.
    """

    backbone: VitBackbone
    plain: dict[str, VitBackbone]
    model: torch.nn.Module
    folder: Path
    loader: LoaderOptions
    shapes: Counter

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir())

    @property
    def batch_size(self) -> int | str:
        return self.loader.batch_size

    @property
    def device(self) -> torch.device:
        return self.backbone.device


def main() -> None:
    options = parse()
    print(describe_machine(options.device), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_photos(folder, 1 if options.startup else options.images, options.shrink)
        if options.startup:
            print(startup(folder))
            return
        on_gpu = options.device.type == "cuda"
        backbones = options.backbone or (CUDA_BACKBONES if on_gpu else CPU_BACKBONES)
        precisions = options.precision or (["bf16", "fp32"] if on_gpu else ["fp32"])
        for name, precision in itertools.product(backbones, precisions):
            backbone = load_backbone(name, weights="random", device=str(options.device), precision=precision)
            bench = prepared(backbone, folder, options)
            print(f"\n### {name}, {precision}\n\n{measured(bench, options)}", flush=True)


def parse() -> argparse.Namespace:
    parser = argument_parser(__doc__, device=True)
    parser.add_argument("--backbone", action="append", help="default: by the device")
    parser.add_argument("--precision", action="append", choices=PRECISIONS, help="default: by the device")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--shrink", type=int, default=1, help="how many times smaller the images are")
    parser.add_argument("--plain-images", type=int, default=20, help="0 leaves plain.py out")
    parser.add_argument("--seconds", type=float, default=0, help="repeat the images to this time, end to end")
    parser.add_argument("--batch-size", type=batch_size, default=8, help="lost-reg's: a number, or auto")
    parser.add_argument("--workers", type=int, help="lost-reg's decoding processes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--startup", action="store_true", help="only the time until the first image")
    return parser.parse_args()


def batch_size(text: str) -> int | str:
    return text if text == "auto" else int(text)


def prepared(backbone: VitBackbone, folder: Path, options: argparse.Namespace) -> Bench:
    plain_ones = plain_backbones(backbone) if options.plain_images else {}
    loader = LoaderOptions(batch_size=options.batch_size, workers=options.workers)
    shapes = Counter(padded_size(path, backbone.patch_size) for path in sorted(folder.iterdir()))
    return Bench(backbone, plain_ones, timm_model(backbone), folder, loader, shapes)


def plain_backbones(backbone: VitBackbone) -> dict[str, VitBackbone]:
    """The backbone as it is, and in float32, which a user gets who does not think of precision."""
    if backbone.precision == "fp32":
        return {"plain": backbone}
    exact = load_backbone(backbone.name, weights="random", device=str(backbone.device))
    return {f"plain, {backbone.precision}": backbone, "plain, fp32": exact}


def padded_size(path: Path, patch: int) -> tuple[int, int]:
    height, width = cv2.imread(str(path)).shape[:2]
    return height + -height % patch, width + -width % patch


# --- rates -------------------------------------------------------------------------------------------


def measured(bench: Bench, options: argparse.Namespace) -> str:
    """All measurements of one backbone, as text."""
    memory = peak_memory_text(bench)  # also warms up
    batch, rate = best_batch(bench)
    ceiling = MATRIX_SIDE[bench.device.type]
    with repeated(bench, math.ceil(rate * options.seconds / len(bench.files))) as longer:
        end_to_end = EndToEnd(longer)
        tasks = {
            f"end to end, batch {bench.batch_size}": end_to_end.whole,
            "without the start": end_to_end.steady,
            f"backbone alone, batch {batch}": lambda: backbone_rate(longer, batch),
            **{
                name: lambda one=one: plain_rate(bench, one, options.plain_images)
                for name, one in bench.plain.items()
            },
            "ceiling": lambda: matrix_rate(bench.device, bench.backbone.precision, ceiling),
        }
        rates = measure_rounds(tasks, options.rounds)
        files = f"{len(longer.files):,} files."
    return "\n".join([table_of_rates(rates, bench), "", files, stages(bench), memory])


@contextlib.contextmanager
def repeated(bench: Bench, times: int) -> Iterator[Bench]:
    """The same with each file several times, or once: fast devices need many files for a steady rate."""
    with tempfile.TemporaryDirectory(dir=bench.folder.parent) as name:
        for number, file in itertools.product(range(max(1, times)), bench.files):
            os.link(file, Path(name, f"{number}-{file.name}"))
        shapes = Counter({shape: count * max(1, times) for shape, count in bench.shapes.items()})
        yield replace(bench, folder=Path(name), shapes=shapes)


def table_of_rates(rates: dict[str, list[float]], bench: Bench) -> str:
    """Rates and the ratios to them: medians with their ranges."""
    whole, steady, alone, *others, ceiling = rates
    of_alone = median_and_range(ratios(rates[steady], rates[alone]), ".3f")
    rows = [
        [whole, median_and_range(rates[whole]), ""],
        [steady, median_and_range(rates[steady]), f"{of_alone} times the backbone alone"],
    ]
    for name in (alone, *others):
        times = median_and_range(ratios(rates[whole], rates[name]), ".3f")
        rows.append([name, median_and_range(rates[name]), f"{times} times"])
    work = operations_per_image(bench)
    share = median_and_range([100 * work * one for one in ratios(rates[whole], rates[ceiling])], ".0f")
    fastest = median_and_range([one / 1e12 for one in rates[ceiling]], ".3f")
    rows.append([f"matrix products at {fastest} TFLOP/s", "", f"{share} % of them"])
    return markdown_table(["", "images/s", "end to end is"], rows)


def operations_per_image(bench: Bench) -> float:
    """Operations up to the keys of the last layer, the mean over the files."""
    cost, last = bench.backbone.cost, bench.backbone.depth - 1
    total = sum(cost.feature_operations(shape, last) * count for shape, count in bench.shapes.items())
    return total / sum(bench.shapes.values())


class EndToEnd:
    """Images a second from files to a run folder, and without the start: of all but the first tenth."""

    def __init__(self, bench: Bench):
        self._bench, self._moments = bench, []

    def whole(self) -> float:
        """The rate of a new run."""
        source, self._moments = source_of_folder(self._bench.folder), []
        with tempfile.TemporaryDirectory() as out:
            work = partial(run, source, self._bench.backbone, Path(out, "run"), progress=self._note)
            taken = seconds(lambda: work(options=RunOptions(self._bench.loader)), self._bench.device)
        return len(self._bench.files) / taken

    def steady(self) -> float:
        """The rate of the last run after its first tenth.

        Outcomes come in bursts, a batch each, so the time runs from the end of a burst: from the longest gap
        in the first half.
        """
        moments, count = self._moments, len(self._moments)
        if count < 2:
            return math.nan
        early = range(count // 10, max(count // 2, count // 10 + 1))
        last = max(early, key=lambda index: moments[index + 1] - moments[index])
        return (count - 1 - last) / (moments[-1] - moments[last])

    def _note(self, done: int, failed: int, total: int | None) -> None:
        if done:
            self._moments.append(time.perf_counter())


def best_batch(bench: Bench) -> tuple[int, float]:
    """The batch size at which the backbone alone is fastest, on the commonest shape; its images a second."""
    shape = bench.shapes.most_common(1)[0][0]
    rates = {}
    for size in BATCH_SIZES[bench.device.type]:
        with contextlib.suppress(torch.OutOfMemoryError):
            rates[size] = max(size / forward_seconds(bench, size, shape) for _ in range(3))
    best = max(rates, key=rates.get)
    return best, rates[best]


@torch.inference_mode()
def forward_seconds(bench: Bench, batch: int, hw: tuple[int, int], repeats: int = 1) -> float:
    """Seconds that some batches take in timm's forward_features, their pixels on the device already."""
    images = torch.randn(batch, 3, *hw, device=bench.device, dtype=PRECISIONS[bench.backbone.precision])
    return seconds(lambda: [bench.model.forward_features(images) for _ in range(repeats)], bench.device)


def backbone_rate(bench: Bench, batch: int) -> float:
    """Images a second of forward_features in full batches, the shapes in the files' shares."""
    total = 0.0
    for shape, count in bench.shapes.items():
        repeats = max(1, round(count / batch))
        total += forward_seconds(bench, batch, shape, repeats) * count / (repeats * batch)
    return sum(bench.shapes.values()) / total


def plain_rate(bench: Bench, backbone: VitBackbone, most: int) -> float:
    """Images a second of plain.py, on at most so many files."""
    files = bench.files[:most]
    return len(files) / seconds(lambda: [plain.discover(path, backbone) for path in files], bench.device)


def peak_memory_text(bench: Bench) -> str:
    """Peak memory end to end: of this process with all it has loaded, and of the decoding processes."""
    with peak_memory() as host:
        if bench.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(bench.device)
        EndToEnd(bench).whole()
    text = f"Peak memory end to end: {host() / MIB:,.0f} MiB on the host"
    if bench.device.type == "cuda":
        text += f", {torch.cuda.max_memory_allocated(bench.device) / MIB:,.0f} MiB on the device"
    return f"{text}."


# --- stages ------------------------------------------------------------------------------------------


def stages(bench: Bench) -> str:
    """Milliseconds an image of each stage by itself, in full batches; decoding on one core."""
    sums: Counter = Counter()
    for shape, count in bench.shapes.items():
        for name, taken in stages_of_shape(bench, shape).items():
            sums[name] += 1000 * taken * count / sum(bench.shapes.values())
    shown = ", ".join(f"{name} {taken:.2f}" for name, taken in sums.items())
    ratio = sums["LOST"] / sums["its Gram matrix"]
    share = 100 * sums["LOST"] / (sums["keys"] + sums["LOST"])
    return (
        f"Milliseconds an image: {shown}. LOST is {ratio:.2f} times its Gram matrix, and takes {share:.1f} % "
        "of the time of keys and LOST together."
    )


def stages_of_shape(bench: Bench, shape: tuple[int, int]) -> dict[str, float]:
    """Seconds an image of each stage, for the files of one shape."""
    backbone, patch = bench.backbone, bench.backbone.patch_size
    size = 8 if bench.batch_size == "auto" else bench.batch_size
    files = [path for path in bench.files if padded_size(path, patch) == shape]
    files = list(itertools.islice(itertools.cycle(files), size))
    batch = [decoded(path, patch) for path in files]
    grid_hw = shape[0] // patch, shape[1] // patch
    extents_hw = [(image.size_hw[0] / patch, image.size_hw[1] / patch) for image in batch]
    images = normalized(batch, backbone)
    keys = backbone.features(images)
    features = PatchFeatures(keys, grid_hw, extents_hw)
    by_sign = keys.is_cuda and keys.dtype == torch.bfloat16  # as LOST compares them
    compared = keys if by_sign else keys.float()
    found = FoundObject((0, 0, 320, 240), 0.5, (3, 4), {"degree": 17})
    prediction = Prediction("name.jpg", shape, grid_hw, (found,))
    with tempfile.TemporaryDirectory() as out, RunWriter(Path(out, "run"), {}, {}) as writer:
        work = {
            "decode": lambda: [decoded(path, patch) for path in files],
            "copy": lambda: normalized(batch, backbone),
            "keys": lambda: backbone.features(images),
            "LOST": lambda: LOST.discover(features, LostConfig())(),
            "its Gram matrix": lambda: compared @ compared.mT,
            "write": lambda: [writer.write(prediction) for _ in range(size)],
        }
        return {
            name: statistics.median([seconds(stage, bench.device) for _ in range(6)][1:]) / size
            for name, stage in work.items()
        }


# --- the start ----------------------------------------------------------------------------------------


def startup(folder: Path) -> str:
    """Seconds until `lost-reg run` has done one image with `tiny`, and what imports alone take."""
    python, lost_reg = [sys.executable, "-c"], [sys.executable, "-m", "lost_reg"]
    with tempfile.TemporaryDirectory() as out:
        names = (str(Path(out, str(number))) for number in itertools.count())
        commands = {
            "python -c pass": lambda: [*python, "pass"],
            "lost-reg --help": lambda: [*lost_reg, "--help"],
            "import torch": lambda: [*python, "import torch"],
            "import torch, timm": lambda: [*python, "import torch, timm"],
            "lost-reg run on one image, tiny": lambda: [
                *lost_reg, "run", str(folder), "--backbone", "tiny", "--out", next(names)
            ],
        }  # fmt: skip
        rows = [[name, f"{fastest_start(command):.2f}"] for name, command in commands.items()]
    return markdown_table(["", f"seconds, best of {STARTS}"], rows)


def fastest_start(command: Callable[[], list[str]]) -> float:
    return min(
        seconds(lambda: subprocess.run(command(), check=True, capture_output=True)) for _ in range(STARTS)
    )


if __name__ == "__main__":
    run_script(main)
