"""Object discovery in images without labels: LOST on DINO, DINOv2 and DINOv2 with registers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lost_reg.backbones.loading import Preprocessing, load_backbone
    from lost_reg.backbones.zoo import list_backbones
    from lost_reg.discovery.features import FeatureConfig
    from lost_reg.discovery.lost import LostConfig, lost
    from lost_reg.discovery.methods import list_methods
    from lost_reg.errors import LostRegError
    from lost_reg.runs.discover import discover, discover_stream
    from lost_reg.runs.options import LoaderOptions
    from lost_reg.scoring.corloc import score
    from lost_reg.types import Failure, FoundObject, ImageTruth, Prediction

# Imported on first use: torch alone takes seconds, and `lost-reg --help` needs none of it.
_HOMES = {
    "Failure": "types",
    "FeatureConfig": "discovery.features",
    "FoundObject": "types",
    "ImageTruth": "types",
    "LoaderOptions": "runs.options",
    "LostConfig": "discovery.lost",
    "LostRegError": "errors",
    "Prediction": "types",
    "Preprocessing": "backbones.loading",
    "discover": "runs.discover",
    "discover_stream": "runs.discover",
    "list_backbones": "backbones.zoo",
    "list_methods": "discovery.methods",
    "load_backbone": "backbones.loading",
    "lost": "discovery.lost",
    "score": "scoring.corloc",
}
__all__ = [
    "Failure",
    "FeatureConfig",
    "FoundObject",
    "ImageTruth",
    "LoaderOptions",
    "LostConfig",
    "LostRegError",
    "Prediction",
    "Preprocessing",
    "discover",
    "discover_stream",
    "list_backbones",
    "list_methods",
    "load_backbone",
    "lost",
    "score",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lost_reg' has no attribute {name!r}")
    return getattr(import_module(f"lost_reg.{_HOMES[name]}"), name)
