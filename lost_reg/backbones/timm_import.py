"""What is used of timm, imported without torch._dynamo, torch's compiler, which takes a second to import.

Nothing here compiles, but torch._dynamo is imported twice on the way to timm: torchvision's roi_align takes a
function from torch._dynamo.utils, and timm's NaFlexVit decorates methods with torch.compiler.disable. While
timm is imported, stand-ins for both put that off until they are called. `timm_models.empty_model` avoids what
else would import it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

import torch

__all__ = [
    "Attention",
    "Block",
    "Eva",
    "EvaAttention",
    "EvaBlock",
    "Format",
    "PatchEmbed",
    "QuickGELU",
    "VisionTransformer",
    "apply_rot_embed_cat",
    "timm",
]

_DYNAMO, _UTILS = "torch._dynamo", "torch._dynamo.utils"


@contextmanager
def without_dynamo() -> Iterator[None]:
    """Modules that are imported here do not import torch._dynamo, if they need no more of it than the above.

    If they do, it is imported as usual. Afterwards no module is a stand-in.
    """
    if _DYNAMO in sys.modules:
        yield
        return
    finder, disable = _Finder(), torch.compiler.disable
    sys.modules[_UTILS] = _Utils(_UTILS)
    sys.meta_path.insert(0, finder)
    torch.compiler.disable = _disable_when_called
    try:
        yield
    finally:
        torch.compiler.disable = disable
        sys.meta_path.remove(finder)
        _remove_stand_in()


class _Utils(ModuleType):
    """Stands in for torch._dynamo.utils."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "is_compile_supported":
            return _is_compile_supported
        _remove_stand_in()
        return getattr(import_module(_UTILS), name)


class _Finder(MetaPathFinder):
    """Finds nothing, but removes the stand-in when torch._dynamo is imported, which needs the real module."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == _DYNAMO:
            _remove_stand_in()


def _remove_stand_in() -> None:
    if isinstance(sys.modules.get(_UTILS), _Utils):
        del sys.modules[_UTILS]


def _is_compile_supported(device_type: Any) -> Any:
    return import_module(_UTILS).is_compile_supported(device_type)


def _disable_when_called(fn: Any = None, recursive: Any = True, *, reason: Any = None) -> Any:
    """torch.compiler.disable as torch itself uses it: imports torch._dynamo when `fn` is called."""
    return torch._disable_dynamo(fn, recursive)


with without_dynamo():
    import timm
    from timm.layers import Attention, Format, PatchEmbed, QuickGELU, apply_rot_embed_cat
    from timm.models.eva import Eva, EvaAttention, EvaBlock
    from timm.models.vision_transformer import Block, VisionTransformer
