"""The images of a run: files and folders by name, lists of paths, and tar shards."""

from __future__ import annotations

import io
import os
import re
import shutil
import tarfile
from pathlib import Path

import pytest
from helpers import refusal
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lost_reg.errors import LostRegError
from lost_reg.images import inputs
from lost_reg.images.files import ImageFiles, list_images
from lost_reg.images.lists import ListedFiles
from lost_reg.images.reading import SUFFIXES, read_image
from lost_reg.images.shards import find_shards
from lost_reg.runs.name_set import NameSet
from lost_reg.runs.ranks import Ranks
from lost_reg.types import Failure


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A folder to stand in, with images (empty files will do) and other things."""
    for name in ["b.jpg", "a.PNG", "notes.txt", "sub/c.jpeg", "sub/deep/d.TIFF", "sub/b.jpg", "other/e.webp"]:
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


ALL_NAMES = ("a.PNG", "b.jpg", "other/e.webp", "sub/b.jpg", "sub/c.jpeg", "sub/deep/d.TIFF")


@pytest.mark.parametrize("given", ["photos", "photos/", "./photos", "photos/sub/..", Path("photos")])
def test_a_folder_is_searched_recursively_and_sorted(tree, given):
    found = list_images([given])
    assert found.root == tree / "photos"
    assert found.names == ALL_NAMES
    assert all((found.root / name).is_file() for name in found.names)


def test_an_absolute_folder_and_the_current_one_are_listed_alike(tree, monkeypatch):
    absolute = list_images([tree / "photos"])
    monkeypatch.chdir(tree / "photos")
    assert list_images(["."]) == absolute


@pytest.mark.parametrize("suffix", [s for suffix in SUFFIXES for s in (suffix, suffix.upper())])
def test_suffixes_count_in_any_case(tmp_path, suffix):
    (tmp_path / f"a{suffix}").touch()
    assert list_images([tmp_path]).names == (f"a{suffix}",)


def test_a_named_file_is_taken_whatever_its_suffix(tree):
    found = list_images(["photos/notes.txt"])
    assert (found.root, found.names) == (tree / "photos", ("notes.txt",))


@pytest.mark.parametrize(
    "pattern, root, names",
    [
        ("photos/*.jpg", "photos", ["b.jpg"]),
        ("photos/*", "photos", [*ALL_NAMES]),  # a folder that matches is searched
        ("photos/**", "photos", [*ALL_NAMES]),
        ("photos/**/*.jpg", "photos", ["b.jpg", "sub/b.jpg"]),
        ("photos/**/[cd].*", "photos", ["sub/c.jpeg", "sub/deep/d.TIFF"]),
        ("photos/?.PNG", "photos", ["a.PNG"]),
        ("photos/*/*.jpeg", "photos", ["sub/c.jpeg"]),
        ("*/sub/*.jp*", ".", ["photos/sub/b.jpg", "photos/sub/c.jpeg"]),
    ],
)
def test_patterns_are_named_from_their_fixed_part(tree, pattern, root, names):
    for text in (pattern, str(tree / pattern)):
        found = list_images([text])
        assert found.root == (tree / root).resolve()
        assert found.names == tuple(names)


def test_several_inputs_share_the_deepest_common_root(tree):
    found = list_images(["photos/sub", "photos/other/e.webp", "photos/*.jpg"])
    assert found.root == tree / "photos"
    # sorted within each input, the inputs in their order
    assert found.names == ("sub/b.jpg", "sub/c.jpeg", "sub/deep/d.TIFF", "other/e.webp", "b.jpg")


def test_a_file_named_twice_is_taken_once(tree):
    found = list_images(["photos/b.jpg", "photos", "./photos/b.jpg", "photos/*.jpg", tree / "photos/b.jpg"])
    assert sorted(found.names) == sorted(ALL_NAMES)
    assert found.names[0] == "b.jpg"


@pytest.mark.parametrize("exclude", ["photos/sub", "photos/../photos/sub", "absolute", "absolute/../sub"])
def test_the_excluded_folder_is_left_out_however_it_is_written(tree, exclude):
    folder = Path(exclude.replace("absolute", str(tree / "photos" / "sub")))
    assert list_images(["photos"], exclude=folder).names == ("a.PNG", "b.jpg", "other/e.webp")


def test_excluding_a_folder_does_not_leave_out_its_namesakes(tree):
    (tree / "photos/sub-2").mkdir()
    shutil.copy(tree / "photos/b.jpg", tree / "photos/sub-2/x.jpg")
    assert "sub-2/x.jpg" in list_images(["photos"], exclude=tree / "photos/sub").names


def test_links_that_lead_in_circles_are_not_followed(tree):
    for name in ("round", "and"):
        (tree / "photos/sub" / name).symlink_to(tree / "photos")
    assert list_images(["photos"]).names == ALL_NAMES
    assert list_images(["photos/**/*.jpg"]).names == ("b.jpg", "sub/b.jpg")


def test_a_folder_that_cannot_be_listed_is_recorded(tree, monkeypatch):
    scandir = os.scandir

    def refusing(folder):
        if Path(folder).name == "deep":
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    found = list_images(["photos"])
    assert "sub/deep/d.TIFF" not in found.names and len(found.names) == 5
    assert listed(found)[0] == Failure("sub/deep", "cannot be listed: Permission denied")
    (deep,) = list_images(["photos/sub", "photos/other"]).failures  # named from the root of all inputs
    assert deep.image == "sub/deep"


def test_names_with_glob_characters_are_names_first(tree):
    for name in ("a[1].jpg", "a1.jpg", "what?.jpg", "set[2]/x.jpg"):
        (tree / "odd" / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / "odd" / name).touch()
    assert list_images(["odd/a[1].jpg"]).names == ("a[1].jpg",)
    assert list_images(["odd/what?.jpg"]).names == ("what?.jpg",)
    assert list_images(["odd/set[2]"]).root == tree / "odd/set[2]"
    (tree / "odd/a[1].jpg").unlink()
    assert list_images(["odd/a[1].jpg"]).names == ("a1.jpg",)  # a pattern, then


def test_a_pattern_below_a_folder_with_glob_characters_is_named_from_that_folder(tree, monkeypatch):
    (tree / "set[2]").mkdir()
    (tree / "set[2]/x.jpg").touch()
    monkeypatch.chdir(tree / "set[2]")
    found = list_images(["*.jpg"])
    assert (found.root, found.names) == (tree / "set[2]", ("x.jpg",))


@pytest.mark.parametrize("missing", ["nowhere", "photos/x.jpg"])
def test_a_missing_input_is_refused_by_name(tree, missing):
    with pytest.raises(LostRegError, match=f"no such file or folder: '{missing}'"):
        list_images(["photos", missing])


@pytest.mark.parametrize("empty", ["bare", "photos/*.gif", "nowhere/**/*.jpg", "photos/*.txt"])
def test_an_input_without_images_is_refused_by_name(tree, empty):
    (tree / "bare").mkdir()
    with pytest.raises(LostRegError, match=re.escape(f"no images in '{empty}'")):
        list_images(["photos", empty])


def test_a_folder_of_which_all_is_excluded_has_no_images(tree):
    with pytest.raises(LostRegError, match="no images in 'photos/sub'"):
        list_images(["photos/sub"], exclude=tree / "photos")


@pytest.mark.skipif(os.name == "nt", reason="names are bytes on POSIX alone")
def test_names_that_are_no_utf_8_are_listed_and_read(tmp_path):
    Image.new("RGB", (3, 2), (255, 0, 9)).save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    found = list_images([tmp_path])
    assert read_image(found.root / found.names[0], apply_exif=True)[1, 2].tolist() == [255, 0, 9]


# Lists of paths


def listed(images, done=(), **options) -> list[tuple[str, object]]:
    return list(images.todo(NameSet(done), **options))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\0"])
@pytest.mark.parametrize("closed", [True, False])
def test_a_list_is_read_with_paths_from_the_working_directory(tree, end, closed):
    entries = ["photos/b.jpg", str(tree / "photos/sub/c.jpeg"), "./photos/other/../gone.jpg"]
    (tree / "list").write_text(end.join(entries) + (end if closed else ""), newline="")
    found = ListedFiles.read("list")
    assert (found.root, found.count) == (tree / "photos", 3)
    assert listed(found) == [
        ("b.jpg", tree / "photos/b.jpg"),
        ("sub/c.jpeg", tree / "photos/sub/c.jpeg"),
        ("gone.jpg", tree / "photos/gone.jpg"),
    ]
    assert listed(found) == listed(found)  # it can be gone through again
    assert [name for name, _ in listed(found, done=["sub/c.jpeg"])] == ["b.jpg", "gone.jpg"]
    assert [name for name, _ in listed(found, done=["b.jpg"], limit=2)] == ["sub/c.jpeg"]


def test_the_root_of_a_list_is_the_deepest_folder_above_all(tree):
    for entries, root in {
        ("photos/sub/b.jpg", "photos/sub/c.jpeg"): "photos/sub",
        ("photos/sub/b.jpg", "photos/sub2/c.jpeg"): "photos",
        ("photos/sub2/b.jpg", "photos/sub/c.jpeg"): "photos",
        ("photos/sub/deep/b.jpg", "photos/sub/c.jpeg"): "photos/sub",
        ("photos/sub/c.jpeg", "photos/sub/deep/b.jpg"): "photos/sub",
    }.items():
        (tree / "list").write_text("\n".join(entries))
        assert ListedFiles.read("list").root == tree / root
    (tree / "list").write_text("/a.jpg\n/x/b.jpg")
    found = ListedFiles.read("list")
    assert [name for name, _ in listed(found)] == ["a.jpg", "x/b.jpg"] and found.root == Path("/")


def test_names_of_any_bytes_stand_in_a_list(tree):
    name = os.fsdecode(b"caf\xe9\nof two lines.jpg")
    (tree / name).write_bytes(b"x")
    (tree / "list").write_bytes(os.fsencode(name) + b"\0")
    ((found, path),) = listed(ListedFiles.read("list"))
    assert found == name and path.read_bytes() == b"x"


def test_a_byte_order_mark_is_no_part_of_a_name(tree):
    (tree / "list").write_bytes(b"\xef\xbb\xbfphotos/b.jpg\n")
    assert listed(ListedFiles.read("list")) == [("b.jpg", tree / "photos/b.jpg")]


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="no process substitution here")
def test_a_list_may_come_through_a_pipe(tree):
    read, write = os.pipe()
    os.write(write, b"photos/b.jpg\nphotos/a.PNG\n")
    os.close(write)
    found = ListedFiles.read(f"/dev/fd/{read}")
    os.close(read)
    assert [name for name, _ in listed(found)] == [name for name, _ in listed(found)] == ["b.jpg", "a.PNG"]


def test_the_standard_input_is_a_list(tree, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"photos/b.jpg\nphotos/a.PNG\n")))
    found = ListedFiles.read("-")
    assert [name for name, _ in listed(found)] == [name for name, _ in listed(found)] == ["b.jpg", "a.PNG"]


@pytest.mark.parametrize("content", ["", "\n\n", None])
def test_a_list_that_names_nothing_is_refused(tree, content):
    if content is not None:
        (tree / "list").write_text(content)
    text = refusal(ListedFiles.read, "list")
    assert "'list'" in text and ("names no images" in text or "No such file" in text)


def test_a_long_list_is_sampled_throughout(tree):
    (tree / "list").write_text("".join(f"{number}.jpg\n" for number in range(1000)))
    sample = ListedFiles.read("list").sample(10)
    assert [path.name for path in sample] == [f"{number}.jpg" for number in range(0, 1000, 100)]


@given(st.integers(0, 30), st.integers(1, 5), st.sets(st.integers(0, 29)), st.none() | st.integers(1, 40))
def test_ranks_share_what_is_not_done(count, ranks, done, limit):
    images = ImageFiles(Path("/root"), tuple(map(str, range(count))))
    shares = [
        [name for name, _ in images.todo(NameSet(map(str, done)), Ranks(rank, ranks), limit)]
        for rank in range(ranks)
    ]
    todo = [str(number) for number in range(min(count, limit or count)) if number not in done]
    assert sorted(name for share in shares for name in share) == sorted(todo)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


# Tar shards


def make_shard(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


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
def test_shards_are_gone_through_in_order(shards, given):
    found = find_shards([given])
    assert found.root == shards
    assert listed(found) == listed(found) == ALL_IMAGES
    assert listed(found, done=["shard-001.tar/0002.jpg"]) == [*ALL_IMAGES[:2], *ALL_IMAGES[3:]]
    assert listed(found, done=["shard-000.tar/0000.jpg"], limit=3) == ALL_IMAGES[1:3]
    assert list(found.sample(4)) == [content for _, content in ALL_IMAGES[:4]]


def test_each_rank_takes_whole_shards(shards):
    found = find_shards(["data/shard-{000..002}.tar"])
    assert listed(found, ranks=Ranks(0, 2)) == [*ALL_IMAGES[:2], *ALL_IMAGES[4:]]
    assert listed(found, ranks=Ranks(1, 2)) == ALL_IMAGES[2:4]
    assert listed(found, ranks=Ranks(3, 4)) == []
    assert "--limit" in refusal(found.todo, (), Ranks(0, 2), 5)


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


def test_a_flipped_bit_in_a_compressed_shard_is_said(tree):
    make_shard(tree / "a.tar.gz", {"x.jpg": os.urandom(5000)}, "w:gz")
    content = bytearray((tree / "a.tar.gz").read_bytes())
    content[3000] ^= 1
    (tree / "a.tar.gz").write_bytes(content)
    assert isinstance(listed(find_shards(["a.tar.gz"]))[-1], Failure)


def test_a_member_of_absurd_size_is_not_read_into_memory(tree, monkeypatch):
    monkeypatch.setattr(inputs, "_LARGEST_MEMBER", 100)
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

    monkeypatch.setattr(inputs.tarfile, "open", opened)
    counts = [len(kept[-1].members) for _ in find_shards(["a.tar"]).todo(())]
    assert len(counts) == 9 and max(counts) <= 1


@pytest.mark.parametrize("where", ["header", "content", "end mark", "all", "none of it"])
def test_a_damaged_shard_is_said_and_the_others_go_on(shards, where):
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
    assert failure.image == "shard-001.tar" and "cannot be read to its end" in failure.reason
    assert (ALL_IMAGES[2] in found) == (where in ("header", "content", "end mark"))


def test_a_shard_that_is_gone_is_said(shards):
    found = find_shards(["data/shard-{000..002}.tar"])
    (shards / "shard-002.tar").unlink()
    failure = listed(found)[-1]
    assert failure.image == "shard-002.tar" and "No such file" in failure.reason
