"""The detector: torchvision's Faster R-CNN on a ResNet, or on a frozen ViT with a simple feature pyramid."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.convnext import LayerNorm2d
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from lost_reg.backbones.base import Backbone
from lost_reg.backbones.checkpoint_files import read_tensors
from lost_reg.errors import LostRegError
from lost_reg.training.detector_config import VIT, DetectorConfig

_STAGES = ("conv1", "layer1", "layer2", "layer3", "layer4")
_FIRST = "layer1.0.conv1.weight"
_NORMS: dict[str, Callable[..., nn.Module]] = {
    "group": partial(nn.GroupNorm, 32),
    "batch": nn.BatchNorm2d,
    "frozen": FrozenBatchNorm2d,
}


def build_detector(
    config: DetectorConfig, classes: int, vit: Backbone | None = None, weights: Path | None = None
) -> FasterRCNN:
    """A detector at its initial weights, which depend on the seed alone.

    Args:
        classes: without the background.
        vit: the frozen backbone, for the configuration's backbone "vit".
        weights: of a ResNet, in torchvision's names, as DINO's are; what a ResNet is trained with besides
            (the classifier `fc`) is ignored.

    Raises:
        LostRegError: weights that are missing or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.backbone == VIT:
            if vit is None:
                raise LostRegError("the `backbone` vit needs the run's own backbone")
            return _faster_rcnn(
                config, classes, SimplePyramid(vit, config.channels),
                image_mean=vit.mean, image_std=vit.std, size_divisible=vit.patch_size,
            )  # fmt: skip
        body = _resnet(config, weights)
        if config.neck == "c4":
            return _c4(config, classes, body)
        kept = {f"layer{number}": str(number - 1) for number in range(1, 5)}
        widths = [body.inplanes // 8 * 2**number for number in range(4)]
        pyramid = BackboneWithFPN(body, kept, widths, config.channels, LastLevelMaxPool())
        return _faster_rcnn(config, classes, pyramid)


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not frozen."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


# --- ResNets -----------------------------------------------------------------------------------------


def _resnet(config: DetectorConfig, weights: Path | None) -> resnet.ResNet:
    body = getattr(resnet, config.backbone)(norm_layer=_NORMS[config.norm])
    if weights:
        _load_resnet(body, weights, config.backbone)
    trained = _STAGES[5 - config.trainable_stages :]
    for name, parameter in body.named_parameters():
        if not name.startswith((*trained, *(["bn1"] if "conv1" in trained else []))):
            parameter.requires_grad_(False)
    for stage in _STAGES[: 5 - config.trainable_stages]:
        name = "bn1" if stage == "conv1" else stage
        setattr(body, name, _with_frozen_norms(getattr(body, name)))
    return body


def _with_frozen_norms(module: nn.Module) -> nn.Module:
    """The same with batch norms that keep their statistics, too: those of stages that are not trained."""
    if isinstance(module, nn.BatchNorm2d):
        frozen = FrozenBatchNorm2d(module.num_features, module.eps)
        frozen.load_state_dict(module.state_dict(), strict=False)
        return frozen
    for name, child in module.named_children():
        setattr(module, name, _with_frozen_norms(child))
    return module


def _load_resnet(body: nn.Module, path: Path, name: str) -> None:
    """Load weights strictly, but for the classifier."""
    if not path.is_file():
        raise LostRegError(f"no weight file {str(path)!r}: `weights` is a file with a ResNet's weights")
    tensors = read_tensors(path)
    prefix = _prefix(tensors, path)
    found = {one.removeprefix(prefix): tensors[one] for one in tensors if one.startswith(prefix)}
    wanted = {key: value for key, value in body.state_dict().items() if not key.startswith("fc.")}
    for key, value in wanted.items():
        if key.endswith("num_batches_tracked"):
            continue
        if key not in found:
            raise LostRegError(f"{str(path)!r} does not fit {name}: it lacks {key}")
        if found[key].shape != value.shape:
            shapes = f"{tuple(found[key].shape)}, and {tuple(value.shape)} is expected"
            raise LostRegError(f"{str(path)!r} does not fit {name}: {key} has shape {shapes}")
    unknown = [key for key in found if key not in wanted and key.startswith((*_STAGES, "bn1"))]
    unknown = [key for key in unknown if not key.endswith("num_batches_tracked")]
    if any(key.endswith("running_mean") for key in unknown):
        raise LostRegError(f"{str(path)!r} has batch norms: train with `norm` frozen or batch")
    if unknown:
        raise LostRegError(f"{str(path)!r} does not fit {name}: it also holds {unknown[0]}")
    body.load_state_dict({key: found[key] for key in wanted if key in found}, strict=False)


def _prefix(tensors: Mapping[str, Tensor], path: Path) -> str:
    """What stands before the names of a ResNet's tensors; of a teacher and a student, the teacher's."""
    found = [name.removesuffix(_FIRST) for name in tensors if name.endswith(_FIRST)]
    if not found:
        raise LostRegError(
            f"{str(path)!r} holds no ResNet: expected torchvision's names, such as conv1.weight"
        )
    return min(found, key=lambda prefix: (prefix != "", "teacher" not in prefix))


class _Stages(nn.Module):
    """A ResNet up to its fourth stage: (B, 3, H, W) to (B, C, H / 16, W / 16)."""

    def __init__(self, body: resnet.ResNet):
        super().__init__()
        names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")
        self.body = nn.Sequential(OrderedDict((name, getattr(body, name)) for name in names))
        self.out_channels = body.inplanes // 2

    def forward(self, images: Tensor) -> Tensor:
        """The map, stride 16."""
        return self.body(images)


def _c4(config: DetectorConfig, classes: int, body: resnet.ResNet) -> FasterRCNN:
    """Faster R-CNN on stage four, with the fifth as head of the boxes, and a norm after it, as LOST's CAD."""
    width = body.inplanes
    norm: list[nn.Module] = [] if config.norm == "frozen" else [_NORMS[config.norm](width)]
    head = nn.Sequential(body.layer4, *norm, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    anchors = AnchorGenerator(((32, 64, 128, 256, 512),), ((0.5, 1.0, 2.0),))
    pool = MultiScaleRoIAlign(["0"], output_size=14, sampling_ratio=2)
    return _faster_rcnn(
        config, classes, _Stages(body), rpn_anchor_generator=anchors, box_roi_pool=pool, box_head=head,
        box_predictor=FastRCNNPredictor(width, classes + 1),
    )  # fmt: skip


# --- a ViT -------------------------------------------------------------------------------------------


class SimplePyramid(nn.Module):
    """ViTDet's simple feature pyramid (arXiv 2203.16527) on the last map of a frozen ViT.

    The ViT is not a submodule: it is neither trained nor saved.
    """

    def __init__(self, vit: Backbone, channels: int):
        super().__init__()
        self.vit = [vit]  # in a list, so that nn.Module does not register it
        width = self._map(torch.zeros(1, 3, vit.patch_size, vit.patch_size)).shape[1]
        half, quarter = max(1, width // 2), max(1, width // 4)
        scales = [
            nn.Sequential(
                nn.ConvTranspose2d(width, half, 2, 2), LayerNorm2d(half), nn.GELU(),
                nn.ConvTranspose2d(half, quarter, 2, 2), _to(quarter, channels),
            ),
            nn.Sequential(nn.ConvTranspose2d(width, half, 2, 2), _to(half, channels)),
            _to(width, channels),
            nn.Sequential(nn.MaxPool2d(2, 2, ceil_mode=True), _to(width, channels)),
        ]  # fmt: skip
        self.scales = nn.ModuleList(scales)
        self.out_channels = channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps of strides 1/4, 1/2, 1, 2 and 4 patches, by name."""
        last = self._map(images)
        maps = {str(number): scale(last) for number, scale in enumerate(self.scales)}
        maps["pool"] = nn.functional.max_pool2d(maps["3"], 1, 2)
        return maps

    def _map(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, D, rows, columns), float32."""
        (vit,) = self.vit
        grid_hw = images.shape[2] // vit.patch_size, images.shape[3] // vit.patch_size
        with torch.autocast(images.device.type, enabled=False):
            (tokens,) = deque(vit.block_outputs(images.float().to(vit.device)), maxlen=1)  # the last
        tokens = nn.functional.layer_norm(tokens.float().clone(), tokens.shape[-1:])  # out of inference mode
        return tokens.transpose(1, 2).unflatten(2, grid_hw)


def _to(width: int, channels: int) -> nn.Module:
    """ViTDet's last layers of each scale: 1 x 1 and 3 x 3, each with a LayerNorm."""
    return nn.Sequential(
        nn.Conv2d(width, channels, 1, bias=False), LayerNorm2d(channels),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False), LayerNorm2d(channels),
    )  # fmt: skip


# --- Faster R-CNN ------------------------------------------------------------------------------------


def _faster_rcnn(config: DetectorConfig, classes: int, backbone: Any, **parts: Any) -> FasterRCNN:
    """A Faster R-CNN; `parts` are FasterRCNN's, those of a pyramid by default."""
    if "box_predictor" not in parts:
        width = 4 * config.channels  # torchvision's 1024 for 256
        parts["box_head"] = TwoMLPHead(config.channels * 7**2, width)
        parts["box_predictor"] = FastRCNNPredictor(width, classes + 1)
    proposed, kept = config.proposals
    model = FasterRCNN(
        backbone,
        rpn_pre_nms_top_n_test=proposed, rpn_post_nms_top_n_test=kept,
        box_score_thresh=config.score_threshold, box_nms_thresh=config.nms,
        **parts,
    )  # fmt: skip
    given = model.transform
    model.transform = _Normalisation(
        given.min_size, given.max_size, given.image_mean, given.image_std, given.size_divisible
    )
    return model


class _Normalisation(GeneralizedRCNNTransform):
    """Normalises and batches images, but leaves their sizes: `detector_data` scales them, by area."""

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        """The image and its target, as they are."""
        return image, target
