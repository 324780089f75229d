"""The published list of register neurons: fetched from where it lies, checked, never executed, and used."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from helpers import refusal
from http_server import Resource, serving

from lost_reg.artifacts import published_neurons as published
from lost_reg.artifacts.published_neurons import LISTS, find_list, pairs_digest, published_neurons
from lost_reg.backbones.registers import AddedRegisters, read_neurons
from lost_reg.cli.app import main
from lost_reg.datasets import https

PAIRS = ((17, 884), (17, 133), (12, 3168))
LIST = b"NEURONS = {\n    17: [884, 133],\n    12: [3168]\n}"
PATH = "/neurons.py"


@pytest.fixture
def server(monkeypatch):
    """A server with a list of three neurons, in place of the published one; requests are not retried."""
    monkeypatch.setattr(https, "RETRY_WAITS", ())
    with serving() as server:
        url = server.add(PATH, Resource(LIST))
        row = replace(LISTS["dinov2_vitl14"], url=url, sha256=pairs_digest(PAIRS))
        monkeypatch.setattr(published, "LISTS", {"dinov2_vitl14": row})
        yield server


def lost_reg(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)


def fetch(*args):
    return lost_reg("register-neurons", "--published", "--backbone", *args)


def test_the_list_is_fetched_and_used(server, tmp_path):
    path = tmp_path / "neurons.json"
    result = fetch("dinov2", "--out", path)
    assert result.exit_code == 0 and result.stdout.startswith("3 neurons from http://127.0.0.1:")
    neurons = read_neurons(path)
    assert neurons.neurons == PAIRS and neurons.backbone == "dinov2_vitl14"
    assert neurons.are_of("any.pth", "0" * 64)  # it does not say which weight file they are of
    assert json.loads(path.read_text())["found"]["url"].endswith(PATH)
    AddedRegisters(neurons, 1, "code").check_backbone("dinov2_vitl14", 0)
    assert "exists already" in fetch("dinov2", "--out", path).stderr


@pytest.mark.parametrize(
    "body",
    [
        LIST.replace(b"133", b"134"),
        LIST.replace(b"133", b"133, 1"),
        b"NEURONS = __import__('os').abort()",
        LIST + b"\nimport os",
        b"NEURONS = [17]",
        b"404: Not Found",
        b"\x00",
        b"",
        b"[" * 100_000,
    ],
    ids=lambda body: repr(body[-16:]),
)
def test_another_list_is_refused_and_nothing_is_executed(body, server):
    server.resources[PATH].body = body
    text = refusal(published_neurons, "dinov2_vitl14")
    assert text.endswith(f"{PATH} does not hold the list of neurons that was published there")


def test_the_layout_of_the_file_does_not_matter(server):
    server.resources[PATH].body = b"# neurons\r\nN = {12: [3168],\r\n17: [133, 884],}\r\n"
    assert sorted(published_neurons("dinov2_vitl14").neurons) == sorted(PAIRS)


def test_what_cannot_be_is_one_line_and_writes_nothing(server, tmp_path):
    out = ("--out", tmp_path / "n.json")
    assert f"{PATH}: --offline forbids downloading it" in fetch("dinov2", "--offline", *out).stderr
    assert "only for dinov2_vitl14: `lost-reg register-neurons` finds" in fetch("dinov2_vits14", *out).stderr
    assert "was trained with 4 registers" in fetch("dinov2_reg", *out).stderr
    assert server.requested == []
    for more in ([tmp_path], ["--top-k", 3], ["--register-rule", "code"]):
        result = fetch("dinov2", *out, *more)
        assert result.exit_code == 2 and "give no images, and no options for a search" in result.stderr
    del server.resources[PATH]
    assert "the server answers 404" in fetch("dinov2", *out).stderr
    assert list(tmp_path.iterdir()) == []


def test_the_table_names_a_fixed_version():
    one = find_list("dinov2_vitl14")
    assert one.url.startswith("https://") and "/cddce29a58880e0b7befcd32ed9c8cffd95ba5f5/" in one.url
    assert len(one.sha256) == 64
