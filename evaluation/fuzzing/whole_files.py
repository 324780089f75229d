"""Small real files of each format and mode that the reader supports, and of some that it does not."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import tifffile
from PIL import Image, PngImagePlugin

from lost_reg.images.reading import heif_is_readable

SIZE_HW = (37, 53)  # odd, so that rows and tiles do not come out even
TIFF_COMPRESSIONS = (
    "raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "lzma",
)  # fmt: skip


def whole_files() -> dict[str, bytes]:
    """Files by name, such as "png-RGB"."""
    return {**_jpegs(), **_pngs(), **_others(), **_tiffs(), **_by_hand(), **_no_images()}


def pixels() -> np.ndarray:
    """SIZE_HW + (4,) uint8: smooth colours."""
    rng = np.random.default_rng(0)
    coarse = cv2.resize(
        rng.integers(0, 256, (4, 5, 4), np.uint8), SIZE_HW[::-1], interpolation=cv2.INTER_CUBIC
    )
    return np.ascontiguousarray(coarse)


def image(mode: str) -> Image.Image:
    """The same in a mode of PIL."""
    rgba = Image.fromarray(pixels())
    if mode == "P":
        return rgba.convert("RGB").quantize(16)
    if mode in ("I;16", "I", "F"):
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        return Image.fromarray(pixels()[:, :, 0].astype(kind) * 257)
    return rgba.convert("RGB").convert(mode) if mode != "RGBA" else rgba


def saved(mode: str, form: str, **options) -> bytes:
    """The content of its file in a format of PIL."""
    file = io.BytesIO()
    image(mode).save(file, format=form, **options)
    return file.getvalue()


def _jpegs() -> dict[str, bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [image("RGB"), image("RGB").rotate(90)]
    return {
        "jpeg-baseline": saved("RGB", "JPEG"),
        "jpeg-progressive": saved("RGB", "JPEG", progressive=True),
        "jpeg-without-end": saved("RGB", "JPEG").removesuffix(b"\xff\xd9"),
        "jpeg-grey": saved("L", "JPEG"),
        "jpeg-cmyk": saved("CMYK", "JPEG"),
        "jpeg-444-restarts": saved("RGB", "JPEG", subsampling=0, restart_marker_blocks=2),
        "jpeg-exif-icc": saved("RGB", "JPEG", exif=exif, icc_profile=bytes(3000), comment=b"hello"),
        "mpo": saved("RGB", "MPO", save_all=True, append_images=frames[1:]),
    }


def _pngs() -> dict[str, bytes]:
    text = PngImagePlugin.PngInfo()
    text.add_itxt("Title", "a title", zip=True)
    wide = pixels().astype(np.uint16) * 257
    return {
        **{f"png-{mode}": saved(mode, "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")},
        "png-P-transparent": saved("P", "PNG", transparency=bytes(range(16))),
        "png-RGB-transparent": saved("RGB", "PNG", transparency=(1, 2, 3)),
        "png-text-icc": saved("RGB", "PNG", pnginfo=text, icc_profile=bytes(3000)),
        "png-animated": saved("RGB", "PNG", save_all=True, append_images=[image("RGB").rotate(90)]),
        "png-interlaced": interlaced_png(pixels()[:, :, :3]),
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
    wide = pixels()[:, :, :3].astype(np.uint16) * 257
    frames = {"save_all": True, "append_images": [image("RGB").rotate(90)]}
    return {
        **{f"bmp-{mode}": saved(mode, "BMP") for mode in ("1", "L", "P", "RGB", "RGBA")},
        "webp-lossy": saved("RGB", "WEBP"),
        "webp-lossless": saved("RGB", "WEBP", lossless=True),
        "webp-alpha": saved("RGBA", "WEBP"),
        "webp-animated": saved("RGB", "WEBP", **frames),
        "gif": saved("P", "GIF"),
        "gif-animated": saved("RGB", "GIF", **frames),
        "ppm": saved("RGB", "PPM"),
        "pgm": saved("L", "PPM"),
        "pbm": saved("1", "PPM"),
        "ppm-16": cv2.imencode(".ppm", wide)[1].tobytes(),
        "ppm-text": b"P3 4 3 255\n" + b" ".join(b"%d" % (7 * n) for n in range(36)),
        "jpeg2000": saved("RGB", "JPEG2000"),
        "avif": saved("RGB", "AVIF"),
        "avif-alpha": saved("RGBA", "AVIF"),
        **({"heic": saved("RGB", "HEIF"), "heic-alpha": saved("RGBA", "HEIF")} if heif_is_readable() else {}),
        "jpeg2000-lossy": saved("RGB", "JPEG2000", irreversible=True, num_resolutions=3, quality_layers=[20]),
    }


def _tiffs() -> dict[str, bytes]:
    pages = {"save_all": True, "append_images": [image("RGB").rotate(90)]}
    modes = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "I", "F")
    bilevel = ("group3", "group4", "tiff_ccitt", "packbits")
    return {
        **{f"tiff-{mode}": saved(mode, "TIFF") for mode in modes},
        **{f"tiff-{name}": saved("RGB", "TIFF", compression=name) for name in TIFF_COMPRESSIONS},
        **{f"tiff-1-{name}": saved("1", "TIFF", compression=name) for name in bilevel},
        "tiff-YCbCr-jpeg": saved("YCbCr", "TIFF", compression="jpeg"),
        "tiff-pages": saved("RGB", "TIFF", **pages),
        "tiff-oriented": saved("RGB", "TIFF", tiffinfo={0x0112: 6}),
        **_odd_tiffs(),
    }


def _odd_tiffs() -> dict[str, bytes]:
    """Tiled, planar, big, and of 16 bits."""
    rgb, wide = pixels()[:, :, :3], pixels()[:, :, :3].astype(np.uint16) * 257
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
        "16-alpha": (np.dstack([wide, wide[:, :, 0]]), {"extrasamples": ["assocalpha"]}),
    }
    files = {}
    for name, (values, options) in kinds.items():
        file = io.BytesIO()
        tifffile.imwrite(file, values, photometric="rgb", **options)
        files[f"tiff-{name}"] = file.getvalue()
    return files


def _by_hand() -> dict[str, bytes]:
    """Bitmaps that no library here writes: run-length encoded, and 16 bits for three colours."""
    palette = b"".join(bytes((n, n, n, 0)) for n in range(0, 256, 16))
    runs = b"".join(bytes((8, n)) + b"\0\0" for n in range(8)) + b"\0\1"
    rle = struct.pack("<IiiHHIIiiII", 40, 8, 8, 1, 8, 1, len(runs), 0, 0, 16, 16) + palette + runs
    sixteen = struct.pack("<IiiHHIIiiII", 40, 8, -8, 1, 16, 0, 128, 0, 0, 0, 0) + bytes(range(128))
    return {"bmp-rle8": bmp(rle, 54 + len(palette)), "bmp-16": bmp(sixteen, 54)}


def bmp(rest: bytes, offset: int) -> bytes:
    """A bitmap of all that follows its file header."""
    return b"BM" + struct.pack("<IHHI", 14 + len(rest), 0, 0, offset) + rest


def _no_images() -> dict[str, bytes]:
    """Other files that lie in folders of images under their suffixes."""
    rgb = {name: saved("RGB", name) for name in ("TGA", "PCX", "SGI", "ICO", "EPS", "DDS", "PDF")}
    return {
        **{name.lower(): content for name, content in rgb.items()},
        "html": b"<html><body>404: not found</body></html>" * 20,
        "zip": b"PK\x03\x04" + bytes(range(256)),
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "empty": b"",
    }
