"""torch, numpy and OpenCV, imported when they are first used.

torch takes more than a second to import, the others a fifth. The registry of methods, from which the command
line builds its options and help, must not wait for that, so the modules of discovery import them from here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import cv2 as cv2
    import numpy as np
    import torch as torch
else:

    class _Lazy:
        def __init__(self, module: str):
            self._module = module

        def __getattr__(self, name: str) -> Any:
            return getattr(import_module(self._module), name)

    cv2, np, torch = _Lazy("cv2"), _Lazy("numpy"), _Lazy("torch")
