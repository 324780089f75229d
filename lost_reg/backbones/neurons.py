"""Register neurons, and the file that they are kept in. Without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lost_reg.errors import LostRegError
from lost_reg.files import check_new, whole_file
from lost_reg.json_files import MALFORMED, convert, parse_json, reason_of
from lost_reg.types import Number


@dataclass(frozen=True)
class RegisterNeurons:
    """Register neurons of one model.

    A neuron is one input of the last linear layer of a block's MLP: after the non-linearity, and for gated
    ones such as SwiGLU after the gate.

    neurons: (layer, neuron) pairs, both from 0.
    backbone: the name of the backbone they are of; None if that is not known.
    weights: source, name and sha256 of its weights, if known.
    found: how they were found, for people to read.
    """

    neurons: tuple[tuple[int, int], ...]
    backbone: str | None = None
    weights: dict[str, Any] | None = None
    found: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises LostRegError for no neurons, one given twice, or one that is not a pair of indices."""
        if not self.neurons:
            raise LostRegError("expected at least one register neuron, but got none")
        for pair in self.neurons:
            if len(pair) != 2 or not all(type(index) is int and index >= 0 for index in pair):
                raise LostRegError(f"expected [layer, neuron], both whole numbers from 0, but got {pair}")
        if len(set(self.neurons)) < len(self.neurons):
            twice = next(pair for pair in self.neurons if self.neurons.count(pair) > 1)
            raise LostRegError(f"neuron {twice[1]} of layer {twice[0]} is given twice")

    def are_of(self, name: str, sha256: str | None) -> bool:
        """Whether they can belong to weights of this name and checksum; they can if nothing is known."""
        known = self.weights or {}
        same_file = sha256 is not None and known.get("sha256") == sha256
        return not known or same_file or known.get("name") == name

    @property
    def by_layer(self) -> dict[int, list[int]]:
        """The neurons of each layer that has any, ascending."""
        layers: dict[int, list[int]] = {}
        for layer, neuron in sorted(self.neurons):
            layers.setdefault(layer, []).append(neuron)
        return layers


@dataclass(frozen=True)
class _NeuronsFile:
    """The content of a neurons file; published lists have the activation as a third number in each row."""

    neurons: list[list[Number]]
    backbone: str | None = None
    weights: dict[str, Any] | None = None
    found: dict[str, Any] = field(default_factory=dict)


def read_neurons(path: Path) -> RegisterNeurons:
    """Read a neurons file: {"neurons": [[layer, neuron], ...]}, and whatever `write_neurons` adds to it.

    A list alone is read too, and a third number in a row is ignored.

    Raises:
        LostRegError: a file that is missing, is not JSON, or holds something else.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8"), Any)
        rows = {"neurons": content} if isinstance(content, list) else content
        file = convert(rows, _NeuronsFile)
        pairs: Any = tuple(tuple(row[:2] if len(row) == 3 else row) for row in file.neurons)
        return RegisterNeurons(pairs, file.backbone, file.weights, file.found)
    except OSError as error:
        raise LostRegError(f"cannot read the neurons file {str(path)!r}: {error.strerror}") from None
    except (*MALFORMED, LostRegError) as error:
        raise LostRegError(f"{str(path)!r} is not a neurons file: {reason_of(error)}") from None


def write_neurons(path: Path, neurons: RegisterNeurons) -> None:
    """Write a neurons file, a pair a line.

    Raises:
        LostRegError: a path that cannot be written, or exists already.
    """
    about = {"backbone": neurons.backbone, "weights": neurons.weights, "found": neurons.found}
    head = "".join(f'  "{key}": {json.dumps(value)},\n' for key, value in about.items())
    pairs = ",\n".join(f"    {json.dumps(pair)}" for pair in neurons.neurons)
    check_new(path)
    with whole_file(path) as part:
        part.write_text(f'{{\n{head}  "neurons": [\n{pairs}\n  ]\n}}\n', encoding="utf-8")
