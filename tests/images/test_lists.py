"""Images that a list names."""

from __future__ import annotations

import io
import os
import tracemalloc

import fsspec
import pytest
from helpers import refusal
from image_cases import listed, read

from lost_reg.images.fetching import fetched
from lost_reg.images.sources import ListedFiles
from lost_reg.types import Failure


@pytest.mark.parametrize("end", ["\n", "\r\n", "\0"])
@pytest.mark.parametrize("closed", [True, False])
def test_a_list_is_read_with_paths_from_the_working_directory(tree, end, closed):
    entries = ["photos/b.jpg", str(tree / "photos/sub/c.jpeg"), "./photos/other/../gone.jpg"]
    (tree / "list").write_text(end.join(entries) + (end if closed else ""), newline="")
    found = ListedFiles.read("list")
    assert (found.location, found.count, found.are_files) == (str(tree / "photos"), 3, True)
    assert listed(found) == [
        ("b.jpg", tree / "photos/b.jpg"),
        ("sub/c.jpeg", tree / "photos/sub/c.jpeg"),
        ("gone.jpg", tree / "photos/gone.jpg"),
    ]
    assert listed(found) == listed(found)  # it can be read again
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
        assert ListedFiles.read("list").location == str(tree / root)
    (tree / "list").write_text("/a.jpg\n/x/b.jpg")
    found = ListedFiles.read("list")
    assert [name for name, _ in listed(found)] == ["a.jpg", "x/b.jpg"] and found.location == "/"


ODD = {
    "~/a.jpg": ("~/a.jpg", "write the home folder in place of ~"),
    '"photos/b.jpg"': ('"photos/b.jpg"', "leave out the quotes"),
    "'photos/b.jpg'": ("'photos/b.jpg'", "leave out the quotes"),
    "s3:/bucket/a.jpg": ("s3:/bucket/a.jpg", "an address has ://"),
}


@pytest.mark.parametrize("entry", ODD)
def test_an_entry_that_is_no_path_is_recorded_with_what_was_tried(tree, entry):
    (tree / "list").write_text(f"{entry}\nphotos/b.jpg\n")
    tried, advice = ODD[entry]
    failure, fine = listed(ListedFiles.read("list"))
    assert fine == ("photos/b.jpg", tree / "photos/b.jpg")
    assert failure.image == tried
    assert failure.reason == (
        f"no such file: {str(tree / tried)!r}; entries of a list are paths or addresses: {advice}"
    )


@pytest.mark.parametrize("entry", ODD)
def test_a_file_of_such_a_name_is_read(tree, entry):
    file = tree / ODD[entry][0]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    (tree / "list").write_text(f"{entry}\nphotos/b.jpg\n")
    assert listed(ListedFiles.read("list"))[0] == (ODD[entry][0], file)


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


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_a_list_with_the_mark_of_its_encoding(tmp_path, encoding):
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    (tmp_path / "list").write_bytes(f"{mark}/photos/\u65e5.jpg\r\n/photos/b.jpg\r\n".encode(encoding))
    listed = ListedFiles.read(str(tmp_path / "list"))
    assert [name for name, _ in listed.todo(())] == ["\u65e5.jpg", "b.jpg"]


def test_a_list_that_begins_as_utf_16_and_is_not(tmp_path):
    (tmp_path / "list").write_bytes(b"\xff\xfe\x00\xd8a\x00")
    assert "it begins as UTF-16 and is not" in refusal(ListedFiles.read, str(tmp_path / "list"))


# --- addresses, in fsspec's file system in memory


@pytest.fixture
def store():
    files = fsspec.filesystem("memory")
    files.pipe({"/photos/a.jpg": b"A", "/photos/100%.jpg": b"P", "/other/b::c.jpg": b"B"})
    yield files
    files.rm("/photos", recursive=True)
    files.rm("/other", recursive=True)


def test_addresses_are_names_among_paths_or_alone(tree, store):
    addresses = ["memory://photos/a.jpg", "memory://other/b::c.jpg", "memory://photos/100%.jpg"]
    (tree / "list").write_text("\n".join([addresses[0], "photos/b.jpg", *addresses[1:], "photos/sub/c.jpeg"]))
    found = ListedFiles.read("list")
    assert (found.location, found.count, found.are_files) == (str(tree / "photos"), 5, False)
    contents = dict(zip(addresses, (b"A", b"B", b"P")))
    assert read(found) == [
        (addresses[0], b"A"), ("b.jpg", tree / "photos/b.jpg"), (addresses[1], b"B"), (addresses[2], b"P"),
        ("sub/c.jpeg", tree / "photos/sub/c.jpeg"),
    ]  # fmt: skip
    assert read(found, done=[addresses[0], "b.jpg"], limit=3) == [(addresses[1], b"B")]
    assert list(found.sample(2)) == [b"A", b"P"]
    (tree / "list").write_text("\r\n".join(addresses))
    found = ListedFiles.read("list")
    assert (found.location, found.count, found.are_files) == ("", 3, False)
    assert dict(read(found)) == contents


def test_the_name_of_a_signed_link_holds_no_signature(tree):
    (tree / "list").write_text("http://host/a.jpg?X-Amz-Signature=new\nhttp://host/b.jpg?id=1\n")
    assert [name for name, _ in listed(ListedFiles.read("list"))] == [
        "http://host/a.jpg",
        "http://host/b.jpg?id=1",
    ]
    left = listed(ListedFiles.read("list"), done=["http://host/a.jpg"])  # by an earlier link
    assert left == [("http://host/b.jpg?id=1", "http://host/b.jpg?id=1")]


def test_an_address_of_a_file_is_taken_literally(tree):
    for name in ("a b.jpg", "a%20b.jpg"):
        (tree / name).write_text(name)
    (tree / "list").write_text(f"file://{tree}/a b.jpg\nfile://{tree}/a%20b.jpg\nfile://{tree}/gone.jpg\n")
    (*_, spaced), (*_, percent), gone = read(ListedFiles.read("list"))
    assert (spaced, percent) == (b"a b.jpg", b"a%20b.jpg")
    assert gone == Failure(f"file://{tree}/gone.jpg", "cannot be fetched: no such file")


@pytest.mark.parametrize("entry, reason", [
    ("ftp://me:secret@host/a.jpg", "holds a password"), ("adl://bucket/a.jpg", "without another package"),
    ("nonsense://bucket/a.jpg", "Protocol not known"),
])  # fmt: skip
def test_addresses_that_cannot_be_used_at_all_are_one_line(tree, entry, reason):
    (tree / "list").write_text(f"photos/b.jpg\nmemory://photos/a.jpg\n{entry}\n")
    assert reason in refusal(ListedFiles.read, "list")


def test_the_memory_of_a_list_of_addresses_is_constant(tree):
    """Neither counting nor reading keeps what is done."""

    def peak(entries):
        (tree / "list").write_text("".join(f"memory://none/{number:09}.jpg\n" for number in range(entries)))
        tracemalloc.start()
        found = ListedFiles.read("list")
        assert found.count == sum(1 for _ in fetched(found.todo(()))) == entries
        return tracemalloc.get_traced_memory()[1], tracemalloc.stop()

    peak(10)  # what is imported and made once
    assert peak(20_000)[0] < peak(2_000)[0] + 300_000  # the list has 500,000 bytes more
