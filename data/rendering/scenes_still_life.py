"""Things on a table: fruit and a cup, a teapot and a lemon."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas
from .colours import mix, smoothstep, toned
from .geometry import Array


def apple(c: Canvas, at: tuple[float, float], radius: float, skin: str, cheek: str) -> None:
    streaks = 0.1 * c.noise(7, 3, stretch=0.35)
    with c.frame(at, radius):
        c.shadow(c.ellipse(0.5, 0.82, 1.15, 0.24), 0.11, 0.7)
    with c.object("apple", at, radius):
        shape = "-0.86,0 -0.83,0.42 -0.55,0.88 -0.1,1.02 0.35,0.92 0.75,0.6 0.92,0.3 0.94,0"
        u, v = c.local()
        body = c.lathe(0, shape, mix(skin, cheek, 0.4 + 0.7 * u - 0.3 * v + streaks), 0.55, 0.4)
        c.tint(c.soften(c.ellipse(0, -0.76, 0.3, 0.1), 0.05) * body * 0.75, "3d2a10")
        c.solid(c.stroke("0,-0.74 0.03,-1 0.14,-1.2", (0.06, 0.1)), "5b3a1c", 0.04)
        c.solid(c.blob("0.1,-1.02 0.35,-1.3 0.75,-1.3 0.5,-1.04"), "5d9a35", 0.14)


def apple_and_cup() -> Canvas:
    c = Canvas(400, 400, seed=4)
    c.fill(mix("c9b79c", "efe3cc", 1.1 - np.hypot(c.x - 90, c.y - 40) / 380 + 0.02 * c.noise(4)))
    c.tint(c.polygon("30,0 150,0 260,215 130,215") * 0.22, "fff7d8")
    c.blur(3)
    rings = c.noise(26, 4, stretch=14) + 0.25 * c.noise(2.5, 2, stretch=22)
    wood = mix("7a4a24", "c98d52", 0.5 + 0.3 * np.sin(rings * 5 + c.y * 0.12) + 0.08 * rings)
    lamp = np.clip(1.15 - np.hypot(c.x - 120, (c.y - 300) * 1.2) / 620, 0, 1.2)
    c.paint(c.below(232), toned(wood, lamp))
    for y, spread in ((234, 8), (266, 1.5), (318, 1.5)):
        c.tint(c.band(y, spread) * 0.8, "3f2412")

    apple(c, (200, 222), 46, "7fae3a", "a8c552")
    c.shadow(c.ellipse(200, 322, 86, 16), 8, 0.7)
    with c.object("cup"):
        blue = mix("3f6f9f", "4f83b4", 0.5 + 0.2 * c.noise(3, 2))
        glaze = mix(blue, "f0e6d2", smoothstep(208, 212, c.y) * smoothstep(228, 224, c.y))
        c.solid(c.stroke("92,218 54,208 42,240 62,276 100,284", (13, 11, 12, 11, 13)), "3f6f9f", 6, gloss=0.4)
        c.lathe(148, "190,64 250,62 290,54 312,42 322,34 324,0", glaze, 0.5, 0.38)
        c.paint(c.ellipse(148, 190, 64, 15), "86b0d8")
        inside = c.ellipse(148, 191, 60, 12.5)
        c.paint(inside, c.gradient((178, "16304a"), (204, "35608a")))
        c.paint(c.ellipse(148, 195, 55, 9) * inside, c.gradient((186, "2a150a"), (204, "6d4022")))
    apple(c, (288, 306), 56, "b3141b", "e0542a")
    for x in (134, 156, 172):
        with c.frame((x, 182)):
            c.tint(c.soften(c.stroke("0,0 10,-32 -6,-64 8,-104", (4, 12, 16, 3)), 5) * 0.35, "ffffff")
    return c


def porcelain(longitude: Array, y: Array) -> Array:
    a, b = (longitude * 10.2 / np.pi % 1 - 0.5) * 1.6, (y - 206) / 24
    reach = np.hypot(a, b)
    petals = (reach < 0.42 + 0.16 * np.cos(6 * np.arctan2(b, a))) & (reach > 0.14)
    return mix("f4efe4", "2c4f9c", 0.9 * np.maximum(petals, 1.5 - np.abs(np.abs(y - 206) - 40)))


def teapot() -> Canvas:
    c = Canvas(450, 338, seed=13)
    paper = mix("7fa08f", "8fb09c", 0.5 + 3 * np.sin(c.x * 2 * np.pi / 36))
    c.fill(mix(paper, "2f4038", np.hypot(c.x - 120, c.y - 30) / 700))
    c.blur(2)
    depth = (c.y - 60) / 100  # the cloth in perspective
    u, v = (c.x - 225) / depth / 34 + 0.2, 9.5 / depth
    check = 0.5 * (np.sin(u * np.pi * 2) > 0) + 0.5 * (np.sin(v * np.pi * 2) > 0)
    weave = 0.95 + 0.04 * np.sin(u * 90) * np.sin(v * 90) + 0.03 * c.noise(30)
    c.paint(c.below(190), toned(mix("f4eee2", "c2312c", check), weave))
    c.tint(c.band(190, 60) * 0.35, "2a1a14")
    c.shadow(c.ellipse(236, 286, 140, 24), 9, 0.75)

    with c.object("teapot"):
        handle = c.stroke("282,150 330,118 366,140 362,196 312,238 280,244", (15, 13, 14, 13, 12))
        c.solid(handle, "efe9dc", 8, gloss=0.4)
        spout = c.stroke("140,240 104,216 84,170 58,132 44,124", (44, 38, 24, 16, 15))
        c.solid(spout, "efe9dc", 15, gloss=0.45)
        c.paint(c.ellipse(43, 122, 9, 5, 40), "5f564c")
        c.lathe(208, "276,56 288,62 291,60", "ddd6c8", 0.3)
        body = "128,40 134,60 150,82 180,101 210,106 240,99 266,78 280,56 282,52"
        c.lathe(208, body, porcelain, 0.55, 0.42)
        c.lathe(208, "104,10 108,26 118,44 128,54 133,56 135,52", "e9e3d6", 0.5, 0.42)
        c.tint(c.stroke("154,131 180,136 208,137 236,136 262,131", 2) * 0.8, "2c4f9c")
        c.ball(208, 94, 14, 13, "2c4f9c", gloss=0.6)
    c.shadow(c.ellipse(386, 318, 34, 9), 5, 0.7)
    with c.object("lemon"):
        peel = toned("f0c828", 1 + 0.05 * c.noise(2.5, 2))
        lemon = "334,300 344,290 362,278 386,277 402,288 411,300 402,312 384,321 360,319 344,309"
        c.solid(c.blob(lemon), peel, 20, gloss=0.35, ambient=0.5)
    return c


SCENES = (apple_and_cup, teapot)
