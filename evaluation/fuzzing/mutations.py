"""Damage to files: cut, bits flipped, runs overwritten, spliced with others, sizes set to extremes."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1_000_000)


def cut(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    return data[: rng.randrange(len(data))]


def flip_bits(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    for _ in range(rng.choice((1, 2, 8, 64))):
        data[place(data, rng)] ^= 1 << rng.randrange(8)
    return data


def overwrite_run(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    start, length = place(data, rng), rng.choice((1, 4, 16, 200))
    data[start : start + length] = bytes([rng.choice((0, 0xFF, rng.randrange(256)))]) * length
    return data


def splice(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    start = rng.randrange(len(other)) if other else 0
    return data[: rng.randrange(len(data))] + other[start:]


def insert_other(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    start, at = rng.randrange(len(other)) if other else 0, place(data, rng)
    return data[:at] + other[start : start + rng.choice((1, 8, 100, 3000))] + data[at:]


def delete(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    at = place(data, rng)
    del data[at : at + rng.choice((1, 2, 8, 64, 500))]
    return data


def repeat(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    at, length = place(data, rng), rng.choice((4, 12, 64, 500))
    return data[:at] + data[at : at + length] * rng.choice((2, 3, 50)) + data[at + length :]


def extreme_number(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    """Numbers of two or four bytes, as which sizes, counts and offsets are written in headers."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        kind = rng.choice(("<H", ">H", "<I", ">I"))
        at, size = place(data, rng), struct.calcsize(kind)
        data[at : at + size] = struct.pack(kind, rng.choice(EXTREMES) & (0xFFFF if size == 2 else 0xFFFFFFFF))
    return data


def append(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    return data + rng.choice((rng.randbytes(rng.randrange(1, 5000)), bytes(5000), other))


def checked_png(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    """Damage inside a PNG with its checksums put right, so that it gets past them."""
    if not data.startswith(b"\x89PNG"):
        return flip_bits(data, rng, other)
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


def place(data: bytearray, rng: random.Random) -> int:
    """A place in a file: half of them in its first 200 bytes, where its header is."""
    return rng.randrange(min(len(data), 200) if rng.random() < 0.5 else len(data))


MUTATORS = (
    cut, flip_bits, overwrite_run, splice, insert_other, delete, repeat, extreme_number, append,
    checked_png,
)  # fmt: skip


def mutated(files: dict[str, bytes], seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Damaged files, the same for the same seed; a name tells which file was damaged, and how."""
    names = sorted(files)
    for index in range(count):
        rng = random.Random(f"{seed}-{index}")
        name, other = names[index % len(names)], rng.choice(names)
        chosen = rng.sample(MUTATORS, rng.choice((1, 1, 2, 3)))
        data = _apply(chosen, files[name], files[other], rng)
        yield f"{index:06} {name}: {', '.join(one.__name__ for one in chosen)}", data


def mutated_bytes(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """One damaged copy of a file."""
    return _apply(rng.sample(MUTATORS, rng.choice((1, 1, 2))), data, other, rng)


def _apply(
    chosen: Sequence[Callable[..., bytearray]], data: bytes, other: bytes, rng: random.Random
) -> bytes:
    damaged = bytearray(data)
    for mutate in chosen:
        damaged = mutate(damaged, rng, other) if damaged else damaged
    return bytes(damaged)
