"""artifacts.json as dataclasses: the measurements of each backbone. Does not import torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from msgspec import Meta

from lost_reg.errors import LostRegError
from lost_reg.files import check_kind, check_new, read_regular, whole_file
from lost_reg.json_files import MALFORMED, Count, PositiveCount, as_json, parse_json, reason_of

ARTIFACTS_FILE = "artifacts.json"

Rule = Literal["sigma", "fixed", "reference"]
Group = Literal["outliers", "rest"]
Measure = Literal["position_top1", "position_distance", "pixel_l2"]
Percentile = Literal["1", "25", "50", "75", "95", "98", "99", "99.9"]
Control = Literal["mean", "shuffled", "zeroed"]
LostSetting = Literal["published", "normalized"]
Steps = Literal["iteration", "global_step", "step", "epoch", "file name"]

# The cut-offs above which a patch's norm makes it an outlier, and the two groups of patches.
RULES: dict[Rule, str] = {
    "sigma": "mean + 3 sigma",
    "fixed": "fixed",
    "reference": "98th percentile of the reference",
}
GROUPS: dict[Group, str] = {"outliers": "outliers", "rest": "other patches"}
# What becomes of tokens that enter the last block: see `controls.py`.
CONTROLS: dict[Control, str] = {
    "mean": "replaced by the mean",
    "shuffled": "shuffled between images",
    "zeroed": "zeroed",
}
# Which LOST is run: with DINOv2's keys, LOST as published takes every image as a whole (results/real.md).
LOST_SETTINGS: dict[LostSetting, str] = {
    "published": "LOST as published",
    "normalized": "LOST on normalised keys with automatic bias",
}
# What checkpoints record: the names by DINOv2, PyTorch Lightning and others, and DINO.
STEPS: tuple[Steps, ...] = ("iteration", "global_step", "step", "epoch")
MEASURES: tuple[Measure, ...] = get_args(Measure)
PERCENTILES: tuple[Percentile, ...] = get_args(Percentile)
REFERENCE_PERCENTILE: Percentile = "98"

Share = Annotated[float, Meta(ge=0, le=1)]
Norm = Annotated[float, Meta(ge=0, le=1e30)]
Percent = Annotated[float, Meta(ge=0, le=100)]
Points = Annotated[float, Meta(ge=-100, le=100)]  # of percent
Cosine = Annotated[float, Meta(ge=-1.001, le=1.001)]


@dataclass(frozen=True)
class LayerNorms:
    """Norms of patch tokens after one block.

    cutoffs: by rule; None if the reference has no such layer. shares: of the patches above each.
    """

    layer: Count
    mean: Norm
    sigma: Norm
    largest: Norm
    percentiles: dict[Percentile, Norm]
    cutoffs: dict[Rule, Norm | None]
    shares: dict[Rule, Share | None]


@dataclass(frozen=True)
class NormHistogram:
    """Counts of norms in geometric bins: a list for each layer. ratio: between neighbouring edges."""

    first_edge: Annotated[float, Meta(gt=0, le=1e30)]
    ratio: Annotated[float, Meta(gt=1, le=1e30)]
    counts: list[list[Count]]


@dataclass(frozen=True)
class CosineDistribution:
    """Mean, number, and counts in equal bins of [-1, 1]."""

    mean: Cosine
    count: PositiveCount
    counts: Annotated[list[Count], Meta(min_length=1)]


@dataclass(frozen=True)
class SeedStatistics:
    """How often the seed of LOST as published is an outlier, and how often a random patch is one.

    Where several patches tie for the lowest degree, any of them can be LOST's seed. The image then counts
    with the share of outliers among them, so that `on_outliers` need not be a whole number.

    images: those with a seed; ties: in how many of them several patches tie; share_tied: in which share. Both
        are None if not recorded. Where all patches tie, the seed says nothing: both shares are equal.
    """

    images: Count
    on_outliers: Annotated[float, Meta(ge=0, le=10**15)]
    share: Share | None
    share_by_chance: Share | None
    ties: Count | None = None
    share_tied: Share | None = None


@dataclass(frozen=True)
class ProbeScores:
    """The accuracy of a linear probe on tokens: means over the patches that it was tested on.

    learned_from, tested_on: numbers of patches; tested_images: of images that these are of.
    position_top1: share of correct cells, of 16 x 16; position_distance: in cells; pixel_l2: L2 error of a
    patch's normalised pixels. None if there is too little to measure them.
    intervals: 95 %, over images; empty in files of earlier versions, which did not have them.
    too_few: what there is too little of; "" if nothing.
    """

    learned_from: Count
    tested_on: PositiveCount
    position_top1: Share | None = None
    position_distance: float | None = None
    pixel_l2: float | None = None
    intervals: dict[Measure, tuple[float, float]] = field(default_factory=dict)
    tested_images: Count | None = None
    too_few: str = ""


@dataclass(frozen=True)
class OutlierReport:
    """Outliers after one layer and above one cut-off; None if there was nothing to measure."""

    rule: Rule
    layer: Count
    cutoff: Norm
    count: Count
    share: Share
    images_with_any: Count
    neighbour_cosine: dict[Group, CosineDistribution | None]
    seeds: SeedStatistics
    probes: dict[Group, ProbeScores | None]


@dataclass(frozen=True)
class Discovery:
    """CorLoc of LOST on a dataset's images: see `corloc.Score`, in percent.

    images: with a ground-truth box, the denominator. centred, whole: of the trivial baselines.
    """

    images: PositiveCount
    found: Count
    corloc: Percent
    interval: tuple[Percent, Percent]
    unusable: Count
    centred: Percent
    whole: Percent


@dataclass(frozen=True)
class CorLocChange:
    """CorLoc with changed tokens, and how it differs from another on the same images; see `paired.py`.

    only_before, only_after: images found only by the other, or only with the changed tokens.
    difference, interval: in points. p: of McNemar's exact test.
    p_holm: p, adjusted by Holm's method for the number of changes of its kind: those of all controls and
        both groups, or, from the rest, those of all controls. None in files of earlier versions.
    """

    corloc: Percent
    only_before: Count
    only_after: Count
    difference: Points
    interval: tuple[Points, Points]
    p: Share
    p_holm: Share | None = None


@dataclass(frozen=True)
class ControlScore:
    """What a change of some tokens that enter the last block does.

    group: which tokens were changed: the outliers, or as many random other patches of the same images.
    patches, images: how many were changed, and in how many images.
    seeds_moved: in which share of all images LOST's seed is another; seeds_on_outliers: see `SeedStatistics`;
        before: without the change, by the same LOST.
    class_cosine: of the class token to the untouched one, the mean over the images with a changed patch, with
        a 95 % interval. None without a class token or such images.
    corloc: against the untouched tokens; from_rest: of outliers, against the same change of other patches.
    """

    control: Control
    group: Group
    patches: Count
    images: Count
    seeds_moved: Share
    seeds_on_outliers: Share
    seeds_on_outliers_before: Share
    class_cosine: Cosine | None = None
    class_cosine_interval: tuple[float, float] | None = None
    corloc: CorLocChange | None = None
    from_rest: CorLocChange | None = None


@dataclass(frozen=True)
class BackboneArtifacts:
    """All measurements of one backbone.

    label: its name with all differences from its published weights. layers: from the first to the last.
    step: of a checkpoint in a series. parameters: how many numbers its weights are; None if not recorded.
    discovery: None without ground truth. controls: those asked for.
    failures: images that could not be used, with the reason.
    """

    backbone: str
    label: str
    weights: dict[str, Any]
    precision: str
    test_time_registers: dict[str, Any] | None
    images: PositiveCount
    patches: PositiveCount
    layers: Annotated[list[LayerNorms], Meta(min_length=1)]
    outliers: OutlierReport
    norm_histograms: NormHistogram
    step: Count | None = None
    parameters: PositiveCount | None = None
    discovery: Discovery | None = None
    controls: list[ControlScore] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Its label, and the step of a checkpoint."""
        return self.label if self.step is None else f"{self.label}, step {self.step:,}"

    @property
    def outlier_layer(self) -> LayerNorms:
        """The layer at which outliers are measured."""
        return self.layers[self.outliers.layer]


@dataclass(frozen=True)
class About:
    """How the artifacts were measured: see `ArtifactOptions`.

    reference: the reference backbone's name, and the step of a checkpoint. models: how many there will be
    once all are measured; None in files of earlier versions.
    lost: see `LOST_SETTINGS`. images: a digest of the paths. dataset: the ground truth, see `Discovery`.
    steps: what the steps of a series are; None without one.
    """

    reference: str
    layer: int
    cutoff: Norm
    rule: Rule
    max_side: int | None = None
    norms: str = "Euclidean, of patch tokens after each block, before any final norm"
    reference_percentile: float = float(REFERENCE_PERCENTILE)
    models: Count | None = None
    controls: tuple[Control, ...] = ()
    seed: int = 0
    lost: LostSetting = "published"
    images: str | None = None
    dataset: str | None = None
    steps: Steps | None = None


@dataclass(frozen=True)
class Artifacts:
    """The content of artifacts.json; the first of its backbones is the reference."""

    about: About
    backbones: Annotated[list[BackboneArtifacts], Meta(min_length=1)]

    @property
    def in_order(self) -> list[BackboneArtifacts]:
        """The backbones as they were measured, but the checkpoints of a series last, by their steps."""
        return [*self.models, *self.checkpoints]

    @property
    def models(self) -> list[BackboneArtifacts]:
        """Those that are no checkpoints of a series."""
        return [one for one in self.backbones if one.step is None]

    @property
    def checkpoints(self) -> list[BackboneArtifacts]:
        """The checkpoints of a series, by their steps."""
        return sorted((one for one in self.backbones if one.step is not None), key=lambda one: one.step or 0)

    @property
    def missing(self) -> int:
        """How many models were still to be measured, as after a kill."""
        return max(0, (self.about.models or 0) - len(self.backbones))


def check_replaceable(folder: Path, about: About, *, overwrite: bool = False) -> list[BackboneArtifacts]:
    """Check that artifacts may be written to a folder: there are none, or unfinished ones of these settings.

    Args:
        overwrite: there may be any.

    Returns:
        What was measured in those that are there, and is not measured again.

    Raises:
        LostRegError: they may not.
    """
    path = folder / ARTIFACTS_FILE
    check_kind(path, lambda: read_artifacts(path))
    if path.exists():
        earlier = read_artifacts(path)
        if earlier.missing and earlier.about == about:
            return earlier.backbones
    check_new(path, overwrite=overwrite)
    return []


def write_artifacts(folder: Path, artifacts: Artifacts) -> Path:
    """Write artifacts.json into a folder, completely or not at all.

    Raises:
        LostRegError: a folder that cannot be written.
    """
    path = folder / ARTIFACTS_FILE
    with whole_file(path) as part:
        part.write_text(as_json(asdict(artifacts)) + "\n", encoding="utf-8")
    return path


def read_artifacts(path: Path) -> Artifacts:
    """Read an artifacts.json.

    Raises:
        LostRegError: a file that cannot be read or has other content.
    """
    try:
        artifacts = parse_json(read_regular(path), Artifacts)
        for row in artifacts.backbones:
            _check(row)
    except OSError as error:
        raise LostRegError(f"cannot read {path}: {error.strerror or error}") from None
    except (*MALFORMED, OverflowError) as error:
        raise LostRegError(f"{path} does not hold artifacts: {reason_of(error)}") from None
    return artifacts


def _check(row: BackboneArtifacts) -> None:
    """Check what the types cannot express: that a backbone's layers, bins and groups are complete."""
    depth, histogram = len(row.layers), row.norm_histograms
    if [one.layer for one in row.layers] != list(range(depth)) or row.outliers.layer >= depth:
        raise ValueError(f"layers that are not 0 to {depth - 1}")
    if any(set(one.percentiles) != set(PERCENTILES) or set(one.cutoffs) != set(RULES) for one in row.layers):
        raise ValueError("a layer without all percentiles and cut-offs")
    if set(row.outliers.neighbour_cosine) != set(GROUPS) or set(row.outliers.probes) != set(GROUPS):
        raise ValueError(f"expected measurements of {' and '.join(GROUPS)}")
    if len(histogram.counts) != depth or len({len(counts) for counts in histogram.counts}) != 1:
        raise ValueError("expected a histogram for each layer, all of the same bins")
    if not any(histogram.counts[row.outliers.layer]):
        raise ValueError("an empty histogram")
    if histogram.first_edge * histogram.ratio ** len(histogram.counts[0]) > 1e30:
        raise ValueError("a histogram with norms that are too large")
