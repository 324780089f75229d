"""Planted artifacts: models made to have outliers, for tests and measurements. Nobody trained or uses them.

The models whose outliers the registers papers are about are not at hand here. A planted model shows the same
symptom by the same mechanism: a few neurons of one MLP fire at a few low-texture patches of each image and
write a large vector there. So the search for such neurons, and moving what they write, can be tested from end
to end.

- The neurons are the three of the middle block's MLP that matter least to the model: those of the smallest
  activation times outgoing weight. They are 0 everywhere except at the chosen patches.
- The chosen patches are, in each image, the five of least texture (standard deviation of their pixels)
  among those at the image's border, which is mostly background.
- The vector is ten times as long as patches of that block typically are. Its direction is chosen to do harm;
  most random ones do little. LOST seeds at the patch that is similar to the fewest others. So the direction
  is fitted by gradient descent: its key, straight through the last block's norm and key projection, shall
  have a negative cosine to the keys of as many patches of some images as possible.

lost_reg refuses to add registers to models that have some. So before it is planted, the bundled backbone gets
its four registers made part of its class token, (1, 5, D): lost_reg does not take those for registers.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from harness import decoded
from torch import Tensor, nn

from lost_reg.backbones.base import normalized
from lost_reg.backbones.registers import AddedRegisters
from lost_reg.backbones.vit import VitBackbone
from lost_reg.discovery.features import FACETS

NEURONS = 3
PATCHES = 5
TIMES_TYPICAL = 10.0
ACTIVATION = 50.0  # of each planted neuron at a chosen patch; typical ones are below 5


def plant(backbone: VitBackbone, *batches: Tensor) -> tuple[VitBackbone, list[tuple[int, int]]]:
    """A copy of a backbone with planted artifacts, and its planted (layer, neuron) pairs.

    Args:
        backbone: on the CPU, in float32.
        batches: each (B, 3, H, W), normalised: images to measure typical norms, keys and activations on.
    """
    layer = backbone.depth // 2 - 1
    norms = torch.cat(
        [list(backbone.block_outputs(images))[layer].norm(dim=2).flatten() for images in batches]
    )
    neurons = _least_important(backbone, layer, batches)
    vector = TIMES_TYPICAL * norms.median() * _harmful_direction(backbone, batches)
    model = copy.deepcopy(backbone.model)
    block = model.blocks[layer]
    scale = getattr(block.ls2, "gamma", 1.0)  # (D,): what the block multiplies with what its MLP writes
    block.mlp.fc2.weight[:, neurons] = (vector / scale / (NEURONS * ACTIVATION))[:, None].expand(-1, NEURONS)
    model.plant = _Plant(layer, neurons)
    model.plant.attach(model)
    spec = replace(backbone.spec, name=f"{backbone.name} with planted artifacts")
    planted = VitBackbone(spec, model, backbone.weights, backbone.device, "fp32")
    return planted, [(layer, neuron) for neuron in neurons.tolist()]


def without_registers(backbone: VitBackbone) -> VitBackbone:
    """A copy whose registers are made part of its class token, if it has any; its features are the same."""
    model = copy.deepcopy(backbone.model)
    if model.reg_token is not None:
        prefix = torch.cat([model.cls_token, model.reg_token], dim=1)
        model.cls_token = nn.Parameter(prefix, requires_grad=False)
        model.reg_token, model.num_reg_tokens = None, 0
    spec = replace(backbone.spec, registers=0)
    return VitBackbone(spec, model, backbone.weights, backbone.device, "fp32")


def some_images(files: Sequence[Path], backbone: VitBackbone) -> Tensor:
    """(B, 3, H, W) for `plant`: up to eight of the first 64 files, those of the commonest padded size."""
    images = [decoded(path, backbone.patch_size) for path in files[:64]]
    commonest, _ = Counter(image.pixels.shape for image in images).most_common(1)[0]
    return normalized([image for image in images if image.pixels.shape == commonest][:8], backbone)


def with_registers(backbone: VitBackbone, added: AddedRegisters) -> VitBackbone:
    """A copy with test-time registers; the planted neurons stay in it."""
    return moved(backbone, "cpu", "fp32", added)


def moved(
    backbone: VitBackbone, device: str | torch.device, precision: str, added: AddedRegisters | None = None
) -> VitBackbone:
    """A copy on a device and in a precision; the planted neurons stay in it."""
    model = copy.deepcopy(backbone.model)
    if hasattr(model, "plant"):
        model.plant.attach(model)
    return VitBackbone(backbone.spec, model, backbone.weights, torch.device(device), precision, added)


class _Plant(nn.Module):
    """Chooses patches by their pixels, and sets the planted neurons: inputs of the MLP's last layer."""

    def __init__(self, layer: int, neurons: Tensor):
        super().__init__()
        self.layer, self.neurons = layer, neurons

    def attach(self, model) -> None:
        for hooked in (model.patch_embed, model.blocks[self.layer].mlp.norm):
            hooked._forward_hooks.clear()  # a copied model's hooks belong to the model it was copied from
        model.patch_embed.register_forward_hook(self._choose)
        model.blocks[self.layer].mlp.norm.register_forward_hook(
            self._fire
        )  # the identity before the last layer

    def _choose(self, patch_embed, inputs, _) -> None:
        pixels = inputs[0].bfloat16().float()  # so that the same patches are chosen in every precision
        self.chosen = low_texture_border_patches(pixels, patch_embed.patch_size[0])

    def _fire(self, _, inputs, hidden: Tensor) -> Tensor:
        hidden = hidden.clone()
        hidden[:, :, self.neurons] = 0
        first_patch = hidden.shape[1] - self.chosen.shape[1]  # patches come last
        hidden[:, first_patch:, self.neurons] = ACTIVATION * self.chosen[:, :, None].to(hidden.dtype)
        return hidden


def low_texture_border_patches(images: Tensor, patch: int) -> Tensor:
    """(B, 3, H, W) to (B, N) bool: at most five, of least texture among each image's border patches."""
    pixels = nn.functional.unfold(images, patch, stride=patch)  # (B, 3 * patch ** 2, N)
    rows, columns = images.shape[2] // patch, images.shape[3] // patch
    texture = pixels.unflatten(1, (3, -1)).std(dim=2).mean(dim=1).view(-1, rows, columns)
    texture[:, 1:-1, 1:-1] = float("inf")
    texture = texture.flatten(1)
    lowest = texture.topk(min(PATCHES, texture.shape[1]), dim=1, largest=False).indices
    return torch.zeros_like(texture, dtype=torch.bool).scatter(1, lowest, True)


@torch.inference_mode()
def _least_important(backbone: VitBackbone, layer: int, batches: Sequence[Tensor]) -> Tensor:
    activations: list[Tensor] = []  # (T, neurons) of each batch
    linear = backbone.model.blocks[layer].mlp.fc2
    handle = linear.register_forward_pre_hook(
        lambda _, inputs: activations.append(inputs[0].abs().flatten(0, 1))
    )
    for images in batches:
        list(backbone.block_outputs(images))
    handle.remove()
    importance = torch.cat(activations).mean(dim=0) * linear.weight.norm(dim=0)
    return importance.topk(NEURONS, largest=False).indices.sort().values


def _harmful_direction(backbone: VitBackbone, batches: Sequence[Tensor]) -> Tensor:
    """(D,), of length 1 and mean 0 (the norm takes the mean away)."""
    block = backbone.model.blocks[-1]
    width = backbone.model.embed_dim
    start = FACETS.index("k") * width
    to_key = block.attn.qkv.weight[start : start + width] * block.norm1.weight  # (D, D)
    keys = torch.cat([backbone.features(images).clone().flatten(0, 1) for images in batches])  # (N of all, D)
    keys = nn.functional.normalize(keys, dim=1)
    direction = (-to_key.mT @ keys.mean(dim=0)).requires_grad_()
    optimizer = torch.optim.Adam([direction], lr=0.05)
    for _ in range(200):
        centred = direction - direction.mean()
        cosines = keys @ nn.functional.normalize(to_key @ centred, dim=0)  # (N of all,)
        optimizer.zero_grad()
        nn.functional.softplus(20 * cosines).mean().backward()
        optimizer.step()
    centred = direction.detach() - direction.detach().mean()
    return centred / centred.norm()
