"""What was measured of a backbone, made up, for tests of artifacts and of reports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

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
    cosines, probe = CosineDistribution(0.125, 4, [0, 0, 1, 3]), ProbeScores(50, 1234, 0.25, 3.5, 12.25)
    outliers = OutlierReport(
        rule="sigma", layer=layer, cutoff=80.0, count=2, share=0.02, images_with_any=7,
        neighbour_cosine={"outliers": cosines, "rest": None},
        seeds=SeedStatistics(9, 4.5, 0.5, 0.01, 3),
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
