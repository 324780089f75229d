"""`lost-reg explore` refuses in one line what it cannot start with; tests/explore/ has the page."""

from __future__ import annotations

import json
import socket
import sys

import pytest

from lost_reg.cli import explore as command


@pytest.fixture
def unserved(monkeypatch):
    """What the page would be served with, instead of serving it."""
    from lost_reg.explore import server

    calls = []
    monkeypatch.setattr(server, "serve", lambda *args: calls.append(args))
    monkeypatch.setattr(server, "import_gradio", lambda: None)
    return calls


def test_it_serves_the_backbones_and_images_on_this_machine_alone(lost_reg, photos, unserved):
    result = lost_reg("explore", photos, "-b", "tiny", "-b", "tiny", "--port", 0, "--max-side", 200)
    assert result.exit_code == 0, result.output
    ((_, host, models, reader, max_side, _),) = unserved
    assert max_side == 200 and host == "127.0.0.1" and [one.plain.name for one in models] == ["tiny"]
    assert models[0].with_registers is None and reader.count == 2


def test_backbones_without_registers_also_get_them_at_test_time(lost_reg, tmp_path, unserved):
    neurons = tmp_path / "neurons.json"
    neurons.write_text(json.dumps({"neurons": [[1, 5]]}))
    names = ("-b", "dino_vits16", "-b", "tiny")
    given = ("--weights", "random", "--test-time-registers", 2, "--register-neurons", neurons, "--port", 0)
    result = lost_reg("explore", *names, *given)
    assert result.exit_code == 0, result.output
    dino, tiny = unserved[0][2]
    assert dino.plain.registers is None and dino.with_registers.registers.count == 2
    assert tiny.with_registers is None  # it has registers of its own


def test_registers_of_another_backbone_are_refused(refused, tmp_path, unserved):
    neurons = tmp_path / "neurons.json"
    neurons.write_text(json.dumps({"neurons": [[1, 5]], "backbone": "dinov2_vits14"}))
    line = refused(
        "explore", "-b", "tiny", "--test-time-registers", 1, "--register-neurons", neurons, "--port", 0
    )
    assert "(dinov2_vits14)" in line and not unserved


def test_without_gradio_it_says_what_to_install(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    expected = "Error: `lost-reg explore` needs `pip install 'lost-reg[explore]'`"
    assert refused("explore", "-b", "tiny") == expected


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (["-b", "dnio"], "dnio"),
        (["nowhere", "-b", "tiny"], "no such file or folder: 'nowhere'"),
        (["-b", "tiny", "--background", "nonsense"], "--background"),
        (["-b", "tiny", "--host", "192.0.2.77"], "choose another --port, or --host"),
    ],
    ids=str,
)
def test_what_cannot_be_shown_is_one_line(refused, unserved, arguments, reason):
    assert reason in refused("explore", *arguments)
    assert not unserved


def test_inputs_are_looked_for_before_gradio_is_imported(refused, unserved, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("x")
    monkeypatch.setattr("lost_reg.explore.server.import_gradio", lambda: pytest.fail("it was imported"))
    assert "no images in" in refused("explore", tmp_path, "-b", "tiny")
    assert "no such file or folder" in refused("explore", tmp_path / "nowhere", "-b", "tiny")


def test_a_port_in_use_is_one_line_before_weights_are_looked_for(refused, unserved, monkeypatch):
    monkeypatch.setattr(command, "get_weights", lambda *_: pytest.fail("weights were looked for"))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        line = refused("explore", "-b", "tiny", "--port", port)
    assert f"port {port}: address already in use: choose another --port" in line and not unserved


def test_the_largest_side_is_bounded(refused):
    assert "--max-side" in refused("explore", "--max-side", command.MOST_SIDE + 1, exit_code=2)
