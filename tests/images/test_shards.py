"""Images in tar shards: read in order, whatever they hold, and however they are damaged."""

from __future__ import annotations

import gzip
import os
import tarfile

import pytest
from helpers import refusal
from image_cases import listed, make_shard

from lost_reg.images import shards as shards_module
from lost_reg.images.shards import find_shards
from lost_reg.types import Failure


@pytest.fixture
def shards(tree):
    """Three shards in WebDataset's form, of two images each with labels beside them."""
    for number in range(3):
        members = {}
        for key in range(2 * number, 2 * number + 2):
            members |= {f"{key:04}.jpg": b"image %d" % key, f"{key:04}.json": b"{}", f"{key:04}.cls": b"1"}
        make_shard(tree / f"data/shard-{number:03}.tar", members)
    return tree / "data"


ALL_IMAGES = [(f"shard-{key // 2:03}.tar/{key:04}.jpg", b"image %d" % key) for key in range(6)]


@pytest.mark.parametrize("given", ["data/shard-{000..002}.tar", "data/*.tar", "data/shard-00[0-2].tar"])
def test_shards_are_read_in_order(shards, given):
    found = find_shards([given])
    assert found.location == str(shards)
    assert listed(found) == listed(found) == ALL_IMAGES
    assert listed(found, done=["shard-001.tar/0002.jpg"]) == [*ALL_IMAGES[:2], *ALL_IMAGES[3:]]
    assert listed(found, done=["shard-000.tar/0000.jpg"], limit=3) == ALL_IMAGES[1:3]
    assert list(found.sample(4)) == [content for _, content in ALL_IMAGES[:4]]


def test_inputs_without_shards_are_left_to_others_and_mixed_ones_refused(shards):
    assert find_shards(["photos", "photos/b.jpg"]) is None
    assert "'photos'" in refusal(find_shards, ["data/shard-000.tar", "photos"])
    assert "'data/shard-003.tar'" in refusal(find_shards, ["data/shard-{000..003}.tar"])


def test_braces_in_the_name_of_a_file_are_its_name(tree):
    make_shard(tree / "a{0..1}.tar", {"x.jpg": b"x"})
    assert listed(find_shards(["a{0..1}.tar"])) == [("a{0..1}.tar/x.jpg", b"x")]


@pytest.mark.parametrize("suffix, mode", [(".tar.gz", "w:gz"), (".tgz", "w:gz"), (".TAR", "w")])
def test_compressed_shards_are_read(tree, suffix, mode):
    make_shard(tree / f"a{suffix}", {"./folder/x.PNG": b"x"}, mode)
    assert listed(find_shards([f"a{suffix}"])) == [(f"a{suffix}/folder/x.PNG", b"x")]


@pytest.mark.parametrize(
    "name, mode", [("a.tar", "w:gz"), ("a.tar.gz", "w"), ("a.tgz", "w"), ("a.tar.xz", "w")]
)
def test_a_shard_is_known_by_its_content(tree, name, mode):
    make_shard(tree / name, {"x.jpg": b"x", "y.jpg": b"y"}, mode)
    assert listed(find_shards([name])) == [(f"{name}/x.jpg", b"x"), (f"{name}/y.jpg", b"y")]


@pytest.mark.parametrize(
    "suffix, mode, said", [(".tar", "w:bz2", "bzip2"), (".tar.bz2", "w:bz2", "bzip2"), (".txz", "w:xz", "xz")]
)
def test_other_compressions_are_refused_by_name(tree, suffix, mode, said):
    make_shard(tree / f"a{suffix}", {"x.jpg": b"x"}, mode)
    (failure,) = listed(find_shards([f"a{suffix}"]))
    assert failure == Failure(
        f"a{suffix}", f"is compressed with {said}, which is not read: make it a plain .tar or a .tar.gz"
    )


@pytest.mark.parametrize(
    "content",
    [b"no tar at all", gzip.compress(b"no tar at all"), b"\x28\xb5\x2f\xfd", b"PK\x03\x04"],
    ids=["text", "gzip", "zstd", "zip"],
)
def test_what_is_no_tar_is_said(tree, content):
    (tree / "a.tar").write_bytes(content)
    (failure,) = listed(find_shards(["a.tar"]))
    assert failure.image == "a.tar" and failure.reason.startswith("is ")


def test_a_shard_without_images_is_recorded_with_what_it_holds(shards):
    make_shard(shards / "shard-001.tar", {"0.json": b"{}", "1.json": b"{}", "0.cls": b"1", "._0.jpg": b"x"})
    make_shard(shards / "shard-002.tar", {})
    found = listed(find_shards(["data/*.tar"]))
    assert found[:2] == ALL_IMAGES[:2]
    (labels, nothing) = found[2:]
    assert labels == Failure("shard-001.tar", "no images: it holds 2 .json, 1 .cls")
    assert nothing == Failure("shard-002.tar", "no images: it is empty (hidden files do not count)")


def test_a_shard_all_of_whose_images_are_done_holds_images(shards):
    done = [name for name, _ in ALL_IMAGES]
    assert listed(find_shards(["data/*.tar"]), done=done) == []


def test_hidden_members_and_junk_are_left_out(tree):
    junk = ("._x.jpg", "__MACOSX/._x.jpg", "__MACOSX/x.jpg", "a/.thumbs/x.jpg", "./a/.x.jpg")
    make_shard(tree / "a.tar", dict.fromkeys((*junk, "./a/x.jpg", "y.jpg"), b"x"))
    assert [name for name, _ in listed(find_shards(["a.tar"]))] == ["a.tar/a/x.jpg", "a.tar/y.jpg"]


def test_hostile_members_are_recorded_and_never_leave_the_shard(tree):
    bad = ["/etc/x.jpg", "../x.jpg", "a/../../x.jpg", ".."]
    make_shard(tree / "a.tar", {**dict.fromkeys(bad, b"x"), "a/../b.jpg": b"fine"})
    with tarfile.open(tree / "a.tar", "a") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            member = tarfile.TarInfo("link.jpg")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    *failures, fine, a_link, another = listed(find_shards(["a.tar"]))
    assert fine == ("a.tar/b.jpg", b"fine")
    assert [one.reason for one in failures] == ["its name leads out of its shard"] * 3
    assert a_link == another and "is a link" in a_link.reason


@pytest.mark.parametrize("size", [-1, 2**62, 2**40])
def test_a_member_that_claims_an_absurd_size_ends_its_shard_at_once(tree, size):
    """tarfile would seek that far in a stream, block by block."""
    for kind in (tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
        member = tarfile.TarInfo("a.jpg")
        member.size, member.type = size, kind
        (tree / "a.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
        (failure,) = listed(find_shards(["a.tar"]))
        assert failure.image == "a.tar" and f"{size:,} bytes" in failure.reason


def test_headers_nested_without_end_are_recorded(tree):
    member = tarfile.TarInfo("././@LongLink")
    member.size, member.type = 1, tarfile.GNUTYPE_LONGNAME
    (tree / "a.tar").write_bytes((member.tobuf(tarfile.GNU_FORMAT) + b"x" + bytes(511)) * 3000)
    (failure,) = listed(find_shards(["a.tar"]))
    assert failure.image == "a.tar" and "cannot be read to its end" in failure.reason


def test_a_flipped_bit_in_a_compressed_shard_is_recorded(tree):
    make_shard(tree / "a.tar.gz", {"x.jpg": os.urandom(5000)}, "w:gz")
    content = bytearray((tree / "a.tar.gz").read_bytes())
    content[3000] ^= 1
    (tree / "a.tar.gz").write_bytes(content)
    assert isinstance(listed(find_shards(["a.tar.gz"]))[-1], Failure)


def test_a_member_of_absurd_size_is_not_read_into_memory(tree, monkeypatch):
    monkeypatch.setattr(shards_module, "_LARGEST_MEMBER", 100)
    make_shard(tree / "a.tar", {"big.jpg": b"x" * 101, "fine.jpg": b"x" * 100})
    failure, fine = listed(find_shards(["a.tar"]))
    assert failure.image == "a.tar/big.jpg" and "101 bytes" in failure.reason
    assert fine[0] == "a.tar/fine.jpg"


def test_memory_does_not_grow_with_the_members_of_a_shard(tree, monkeypatch):
    make_shard(tree / "a.tar", {f"{number}.jpg": b"x" for number in range(9)})
    kept, open_ = [], tarfile.open

    def opened(*args, **options):
        kept.append(open_(*args, **options))
        return kept[-1]

    monkeypatch.setattr(shards_module.tarfile, "open", opened)
    counts = [len(kept[-1].members) for _ in find_shards(["a.tar"]).todo(())]
    assert len(counts) == 9 and max(counts) <= 1


@pytest.mark.parametrize("where", ["header", "content", "end mark", "all", "none of it"])
def test_a_damaged_shard_is_recorded_and_the_others_go_on(shards, where):
    path = shards / "shard-001.tar"
    content = bytearray(path.read_bytes())
    third = 4 * 512 + 2 * 512  # the header of the fourth member, the second image
    if where == "header":
        content[third : third + 100] = bytes(range(100, 200))
    elif where == "content":
        del content[third + 600 :]
    elif where == "end mark":
        del content[12 * 512 :]
    elif where == "all":
        content[:] = os.urandom(3000)
    else:
        content.clear()
    path.write_bytes(content)
    found = listed(find_shards(["data/shard-{000..002}.tar"]))
    assert found[:2] == ALL_IMAGES[:2] and found[-2:] == ALL_IMAGES[4:]
    (failure,) = [one for one in found if isinstance(one, Failure)]
    reason = "is no tar archive" if "all" in where or "none" in where else "cannot be read to its end"
    assert failure.image == "shard-001.tar" and reason in failure.reason
    assert (ALL_IMAGES[2] in found) == (where in ("header", "content", "end mark"))


def test_a_shard_that_is_gone_is_recorded(shards):
    found = find_shards(["data/shard-{000..002}.tar"])
    (shards / "shard-002.tar").unlink()
    failure = listed(found)[-1]
    assert failure.image == "shard-002.tar" and "No such file" in failure.reason
