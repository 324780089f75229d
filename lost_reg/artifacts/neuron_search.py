"""Finding register neurons, which are active where outliers are, on images without labels.

Jiang et al., "Vision Transformers Don't Need Trained Registers" (NeurIPS 2025), algorithm 1, batched and
with bounded memory.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lost_reg.artifacts.norms import SIGMAS, Moments, block_norms
from lost_reg.artifacts.streams import ImageStream, check_blocks, progress_of_pass
from lost_reg.backbones.registers import (
    DEFAULT_RULE,
    RULES,
    RegisterNeurons,
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
    """How register neurons are searched for.

    threshold: patches with a norm above it are outliers. None: mean + 3 standard deviations of the norms
        of all patches of all images.
    detect_layer: the block after which norms are compared with the threshold. The default is the
        second-to-last, as in the paper for DINOv2, since the last layer's keys are computed from its output.
    top_layer: the last block whose neurons are ranked. None: the block where outliers begin, which is the
        first one after which the outliers' mean norm is above mean + 3 standard deviations there.
    top_k: how many neurons are kept.
    rule: "paper" ranks neurons by their mean activation at outliers, "code" (what the paper's authors
        published) by its mean magnitude.
    """

    threshold: float | None = None
    detect_layer: int = -2
    top_layer: int | None = None
    top_k: int = TOP_K
    rule: str = DEFAULT_RULE

    def __post_init__(self) -> None:
        """Raises LostRegError for an impossible value."""
        if self.threshold is not None and not self.threshold > 0:
            raise LostRegError(f"expected a `threshold` above 0, but got {self.threshold}")
        if self.top_k < 1:
            raise LostRegError(f"expected `top_k` of at least 1, but got {self.top_k}")
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

    Activations are averaged over the outliers of an image, and then over the images that have any. If no
    threshold is given, the images are streamed twice, since it depends on all of them.

    Args:
        failures: filled with the images that cannot be read or do not fit in memory.

    Returns:
        top_k neurons, the highest first; `found` records how they were found, with the norms of all layers.

    Raises:
        LostRegError: a layer that the model does not have, more neurons than it has, a model that was
            trained with registers or has test-time registers, or images without any outlier.
    """
    check_blocks(backbone)
    check_can_be_added(backbone.name, trained_registers(backbone.model))
    if backbone.registers:
        raise LostRegError("register neurons are searched for in a model without test-time registers")
    detect, top = _layers(backbone, options)
    failures = [] if failures is None else failures
    passes = 1 if options.threshold is not None else 2
    threshold = options.threshold
    if threshold is None:
        threshold = _threshold(stream, backbone, detect, failures, progress_of_pass(progress, 0, passes))
    outliers = _OutlierActivations(backbone, threshold, detect + 1, options.rule)
    last_pass = progress_of_pass(progress, passes - 1, passes)
    for batch in stream.map_batches(backbone, outliers.measure, failures, last_pass):
        outliers.update(batch)
    if not outliers.count:
        raise LostRegError(
            f"no patch of {outliers.images:,} images has a norm above {threshold:.4g} after layer {detect} "
            f"of {backbone.name} (the largest is {outliers.largest:.4g}): choose another `threshold` or layer"
        )
    top = outliers.onset() if top is None else top
    neurons, activations = _highest(outliers.activations()[: top + 1], options.top_k, backbone.name)
    found = {
        "images": outliers.images,
        "images_with_outliers": outliers.images_with_outliers,
        "outlier_share": outliers.count / outliers.patches,
        "threshold": threshold,
        "threshold_rule": "given" if options.threshold is not None else f"mean + {SIGMAS:.0f} sigma",
        "detect_layer": detect,
        "top_layer": top,
        "top_layer_rule": "given" if options.top_layer is not None else "onset",
        "rule": options.rule,
        "max_side": stream.max_side,
        "precision": backbone.precision,
        "layers": outliers.layers(),
        "activations": activations,
    }
    return RegisterNeurons(neurons, backbone.name, backbone.weights.recorded(), found)


def _layers(backbone: VitBackbone, options: SearchOptions) -> tuple[int, int | None]:
    """The detect layer and the top layer as indices from 0; the top layer may be None."""
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
    norms_of = partial(block_norms, backbone, blocks=detect + 1)
    for norms in stream.map_batches(backbone, lambda images: norms_of(images)[-1:], failures, progress):
        moments.update(norms.flatten(1))
    return float(moments.cutoff)


_Batch = tuple[Tensor, Tensor, list[Tensor]]  # see `_OutlierActivations.measure`


class _OutlierActivations:
    """Running means of activations and norms at outliers.

    `measure` takes a batch and changes nothing, so that it can be retried after running out of memory;
    `update` adds what it returned.
    """

    def __init__(self, backbone: VitBackbone, threshold: float, blocks: int, rule: str):
        self._backbone, self._threshold, self._blocks, self._rule = backbone, threshold, blocks, rule
        self._norms = Moments()
        self._outlier_norms = torch.zeros(blocks, dtype=torch.float64)
        self._activations: list[Tensor] = []  # of each layer: (H,), summed over images
        self.images = self.images_with_outliers = self.patches = self.count = 0
        self.largest = 0.0

    def measure(self, images: Tensor) -> _Batch:
        """Measure a batch of normalised images, (B, 3, H, W).

        Returns, on the CPU:
            Norms (L, B, N), outliers (B, N) bool, and the activations of each layer, (H,), summed over
            images; none if there are no outliers.
        """
        norms = block_norms(self._backbone, images, self._blocks)  # (L, B, N)
        outliers = norms[-1] > self._threshold  # (B, N)
        with_outliers = outliers.any(dim=1)
        activations = []
        if with_outliers.any():
            # All layers' activations at once would be many gigabytes, and the outliers are known only after
            # the last block, so images that have any go through the model a second time.
            activations = self._mean_activations(images[with_outliers], outliers[with_outliers])
        return norms.cpu(), outliers.cpu(), activations

    def update(self, batch: _Batch) -> None:
        """Add what `measure` returned."""
        norms, outliers, activations = batch
        self._norms.update(norms.flatten(1))
        self._outlier_norms += norms[:, outliers].double().sum(dim=1)
        self.images += len(outliers)
        self.patches += outliers.numel()
        self.count += int(outliers.sum())
        self.images_with_outliers += int(outliers.any(dim=1).sum())
        self.largest = max(self.largest, float(norms[-1].max()))
        if self._activations and activations:
            activations = [before + now for before, now in zip(self._activations, activations)]
        self._activations = activations or self._activations

    @torch.inference_mode()
    def _mean_activations(self, images: Tensor, outliers: Tensor) -> list[Tensor]:
        """For each layer, (H,) float64: means over an image's outliers, (B, N) bool, summed over images."""
        sums: list[Tensor] = []
        shares = (1.0 / outliers.sum(dim=1, keepdim=True)).expand_as(outliers)[outliers]  # (M,)

        def collect(_, inputs):
            hidden = inputs[0][:, self._backbone.num_prefix_tokens :]  # (B, N, H)
            hidden = hidden.abs() if self._rule == "code" else hidden
            sums.append((shares @ hidden[outliers].float()).double().cpu())  # (M,) @ (M, H)

        linears = last_linears(self._backbone.model, self._backbone.name)[: self._blocks]
        with contextlib.ExitStack() as stack:
            for linear in linears:
                stack.callback(linear.register_forward_pre_hook(collect).remove)
            block_norms(self._backbone, images, self._blocks)
        return sums

    def activations(self) -> Tensor:
        """(L, H) float64, the mean activation of each neuron at outliers."""
        return torch.stack(self._activations) / self.images_with_outliers

    def onset(self) -> int:
        """The first layer after which the outliers' mean norm stands out."""
        stands_out = self._outlier_norms / self.count > self._norms.cutoff
        # with a given threshold they may stand out nowhere: then use the last layer
        return int(stands_out.nonzero()[0]) if stands_out.any() else self._blocks - 1

    def layers(self) -> list[dict[str, Any]]:
        """The mean norms after each layer, of all patches and of those that become outliers."""
        series = self._norms.mean, self._outlier_norms / self.count, self._norms.cutoff
        names = ("layer", "mean", "mean_of_outliers", "mean_plus_3_sigma")
        values = zip(range(self._blocks), *(one.tolist() for one in series))
        return [dict(zip(names, row)) for row in values]


def _highest(activations: Tensor, top_k: int, name: str) -> tuple[tuple[tuple[int, int], ...], list[float]]:
    """The top_k neurons by (L, H) activations, as (layer, neuron) pairs, and their activations."""
    if top_k > activations.numel():
        last = len(activations) - 1
        raise LostRegError(
            f"layers 0 to {last} of {name} have {activations.numel():,} neurons: `top_k` cannot be {top_k:,}"
        )
    values, order = activations.flatten().sort(descending=True, stable=True)
    width = activations.shape[1]
    neurons = tuple((index // width, index % width) for index in order[:top_k].tolist())
    return neurons, values[:top_k].tolist()
