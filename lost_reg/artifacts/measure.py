"""Measuring artifacts: which patches of a vision transformer are outliers, and what distinguishes them.

After Darcet et al., "Vision Transformers Need Registers" (ICLR 2024): the norms of patch tokens layer by
layer, how similar outliers are to their neighbours at the patch embedding, how often LOST's seed is an
outlier, and what a linear probe can still read from them. Images are streamed; memory does not grow with
their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from lost_reg.artifacts.figures import write_figures
from lost_reg.artifacts.norms import NormHistograms, block_norms
from lost_reg.artifacts.outliers import OutlierStatistics
from lost_reg.artifacts.records import (
    PERCENTILES,
    REFERENCE_PERCENTILE,
    RULES,
    About,
    Artifacts,
    BackboneArtifacts,
    LayerNorms,
    Rule,
    write_artifacts,
)
from lost_reg.artifacts.streams import ImageStream, check_blocks, no_usable_image, progress_of_pass
from lost_reg.backbones.base import Backbone
from lost_reg.backbones.zoo import backbone_label
from lost_reg.errors import LostRegError
from lost_reg.progress import Progress, no_progress
from lost_reg.types import Failure

FIXED_CUTOFF = 150.0  # Darcet et al.: chosen by hand for DINOv2 ViT-g/14, and "can vary across models"


@dataclass(frozen=True)
class ArtifactOptions:
    """What counts as an outlier.

    layer: the block after which a patch's norm makes it an outlier. The default is the second-to-last,
        whose output LOST's keys are computed from, and where the public DINOv2 ViT-L shows outliers.
    cutoff: the fixed cut-off, a norm.
    rule: which of the three cut-offs the outlier statistics use: "sigma" (mean + 3 standard deviations of
        all patches after that layer), "fixed", or "reference" (98th percentile of a reference model). The
        share of patches above each is recorded in any case.
    """

    layer: int = -2
    cutoff: float = FIXED_CUTOFF
    rule: Rule = "sigma"

    def __post_init__(self) -> None:
        """Raises LostRegError for an impossible value."""
        if self.rule not in RULES:
            raise LostRegError(f"unknown outlier rule {self.rule!r}: choose among {', '.join(RULES)}")
        if not self.cutoff > 0:
            raise LostRegError(f"expected a cut-off above 0, but got {self.cutoff}")


DEFAULT_OPTIONS = ArtifactOptions()


def measure(
    stream: ImageStream,
    backbone: Backbone,
    options: ArtifactOptions = DEFAULT_OPTIONS,
    reference: BackboneArtifacts | None = None,
    *,
    failures: list[Failure] | None = None,
    progress: Progress = no_progress,
) -> BackboneArtifacts:
    """Measure one backbone on images, in two passes: norms, which determine the cut-offs, and the rest.

    Args:
        reference: the reference model's measurements; None if it is this one.
        failures: filled with the images that cannot be read or do not fit in memory.

    Raises:
        LostRegError: a function as backbone, a layer that the backbone lacks, or no usable image.
    """
    check_blocks(backbone)
    layer = backbone.block_index(options.layer)
    failures = [] if failures is None else failures
    norms = NormHistograms()
    first_pass = progress_of_pass(progress, 0, 2)
    for batch in stream.map_batches(backbone, partial(block_norms, backbone), failures, first_pass):
        norms.update(batch)
    cutoffs = _cutoffs(norms, options, reference)
    if cutoffs[layer][options.rule] is None:
        raise LostRegError(f"{reference.backbone}, the reference, has no layer {layer - backbone.depth}")
    outliers = OutlierStatistics(backbone, cutoffs, layer, options.rule)
    _measure_outliers(outliers, backbone, stream, failures, progress)
    weights = backbone.weights.recorded()
    registers = backbone.registers.settings if backbone.registers else None
    return BackboneArtifacts(
        backbone=backbone.name,
        label=backbone_label(backbone.name, weights, registers),
        weights=weights,
        precision=backbone.precision,
        test_time_registers=registers,
        images=outliers.images,
        patches=outliers.patches,
        layers=_layers(norms, cutoffs, outliers.shares()),
        outliers=outliers.report(),
        norm_histograms=norms.report(),
    )


def _measure_outliers(
    outliers: OutlierStatistics,
    backbone: Backbone,
    stream: ImageStream,
    failures: list[Failure],
    progress: Progress,
) -> None:
    """The second pass: the probes are trained on one half of the images and tested on the other.

    failures: of the first pass; images that do not fit in memory only in this pass are added.
    """
    total = len(stream.images)
    for is_training, half in zip((True, False), _halves(stream, failures)):
        unfit: list[Failure] = []
        shown = _after_first_pass(progress, outliers.images, len(failures), total)
        for batch in half.map_batches(backbone, outliers.measure, unfit, shown, allow_empty=True):
            outliers.update(batch, is_training)
        failures += unfit
    if not outliers.images:
        raise no_usable_image(total, failures)


def _after_first_pass(progress: Progress, done_before: int, failed_before: int, total: int) -> Progress:
    """Progress of a part of the second pass over `total` images."""
    return lambda done, failed, _: progress(total + done_before + done, failed_before + failed, 2 * total)


def _halves(stream: ImageStream, failures: Sequence[Failure]) -> list[ImageStream]:
    """The readable images of a stream in two alternating halves; the second is left out if empty."""
    unreadable = {failure.image for failure in failures}
    usable = [pair for pair in zip(stream.images, stream.names) if pair[1] not in unreadable]
    halves = [tuple(zip(*usable[start::2])) for start in (0, 1)]
    return [replace(stream, images=half[0], names=half[1]) for half in halves if half]


def _cutoffs(
    norms: NormHistograms, options: ArtifactOptions, reference: BackboneArtifacts | None
) -> list[dict[Rule, float | None]]:
    """The three cut-offs of each layer."""
    if reference:
        of_reference = [one.percentiles[REFERENCE_PERCENTILE] for one in reference.layers]
    else:
        of_reference = norms.quantiles(float(REFERENCE_PERCENTILE) / 100).tolist()
    sigmas = norms.moments.cutoff.tolist()
    # models differ in depth, so the reference's layers are counted from the last
    counted_from_last = ([None] * len(sigmas) + of_reference)[-len(sigmas) :]
    return [
        {"sigma": sigma, "fixed": options.cutoff, "reference": percentile}
        for sigma, percentile in zip(sigmas, counted_from_last)
    ]


def _layers(
    norms: NormHistograms,
    cutoffs: Sequence[dict[Rule, float | None]],
    shares: Sequence[dict[Rule, float | None]],
) -> list[LayerNorms]:
    """For each layer: the distribution of norms, the three cut-offs, and the share of patches above each."""
    quantiles = {percent: norms.quantiles(float(percent) / 100).tolist() for percent in PERCENTILES}
    columns = norms.moments.mean, norms.moments.deviation, norms.largest
    return [
        LayerNorms(
            layer,
            mean,
            sigma,
            largest,
            percentiles={percent: of_layers[layer] for percent, of_layers in quantiles.items()},
            cutoffs=cutoffs[layer],
            shares=shares[layer],
        )
        for layer, (mean, sigma, largest) in enumerate(zip(*(column.tolist() for column in columns)))
    ]


def about_artifacts(
    reference: str,
    options: ArtifactOptions = DEFAULT_OPTIONS,
    *,
    max_side: int | None = None,
    models: int | None = None,
) -> About:
    """What artifacts.json records of the arguments."""
    return About(reference, max_side=max_side, models=models, **asdict(options))


def save_artifacts(folder: Path, backbones: list[BackboneArtifacts], about: About) -> None:
    """Write the figures and then artifacts.json into a folder.

    Raises:
        LostRegError: a folder that cannot be written.
    """
    write_figures(backbones, folder)
    write_artifacts(folder, Artifacts(about, backbones))
