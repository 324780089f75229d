"""What a part of the work costs beside the whole: sweeps, test-time registers, decoding, too little memory.

    python evaluation/costs.py sweep       85 settings beside one
    python evaluation/costs.py registers   features with test-time registers beside those without
    python evaluation/costs.py decoding    images a second of decoding processes alone
    python evaluation/costs.py memory      a batch that does not fit: it is halved, and finds the same
    python evaluation/costs.py methods     each discovery method beside the backbone, and a dense eigensolver

On files that it makes itself, at random weights. Ratios are taken within rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import statistics
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from harness import (
    MIB,
    PHOTO_SIZES,
    argument_parser,
    describe_machine,
    make_photos,
    markdown_table,
    measure_rounds,
    median_and_range,
    peak_memory,
    ratios,
    resident_bytes,
    run_script,
    seconds,
    source_of_folder,
)
from plain import dense_cut

from lost_reg.backbones.base import PRECISIONS
from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.registers import RULES, AddedRegisters, RegisterNeurons
from lost_reg.backbones.vit import VitBackbone
from lost_reg.discovery.features import FeatureConfig, Part, PatchFeatures
from lost_reg.discovery.head import Head, HeadConfig
from lost_reg.discovery.method import Method
from lost_reg.discovery.methods import METHODS, Setting
from lost_reg.discovery.tokencut import TokenCutConfig
from lost_reg.images.decoding import Decoding, decode
from lost_reg.runs.folder import Results, read_run
from lost_reg.runs.options import LoaderOptions, RunOptions
from lost_reg.runs.run import run
from lost_reg.runs.sweep import sweep
from lost_reg.runs.sweep_grid import Grid, grid_of_settings, parse_values

NEURONS = 45  # as many as Jiang et al. 2025 use for DINOv2 ViT-L


def main() -> None:
    options = parse()
    print(f"{describe_machine(options.device)}\n", flush=True)
    with tempfile.TemporaryDirectory() as name:
        make_photos(Path(name), options.images, options.shrink)
        PARTS[options.part](Path(name), options)


def parse() -> argparse.Namespace:
    parser = argument_parser(__doc__, device=True)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--backbone", default="dinov2_vitb14")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--shrink", type=int, default=1, help="how many times smaller the images are")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, action="append", help="decoding: numbers of processes")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def loaded(options: argparse.Namespace, registers: AddedRegisters | None = None) -> VitBackbone:
    return load_backbone(
        options.backbone,
        weights="random",
        device=str(options.device),
        precision=options.precision,
        registers=registers,
    )


# --- a sweep -----------------------------------------------------------------------------------------


def sweep_cost(folder: Path, options: argparse.Namespace) -> None:
    """LOST as published and the settings of the registers papers: four layers, 21 biases, normalised."""
    source, backbone = source_of_folder(folder), loaded(options)
    grid = Grid(features={"layer": parse_values("-4:-1"), "normalize": [True]},
                options={"bias": parse_values("-1:0:0.05")})  # fmt: skip
    settings = [Setting(), *grid_of_settings(grid)]

    def in_a_folder(work: Callable[[Path], object]) -> float:
        with tempfile.TemporaryDirectory() as out:
            return seconds(lambda: work(Path(out, "results")), options.device)

    tasks = {
        "one": lambda: in_a_folder(lambda out: run(source, backbone, out)),
        "many": lambda: in_a_folder(lambda out: sweep(source, backbone, out, settings)),
    }
    taken = measure_rounds(tasks, options.rounds)
    times = median_and_range(ratios(taken["many"], taken["one"]))
    alone = 1000 * statistics.median(taken["one"]) / source.images.count
    print(
        f"{options.backbone}, {options.precision}: {len(settings)} settings take {times} times as long as "
        f"one; one takes {alone:.1f} ms an image"
    )


# --- test-time registers -----------------------------------------------------------------------------


def registers_cost(folder: Path, options: argparse.Namespace) -> None:
    """Keys of the last layer with a test-time register, at neurons drawn from the middle third of layers."""
    backbones = {"none": loaded(options)}
    for rule in RULES:
        added = AddedRegisters(drawn_neurons(backbones["none"]), rule=rule)
        backbones[f"one, rule of the {rule}"] = loaded(options, added)
    images = random_images(backbones["none"], options)
    tasks = {
        name: lambda one=one: seconds(lambda: one.features(images), options.device)
        for name, one in backbones.items()
    }
    measure_rounds(tasks, 1)  # warms up
    taken = measure_rounds(tasks, options.rounds)
    rows = [
        [name, f"{1000 * statistics.median(times) / len(images):.2f}",
         median_and_range(ratios(times, taken["none"]))]
        for name, times in taken.items()
    ]  # fmt: skip
    print(f"{options.backbone}, {options.precision}, batches of {len(images)}\n")
    print(markdown_table(["test-time registers", "ms an image", "times none"], rows))


def drawn_neurons(backbone: VitBackbone) -> RegisterNeurons:
    """Neurons for measuring time, which does not depend on which they are."""
    layers = range(backbone.depth // 3, 2 * backbone.depth // 3)
    width = backbone.model.blocks[0].mlp.fc2.in_features
    pairs = [(layer, neuron) for layer in layers for neuron in range(width)]
    return RegisterNeurons(tuple(random.Random(0).sample(pairs, NEURONS)))


def random_images(backbone: VitBackbone, options: argparse.Namespace) -> torch.Tensor:
    """A batch of the commonest size of photos, padded to whole patches."""
    width, height = max(PHOTO_SIZES, key=PHOTO_SIZES.get)
    height, width = height // options.shrink, width // options.shrink
    padded_hw = (side + -side % backbone.patch_size for side in (height, width))
    return torch.randn(options.batch_size, 3, *padded_hw, device=options.device)


# --- decoding ----------------------------------------------------------------------------------------


def decoding_rates(folder: Path, options: argparse.Namespace) -> None:
    """Images a second that reach this process, with nothing else to do; the start of processes left out."""
    files = [(path.name, path) for path in sorted(folder.iterdir())]
    numbers = options.workers or [1, 2]
    tasks = {str(number): lambda number=number: decoding_rate(files, number) for number in numbers}
    rates = measure_rounds(tasks, options.rounds)
    rows = [[name, median_and_range(values, ".0f")] for name, values in rates.items()]
    print(markdown_table(["decoding processes", "images/s"], rows))


def decoding_rate(files: list[tuple[str, Path]], workers: int) -> float:
    decoding = Decoding(apply_exif=False, max_side=None, patch_size=14)
    ahead = 4 * workers  # by then all processes have started
    images = decode([*itertools.islice(itertools.cycle(files), ahead), *files], decoding, workers=workers)
    for _ in range(ahead):
        next(images)
    return len(files) / seconds(lambda: deque(images, maxlen=0))


# --- too little memory -------------------------------------------------------------------------------


def halving(folder: Path, options: argparse.Namespace) -> None:
    """A run in memory for a quarter of its batch, beside a run with all the memory it wants."""
    source, backbone = source_of_folder(folder), loaded(options)
    run_options = RunOptions(LoaderOptions(batch_size=options.batch_size))

    def results(name: str) -> Results:
        run(source, backbone, Path(out, name), options=run_options)
        return read_run(Path(out, name))

    with tempfile.TemporaryDirectory() as out:
        expected = results("enough")
        with memory_for(max(1, options.batch_size // 4), backbone, options) as limit:
            found = results("scarce")
    lowered = found.record["sessions"][-1].get("out_of_memory", 0)
    same = sum(found.predictions.get(name) == one for name, one in expected.predictions.items())
    print(
        f"{options.backbone}, {options.precision}, batches of {options.batch_size}, {limit}: lowered "
        f"{lowered} times; {same} of {len(expected.predictions)} images have the same objects"
    )


@contextlib.contextmanager
def memory_for(images: int, backbone: VitBackbone, options: argparse.Namespace) -> Iterator[str]:
    """Memory for batches of at most so many images; says how much that is.

    The memory of a CPU cannot be limited in this way: there, larger batches raise torch's error.
    """
    if backbone.device.type != "cuda":
        with refusing(backbone, images):
            yield f"refused above {images}"
        return
    device, batch = backbone.device, random_images(backbone, options)[:images]
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    backbone.features(batch)
    limit = torch.cuda.max_memory_reserved(device)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(device).total_memory)
    try:
        yield f"{limit / MIB:,.0f} MiB on the device"
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@contextlib.contextmanager
def refusing(backbone: VitBackbone, most: int) -> Iterator[None]:
    whole = backbone.facets

    def facets(images: torch.Tensor, parts: Sequence[Part]) -> list[torch.Tensor]:
        if len(images) > most:
            raise torch.OutOfMemoryError("as if there were no more memory")
        return whole(images, parts)

    backbone.facets = facets
    try:
        yield
    finally:
        del backbone.facets


# --- methods -----------------------------------------------------------------------------------------

SIZE_HW = (384, 512)  # pixels
MANY_HW = (50, 100)  # patches
MANY = (5000, 384)  # patches, and the width of their features
CLUSTERS, NOISE = 6, 0.6  # of features, so that graphs are neither empty nor complete


def _head(backbone: VitBackbone, width: int) -> Head:
    """A head of no meaning."""
    weight = tuple(torch.randn(width).tolist())
    return Head(backbone.name, backbone.weights.name, None, FeatureConfig(), weight, 0.0)


def methods_cost(folder: Path, options: argparse.Namespace) -> None:
    """Each method as published, on features like the backbone's, beside its forward pass of the last keys."""
    backbone = loaded(options)
    sides = [side + -side % backbone.patch_size for side in SIZE_HW]
    images = torch.randn(options.batch_size, 3, *sides, device=options.device)
    grid_hw = (sides[0] // backbone.patch_size, sides[1] // backbone.patch_size)
    attention = backbone.prefix_attention(images)[:, 0]
    keys = clustered(backbone.features(images))
    tasks = {"backbone": lambda: seconds(lambda: backbone.features(images), options.device)}
    for name, method in METHODS.items():
        preset = method.presets["published"]
        parts = len(preset.features.parts)
        features = PatchFeatures(
            torch.cat([keys] * parts, dim=2), grid_hw, [grid_hw] * len(images), parts, None, attention
        )
        config = replace(preset.config, attention_head="mean") if name == "dino-seg" else preset.config
        if name == "head":
            config = HeadConfig(_head(backbone, features.values.shape[2]))
        tasks[name] = partial(timed_method, method, features, config, options.device)
    if options.device.type == "cpu":
        tasks["tokencut, dense eigh"] = lambda: len(keys) * seconds(lambda: dense_cut(keys[0].numpy()))
    measure_rounds(tasks, 1)  # warms up
    taken = measure_rounds(tasks, options.rounds)
    rows = [
        [name, f"{1000 * statistics.median(times) / len(images):.2f}",
         median_and_range(ratios(times, taken["backbone"]), ".3f")]
        for name, times in taken.items()
    ]  # fmt: skip
    grid = "{} x {} patches".format(*grid_hw)
    print(f"{options.backbone}, {options.precision}, batches of {len(images)}, {grid}\n")
    print(markdown_table(["", "ms an image", "times the backbone"], rows))
    if options.device.type == "cpu":
        features = PatchFeatures(clustered(keys.new_empty(1, *MANY)), MANY_HW, [MANY_HW])
        with peak_memory() as peak:
            before = resident_bytes()
            METHODS["tokencut"].discover(features, TokenCutConfig())()
        print(f"\nTokenCut of {MANY[0]:,} patches takes {(peak() - before) / MIB:,.0f} MiB.")


def clustered(like: torch.Tensor) -> torch.Tensor:
    """Features of a few noisy clusters, of the shape, type and device of others: (B, N, D)."""
    batch, patches, width = like.shape
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(batch, CLUSTERS, width, generator=generator)
    of_patches = torch.randint(CLUSTERS, (batch, patches, 1), generator=generator).expand(-1, -1, width)
    noise = NOISE * torch.randn(batch, patches, width, generator=generator)
    return (centres.gather(1, of_patches) + noise).to(like)


def timed_method(method: Method, features: PatchFeatures, config: object, device: torch.device) -> float:
    return seconds(lambda: method.discover(features, config)(), device)


PARTS = {
    "sweep": sweep_cost, "registers": registers_cost, "decoding": decoding_rates, "memory": halving,
    "methods": methods_cost,
}  # fmt: skip


if __name__ == "__main__":
    run_script(main)
