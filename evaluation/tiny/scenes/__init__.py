"""Generated scenes with exact masks: objects on backgrounds, drawn with NumPy and OpenCV. No photo is used.

A scene is composed of a background and sprites, one object each. Rendering these parts is slow and composing
them is fast. Training therefore renders a bank of parts once (`render_part`) and composes scenes from it
(`compose_from`); `make_scene` renders all parts of its scene. Each result depends on its seed alone.

`textures` paints surfaces, `backgrounds` and `objects` render the parts, `composition` makes scenes of them.
Images are float32 RGB in [0, 1], (H, W, 3), until they are finished as uint8.
"""

from .composition import Scene, compose_from, make_scene, render_part
from .objects import KINDS

__all__ = ["KINDS", "Scene", "compose_from", "make_scene", "render_part"]
