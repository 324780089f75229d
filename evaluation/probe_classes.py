"""The tables of results/probes.md: what single tokens know, of a real and of a planted model.

    python evaluation/probe_classes.py OUT --weights FILE [--images scenes]

OUT gets images in a folder for each class, and a probe of each model; what is there already is not done
again. FILE has the weights of dinov2_vits14 (real_weights.py). The images are

- digits: scikit-learn's 1,797, each at a random place of a noisy ground;
- scenes: 1,200 of tiny/scenes, halved. A scene's class is the kind of the object that shows most.

Both have 112 pixels a side.

In the planted model, five border patches of little texture (those of planted.py) hold the class token: what
it is after the last block, before the final norm. It is written after the second-to-last block, a hundred
times as long as patches typically are there: the last block adds about six such lengths to each patch. So
the outliers know the image and not their place. This implies, and was written down before it was measured
(for digits first, and for scenes later, unchanged):

- The class probe is better on outliers than on other patches: for logistic regression and nearest neighbours,
  the paired 95 % interval of the difference on the same test images is above 0.
- It is about as good as on the real model's class token: that of the difference to it is above -10 points.
- The position probe of `lost-reg artifacts` is worse on outliers than on other patches: in top-1 and in
  distance, the 95 % intervals lie apart. (Outliers have only the border to guess among, so chance favours
  them in top-1.)
"""

from __future__ import annotations

import argparse
import copy
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from harness import argument_parser, describe_machine, markdown_table, run_script
from PIL import Image
from planted import low_texture_border_patches, some_images
from sklearn.datasets import load_digits
from tiny import scenes
from torch import Tensor, nn

from lost_reg.artifacts.measure import measure
from lost_reg.artifacts.records import BackboneArtifacts
from lost_reg.artifacts.streams import ImageStream
from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.vit import VitBackbone
from lost_reg.files import whole_folder
from lost_reg.probing.catalog import find_labelled
from lost_reg.probing.class_probe import CLASSIFIERS, ClassProbeOptions, probe_classes
from lost_reg.probing.measures import difference_interval
from lost_reg.probing.options import ProbeOptions
from lost_reg.probing.records import PROBE_FILE, Outcomes, ProbeRecord, read_outcomes, read_probe, write_probe
from lost_reg.runs.options import LoaderOptions

BACKBONE, SIDE = "dinov2_vits14", 112
TIMES_TYPICAL = 100.0
POSITIONS_ON = 400  # images, at least: those that the position probe is measured on
LOADER = LoaderOptions(workers=0, batch_size=16)
OPTIONS = ClassProbeOptions(tokens=("cls", "normal", "outlier"), resize=SIDE, crop=SIDE)
FIRST_SEED, SCENES = 5_000_000, 1200


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    folder = options.out / options.images
    if not folder.is_dir():
        with whole_folder(folder) as part:
            IMAGES[options.images](part)
    files = sorted(folder.glob("*/*.png"))
    real = load_backbone(BACKBONE, weights=options.weights, device="cpu")
    of_real = report_classes("real", real, folder)
    backbone = planted(real, some_images(files[:: len(files) // 8], real))
    of_planted = report_classes("planted", backbone, folder)
    for classifier in CLASSIFIERS:
        outlier = of_planted["outlier", classifier]
        print_difference(f"{classifier}, outlier minus normal", outlier, of_planted["normal", classifier])
        print_difference(
            f"{classifier}, outlier minus the real model's cls", outlier, of_real["cls", classifier]
        )
    print_positions(measured(backbone, files[:: len(files) // POSITIONS_ON]))
    mebibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\n{time.process_time() / 60:.1f} core minutes in all, {mebibytes:,.0f} MiB; {describe_machine()}")


def parse() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", required=True, help=f"of {BACKBONE}")
    parser.add_argument("--images", choices=IMAGES, default="digits")
    return parser.parse_args()


# --- images ------------------------------------------------------------------------------------------


def save_digits(folder: Path) -> None:
    """Digits of 56 pixels at random places of noise, whose strength changes from place to place."""
    digits, random = load_digits(), np.random.default_rng(0)
    for index, target in enumerate(digits.target):
        strength = Image.fromarray(random.uniform(0, 60, (5, 5)).astype(np.float32)).resize((SIDE, SIDE))
        pixels = 110 + np.asarray(strength) * random.normal(size=(SIDE, SIDE))
        digit = np.asarray(Image.fromarray(digits.images[index].astype(np.float32)).resize((56, 56)))
        top, left = random.integers(0, SIDE - 56, 2)
        pixels[top : top + 56, left : left + 56] += digit * 9
        save(folder / str(target), index, pixels.clip(0, 255).astype(np.uint8))


def save_scenes(folder: Path) -> None:
    """Scenes, by the kind of the object that shows most."""
    for index in range(SCENES):
        scene = scenes.make_scene(FIRST_SEED + index, (2 * SIDE, 2 * SIDE))
        pixels_of_each = np.bincount(scene.instances.ravel(), minlength=len(scene.kinds) + 1)[1:]
        save(folder / scene.kinds[pixels_of_each.argmax()], index, halved(scene.image))


def halved(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def save(of_class: Path, index: int, pixels: np.ndarray) -> None:
    of_class.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(of_class / f"{index:04d}.png")


IMAGES: dict[str, Callable[[Path], None]] = {"digits": save_digits, "scenes": save_scenes}

# --- the planted model, probes and scores ------------------------------------------------------------


def planted(backbone: VitBackbone, images: Tensor) -> VitBackbone:
    """A copy that writes what its class token becomes into a few patches, after the second-to-last block.

    Args:
        images: (B, 3, H, W), normalised: the typical norm is measured on them.
    """
    model = copy.deepcopy(backbone.model)
    *_, before_last, _ = backbone.block_outputs(images)
    length = TIMES_TYPICAL * before_last.norm(dim=2).median()
    chosen: list[Tensor] = []

    def choose(embedding: nn.Module, inputs: tuple[Tensor], _: Tensor) -> None:
        chosen[:] = [low_texture_border_patches(inputs[0], embedding.patch_size[0])]

    def write(_: nn.Module, __: tuple[Tensor], tokens: Tensor) -> Tensor:
        class_token = model.blocks[-1](tokens)[:, :1]  # (B, 1, D), as the model without this has it
        first_patch = tokens.shape[1] - chosen[0].shape[1]  # patches come last
        at = nn.functional.pad(chosen[0], (first_patch, 0))[..., None]  # (B, T, 1)
        return torch.where(at, length * nn.functional.normalize(class_token, dim=2), tokens)

    model.patch_embed.register_forward_hook(choose)
    model.blocks[-2].register_forward_hook(write)
    spec = replace(backbone.spec, name=f"{backbone.name} with planted class tokens")
    return VitBackbone(spec, model, backbone.weights, backbone.device, "fp32")


def report_classes(title: str, backbone: VitBackbone, folder: Path) -> dict[tuple[str, str], np.ndarray]:
    """Print the class probe of a backbone; which test images were right, (T,), by tokens and classifier."""
    started = time.process_time()
    record, outcomes = probed(backbone, folder, folder.with_name(f"{folder.name}-{title}"))
    print(f"\n### {title}\n\nOutliers have a norm above {record.settings['cutoff']:.1f}.\n")
    print_scores(record)
    print(f"\n{(time.process_time() - started) / 60:.1f} core minutes", flush=True)
    return {(one.tokens, one.classifier): rows[:, 0] for one, rows in zip(record.scores, outcomes.rows)}


def probed(backbone: VitBackbone, folder: Path, out: Path) -> tuple[ProbeRecord, Outcomes]:
    if not (out / PROBE_FILE).is_file():
        dataset = find_labelled(str(folder), folder)
        write_probe(out, *probe_classes(dataset, backbone, out, OPTIONS, ProbeOptions(LOADER)))
    record = read_probe(out)
    return record, read_outcomes(out, record)


def measured(backbone: VitBackbone, files: list[Path]) -> BackboneArtifacts:
    return measure(ImageStream(files, [file.name for file in files], loader=LOADER), backbone)


def print_scores(record: ProbeRecord) -> None:
    rows = [
        [
            one.tokens, one.classifier, percent(one.value), interval(one.interval), one.train + one.val,
            one.test, sum(one.without.values()),
        ]
        for one in record.scores
    ]  # fmt: skip
    header = ["tokens", "classifier", "top-1", "95 % interval", "learned from", "tested on", "without"]
    print(markdown_table(header, rows))


def print_difference(title: str, a: np.ndarray, b: np.ndarray) -> None:
    """Of the shares of two rows of test images, (T,), paired on those that both have."""
    both = ~np.isnan(a) & ~np.isnan(b)
    ends, _ = difference_interval("top1", b[both, None], a[both, None])
    gain = a[both].mean() - b[both].mean()
    print(f"\n{title}, on {both.sum()} images: {percent(gain)} ({interval(ends)})")


def print_positions(artifacts: BackboneArtifacts) -> None:
    rows = []
    for group, probe in artifacts.outliers.probes.items():
        if probe is None or probe.too_few:
            rows.append([group, probe.too_few if probe else "none", "", ""])
        else:
            reach, far = (probe.intervals[name] for name in ("position_top1", "position_distance"))
            distance = f"{probe.position_distance:.2f} ({far[0]:.2f} to {far[1]:.2f})"
            rows.append(
                [group, f"{percent(probe.position_top1)} ({interval(reach)})", distance, probe.tested_on]
            )
    print(f"\nThe position probe; {100 * artifacts.outliers.share:.1f} % of the patches are outliers.\n")
    print(markdown_table(["patches", "position, top-1", "distance in cells", "tested on"], rows))


def percent(share: float | None) -> str:
    return "too few" if share is None else f"{100 * share:.1f}"


def interval(ends: tuple[float, float] | None) -> str:
    return " to ".join(percent(end) for end in ends or ())


if __name__ == "__main__":
    run_script(main)
