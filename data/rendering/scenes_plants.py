"""What grows: toadstools in a wood, sunflowers, cacti in a desert."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .canvas import Canvas
from .colours import mix, rgb
from .geometry import GOLDEN_ANGLE, across, points, smooth, turned
from .painters import clouds, foliage, grass, leaf


def toadstool(c: Canvas, at: tuple[float, float], size: float) -> None:
    with c.frame(at, size):
        c.shadow(c.ellipse(14, 0, 62, 10), 6, 0.7)
    fibre = 0.25 * c.noise(12, 4, stretch=0.15)
    red = mix("c51f16", "e8521f", 0.3 + 0.2 * c.noise(30))
    with c.object("mushroom", at, size):
        stem = "-190,19 -120,20 -50,24 -22,32 -8,28 0,0"
        c.lathe(0, stem, lambda a, y: mix("e9dfc6", "b8a27c", 0.3 + fibre + 0.3 * (y > -30)), ambient=0.4)
        gills = c.ellipse(0, -170, 96, 21)
        u, v = c.local()
        c.paint(gills, mix("e9dcb8", "a08c66", 0.55 + 0.4 * np.sin(np.arctan2(v + 176, u) * 90)))
        c.shadow(c.ellipse(0, -180, 90, 12) * gills, 3, 0.5)
        cap = c.blob(
            "-104,-172 -97,-206 -70,-248 -30,-270 14,-271 60,-254 93,-214 103,-172 60,-181 0,-184 -60,-181"
        )
        c.solid(cap, red, 70, gloss=0.45)
        for k in range(24):
            x, y = turned(k * GOLDEN_ANGLE)[:, 0] * ((k + 0.4) / 24) ** 0.5
            radius = c.rng.uniform(6, 10.5) * (1 - 0.35 * (x * x + y * y))
            c.solid(c.ellipse(92 * x, 43 * y - 226, radius, radius * 0.8) * cap, "f6efdc", 5, ambient=0.5)


def mushroom() -> Canvas:
    c = Canvas(375, 500, seed=9, light=(-0.4, -0.7, 0.6))
    c.fill(c.gradient((0, "c8d68a"), (170, "8aa85a"), (330, "2f4520")))
    bark = mix("2a2018", "6f5a44", 0.4 + 0.25 * c.noise(8, 3, stretch=0.2))
    for x, width in c.rng.uniform((0, 10), (375, 34), (11, 2)):
        c.solid(c.stroke([(x, -20), (x + width / 4, 340)], (width * 0.8, width), False), bark, width / 2)
        c.tint(np.full_like(c.x, 0.13), "cfdc98")
    for x in np.linspace(0, 375, 8):
        foliage(c, x, 320 + c.rng.uniform(-10, 10), 50, 34, "1f3214", "7f9c44", 160, 8)
    c.blur(4.5)
    c.glow(70, 60, 130, "fff2b0", 0.45)
    c.paint(c.ridge(352, 9, 90), mix("22300f", "6d7f2c", 0.4 + 0.25 * c.noise(9)))
    grass(c, 362, 430, 2400, 20, "27390f", "8fa83a")

    toadstool(c, (92, 412), 0.52)
    toadstool(c, (128, 424), 0.36)
    grass(c, 405, 430, 500, 22, "27390f", "8fa83a")
    toadstool(c, (222, 446), 1.12)
    grass(c, 436, 530, 2300, 34, "1f300c", "9ab83e")
    for x, y, turn in c.rng.uniform((0, 440, 0), (375, 500, 180), (14, 3)):
        with c.frame((x, y), 1, turn):
            c.solid(c.blob("-11,0 -2,-5 11,0 -2,5"), mix("8f4a1c", "c9882e", c.rng.random()), 4)
    return c


def flower(c: Canvas, at: tuple[float, float], size: float) -> None:
    foot = (520 - at[1]) / size
    with c.object("sunflower", at, size):
        c.solid(c.stroke([(0, 0), (8, 110), (-4, foot / 2 + 50), (0, foot)], 13), "5f8f2e", 6)
        green = mix("3f7422", "7fae3c", 0.5 + 0.2 * c.noise(12))
        for y, wide, high in ((150, -0.8, 0.8), (190, 1, 1)):
            blade = points("0,0 30,-34 80,-40 116,-12 84,12 34,16") * (wide, high) + (0, y)
            leaf(c, blade, green, 16, blade[[0, 3]], (3, 1), "c8dc90")
        u, v = c.local()
        heart = np.clip(1.35 - np.hypot(u, v) / 62, 0, 0.75)
        petal = points("-9,-38 -15,-66 -9,-90 0,-100 9,-90 15,-66 9,-38")
        for reach, first, code in ((1.08, 0.5, "e09a14"), (1, 0, "f8c626")):
            for k in range(21):
                length = reach * c.rng.uniform(0.93, 1.06)
                with c.frame((0, 0), 1, (k + first) * 360 / 21 + c.rng.normal(0, 2.5)):
                    mask = c.blob(petal * (1, length))
                    c.shadow(mask, 2.5, 0.22)
                    c.solid(mask, mix(code, "c8650e", heart), 9, ambient=0.55)
        c.solid(c.ellipse(0, 0, 50), "4a2c12", 34)
        reach = np.sqrt(np.arange(420) / 420)
        seed = points("-1.9,49 0,47.3 1.9,49 0,50.7")
        seeds = [(seed * (1, r)) @ turned(k * GOLDEN_ANGLE) for k, r in enumerate(reach)]
        tone = 0.25 + 0.5 * (np.abs(reach - 0.72) < 0.2) + c.rng.normal(0, 0.14, 420)
        c.dabs(seeds, mix("2c190a", "b8761e", tone))


def sunflower() -> Canvas:
    c = Canvas(375, 500, seed=14)
    c.fill(c.gradient((0, "3f86cf"), (260, "c4e0f0"), (330, "f0ecd0")))
    clouds(c, thin=0.5, bottom=300)
    c.paint(c.ridge(318, 8, 110), mix("5f8a5a", "8fae6a", 0.5 + 0.2 * c.noise(12)))
    star = np.stack([np.array([1, 0.75][k % 2]) * turned(k * 15)[:, 0] for k in range(24)])
    shapes = (points("-1,0 0,1 1,0 0,4 -0.4,4"), star, star * 0.45)
    field = []
    for near in np.linspace(0, 1, 9) ** 1.5:
        for x in np.linspace(-20, 395, int(60 - 44 * near)):
            at = np.array((x, 344 + 150 * near)) + c.rng.normal(0, 3, 2)
            field += [at + shape * (4 + 15 * near) for shape in shapes]
    c.dabs(field, np.stack([rgb("4a7a2c"), rgb("f2b81e"), rgb("5a3a1a")] * (len(field) // 3)))
    c.blur(3)

    flower(c, (318, 270), 0.52)
    flower(c, (165, 168), 1.28)
    return c


def saguaro(c: Canvas, at: tuple[float, float], size: float, arms: Sequence[str]) -> None:
    with c.frame(at, size):
        c.shadow(c.polygon("-13,0 13,0 -120,24 -150,20"), 3, 0.75)
    air = 1 - c.below(at[1] + size * c.noise(6, 3)[:1])  # the sand hides the foot
    with c.object("cactus", at, size):
        for shape, width in [*((arm, 25) for arm in arms), ("0,4 1,-60 -1,-130 0,-196", 40)]:
            line = smooth(shape, closed=False)
            c.solid(c.stroke(line, width, False) * air, "4f8a3c", width * 0.45, ambient=0.34)
            for k, place in enumerate(np.sin(np.linspace(-1.2, 1.2, 7))):
                rib = line + across(line) * place * width / 2
                c.tint(c.stroke(rib, 1.6, False) * air * 0.55, "1f4a22")
                thorns = np.add(rib[3 + k % 2 * 2 :: 4], (1.5, 0))
                needle = points("-2.4,-2.6 0,-0.5 2.4,-2.6 0.3,0.5 0,3 -0.3,0.5") * 0.9
                c.dabs([needle + thorn for thorn in thorns], np.stack([rgb("e6e4b4")] * len(thorns)))
            for turn in (-30, 0, 30):
                with c.frame(line[-1] - (0, width * 0.3), 1, turn):
                    c.solid(c.blob("-5,1 0,-14 5,1 0,4"), "e0508a", 4)


def cactus() -> Canvas:
    c = Canvas(500, 375, seed=15, light=(0.6, -0.5, 0.6))
    c.fill(c.gradient((0, "3a7fc0"), (140, "a8d0e4"), (235, "fbe3b8")))
    clouds(c, thin=1.0, bottom=200, lit_side="fff6e6", dark_side="d0b8b0")
    strata = 0.5 + 0.3 * np.sin(c.y * 0.55 + c.noise(60, 3, 4)) + 0.15 * c.noise(5, 3, 0.4)
    rock = mix(mix("b8684a", "e0a078", strata), "f0d8c8", 0.22)
    for mesa in (
        "-10,240 -10,176 30,168 84,170 96,196 108,206 132,240",
        "258,240 284,206 292,178 330,172 352,174 360,200 392,240",
        "420,240 440,214 450,205 510,202 510,240",
    ):
        c.solid(c.polygon(mesa), rock, 30, ambient=0.5)
    c.blur(0.8)
    dune = c.noise(6, 3, stretch=10) * 0.13 + 0.06 * c.noise(1.2, 1)
    for base, rise, far, near in (
        (232, 4, "d8a868", "e8c088"),
        (268, 9, "c89452", "ecc488"),
        (322, 7, "b87e40", "e6b878"),
    ):
        c.paint(c.ridge(base, rise, 160), mix(far, near, (c.y - base + 25) / 70 + dune))
    for x, y, radius in c.rng.uniform((0, 262, 1), (500, 372, 3.5), (26, 3)):
        with c.frame((x, y), radius * (y - 200) / 65):
            c.shadow(c.ellipse(-1, 0.5, 1.4, 0.4), 0.3)
            c.solid(c.ellipse(0, 0, 1, 0.65), mix("8a6a4a", "c8a27a", c.rng.random()), 0.7)

    saguaro(c, (396, 272), 0.3, ("0,-60 34,-70 40,-120",))
    saguaro(c, (168, 334), 1.3, ("0,-70 -40,-72 -58,-92 -60,-150", "0,-96 36,-98 54,-116 56,-176"))
    return c


SCENES = (mushroom, sunflower, cactus)
