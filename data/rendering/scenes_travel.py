"""What carries people: balloons, a sailing boat, a car, a rocket, a tram."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .canvas import Canvas
from .colours import mix, rgb, smoothstep, toned
from .geometry import Array, points
from .painters import clouds, foliage, glints, grass, reflection, specks


def balloon(c: Canvas, at: tuple[float, float], radius: float, palette: Sequence[str]) -> None:
    def gores(longitude: Array, y: Array) -> Array:
        stripe = (longitude / np.pi + 0.5) * 12 - 1e-4
        belt = (np.abs(y) < 0.16) & (stripe // 1 % 2 == 0)
        seam = 1 - 0.14 * (np.abs(stripe % 1 - 0.5) > 0.44)
        cloth = np.where(belt, 3, stripe // 1 % 3).astype(int)
        return toned(np.stack([rgb(code) for code in palette])[cloth], seam)

    with c.object("balloon", at, radius):
        for side in (-0.16, -0.06, 0.06, 0.16):
            c.paint(c.stroke([(side * 1.3, 1), (side, 1.62)], 0.015, False), "4a3a2c")
        envelope = "-1,0 -0.75,0.68 -0.4,0.93 0,1 0.4,0.88 0.8,0.58 1.15,0.28 1.25,0.2"
        c.lathe(0, envelope, gores, 0.12, 0.42)
        wicker = mix("6b4423", "a8743d", (c.y % 3 < 1.5) * 0.6)
        c.solid(c.polygon("-0.18,1.6 0.18,1.6 0.15,1.86 -0.15,1.86"), wicker, 0.12)


def hot_air_balloon() -> Canvas:
    c = Canvas(500, 375, seed=1)
    c.fill(c.gradient((0, "3f7cc0"), (150, "9cc9ea"), (250, "f7e6cb")))
    clouds(c, thin=0.5, bottom=230)
    for base, rise, far, near in (
        (238, 12, "9db4c6", "a9c0c4"),
        (262, 12, "7a9a92", "93b08a"),
        (292, 11, "55803f", "83a552"),
        (330, 9, "3f6a2c", "7da043"),
    ):
        slope = (c.y - base + 20) / 90 + 0.18 * c.noise(22, 5, stretch=3)
        c.paint(c.ridge(base, rise, 130), mix(far, near, slope))
        for x in c.rng.uniform(0, 500, 10 if base > 260 else 0):
            size = (base - 200) / 14
            foliage(c, x, base + c.rng.uniform(5, 25), size * 1.3, size, "1f3d1c", "6d9440", 130, size / 4)

    balloon(c, (345, 122), 84, ("d8342c", "f2a51f", "f7e3b0", "23508f"))
    balloon(c, (92, 196), 25, ("2f7f86", "f0e2c0", "e58a34", "fff4dc"))
    return c


def sailing_boat() -> Canvas:
    c = Canvas(480, 320, seed=2, light=(0.6, -0.3, 0.6))
    c.fill(c.gradient((0, "2b3b6b"), (70, "7f5886"), (125, "e2785a"), (168, "fdd08a")))
    clouds(c, thin=0.35, bottom=170, lit_side="ffc49a", dark_side="6d4a78")
    c.glow(345, 150, 70, "ffb060", 0.55)
    c.tint(c.ellipse(345, 148, 15), "fff6d8")
    c.paint(c.ridge(158, 8, 70), c.gradient((140, "6a4468"), (172, "a8657a")))
    c.paint(c.ridge(166, 5, 40), "4a2f50")
    reflection(c, 172, 1, 5)
    c.tint(c.below(172) * np.clip((c.y - 172) / 260 + 0.05 * c.noise(4, 3, stretch=12), 0, 0.65), "16204a")
    with c.object("boat") as boat:
        c.paint(c.stroke("152,238 154,62", (3.4, 2), False), "3a2418")
        seams = 1 - 0.06 * (np.abs(c.y % 24) < 1.2)
        c.solid(c.blob("158,70 172,130 212,222 190,226 159,226"), toned("f6e6cf", seams), 26, ambient=0.55)
        c.solid(c.blob("150,78 136,150 100,227 128,225 150,220"), toned("e9cdb6", seams), 26, ambient=0.55)
        hull = c.blob("88,233 130,238 180,238 228,230 216,250 196,257 120,257 100,250")
        c.solid(hull, mix("f1e8dc", "8c2a2a", c.below(246)), 9, gloss=0.25)
        c.paint(c.stroke("89,235 130,240 180,240 227,232", 2.2), "6b3d1f")
        c.solid(c.blob("136,229 176,229 182,239 132,239"), "a8662f", 5)
        c.ball(200, 226, 5, 6, "d9a07a")
        c.solid(c.blob("193,232 200,229 207,233 208,240 192,240"), "2f5a8a", 5)
    reflection(c, 256, 0.75, 6, boat.visible)
    foam = smoothstep(0.2, 1.4, c.noise(3, 3, stretch=8)) * c.band(258, 12)
    c.paint(foam * smoothstep(90, 55, np.abs(c.x - 158)) * 0.85, "ffe9d6")
    return c


def red_car() -> Canvas:
    c = Canvas(500, 333, seed=3)
    c.fill(c.gradient((0, "5a9bd8"), (170, "dcecf5")))
    clouds(c, thin=0.55, bottom=180)
    c.paint(c.ridge(158, 9, 120), mix("7f9c86", "9ab58c", 0.5 + 0.25 * c.noise(20)))
    for x in np.linspace(-10, 510, 12):
        size = c.rng.uniform(24, 44)
        c.paint(c.stroke([(x, 150), (x + 2, 212)], (4, 8)), "4b3826")
        foliage(c, x, 172 - size / 2, size * 0.95, size, "1d3a1a", "7fa83f", 420, 5)
    c.blur(1)
    c.paint(c.below(205), mix("4d7a2c", "86ab45", 0.5 + 0.25 * c.noise(10, 4, 4)))
    grass(c, 206, 232, 2200, 12, "3f6b25", "9ec25a")
    c.paint(c.below(231), mix("55565c", "8b8b8e", 0.5 + 0.18 * c.noise(3, 2) + 0.2 * c.noise(60, 3, 5)))
    c.tint(c.band(234, 5) * 0.8, "e4e1d6")
    for x in (-40, 130, 300, 470):
        c.tint(c.polygon([(x, 303), (x + 90, 303), (x + 84, 311), (x - 10, 311)]) * 0.85, "efece0")
    c.shadow(c.ellipse(342, 279, 138, 9), 5, 0.85)
    with c.object("car", (212, 280), 1.06):
        body = c.blob(
            "2,-16 0,-34 10,-48 40,-54 72,-58 104,-84 130,-92 170,-91 196,-84 "
            "226,-60 241,-55 246,-38 244,-18 228,-12 120,-10 20,-12"
        )
        c.solid(body, c.gradient((180, "e0352c"), (232, "c9201f"), (238, "a81518"), (282, "6d0d12")), 20, 0.5)
        for pane in ("84,-58 110,-81 133,-86 137,-58", "144,-58 141,-86 168,-85 188,-79 207,-60"):
            glass = c.polygon(pane)
            c.paint(glass, c.gradient((186, "b9d6e6"), (205, "557489"), (222, "22313c")))
            glints(c, glass, (0.9, 1), 46, 12, 0.35)
        c.tint(c.stroke("8,-46 70,-54 160,-55 240,-50", (1, 3, 1)) * 0.55, "ffd0c4")
        for door in ("80,-56 82,-18 136,-14", "140,-57 140,-14", "140,-14 186,-18 212,-56"):
            c.tint(c.stroke(door, 1.2) * 0.6, "3a0508")
        for handle in ("122,-47 133,-47", "176,-50 187,-50"):
            c.solid(c.stroke(handle, 3.4), "d8d4d0", 2)
        c.solid(c.blob("4,-44 22,-49 18,-38 3,-36"), "fff6d8", 5, gloss=0.6)
        c.solid(c.blob("234,-51 244,-50 245,-38 238,-40"), "ff7a4a", 4, gloss=0.5)
        c.solid(c.stroke("0,-20 40,-16", 6), "5c5f66", 3)
        for x in (54, 194):
            c.paint(c.ellipse(x, -22, 26) * (1 - c.below(267)), "1a0406")
            for radius, code, edge in ((22, "26262a", 7), (13.5, "c8ccd2", 4)):
                c.solid(c.ellipse(x, -20, radius), code, edge, gloss=0.3)
            for turn in range(0, 360, 72):
                with c.frame((x, -20), 1, turn):
                    c.paint(c.polygon("-2.6,-12 2.6,-12 1,-4 -1,-4"), "3b3d43")
    return c


def hull(longitude: Array, y: Array) -> Array:
    seam = (np.abs(longitude * 3 % 1 - 0.5) > 0.475) & (y > -76) & (y < 54)
    line = 1 - 0.22 * (seam | (np.abs(np.abs(y) - 30) < 0.8))
    return toned(mix("e9ebef", "c8242a", (y < -76) | (np.abs(y - 62) < 7)), line)


def rocket() -> Canvas:
    c = Canvas(360, 480, seed=11, light=(-0.7, -0.35, 0.6))
    c.fill(mix(mix("060818", "141238", c.y / 480), "4a2a78", np.clip(0.25 * c.noise(170, 5) - 0.05, 0, 0.5)))
    c.tint(np.clip(0.12 * c.noise(90, 5), 0, 0.4), "2a6a9a")
    specks(c, 260, 480, (0.3, 1.1), "ffffff", (0.35, 1))
    sea = mix("1b4f9c", "3a86c8", 0.5 + 0.3 * c.noise(40))
    land = mix("4a8a3a", "b09a5a", 0.4 + 0.3 * c.noise(30))
    earth = mix(sea, land, smoothstep(0.2, 0.5, c.noise(60, 6)))
    earth = mix(earth, "ffffff", smoothstep(0.3, 1.5, c.noise(50, 6, stretch=2.5)) * 0.9)
    c.glow(60, 500, 190, "3a7ad8", 0.6)
    c.ball(60, 500, 165, 165, earth, ambient=0.2)
    c.ball(70, 92, 28, 28, mix("77757a", "d8d4c8", 0.6 + 0.25 * c.noise(10, 4)), ambient=0.15)
    with c.frame((196, 200), 1.15, 24):
        for k, (x, y, size) in enumerate(c.rng.uniform(-1, 1, (60, 3))):
            puff = c.ellipse(x * (10 + 0.36 * k), 190 + 3 * k + 8 * y, 11 + 0.15 * k + 4 * size)
            c.tint(c.soften(puff, 3) * 0.4 * (1 - k / 75), mix("fff0d8", "8a84a8", k / 60))
    with c.object("rocket", (196, 200), 1.15, 24):
        for width, length, code in ((25, 112, "ff7a1a"), (17, 86, "ffc43a"), (9, 60, "fffbe0")):
            flame = points("-1,0 0,-0.06 1,0 0.7,0.45 0,1 -0.7,0.45") * (width, length) + (0, 98)
            c.paint(np.clip(c.soften(c.blob(flame), 1.5) * 1.2, 0, 1), code)
        c.solid(c.blob("-30,30 -62,66 -70,112 -46,92 -26,86"), "c8242a", 9, gloss=0.3)
        c.solid(c.blob("30,30 62,66 70,112 46,92 26,86"), "8f181e", 9, gloss=0.3)
        c.lathe(0, "-148,0 -138,7 -118,16 -76,30 -30,41 10,43 60,35 92,23 96,22", hull, 0.4)
        for y, radius in ((-38, 17), (10, 13)):
            c.solid(c.ellipse(0, y, radius), "8a9098", 4, gloss=0.5)
            c.ball(0, y, radius * 0.74, radius * 0.74, "2f78b8", gloss=0.8)
        c.solid(c.stroke("0,34 0,70 0,104", (5, 9, 6)), "a81c22", 5, gloss=0.3)
    c.glow(136, 336, 46, "ff8a2a", 0.4)
    return c


def houses(c: Canvas) -> None:
    """A row of gabled fronts, from edge to edge."""
    x = -12.0
    for code in ("d9a86a", "b8695a", "e3d3b0", "8fa3a8", "d98a5f", "c9b88a", "a8707a"):
        width, top, gable = c.rng.uniform((72, 38, 22), (96, 66, 36))
        with c.frame((x, top)):
            wall = toned(code, 0.94 + 0.05 * c.noise(5, 3) - 0.12 * (c.x - x) / width)
            c.paint(c.rectangle(0, 0, width, 240), wall)
            roof = c.polygon([(-3, 0), (width / 2, -gable), (width + 3, 0)])
            c.paint(roof, mix("8a4030", "5f2c22", c.y % 5 / 5))
            c.paint(c.stroke([(0, 0), (width, 0)], 4, False), mix(code, "ffffff", 0.45))
            for k in range(12):
                with c.frame((width * (0.13 + 0.29 * (k % 3)), 14 + k // 3 * 40)):
                    c.paint(c.rectangle(-2, -2, 16, 25), mix(code, "ffffff", 0.6))
                    glass = mix("a8c4d4", "33424e", c.local()[1] / 23)
                    for left in (0, 8):
                        c.paint(c.rectangle(left, 0, left + 6, 23), glass)
        x += width


def street(c: Canvas) -> None:
    """A pavement, and rails in cobblestones, in perspective."""
    c.paint(c.below(232), mix("a09a90", "c8c2b6", 0.5 + 0.2 * c.noise(4, 3, 3)))
    depth = np.maximum(c.y - 225, 1)
    row = np.floor(900 / depth)
    stone = np.sin(row * 12.9 + np.floor((c.x - 250) / depth * 5 + row * 0.5) * 78.2)  # a tone for each stone
    c.paint(c.below(252), mix("4a4845", "8f8a84", 0.5 + 0.2 * stone + 0.1 * c.noise(2, 2)))
    for y in (292, 314):
        c.paint(c.stroke([(-10, y), (510, y)], 3, False), "6a6c70")
        c.tint(c.stroke([(-10, y - 1), (510, y - 1)], 1, False), "d8dade")


def tram() -> Canvas:
    c = Canvas(500, 340, seed=12)
    c.fill(c.gradient((0, "6fa8d8"), (110, "e8eef0")))
    clouds(c, thin=0.6, bottom=130)
    houses(c)
    c.blur(0.9)
    street(c)
    c.paint(c.stroke("-10,26 510,30", 1.2, False), "2c2c30")
    c.shadow(c.polygon("66,288 452,288 470,312 60,312"), 6, 0.8)
    with c.object("tram"):
        c.paint(c.stroke("236,96 268,62 232,30", 2.4, False), "2f3036")
        c.paint(c.stroke("216,30 250,29", 3, False), "2f3036")
        c.solid(c.polygon("92,274 428,274 424,292 96,292"), "2a2a2e", 4)
        for x in (124, 164, 354, 394):
            c.solid(c.ellipse(x, 288, 15), "55585e", 4, gloss=0.3)
            c.solid(c.ellipse(x, 288, 6), "9a9da2", 3)
        body = c.blob(
            "56,274 54,180 58,130 68,106 90,98 260,96 430,98 "
            "452,106 462,130 466,180 464,274 440,280 260,280 80,280"
        )
        paint = mix("f0e2c0", "b8232a", (c.y > 196) | (c.y < 112))
        paint = mix(paint, "d9b04a", (np.abs(c.y - 198) < 2) | (np.abs(c.y - 266) < 1.5))
        c.solid(body, paint, 18, gloss=0.3, ambient=0.5)
        c.solid(c.blob("84,98 110,86 260,82 410,86 436,98 260,104"), "8f8a86", 8)
        for k, left in enumerate((66, 114, 164, 212, 260, 308, 356, 406)):
            door = k in (1, 6)
            right, bottom = left + (34 if k in (0, 7) else 40), 256 if door else 184
            pane = c.rectangle(left, 122, right, bottom)
            c.paint(c.rectangle(left - 3, 119, right + 3, bottom + 3), "5f1a1c" if door else "8a6a3a")
            c.paint(pane, c.gradient((122, "cfe0e8"), (160, "6f8a98"), (256, "3a4a54")))
            if door:
                c.paint(c.stroke([(left + 20, 122), (left + 20, 256)], 2.4, False), "5f1a1c")
            else:
                rider = np.maximum(c.ellipse(left + 20, 164, 6, 8), c.ellipse(left + 20, 187, 12, 14))
                c.paint(rider * pane, mix("3a2c2c", "6a5048", c.rng.random()))
            glints(c, pane, (1, 0.6), 60, 16, 0.3)
        for x in (62, 458):
            c.solid(c.ellipse(x, 232, 7, 9), "fff2c0", 5, gloss=0.6)
        c.paint(c.rectangle(222, 214, 298, 244), "f0e2c0")
        for x in (240, 260, 280):
            c.paint(c.ellipse(x, 229, 7, 9) - c.ellipse(x, 229, 3.5, 5.5), "b8232a")
    return c


SCENES = (hot_air_balloon, sailing_boat, red_car, rocket, tram)
