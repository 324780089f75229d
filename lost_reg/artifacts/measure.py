"""Measuring artifacts: which patches of a vision transformer are outliers, and what distinguishes them.

After Darcet et al., "Vision Transformers Need Registers" (ICLR 2024): the norms of patch tokens layer by
layer, how similar outliers are to their neighbours at the patch embedding, how often LOST's seed is an
outlier, and what a linear probe can still read from them. With ground truth, also CorLoc of LOST; and, if
asked for, what changing the outliers does (`controls.py`). Images are streamed; memory does not grow with
their number, but for the boxes that are scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from lost_reg.artifacts.controls import Donors, donor_images
from lost_reg.artifacts.discovery import ControlledDiscovery, DiscoveryScores
from lost_reg.artifacts.figures import FIGURES, write_figures
from lost_reg.artifacts.norms import NormHistograms, norms_of_stream
from lost_reg.artifacts.options import DEFAULT_OPTIONS, ArtifactOptions
from lost_reg.artifacts.outliers import OutlierStatistics
from lost_reg.artifacts.records import (
    ARTIFACTS_FILE,
    PERCENTILES,
    REFERENCE_PERCENTILE,
    About,
    Artifacts,
    BackboneArtifacts,
    ControlScore,
    Discovery,
    LayerNorms,
    Rule,
    write_artifacts,
)
from lost_reg.artifacts.streams import ImageStream, check_blocks, no_usable_image
from lost_reg.backbones.base import Backbone
from lost_reg.datasets.base import Dataset
from lost_reg.errors import LostRegError
from lost_reg.files import remove_files
from lost_reg.progress import Progress, no_progress
from lost_reg.types import Failure


def measure(
    stream: ImageStream,
    backbone: Backbone,
    options: ArtifactOptions = DEFAULT_OPTIONS,
    reference: BackboneArtifacts | None = None,
    dataset: Dataset | None = None,
    *,
    failures: list[Failure] | None = None,
    progress: Progress = no_progress,
) -> BackboneArtifacts:
    """Measure one backbone on images, in two passes: norms, which determine the cut-offs, and the rest.

    Ground truth or controls take a third pass; those that shuffle, a further one over 256 images.

    Args:
        reference: the reference model's measurements; None if it is this one.
        dataset: the ground truth of the images, by their names: adds CorLoc.
        failures: filled with the images that cannot be read, do not fit in memory, or have norms or features
            that are not finite.

    Raises:
        LostRegError: a function as backbone, a layer that the backbone lacks, or no usable image.
    """
    check_blocks(backbone)
    layer = backbone.block_index(options.layer)
    failures = [] if failures is None else failures
    work = _Passes(len(stream.images), options, bool(dataset), progress)
    norms = NormHistograms()
    for batch in norms_of_stream(stream, backbone, failures, work.next()):
        norms.update(batch)
    cutoffs = _cutoffs(norms, options, reference)
    if cutoffs[layer][options.rule] is None:
        raise LostRegError(f"{reference.backbone}, the reference, has no layer {layer - backbone.depth}")
    outliers = OutlierStatistics(backbone, cutoffs, layer, options.rule)
    _measure_outliers(outliers, backbone, stream, failures, work)
    found = ControlledDiscovery(backbone, layer, cutoffs[layer][options.rule], options, stream.places)
    discovery, controls = _discover(found, stream, backbone, dataset, failures, work)
    return BackboneArtifacts(
        label=backbone.label,
        **backbone.recorded(),
        images=outliers.images,
        patches=outliers.patches,
        layers=_layers(norms, cutoffs, outliers.shares()),
        outliers=outliers.report(),
        norm_histograms=norms.report(),
        parameters=backbone.parameters,
        discovery=discovery,
        controls=controls,
        failures={failure.image: failure.reason for failure in failures},
    )


class _Passes:
    """The passes over the images, and the progress of all of them together."""

    def __init__(self, images: int, options: ArtifactOptions, has_truth: bool, progress: Progress):
        self._progress, self._done = progress, 0
        self.discovers = has_truth or bool(options.controls)
        self.donors = donor_images(images, options.seed) if "shuffled" in options.controls else []
        self._total = images * (2 + self.discovers) + len(self.donors)

    def next(self) -> Progress:
        """The progress of a part of the work, after what was done before."""
        before = self._done

        def shown(done: int, failed: int, _: int | None) -> None:
            self._done = before + done + failed
            self._progress(before + done, failed, self._total)

        return shown


def _measure_outliers(
    outliers: OutlierStatistics,
    backbone: Backbone,
    stream: ImageStream,
    failures: list[Failure],
    work: _Passes,
) -> None:
    """The second pass: the probes are trained on one half of the images and tested on the other.

    failures: of the first pass; images that do not fit in memory only in this pass are added.
    """
    for is_training, half in zip((True, False), _halves(stream, failures)):
        unfit: list[Failure] = []
        for batch in half.map_batches(backbone, outliers.measure, unfit, work.next(), allow_empty=True):
            outliers.update(batch, is_training)
        failures += unfit
    if not outliers.images:
        raise no_usable_image(len(stream.images), failures)


def _discover(
    found: ControlledDiscovery,
    stream: ImageStream,
    backbone: Backbone,
    dataset: Dataset | None,
    failures: list[Failure],
    work: _Passes,
) -> tuple[Discovery | None, list[ControlScore]]:
    """The third pass, if there are ground truth or controls: LOST, untouched and under each control.

    failures: of the earlier passes; images that are not usable only in this pass are added.
    """
    if not work.discovers:
        return None, []
    unusable: list[Failure] = []
    if work.donors:
        giving = stream.part(work.donors)
        given = giving.map_decoded(backbone, found.give, unusable, work.next(), allow_empty=True)
        found.donors = Donors.of(chain.from_iterable(given))
    scores = DiscoveryScores(dataset)
    usable = stream.without(failures)
    for of_image in chain.from_iterable(usable.map_decoded(backbone, found.find, unusable, work.next())):
        if isinstance(of_image, Failure):
            failures.append(of_image)
        else:
            scores.update(of_image)
    failures += unusable
    return scores.report([failure.image for failure in failures])


def _halves(stream: ImageStream, failures: Sequence[Failure]) -> list[ImageStream]:
    """The readable images of a stream in two alternating halves; the second is left out if empty."""
    usable = stream.without(failures)
    count = len(usable.images)
    return [usable.part(range(start, count, 2)) for start in range(min(2, count))]


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
    **recorded: Any,
) -> About:
    """What artifacts.json records of the arguments; recorded: further fields of `About`."""
    return About(reference, **asdict(options), **recorded)


def save_artifacts(folder: Path, backbones: list[BackboneArtifacts], about: About) -> None:
    """Write the figures and then artifacts.json into a folder, in place of artifacts that are there.

    Raises:
        LostRegError: a folder that cannot be written.
    """
    artifacts = Artifacts(about, backbones)
    replaces = (folder / ARTIFACTS_FILE).exists()
    drawn = write_figures(artifacts, folder)
    write_artifacts(folder, artifacts)
    if replaces:
        remove_files(folder, {*FIGURES} - {*drawn})
