"""How any method's patch features are chosen and compared: facet, layer, centring, normalisation."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from lost_reg.errors import LostRegError
from lost_reg.json_files import check_fields
from lost_reg.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

FACETS = ("q", "k", "v")  # the order of their rows in a qkv layer
NATIVE = "native"  # the word for images that are not scaled
Part = tuple[str, int]  # a facet of a layer


def option(default: Any, about: str, **facts: Any) -> Any:
    """A field of a configuration, with the metadata for its command-line option.

    Args:
        about: its help text.
        facts: "metavar"; "min", the smallest integer allowed; "off", the name of a flag's opposite;
            "choices", the words allowed; "word", the one that is allowed besides numbers; "shown_default", in
            words; "sweep", the values a sweep tries by default, False if never swept.
    """
    return field(default=default, metadata={"help": about, **facts})


@dataclass(frozen=True)
class FeatureConfig:
    """Which features represent the patches; the defaults are LOST's and TokenCut's: keys of the last layer.

    Joined facets or layers are each L2-normalised and concatenated: a dot product is a sum of cosines.
    """

    facet: str = option("k", "Keys (k), queries (q), values (v), or several concatenated, such as qkv.")
    layer: int | tuple[int, ...] = option(
        -1,
        "Block that gives the features; negative counts from the last; -2,-1 concatenates two.",
        sweep="-4:-1",  # as Jiang et al. 2025 did
    )
    center: bool = option(False, "Subtract the image's mean patch feature first.", off="no-center")
    normalize: bool = option(False, "L2-normalise each patch's feature.", off="raw")
    max_side: int | None = option(
        None,
        "Scale images down so that the longer side is at most this; native: not at all. Boxes stay in pixels "
        "of the original.",
        metavar="PIXELS|native",
        min=1,
        word=NATIVE,
        shown_default="native resolution",
    )
    square: int | None = option(
        None,
        "Scale images to a square of this side instead, as MaskCut does.",
        metavar="PIXELS",
        min=1,
        shown_default="no",
    )

    def __post_init__(self) -> None:
        """Raises LostRegError for an invalid value."""
        check_fields(self)
        facets = list(self.facet)
        if not facets or len(set(facets)) < len(facets) or not set(facets) <= set(FACETS):
            raise LostRegError(f"unknown facet {self.facet!r}: choose k, q or v, or join them, as in qk")
        one_or_several = isinstance(self.layer, (int, tuple))  # a list cannot be hashed
        if not one_or_several or not self.layers or len(set(self.layers)) < len(self.layers):
            raise LostRegError(f"expected one layer, or several different ones, but got {self.layer!r}")
        if len(self.layers) == 1:  # so that equal features are equal records
            object.__setattr__(self, "layer", self.layers[0])
        for name, side in (("max_side", self.max_side), ("square", self.square)):
            if side is not None and side < 1:
                raise LostRegError(f"expected a `{name}` of at least 1 pixel, but got {side}")
        if self.max_side and self.square:
            raise LostRegError("images are scaled either to a `max_side` or to a `square`, not to both")

    def recorded(self) -> dict[str, Any]:
        """Its fields; without `square` where there is none, as in records from before there was one."""
        record = asdict(self)
        if self.square is None:
            del record["square"]
        return record

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers, as a tuple even if there is only one."""
        return (self.layer,) if isinstance(self.layer, int) else self.layer

    @property
    def parts(self) -> list[Part]:
        """The (facet, layer) pairs that are needed, in the order in which they are joined."""
        return [(facet, layer) for layer in self.layers for facet in self.facet]


@dataclass(frozen=True)
class PatchFeatures:
    """The features of B images with the same patch grid: the input of a method.

    values: (B, N, D), patches in row-major order, on any device; finite.
    grid_hw: rows and columns; rows * columns = N.
    extents_hw: the height and width of each image in patches. The grid covers the padded image, so these can
        be up to one patch smaller.
    parts: how many facets or layers are concatenated in the values; all have the same width.
    norms: (B, parts, N), the L2 norms of several parts, which are normalised before they are concatenated.
    attention: (B, heads, N), how much the class token attends to each patch in the deepest of the features'
        layers; only for methods that ask for it, see `Method.class_attention`.
    """

    values: Tensor
    grid_hw: tuple[int, int]
    extents_hw: Sequence[tuple[float, float]]
    parts: int = 1
    norms: Tensor | None = None
    attention: Tensor | None = None

    @property
    def class_attention(self) -> Tensor:
        """The attention, for methods that need it.

        Raises:
            LostRegError: the features came without.
        """
        if self.attention is None:
            raise LostRegError("this method needs the attention of a class token")
        return self.attention


def compose(parts: Mapping[Part, Tensor], config: FeatureConfig) -> Tensor:
    """The features that a configuration asks for.

    Args:
        parts: (B, N, D) for each of `config.parts`.

    Returns:
        (B, N, D), or (B, N, P D) for P joined parts; in the parts' own dtype if nothing had to be computed.
    """
    chosen = [_centered(parts[part]) if config.center else parts[part] for part in config.parts]
    if len(chosen) == 1:
        return _normalized(chosen[0]) if config.normalize else chosen[0]
    joined = torch.cat([_normalized(one) for one in chosen], dim=2)
    return _normalized(joined) if config.normalize else joined


def part_norms(parts: Mapping[Part, Tensor], config: FeatureConfig) -> Tensor | None:
    """The norms of the parts that `compose` joins, (B, P, N) float32; None if there is only one."""
    if len(config.parts) == 1:
        return None
    return torch.stack([parts[part].float().norm(dim=2) for part in config.parts], dim=1)


def _centered(features: Tensor) -> Tensor:
    features = features.float()
    return features - features.mean(dim=1, keepdim=True)


def _normalized(features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(features.float(), dim=2)


def finite_images(features: Tensor) -> Tensor:
    """Which images have only finite features: (B, N, D) to (B,) bool."""
    # One pass for the largest magnitude, NaN or infinite if any is; isfinite takes ten times as long.
    return torch.isfinite(features.abs().amax(dim=(1, 2)))


def without_images(features: Tensor, kept: Tensor) -> Tensor:
    """(B, N, D) features, zeroed in images that are not `kept`, (B,) bool; does not wait for the device."""
    return torch.where(kept[:, None, None], features, 0)


def describe_features(config: FeatureConfig, without: Collection[str] = ()) -> str:
    """The features in a few words, such as "k of layer -1, normalised".

    without: the fields that a method does not depend on, see `Method.unaffected_by`.
    """
    layers = f"layer{'s' * (len(config.layers) > 1)} {' and '.join(map(str, config.layers))}"
    words = [layers if "facet" in without else f"{config.facet} of {layers}"]
    words += ["centred"] * (config.center and "center" not in without)
    words += ["normalised" if config.normalize else "raw"] * ("normalize" not in without)
    words += [f"max side {config.max_side}"] * (config.max_side is not None)
    words += [f"{config.square} x {config.square}"] * (config.square is not None)
    return ", ".join(words)
