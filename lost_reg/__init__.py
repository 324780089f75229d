"""Object discovery in images without labels: LOST on DINO, DINOv2 and DINOv2 with registers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lost_reg.version import __version__ as __version__

if TYPE_CHECKING:  # `X as X` tells type checkers that X is public
    from lost_reg.backbones.loading import Preprocessing as Preprocessing
    from lost_reg.backbones.loading import load_backbone as load_backbone
    from lost_reg.backbones.zoo import list_backbones as list_backbones
    from lost_reg.discovery.features import FeatureConfig as FeatureConfig
    from lost_reg.discovery.lost import LostConfig as LostConfig
    from lost_reg.discovery.lost import lost as lost
    from lost_reg.discovery.methods import Setting as Setting
    from lost_reg.discovery.methods import list_methods as list_methods
    from lost_reg.errors import LostRegError as LostRegError
    from lost_reg.masks.grids import in_pixels as in_pixels
    from lost_reg.notebook.discover import discover as discover
    from lost_reg.notebook.discover import discover_stream as discover_stream
    from lost_reg.runs.options import LoaderOptions as LoaderOptions
    from lost_reg.scoring.corloc import score as score
    from lost_reg.types import Failure as Failure
    from lost_reg.types import FoundObject as FoundObject
    from lost_reg.types import ImageTruth as ImageTruth
    from lost_reg.types import Prediction as Prediction

# Imported on first use: torch alone takes seconds to import, and `lost-reg --help` does not need it.
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
    "Setting": "discovery.methods",
    "discover": "notebook.discover",
    "discover_stream": "notebook.discover",
    "in_pixels": "masks.grids",
    "list_backbones": "backbones.zoo",
    "list_methods": "discovery.methods",
    "load_backbone": "backbones.loading",
    "lost": "discovery.lost",
    "score": "scoring.corloc",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lost_reg' has no attribute {name!r}")
    return getattr(import_module(f"lost_reg.{_HOMES[name]}"), name)
