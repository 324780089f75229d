"""What a careful user would write from the papers: timm with a hook, one image at a time.

The reference for agreement.py and the "plain" of benchmark.py; and TokenCut's eigenvector, for methods.py and
costs.py. It shares no code with lost_reg but the table of backbones (mean, std, patch size and weights are
read from a loaded backbone).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import linalg, ndimage

K_PATCHES = 100


@dataclass(frozen=True)
class Plain:
    """features: (N, D) float32; affinities: (N, N) float32; box_xyxy: in pixels; seed: (row, column)."""

    features: np.ndarray
    affinities: np.ndarray
    degrees: np.ndarray
    seed: tuple[int, int]
    box_xyxy: tuple[int, int, int, int]
    grid_hw: tuple[int, int]


def discover(path: Path, backbone, facets: str = "k", center: bool = False) -> Plain:
    """LOST on one file, by default as published. EXIF orientation is not applied, as for datasets."""
    image = np.asarray(Image.open(path).convert("RGB"))
    qkv, grid_hw = last_qkv(image, backbone)
    return lost(features(qkv.float(), facets, center), grid_hw, image.shape[:2], backbone.patch_size)


def features(qkv: torch.Tensor, facets: str, center: bool) -> torch.Tensor:
    """(N, D) of one facet; of several, each of length 1 and side by side. qkv: (N, 3 D)."""
    chosen = [qkv.chunk(3, dim=-1)["qkv".index(facet)] for facet in facets]
    if center:
        chosen = [one - one.mean(dim=0) for one in chosen]
    return chosen[0] if len(chosen) == 1 else torch.cat([F.normalize(one, dim=1) for one in chosen], dim=1)


def last_qkv(image: np.ndarray, backbone) -> tuple[torch.Tensor, tuple[int, int]]:
    """(N, 3 D): the output of the last block's qkv, by a hook on it, and the patch grid."""
    model, size = backbone.model, backbone.patch_size
    height, width = image.shape[:2]
    x = torch.from_numpy(image.copy()).to(backbone.device).permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(v, device=x.device).view(3, 1, 1) for v in (backbone.mean, backbone.std))
    x = F.pad((x - mean) / std, (0, -width % size, 0, -height % size))
    grid_hw = x.shape[1] // size, x.shape[2] // size
    caught = []
    handle = model.blocks[-1].attn.qkv.register_forward_hook(lambda module, args, out: caught.append(out))
    native = model.pos_embed
    try:
        with torch.inference_mode():
            batch = x[None].to(next(model.parameters()).dtype)
            if native is None:  # rotary positions, DINOv3's, fit any grid
                model.forward_features(batch)
            else:
                of_grid = positions(native, grid_hw, backbone)
                model.pos_embed = torch.nn.Parameter(of_grid, requires_grad=False)
                forward(model, batch)
    finally:
        handle.remove()
        model.pos_embed = native
    return caught[0][0][model.num_prefix_tokens :], grid_hw


def positions(pos_embed: torch.Tensor, grid_hw: tuple[int, int], backbone) -> torch.Tensor:
    """The position embedding at this grid, by the rule of the model's family (`spec.position_offset`)."""
    model = backbone.model
    split = 0 if model.no_embed_class else model.num_prefix_tokens
    prefix, grid = pos_embed[:, :split], pos_embed[:, split:]
    native = round(grid.shape[1] ** 0.5)
    if (native, native) == grid_hw:
        return pos_embed
    grid = grid.float().reshape(1, native, native, -1).permute(0, 3, 1, 2)
    offset = backbone.spec.position_offset
    if offset is None:
        grid = F.interpolate(grid, grid_hw, mode="bicubic", antialias=True)
    else:
        factors = (grid_hw[0] + offset) / native, (grid_hw[1] + offset) / native
        grid = F.interpolate(grid, scale_factor=factors, mode="bicubic")
    return torch.cat([prefix, grid.flatten(2).transpose(1, 2).to(prefix.dtype)], 1)


def forward(model: torch.nn.Module, x: torch.Tensor) -> None:
    """The whole model, with a position embedding that is of the image's grid already."""
    x = model.patch_embed(x).flatten(1, 2)
    prefix = [t.expand(len(x), -1, -1) for t in (model.cls_token, model.reg_token) if t is not None]
    if model.pos_embed.shape[1] == x.shape[1]:
        x = torch.cat([*prefix, x + model.pos_embed], 1)
    else:
        x = torch.cat([*prefix, x], 1) + model.pos_embed
    model.norm(model.blocks(model.norm_pre(x)))


def lost(
    features: torch.Tensor,
    grid_hw: tuple[int, int],
    size_hw: tuple[int, int],
    patch: int,
    bias: float = 0.0,
    *,
    stable: bool = True,
) -> Plain:
    """Seed, expansion and the seed's component, with the whole Gram matrix at once.

    stable: patches of equal degree are in the order of their indices; else as LOST's own sort leaves them.
    """
    affinities = features @ features.T + bias
    degrees = (affinities > 0).sum(1) - (affinities.diagonal() > 0).long()
    order = torch.argsort(-degrees.float(), descending=True, stable=stable)
    seed, potentials = order[0], order[:K_PATCHES]
    similar = potentials[affinities[seed, potentials] > 0]
    mask = (affinities[similar].sum(0) > 0).reshape(grid_hw).cpu().numpy()
    labels, _ = ndimage.label(mask)
    row, column = divmod(int(seed), grid_hw[1])
    if not labels[row, column]:  # only with a bias: then it is the seed's own patch
        labels[row, column] = labels.max() + 1
    ys, xs = np.nonzero(labels == labels[row, column])
    height, width = size_hw
    box = xs.min() * patch, ys.min() * patch, (xs.max() + 1) * patch, (ys.max() + 1) * patch
    box = tuple(int(v) for v in (box[0], box[1], min(box[2], width), min(box[3], height)))
    return Plain(
        features.cpu().numpy(), affinities.cpu().numpy(), degrees.cpu().numpy(), (row, column), box, grid_hw
    )


def dense_cut(features: np.ndarray, tau: float = 0.2, eps: float = 1e-5) -> tuple[np.ndarray, float]:
    """TokenCut's eigenvector as its code computes it, from a dense float64 problem, and its eigenvalue's gap.

    Args:
        features: (N, D).

    Returns:
        (N,), and how far the third eigenvalue is from the second.
    """
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    weights = np.where(units @ units.T > tau, 1.0, eps)
    degrees = np.diag(weights.sum(axis=1))
    values, vectors = linalg.eigh(degrees - weights, degrees, subset_by_index=[1, 2])
    return vectors[:, 0], float(values[1] - values[0])
