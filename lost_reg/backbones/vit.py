"""Patch features of vision transformers: the output of one block's qkv layer, one facet of it."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import timm
import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from timm.models import eva, vision_transformer
from timm.models.eva import Eva, EvaAttention, EvaBlock
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from lost_reg.backbones.registers import AddedRegisters, add_registers
from lost_reg.backbones.weights import Weights, find_weights, first_sentence, read_state_dict
from lost_reg.backbones.zoo import TIMM_PREFIX, BackboneSpec, find_spec
from lost_reg.errors import LostRegError

FACETS = ("q", "k", "v")  # the order of their rows in the qkv layer
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Parts of a ViT that LOST never needs: they come after the last qkv layer, or only training has them.
_BEYOND_FEATURES = ("norm.", "fc_norm.", "head", "attn_pool.", "mask_token")


class Backbone(Protocol):
    """What discovery needs of a backbone.

    mean and std are for images in [0, 1]; `prepare` puts float32 images on its device.
    """

    name: str
    patch_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights: Weights
    device: torch.device
    precision: str
    registers: AddedRegisters | None

    def features(self, images: Tensor, facet: str = "k", layer: int = -1) -> Tensor:
        """(B, 3, H, W) normalised images, H and W multiples of the patch size, to (B, N, D)."""
        ...


class VitBackbone:
    """A ViT of timm, with learned positions or rotary ones, that gives one facet of one block's qkv layer.

    Attributes:
        name, patch_size, mean, std: see `Backbone`.
        spec: its row in the table; weights: which weights it has.
        model: timm's model, in evaluation mode.
        depth: how many blocks it has.
        device, precision: where and in which type it runs.
        registers: its test-time registers, or None.
        prefix_tokens: how many tokens stand before the patches, test-time registers included.

    Raises:
        LostRegError: test-time registers that the model cannot take.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        model: VisionTransformer | Eva,
        weights: Weights,
        device: torch.device,
        precision: str,
        registers: AddedRegisters | None = None,
    ):
        self.spec, self.name, self.weights = spec, spec.name, weights
        self.device, self.precision = device, precision
        self.model = model.eval().requires_grad_(False).to(device, PRECISIONS[precision])
        self.patch_size = model.patch_embed.patch_size[0]
        self.mean = tuple(model.pretrained_cfg["mean"])
        self.std = tuple(model.pretrained_cfg["std"])
        self.depth = len(model.blocks)
        self.registers = registers
        self.prefix_tokens = model.num_prefix_tokens + (registers.count if registers else 0)
        if registers:
            add_registers(self.model, registers, self.name)

    @torch.inference_mode()
    def features(self, images: Tensor, facet: str = "k", layer: int = -1) -> Tensor:
        """One facet of the output of a block's qkv layer, all heads concatenated, for the patches alone.

        Queries and keys are those before any rotary position is applied to them: such a position differs
        from patch to patch, and LOST compares patches wherever they are. Only the blocks before that one are
        run, and only the rows of that facet are computed.

        Args:
            images: (B, 3, H, W), normalised, H and W multiples of the patch size.
            facet: "q", "k" or "v".
            layer: index of the block; negative counts from the last.

        Returns:
            (B, N, D) in the backbone's precision, patches in row-major order, without the class
            token and the registers, trained or added.

        Raises:
            LostRegError: a facet or layer that the model does not have.
        """
        return self.facets(images, [(facet, layer)])[0]

    @torch.inference_mode()
    def facets(self, images: Tensor, wanted: Sequence[tuple[str, int]]) -> list[Tensor]:
        """Several facets of several layers, of one forward pass: see `features`.

        Args:
            wanted: (facet, layer) of each.
        """
        for facet, _ in wanted:
            if facet not in FACETS:
                raise LostRegError(f"unknown facet {facet!r}: choose among {', '.join(FACETS)}")
        layers = [self.block_index(layer) for _, layer in wanted]
        found: dict[tuple[str, int], Tensor] = {}
        for index, tokens in zip(range(max(layers) + 1), self._tokens_between_blocks(images)):
            for facet, layer in wanted:
                if self.block_index(layer) == index:
                    found[facet, layer] = self.facet_of(tokens[:, self.prefix_tokens :], facet, layer)
        return [found[one] for one in wanted]

    @torch.inference_mode()
    def patch_tokens(self, images: Tensor, layer: int = -1) -> Tensor:
        """The patch tokens that enter a block, before its LayerNorm: images as for `features`, to (B, N, D).

        Raises:
            LostRegError: a layer that the model does not have.
        """
        entering = self._tokens_between_blocks(images)
        return next(itertools.islice(entering, self.block_index(layer), None))[:, self.prefix_tokens :]

    @torch.inference_mode()
    def facet_of(self, patch_tokens: Tensor, facet: str, layer: int = -1) -> Tensor:
        """One facet of a block's qkv layer for the (B, N, D) patch tokens that enter it: (B, N, D)."""
        block = self.model.blocks[self.block_index(layer)]
        return _facet_of(block.attn, block.norm1(patch_tokens), facet)

    @torch.inference_mode()
    def patch_embeddings(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to (B, N, D): the patches right after the patch embedding,
        before they get a position."""
        return self._patch_embeddings(images).flatten(1, 2)

    @torch.inference_mode()
    def block_outputs(self, images: Tensor) -> Iterator[Tensor]:
        """The patches after each block, the first block's first: (B, N, D) each, before any final norm.

        A block runs when its output is asked for; what is not asked for does not run.

        Args:
            images: (B, 3, H, W), as `features` takes them.
        """
        for tokens in itertools.islice(self._tokens_between_blocks(images), 1, None):
            yield tokens[:, self.prefix_tokens :]

    def _tokens_between_blocks(self, images: Tensor) -> Iterator[Tensor]:
        """All tokens that enter each block, and those that leave the last; run as they are asked for."""
        patches = self._patch_embeddings(images)
        rotation = self._rotation(patches.shape[1:3])
        tokens = self._embed(patches)
        yield tokens
        for block in self.model.blocks:
            tokens = block(tokens, **rotation)
            yield tokens

    def _rotation(self, grid_hw: tuple[int, int]) -> dict[str, Tensor]:
        """What blocks with rotary positions are given beside the tokens: sines and cosines of each patch."""
        rope = getattr(self.model, "rope", None)
        return {} if rope is None else {"rope": rope.get_embed(shape=grid_hw)}  # (N, 2 D / heads)

    def block_index(self, layer: int) -> int:
        """The index of a block, 0 to depth - 1, for a layer that may count from the last.

        Raises:
            LostRegError: a layer that the model does not have.
        """
        if not -self.depth <= layer < self.depth:
            raise LostRegError(
                f"{self.name} has no layer {layer}: expected {-self.depth} (first) to -1 (last)"
            )
        return layer % self.depth

    def _patch_embeddings(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, rows, columns, D)."""
        with _float32_convolutions():
            return self.model.patch_embed(images.to(self.device, PRECISIONS[self.precision]))

    def _embed(self, patches: Tensor) -> Tensor:
        """The tokens that enter the first block, (B, 1 + registers + N, D), of (B, rows, columns, D)."""
        model = self.model
        batch, rows, columns, _ = patches.shape
        patches = patches.flatten(1, 2)  # (B, N, D)
        prefix = [t.expand(batch, -1, -1) for t in (model.cls_token, model.reg_token) if t is not None]
        if model.pos_embed is not None:
            # With no_embed_class only patches have a position, else the prefix has one too.
            split = 0 if model.no_embed_class else model.num_prefix_tokens
            of_prefix, of_patches = model.pos_embed[:, :split], model.pos_embed[:, split:]
            patches = patches + resample_position(of_patches, (rows, columns), self.spec.position_offset)
            if split:
                prefix = [torch.cat(prefix, dim=1) + of_prefix]
        if self.registers:  # tokens of zeros without a position
            prefix.append(patches.new_zeros(batch, self.registers.count, patches.shape[2]))
        return model.norm_pre(torch.cat([*prefix, patches], dim=1))


class CallableBackbone:
    """Any function that turns images into patch features, as a backbone.

    The function gets normalised float32 images, (B, 3, H, W) with H and W multiples of the patch
    size, on `device`, and returns (B, N, D) features, patches in row-major order.
    """

    precision = "fp32"
    registers = None

    def __init__(
        self, function: Callable[[Tensor], Tensor], patch_size: int, mean, std, device: torch.device
    ):
        self.function, self.patch_size, self.mean, self.std, self.device = (
            function,
            patch_size,
            mean,
            std,
            device,
        )
        self.name = getattr(function, "__name__", type(function).__name__)
        self.weights = Weights(source="callable", name=self.name)

    @torch.inference_mode()
    def features(self, images: Tensor, facet: str = "k", layer: int = -1) -> Tensor:
        """The function's features, (B, N, D).

        Raises:
            LostRegError: features of another shape, or a facet or layer asked for: the function
                decides on those itself.
        """
        if (facet, layer) != ("k", -1):
            raise LostRegError(f"facet and layer cannot be chosen for {self.name}: it is a function of yours")
        features = self.function(images.to(self.device))
        batch, _, height, width = images.shape
        patches = (height // self.patch_size) * (width // self.patch_size)
        if features.ndim != 3 or features.shape[:2] != (batch, patches):
            raise LostRegError(
                f"expected {self.name} to give features of shape ({batch}, {patches}, D) for images of "
                f"{height} x {width} pixels, but got {tuple(features.shape)}"
            )
        return features


def load_backbone(
    backbone: str | Callable[[Tensor], Tensor],
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    precision: str = "fp32",
    download: bool = False,
    patch_size: int | None = None,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    registers: AddedRegisters | None = None,
) -> Backbone:
    """Load a backbone by name, or take a function of the user's as one.

    Args:
        backbone: a name or alias of the table (`lost-reg backbones`), `timm:NAME` for any
            VisionTransformer or Eva of timm, or a function (see `CallableBackbone`).
        weights: a weight file, "random", or None for the published weights.
        device: "auto" (CUDA if there is any), or a torch device.
        precision: "fp32", "bf16" or "fp16".
        download: whether weights that are not on this machine are fetched.
        patch_size, mean, std: of a function; a named backbone has its own.
        registers: test-time registers, for a model that was trained without any.

    Raises:
        LostRegError: an unknown name, device or precision; weights that are missing or do not fit;
            test-time registers that the model cannot take.

    Example:
        >>> backbone = load_backbone("tiny")
        >>> backbone.features(torch.zeros(1, 3, 32, 48)).shape
        torch.Size([1, 6, 192])
    """
    torch_device = _device(device)
    if precision not in PRECISIONS:
        raise LostRegError(f"unknown precision {precision!r}: choose among {', '.join(PRECISIONS)}")
    if not isinstance(backbone, str):
        if registers:
            raise LostRegError("test-time registers need the blocks of a ViT: a function of yours has none")
        if patch_size is None:
            raise LostRegError(
                "a function as backbone needs its patch size: load_backbone(function, patch_size=16)"
            )
        return CallableBackbone(backbone, patch_size, mean, std, torch_device)
    spec = resolve_spec(backbone)
    if registers:
        registers.check_backbone(spec.name, spec.registers)  # before any weights are looked for
    found = find_weights(spec, weights, download=download)
    if found.path is None:
        model = _random_model(spec)
    else:
        with torch.device("meta"):  # no time is spent on initialising what the file will fill
            model = _create(spec)
        _fill(model, found.path, spec)
    return VitBackbone(spec, model, found, torch_device, precision, registers)


def resample_position(position: Tensor, grid_hw: tuple[int, int], offset: float | None) -> Tensor:
    """Resample the position embedding of a square native grid to another grid, as the model was trained.

    Args:
        position: (1, N0, D), N0 a square number.
        grid_hw: the grid wanted (rows, columns).
        offset: see `BackboneSpec.position_offset`.

    Returns:
        (1, rows * columns, D), in the dtype of `position`.
    """
    native = math.isqrt(position.shape[1])
    if (native, native) == grid_hw:
        return position
    image = position.float().unflatten(1, (native, native)).permute(0, 3, 1, 2)  # (1, D, native, native)
    if offset is None:
        resampled = F.interpolate(image, size=grid_hw, mode="bicubic", antialias=True)
    else:
        # The scale factor itself is handed over: interpolate computes its coordinates from it, and
        # the offset moves them. Its floor is the size wanted.
        scale = tuple((side + offset) / native for side in grid_hw)
        resampled = F.interpolate(image, scale_factor=scale, mode="bicubic")
    return resampled.flatten(2).mT.to(position.dtype)


@contextlib.contextmanager
def _float32_convolutions():
    """cuDNN's convolutions round float32 to TF32 by default; float32 is to mean float32 here."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def facet_layer(attention: nn.Module, facet: str) -> tuple[Tensor, Tensor | None]:
    """The part of an attention's qkv layer that gives one facet: weight (D, D), and bias (D,) or None.

    timm fuses q, k and v into one layer or has a layer for each; Eva's fused layer keeps its bias apart.
    """
    if attention.qkv is None:
        layer = getattr(attention, f"{facet}_proj")
        return layer.weight, layer.bias
    width = attention.qkv.out_features // 3
    rows = slice(FACETS.index(facet) * width, (FACETS.index(facet) + 1) * width)
    if isinstance(attention, EvaAttention):
        bias = getattr(attention, f"{facet}_bias")
    else:
        bias = None if attention.qkv.bias is None else attention.qkv.bias[rows]
    return attention.qkv.weight[rows], bias


def _facet_of(attention: nn.Module, tokens: Tensor, facet: str) -> Tensor:
    return F.linear(tokens, *facet_layer(attention, facet))


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).tolist()
    except (RuntimeError, AssertionError, ImportError) as error:
        raise LostRegError(
            f"device {name!r} cannot be used ({first_sentence(error)}): try --device cpu"
        ) from None
    return device


def resolve_spec(name: str) -> BackboneSpec:
    """The row of a backbone, that of `timm:NAME` completed by what timm knows of it.

    Raises:
        LostRegError: a name that neither the table nor timm knows.
    """
    spec = find_spec(name)
    if not spec.name.startswith(TIMM_PREFIX):
        return spec
    unknown = LostRegError(
        f"timm has no model {spec.architecture!r}: timm.list_models('vit*') lists those it has"
    )
    if not timm.is_model(spec.architecture):
        raise unknown
    try:
        config = timm.get_pretrained_cfg(spec.architecture)
    except RuntimeError:  # the tag after the dot
        raise unknown from None
    spec = BackboneSpec(spec.name, spec.family, spec.architecture, 0, hub_id=config and config.hf_hub_id)
    with torch.device("meta"):
        _create(spec)  # refuses another family before any weights are looked for
    return spec


def _create(spec: BackboneSpec) -> VisionTransformer | Eva:
    refusal = LostRegError(
        f"{spec.architecture} is not of timm's VisionTransformer or Eva family with plain blocks: not "
        "supported"
    )
    try:
        model = timm.create_model(
            spec.architecture,
            pretrained=False,
            num_classes=0,
            global_pool="",
            dynamic_img_size=True,
            **spec.model_args,
        )
    except (TypeError, AssertionError):  # another family does not know these options
        raise refusal from None
    if not (_is_plain_vit(model) or _is_plain_eva(model)) or not isinstance(model.patch_embed, PatchEmbed):
        raise refusal
    model.norm = nn.Identity()  # comes after the last block
    return model


def _is_plain_vit(model: nn.Module) -> bool:
    return isinstance(model, VisionTransformer) and all(
        isinstance(block, Block) and isinstance(getattr(block.attn, "qkv", None), nn.Linear)
        for block in model.blocks
    )


def _is_plain_eva(model: nn.Module) -> bool:
    """Whether it is one of Eva's, such as DINOv3, with a norm before each attention and one rotation for all
    blocks."""
    return (
        isinstance(model, Eva)
        and not model.rope_mixed
        and all(isinstance(b, EvaBlock) and isinstance(b.attn, EvaAttention) for b in model.blocks)
    )


def _random_model(spec: BackboneSpec) -> VisionTransformer | Eva:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # the same weights in every run
        return _create(spec)


def _fill(model: VisionTransformer | Eva, path: Path, spec: BackboneSpec) -> None:
    """Load a weight file into a model; refuse a file that does not fit, naming the keys that differ."""
    state = read_state_dict(path)
    wanted = model.state_dict()
    misfits = _misfits_of_another_model(state, wanted, model)
    if not misfits:
        try:
            state = _with_timms_names(state, model)
        except Exception as error:  # a file of another model can break timm's converter anywhere
            misfits = [f"timm cannot convert it ({first_sentence(error)})"]
    state = {key: tensor for key, tensor in state.items() if not key.startswith(_BEYOND_FEATURES)}
    misfits += [f"{key} is missing" for key in wanted if key not in state]
    misfits += [f"{key} is not part of the model" for key in state if key not in wanted]
    misfits += [
        f"{key} is {tuple(state[key].shape)} and should be {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in state and state[key].shape != tensor.shape
    ]
    if misfits:
        misfits = list(dict.fromkeys(misfits))
        more = f" and {len(misfits) - 4} more" if len(misfits) > 4 else ""
        raise LostRegError(f"{str(path)!r} does not fit {spec.name}: {'; '.join(misfits[:4])}{more}")
    model.load_state_dict({key: tensor.float() for key, tensor in state.items()}, assign=True)
    _make_buffers(model)


def _with_timms_names(state: dict[str, Tensor], model: VisionTransformer | Eva) -> dict[str, Tensor]:
    """Weights under the names of their authors, or of timm, to those of timm."""
    if isinstance(model, VisionTransformer):
        return vision_transformer.checkpoint_filter_fn(state, model, adapt_layer_scale=True)
    if "storage_tokens" in state and model.blocks[0].attn.q_bias is None:
        # DINOv3's authors carry biases of which keys have none and the others are zero; timm's models leave
        # them out. What is not zero stays, and is refused under its name.
        kept = {key: bias for key, bias in state.items() if key.endswith("attn.qkv.bias")}
        state = {key: tensor for key, tensor in state.items() if key not in kept}
        kept = {key: bias for key, bias in kept.items() if any(map(torch.any, bias.chunk(3)[::2]))}
        return eva.checkpoint_filter_fn(state, model) | kept
    return eva.checkpoint_filter_fn(state, model)


def _make_buffers(model: VisionTransformer | Eva) -> None:
    """Compute what no file holds, for a model made without memory: the frequencies of rotary positions."""
    for module in model.modules():
        if hasattr(module, "init_non_persistent_buffers"):
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, torch.empty_like(buffer, device="cpu"))
            module.init_non_persistent_buffers()


def _misfits_of_another_model(
    state: dict[str, Tensor], wanted: dict[str, Tensor], model: VisionTransformer | Eva
) -> list[str]:
    """What timm's converter would hide, by resampling to the model's size, or break on."""
    misfits = []
    if "register_tokens" in state and "reg_token" not in wanted:
        misfits.append("register_tokens is not part of the model")
    if "reg_token" in wanted and not {"reg_token", "register_tokens", "storage_tokens"} & state.keys():
        misfits.append("reg_token is missing")
    projection, position = state.get("patch_embed.proj.weight"), state.get("pos_embed")
    expected = wanted["patch_embed.proj.weight"]
    if projection is not None and projection.ndim == 4 and projection.shape != expected.shape:
        misfits.append(
            f"patch_embed.proj.weight is {tuple(projection.shape)} and should be {tuple(expected.shape)}"
        )
    if position is not None and "pos_embed" in wanted:
        native = model.patch_embed.num_patches
        if position.ndim != 3 or not native <= position.shape[1] <= native + model.num_prefix_tokens:
            misfits.append(f"pos_embed is {tuple(position.shape)} and should hold {native} patches")
    return misfits
