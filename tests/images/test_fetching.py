"""Files at addresses of http, from a server on this machine: whole, and what is said of those that fail."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import refusal
from http_server import BODY, Resource, serving

pytest.importorskip("aiohttp", reason="aiohttp is not installed")

from lost_reg.images import fetching
from lost_reg.images.fetching import check_no_password, fetched, name_at
from lost_reg.images.remote import find_remote
from lost_reg.images.sources import ListedFiles
from lost_reg.types import Failure


@pytest.fixture(scope="module")
def server():
    with serving() as server:
        yield server


LARGE = 20 * BODY  # more than arrives at once


@pytest.mark.parametrize("resource", [
    Resource(LARGE), Resource(LARGE, declares_length=False),
    Resource(LARGE, ignores_range=True, headers={"Accept-Ranges": "none"}),
])  # fmt: skip
def test_a_file_arrives_whole_however_it_is_sent(server, resource):
    address = server.add("/a.jpg", resource)
    assert list(fetched([("a", address)])) == [("a", LARGE)]


@pytest.mark.parametrize("status, reason", [
    (403, "the server answers 403"), (404, "no such file"), (500, "the server answers 500"),
])  # fmt: skip
def test_what_a_server_answers_is_the_reason(server, status, reason):
    address = server.add("/b.jpg", Resource(statuses=[status] * 9)) + "?X-Amz-Signature=secret"
    server.resources["/b.jpg?X-Amz-Signature=secret"] = server.resources["/b.jpg"]
    (failure,) = fetched([("b", address)])
    assert failure.image == "b" and failure.reason.startswith(f"cannot be fetched: {reason}")
    assert "secret" not in failure.reason


def test_an_input_that_cannot_be_read_says_what_the_server_answered(server):
    address = server.add("/f.jpg", Resource(statuses=[403] * 9))
    assert refusal(find_remote, [address]) == f"cannot read {address!r}: the server answers 403 Forbidden"
    assert "onnect" in refusal(find_remote, ["http://127.0.0.1:1/a.jpg"])
    assert find_remote([server.add("/g.jpg", Resource())]).names == ("g.jpg",)


def test_servers_that_are_silent_or_gone_are_given_up(server, monkeypatch):
    monkeypatch.setattr(fetching, "_SILENCE", 0.3)
    gate = threading.Event()
    silent = server.add("/silent.jpg", Resource(gate=gate))
    late, gone, after = fetched([
        ("late", silent), ("gone", "http://127.0.0.1:1/a.jpg"), ("after", server.add("/c.jpg", Resource())),
    ])  # fmt: skip
    gate.set()
    assert late == Failure("late", "cannot be fetched: no answer within 0.3 seconds")
    assert "onnect" in gone.reason and after == ("after", BODY)


def test_what_is_no_address_passes_in_its_place(server):
    address = server.add("/d.jpg", Resource())
    pixels, bad = np.zeros((2, 2, 3), np.uint8), Failure("x", "damaged")
    given = [
        ("p", Path("p.jpg")),
        ("a", address),
        bad,
        ("n", pixels),
        ("b", b"B"),
        ("z", address),
        ("q", "q.jpg"),
    ]
    found = list(fetched(given))
    assert [one if isinstance(one, Failure) else one[0] for one in found] == [
        "p",
        "a",
        bad,
        "n",
        "b",
        "z",
        "q",
    ]
    assert (found[1][1], found[3][1] is pixels, found[5][1], found[6][1]) == (BODY, True, BODY, "q.jpg")


def test_paths_are_not_read_ahead():
    taken = []

    def paths():
        for name in "abc":
            taken.append(name)
            yield name, f"{name}.jpg"

    stream = fetched(paths())
    assert next(stream) == ("a", "a.jpg") and taken == ["a"]


def test_files_that_wait_are_not_fetched_after_the_end(server, monkeypatch):
    monkeypatch.setattr(fetching, "_READERS", 2)
    gate = threading.Event()
    first, slow = server.add("/h.jpg", Resource()), server.add("/i.jpg", Resource(gate=gate))
    never = [server.add(f"/never-{number}.jpg", Resource()) for number in range(2)]
    stream = fetched([("h", first), ("i", slow), ("j", slow), *zip("kl", never)])
    assert next(stream)[0] == "h"  # four are under way or wait by then, and both threads are at the slow ones
    stream.close()
    gate.set()
    time.sleep(0.1)
    assert not [path for path in server.requested if "never" in path]


def test_a_list_samples_few_files_at_addresses(server, tmp_path):
    address = server.add("/j.jpg", Resource())
    (tmp_path / "list").write_text(f"{address}\n" * 100)
    assert 10 < len(list(ListedFiles.read(str(tmp_path / "list")).sample(64))) <= fetching.MOST_SAMPLED


def test_large_files_that_have_come_are_handed_on_before_more_are_fetched(server, monkeypatch):
    monkeypatch.setattr(fetching, "_BYTES_AHEAD", len(BODY))
    asked, address = [], server.add("/e.jpg", Resource())

    def images():
        for number in range(10):
            asked.append(number)
            if number > 1:  # wait until the first two have come, however slow the machine is
                while len(server.resources["/e.jpg"].sent) < 2 * number:
                    time.sleep(0.01)
            yield str(number), address

    assert next(fetched(images()))[0] == "0"
    assert len(asked) < 10


@pytest.mark.parametrize("address, name", [
    ("https://host/a.jpg?X-Amz-Date=1&X-Amz-Signature=0a", "https://host/a.jpg"),
    ("https://host/a.jpg?x-goog-signature=0a", "https://host/a.jpg"),
    ("https://host/a.jpg?sv=1&sig=0a", "https://host/a.jpg"),
    ("https://host/a.jpg?Expires=1&Signature=0a", "https://host/a.jpg"),
    ("https://host/a?id=5", "https://host/a?id=5"),
    ("https://host/a?design=5", "https://host/a?design=5"),
    ("s3://bucket/a?sig=1.jpg", "s3://bucket/a?sig=1.jpg"),
])  # fmt: skip
def test_names_hold_no_signatures(address, name):
    assert name_at(address) == name


@pytest.mark.parametrize("address", [
    "ftp://me:secret@host/a.jpg", "https://token@host/a.jpg", "HTTP://me:secret@host/a.jpg", "s3://k:s@bucket/a",
])  # fmt: skip
def test_passwords_and_tokens_are_refused(address):
    assert "holds a password" in refusal(check_no_password, address)


@pytest.mark.parametrize("address", ["hdfs://me@node/a.jpg", "https://host/a@b.jpg", "https://host/a?m=b@c"])
def test_an_at_elsewhere_is_no_password(address):
    check_no_password(address)
