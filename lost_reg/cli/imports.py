"""Importing torch and timm for a command that runs a model; the other commands do without them."""

from __future__ import annotations

import gc
import sys


def import_models() -> None:
    """Import torch and timm while the garbage collector is off.

    They create half a million objects that stay until the program ends. The collector would go through them
    again and again, for a second and a half: while they are imported, and when the program ends. So it also
    ignores them from then on.
    """
    if "torch" in sys.modules or not gc.isenabled():
        return
    gc.disable()
    try:
        import lost_reg.backbones.loading  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()
