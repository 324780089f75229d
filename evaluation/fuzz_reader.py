"""Feeds damaged and hostile image files to the reader: none may crash, hang, or take memory without bounds.

    python evaluation/fuzz_reader.py [--files 12000] [--seed 0] [--workers 2] [--keep FOLDER]

Every file is a small real one, of each format and mode, mutated: cut, bits flipped, runs overwritten, spliced
with another, chunks moved, sizes set to extremes, garbage added. Besides there are bombs written for the
purpose. All go through the processes that decode for a run; what is reported is what a run would record.
"""

from __future__ import annotations

import argparse
import io
import random
import re
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

import cv2
import numpy as np
import tifffile
from PIL import Image, PngImagePlugin

from lost_reg.images.batching import DecodedImage
from lost_reg.images.decoding import SECONDS_PER_IMAGE, DecoderProcess, Decoding
from lost_reg.types import Failure

SIZE_HW = (37, 53)  # odd, so that rows and tiles do not come out even
TIFF_COMPRESSIONS = (
    "raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "lzma",
)  # fmt: skip
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1_000_000)


# ------------------------------------------------------------------------------------------- real files


def seeds() -> dict[str, bytes]:
    """Real files by name: every format and mode that the reader takes, and some that it does not."""
    return {**_jpegs(), **_pngs(), **_others(), **_tiffs(), **_by_hand(), **_no_images()}


def _pixels() -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = cv2.resize(
        rng.integers(0, 256, (4, 5, 4), np.uint8), SIZE_HW[::-1], interpolation=cv2.INTER_CUBIC
    )
    return np.ascontiguousarray(coarse)


def _image(mode: str) -> Image.Image:
    rgba = Image.fromarray(_pixels())
    if mode == "P":
        return rgba.convert("RGB").quantize(16)
    if mode in ("I;16", "I", "F"):
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        return Image.fromarray(_pixels()[:, :, 0].astype(kind) * 257)
    return rgba.convert("RGB").convert(mode) if mode != "RGBA" else rgba


def _saved(mode: str, form: str, **options) -> bytes:
    file = io.BytesIO()
    _image(mode).save(file, format=form, **options)
    return file.getvalue()


def _jpegs() -> dict[str, bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [_image("RGB"), _image("RGB").rotate(90)]
    return {
        "jpeg-baseline": _saved("RGB", "JPEG"),
        "jpeg-progressive": _saved("RGB", "JPEG", progressive=True),
        "jpeg-grey": _saved("L", "JPEG"),
        "jpeg-cmyk": _saved("CMYK", "JPEG"),
        "jpeg-444-restarts": _saved("RGB", "JPEG", subsampling=0, restart_marker_blocks=2),
        "jpeg-exif-icc": _saved("RGB", "JPEG", exif=exif, icc_profile=bytes(3000), comment=b"hello"),
        "mpo": _saved("RGB", "MPO", save_all=True, append_images=frames[1:]),
    }


def _pngs() -> dict[str, bytes]:
    text = PngImagePlugin.PngInfo()
    text.add_itxt("Title", "a title", zip=True)
    wide = _pixels().astype(np.uint16) * 257
    return {
        **{f"png-{mode}": _saved(mode, "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")},
        "png-P-transparent": _saved("P", "PNG", transparency=bytes(range(16))),
        "png-RGB-transparent": _saved("RGB", "PNG", transparency=(1, 2, 3)),
        "png-text-icc": _saved("RGB", "PNG", pnginfo=text, icc_profile=bytes(3000)),
        "png-animated": _saved("RGB", "PNG", save_all=True, append_images=[_image("RGB").rotate(90)]),
        "png-interlaced": interlaced_png(_pixels()[:, :, :3]),
        "png-16-rgb": cv2.imencode(".png", wide[:, :, :3])[1].tobytes(),
        "png-16-rgba": cv2.imencode(".png", wide)[1].tobytes(),
    }


def interlaced_png(pixels: np.ndarray) -> bytes:
    """An RGB PNG in the seven passes of Adam7."""
    starts = (
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    )
    rows = [row for y, x, dy, dx in starts for row in pixels[y::dy, x::dx] if len(row)]
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 1)
    return png([(b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")])


def png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG of chunks, with their lengths and checksums."""
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def _others() -> dict[str, bytes]:
    wide = _pixels()[:, :, :3].astype(np.uint16) * 257
    frames = {"save_all": True, "append_images": [_image("RGB").rotate(90)]}
    return {
        **{f"bmp-{mode}": _saved(mode, "BMP") for mode in ("1", "L", "P", "RGB", "RGBA")},
        "webp-lossy": _saved("RGB", "WEBP"),
        "webp-lossless": _saved("RGB", "WEBP", lossless=True),
        "webp-alpha": _saved("RGBA", "WEBP"),
        "webp-animated": _saved("RGB", "WEBP", **frames),
        "gif": _saved("P", "GIF"),
        "gif-animated": _saved("RGB", "GIF", **frames),
        "ppm": _saved("RGB", "PPM"),
        "pgm": _saved("L", "PPM"),
        "pbm": _saved("1", "PPM"),
        "ppm-16": cv2.imencode(".ppm", wide)[1].tobytes(),
        "ppm-text": b"P3 4 3 255\n" + b" ".join(b"%d" % (7 * n) for n in range(36)),
        "jpeg2000": _saved("RGB", "JPEG2000"),
        "jpeg2000-lossy": _saved(
            "RGB", "JPEG2000", irreversible=True, num_resolutions=3, quality_layers=[20]
        ),
    }


def _tiffs() -> dict[str, bytes]:
    pages = {"save_all": True, "append_images": [_image("RGB").rotate(90)]}
    modes = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "I", "F")
    bilevel = ("group3", "group4", "tiff_ccitt", "packbits")
    return {
        **{f"tiff-{mode}": _saved(mode, "TIFF") for mode in modes},
        **{f"tiff-{name}": _saved("RGB", "TIFF", compression=name) for name in TIFF_COMPRESSIONS},
        **{f"tiff-1-{name}": _saved("1", "TIFF", compression=name) for name in bilevel},
        "tiff-YCbCr-jpeg": _saved("YCbCr", "TIFF", compression="jpeg"),
        "tiff-pages": _saved("RGB", "TIFF", **pages),
        "tiff-oriented": _saved("RGB", "TIFF", tiffinfo={0x0112: 6}),
        **_odd_tiffs(),
    }


def _odd_tiffs() -> dict[str, bytes]:
    """Tiled, planar, big, and of 16 bits."""
    rgb, wide = _pixels()[:, :, :3], _pixels()[:, :, :3].astype(np.uint16) * 257
    kinds = {
        "tiled": (rgb, {"tile": (16, 16)}),
        "tiled-deflate": (rgb, {"tile": (16, 16), "compression": "zlib"}),
        "planar": (np.moveaxis(rgb, 2, 0), {"planarconfig": "separate"}),
        "big": (rgb, {"bigtiff": True}),
        "big-endian": (rgb, {"byteorder": ">"}),
        "16-rgb": (wide, {}),
        "16-rgb-deflate": (wide, {"compression": "zlib", "predictor": True}),
        "16-rgb-tiled": (wide, {"tile": (16, 16)}),
        "16-planar": (np.moveaxis(wide, 2, 0), {"planarconfig": "separate"}),
        "16-big-endian": (wide, {"byteorder": ">"}),
    }
    files = {}
    for name, (pixels, options) in kinds.items():
        file = io.BytesIO()
        tifffile.imwrite(file, pixels, photometric="rgb", **options)
        files[f"tiff-{name}"] = file.getvalue()
    return files


def _by_hand() -> dict[str, bytes]:
    """Bitmaps that no library here writes: run-length encoded, and with 16 bits for three colours."""
    palette = b"".join(bytes((n, n, n, 0)) for n in range(0, 256, 16))
    runs = b"".join(bytes((8, n)) + b"\0\0" for n in range(8)) + b"\0\1"
    rle = struct.pack("<IiiHHIIiiII", 40, 8, 8, 1, 8, 1, len(runs), 0, 0, 16, 16) + palette + runs
    sixteen = struct.pack("<IiiHHIIiiII", 40, 8, -8, 1, 16, 0, 128, 0, 0, 0, 0) + bytes(range(128))
    return {"bmp-rle8": _bmp(rle, 54 + len(palette)), "bmp-16": _bmp(sixteen, 54)}


def _bmp(rest: bytes, offset: int) -> bytes:
    return b"BM" + struct.pack("<IHHI", 14 + len(rest), 0, 0, offset) + rest


def _no_images() -> dict[str, bytes]:
    """What lies in folders of images under their suffixes."""
    rgb = {name: _saved("RGB", name) for name in ("TGA", "PCX", "SGI", "ICO", "EPS", "DDS", "PDF")}
    return {
        **{name.lower(): content for name, content in rgb.items()},
        **({"avif": _saved("RGB", "AVIF")} if "AVIF" in Image.SAVE else {}),
        "html": b"<html><body>404: not found</body></html>" * 20,
        "zip": b"PK\x03\x04" + bytes(range(256)),
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "empty": b"",
    }


# --------------------------------------------------------------------------------------------- mutators


def _cut(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    return data[: rng.randrange(len(data))]


def _flip_bits(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    for _ in range(rng.choice((1, 2, 8, 64))):
        data[_place(data, rng)] ^= 1 << rng.randrange(8)
    return data


def _overwrite_run(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    start, length = _place(data, rng), rng.choice((1, 4, 16, 200))
    data[start : start + length] = bytes([rng.choice((0, 0xFF, rng.randrange(256)))]) * length
    return data


def _splice(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    start = rng.randrange(len(other)) if other else 0
    return data[: rng.randrange(len(data))] + other[start:]


def _insert_other(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    start, at = rng.randrange(len(other)) if other else 0, _place(data, rng)
    return data[:at] + other[start : start + rng.choice((1, 8, 100, 3000))] + data[at:]


def _delete(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    at = _place(data, rng)
    del data[at : at + rng.choice((1, 2, 8, 64, 500))]
    return data


def _repeat(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    at, length = _place(data, rng), rng.choice((4, 12, 64, 500))
    return data[:at] + data[at : at + length] * rng.choice((2, 3, 50)) + data[at + length :]


def _extreme_number(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    """Sizes, counts and offsets stand in the header as numbers of two or four bytes."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        kind = rng.choice(("<H", ">H", "<I", ">I"))
        at, size = _place(data, rng), struct.calcsize(kind)
        data[at : at + size] = struct.pack(kind, rng.choice(EXTREMES) & (0xFFFF if size == 2 else 0xFFFFFFFF))
    return data


def _append(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    return data + rng.choice((rng.randbytes(rng.randrange(1, 5000)), bytes(5000), other))


def _checked_png(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    """Damage inside a PNG whose checksums are right again, so that it gets past them."""
    if not data.startswith(b"\x89PNG"):
        return _flip_bits(data, rng, other)
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        end = at + 8 + length
        if end + 4 > len(data):
            break
        if length and rng.random() < 0.5:
            data[at + 8 + rng.randrange(length)] = rng.randrange(256)
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return data


def _place(data: bytearray, rng: random.Random) -> int:
    """A place in a file: half of them in its first 200 bytes, where its header is."""
    return rng.randrange(min(len(data), 200) if rng.random() < 0.5 else len(data))


MUTATORS = (
    _cut, _flip_bits, _overwrite_run, _splice, _insert_other, _delete, _repeat, _extreme_number, _append,
    _checked_png,
)  # fmt: skip


def mutated(files: dict[str, bytes], seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """So many damaged files, the same for the same seed; the name says from which and how."""
    names = sorted(files)
    for index in range(count):
        rng = random.Random(f"{seed}-{index}")
        name, other = names[index % len(names)], rng.choice(names)
        chosen = rng.sample(MUTATORS, rng.choice((1, 1, 2, 3)))
        data = bytearray(files[name])
        for mutate in chosen:
            data = mutate(data, rng, files[other]) if data else data
        yield f"{index:06} {name}: {', '.join(one.__name__.strip('_') for one in chosen)}", bytes(data)


# ------------------------------------------------------------------------------------------------ bombs


def _ihdr(width: int, height: int, bits: int = 8, colours: int = 2) -> list[tuple[bytes, bytes]]:
    return [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0))]


def _end(width: int, height: int) -> list[tuple[bytes, bytes]]:
    return [(b"IDAT", zlib.compress(bytes(height * (1 + 3 * width)))), (b"IEND", b"")]


def zeros_png(width: int, height: int, bits: int = 8, colours: int = 2) -> bytes:
    """A PNG of zeros, compressed row by row."""
    channels = {0: 1, 2: 3, 6: 4}[colours]
    row, packer, packed = bytes(1 + width * channels * bits // 8), zlib.compressobj(1), []
    for _ in range(height):
        packed.append(packer.compress(row))
    data = b"".join((*packed, packer.flush()))
    return png([*_ihdr(width, height, bits, colours), (b"IDAT", data), (b"IEND", b"")])


def _zeros(megabytes: int) -> bytes:
    return zlib.compress(bytes(megabytes * 10**6), 1)


def _png_with(kind: bytes, data: bytes) -> bytes:
    return png([*_ihdr(8, 8), (kind, data), *_end(8, 8)])


def _jpeg_with(segment: bytes, times: int) -> bytes:
    jpeg = _saved("RGB", "JPEG")
    return jpeg[:2] + segment * times + jpeg[2:]


def many_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again: each goes over the whole image."""
    file = io.BytesIO()
    Image.new("L", (side, side), 90).save(file, format="JPEG", progressive=True)
    data = file.getvalue()
    start = data.rindex(b"\xff\xda")
    return data[:-2] + data[start:-2] * scans + data[-2:]


def _saved_large(form: str, side: int, **options) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, format=form, **options)
    return file.getvalue()


def _tiff(tags: dict[int, int], counts: dict[int, int] | None = None, next_page: int = 0) -> bytes:
    """A TIFF of grey pixels with tags as they are given; counts: how many values a tag says to have."""
    usual = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 200, 277: 1, 278: 8, 279: 64}
    entries = sorted({**usual, **tags}.items())
    packed = b"".join(
        struct.pack("<HHII", tag, 4, (counts or {}).get(tag, 1), value) for tag, value in entries
    )
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + struct.pack("<I", next_page)
    return head.ljust(200, b"\0") + bytes(64)


# Small files that announce, or make, far more than they hold; made when they are needed.
BOMBS: dict[str, Callable[[], bytes]] = {
    "png of 60,000 x 60,000 zeros": lambda: zeros_png(60_000, 60_000),
    "png of 14,000 x 14,000 zeros, which is allowed": lambda: zeros_png(14_000, 14_000),
    "16-bit png of 14,000 x 14,000 zeros, which is allowed": lambda: zeros_png(14_000, 14_000, 16, 6),
    "png of 1 x 100,000,000": lambda: zeros_png(100_000_000, 1),
    "png with 100 MB of compressed text": lambda: _png_with(b"zTXt", b"a\0\0" + _zeros(100)),
    "png with 100 MB of colour profile": lambda: _png_with(b"iCCP", b"a\0\0" + _zeros(100)),
    "png with 100,000 chunks": lambda: png([*_ihdr(8, 8), *[(b"tEXt", b"a\0b")] * 100_000, *_end(8, 8)]),
    "jpeg with 16 MB of colour profile": lambda: _jpeg_with(b"\xff\xe2\xff\xff" + bytes(65_533), 255),
    "jpeg with 16 MB of EXIF": lambda: _jpeg_with(b"\xff\xe1\xff\xffExif\0\0" + bytes(65_527), 255),
    "jpeg of 14,000 x 14,000 in 400 scans": lambda: many_scans(14_000, 400),
    "webp of 16,383 x 16,383": lambda: _saved_large("WEBP", 16_383, lossless=True, method=0),
    "gif of 65,535 x 65,535": lambda: b"GIF89a\xff\xff\xff\xff" + _saved("P", "GIF")[10:],
    "ppm of 999,999,999 x 999,999,999": lambda: b"P6 999999999 999999999 255\n" + bytes(100),
    "ppm of endless digits": lambda: b"P6 " + b"9" * 5_000_000,
    "ppm-text of 1,000,000 numbers": lambda: b"P3 577 577 255\n" + b"1 " * 1_000_000,
    "tiff of 4,294,967,295 x 1": lambda: _tiff({256: 0xFFFFFFFF, 257: 1}),
    "tiff in one strip of 4 GiB": lambda: _tiff({256: 8, 257: 8, 279: 0xFFFFFFFF}),
    "tiff with tiles of 2 GiB": lambda: _tiff({322: 0x7FFFFFF0, 323: 0x7FFFFFF0, 324: 8, 325: 8}),
    "tiff with a tag of 4,294,967,295 values": lambda: _tiff({256: 8, 257: 8}, counts={273: 0xFFFFFFFF}),
    "tiff whose pages are a circle": lambda: _tiff({256: 8, 257: 8}, next_page=8),
    "tiff of deflated zeros, 14,000 x 14,000": lambda: _saved_large(
        "TIFF", 14_000, compression="tiff_deflate"
    ),
    "bmp of 2,147,483,647 x 1": lambda: _bmp(
        struct.pack("<IiiHHIIiiII", 40, 2**31 - 1, 1, 1, 24, *[0] * 6), 54
    ),
    "zeros": lambda: bytes(10_000_000),
}


# -------------------------------------------------------------------------------------------- measuring


@dataclass
class Seen:
    """What came of the files."""

    decoded: int = 0
    reasons: Counter = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")
    largest: tuple[int, str] = (0, "")
    ended: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def files(self) -> int:
        return self.decoded + self.reasons.total()

    def take(self, name: str, outcome: DecodedImage | Failure, seconds: float, memory: int) -> None:
        with self._lock:
            if isinstance(outcome, Failure):
                self.reasons[kind_of(outcome.reason)] += 1
                if outcome.reason.startswith(("crashed", "took more")):
                    self.ended.append(f"{name}: {outcome.reason}")
            else:
                assert outcome.pixels.dtype == np.uint8 and outcome.pixels.shape[2:] == (3,), name
                self.decoded += 1
            self.slowest = max(self.slowest, (seconds, name))
            self.largest = max(self.largest, (memory, name))


def kind_of(reason: str) -> str:
    """A reason without what is of the one file alone."""
    return re.sub(r"[0-9][0-9,.]*", "N", reason.split(" (")[0])[:60]


def most_memory(process: DecoderProcess) -> int:
    """The most bytes that a process has had since this was last asked."""
    running = process._process
    if running is None or running.poll() is not None:
        return 0
    folder = Path(f"/proc/{running.pid}")
    kilobytes = int(re.search(r"VmHWM:\s+(\d+)", (folder / "status").read_text())[1])
    (folder / "clear_refs").write_text("5")
    return 1024 * kilobytes


def decode_all(
    files: Iterator[tuple[str, bytes]],
    workers: int,
    keep: Path | None = None,
    seconds: float = SECONDS_PER_IMAGE,
    note: Callable[[Seen], None] = lambda seen: None,
) -> Seen:
    """Decode files in processes, as a run does, and measure each."""
    seen = Seen()
    idle: SimpleQueue[DecoderProcess] = SimpleQueue()
    processes = [DecoderProcess(Decoding(True, None, 16), seconds) for _ in range(workers)]
    for process in processes:
        idle.put(process)

    def work(name: str, content: bytes, folder: Path) -> None:
        process = idle.get()
        path = folder / str(id(process))
        path.write_bytes(content)
        began = time.monotonic()
        outcome = process.decode(name, path)
        took = time.monotonic() - began
        before = len(seen.ended)
        seen.take(name, outcome, took, most_memory(process))
        if keep and (len(seen.ended) > before or took > 5):
            (keep / re.sub(r"\W+", "-", name)).write_bytes(content)
        idle.put(process)
        note(seen)

    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            for process in processes:
                process.end_if_late()

    threading.Thread(target=watch, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as threads:
        room = threading.Semaphore(4 * workers)  # not all files at once in memory
        futures = []
        for name, content in files:
            room.acquire()
            futures.append(threads.submit(work, name, content, Path(folder)))
            futures[-1].add_done_callback(lambda _: room.release())
        for future in futures:
            future.result()
    over.set()
    for process in processes:
        process.close()
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--files", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="a folder for the files that crashed, hung or took long")
    options = parser.parse_args()

    def note(seen: Seen) -> None:
        if seen.files % 1000 == 0:
            print(f"{seen.files:,} files, {len(seen.ended)} ended their process", file=sys.stderr, flush=True)

    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    files = seeds()
    bombs = ((name, make()) for name, make in BOMBS.items())
    print(f"{len(files)} kinds of files\n")
    for what, some in (("unharmed", iter(files.items())), ("bombs", bombs)):
        print(table(what, decode_all(some, options.workers, options.keep)), flush=True)
    damaged = mutated(files, options.seed, options.files)
    print(table("mutated", decode_all(damaged, options.workers, options.keep, note=note)))


def table(what: str, seen: Seen) -> str:
    lines = [f"| {what} | {seen.files:,} files |", "|---|---|", f"| decoded | {seen.decoded:,} |"]
    lines += [f"| {reason} | {count:,} |" for reason, count in seen.reasons.most_common(12)]
    others = seen.reasons.total() - sum(count for _, count in seen.reasons.most_common(12))
    lines += [f"| refused for other reasons | {others:,} |"] if others else []
    lines += [
        f"| crashes and hangs, of which the run went on | {len(seen.ended)} |",
        f"| longest | {seen.slowest[0]:.1f} s ({seen.slowest[1]}) |",
        f"| most memory of a process | {seen.largest[0] / 2**20:,.0f} MiB ({seen.largest[1]}) |",
        *(f"\n- {line}" for line in seen.ended[:20]),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
