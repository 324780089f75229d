"""A head: one convolution that says which patches are object; `lost-reg train head` makes one.

As in Siméoni et al., "Unsupervised Object Localization: Observing the Background to Discover Objects" (FOUND,
CVPR 2023), whose head is one 1 x 1 convolution; an object is a connected component of what it says.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from lost_reg.discovery.components import component_labels
from lost_reg.discovery.device import to_host
from lost_reg.discovery.features import FeatureConfig, PatchFeatures, option
from lost_reg.discovery.maps import Maps, maps_of
from lost_reg.discovery.method import MAX_OBJECTS_HELP, Deferred, Method, PatchObject, Preset
from lost_reg.errors import LostRegError
from lost_reg.json_files import check_fields
from lost_reg.lazy import np, torch
from lost_reg.masks.grids import box_of

if TYPE_CHECKING:
    from torch import Tensor

KERNELS = (1, 3)


@dataclass(frozen=True)
class Head:
    """A convolution of one channel, and what it was trained on.

    backbone: the name of the one whose features it takes. weights_name, weights_sha256: of its weights.
    features: which features it takes, and the size of the images that it was trained on.
    weight: of kernel x kernel x D numbers, row by row, each place's D together; bias: added to their sum.
    trained_on: how it came about, as recorded in results: see `training.head.train_head`.
    """

    backbone: str
    weights_name: str
    weights_sha256: str | None
    features: FeatureConfig
    kernel: int
    weight: tuple[float, ...]
    bias: float
    trained_on: dict[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Raises LostRegError for numbers that are not those of a head."""
        check_fields(self)
        if self.kernel not in KERNELS:
            raise LostRegError(
                f"expected a `kernel` of {' or '.join(map(str, KERNELS))}, but got {self.kernel}"
            )
        if not self.weight or len(self.weight) % self.kernel**2:
            raise LostRegError(
                f"{len(self.weight)} weights are not those of a {self.kernel} x {self.kernel} convolution"
            )
        if not all(map(math.isfinite, (*self.weight, self.bias))):
            raise LostRegError("the weights of a head must be finite")

    @property
    def width(self) -> int:
        """The dimension D of the features."""
        return len(self.weight) // self.kernel**2

    @property
    def digest(self) -> str:
        """What identifies it: 16 hexadecimal digits."""
        numbers = np.array([*self.weight, self.bias], dtype="<f4").tobytes()
        what = f"{self.backbone} {self.kernel} {asdict(self.features)}".encode()
        return hashlib.sha256(what + numbers).hexdigest()[:16]

    def recorded(self) -> dict[str, Any]:
        """As recorded in results: without its numbers, which the digest stands for."""
        return {
            "digest": self.digest,
            "backbone": self.backbone,
            "weights": {"name": self.weights_name, "sha256": self.weights_sha256},
            "kernel": self.kernel,
            "trained_on": self.trained_on,
        }

    def logits(self, values: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """How much each patch is object: (B, N, D) features to (B, rows, columns) float32, above 0 if it is.

        Raises:
            LostRegError: features of another dimension.
        """
        if values.shape[2] != self.width:
            raise LostRegError(
                f"this head takes features of dimension {self.width}, but these have {values.shape[2]}"
            )
        weight = torch.tensor(self.weight, device=values.device).reshape(self.kernel, self.kernel, -1)
        return convolved(values, grid_hw, weight) + self.bias


def convolved(values: Tensor, grid_hw: tuple[int, int], weight: Tensor) -> Tensor:
    """(B, N, D) features on a grid, with a (kernel, kernel, D) weight, zeros beyond: (B, rows, columns)."""
    if weight.shape[0] == 1:
        return (values.float() @ weight[0, 0]).reshape(-1, *grid_hw)
    on_grid = values.float().transpose(1, 2).reshape(len(values), -1, *grid_hw)
    return torch.nn.functional.conv2d(on_grid, weight.permute(2, 0, 1)[None], padding="same")[:, 0]


@dataclass(frozen=True)
class HeadConfig:
    """Options of the method `head`.

    head: None for the one that comes with lost-reg for the backbone, see `runs.heads.fitted`.
    """

    head: Head | None = option(
        None,
        "The folder that `lost-reg train head` wrote.",
        metavar="FOLDER",
        shown_default="the one that comes with lost-reg for the backbone",
        sweep=False,
    )
    max_objects: int = option(1, MAX_OBJECTS_HELP, metavar="N", min=0, sweep=False)

    def __post_init__(self) -> None:
        """Raises LostRegError for an invalid value."""
        check_fields(self)
        if self.max_objects < 0:
            raise LostRegError(f"expected `max_objects` of at least 0, but got {self.max_objects}")


def discover(features: PatchFeatures, config: HeadConfig) -> Deferred:
    """Start finding the objects of each image, the largest first; see `Method.discover`."""
    wait = to_host([_logits(features, config)])
    return lambda: [objects_in(one, config.max_objects) for one in wait()[0].numpy()]


def _logits(features: PatchFeatures, config: HeadConfig) -> Tensor:
    if config.head is None:
        raise LostRegError("the method head needs a head: `lost-reg train head` makes one")
    return config.head.logits(features.values, features.grid_hw)


def objects_in(logits: np.ndarray, max_objects: int) -> list[PatchObject]:
    """The 4-connected components of the patches whose logit is above 0, the largest first; 0 for all.

    Each one's seed is the patch of the largest logit, its score the mean probability of its patches.
    """
    labels = component_labels(logits > 0)
    sizes = np.bincount(labels.ravel())[1:]
    largest_first = np.argsort(-sizes, kind="stable")[: max_objects or None]
    return [_object(labels == 1 + index, logits) for index in largest_first]


def _object(component: np.ndarray, logits: np.ndarray) -> PatchObject:
    inside = np.where(component, logits, -np.inf)
    row, column = map(int, np.unravel_index(inside.argmax(), inside.shape))
    probability = 1 / (1 + np.exp(-logits[component].astype("float64")))
    score = round(float(probability.mean()), 4)
    return PatchObject(box_of(component), (row, column), score, mask=component)


def head_maps(features: PatchFeatures, config: HeadConfig) -> list[Maps]:
    """The logits of B images, and which patches are object."""
    logits = to_host([_logits(features, config)])()[0].numpy()
    return [maps_of({"logits": one}, objects_in(one, config.max_objects), one > 0) for one in logits]


HEAD = Method(
    name="head",
    title="head",
    about="head: one layer that `lost-reg train head` learned from a run, or that comes with lost-reg",
    config=HeadConfig,
    discover=discover,
    maps=head_maps,
    unaffected_by=("facet", "layer", "center", "normalize"),
    operations=lambda patches, width, config: (
        2.0 * patches * width * (config.head.kernel if config.head else 1) ** 2
    ),
    peak_bytes=lambda images, patches: 64.0 * images * patches,
    presets={
        "published": Preset("the head on the features that it was trained on", FeatureConfig(), HeadConfig())
    },
)
