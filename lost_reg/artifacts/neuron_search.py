"""Finding register neurons: those that fire where the outliers are, on images without labels.

Jiang et al., "Vision Transformers Don't Need Trained Registers" (NeurIPS 2025), algorithm 1, batched and
with bounded memory.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lost_reg.artifacts.token_stats import (
    SIGMAS,
    ImageStream,
    Moments,
    block_norms,
    part_of,
    require_vit,
)
from lost_reg.backbones.neurons import RegisterNeurons
from lost_reg.backbones.registers import (
    DEFAULT_RULE,
    RULES,
    check_can_be_added,
    last_linears,
    trained_registers,
)
from lost_reg.backbones.vit import VitBackbone
from lost_reg.errors import LostRegError
from lost_reg.progress import Progress, no_progress
from lost_reg.types import Failure

TOP_K = 45  # the paper's, for DINOv2 ViT-L; it has 10 for OpenCLIP ViT-B/16


@dataclass(frozen=True)
class SearchOptions:
    """How register neurons are looked for.

    threshold: a patch whose norm is above it is an outlier. None: mean + 3 standard deviations of the
        norms of all patches of all images.
    detect_layer: the block at whose output norms are compared with the threshold. The default is the
        second-to-last, as in the paper for DINOv2, since the last layer's keys are computed from it.
    top_layer: the last block whose neurons are looked at. None: the block where outliers begin, which is
        the first one after which the outliers' mean norm is above mean + 3 standard deviations there.
    top_k: how many neurons are kept.
    rule: "paper" ranks them by their mean activation at outliers, "code" (what the paper's authors
        published) by its mean magnitude.
    """

    threshold: float | None = None
    detect_layer: int = -2
    top_layer: int | None = None
    top_k: int = TOP_K
    rule: str = DEFAULT_RULE

    def __post_init__(self) -> None:
        """Raises LostRegError for a value that no search can have."""
        if self.threshold is not None and not self.threshold > 0:
            raise LostRegError(f"expected a threshold above 0, but got {self.threshold}")
        if self.top_k < 1:
            raise LostRegError(f"expected a top_k of at least 1, but got {self.top_k}")
        if self.rule not in RULES:
            raise LostRegError(f"unknown register rule {self.rule!r}: choose among {', '.join(RULES)}")


DEFAULT_SEARCH = SearchOptions()


def find_register_neurons(
    stream: ImageStream,
    backbone: VitBackbone,
    options: SearchOptions = DEFAULT_SEARCH,
    *,
    failures: list[Failure] | None = None,
    progress: Progress = no_progress,
) -> RegisterNeurons:
    """Find the neurons whose activations are highest where patches are outliers.

    Activations are averaged over the outliers of an image, and then over the images that have any. Without
    a threshold the images are gone through twice: it depends on all of them.

    Args:
        failures: takes the images that could not be read or do not fit the memory.

    Returns:
        top_k neurons, the highest first; `found` says how they were found, with the norms of all layers.

    Raises:
        LostRegError: a layer that the model does not have, more neurons than it has, a model that was
            trained with registers or has test-time registers, or images without any outlier.
    """
    require_vit(backbone)
    check_can_be_added(backbone.name, trained_registers(backbone.model))
    if backbone.registers:
        raise LostRegError("register neurons are looked for in a model without test-time registers")
    detect, top = _layers(backbone, options)
    failures = [] if failures is None else failures
    passes = 1 if options.threshold is not None else 2
    threshold = options.threshold
    if threshold is None:
        threshold = _threshold(stream, backbone, detect, failures, part_of(progress, 0, passes))
    tally = _Tally(backbone, threshold, detect + 1, options.rule)
    last_pass = part_of(progress, passes - 1, passes)
    for seen in stream.measured(backbone, tally.look, failures, last_pass):
        tally.add(*seen)
    if not tally.outliers:
        raise LostRegError(
            f"no patch of {tally.images:,} images has a norm above {threshold:.4g} after layer {detect} of "
            f"{backbone.name} (the largest is {tally.largest:.4g}): choose another --threshold or layer"
        )
    top = tally.onset() if top is None else top
    neurons, activations = _highest(tally.activations()[: top + 1], options.top_k, backbone.name)
    found = {
        **tally.counts(),
        "threshold": threshold,
        "threshold_rule": "given" if options.threshold is not None else f"mean + {SIGMAS:.0f} sigma",
        "detect_layer": detect,
        "top_layer": top,
        "top_layer_rule": "given" if options.top_layer is not None else "onset",
        "rule": options.rule,
        "max_side": stream.max_side,
        "precision": backbone.precision,
        "layers": tally.layers(),
        "activations": activations,
    }
    weights = {key: getattr(backbone.weights, key) for key in ("source", "name", "sha256")}
    return RegisterNeurons(neurons, backbone.name, weights, found)


def _layers(backbone: VitBackbone, options: SearchOptions) -> tuple[int, int | None]:
    """The detect layer and the top layer, counted from the first; the top layer may be left open."""
    detect = backbone.block_index(options.detect_layer)
    if options.top_layer is None:
        return detect, None
    top = backbone.block_index(options.top_layer)
    if top > detect:
        raise LostRegError(f"the top layer, {top}, comes after layer {detect}, where outliers are detected")
    return detect, top


def _threshold(
    stream: ImageStream, backbone: VitBackbone, detect: int, failures: list[Failure], progress: Progress
) -> float:
    """Mean + 3 standard deviations of the patches' norms after one layer."""
    moments = Moments()

    def norms_after(images: Tensor) -> Tensor:
        return block_norms(backbone, images, detect + 1)[-1].reshape(1, -1)

    for norms in stream.measured(backbone, norms_after, failures, progress):
        moments.add(norms)
    return float(moments.cutoff)


class _Tally:
    """Activations and norms at the outliers of ever more images."""

    def __init__(self, backbone: VitBackbone, threshold: float, blocks: int, rule: str):
        self._backbone, self._threshold, self._blocks, self._rule = backbone, threshold, blocks, rule
        self._norms = Moments()
        self._outlier_norms = torch.zeros(blocks, dtype=torch.float64)
        self._activations: list[Tensor] = []  # a layer's: (H,), summed over images
        self.images = self.images_with_outliers = self.patches = self.outliers = 0
        self.largest = 0.0

    def look(self, images: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """What `add` takes of a batch of images, (B, 3, H, W); nothing is added yet."""
        norms = block_norms(self._backbone, images, self._blocks)  # (L, B, N)
        outliers = norms[-1] > self._threshold  # (B, N)
        with_outliers = outliers.any(dim=1)
        if not with_outliers.any():
            return norms.cpu(), outliers.cpu(), []
        # All layers' activations at once would be many gigabytes, and which patches are outliers shows
        # only in the end: the images that have any go through the model once more.
        sums = self._mean_activations(images[with_outliers], outliers[with_outliers])
        return norms.cpu(), outliers.cpu(), sums

    def add(self, norms: Tensor, outliers: Tensor, sums: list[Tensor]) -> None:
        """Take what `look` saw: (L, B, N) norms, (B, N) outliers, each layer's (H,) summed activations."""
        self._norms.add(norms.flatten(1))
        self._outlier_norms += norms[:, outliers].double().sum(dim=1)
        self.images += len(outliers)
        self.patches += outliers.numel()
        self.outliers += int(outliers.sum())
        self.images_with_outliers += int(outliers.any(dim=1).sum())
        self.largest = max(self.largest, float(norms[-1].max()))
        if self._activations and sums:
            sums = [before + now for before, now in zip(self._activations, sums)]
        self._activations = sums or self._activations

    @torch.inference_mode()
    def _mean_activations(self, images: Tensor, outliers: Tensor) -> list[Tensor]:
        """For each layer, (H,) float64: means over an image's outliers, (B, N) bool, summed over images."""
        sums: list[Tensor] = []
        shares = (1.0 / outliers.sum(dim=1, keepdim=True)).expand_as(outliers)[outliers]  # (M,)

        def take(_, inputs):
            hidden = inputs[0][:, self._backbone.prefix_tokens :]  # (B, N, H)
            hidden = hidden.abs() if self._rule == "code" else hidden
            sums.append((shares @ hidden[outliers].float()).double().cpu())  # (M,) @ (M, H)

        linears = last_linears(self._backbone.model, self._backbone.name)[: self._blocks]
        with contextlib.ExitStack() as stack:
            for linear in linears:
                stack.callback(linear.register_forward_pre_hook(take).remove)
            block_norms(self._backbone, images, self._blocks)
        return sums

    def activations(self) -> Tensor:
        """(L, H) float64, the mean activation of each neuron at outliers."""
        return torch.stack(self._activations) / self.images_with_outliers

    def onset(self) -> int:
        """The first layer after which the outliers' mean norm stands out."""
        stands_out = self._outlier_norms / self.outliers > self._norms.cutoff
        # with a threshold that was given they may stand out nowhere: then it is the last layer
        return int(stands_out.nonzero()[0]) if stands_out.any() else self._blocks - 1

    def counts(self) -> dict[str, Any]:
        """For people: how many images there were, and how many patches of them were outliers."""
        return {
            "images": self.images,
            "images_with_outliers": self.images_with_outliers,
            "outlier_share": self.outliers / self.patches,
        }

    def layers(self) -> list[dict[str, Any]]:
        """For people: the norms after each layer, of all patches and of those that end up as outliers."""
        means, cutoffs = self._norms.mean.tolist(), self._norms.cutoff.tolist()
        of_outliers = (self._outlier_norms / self.outliers).tolist()
        return [
            {"layer": layer, "mean": mean, "mean_of_outliers": outliers, "mean_plus_3_sigma": cutoff}
            for layer, (mean, outliers, cutoff) in enumerate(zip(means, of_outliers, cutoffs))
        ]


def _highest(activations: Tensor, top_k: int, name: str) -> tuple[tuple[tuple[int, int], ...], list[float]]:
    """The neurons of highest activation, (layer, neuron) each, and their activations; (L, H) given."""
    if top_k > activations.numel():
        last = len(activations) - 1
        raise LostRegError(
            f"layers 0 to {last} of {name} have {activations.numel():,} neurons: top_k cannot be {top_k:,}"
        )
    values, order = activations.flatten().sort(descending=True, stable=True)
    width = activations.shape[1]
    neurons = tuple((index // width, index % width) for index in order[:top_k].tolist())
    return neurons, values[:top_k].tolist()
