"""Animals: fish in a reef, a ladybird on a leaf, a robin on a branch."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from .canvas import Canvas
from .colours import mix, rgb, smoothstep, toned
from .geometry import points, smooth
from .painters import leaf, specks


def fish(
    c: Canvas, at: tuple[float, float], size: float, turn: float, code: str, belly: str, bars: Sequence[float]
) -> None:
    with c.object("fish", at, size, turn):
        u, v = c.local()
        fin = toned(code, 0.92 + 0.14 * np.sin(v * 2.2 + u * 0.4))
        c.solid(c.blob("46,-4 62,-20 80,-27 74,0 80,26 62,18 46,5"), fin, 5)
        c.solid(c.blob("-24,-26 -8,-45 16,-42 40,-22 44,-8 0,-18"), fin, 5)
        c.solid(c.blob("-4,26 8,42 24,40 36,16 10,18"), fin, 5)
        scales = 1 + 0.06 * np.sin(u * 1.3) * np.sin(v * 1.3)
        skin = toned(mix(code, belly, v / 30 + 0.15), scales)
        for bar in bars:
            offset = np.abs(u - bar - 5 * np.cos(v / 14))
            skin = mix(mix(skin, "14100e", 8.5 - offset), "fbf8f0", 6.5 - offset)
        trunk = "-62,2 -48,-16 -20,-31 10,-30 36,-14 52,-6 52,7 34,16 6,30 -24,29 -50,16"
        c.solid(c.blob(trunk), skin, 24, gloss=0.3, ambient=0.5)
        c.solid(c.blob("-14,4 6,-4 16,6 8,18 -8,14"), fin, 4, ambient=0.55)
        eye = ((-45, -6, 6.5, "f6efd8"), (-46, -7, 4.2, "0e0c0c"), (-47.5, -9, 1.3, "ffffff"))
        for x, y, radius, tone in eye:
            c.paint(c.ellipse(x, y, radius), tone)
        c.tint(c.stroke("-61,4 -55,7 -50,6", 1.3) * 0.8, "4a1a08")


def reef_fish() -> Canvas:
    c = Canvas(480, 360, seed=5, light=(-0.2, -0.8, 0.55))
    c.fill(c.gradient((0, "5fd0dd"), (120, "1f93b8"), (280, "0b5580")))
    rays = np.clip(c.noise(500, 5, stretch=0.03)[:1] + 0 * c.y, 0, None)
    slant = np.float32([[1, -0.35, 60], [0, 1, 0]])
    rays = cv2.warpAffine(rays, slant, rays.shape[::-1], borderMode=cv2.BORDER_REFLECT)
    c.tint(np.clip(rays * 0.22 * (1 - c.y / 330), 0, 1), "d8ffff")
    c.paint(c.ridge(262, 16, 60), mix("0f4a63", "2f7d86", 0.4 + 0.25 * c.noise(16)))
    c.blur(1.5)
    sand = 0.5 + 0.2 * c.noise(7, 4, stretch=7) + 0.06 * c.noise(1.5, 1)
    c.paint(c.ridge(292, 4, 110), mix("a8966a", "f0dfae", sand))
    c.tint(np.exp(-((c.noise(14, 3, stretch=2) / 0.22) ** 2)) * c.below(297) * 0.3, "ffffff")  # caustics
    for x, height in ((40, 110), (62, 80), (22, 70), (446, 96), (424, 64)):
        with c.frame((x, 318), height):
            weed = c.stroke("0,0 0.1,-0.35 -0.07,-0.7 0.07,-1", (0.09, 0.08, 0.02))
            c.solid(weed, mix("2f8a4a", "56a848", c.rng.random()), 0.05)
    corals = ((350, 316), 1, "d8567a"), ((118, 330), 0.8, "e58a4a"), ((388, 332), 0.7, "8a5ac0")
    for at, size, code in corals:
        for turn in np.linspace(-65, 65, 9) + c.rng.normal(0, 5, 9):
            with c.frame(at, size * c.rng.uniform(0.75, 1.1), turn):
                c.solid(c.stroke("0,0 0,-22 4,-40 0,-58", (9, 7, 6)), code, 4)

    fish(c, (390, 78), 0.42, 8, "f2c52e", "fbe88a", (0,))
    c.tint(c.layers[0].visible * 0.3, "1f93b8")  # far away, behind more water
    fish(c, (425, 205), 0.95, -6, "2a5fd0", "8ab8f0", (-24,))
    fish(c, (165, 172), 1.45, -5, "ef6a1c", "f9a23a", (-26, 10, 44))
    for x, y, radius in c.rng.uniform((60, 20, 2), (110, 130, 5), (9, 3)):
        c.tint(c.ellipse(x, y, radius) * 0.35, "e8ffff")
        c.tint(c.ellipse(x - radius / 3, y - radius / 3, radius / 3) * 0.9, "ffffff")
    return c


def ladybird() -> Canvas:
    c = Canvas(400, 400, seed=7)
    c.fill(mix("2f5a1c", "a8c860", 0.5 + 0.25 * c.noise(130, 2) - (c.y - 200) / 700))
    specks(c, 16, 400, (14, 34), "e8f2a8", (0.15, 0.4))
    c.blur(7)
    blade = c.blob("-40,330 60,190 190,96 330,50 420,40 400,150 330,270 210,360 60,400 -40,410")
    cells = 1 + 0.05 * c.noise(3, 2) + 0.07 * c.noise(30, 3)
    c.shadow(blade, 14, 0.5)
    green = mix("3d7a22", "86b840", 0.9 - (c.x + c.y) / 900)
    c.solid(blade, toned(green, cells), 60, ambient=0.5)
    rib = smooth("-20,385 130,270 270,150 415,45", closed=False)
    veins = [(rib, (7, 2))]
    for i in range(3, 28, 4):
        for side in ("0,0 0.3,-0.8 1,-1.5", "0,0 0.8,0.1 1.6,-0.2"):
            veins.append((rib[i] + points(side) * (70 - abs(i - 14) * 2), (3, 1)))
    for line, widths in veins:
        c.shadow(c.stroke(np.add(line, (1.5, 2)), widths) * blade, 1.5, 0.4)
        c.tint(c.stroke(line, widths) * blade * 0.75, "c2dc84")
    c.shadow(c.ellipse(222, 246, 112, 88, 128), 10, 0.75)
    with c.object("ladybird", (196, 214), 1, 38):
        for side in (-1, 1):
            for y, reach, droop in ((-52, 116, -34), (0, 132, 14), (46, 118, 52)):
                leg = [(side * 60, y), (side * reach * 0.82, y + droop * 0.3), (side * reach, y + droop)]
                c.solid(c.stroke(leg, (10, 8, 4)), "1c1512", 4, gloss=0.4)
            feeler = [(side * 14, -118), (side * 24, -138), (side * 42, -146)]
            c.solid(c.stroke(feeler, (4, 3, 6)), "1c1512", 2)
        c.solid(c.blob("-34,-96 -22,-122 0,-128 22,-122 34,-96"), "17120f", 18, gloss=0.5)
        collar = c.blob("-62,-78 -44,-104 0,-112 44,-104 62,-78 0,-62")
        c.solid(collar, "17120f", 24, gloss=0.5)
        for side in (-1, 1):
            c.paint(c.ellipse(side * 40, -90, 13, 9, side * 25) * collar, "f4eede")
        shell = rgb("d2281a")
        spots = ((0, -70, 15, 12), (36, -38, 17, 19), (46, 18, 16, 18), (24, 66, 14, 15), (16, 14, 10, 12))
        for x, y, rx, ry in spots:
            shell = mix(shell, "17100e", np.maximum(c.ellipse(x, y, rx, ry), c.ellipse(-x, y, rx, ry)))
        shell = mix(shell, "3a0806", c.stroke("0,-82 0,104", (2, 3), False))
        c.solid(c.ellipse(0, 12, 78, 92), shell, 82, gloss=0.65, ambient=0.4)
    return c


def robin() -> Canvas:
    c = Canvas(480, 360, seed=10)
    c.fill(mix("5f7f4a", "d9dca0", 0.5 + 0.28 * c.noise(120, 2) - (c.y - 180) / 600))
    specks(c, 26, 360, (12, 36), "f6eec0", (0.1, 0.35))
    c.blur(5)
    bark = mix("3a2c20", "8a7358", 0.45 + 0.25 * c.noise(4, 4, stretch=5))
    c.solid(c.stroke("330,262 380,220 420,150 452,110", (12, 8, 5)), bark, 10)
    c.solid(c.stroke("150,268 110,230 70,212", (8, 3)), bark, 10)
    c.solid(c.stroke("-20,288 90,268 220,274 340,258 500,276", (17, 20, 22, 27)), bark, 10)
    leaves = "70,210,200 92,220,120 452,108,-50 432,132,20 418,160,-150 40,278,100 404,190,30"
    for x, y, turn in points(leaves):
        with c.frame((x, y), 0.9, turn):
            green = mix("54802a", "8fb84a", c.rng.random())
            leaf(c, "0,0 14,-11 34,-8 50,0 34,9 14,10", green, 8, "0,0 50,0", (2, 0.6), "dcebaa")
    feather = 1 + 0.07 * c.noise(5, 3, stretch=2.5)
    fluff = 5 * c.noise(5, 3)
    with c.object("bird", (205, 176), 1.08):
        c.solid(c.blob("62,34 100,60 150,92 142,104 104,86 60,62"), toned("8a6a46", feather), 8)
        c.tint(c.stroke("84,58 140,97", 1.5) * 0.5, "3a2818")
        for x in (-6, 22):
            with c.frame((x, 90)):
                for bone in ("4,-30 0,-12 -2,2", "-2,0 -8,2 -12,9", "-2,0 -1,2 -2,9", "-2,0 6,2 9,9"):
                    c.solid(c.stroke(bone, 4), "6b4a34", 2)
        u, v = c.local()
        back = mix("e6dcc8", "9a7d58", smoothstep(-20, 14, u - v * 0.9 + 26 + fluff))
        breast = smoothstep(8, -8, np.hypot(u + 52, (v + 8) / 1.25) - 44 + fluff)
        body = c.blob(
            "-72,-44 -58,-70 -30,-78 -2,-66 16,-36 44,-8 72,32 60,58 24,72 -18,70 -52,48 -70,10 -66,-20"
        )
        c.solid(body, toned(mix(back, "d9601f", breast), feather), 44, ambient=0.5)
        wing = points("-8,-22 18,-22 48,4 96,58 60,50 18,40 -8,14")
        c.shadow(c.blob(np.add(wing, (1, 5))) * body, 4, 0.4)
        c.solid(c.blob(wing), toned("7a5c3c", feather), 14)
        for k in range(5):
            quill = [(4 + k * 5, 26 - k * 9), (36 + k * 5, 38 - k * 7), (86 - k * 3, 54 - k * 4)]
            c.tint(c.stroke(quill, (1, 2.4, 1)) * 0.55, "33241a")
        c.solid(c.blob("-70,-50 -84,-44 -96,-37 -82,-37 -70,-38"), "4a4038", 4, gloss=0.3)
        c.tint(c.stroke("-94,-38 -72,-43", 1) * 0.8, "1c1612")
        c.paint(c.ellipse(-50, -52, 7.6), "5f3a1e")
        c.ball(-50, -52, 6.6, 6.8, "100c0a", gloss=0.3)
        c.tint(c.ellipse(-52, -54.5, 2), "ffffff")
    return c


SCENES = (reef_fish, ladybird, robin)
