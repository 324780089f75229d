"""How far results are from the plain float32 formulation (plain.py), and what low precision changes.

    python evaluation/agreement.py [--dataset NAME_OR_PATH] [--device cuda] [--backbone NAME ...]

Without --dataset, on the samples of this project. Random weights, but for `tiny`. Where a float32 box
differs, rigorous bounds on the rounding show whether it can be why: a degree that ties, or an entry of A or
M whose sign it decides.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import plain
import torch
from benchmark import machine
from scipy import ndimage

from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.preprocessing import normalized
from lost_reg.backbones.vit import VitBackbone
from lost_reg.boxes import iou
from lost_reg.datasets.catalog import Dataset, find_dataset
from lost_reg.images.batching import DecodedImage
from lost_reg.images.reading import pad_to_patches, read_image
from lost_reg.runs.discover import discover
from lost_reg.scoring.corloc import score
from lost_reg.types import Prediction

sys.path.append(str(Path(__file__).parent.parent / "tests"))
import planted

BACKBONES = ["tiny", "dino_vits16", "dinov2_vits14", "dinov2_vits14_reg", "deit3"]


@dataclass(frozen=True)
class Comparison:
    """Of one image. key_error: the largest relative difference of a patch's key.

    rounding: whether rounding can be why the box is another; None where it is the same.
    """

    key_error: float
    same_seed: bool
    same_box: bool
    overlap: float
    rounding: bool | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dataset", default="samples", help="as `lost-reg run` takes it")
    parser.add_argument("--data-root", type=Path, default=Path(__file__).parent.parent / "data")
    parser.add_argument("--backbone", action="append", help=f"default: {', '.join(BACKBONES)}")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", action="append", choices=["bf16", "fp16"], help="default: both")
    options = parser.parse_args()
    images = find_dataset(options.dataset, options.data_root)
    print(
        f"{machine(torch.device(options.device))}\n\n{len(images.images)} images of {images.title}\n",
        flush=True,
    )
    print("| float32 | keys, relative | same seed | same box | IoU >= 0.9 | other boxes: by rounding |")
    print("|---|---|---|---|---|---|")
    for name in options.backbone or BACKBONES:
        backbone = load_backbone(name, weights=weights_of(name), device=options.device)
        print(row(name, compared(images, backbone, reference=backbone)), flush=True)
    print("\n| float32, tiny | same results |\n|---|---|")
    for what, share in same_results(images, options.device).items():
        print(f"| {what} | {share:.1f} % |", flush=True)
    print("\n| tiny | keys, relative | same seed | same box | IoU >= 0.9 | CorLoc, float32 | CorLoc |")
    print("|---|---|---|---|---|---|---|")
    models = {"": load_backbone("tiny", device="cpu"), ", planted tokens": planted_backbone(images)}
    for suffix, model in models.items():
        full = planted.moved(model, options.device, "fp32")
        for precision in options.precision or ("bf16", "fp16"):
            low = planted.moved(model, options.device, precision)
            print(precision_row(images, full, low, precision + suffix), flush=True)


def weights_of(name: str) -> str | None:
    return None if name == "tiny" else "random"


def files_of(images: Dataset) -> list[Path]:
    return [images.root / name for name in images.images]


def corloc(images: Dataset, found: Sequence[Prediction]) -> float:
    boxes = {name: one.box_xyxy for name, one in zip(images.images, found, strict=True)}
    return score(boxes, images.truths).corloc


# ------------------------------------------------------------------------------------------------- comparing


def compared(images: Dataset, backbone: VitBackbone, reference: VitBackbone) -> list[Comparison]:
    """Each image by lost-reg, in batches, against plain.py with the float32 `reference`."""
    found = discover(files_of(images), backbone, apply_exif=False)
    return [
        compare(path, one, backbone, reference) for path, one in zip(files_of(images), found, strict=True)
    ]


def compare(path: Path, found: Prediction, backbone: VitBackbone, reference: VitBackbone) -> Comparison:
    expected = plain.discover(path, reference)
    keys = (
        backbone.features(normalized([decoded(path, backbone.patch_size)], backbone))[0].float().cpu().numpy()
    )
    errors = np.linalg.norm(keys - expected.features, axis=1) / np.linalg.norm(expected.features, axis=1)
    same_box = found.box_xyxy == expected.box_xyxy
    rounding = None if same_box else rounding_can_decide(expected, found, errors.max(), backbone.patch_size)
    overlap = iou(found.box_xyxy, [expected.box_xyxy])[0]
    return Comparison(float(errors.max()), found.seed == expected.seed, same_box, float(overlap), rounding)


def decoded(path: Path, patch: int) -> DecodedImage:
    pixels = read_image(path, apply_exif=False)
    return DecodedImage(path.name, pad_to_patches(pixels, patch), pixels.shape[:2], pixels.shape[:2])


def rounding_can_decide(expected: plain.Plain, found: Prediction, key_error: float, patch: int) -> bool:
    """Whether `found` is a result of LOST on affinities within rounding of those expected.

    An affinity is off by at most 2 e + e^2 for keys that are off by e, and by the rounding of a sum of D
    products (D u for any order of summation), times the keys' norms.
    """
    features = expected.features.astype(np.float64)
    affinities, unit = features @ features.T, 2.0**-24
    norms = np.linalg.norm(features, axis=1)
    error = (2 * key_error + key_error**2 + 2 * features.shape[1] * unit) * np.outer(norms, norms)
    off_diagonal = ~np.eye(len(norms), dtype=bool)
    fewest = ((affinities > error) & off_diagonal).sum(1)  # degrees, at least and at most
    most = ((affinities > -error) & off_diagonal).sum(1)
    seed = found.seed[0] * expected.grid_hw[1] + found.seed[1]
    if fewest[seed] > most.min():
        return False
    k = min(plain.K_PATCHES, len(norms))
    possible = (fewest <= np.sort(most)[k - 1]) & (affinities[seed] > -error[seed])
    certain = np.array([(fewest <= m).sum() <= k for m in most]) & (affinities[seed] > error[seed])
    certain[seed] = possible[seed] = True
    doubtful = possible & ~certain
    least = (affinities - error)[certain].sum(0) + (affinities - error)[doubtful].clip(max=0).sum(0)
    largest = (affinities + error)[certain].sum(0) + (affinities + error)[doubtful].clip(min=0).sum(0)
    inner = box_of(least > 0, found, expected.grid_hw, patch)
    outer = box_of(largest > 0, found, expected.grid_hw, patch)
    box = np.array(found.box_xyxy)
    return bool((outer[:2] <= box[:2]).all() and (box[:2] <= inner[:2]).all()
                and (inner[2:] <= box[2:]).all() and (box[2:] <= outer[2:]).all())  # fmt: skip


def box_of(mask: np.ndarray, found: Prediction, grid_hw: tuple[int, int], patch: int) -> np.ndarray:
    """(4,) The box in pixels of the component that holds the seed, which need not be in the mask."""
    mask = mask.reshape(grid_hw).copy()
    mask[found.seed] = True
    labels, _ = ndimage.label(mask)
    ys, xs = np.nonzero(labels == labels[found.seed])
    height, width = found.size_hw
    ends = min((xs.max() + 1) * patch, width), min((ys.max() + 1) * patch, height)
    return np.array([xs.min() * patch, ys.min() * patch, *ends])


# ---------------------------------------------------------------------------------------------------- tables


def row(name: str, compared: list[Comparison]) -> str:
    others = [one for one in compared if not one.same_box]
    return (
        f"| {name} | {max(one.key_error for one in compared):.1e} | {shares(compared)} "
        f"| {sum(bool(one.rounding) for one in others)} of {len(others)} |"
    )


def shares(compared: list[Comparison]) -> str:
    def percent(holds: list[bool]) -> str:
        return f"{100 * np.mean(holds):.1f} %"

    return " | ".join(
        percent(holds)
        for holds in (
            [one.same_seed for one in compared],
            [one.same_box for one in compared],
            [one.overlap >= 0.9 for one in compared],
        )
    )


def same_results(images: Dataset, device: str) -> dict[str, float]:
    """Percent of images with the same seed, degree and box as in batches of 1, decoded in this process."""
    backbone = load_backbone("tiny", device=device)
    expected = discover(files_of(images), backbone, batch_size=1, workers=0, apply_exif=False)

    def share(found: list[Prediction]) -> float:
        return 100 * float(np.mean([a == b for a, b in zip(expected, found, strict=True)]))

    shares = {}
    for batch_size, workers in ((1, 0), (8, 0), (16, 0), (8, 4)):
        found = discover(files_of(images), backbone, batch_size=batch_size, workers=workers, apply_exif=False)
        shares[f"batches of {batch_size}, {workers} workers"] = share(found)
    if device != "cpu":
        cpu = load_backbone("tiny", device="cpu")
        shares["on the CPU"] = share(discover(files_of(images), cpu, batch_size=1, apply_exif=False))
    return shares


def precision_row(images: Dataset, full: VitBackbone, low: VitBackbone, name: str) -> str:
    """A backbone in a lower precision against the same in float32."""
    rows = compared(images, low, reference=full)
    before, after = (corloc(images, discover(files_of(images), b, apply_exif=False)) for b in (full, low))
    key_error = np.median([one.key_error for one in rows])
    return f"| {name} | {key_error:.1e} | {shares(rows)} | {before:.1f} | {after:.1f} |"


def planted_backbone(images: Dataset) -> VitBackbone:
    """`tiny` made to write large harmful vectors to a few patches of each image: a fixture of the tests."""
    tiny = load_backbone("tiny", device="cpu")
    decoded_images = [decoded(path, tiny.patch_size) for path in files_of(images)[:64]]
    commonest, _ = Counter(image.pixels.shape for image in decoded_images).most_common(1)[0]
    some = [image for image in decoded_images if image.pixels.shape == commonest][:8]
    return planted.plant(normalized(some, tiny))[0]


if __name__ == "__main__":
    main()
