"""For tests of artifacts and reports: made-up measurements of a backbone, and a slow search for neurons."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from helpers import batches_of

from lost_reg.artifacts.neuron_search import SearchOptions
from lost_reg.artifacts.records import (
    About,
    Artifacts,
    BackboneArtifacts,
    CosineDistribution,
    LayerNorms,
    NormHistogram,
    OutlierReport,
    ProbeScores,
    SeedStatistics,
    write_artifacts,
)
from lost_reg.artifacts.streams import ImageStream
from lost_reg.runs.options import LoaderOptions

LOADER = LoaderOptions(workers=0, apply_exif=False)


def backbone_artifacts(label: str = "one", *, layer=1, **changed) -> BackboneArtifacts:
    """What was measured of a backbone of three layers."""
    percentiles = {
        "1": 2.0,
        "25": 4.0,
        "50": 10.0,
        "75": 20.0,
        "95": 40.0,
        "98": 50.0,
        "99": 60.0,
        "99.9": 90.0,
    }
    cutoffs = {"sigma": 80.0, "fixed": 1500.0, "reference": None}
    shares = {"sigma": 0.02, "fixed": 0.0, "reference": None}
    layers = [
        LayerNorms(index, 12.0, 5.0, 100.0 * (index + 1), percentiles, cutoffs, shares) for index in range(3)
    ]
    cosines = CosineDistribution(0.125, 4, [0, 0, 1, 3])
    intervals = {"position_top1": (0.2, 0.3), "position_distance": (3.0, 4.0), "pixel_l2": (12.0, 12.5)}
    probe = ProbeScores(50, 1234, 0.25, 3.5, 12.25, intervals, 40)
    outliers = OutlierReport(
        rule="sigma", layer=layer, cutoff=80.0, count=2, share=0.02, images_with_any=7,
        neighbour_cosine={"outliers": cosines, "rest": None},
        seeds=SeedStatistics(9, 4.5, 0.5, 0.01, 3, 1 / 3),
        probes={"outliers": probe, "rest": None},
    )  # fmt: skip
    histogram = NormHistogram(1.0, 10.0, [[1, 1, 0], [1, 3, 0], [4, 0, 0]])
    weights = {"source": "hub", "name": "w", "sha256": None}
    row = BackboneArtifacts(label, label, weights, "fp32", None, 9, 4, layers, outliers, histogram)
    return replace(row, **changed)


def write_artifacts_file(folder: Path, *labels: str) -> Path:
    """An artifacts.json of backbones of these names."""
    about = About(reference=labels[0], layer=-2, cutoff=1500.0, rule="sigma")
    return write_artifacts(folder, Artifacts(about, [backbone_artifacts(label) for label in labels]))


@torch.inference_mode()
def slow_search(backbone, stream: ImageStream, options: SearchOptions):
    """Register neurons with everything kept, for a stream of single images.

    Returns:
        [(activation, layer, neuron)], the threshold, the top layer, and whether outliers stand out; without
        a given threshold, no neurons and None for the top layer unless they do.
    """
    norms, hidden = [], []  # an image's, the class token first: (L, 1 + N); (L, 1 + N, H)
    for image in batches_of(stream, backbone):
        inputs = []
        handles = [
            block.mlp.fc2.register_forward_pre_hook(lambda _, args, taken=inputs: taken.append(args[0][0]))
            for block in backbone.model.blocks
        ]
        outputs = backbone.block_outputs(image, with_prefix=True)
        norms.append(torch.stack([tokens[0].norm(dim=1) for tokens in outputs]))
        hidden.append(torch.stack(inputs))
        for handle in handles:
            handle.remove()
    detect = options.detect_layer % backbone.depth
    every = torch.cat([of_image[:, 1:] for of_image in norms], dim=1).double()  # of patches
    cutoffs = every.mean(dim=1) + 3 * every.std(dim=1, correction=0)
    threshold = float(cutoffs[detect]) if options.threshold is None else options.threshold
    outliers = every[detect] > threshold
    at_outliers, at_others = every[:, outliers].mean(dim=1), every[:, ~outliers].mean(dim=1)
    top, stands_out = options.top_layer, (at_outliers >= 3 * at_others)[: detect + 1].any()
    if options.threshold is None and not stands_out:
        return [], threshold, None, False
    if top is None:
        candidates = range(detect if stands_out else 0)
        top = next((layer for layer in candidates if at_outliers[layer] > cutoffs[layer]), detect)
    per_image = []
    for activations, of_image in zip(hidden, norms):
        where = of_image[detect] > threshold
        where[0] &= options.rule == "code"  # whether the class token can count
        if where.any():
            chosen = activations[:, where]
            per_image.append((chosen.abs() if options.rule == "code" else chosen).double().mean(dim=1))
    mean = torch.stack(per_image).mean(dim=0)
    ranked = sorted(
        (
            (float(mean[layer, neuron]), layer, neuron)
            for layer in range(top + 1)
            for neuron in range(mean.shape[1])
        ),
        reverse=True,
    )
    return ranked[: options.top_k], threshold, top, bool(stands_out)


def not_finite_where_flat(backbone, monkeypatch, *, in_first_alone=False):
    """Let a backbone's tokens be NaN in images of one colour, after all of its blocks or the first alone."""
    whole = backbone.block_outputs

    def block_outputs(images, **options):
        flat = images.flatten(2).std(dim=2).amax(dim=1) < 1e-6
        for block, tokens in enumerate(whole(images, **options)):
            is_spoilt = block == 0 or not in_first_alone
            yield torch.where(flat[:, None, None], torch.nan, tokens) if is_spoilt else tokens

    monkeypatch.setattr(backbone, "block_outputs", block_outputs)
