"""Discovery on Ray: `lost-reg run --engine ray`, and a class for pipelines of Ray Data."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lost_reg.ray.discover import Discover as Discover
    from lost_reg.ray.engine import RayEngine as RayEngine

# Imported on first use: tasks that read shards need no torch.
_HOMES = {"Discover": "discover", "RayEngine": "engine"}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lost_reg.ray' has no attribute {name!r}")
    return getattr(import_module(f"lost_reg.ray.{_HOMES[name]}"), name)
