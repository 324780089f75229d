"""Single things outdoors: a lighthouse, a football, a snowman."""

from __future__ import annotations

import cv2
import numpy as np

from .canvas import Canvas
from .colours import mix, smoothstep, toned
from .geometry import Array, points, unit
from .painters import clouds, foliage, grass, specks


def lighthouse() -> Canvas:
    c = Canvas(375, 500, seed=6, light=(-0.65, -0.35, 0.65))
    c.fill(c.gradient((0, "0a1230"), (200, "1d2f5c"), (330, "4a5f8a")))
    specks(c, 170, 290, (0.3, 1.0), "ffffff", (0.4, 1))
    c.glow(78, 84, 60, "8fa8e0", 0.35)
    c.ball(78, 84, 25, 25, mix("b8b8b0", "f6f2e0", 0.65 + 0.25 * c.noise(9, 4)), ambient=0.75)
    clouds(c, thin=0.7, bottom=330, lit_side="6f82b0", dark_side="1b284e")
    c.paint(c.below(330), mix("0b1a38", "5a78a8", 0.42 + 0.2 * c.noise(5, 4, stretch=8) - (c.y - 330) / 500))
    glitter = np.clip(c.noise(3, 3, 10), 0, 1) * np.exp(-(((c.x - 78) / 28) ** 2))
    c.tint(glitter * c.below(331) * 0.7, "dfe6ff")
    for beam in ("255,150 255,158 -45,214 -45,122", "255,150 255,158 455,214 455,122"):
        c.tint(c.soften(c.polygon(beam), 3) * np.exp(-np.abs(c.x - 255) / 170) * 0.6, "fff0b8")
    stone = mix("11131c", "5a5f70", 0.35 + 0.22 * c.noise(18, 5) - 0.001 * (c.x - 200))
    c.solid(c.polygon("108,505 128,452 160,428 180,398 215,386 300,384 335,398 380,392 380,505"), stone, 40)
    with c.object("lighthouse"):
        bands = mix("efe9dc", "b5262a", 0.5 + 8 * np.sin((c.y - 176) / 43 * np.pi))
        brick = toned(bands, 1 + 0.05 * c.noise(2, 2, 3))
        c.lathe(255, "176,23 230,26.5 285,30 340,34 391,38", brick, ambient=0.22)
        for y, size in ((226, 4.5), (284, 5), (340, 5.5)):
            c.paint(c.ellipse(252, y, size, size * 1.5), "14121a")
            c.paint(c.ellipse(252.5, y + 1, size * 0.7, size * 1.1), "ffcf70")
        c.solid(c.blob("245,392 245,370 255,362 265,370 265,392"), "4a2c1c", 6)
        c.lathe(255, "168,31 177,31 178,25 182,24", "3a3d4a", ambient=0.25)
        lamp = c.gradient((138, "ffe08a"), (155, "fffbe0"), (168, "ffd060"))
        c.paint(c.rectangle(241, 138, 269, 168), lamp)
        for x in (241, 248, 255, 262, 269):
            c.paint(c.stroke([(x, 138), (x, 168)], 1.5, False), "20222c")
        for rail in ("225,158 285,158", *(f"{x},158 {x},169" for x in range(226, 285, 7))):
            c.paint(c.stroke(rail, 1.3, False), "9aa0b0")
        c.lathe(255, "116,0 122,9 131,16 139,20 140,20", "a02428", 0.2, 0.25)
        c.solid(c.stroke("255,102 255,118", (1.5, 3), False), "6a6f80", 2)
    c.glow(255, 153, 34, "ffd890", 0.7)
    shore = np.exp(-((c.y - 490 + 0.5 * (c.x - 90)) ** 2) / 300) * smoothstep(210, 130, c.x)
    c.tint(smoothstep(0.1, 1.6, c.noise(9, 5, 1.6)) * shore * 0.8, "cfdcf2")
    return c


def panels() -> Array:
    """Where the panels of a football face: an icosahedron with its corners cut.

    First the 12 pentagons, at the corners, then the 20 hexagons, at the faces.
    """
    golden = (1 + 5**0.5) / 2
    corners = [(0, a, b * golden) for a in (-1, 1) for b in (-1, 1)]
    corners = unit([p[i:] + p[:i] for p in corners for i in range(3)])
    close = corners @ corners.T > 0.4
    triples = [[i, j, k] for i in range(12) for j in range(i) for k in range(j)]
    faces = [corners[t].sum(axis=0) for t in triples if close[np.ix_(t, t)].sum() == 9]
    return np.concatenate([corners, unit(faces)])


def football() -> Canvas:
    c = Canvas(500, 375, seed=8)
    c.fill(c.gradient((0, "7db4e0"), (120, "e6f0f2")))
    for x in np.linspace(-20, 520, 11):
        size = c.rng.uniform(30, 55)
        foliage(c, x, 105 - size / 3, size, size, "27481f", "86a850", 240, 8)
    c.paint(c.below(118), mix("4a7f2a", "78ab3c", np.sin(220 / np.maximum(c.y - 95, 1)) > 0))
    c.paint(c.stroke("300,126 300,46 440,46 440,126", 5, False), "f6f6f2")
    c.blur(3.2)
    grass(c, 150, 300, 5200, 24, "2f6418", "9cc84a")
    c.shadow(c.ellipse(222, 292, 88, 18), 7, 0.8)
    spin = cv2.Rodrigues(np.array([0.5, -0.4, 0.25]))[0].astype(np.float32)
    centres = panels() @ spin
    dirt = 1 + 0.03 * c.noise(14, 4)

    def leather(normals: Array) -> Array:
        near = normals @ centres.T
        near[..., :12] -= 0.033  # pentagons are smaller than hexagons
        best = np.sort(near, axis=-1)
        black = near.argmax(axis=-1) < 12
        seam = smoothstep(0.03, 0.008, best[..., -1] - best[..., -2]) * np.where(black, 0.3, 0.8)
        return toned(mix(mix("f2f0ea", "1e1f24", black), "77746e", seam), dirt)

    with c.object("ball"):
        c.ball(185, 222, 84, 84, leather, gloss=0.22, ambient=0.45)
    c.tint(c.ellipse(185, 222, 84) * smoothstep(255, 306, c.y) * 0.3, "3f7a1c")
    grass(c, 296, 400, 3000, 40, "2f6b16", "a8d652")
    return c


def fir(c: Canvas, x: float, foot: float, size: float) -> None:
    needles = c.noise(5, 3, 0.6)
    green = mix("1f3f30", "3f6a4a", 0.5 + 0.3 * needles)
    with c.frame((x, foot), size):
        c.solid(c.stroke("0,0 0,-30", 10, False), "4a3426", 5)
        for k in range(6):
            with c.frame((0, -16 - 26 * k)):
                u, v = c.local()
                half = 58 - 9 * k
                tier = c.polygon(points("0,-48 0.5,-18 1,0 0.4,3 0,6 -0.4,3 -1,0 -0.5,-18") * (half, 1))
                snow = smoothstep(-0.2, 0.6, needles * 0.6 - (v + 14) / 22 - 0.35 * u / half)
                c.shadow(tier, 3, 0.3)
                c.solid(tier, mix(green, "f0f4fc", snow), 9)


def snowman() -> Canvas:
    c = Canvas(400, 400, seed=16)
    c.fill(c.gradient((0, "6f8fc0"), (150, "c8cfe4"), (240, "f6dccf")))
    c.paint(c.ridge(205, 16, 120), mix("a3b2d2", "e4e8f4", 0.5 + 0.3 * c.noise(24, 5)))
    for x, size in ((20, 0.5), (72, 0.4), (128, 0.46), (330, 0.5), (382, 0.56)):
        fir(c, x, 235, size)
    c.blur(1.5)
    drifts = 0.75 + 0.12 * c.noise(20, 5, 4) - (c.y - 240) / 900
    c.paint(c.ridge(240, 7, 150), mix("b8c6e4", "fbfcff", drifts))
    fir(c, 66, 322, 1.05)
    c.shadow(c.ellipse(276, 356, 108, 15), 7, 0.4)
    with c.object("snowman"):
        for twig in (
            "190,232 150,206 122,182", "140,198 132,176", "146,203 122,204",
            "286,230 330,220 358,190", "340,210 364,212", "348,203 346,180",
        ):  # fmt: skip
            c.solid(c.stroke(twig, (7, 4)), "5a3d26", 3)
        white = toned("f4f6fb", 1 + 0.035 * c.noise(2.5, 3))
        for y, radius in ((306, 68), (225, 51), (157, 38)):
            c.ball(238, y, radius, radius * 0.93, white, ambient=0.62)
            c.tint(c.ellipse(238, y, radius, radius * 0.93) * smoothstep(y, y + radius, c.y) * 0.25, "7f94c8")
        buttons = "230,212,5.5 230,236,5.5 230,262,5.5 222,148,5 248,148,5"
        for x, y, radius in points(buttons + " 214,168,2.6 222,174,2.6 232,177,2.6 242,176,2.6 251,171,2.6"):
            c.ball(x, y, radius, radius, "22222a", gloss=0.4)
        c.solid(c.polygon("234,154 236,165 188,166"), mix("e8762a", "c85a1c", (c.x % 9 < 1.5) * 0.7), 5)
        end = c.blob("262,188 280,190 284,230 280,262 260,260 264,226")
        c.solid(end, mix("c2282e", "f0e6d4", c.y % 22 < 8), 7)
        scarf = c.stroke("201,183 218,193 240,196 262,192 277,182", 17)
        c.solid(scarf, mix("c2282e", "f0e6d4", (c.x + 0.4 * c.y) % 22 < 8), 8)
        c.lathe(238, "72,30 76,31 112,28 126,29", mix("2c2c38", "b8262c", c.y > 112), 0.15)
        c.solid(c.ellipse(238, 126, 47, 9), "2c2c38", 5)
        c.paint(c.ellipse(238, 73, 30, 5), "3f3f4e")
    specks(c, 190, 400, (0.7, 2.3), "ffffff", (0.4, 0.9))
    return c


SCENES = (lighthouse, football, snowman)
