"""Finding register neurons, which are active where outliers are, on images without labels.

Jiang et al., "Vision Transformers Don't Need Trained Registers" (NeurIPS 2025), algorithm 1, batched and
with bounded memory.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lost_reg.artifacts.norms import SIGMAS, Moments, block_norms, finite_norms, norms_of_stream
from lost_reg.artifacts.streams import ImageStream, check_blocks, no_usable_image, progress_of_pass
from lost_reg.backbones.base import normalized
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
from lost_reg.images.batching import DecodedImage
from lost_reg.progress import Progress, no_progress
from lost_reg.text import counted
from lost_reg.types import Failure

TOP_K = 45  # the paper's, for DINOv2 ViT-L; it has 10 for OpenCLIP ViT-B/16
# Outliers stand out if they have this many times the mean norm of the other patches after some layer. Patches
# above mean + 3 sigma exist wherever norms vary, but have only 1.3 to 2.1 times that norm after the layers of
# a DINOv2 ViT-S/14 without artifacts. Artifacts have about 10 times (Darcet et al. 2024).
STANDS_OUT = 3.0


@dataclass(frozen=True)
class SearchOptions:
    """How register neurons are searched for.

    threshold: patches with a norm above it are outliers. None: mean + 3 standard deviations of the norms
        of all patches of all images; then no neurons are returned unless outliers stand out (STANDS_OUT).
    detect_layer: the block after which norms are compared with the threshold. The default is the
        second-to-last, as in the paper for DINOv2, since the last layer's keys are computed from its output.
    top_layer: the last block whose neurons are ranked. None: the block where outliers begin, which is the
        first one after which the outliers' mean norm is above mean + 3 standard deviations there; the
        detect layer if outliers above a given threshold do not stand out.
    top_k: how many neurons are kept.
    rule: "paper" ranks neurons by their mean activation at outliers. "code" does as the code that the
        paper's authors published: by their mean magnitude at all tokens above the threshold, which the class
        token can be one of.
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

    Patches above mean + 3 sigma exist in any model. If they do not stand out, there are no outliers whose
    neurons could be found, and none are returned. A given threshold is the caller's own definition of an
    outlier: then neurons are returned in any case. `found["stands_out"]` tells in both.

    Args:
        failures: filled with the images that cannot be read, do not fit in memory, or have norms that are
            not finite.

    Returns:
        top_k neurons, the highest first, or none if nothing stands out; `found` records how they were found,
        with the norms of all layers.

    Raises:
        LostRegError: a layer that the model does not have, more neurons than it has, a model that was
            trained with registers or has test-time registers, no usable image, or no patch above a given
            threshold.
    """
    _check_backbone(backbone)
    detect, top = _layers(backbone, options)
    failures = [] if failures is None else failures
    passes = 1 if options.threshold is not None else 2
    threshold = options.threshold
    if threshold is None:
        threshold = _threshold(stream, backbone, detect, failures, progress_of_pass(progress, 0, passes))
    outliers = _OutlierActivations(backbone, threshold, detect + 1, options.rule)
    outliers.add_all(stream, failures, progress_of_pass(progress, passes - 1, passes))
    if not outliers.count and options.threshold is not None:
        raise LostRegError(
            f"no patch of {counted(outliers.images, 'image')} has a norm above {threshold:.4g} after layer "
            f"{detect} of {backbone.name} (the largest is {outliers.largest:.4g}): choose another "
            "`threshold` or layer"
        )
    found = {
        **outliers.report(),
        "threshold": threshold,
        "threshold_rule": "given" if options.threshold is not None else f"mean + {SIGMAS:.0f} sigma",
        "detect_layer": detect,
        "rule": options.rule,
        "max_side": stream.max_side,
        "precision": backbone.precision,
    }
    neurons: tuple[tuple[int, int], ...] = ()
    if outliers.stand_out or options.threshold is not None:
        top, rule = (top, "given") if top is not None else outliers.top_layer()
        neurons, activations = _highest(outliers.activations()[: top + 1], options.top_k, backbone.name)
        found |= {"top_layer": top, "top_layer_rule": rule, "activations": activations}
    return RegisterNeurons(neurons, backbone.name, backbone.weights.recorded(), found)


def _check_backbone(backbone: VitBackbone) -> None:
    check_blocks(backbone)
    check_can_be_added(backbone.name, trained_registers(backbone.model))
    if backbone.registers:
        raise LostRegError("register neurons are searched for in a model without test-time registers")


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
    for norms in norms_of_stream(stream, backbone, failures, progress, blocks=detect + 1):
        moments.update(norms[-1:].flatten(1))
    return float(moments.cutoff)


@dataclass(frozen=True)
class _Batch:
    """Measurements of B images that can be used, on the CPU.

    norms: (L, B, N), of patches. outliers: (B, N) bool.
    activations: (H,) for each layer: means over an image's tokens that count, summed over images; empty if
        none counts. images: how many have any that counts. class_tokens: how many of those are before the
        patches. failures: images whose norms are not finite.
    """

    norms: Tensor
    outliers: Tensor
    activations: list[Tensor]
    images: int
    class_tokens: int
    failures: list[Failure]


class _OutlierActivations:
    """Running means of activations and norms at outliers.

    `measure` takes a batch and changes nothing, so that it can be retried after running out of memory;
    `update` adds what it returned. failures: images whose norms are not finite.
    """

    def __init__(self, backbone: VitBackbone, threshold: float, blocks: int, rule: str):
        self._backbone, self._threshold, self._blocks = backbone, threshold, blocks
        self._with_prefix = self._by_magnitude = rule == "code"
        self._norms = Moments()
        self._outlier_norms = torch.zeros(blocks, dtype=torch.float64)
        self._activations: list[Tensor] = []  # of each layer: (H,), summed over images
        self.images = self.images_with_any = self.patches = self.count = self.class_tokens = 0
        self.largest = 0.0
        self.failures: list[Failure] = []

    def add_all(self, stream: ImageStream, failures: list[Failure], progress: Progress) -> None:
        """Add all images of a stream; failures: see `find_register_neurons`."""
        for batch in stream.map_decoded(self._backbone, self.measure, failures, progress):
            self.update(batch)
        failures += self.failures
        if not self.images:
            raise no_usable_image(len(stream.images), failures)

    def measure(self, part: list[DecodedImage]) -> _Batch:
        """Measure a batch of images."""
        backbone = self._backbone
        prefix = backbone.num_prefix_tokens if self._with_prefix else 0
        norms, usable, failures = finite_norms(backbone, part, self._blocks, with_prefix=self._with_prefix)
        counted = norms[-1] > self._threshold  # (B, T)
        with_any = counted.any(dim=1)
        activations = []
        if with_any.any():
            # All layers' activations at once would be many gigabytes, and the outliers are known only after
            # the last block, so images that have any go through the model a second time.
            again = [image for image, has in zip(usable, with_any.tolist()) if has]
            activations = self._mean_activations(normalized(again, backbone), counted[with_any])
        return _Batch(
            norms=norms[:, :, prefix:].cpu(),
            outliers=counted[:, prefix:].cpu(),
            activations=activations,
            images=int(with_any.sum()),
            class_tokens=int(counted[:, :prefix].sum()),
            failures=failures,
        )

    def update(self, batch: _Batch) -> None:
        """Add what `measure` returned."""
        self.failures += batch.failures
        if not len(batch.outliers):
            return
        self._norms.update(batch.norms.flatten(1))
        self._outlier_norms += batch.norms[:, batch.outliers].double().sum(dim=1)
        self.images += len(batch.outliers)
        self.images_with_any += batch.images
        self.patches += batch.outliers.numel()
        self.count += int(batch.outliers.sum())
        self.class_tokens += batch.class_tokens
        self.largest = max(self.largest, float(batch.norms[-1].max()))
        activations = batch.activations
        if self._activations and activations:
            activations = [before + now for before, now in zip(self._activations, activations)]
        self._activations = activations or self._activations

    @torch.inference_mode()
    def _mean_activations(self, images: Tensor, counted: Tensor) -> list[Tensor]:
        """For each layer, (H,) float64: means over the tokens of an image that count, summed over images.

        counted: (B, T) bool, of patches, or of all tokens if the prefix counts.
        """
        sums: list[Tensor] = []
        shares = (1.0 / counted.sum(dim=1, keepdim=True)).expand_as(counted)[counted]  # (M,)

        def collect(_, inputs):
            hidden = inputs[0] if self._with_prefix else inputs[0][:, self._backbone.num_prefix_tokens :]
            hidden = hidden.abs() if self._by_magnitude else hidden  # (B, T, H)
            sums.append((shares @ hidden[counted].float()).double().cpu())  # (M,) @ (M, H)

        linears = last_linears(self._backbone.model, self._backbone.name)[: self._blocks]
        with contextlib.ExitStack() as stack:
            for linear in linears:
                stack.callback(linear.register_forward_pre_hook(collect).remove)
            block_norms(self._backbone, images, self._blocks)
        return sums

    def activations(self) -> Tensor:
        """(L, H) float64, the mean activation of each neuron at outliers."""
        return torch.stack(self._activations) / self.images_with_any

    @property
    def norm_ratio(self) -> float:
        """The outliers' mean norm relative to that of the other patches, after the layer where it is most."""
        if self.count in (0, self.patches):  # there are no two groups
            return 1.0
        of_others = self._norms.mean * self.patches - self._outlier_norms
        ratios = (self._outlier_norms / self.count) / (of_others / (self.patches - self.count))
        return float(ratios.max())

    @property
    def stand_out(self) -> bool:
        """Whether the outliers stand out from the other patches; see STANDS_OUT."""
        return self.norm_ratio >= STANDS_OUT

    def top_layer(self) -> tuple[int, str]:
        """The last layer to search, and by which rule; see `SearchOptions.top_layer`."""
        begun = self._outlier_norms / self.count > self._norms.cutoff
        if self.stand_out and begun.any():
            return int(begun.nonzero()[0]), "onset"
        return self._blocks - 1, "detect layer"

    def report(self) -> dict[str, Any]:
        """What was measured, as a neurons file records it."""
        return {
            "images": self.images,
            "images_with_outliers": self.images_with_any,
            "outlier_share": self.count / self.patches,
            **({"class_tokens": self.class_tokens} if self._with_prefix else {}),
            "norm_ratio": self.norm_ratio,
            "stands_out": self.stand_out,
            "layers": self._layers(),
        }

    def _layers(self) -> list[dict[str, Any]]:
        """The mean norms after each layer, of all patches and of those that become outliers, if any do."""
        of_outliers = (self._outlier_norms / self.count).tolist() if self.count else [None] * self._blocks
        names = ("layer", "mean", "mean_of_outliers", "mean_plus_3_sigma")
        series = range(self._blocks), self._norms.mean.tolist(), of_outliers, self._norms.cutoff.tolist()
        values = zip(*series)
        return [dict(zip(names, row)) for row in values]


def _highest(activations: Tensor, top_k: int, name: str) -> tuple[tuple[tuple[int, int], ...], list[float]]:
    """The top_k neurons by (L, H) activations, as (layer, neuron) pairs, and their activations."""
    if top_k > activations.numel():
        last = len(activations) - 1
        raise LostRegError(
            f"layers 0 to {last} of {name} have {counted(activations.numel(), 'neuron')}: `top_k` cannot be "
            f"{top_k:,}"
        )
    values, order = activations.flatten().sort(descending=True, stable=True)
    width = activations.shape[1]
    neurons = tuple((index // width, index % width) for index in order[:top_k].tolist())
    return neurons, values[:top_k].tolist()
