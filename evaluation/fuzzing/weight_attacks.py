"""Weight files, heads, register neurons and detector folders that were made to harm who reads them."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

import lost_reg
from fuzzing.pickle_attacks import bombs, code, old_file, pair, tensors, text

BUNDLED = Path(lost_reg.__file__).parent / "backbones" / "bundled" / "tiny.safetensors"
NAME = "cls_token"  # of the tensor that is hostile


@dataclass(frozen=True)
class Attack:
    """A hostile file. kind, what: in words. reader: which command reads it. name: of its file or folder."""

    kind: str
    what: str
    reader: str
    name: str
    write: Callable[[Path], object]


def attacks(canary: str) -> Iterator[Attack]:
    """All of them; code in them would make the file `canary`."""
    named = [*_named("code", code(canary)), *_named("bomb", bombs())]
    for kind, what, body in named:
        content = b"\x80\x04" + pair(text("a.jpg"), body) + b"."
        yield _file(f"LOST pickle: {kind}", what, "corloc", "a.pkl", content)
    for kind, what, body in [*named, *_named("tensor", tensors())]:
        whole = pair(text(NAME), body)
        yield _file(f"old .pth: {kind}", what, "weights", "a.pth", old_file(whole))
        yield _file(f"zip .pt: {kind}", what, "weights", "a.pt", zipped(b"\x80\x02" + whole + b"."))
    for what, content in _archives().items():
        yield _file("zip .pt: archive", what, "weights", "a.pt", content)
    for what, content in _safetensors().items():
        yield _file("safetensors", what, "weights", "a.safetensors", content)
    for what, state in _states().items():
        for form in ("a.pth", "a.safetensors"):
            if form.endswith(".pth") or what not in _NOT_SAFETENSORS:
                yield Attack("weights: kind of tensor", f"{what} in {form}", "weights", form, _saver(state))
    yield from _folders(canary)
    for kind, what, content in _named("JSON", _texts()):
        for reader, name in (
            ("head", "head.json"),
            ("neurons", "neurons.json"),
            ("weights", "w/model.safetensors.index.json"),
        ):
            yield _file(f"{reader}: {kind}", what, reader, name, content)
    for what, change in _detectors().items():
        yield Attack("detector folder", what, "detector", "detector", change)
    yield Attack(
        "a hole", "1 TiB of zeros as .pth", "weights", "a.pth", lambda path: _hole(path, b"\x80\x02")
    )
    yield Attack("a hole", "1 TiB as .safetensors", "weights", "a.safetensors", lambda path: _hole(path, b""))
    yield Attack("a hole", "1 TiB as a LOST pickle", "corloc", "a.pkl", lambda path: _hole(path, b"\x80\x04"))


def _named(kind: str, bodies: dict[str, bytes]) -> list[tuple[str, str, bytes]]:
    return [(kind, what, body) for what, body in bodies.items()]


def _file(kind: str, what: str, reader: str, name: str, content: bytes) -> Attack:
    return Attack(kind, what, reader, name, lambda path: path.write_bytes(content))


def _hole(path: Path, start: bytes) -> None:
    with path.open("wb") as file:
        file.write(start)
        file.truncate(2**40)


# --- torch's archives --------------------------------------------------------------------------------


def zipped(pickled: bytes, storage: bytes = bytes(8), compression: int = zipfile.ZIP_STORED) -> bytes:
    """A file of torch.save: this pickle, and a storage "0"."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in (("data.pkl", pickled), ("byteorder", b"little"), ("data/0", storage)):
            archive.writestr(f"archive/{name}", content)
    return file.getvalue()


def _archives() -> dict[str, bytes]:
    from fuzzing.pickle_attacks import storage, tensor

    good = b"\x80\x02" + pair(text(NAME), tensor(storage("0", 2), (2,), (1,))) + b"."
    big = b"\x80\x02" + pair(text(NAME), tensor(storage("0", 2**26), (2**26,), (1,))) + b"."
    whole = zipped(good)
    directory = whole.index(b"PK\x01\x02")
    of_storage, end = whole.rindex(b"PK\x01\x02"), whole.rindex(b"PK\x05\x06")

    def patched(at: int, content: bytes) -> bytes:
        return whole[:at] + content + whole[at + len(content) :]

    extra = struct.pack("<HHQQ", 1, 16, 2**60, 2**60)
    many = io.BytesIO()
    with zipfile.ZipFile(many, "w") as archive:
        for index in range(200_000):
            archive.writestr(f"archive/data/{index}", b"")
    return {
        "a storage of 256 MiB in 256 KiB": zipped(big, bytes(2**28), zipfile.ZIP_DEFLATED),
        "a storage of 256 MiB by LZMA": zipped(big, bytes(2**28), zipfile.ZIP_LZMA),
        "a storage that says to have 4 GiB": patched(of_storage + 20, b"\xff" * 8),
        "a storage that says to expand to 4 GiB": patched(of_storage + 24, struct.pack("<I", 2**32 - 2)),
        "a pickle that says to have 4 GiB": patched(directory + 20, struct.pack("<II", 2**32 - 2, 2**32 - 2)),
        "records that overlap": patched(of_storage + 42, struct.pack("<I", 0)),
        "a record beyond the end": patched(of_storage + 42, struct.pack("<I", 2**31)),
        "a record that is encrypted": patched(of_storage + 8, b"\x01\x00"),
        "a record of an unknown compression": patched(of_storage + 10, b"\x63\x00"),
        "zip64 sizes of 2 ** 60": b"\x14\x00".join((whole[: of_storage + 30], whole[of_storage + 32 : end]))
        + extra
        + whole[end:],
        "a directory of 4 GiB": patched(end + 12, struct.pack("<I", 2**32 - 1)),
        "a directory that begins beyond the end": patched(end + 16, struct.pack("<I", 2**31)),
        "65,535 records that are not there": patched(end + 8, b"\xff\xff\xff\xff"),
        "200,000 records": many.getvalue(),
        "two pickles": whole[:end] + whole[directory:of_storage] + whole[end:],
        "no pickle": whole.replace(b"data.pkl", b"data.pkx"),
        "a program": whole.replace(b"archive/byteorder", b"arc/constants.pkl"),
        "cut off": whole[: len(whole) // 2],
        "names that lead out": whole.replace(b"archive/data/0", b"../../../etc/0"),
    }  # fmt: skip


# --- tensors that are no weights ---------------------------------------------------------------------

_NOT_SAFETENSORS = ("sparse", "quantised", "on meta", "expanded to 2 ** 30")


def _states() -> dict[str, dict[str, Tensor]]:
    """The weights of `tiny` with one tensor of another kind."""
    state = load_file(BUNDLED)
    one = state[NAME]
    nan, infinite = one.clone(), one.clone()
    nan.view(-1)[3], infinite.view(-1)[3] = torch.nan, -torch.inf
    kinds = {
        "complex": one.to(torch.complex64),
        "boolean": one > 0,
        "whole numbers": (one * 100).long(),
        "bytes": (one * 100).to(torch.int8),
        "sparse": one.to_sparse(),
        "quantised": torch.quantize_per_tensor(one.float(), 0.1, 0, torch.qint8),
        "on meta": one.to("meta"),
        "with NaN": nan,
        "with infinity": infinite,
        "of another shape": one[..., :3].contiguous(),
        "empty": one[..., :0].contiguous(),
        "without dimensions": torch.tensor(1.0),
        "expanded to 2 ** 30": torch.zeros(1).expand(2**30),
    }
    return {what: {**state, NAME: tensor} for what, tensor in kinds.items()}


def _saver(state: dict[str, Tensor]) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        if path.suffix == ".pth":
            torch.save(state, path)
        else:
            path.write_bytes(save(state))

    return write


def _safetensors() -> dict[str, bytes]:
    def headed(header: Any, data: bytes = bytes(8), length: int | None = None) -> bytes:
        content = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(content) if length is None else length) + content + data

    def one(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
        return {NAME: {"dtype": dtype, "shape": shape, "data_offsets": offsets}}

    return {
        "a header of 2 ** 63 bytes": headed(one(), length=2**63),
        "a header of 2 ** 40 bytes": headed(one(), length=2**40),
        "a header of the whole file": headed(one(), length=10**5),
        "a header of 0 bytes": headed(one(), length=0),
        "a header of 99 MB of blanks": headed(b" " * 99_000_000),
        "a header nested 100,000 deep": headed(b'{"a":' * 100_000),
        "a million tensors of one place": headed({f"{NAME}{index}": one()[NAME] for index in range(200_000)}),
        "data beyond the file": headed(one(offsets=(0, 2**40), shape=(2**38,))),
        "data before the file": headed(one(offsets=(-8, 0))),
        "an end before its start": headed(one(offsets=(8, 0))),
        "a shape that overflows": headed(one(shape=(2**33, 2**33))),
        "a negative shape": headed(one(shape=(-1, -2))),
        "a shape of 100,000 dimensions": headed(one(shape=(1,) * 100_000)),
        "no shape": headed({NAME: {"dtype": "F32", "data_offsets": (0, 8)}}),
        "an unknown type": headed(one(dtype="F33")),
        "8-bit floats": headed(one(dtype="F8_E5M2", shape=(8,))),
        "4-bit floats": headed(one(dtype="F4", shape=(16,))),
        "one name twice": headed(json.dumps(one()).encode()[:-1] + b", " + json.dumps(one()).encode()[1:]),
        "a name with control characters": headed({"\x1b[2J\n": one()[NAME]}),
        "a name of 1 MB": headed({"a" * 10**6: one()[NAME]}),
        "metadata that are no texts": headed({"__metadata__": {"a": [1]}, **one()}),
        "no JSON": headed(b"\xff\xfe" * 50),
    }


# --- folders and texts -------------------------------------------------------------------------------


def _folders(canary: str) -> Iterator[Attack]:
    """Folders as transformers writes them, whose index and shards are hostile."""
    hostile = old_file(pair(text(NAME), code(canary)["posix.system by REDUCE"]))
    names: dict[str, Any] = {
        "a shard that executes": "pytorch_model-1.bin",
        "a shard elsewhere": "../../../../../../../../etc/passwd",
        "a shard by an absolute path": "/etc/passwd",
        "a shard that is a number": 5,
        "a shard that is the index": "pytorch_model.bin.index.json",
        "a shard of a name of 10,000 letters": "a" * 10_000,
        "a shard with a NUL": "a\0b",
    }
    for what, name in names.items():

        def write(path: Path, name: Any = name) -> None:
            (path.parent / "pytorch_model-1.bin").write_bytes(hostile)
            path.write_text(json.dumps({"weight_map": {NAME: name, "pos_embed": name}}))

        yield Attack(".bin in shards", what, "weights", "w/pytorch_model.bin.index.json", write)


def _texts() -> dict[str, bytes]:
    """JSON that is read as heads, as neurons, and as an index of shards."""
    return {
        "nothing": b"",
        "nested 1,000,000 deep": b"[" * 1_000_000,
        "objects nested 1,000,000 deep": b'{"a":' * 1_000_000,
        "a number of 1,000,000 digits": b'{"weight": [' + b"9" * 1_000_000 + b"], \"bias\": 0}",
        "ten million numbers": b'{"weight": [' + b"0," * 10_000_000 + b'0], "bias": 0}',
        "NaN": b'{"weight": [NaN], "bias": Infinity, "neurons": [[NaN, 0]], "weight_map": NaN}',
        "lists for texts": b'{"weight": "a", "features": [], "neurons": {"a": []}, "weight_map": [[]]}',
        "a lone surrogate": b'{"weight": ["\\ud800"], "neurons": "\\ud800", "weight_map": {"a": "\\ud800"}}',
        "no UTF-8": b'{"\xff\xfe": 1}',
    }  # fmt: skip


def _detectors() -> dict[str, Callable[[Path], object]]:
    """Changes to a sound folder."""

    def record(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
        def write(folder: Path) -> None:
            path = folder / "detector.json"
            content = json.loads(path.read_text())
            change(content)
            path.write_text(json.dumps(content))

        return write

    def weights(content: bytes) -> Callable[[Path], object]:
        return lambda folder: (folder / "model.safetensors").write_bytes(content)

    def foreign(source: str, file: str) -> Callable[[Path], None]:
        recorded = {"source": source, "name": file, "sha256": None}
        return record(lambda one: one["vit"].update(weights=recorded, weights_file=file))

    return {
        "weights of others": foreign("file", "/etc/passwd"),
        "weights of others as an id of the Hub": foreign("hub", "/etc/passwd"),
        "a billion channels": record(lambda one: one["config"].update(channels=10**9)),
        "images of a billion pixels": record(lambda one: one["config"].update(max_size=10**9)),
        "a billion proposals": record(lambda one: one["config"].update(proposals=[10**9, 10**9])),
        "a million classes": record(lambda one: one.update(classes=["a"] * 10**6)),
        "a ViT that is a list": record(lambda one: one.update(vit=[])),
        "another backbone": record(lambda one: one["config"].update(backbone="resnet50")),
        "weights of another model": weights(BUNDLED.read_bytes()),
        **{f"weights: {what}": weights(content) for what, content in _safetensors().items()},
    }
