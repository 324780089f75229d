"""Decoded images as a backbone expects them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lost_reg.backbones.base import Backbone
from lost_reg.images.batching import DecodedImage


def normalized(batch: list[DecodedImage], backbone: Backbone) -> Tensor:
    """Images of one padded size, normalised: (B, 3, H, W) float32 on the backbone's device, padding zero."""
    # On CUDA from pinned memory, which is copied while the host goes on.
    pixels = torch.empty(
        (len(batch), *batch[0].pixels.shape), dtype=torch.uint8, pin_memory=backbone.device.type == "cuda"
    )
    np.stack([image.pixels for image in batch], out=pixels.numpy())
    pixels = pixels.to(backbone.device, non_blocking=True)
    images = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    # By numbers of the host: a tensor made from them would wait for the device.
    for channel, (mean, std) in enumerate(zip(backbone.mean, backbone.std)):
        images[:, channel].sub_(255 * mean).div_(255 * std)
    for image, (height, width) in zip(images, (one.size_hw for one in batch)):
        image[:, height:] = 0
        image[:, :, width:] = 0
    return images
