"""Artifacts, measured: which patches of a ViT are outliers, and what becomes of them.

After Darcet et al., "Vision Transformers Need Registers" (ICLR 2024): the norms of patch tokens layer by
layer, how similar outliers are to their neighbours at the patch embedding, how often LOST seeds at one, and
what a linear probe can still read from them. Images are streamed; memory does not grow with their number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lost_reg.artifacts.outliers import Outliers
from lost_reg.artifacts.token_stats import (
    ImageStream,
    Moments,
    block_norms,
    none_usable,
    part_of,
    require_vit,
)
from lost_reg.backbones.registers import describe
from lost_reg.backbones.vit import VitBackbone
from lost_reg.errors import LostRegError
from lost_reg.files import whole_file
from lost_reg.progress import Progress, no_progress
from lost_reg.text import text_table
from lost_reg.types import Failure

RULES = ("sigma", "fixed", "reference")
FIXED_CUTOFF = 150.0  # Darcet et al.: chosen by hand for DINOv2 ViT-g/14, and "can vary across models"
REFERENCE_PERCENTILE = 98.0
PERCENTILES = (1.0, 25.0, 50.0, 75.0, 95.0, REFERENCE_PERCENTILE, 99.0, 99.9)


@dataclass(frozen=True)
class ArtifactOptions:
    """What counts as an outlier.

    layer: the block after which a patch's norm makes it an outlier; the default is the second-to-last,
        whose output LOST's keys are computed from, and where the public DINOv2 ViT-L shows them.
    cutoff: the fixed cut-off, a norm.
    rule: which of the three cut-offs decides in all that is told of outliers: "sigma" (mean + 3 standard
        deviations of all patches after that layer), "fixed", or "reference" (98th percentile of a
        reference model). The share of outliers is told under each.
    """

    layer: int = -2
    cutoff: float = FIXED_CUTOFF
    rule: str = "sigma"

    def __post_init__(self) -> None:
        """Raises LostRegError for a value that cannot be."""
        if self.rule not in RULES:
            raise LostRegError(f"unknown rule of outliers {self.rule!r}: choose among {', '.join(RULES)}")
        if not self.cutoff > 0:
            raise LostRegError(f"expected a cut-off above 0, but got {self.cutoff}")


DEFAULT_OPTIONS = ArtifactOptions()


def measure(
    stream: ImageStream,
    backbone: VitBackbone,
    options: ArtifactOptions = DEFAULT_OPTIONS,
    reference: dict[str, Any] | None = None,
    *,
    failures: list[Failure] | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Measure one backbone on images.

    The images are gone through twice: for the norms, of which the cut-offs follow, and for the rest.

    Args:
        reference: what `measure` gave for the reference model; None if it is this one.
        failures: takes the images that could not be read or do not fit the memory.

    Returns:
        What artifacts.json holds of a backbone; README.md describes it.

    Raises:
        LostRegError: a function as backbone, a layer that it does not have, or no image that can be used.
    """
    require_vit(backbone)
    layer = backbone.block_index(options.layer)
    failures = [] if failures is None else failures
    norms = NormHistograms()
    for of_batch in stream.measured(
        backbone, lambda images: block_norms(backbone, images), failures, part_of(progress, 0, 2)
    ):
        norms.add(of_batch)
    layers = _layer_rows(norms, options, reference)
    cutoff = layers[layer]["cutoffs"][options.rule]
    if cutoff is None:
        raise LostRegError(f"{reference['backbone']}, the reference, has no layer {layer - backbone.depth}")
    outliers = Outliers(backbone, layer, cutoff)
    _look_at_halves(outliers, stream, failures, progress)
    return {
        "backbone": backbone.name,
        "label": _label(backbone),
        "weights": {key: getattr(backbone.weights, key) for key in ("source", "name", "sha256")},
        "precision": backbone.precision,
        "test_time_registers": backbone.registers.settings if backbone.registers else None,
        "images": outliers.images,
        "patches": norms.count,
        "layers": layers,
        "outliers": {"rule": options.rule, "layer": layer, "cutoff": cutoff, **outliers.report()},
        "norm_histograms": norms.report(),
    }


def _label(backbone: VitBackbone) -> str:
    """A backbone's name, with what sets it apart from its published weights."""
    notes = []
    if backbone.weights.source == "random":
        notes.append("RANDOM WEIGHTS")
    elif backbone.weights.source == "file":
        notes.append(backbone.weights.name)
    if backbone.registers:
        notes.append(describe(backbone.registers.settings))
    return backbone.name + (f" ({', '.join(notes)})" if notes else "")


def _look_at_halves(
    outliers: Outliers, stream: ImageStream, failures: list[Failure], progress: Progress
) -> None:
    """The second time through the images: the probes learn from one half of them and are tested on the other.

    failures: of the first time; takes those that did not fit the memory only now, too.
    """
    total, earlier = len(stream.images), tuple(failures)
    for is_training, half in zip((True, False), _halves(stream, earlier)):
        unfit: list[Failure] = []
        told = _told_after(outliers.images, len(failures), total, progress)
        for seen in half.measured(outliers.backbone, outliers.look, unfit, told, may_be_none=True):
            outliers.add(seen, is_training)
        failures += unfit
    if not outliers.images:
        raise none_usable(total, failures)


def _told_after(done_before: int, failed_before: int, total: int, progress: Progress) -> Progress:
    """Progress of a part of the second time through `total` images."""
    return lambda done, failed, _: progress(total + done_before + done, failed_before + failed, 2 * total)


def _halves(stream: ImageStream, failures: Sequence[Failure]) -> list[ImageStream]:
    """The readable images of a stream, every other one; the second half is left out if it is empty."""
    unreadable = {failure.image for failure in failures}
    usable = [pair for pair in zip(stream.images, stream.names) if pair[1] not in unreadable]
    halves = [tuple(zip(*usable[start::2])) for start in (0, 1)]
    return [replace(stream, images=half[0], names=half[1]) for half in halves if half]


def _layer_rows(
    norms: NormHistograms, options: ArtifactOptions, reference: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """For each layer: the distribution of norms, the three cut-offs, and the share of patches above each."""
    depth = len(norms.moments.mean)
    of_reference = [
        row["percentiles"][f"{REFERENCE_PERCENTILE:g}"] for row in (reference or {}).get("layers", [])
    ]
    percentiles = {f"{percent:g}": norms.quantiles(percent / 100).tolist() for percent in PERCENTILES}
    rows = []
    for layer in range(depth):
        values = {percent: of_layers[layer] for percent, of_layers in percentiles.items()}
        from_last = depth - layer  # models of other depth are compared from their last layer on
        known = of_reference[-from_last] if from_last <= len(of_reference) else None
        cutoffs = {
            "sigma": float(norms.moments.cutoff[layer]),
            "fixed": options.cutoff,
            "reference": known if reference else values[f"{REFERENCE_PERCENTILE:g}"],
        }
        shares = {
            rule: None if cutoff is None else norms.share_above(layer, cutoff)
            for rule, cutoff in cutoffs.items()
        }
        row = {"layer": layer, "mean": float(norms.moments.mean[layer])}
        row |= {"sigma": float(norms.moments.deviation[layer]), "largest": float(norms.largest[layer])}
        rows.append({**row, "percentiles": values, "cutoffs": cutoffs, "shares": shares})
    return rows


def write_artifacts(
    folder: Path,
    rows: list[dict[str, Any]],
    reference: str,
    options: ArtifactOptions = DEFAULT_OPTIONS,
    *,
    max_side: int | None = None,
) -> str | None:
    """Write artifacts.json and, where matplotlib is installed, its figures.

    Args:
        rows: what `measure` gave, a row per backbone.
        reference: the name of the reference model.
        max_side: recorded.

    Returns:
        Why there are no figures, or None.

    Raises:
        LostRegError: a folder that cannot be written.
    """
    content = {
        "about": {
            "norms": "Euclidean, of patch tokens after each block, before any final norm",
            "reference": reference,
            "reference_percentile": REFERENCE_PERCENTILE,
            "max_side": max_side,
            **asdict(options),
        },
        "backbones": rows,
    }
    with whole_file(folder / "artifacts.json") as part:
        part.write_text(json.dumps(content) + "\n", encoding="utf-8")
    try:
        from lost_reg.artifacts.figures import draw_artifacts
    except ImportError:
        return "for figures, install matplotlib: pip install 'lost-reg[figures]'"
    draw_artifacts(rows, folder)
    return None


def summary_table(rows: list[dict[str, Any]]) -> str:
    """The rows for people, a line per backbone, of the layer where outliers are looked for."""
    header = (
        "backbone", "layer", "above mean + 3 sigma", f"above {rows[0]['layers'][0]['cutoffs']['fixed']:g}",
        "above reference", "cosine: outliers", "rest", "seeds on outliers", "by chance",
    )  # fmt: skip
    lines = []
    for row in rows:
        of_outliers, seeds = row["outliers"], row["outliers"]["seeds"]
        shares = row["layers"][of_outliers["layer"]]["shares"]
        cosines = [of_outliers["neighbour_cosine"][name] for name in ("outliers", "rest")]
        lines.append(
            (
                row["label"],
                str(of_outliers["layer"]),
                *(_percent(shares[rule]) for rule in RULES),
                *("-" if cosine is None else f"{cosine['mean']:.2f}" for cosine in cosines),
                _percent(seeds["share"]),
                _percent(seeds["share_by_chance"]),
            )
        )
    return text_table(header, lines)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"


# --- distributions -----------------------------------------------------------------------------------


class NormHistograms:
    """How norms are distributed, layer by layer: counts in bins that are each 1 % wider than the last.

    Quantiles and shares are interpolated within a bin, so that they are exact to 1 % of the norm.

    counts: (L, bins) int64; largest: (L,); moments: exact mean and standard deviation; count: of patches.
    """

    SMALLEST, BINS = 1e-3, 2100  # up to 1e-3 * 1.01 ** 2100, which is more than a million
    STEP = math.log(1.01)

    def __init__(self):
        self.moments = Moments()

    @property
    def count(self) -> int:
        return self.moments.count

    def add(self, norms: Tensor) -> None:
        """Take (L, B, N) norms."""
        norms = norms.flatten(1).double().cpu()
        layers = len(norms)
        if not self.count:
            self.counts = torch.zeros(layers, self.BINS, dtype=torch.int64)
            self.largest = torch.zeros(layers, dtype=torch.float64)
        self.moments.add(norms)
        self.largest = torch.maximum(self.largest, norms.amax(dim=1))
        bins = (
            ((norms.clamp(min=self.SMALLEST) / self.SMALLEST).log() / self.STEP)
            .long()
            .clamp(max=self.BINS - 1)
        )
        flat = (bins + self.BINS * torch.arange(layers)[:, None]).flatten()
        self.counts += torch.bincount(flat, minlength=layers * self.BINS).view(layers, self.BINS)

    def share_above(self, layer: int, cutoff: float) -> float:
        """The share of a layer's patches whose norm is above a cut-off."""
        if cutoff >= self.largest[layer]:
            return 0.0
        place = max(0.0, math.log(max(cutoff, self.SMALLEST) / self.SMALLEST) / self.STEP)
        index = min(int(place), self.BINS - 1)
        counts = self.counts[layer]
        above = float(counts[index + 1 :].sum()) + float(counts[index]) * max(0.0, 1 - (place - index))
        return above / self.count

    def quantiles(self, share: float) -> Tensor:
        """(L,) The norm below which a share of each layer's patches is."""
        below = self.counts.cumsum(dim=1).double()  # (L, bins)
        wanted = torch.full((len(below), 1), share * self.count, dtype=torch.float64)
        index = torch.searchsorted(below, wanted).clamp(max=self.BINS - 1)  # (L, 1)
        inside = self.counts.gather(1, index).double()
        before = below.gather(1, index) - inside
        place = (index + ((wanted - before) / inside.clamp(min=1)).clamp(0, 1))[:, 0]
        return torch.minimum(self.SMALLEST * (place * self.STEP).exp(), self.largest)

    def report(self) -> dict[str, Any]:
        """For artifacts.json: the bins that any layer needs, by their lower edge and common ratio."""
        used = self.counts.sum(dim=0).nonzero()[:, 0]
        first, last = int(used[0]), int(used[-1])
        return {
            "first_edge": self.SMALLEST * math.exp(first * self.STEP),
            "ratio": math.exp(self.STEP),
            "counts": self.counts[:, first : last + 1].tolist(),
        }
