"""Files of torch.save, with torch.load as the oracle, and files that would harm its readers."""

from __future__ import annotations

import argparse
import collections
import io
import pickle
import struct
import tempfile
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from backbone_cases import dino_state, saved
from helpers import refusal
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lost_reg.backbones import torch_files
from lost_reg.backbones.checkpoint_files import read_tensors

OLD, NEW = {"_use_new_zipfile_serialization": False}, {}
FORMATS = pytest.mark.parametrize("how", [OLD, NEW], ids=["old", "new"])
# opcodes of torch's own pickles
TENSOR, STORAGE = b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n"
ORDERED = b"ccollections\nOrderedDict\n"


def both(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of a file of one dictionary, by torch and by lost-reg."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        theirs = torch.load(path, map_location="cpu", weights_only=True)
    return theirs, dict(read_tensors(path))


def assert_same(path: Path) -> None:
    theirs, ours = both(path)
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        same_bits = torch.equal(ours[name].contiguous().view(-1), tensor.contiguous().view(-1))
        assert ours[name].dtype == tensor.dtype and ours[name].shape == tensor.shape and same_bits, name


DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
    torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128,
]  # fmt: skip


@FORMATS
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_tensors_of_every_type_are_those_of_torch(how, protocol, tmp_path):
    values = {str(dtype): (torch.arange(6) - 2).to(dtype).reshape(2, 3) for dtype in DTYPES}
    content = collections.OrderedDict(values, parameter=torch.nn.Parameter(torch.rand(3)))
    torch.save(content, tmp_path / "a.pth", pickle_protocol=protocol, **how)
    if protocol == 2:
        assert_same(tmp_path / "a.pth")
    read = read_tensors(tmp_path / "a.pth")
    assert all(torch.equal(read[name], tensor) for name, tensor in content.items())


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.uint16, torch.uint64], ids=str)
def test_types_without_a_storage_of_their_own_are_read(dtype, tmp_path):
    tensor = torch.arange(6).to(dtype)[1:]
    read = read_tensors(saved(tmp_path / "a.pth", {"a": tensor}))["a"]
    assert read.dtype == dtype and torch.equal(read.float(), tensor.float())


@FORMATS
def test_views_are_those_of_torch(how, tmp_path):
    whole = torch.arange(24.0).reshape(4, 6)
    content = {
        "whole": whole, "row": whole[2], "transposed": whole.T, "steps": whole[::2, 1::2],
        "expanded": torch.arange(3.0).expand(4, 3), "empty": torch.zeros(0, 3), "scalar": torch.tensor(7.0),
        "parameter": torch.nn.Parameter(whole), "again": whole, "last": whole[-1, -1:],
    }  # fmt: skip
    torch.save(content, tmp_path / "a.pth", **how)
    assert_same(tmp_path / "a.pth")


@FORMATS
def test_attributes_and_what_else_a_checkpoint_holds_do_not_matter(how, tmp_path):
    tensor = torch.rand(3)
    tensor.note = "kept by torch"
    content = {"a": tensor, "epoch": 3, "args": argparse.Namespace(lr=[0.1], sizes={1, 2}), "raw": b"\xff"}
    torch.save({**content, 5: {"b": tensor}, None: tensor, (1, 2): tensor}, tmp_path / "a.pth", **how)
    read = read_tensors(tmp_path / "a.pth")
    assert list(read) == ["a", "5.b"] and torch.equal(read["5.b"], tensor)


@given(data=st.data())
def test_any_view_of_any_storage_is_that_of_torch(data):
    whole = torch.arange(60.0)
    shape = data.draw(st.lists(st.integers(0, 4), max_size=3))
    strides = [data.draw(st.integers(0, 4)) for _ in shape]
    view = whole.as_strided(shape, strides, data.draw(st.integers(0, 8)))
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({"a": view}, file, _use_new_zipfile_serialization=data.draw(st.booleans()))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.pth")
        path.write_bytes(file.getvalue())
        assert_same(path)


def test_a_tensor_that_is_not_asked_for_is_not_read(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.pth", {"wanted": torch.ones(2), "optimizer": torch.zeros(1000)})
    read = read_tensors(path)
    monkeypatch.setattr(torch, "from_file", None)
    assert "wanted is damaged" in refusal(read.__getitem__, "wanted")  # nothing was mapped before


# --- attacks ---------------------------------------------------------------------------------------


def old(pickled: bytes, *storages: tuple[str, bytes]) -> bytes:
    """A file of the old format: this pickle, and the storages, each of so many floats."""
    head = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})
    keys = pickle.dumps([key for key, _ in storages], 2)
    raw = b"".join(struct.pack("<q", len(content) // 4) + content for _, content in storages)
    return b"".join(pickle.dumps(one, 2) for one in head) + b"\x80\x02" + pickled + b"." + keys + raw


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def storage(key: str, length: int) -> bytes:
    return (
        b"(" + text("storage") + STORAGE + text(key) + text("cpu") + b"J" + struct.pack("<i", length) + b"NtQ"
    )


def tensor(of: bytes, shape: bytes, strides: bytes, offset: bytes = b"K\x00") -> bytes:
    return TENSOR + b"(" + of + offset + shape + strides + b"\x89" + ORDERED + b")RtR"


def refused(path: Path, content: bytes) -> str:
    path.write_bytes(content)

    def read() -> None:
        for one in read_tensors(path).values():
            one.sum()

    line = refusal(read)
    assert str(path) in line and "\n" not in line
    return line


def test_the_attacks_are_well_formed(tmp_path):
    content = old(
        b"}" + text("a") + tensor(storage("0", 2), b"K\x02\x85", b"K\x01\x85") + b"s", ("0", bytes(8))
    )
    (tmp_path / "a.pth").write_bytes(content)
    assert torch.equal(read_tensors(tmp_path / "a.pth")["a"], torch.zeros(2))
    assert torch.equal(torch.load(tmp_path / "a.pth", weights_only=True)["a"], torch.zeros(2))


def test_ordered_dictionaries_of_python_2_are_read(tmp_path):
    """There, pickle calls OrderedDict with a list of pairs."""
    pairs = b"](](" + text("a") + tensor(storage("0", 2), b"K\x02\x85", b"K\x01\x85") + b"ee\x85R"
    (tmp_path / "a.pth").write_bytes(old(ORDERED + pairs, ("0", struct.pack("<2f", 3, 4))))
    assert_same(tmp_path / "a.pth")
    assert read_tensors(tmp_path / "a.pth")["a"].tolist() == [3, 4]


PAIR, HUGE = storage("0", 2), b"\x8a\x08" + struct.pack("<q", 2**40)
TWO, ONE = b"K\x02\x85", b"K\x01\x85"  # a shape or strides of one dimension
MANY = b"(" + b"K\x01" * 99 + b"t"


def test_tuples_too_deep_to_be_hashed_do_no_harm(tmp_path):
    """Two megabytes once crashed the process."""
    content = old(b"}N" + b"\x85" * 300_000 + b"Ns")
    assert "holds no weights" in refused(tmp_path / "a.pth", content)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"cbuiltins\nbytearray\n" + HUGE + b"\x85R", "holds no weights"),
        (b"ctorch\nFloatTensor\n" + HUGE + b"\x85R", "holds no weights"),
        (tensor(PAIR, HUGE + b"\x85", b"K\x00\x85"), "over 8 times those of the file"),
        (tensor(PAIR, TWO, TWO), "outside of its storage"),
        (tensor(PAIR, TWO, ONE, b"K\x01"), "outside of its storage"),
        (tensor(PAIR, TWO, b"J\xff\xff\xff\xff\x85"), "an impossible shape"),
        (tensor(PAIR, b"J\xff\xff\xff\xff\x85", ONE), "an impossible shape"),
        (tensor(PAIR, MANY, MANY), "too many dimensions"),
        (tensor(PAIR, TWO, b")"), "damaged"),
        (tensor(storage("0", 9), TWO, ONE), "has 8 bytes for 9 of torch.float32"),
        (tensor(storage("1", 2), TWO, ONE), "damaged"),
        (tensor(b"K\x05", TWO, ONE), "damaged"),
        (b"cposix\nsystem\n" + text("true") + b"\x85R", "asks for posix.system"),
        (b"ctorch._utils\n_rebuild_device_tensor_from_numpy\ncnumpy\nload\n\x85R", "asks for numpy.load"),
        (b"ctorch.hub\nload\n)R", "asks for torch.hub.load"),
        (b"ctorch\nload\n)R", "asks for torch.load"),
    ],
)
def test_an_attack_by_pickle_is_refused_without_a_call(value, reason, tmp_path):
    content = old(b"}" + text("a") + value + b"s", *([("0", bytes(8))] if b"storage" in value else []))
    tracemalloc.start()
    try:
        assert reason in refused(tmp_path / "a.pth", content)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 10e6


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2J", "a" * 2000])
def test_a_name_that_a_terminal_cannot_show_is_refused(name, tmp_path):
    content = old(b"}" + text(name) + tensor(PAIR, TWO, ONE) + b"s", ("0", bytes(8)))
    assert f"odd name {name[:50]!r}" in refused(tmp_path / "a.pth", content)
    path = saved(tmp_path / "a.safetensors", {name: torch.zeros(2)})
    assert f"odd name {name[:50]!r}" in refusal(read_tensors, path)


def laughing(levels: int, leaf: bytes) -> bytes:
    """Dictionaries whose two values are both the one before: 2 ** levels leaves."""
    body = leaf + b"q\x000"
    for level in range(levels):
        body += b"}q%c(" % (level + 1) + text("a") + b"h%c" % level + text("b") + b"h%c" % level + b"u0"
    return body + b"h%c" % levels


def test_dictionaries_that_share_their_values_are_walked_so_far(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_files, "_MOST_CHARACTERS", 100_000)
    assert "too many nested names" in refused(tmp_path / "a.pth", old(laughing(60, b"}")))
    cyclic = b"}q\x00" + text("a") + b"h\x00s"
    assert "too many nested names" in refused(tmp_path / "a.pth", old(cyclic))
    shared = {"model": dino_state()}
    assert len(read_tensors(saved(tmp_path / "b.pth", shared | {"ema": shared["model"]}))) == 2 * len(
        dino_state()
    )


def test_many_tensors_of_one_storage_are_no_more_than_some_times_the_file(tmp_path):
    whole = torch.zeros(100_000)
    path = saved(tmp_path / "a.pth", dict.fromkeys(map(str, range(7)), whole))
    assert len(read_tensors(path)) == 7
    saved(path, dict.fromkeys(map(str, range(9)), whole))
    assert "its tensors take 3,600,000 bytes, over 8 times those of the file" in refusal(read_tensors, path)


def rezipped(path: Path, change=lambda name, content: content, compression=zipfile.ZIP_STORED) -> Path:
    """The archive again, with other contents of its records."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(name, change(name, content))
    return path


def test_an_archive_by_another_program_is_read(tmp_path):
    path = saved(tmp_path / "a.pth", {"a": torch.arange(5.0)})
    assert torch.equal(read_tensors(rezipped(path))["a"], torch.arange(5.0))


@pytest.mark.parametrize("record", ["data.pkl", "byteorder", "data/0"])
def test_a_compressed_record_is_not_inflated(record, tmp_path, monkeypatch):
    """3 MB of records once took 3.6 GB."""
    path = saved(tmp_path / "a.pth", {"a": torch.zeros(1000)})
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            kind = zipfile.ZIP_DEFLATED if name.endswith(record) else zipfile.ZIP_STORED
            archive.writestr(name, content, compress_type=kind)
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    assert "is compressed, which torch.save never does" in refused(path, path.read_bytes())


@pytest.mark.parametrize("change", [lambda content: content[:-4], lambda content: content + bytes(4)])
def test_a_record_has_the_size_of_its_storage(change, tmp_path):
    path = saved(tmp_path / "a.pth", {"a": torch.zeros(1000)})
    rezipped(path, lambda name, content: change(content) if name.endswith("data/0") else content)
    assert "for 1,000 of torch.float32" in refused(path, path.read_bytes())


def test_an_archive_of_endless_records_is_refused_by_the_length_of_their_list(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_files, "_MOST_OF_DIRECTORY", 1000)
    path = saved(tmp_path / "a.pth", {str(index): torch.zeros(1) for index in range(20)})
    monkeypatch.setattr(zipfile, "ZipFile", None)
    assert "list of records is longer than 1,000 bytes" in refused(path, path.read_bytes())


@pytest.mark.parametrize("order", [b"big", b"", b"little-or-not"])
def test_another_byte_order_is_refused(order, tmp_path):
    path = saved(tmp_path / "a.pth", {"a": torch.zeros(10)})
    rezipped(path, lambda name, content: order if name.endswith("byteorder") else content)
    if order.startswith(b"little"):
        read_tensors(path)
    else:
        assert "big-endian" in refused(path, path.read_bytes())


def test_a_pickle_that_torch_did_not_write_is_refused(tmp_path):
    line = refused(tmp_path / "a.pth", pickle.dumps({"a": [1.0, 2.0]}))
    assert line.endswith("it is a pickle, but not one of torch.save")


@FORMATS
def test_flipped_bytes_never_do_anything_but_read_or_refuse(how, tmp_path):
    generator = torch.Generator().manual_seed(0)
    torch.save({"a": torch.rand(3), "b": {"c": torch.nn.Parameter(torch.rand(2, 2))}}, tmp_path / "a", **how)
    content = (tmp_path / "a").read_bytes()
    for _ in range(200):
        damaged = bytearray(content)
        for at in torch.randint(len(content), (2,), generator=generator):
            damaged[at] = int(torch.randint(256, (1,), generator=generator))
        (tmp_path / "b").write_bytes(damaged)
        try:
            for one in read_tensors(tmp_path / "b").values():
                one.sum()
        except Exception as error:
            assert type(error).__name__ == "LostRegError" and "\n" not in str(error)
