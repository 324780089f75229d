"""Shards whose members announce far more than they hold, or come twice."""

from __future__ import annotations

import gzip
import io
import tarfile

import pytest
from image_cases import listed, make_shard

from lost_reg.images import shards as shards_module
from lost_reg.images.shards import find_shards
from lost_reg.types import Failure

TWICE = Failure("a.tar/x.jpg", "is in its shard twice: the first file of this name counts")


def gnu_sparse(name: str, real: int, further_blocks: int = 0) -> bytes:
    """A sparse member in GNU's old format: one part of 5 bytes, and further blocks of the list of parts."""
    member = tarfile.TarInfo(name)
    member.size, member.type = 5, tarfile.GNUTYPE_SPARSE
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"00000000000\0" + b"00000000005\0"
    header[482] = bool(further_blocks)
    header[483:495] = b"%011o\0" % real
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    further = [
        bytes(504) + bytes([number + 1 < further_blocks]) + bytes(7) for number in range(further_blocks)
    ]
    return bytes(header) + b"".join(further) + b"parts".ljust(512, b"\0")


def pax_sparse(name: str, real: int, version: str) -> bytes:
    """A sparse member in one of the three PAX formats."""
    member = tarfile.TarInfo(name)
    data = b"1\n0\n5\n".ljust(512, b"\0") + b"parts"
    member.size = len(data)
    member.pax_headers = {
        "0.0": {"GNU.sparse.size": str(real), "GNU.sparse.numblocks": "1", "GNU.sparse.offset": "0",
                "GNU.sparse.numbytes": "5"},
        "0.1": {"GNU.sparse.size": str(real), "GNU.sparse.map": "0,5", "GNU.sparse.name": name},
        "1.0": {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": name,
                "GNU.sparse.realsize": str(real)},
    }[version]  # fmt: skip
    return member.tobuf(tarfile.PAX_FORMAT) + data.ljust(1024, b"\0")


SPARSE = {
    "gnu": gnu_sparse("sparse.jpg", 2**28),
    "gnu with a long list": gnu_sparse("sparse.jpg", 2**28, further_blocks=30),
    **{f"pax {one}": pax_sparse("sparse.jpg", 2**28, one) for one in ("0.0", "0.1", "1.0")},
}


@pytest.mark.parametrize("kind", SPARSE)
def test_sparse_members_are_refused_unread_and_the_others_go_on(tree, kind):
    plain = make_shard(tree / "plain.tar", {"x.jpg": b"x"}).read_bytes()
    (tree / "a.tar").write_bytes(SPARSE[kind] + plain)
    failure, image = listed(find_shards(["a.tar"]))
    assert failure.image == "a.tar/sparse.jpg" and "is a sparse file" in failure.reason
    assert image == ("a.tar/x.jpg", b"x")


@pytest.mark.parametrize("done", [(), ("a.tar/x.jpg",), ("a.tar/x.jpg", "a.tar/y.jpg")])
def test_of_two_members_of_one_name_the_first_counts_resumed_or_not(tree, done):
    with tarfile.open(tree / "a.tar", "w") as tar:
        for name, content in (("x.jpg", b"A"), ("y.jpg", b"y"), ("./x.jpg", b"B")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    all_of_it = [("a.tar/x.jpg", b"A"), ("a.tar/y.jpg", b"y"), TWICE]
    assert listed(find_shards(["a.tar"]), done=done) == [
        one for one in all_of_it if one is TWICE or one[0] not in done
    ]


def test_names_are_known_again_however_many_they_are(tree, monkeypatch):
    monkeypatch.setattr(shards_module, "_NAMES_AT_ONCE", 4)
    with tarfile.open(tree / "a.tar", "w") as tar:
        for index in [*range(11), *range(11)]:
            tar.addfile(tarfile.TarInfo(f"{index}.jpg"))
    found = listed(find_shards(["a.tar"]))
    assert [isinstance(one, Failure) for one in found] == [False] * 11 + [True] * 11


@pytest.mark.parametrize("mode, size", [("w", 5000), ("w:gz", 2**35)])
def test_a_member_that_announces_more_than_its_shard_holds_ends_it_at_once(tree, monkeypatch, mode, size):
    path = make_shard(tree / "a.tar", {"x.jpg": b"x"}, mode)
    member = tarfile.TarInfo("labels.json")
    member.size = size
    content = member.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    with shards_module._opened(str(path)) as file:
        whole = file.read(1024) + content
    path.write_bytes(whole if mode == "w" else gzip.compress(whole))
    image, failure = listed(find_shards(["a.tar"]))
    assert image == ("a.tar/x.jpg", b"x")
    assert failure.image == "a.tar" and f"a file of {size:,} bytes, of which" in failure.reason


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_long_header_ends_its_shard(tree, kind):
    member = tarfile.TarInfo("a")
    member.type, member.size = kind, 2**14 + 1
    (tree / "a.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + b"1" * 2**15 + bytes(1024))
    (failure,) = listed(find_shards(["a.tar"]))
    assert failure.image == "a.tar" and "16,385 bytes" in failure.reason


# --- extended headers --------------------------------------------------------------------------------


def extended(content: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    """An extended (PAX) header of any content."""
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = kind, len(content)
    return header.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"9" * 16_000, "records are damaged"),  # 0.7 s each before Python 3.11.10
        (b"2 " * 8_000, "records are damaged"),  # 8,000 names of 16 kB
        (b"16000 comment=" + b"7" * 15_985 + b"\n", "more than 255 digits in a row"),
        (b"5 a=\n" * 3 + b"99 a=\n", "records are damaged"),
        (b"6 a=bc", "records are damaged"),
        (b"6 abc\n", "records are damaged"),
    ],
)
def test_an_extended_header_that_is_slow_to_parse_is_never_parsed(tree, monkeypatch, kind, content, reason):
    plain = make_shard(tree / "plain.tar", {"x.jpg": b"x"}).read_bytes()
    (tree / "a.tar").write_bytes(plain[:1024] + extended(content, kind) + plain)
    monkeypatch.setattr(tarfile.TarInfo, "_proc_pax", None)
    *_, last = find_shards([str(tree / "a.tar")]).todo(())
    assert last.image == "a.tar" and reason in last.reason


@pytest.mark.parametrize("name", ["x" * 300 + ".jpg", "7" * 200 + ".jpg", "\u00fc\n=5 \u65e5.jpg"])
def test_extended_headers_of_other_programs_are_read(tree, name):
    file = io.BytesIO()
    with tarfile.open(
        fileobj=file, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "a=b"}
    ) as tar:
        for number in range(2):
            member = tarfile.TarInfo(f"{number}{name}")
            member.size, member.pax_headers = 1, {"SCHILY.xattr.user.a": "b" * 9000, "mtime": "1.5"}
            tar.addfile(member, io.BytesIO(b"x"))
    (tree / "a.tar").write_bytes(file.getvalue())
    found = list(find_shards([str(tree / "a.tar")]).todo(()))
    assert found == [(f"a.tar/{number}{name}", b"x") for number in range(2)]
