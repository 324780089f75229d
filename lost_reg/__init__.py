"""Object discovery in images without labels: LOST on DINO, DINOv2 and DINOv2 with registers."""

from importlib import import_module

# Imported on first use: torch alone takes seconds, and `lost-reg --help` needs none of it.
_HOMES = {
    "LostRegError": "errors",
    "Prediction": "types",
    "Protocol": "types",
    "discover": "runs.discover",
    "load_backbone": "backbones.vit",
}
__all__ = list(_HOMES)
__version__ = "0.1.0"


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'lost_reg' has no attribute {name!r}")
    return getattr(import_module(f"lost_reg.{_HOMES[name]}"), name)
