"""What a file is by its first bytes, where that is no image that is read."""

from __future__ import annotations

import codecs
import re

HEAD_BYTES = 512

_AGAIN = "its download or copy probably failed, so get it again"
_EXPORT = "export it as JPEG, PNG or TIFF"
# In this order; the first that fits counts.
_KINDS: tuple[tuple[re.Pattern[bytes], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), what)
    for pattern, what in (
        (rb"\0+\Z", f"a file of zeros: {_AGAIN}"),
        (rb"version https://git-lfs", "a Git LFS pointer in place of the image: `git lfs pull` gets it"),
        (rb"\s*(<!doctype html|<html|<head|<body)", f"an HTML page: {_AGAIN}"),
        (rb"\s*(<\?xml|<!--|<!doctype svg).*<svg|\s*<svg", f"an SVG drawing: {_EXPORT}"),
        (rb"\s*<\?xml", f"an XML document, perhaps a server's error message: {_AGAIN}"),
        (rb"%PDF", f"a PDF: {_EXPORT}"),
        (rb"%!PS|\xc5\xd0\xd3\xc6", f"PostScript: {_EXPORT}"),
        (rb"8BPS", f"a Photoshop document: {_EXPORT}"),
        (rb"gimp xcf", f"a GIMP document: {_EXPORT}"),
        (rb"\xff\x0a|\0\0\0\x0cJXL ", f"a JPEG XL image, which is not supported: {_EXPORT}"),
        (rb"II\xbc", f"a JPEG XR image, which is not supported: {_EXPORT}"),
        (rb"P[Ff]\s", "a float image (PFM): scale its values to 8 or 16 bits"),
        (rb"MM\0\+", f"a BigTIFF in big-endian order, which is not supported: {_EXPORT}"),
        (rb"RIFF....WAVE|ID3|OggS|fLaC", "a sound, not an image"),
        (rb"P7\s", f"a PAM image, which is not supported: {_EXPORT}"),
        (rb"v/1\x01|#\?(RADIANCE|RGBE)", f"an HDR image (OpenEXR or Radiance): {_EXPORT}"),
        (rb"FUJIFILMCCD-RAW|\0\0\0.ftypcrx |II[RU]|MMOR", f"a raw photo of a camera: {_EXPORT}"),
        (rb".{128}DICM", f"a DICOM file: {_EXPORT}"),
        (rb"SIMPLE  =", f"a FITS file: {_EXPORT}"),
        (rb"\x93NUMPY", f"a NumPy array: {_EXPORT}"),
        (rb"\x89HDF", f"an HDF5 file: {_EXPORT}"),
        (rb"PK(\x03\x04|\x05\x06)", "a ZIP archive: unpack it"),
        (rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd|.{257}ustar", "an archive: unpack it"),
        (rb"\0\x05\x16\x07", "not the image, but what macOS notes about it: delete it"),
        (rb"\0\0[\x01\x02]\0[\x01-\xff]\0", f"an icon: {_EXPORT}"),
        (rb"....ftyp(qt|isom|iso\d|mp4|M4V|avc|3g)|\x1a\x45\xdf\xa3|RIFF....AVI ", "a video: extract frames"),
    )
)  # fmt: skip
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_READ = (
    (b"\xff\xd8\xff", "JPEG"), (b"\x89PNG", "PNG"), (b"GIF8", "GIF"), (b"BM", "BMP"), (b"RIFF", "WebP"),
    (b"II*\0", "TIFF"), (b"MM\0*", "TIFF"), (b"II+\0", "TIFF"),
)  # fmt: skip
_TEXT = re.compile(rb"[\t\n\r\x20-\x7e]+")


def is_heic(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a HEIC photo."""
    if head[4:8] != b"ftyp" or head[8:12] not in _HEIC_BRANDS:
        return False
    end = int.from_bytes(head[:4], "big")
    return not any(brand in head[16:end] for brand in (b"avif", b"avis"))  # brands it is compatible with


def what_it_is(head: bytes) -> str | None:
    """What a file is, and what to do about it; None if it may be an image.

    Args:
        head: its first HEAD_BYTES bytes, or all of a smaller file.
    """
    if not head:
        return f"an empty file: {_AGAIN}"
    text = _as_ascii(head)
    for pattern, what in _KINDS:
        if pattern.match(text):
            return what
    return None


def _as_ascii(head: bytes) -> bytes:
    """The same without the mark of UTF-8; in UTF-16, its text."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return head.decode("utf-16", "replace").encode("ascii", "replace")
    return head.removeprefix(codecs.BOM_UTF8)


def unidentified(head: bytes) -> str:
    """What is said of a file that `what_it_is` does not know, and no decoder either."""
    for start, name in _READ:
        if head.startswith(start):
            return f"a {name} file whose header is damaged or cut off: {_AGAIN}"
    if is_heic(head):
        return f"a HEIC photo whose header is damaged or cut off: {_AGAIN}"
    if _TEXT.fullmatch(_as_ascii(head)):
        return "not an image, but a text file"
    return "not an image, or of a format that is not supported"
