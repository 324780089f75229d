"""torch, imported when it is first used.

It takes two seconds to import. The registry of methods, from which the command line builds its options and
help, must not wait for that, so the modules of discovery import torch from here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch as torch
else:

    class _LazyTorch:
        def __getattr__(self, name: str) -> Any:
            return getattr(import_module("torch"), name)

    torch = _LazyTorch()
