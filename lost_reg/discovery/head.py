"""A head: one linear layer that says which patches are object; `lost-reg train head` makes one.

As in Siméoni et al., "Unsupervised Object Localization: Observing the Background to Discover Objects" (FOUND,
CVPR 2023), whose head is a 1 x 1 convolution; an object is a connected component of what it says.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
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

LARGEST = 1e20  # of a weight: sums of their products with features fit a float32


@dataclass(frozen=True)
class Head:
    """A linear layer with one output, and what it was trained on.

    backbone: the name of the one whose features it takes. weights_name, weights_sha256: of its weights.
    features: which features it takes, and the size of the images that it was trained on.
    weight: a number for each of the features' D dimensions; bias: added to their sum.
    trained_on: how it came about, as recorded in results: see `training.head.train_head`.
    """

    backbone: str
    weights_name: str
    weights_sha256: str | None
    features: FeatureConfig
    weight: tuple[float, ...]
    bias: float
    trained_on: dict[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Raises LostRegError for numbers that are not those of a head."""
        check_fields(self)
        if not self.weight or not all(abs(one) <= LARGEST for one in (*self.weight, self.bias)):
            raise LostRegError(f"a head needs weights, all of them numbers of at most {LARGEST:g}")

    @property
    def digest(self) -> str:
        """What identifies it: 16 hexadecimal digits."""
        numbers = np.array([*self.weight, self.bias], dtype="<f4").tobytes()
        what = f"{self.backbone} {self.weights_sha256} {self.features.recorded()}".encode()
        return hashlib.sha256(what + numbers).hexdigest()[:16]

    def recorded(self) -> dict[str, Any]:
        """As recorded in results: without its numbers, which the digest stands for."""
        return {
            "digest": self.digest,
            "backbone": self.backbone,
            "weights": {"name": self.weights_name, "sha256": self.weights_sha256},
            "trained_on": self.trained_on,
        }

    def objectness(self, values: Tensor) -> Tensor:
        """How much each patch is object: (B, N, D) features to (B, N) float32, above 0 if it is.

        Raises:
            LostRegError: features of another dimension.
        """
        if values.shape[2] != len(self.weight):
            raise LostRegError(
                f"this head takes features of dimension {len(self.weight)}, but these have "
                f"{values.shape[2]}: is its file whole? `lost-reg train head` makes another"
            )
        return values.float() @ torch.tensor(self.weight, device=values.device) + self.bias


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
    """Start finding the objects of each image; see `Method.discover`."""
    wait = to_host([_objectness(features, config)])
    return lambda: [objects_in(one, config.max_objects) for one in wait()[0].numpy()]


def _objectness(features: PatchFeatures, config: HeadConfig) -> Tensor:
    """The objectness of B images, (B, rows, columns)."""
    if config.head is None:
        raise LostRegError("the method head needs a head: `lost-reg train head` makes one")
    return config.head.objectness(features.values).reshape(-1, *features.grid_hw)


def objects_in(objectness: np.ndarray, max_objects: int) -> list[PatchObject]:
    """The 4-connected components of the patches whose objectness is above 0, by the sum of their objectness.

    Args:
        objectness: (rows, columns).
        max_objects: how many at most; 0 for all.

    Returns:
        Those of the largest sums, the largest first. Each one's seed is its patch of the largest objectness,
        its score the mean objectness of its patches.
    """
    labels = component_labels(objectness > 0)
    sums = np.bincount(labels.ravel(), weights=objectness.ravel())[1:]
    largest_first = np.argsort(-sums, kind="stable")[: max_objects or None]
    return [_object(labels == 1 + index, objectness) for index in largest_first]


def _object(component: np.ndarray, objectness: np.ndarray) -> PatchObject:
    inside = np.where(component, objectness, -np.inf)
    row, column = map(int, np.unravel_index(inside.argmax(), inside.shape))
    score = round(float(objectness[component].mean(dtype="float64")), 4)
    return PatchObject(box_of(component), (row, column), score, mask=component)


def head_maps(features: PatchFeatures, config: HeadConfig) -> list[Maps]:
    """The objectness of B images, and which patches are object."""
    objectness = to_host([_objectness(features, config)])()[0].numpy()
    return [maps_of({"objectness": one}, objects_in(one, config.max_objects), one > 0) for one in objectness]


HEAD = Method(
    name="head",
    title="head",
    about="head: one layer that `lost-reg train head` learned from a run, or that comes with lost-reg",
    config=HeadConfig,
    discover=discover,
    maps=head_maps,
    unaffected_by=("facet", "layer", "center", "normalize"),
    operations=lambda patches, width, config: 2.0 * patches * width,
    peak_bytes=lambda images, patches: 64.0 * images * patches,
    presets={
        "published": Preset("the head on the features that it was trained on", FeatureConfig(), HeadConfig())
    },
)
