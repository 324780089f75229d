"""Register neurons and their files."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers import refusal

from lost_reg.backbones.registers import RegisterNeurons, read_neurons, write_neurons

NEURONS = RegisterNeurons(((2, 5), (0, 3), (0, 1), (2, 7), (1, 0)))


def test_a_file_comes_back_as_it_was_written(tmp_path):
    weights = {"source": "hub", "name": "timm/x", "sha256": "0" * 64}
    written = replace(NEURONS, backbone="dino_vits16", weights=weights, found={"threshold": 150.5})
    write_neurons(tmp_path / "sub" / "n.json", written)
    assert read_neurons(tmp_path / "sub" / "n.json") == written
    assert "exists already" in refusal(write_neurons, tmp_path / "sub" / "n.json", written)


@pytest.mark.parametrize(
    "content", ["[[2, 5], [0, 3]]", '{"neurons": [[2, 5], [0, 3]]}', "[[2, 5, 103.25], [0, 3, 7]]"]
)
def test_published_lists_in_the_same_form(tmp_path, content):
    (tmp_path / "n.json").write_text(content)
    assert read_neurons(tmp_path / "n.json") == RegisterNeurons(((2, 5), (0, 3)))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("3", "Expected 'object', got 'int'"),
        ("{}", "missing required field 'neurons'"),
        ('{"neurons": {"2": [5]}}', "Expected 'array', got 'object' - at '$.neurons'"),
        ('{"neurons": [3]}', "Expected 'array', got 'int' - at '$.neurons[0]'"),
        ("[]", "expected at least one register neuron"),
        ("[[]]", "expected [layer, neuron], both whole numbers from 0, but got ()"),
        ("[[1]]", "expected [layer, neuron], both whole numbers from 0, but got (1,)"),
        ("[[1, 2, 3, 4]]", "but got (1, 2, 3, 4)"),
        ('[[1, 2, "x"]]', "got 'str' - at '$.neurons[0][2]'"),
        ("[[1, 2, 1e999]]", "1e999 is not a finite number"),
        ("[[1, -2]]", "but got (1, -2)"),
        ("[[1, 2.0]]", "but got (1, 2.0)"),
        ("[[true, 2]]", "got 'bool' - at '$.neurons[0][0]'"),
        ('[["1", 2]]', "got 'str' - at '$.neurons[0][0]'"),
        ("[[1, 2], [3, 4], [1, 2]]", "neuron 2 of layer 1 is given twice"),
        ('{"neurons": [[1, 2]], "backbone": 3}', "Expected 'str | null', got 'int' - at '$.backbone'"),
        ('{"neurons": [[1, 2]], "weights": []}', "at '$.weights'"),
        ('{"neurons": [[1, 2]], "found": null}', "Expected 'object', got 'null' - at '$.found'"),
    ],
)
def test_malformed_files_are_refused(tmp_path, content, text):
    path = tmp_path / "n.json"
    path.write_text(content)
    line = refusal(read_neurons, path)
    assert line.startswith(f"{str(path)!r} is not a neurons file: ") and text in line


def test_files_that_cannot_be_read_or_written(tmp_path):
    assert "No such file" in refusal(read_neurons, tmp_path / "n.json")
    assert "Is a directory" in refusal(read_neurons, tmp_path)
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    assert "it is not UTF-16 text" in refusal(read_neurons, tmp_path / "bytes.json")
    assert "cannot write" in refusal(write_neurons, tmp_path / "bytes.json" / "n.json", NEURONS)


def test_whether_neurons_can_be_those_of_some_weights():
    of_hub = replace(NEURONS, weights={"source": "hub", "name": "timm/x", "sha256": "aa"})
    assert NEURONS.are_of("anything", None)
    assert of_hub.are_of("timm/x", "bb") and of_hub.are_of("copy.safetensors", "aa")
    assert not of_hub.are_of("other.pth", "bb") and not of_hub.are_of("random", None)
