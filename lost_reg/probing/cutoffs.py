"""The norm above which a patch is an outlier: fixed, measured on a dataset, or measured before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lost_reg.artifacts.norms import Moments, norms_of_stream
from lost_reg.artifacts.options import ArtifactOptions
from lost_reg.artifacts.records import RULES, Artifacts, BackboneArtifacts, Rule
from lost_reg.artifacts.streams import ImageStream
from lost_reg.backbones.base import Backbone
from lost_reg.errors import LostRegError
from lost_reg.progress import Progress, no_progress
from lost_reg.text import counted, shown_names

CUTOFF_IMAGES = 1000  # from which mean + 3 sigma is measured: 256,000 patches at 224 pixels


def measured_cutoff(
    stream: ImageStream, backbone: Backbone, options: ArtifactOptions, progress: Progress = no_progress
) -> float:
    """The norm above which a patch is an outlier: the fixed one, or mean + 3 sigma over some images.

    Images whose norms are not finite are left out.

    Raises:
        LostRegError: another rule, a layer that the backbone lacks, or no usable image.
    """
    layer = backbone.block_index(options.layer)
    if options.rule == "fixed":
        return options.cutoff
    if options.rule != "sigma":
        raise LostRegError(
            f"`outliers` {options.rule} is measured by `lost-reg artifacts`: give its artifacts.json as "
            "`cutoff`"
        )
    every = -(-len(stream.names) // CUTOFF_IMAGES)
    some = replace(stream, images=stream.images[::every], names=stream.names[::every])
    moments = Moments()
    for norms in norms_of_stream(some, backbone, [], progress, blocks=layer + 1):
        moments.update(norms[layer].flatten()[None])
    return float(moments.cutoff[0])


def outliers_as_measured(
    path: Path, artifacts: Artifacts, backbone: Backbone, layer: int | None = None, rule: Rule | None = None
) -> tuple[ArtifactOptions, str]:
    """The outliers of a backbone by a cut-off in an artifacts.json, and what cut-off that is.

    Args:
        path: of the file, for messages.
        layer, rule: see `ArtifactOptions`; None for those of the file.

    Raises:
        LostRegError: the file has other backbones only, or other weights of this one; a layer that the
            backbone or the reference lacks.
    """
    rows = [one for one in artifacts.backbones if _is_of(backbone, one)]
    if not rows:
        others = shown_names(one.title for one in artifacts.backbones)
        raise LostRegError(
            f"{path} has no cut-off of {backbone.label}, with these weights: it has {others}; measure it by "
            "`lost-reg artifacts`"
        )
    about, row = artifacts.about, rows[0]
    layer, rule = about.layer if layer is None else layer, rule or about.rule
    cutoff = row.layers[backbone.block_index(layer)].cutoffs[rule]
    if not cutoff:
        raise LostRegError(f"{path} has no cut-off by `outliers` {rule} after layer {layer} of {row.title}")
    what = f"{cutoff:.5g}, {RULES[rule]} after layer {layer} of {counted(row.images, 'image')}"
    return ArtifactOptions(layer=layer, rule="fixed", cutoff=cutoff), what


def _is_of(backbone: Backbone, row: BackboneArtifacts) -> bool:
    """Whether a row is of this backbone; the precision may be another, and where its weights are."""
    own, digest = backbone.recorded(), backbone.weights.sha256
    same_weights = row.weights == own["weights"] or (digest and row.weights.get("sha256") == digest)
    same = (row.backbone, row.test_time_registers) == (own["backbone"], own["test_time_registers"])
    return bool(same and same_weights) and len(row.layers) == backbone.depth
