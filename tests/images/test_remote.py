"""Images at addresses: what is listed, read ahead and refused, in fsspec's file system in memory."""

from __future__ import annotations

import io
import itertools
import os
import threading
from pathlib import Path

import fsspec
import pytest
from helpers import refusal
from image_cases import listed, make_shard, read

from lost_reg.files import absolute, is_address
from lost_reg.images import fetching
from lost_reg.images.remote import common_location, find_remote
from lost_reg.images.shards import find_shards
from lost_reg.types import Failure

FILES = {
    "photos/a.jpg": b"A", "photos/b/c.png": b"C", "photos/b/d.jpg": b"D", "other/g.jpg": b"G",
    "photos/notes.txt": b"", "photos/e.mov": b"", "photos/.hidden/f.jpg": b"", "photos/__MACOSX/z.jpg": b"",
}  # fmt: skip


@pytest.fixture(autouse=True)
def store():
    files = fsspec.filesystem("memory")
    for name, content in FILES.items():
        files.pipe(f"/{name}", content)
    yield files
    files.rm("/photos", recursive=True)
    files.rm("/other", recursive=True)


def test_addresses_are_told_from_paths():
    assert all(map(is_address, ("s3://bucket/a", "gs://b", "hdfs://node/x", "file:///a")))
    assert not any(map(is_address, ("photos/a.jpg", "C://photos", "/s3://x", "a b://x", "s3:/bucket")))
    assert find_remote(["photos", "a.jpg"]) is None
    assert absolute("s3://bucket/a") == "s3://bucket/a" and absolute("a") == os.path.abspath("a")


@pytest.mark.parametrize("given, location, names", [
    (["memory://photos"], "memory:///photos", ["a.jpg", "b/c.png", "b/d.jpg"]),
    (["memory://photos/"], "memory:///photos", ["a.jpg", "b/c.png", "b/d.jpg"]),
    (["memory:///photos/b"], "memory:///photos/b", ["c.png", "d.jpg"]),
    (["memory://photos/a.jpg"], "memory:///photos", ["a.jpg"]),
    (["memory://photos/**/*.jpg"], "memory:///photos", ["a.jpg", "b/d.jpg"]),
    (["memory://photos/*"], "memory:///photos", ["a.jpg", "b/c.png", "b/d.jpg"]),
    (["memory://photos/b", "memory://photos/a.jpg"], "memory:///photos", ["b/c.png", "b/d.jpg", "a.jpg"]),
    (["memory://photos/b/d.jpg", "memory://other"], "memory://", ["photos/b/d.jpg", "other/g.jpg"]),
])  # fmt: skip
def test_files_folders_and_patterns(given, location, names):
    found = find_remote(given)
    assert (found.location, list(found.names), found.count) == (location, names, len(names))
    contents = {name.rpartition("/")[2]: content for name, content in FILES.items()}
    assert read(found) == [(name, contents[name.rpartition("/")[2]]) for name in names]


def test_what_is_left_is_read_by_sessions():
    found = find_remote(["memory://photos"])
    assert found.passed_over == {".mov": 1}
    assert [name for name, _ in listed(found, done=["b/c.png"], limit=2)] == ["a.jpg"]
    assert list(found.sample(2)) == [b"A", b"D"]


@pytest.mark.parametrize("name", ["br[1].jpg", "a::b.jpg", "100%.jpg", "a#b?c.jpg", "a b.jpg"])
def test_odd_names_are_those_of_files(store, name):
    store.pipe(f"/odd/{name}", b"X")
    try:
        assert read(find_remote(["memory://odd"])) == [(name, b"X")]
        if "::" not in name:  # which fsspec takes for two addresses
            assert read(find_remote([f"memory://odd/{name}"])) == [(name, b"X")]
    finally:
        store.rm("/odd", recursive=True)


def test_a_file_that_is_gone_or_too_large_fails_alone(store, monkeypatch):
    found = find_remote(["memory://photos"])
    store.rm("/photos/b/c.png")
    monkeypatch.setattr(fetching, "_LARGEST", 3)
    store.pipe("/photos/b/d.jpg", b"four")
    (name, content), gone, large = read(found)
    assert (name, content) == ("a.jpg", b"A")
    assert gone == Failure("b/c.png", "cannot be fetched: no such file")
    assert large == Failure("b/d.jpg", "too large: a file of more than 3 bytes")


def test_several_files_are_fetched_at_once_and_not_all(monkeypatch):
    """The first waits for a later one; what is far ahead waits until there is room."""
    later, begun = threading.Event(), []

    def opened(address):
        begun.append(int(address.removeprefix("memory://")))
        later.set() if begun[-1] == 5 else later.wait(30)
        return io.BytesIO(b"X")

    monkeypatch.setattr(fetching, "opened", opened)
    results = fetching.fetched((str(number), f"memory://{number}") for number in itertools.count())
    assert [next(results) for _ in range(3)] == [(str(number), b"X") for number in range(3)]
    results.close()
    assert max(begun) < 3 + 2 * fetching._READERS


def test_what_is_at_no_address_stays_in_its_place():
    images = [("p", Path("p.jpg")), ("a", "memory://photos/a.jpg"), Failure("f", "gone"), ("b", b"B")]
    images += [("d", "memory://photos/b/d.jpg"), ("q", "q.jpg")]
    assert list(fetching.fetched(images)) == [
        images[0], ("a", b"A"), images[2], images[3], ("d", b"D"), images[5],
    ]  # fmt: skip


def test_images_that_are_given_are_not_read_ahead_of_their_use():
    """They may be large, as those of shards are."""
    given = []
    images = ((given.append(number), (str(number), b"X"))[1] for number in range(9))
    results = fetching.fetched(images)
    assert next(results) and given == [0]


def test_a_file_in_the_topmost_folder(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(b"not this one")
    monkeypatch.chdir(tmp_path)
    (failure,) = fetching.fetched([("a.jpg", "file:///a.jpg")])
    assert failure == Failure("a.jpg", "cannot be fetched: no such file")


@pytest.mark.parametrize("address", ["memory://photos/", "memory://", "nonsense://bucket/a.jpg"])
def test_an_address_of_no_file_is_a_failure(address):
    (failure,) = fetching.fetched([("a", address)])
    assert failure.image == "a" and failure.reason.startswith("cannot be fetched: ")


@pytest.mark.parametrize("given, reason", [
    (["memory://photos", "a.jpg"], "'a.jpg' is a path"),
    (["memory://nothing"], "nothing is at 'memory://nothing'"),
    (["memory://photos/*.txt"], "no images at 'memory://photos/*.txt': it holds 1 .txt"),
    (["adl://bucket/photos"], "cannot be read without another package"),
    (["ftp://me:secret@host/photos"], "holds a password"),
    (["http://127.0.0.1/photos/"], "http does not list"),
    (["nonsense://bucket/photos"], "cannot read 'nonsense://bucket/photos'"),
])  # fmt: skip
def test_what_cannot_be_used_is_one_line(given, reason):
    assert reason in refusal(find_remote, given)


def test_addresses_of_one_run_are_of_one_place():
    assert common_location(["s3://b/x/y", "s3://b/x/z/w"]) == "s3://b/x"
    assert common_location(["s3://b/xy", "s3://b/x"]) == "s3://b"
    assert "one place" in refusal(common_location, ["s3://b/x", "s3://c/x"])
    assert "one place" in refusal(common_location, ["s3://b/x", "gs://b/x"])


def test_shards_at_addresses(store, tmp_path):
    for name in ("a", "b"):
        make_shard(tmp_path / f"{name}.tar", {f"{name}.jpg": name.encode()})
        store.pipe(f"/other/{name}.tar", (tmp_path / f"{name}.tar").read_bytes())
    found = find_shards(["memory://other/{a,b}.tar"])
    assert found.location == "memory:///other"
    assert listed(found) == [("a.tar/a.jpg", b"a"), ("b.tar/b.jpg", b"b")]
    assert [listed(part) for part in found.parts()] == [[one] for one in listed(found)]
    assert listed(find_shards(["memory://other/*.tar"])) == listed(found)
    assert "no such shard" in refusal(find_shards, ["memory://other/c.tar"])
    assert "cannot be mixed" in refusal(find_shards, ["memory://other/a.tar", str(tmp_path / "a.tar")])
