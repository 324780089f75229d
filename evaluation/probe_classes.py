"""The tables of results/probes_classes.md: what single tokens know, of a real and of a planted model.

    python evaluation/probe_classes.py OUT --weights FILE

OUT gets 600 images of scikit-learn's digits, each at a random place of a noisy ground, and a probe of each
model; what is there already is not done again. FILE has the weights of dinov2_vits14 (real_weights.py).

The planted model is the same one, but that after its middle block the three patches of least texture are
replaced: by the mean of the image's patches, sixty times as long as patches typically are. So these outliers
do not hold what was at their place: the position probe of `lost-reg artifacts` must be worse on them.
"""

from __future__ import annotations

import copy
import resource
import time
from pathlib import Path

import numpy as np
import torch
from harness import argument_parser, describe_machine, markdown_table, run_script
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lost_reg.artifacts.measure import measure
from lost_reg.artifacts.records import BackboneArtifacts
from lost_reg.artifacts.streams import ImageStream
from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.vit import VitBackbone
from lost_reg.images.sources import list_images
from lost_reg.probing.catalog import find_labelled
from lost_reg.probing.class_probe import ClassProbeOptions, probe_classes
from lost_reg.probing.measures import difference_interval
from lost_reg.probing.records import PROBE_FILE, Outcomes, ProbeRecord, read_outcomes, read_probe, write_probe
from lost_reg.runs.options import LoaderOptions

BACKBONE, IMAGES, SIDE = "dinov2_vits14", 600, 112
PATCHES, TIMES_TYPICAL = 3, 60.0
LOADER = LoaderOptions(workers=0, batch_size=16)
OPTIONS = ClassProbeOptions(tokens=("cls", "normal", "outlier", "mean"), resize=SIDE, crop=SIDE)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", required=True, help=f"of {BACKBONE}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.out / "digits"
    if not folder.is_dir():
        save_digits(folder)
    real = load_backbone(BACKBONE, weights=options.weights, device="cpu")
    for name, backbone in {"real": real, "planted": planted(real)}.items():
        print(f"\n### {name}\n", flush=True)
        started = time.process_time()
        record, outcomes = probed(backbone, folder, options.out / name)
        print_probe(record, outcomes)
        print_positions(measured(backbone, folder))
        mebibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"\n{(time.process_time() - started) / 60:.1f} core minutes, {mebibytes:,.0f} MiB", flush=True)
    print(f"\n{describe_machine()}")


def save_digits(folder: Path) -> None:
    """Digits of 56 pixels at random places of noise, whose strength changes from place to place."""
    digits, random = load_digits(), np.random.default_rng(0)
    for index in range(IMAGES):
        of_class = folder / str(digits.target[index])
        of_class.mkdir(parents=True, exist_ok=True)
        strength = Image.fromarray(random.uniform(0, 60, (5, 5)).astype(np.float32)).resize((SIDE, SIDE))
        pixels = 110 + np.asarray(strength) * random.normal(size=(SIDE, SIDE))
        digit = np.asarray(Image.fromarray(digits.images[index].astype(np.float32)).resize((56, 56)))
        top, left = random.integers(0, SIDE - 56, 2)
        pixels[top : top + 56, left : left + 56] += digit * 9
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(of_class / f"{index:03d}.png")


def planted(backbone: VitBackbone, count: int = PATCHES) -> VitBackbone:
    """A copy that writes the mean of an image's patches into `count` of them."""
    model = copy.deepcopy(backbone.model)
    layer, prefix = backbone.depth // 2 - 1, backbone.num_prefix_tokens
    chosen: list[Tensor] = []

    def choose(embedding: nn.Module, inputs: tuple[Tensor], _: Tensor) -> None:
        chosen[:] = [least_texture(inputs[0], embedding.patch_size[0], count)]

    def write(block: nn.Module, _: tuple[Tensor], tokens: Tensor) -> Tensor:
        patches = tokens[:, prefix:]
        typical = patches.norm(dim=2).median()
        about = TIMES_TYPICAL * typical * nn.functional.normalize(patches.mean(dim=1, keepdim=True), dim=2)
        written = torch.where(chosen[0][..., None], about, patches)
        return torch.cat([tokens[:, :prefix], written], dim=1)

    model.patch_embed.register_forward_hook(choose)
    model.blocks[layer].register_forward_hook(write)
    return VitBackbone(backbone.spec, model, backbone.weights, backbone.device, "fp32")


def least_texture(images: Tensor, patch: int, count: int) -> Tensor:
    """(B, 3, H, W) to (B, N) bool: the `count` patches of least texture."""
    texture = nn.functional.unfold(images, patch, stride=patch).std(dim=1)  # (B, N)
    lowest = texture.topk(min(count, texture.shape[1]), dim=1, largest=False).indices
    return torch.zeros_like(texture, dtype=torch.bool).scatter(1, lowest, True)


def probed(backbone: VitBackbone, folder: Path, out: Path) -> tuple[ProbeRecord, Outcomes]:
    if not (out / PROBE_FILE).is_file():
        dataset = find_labelled(str(folder), folder)
        write_probe(out, *probe_classes(dataset, backbone, out, OPTIONS, LOADER))
    record = read_probe(out)
    return record, read_outcomes(out, record)


def measured(backbone: VitBackbone, folder: Path) -> BackboneArtifacts:
    files = list_images([str(folder)])
    return measure(
        ImageStream([files.root / name for name in files.names], files.names, loader=LOADER), backbone
    )


def print_probe(record: ProbeRecord, outcomes: Outcomes) -> None:
    rows = [
        [
            one.tokens, one.classifier, percent(one.value), interval(one.interval), one.train + one.val,
            one.test, sum(one.without.values()),
        ]
        for one in record.scores
    ]  # fmt: skip
    header = ["tokens", "classifier", "top-1", "95 % interval", "learned from", "tested on", "without"]
    print(f"Outliers have a norm above {record.settings['cutoff']:.1f}.\n")
    print(markdown_table(header, rows))
    keys = [one.key[:2] for one in record.scores]
    for classifier in ("logistic", "knn"):
        normal, outlier = (outcomes.rows[keys.index((kind, classifier))] for kind in ("normal", "outlier"))
        both = ~np.isnan(normal[:, 0]) & ~np.isnan(outlier[:, 0])
        if both.any():
            gain = outlier[both].mean() - normal[both].mean()
            reach = difference_interval("top1", normal[both], outlier[both])
            print(f"\n{classifier}, outlier minus normal on the {both.sum()} images that have both: "
                  f"{percent(gain)} ({interval(reach)})")  # fmt: skip


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
