"""Headers that announce, or consist of, far more than an image file needs; the same for the same seed.

Files of a hole take no room on the disk: `Header.size` is what the file system says of them.
"""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image

from fuzzing.bombs import end, ihdr, many_scans, saved_large, tiff, zeros_png
from fuzzing.mutations import EXTREMES, MUTATORS
from fuzzing.whole_files import bmp, png, whole_files

GIB = 2**30
SIZES = (2**24 - 1, 2**24 + 1, 2**28, GIB - 1, GIB, GIB + 1, 3 * 2**29, 2**31 - 1, 2**31 - 168)
# Numbers of sides and counts; the last few are those that pass some limit and not another.
SIDES = (*EXTREMES, 2, 3, 16_383, 16_384, 65_500, 65_535, 99_999, 100_000, 100_001, 2**30, 14_142, 14_143)
SUFFIXES = {
    "jpeg": ".jpg", "mpo": ".jpg", "jpeg2000": ".jp2", "tiff": ".tif", "pgm": ".ppm", "pbm": ".ppm",
}  # fmt: skip


@dataclass(frozen=True)
class Header:
    """A file: its first bytes; a hole follows up to `size`. kind, what: in words."""

    kind: str
    what: str
    suffix: str
    content: bytes
    size: int = 0

    def write(self, path: Path) -> None:
        with path.open("wb") as file:
            file.write(self.content)
            file.truncate(max(self.size, len(self.content)))


def hostile_headers(count: int, seed: int) -> Iterator[Header]:
    """Headers of all kinds in turn, the rarer ones as often as `KINDS` says."""
    turns = [kind for kind, times in KINDS.items() for _ in range(times)]
    for index in range(count):
        kind = turns[index * 7 % len(turns)]  # 7 and their number have no common factor: all come in turn
        yield MAKERS[kind](kind, random.Random(f"{seed}-{index}"))


# --- kinds -------------------------------------------------------------------------------------------


def sparse(kind: str, rng: random.Random) -> Header:
    """A real file's start, or one that says how much is to come, and a hole of up to 2 GiB."""
    size = rng.choice(SIZES)
    little, big = struct.pack("<I", (size - 100) & 0xFFFFFFFF), struct.pack(">I", (size - 100) & 0xFFFFFFFF)
    whole = _real(rng)
    starts: dict[str, bytes] = {
        ".tif": _directory([(rng.choice(TAGS), rng.choice((1, 2, 3, 4, 7)), size // 4, 16)]),
        ".webp": b"RIFF" + little + b"WEBP" + rng.choice((b"VP8 ", b"VP8L", b"VP8X", b"EXIF")) + little,
        ".avif": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + big + rng.choice((b"meta", b"mdat", b"free")),
        ".png": png(ihdr(8, 8))
        + rng.choice((b"\0\0\0\0", big))
        + rng.choice((b"tEXt", b"iCCP", b"eXIf", b"teSt")),
        ".jpg": b"\xff\xd8\xff" + bytes((rng.choice((0xE0, 0xE1, 0xFE, 0xC4, 0xDB)),)) + b"\xff\xff",
        ".jp2": b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 \0\0\0\0jp2 " + big + b"jp2h",
        ".gif": b"GIF89a\x08\0\x08\0\0\0\0!" + rng.choice((b"\xfe", b"\xff", b"\xf9")) + b"\xff",
        ".bmp": bmp(struct.pack("<IiiHHII", 40, rng.choice(SIDES) >> 1, 8, 1, 24, 0, size >> 1), size >> 1),
        ".ppm": rng.choice((b"P6 14000 14000 255\n", b"P6", b"P3 8 8 255\n", b"P6 #")),
        whole[0]: whole[1][: rng.randrange(20, 600)],
    }
    suffix = rng.choice(sorted(starts))
    return Header(kind, f"{suffix} and a hole", suffix, starts[suffix], size)


def many_parts(kind: str, rng: random.Random) -> Header:
    """Up to three million chunks, segments, boxes, comments or entries."""
    times = int(10 ** rng.uniform(3, 6.5))
    empty = struct.pack(">I", 8)
    parts: dict[str, tuple[bytes, bytes, bytes]] = {
        ".png": (png(ihdr(8, 8)), _chunk(rng.choice((b"teSt", b"tEXt", b"IDAT", b"PLTE", b"acTL"))), b""),
        ".jpg": (
            b"\xff\xd8",
            b"\xff" + bytes((rng.choice((0xE1, 0xE2, 0xED, 0xFE)),)) + b"\0\2",
            b"\xff\xd9",
        ),
        ".gif": (b"GIF89a\x08\0\x08\0\0\0\0", rng.choice((b"!\xfe\1x\0", b"!\xff\1x\0", b"!\xf9\0")), b";"),
        ".webp": (b"RIFF\xff\xff\xff\x7fWEBPVP8X\n\0\0\0" + bytes(10), b"EXIF\0\0\0\0", b""),
        ".avif": (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf", empty + rng.choice((b"free", b"meta")), b""),
        ".jp2": (b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 \0\0\0\0jp2 ", empty + b"free", b""),
        ".ppm": (b"P6", rng.choice((b"#\n", b" ", b"\n")), b" 8 8 255\n"),
        ".tif": (
            b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, times),
            struct.pack("<HHQQ", 700, 1, 8, 0),
            b"",
        ),
    }
    suffix = rng.choice(sorted(parts))
    first, part, last = parts[suffix]
    return Header(kind, f"{times:,} parts of {suffix}", suffix, first + part * times + last)


def absurd_size(kind: str, rng: random.Random) -> Header:
    """A real file whose width and height are others."""
    name, width, height = rng.choice(sorted(_WHERE)), rng.choice(SIDES), rng.choice(SIDES)
    what = f"{name} of {width:,} x {height:,}"
    if name == "ppm":
        return Header(kind, what, ".ppm", b"P6 %d %d 255\n" % (width, height) + bytes(100))
    if name == "tiff":
        return Header(kind, what, ".tif", tiff({256: width, 257: height}))
    content = bytearray(_whole()[name])
    for mark, offset, form in _WHERE[name]:
        most = (1 << 4 * struct.calcsize(form)) - 1
        struct.pack_into(form, content, content.index(mark) + offset, width & most, height & most)
    return Header(kind, what, _suffix(name), bytes(content))


def directories(kind: str, rng: random.Random) -> Header:
    """Directories of a TIFF or of EXIF that lead to each other in circles, or very far."""
    count = rng.choice((1, 2, 3, 1000, 65_535))
    link = rng.choice((0x8769, 0x8825, 0xA005, 0x014A, 0x9286))  # EXIF, GPS, interoperability, children, text
    if rng.random() < 0.5:
        content = _chain(count, rng.random() < 0.5)
        return Header(kind, f"{count:,} directories", ".tif", content)
    circle = _directory([(link, rng.choice((4, 13)), rng.choice((1, 500)), 8)], next_page=rng.choice((0, 8)))
    suffix = rng.choice((".jpg", ".png", ".webp", ".tif"))
    content = {
        ".jpg": lambda: b"\xff\xd8" + _exif_segment(circle) + _whole()["jpeg-baseline"][2:],
        ".png": lambda: png([*ihdr(8, 8), (b"eXIf", circle), *end(8, 8)]),
        ".webp": lambda: _whole()["webp-alpha"] + b"EXIF" + struct.pack("<I", len(circle)) + circle,
        ".tif": lambda: circle,
    }[suffix]()
    return Header(kind, f"a circle by tag {link:#x} in {suffix}", suffix, content)


def huge_tags(kind: str, rng: random.Random) -> Header:
    """TIFFs whose tags have up to four billion values, which a hole may hold."""
    count = rng.choice((65_536, 2**20, 2**24, 2**26, 2**28, 2**31, 2**32 - 1))
    tag, form = rng.choice(TAGS), rng.randrange(1, 17)
    size = rng.choice((0, 2**24, 2**28, GIB - 1))
    content = _directory([(tag, form, count, rng.choice((8, 200, 2**31, 0)))])
    return Header(kind, f"tag {tag} of {count:,} values of type {form}", ".tif", content, size)


def truncated(kind: str, rng: random.Random) -> Header:
    """A real file that was cut off in its header."""
    suffix, whole, name = _real(rng)
    length = rng.randrange(1, min(len(whole), 700))
    return Header(kind, f"{name}, its first {length} bytes", suffix, whole[:length])


def mutated(kind: str, rng: random.Random) -> Header:
    """A real file with damage to its first bytes."""
    suffix, whole, name = _real(rng)
    _, other, _ = _real(rng)
    head, chosen = bytearray(whole[:300]), rng.sample(MUTATORS, 2)
    for mutate in chosen:
        head = mutate(head, rng, other) if head else head
    what = f"{name}: {', '.join(one.__name__ for one in chosen)}"
    return Header(kind, what, suffix, bytes(head) + whole[300:])


def much_work(kind: str, rng: random.Random) -> Header:
    """Small files that take long: few bytes for very many pixels, tiles, scans or components."""
    side = rng.choice((1000, 4000, 9000, 14_000))
    name = rng.choice(("g4", "jpeg2000", "jpeg2000 tiles", "scans", "png", "webp", "jpeg2000 components"))
    if name.startswith("jpeg2000"):
        content = bytearray(_large("JPEG2000", min(side, 9000)))
        at = content.index(b"\xff\x51")
        if name.endswith("tiles"):  # XTsiz and YTsiz
            struct.pack_into(">II", content, at + 22, rng.choice((1, 2, 16)), rng.choice((1, 2, 16)))
        if name.endswith("components"):
            struct.pack_into(">H", content, at + 38, rng.choice((4, 100, 16_384)))
        return Header(kind, f"{name} of {side:,}", ".jp2", bytes(content))
    suffix, content = {
        "g4": lambda: (".tif", _large("G4", side)),
        "scans": lambda: (".jpg", many_scans(min(side, 4000), rng.choice((100, 400)))),
        "png": lambda: (".png", _large("PNG", side)),
        "webp": lambda: (".webp", _large("WEBP", min(side, 9000))),
    }[name]()
    return Header(kind, f"{name} of {side:,}", suffix, content)


MAKERS: dict[str, Callable[[str, random.Random], Header]] = {
    "a hole of up to 2 GiB": sparse,
    "very many parts": many_parts,
    "absurd sizes": absurd_size,
    "circles and chains of directories": directories,
    "huge tags": huge_tags,
    "cut off": truncated,
    "damaged": mutated,
    "much work for few bytes": much_work,
}
KINDS = dict(zip(MAKERS, (16, 14, 24, 12, 16, 5, 8, 5), strict=True))

# --- what they are made of ---------------------------------------------------------------------------

TAGS = (254, 256, 257, 258, 259, 262, 270, 273, 277, 279, 320, 324, 325, 330, 338, 700, 33432, 34377, 34665,
        34675, 50341)  # fmt: skip
# Where a file says its size: after which bytes, at which offset from them, and how.
_WHERE: dict[str, list[tuple[bytes, int, str]]] = {
    "jpeg-baseline": [(b"\xff\xc0", 5, ">HH")],
    "jpeg-progressive": [(b"\xff\xc2", 5, ">HH")],
    "png-RGB": [(b"IHDR", 4, ">II")],
    "gif": [(b"GIF8", 6, "<HH")],
    "bmp-RGB": [(b"BM", 18, "<II")],
    "webp-alpha": [(b"VP8X", 12, "<II")],
    "webp-lossy": [(b"\x9d\x01\x2a", 3, "<HH")],
    "webp-lossless": [(b"VP8L", 8, "<HH")],
    "jpeg2000": [(b"ihdr", 4, ">II"), (b"\xff\x51", 6, ">II")],
    "jpeg2000-lossy": [(b"\xff\x51", 6, ">II")],
    "avif": [(b"ispe", 8, ">II")],
    "ppm": [],  # in text
    "tiff": [],  # in tags
}


@cache
def _whole() -> dict[str, bytes]:
    return whole_files()


def _suffix(name: str) -> str:
    """The suffix of one of `whole_files`."""
    form = name.split("-")[0]
    return SUFFIXES.get(form, f".{form}")


def _real(rng: random.Random) -> tuple[str, bytes, str]:
    """The suffix, content and name of a real file of a kind that is searched for."""
    name = rng.choice([one for one in sorted(_whole()) if one.startswith(_IMAGES)])
    return _suffix(name), _whole()[name], name


_IMAGES = ("jpeg", "mpo", "png", "bmp", "webp", "gif", "tiff", "avif", "ppm")


def _chunk(name: bytes) -> bytes:
    """An empty chunk of a PNG."""
    return png([(name, b"")])[8:]


def _exif_segment(content: bytes) -> bytes:
    exif = b"Exif\0\0" + content
    return b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif


def _directory(entries: list[tuple[int, int, int, int]], next_page: int = 0) -> bytes:
    """A TIFF of 8 x 8 grey pixels, and these tags: number, type, how many values, and the value or where."""
    usual = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 400, 277: 1, 278: 8, 279: 64}
    tags = {tag: (tag, 4, 1, value) for tag, value in usual.items()} | {one[0]: one for one in entries}
    packed = b"".join(struct.pack("<HHII", *tags[tag]) for tag in sorted(tags))
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + packed + struct.pack("<I", next_page)
    return head.ljust(400, b"\0") + bytes(64)


def _chain(count: int, is_circle: bool) -> bytes:
    """Directories of one tag each: the last leads back to the first, or nowhere."""
    length = 2 + 12 + 4
    starts = [8 + index * length for index in range(count)]
    following = [*starts[1:], starts[0] if is_circle else 0]
    entry = struct.pack("<HHHII", 1, 254, 4, 1, 0)
    return b"II*\0\x08\0\0\0" + b"".join(entry + struct.pack("<I", one) for one in following)


@cache
def _large(form: str, side: int) -> bytes:
    """A square of so many pixels a side, in few bytes."""
    if form == "G4":
        file = io.BytesIO()
        Image.new("1", (side, side), 1).save(file, format="TIFF", compression="group4")
        return file.getvalue()
    if form == "PNG":
        return zeros_png(side, side)
    return saved_large(form, side, **({"lossless": True, "method": 0} if form == "WEBP" else {}))
