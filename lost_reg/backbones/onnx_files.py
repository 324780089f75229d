"""ONNX files as state dicts: an exported encoder's weights, under the names that they had in its model.

Exporters keep the names of most parameters. But they fold the transposed weight of each linear layer, and
some parts of the embeddings, into nameless constants. The node that uses such a constant knows its module.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lost_reg.errors import LostRegError

if TYPE_CHECKING:
    from torch import Tensor

_FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")
_NAMELESS = re.compile(r"onnx::|val_\d|expand")  # names of constants by torch's exporters, old and new
_MOST_TIMES = 16  # of the file's size; halves become float32
_SCOPES = "pkg.torch.onnx.name_scopes"  # the new exporter's metadata of a node
_POSITIONS, _OF_CLASS, _OF_PATCHES = ("position_embeddings", "class_position", "patch_positions")


def read_onnx(path: Path) -> dict[str, Tensor]:
    """The weights in an ONNX file, in float32, under the names that they had in the exported model.

    Nameless weights are found where torch's exporters put those of the ViTs of Hugging Face's transformers.
    Nothing is run.

    Raises:
        LostRegError: onnx is not installed, or the weights are in another file, or take far more than this
            one because many share their values.
        Exception: anything that onnx raises for a damaged file.
    """
    try:
        import onnx
    except ImportError:
        raise LostRegError(f"{str(path)!r} needs the package onnx: pip install 'lost-reg[onnx]'") from None
    graph = onnx.load_model(path, format="protobuf", load_external_data=False).graph
    floats = {onnx.TensorProto.DataType.Value(name) for name in _FLOATS}
    stored = {one.name: _values(one, path) for one in graph.initializer if one.data_type in floats}
    state = {name: values for name, values in stored.items() if not _NAMELESS.match(name)}
    for node in graph.node:
        for name in node.input:
            if node.op_type == "Identity" and name in state:  # parameters of equal values are stored once
                state[node.output[0]] = state[name]
            elif name in stored and name not in state:
                _add_nameless(state, stored[name], node)
    size = sum(values.nbytes for values in state.values())
    if size > _MOST_TIMES * path.stat().st_size:
        raise LostRegError(
            f"its weights take {size:,} bytes, over {_MOST_TIMES} times those of {str(path)!r}"
        )
    return _with_joined_positions(state)


def _values(tensor: Any, path: Path) -> Tensor:
    import numpy as np
    import torch
    from onnx import numpy_helper

    if tensor.external_data:  # a checksum of this file would not tell which weights they are
        raise LostRegError(
            f"{str(path)!r} has its weights in another file: save both as one, with "
            "onnx.save(onnx.load('model.onnx'), 'one.onnx')"
        )
    return torch.from_numpy(numpy_helper.to_array(tensor).astype(np.float32))


def _add_nameless(state: dict[str, Tensor], values: Tensor, node: Any) -> None:
    """Add a nameless tensor that `node` uses under the name of its parameter, if it is one."""
    module, kind = _module(node), None
    if node.op_type == "MatMul" and values.ndim == 2:
        kind, values = "weight", values.T
    elif node.op_type == "Reshape" and values.ndim == 3:
        kind = _OF_PATCHES
    elif node.op_type == "Concat" and values.ndim == 3 and values.shape[1] > 1:
        kind, values = "register_tokens", values[:1]  # repeated for every image of a batch
    elif node.op_type == "Concat" and values.ndim == 3:
        kind, values = (_OF_CLASS if f"{module}.cls_token" in state else "cls_token"), values[:1]
    if kind:
        state.setdefault(f"{module}.{kind}", values)


def _module(node: Any) -> str:
    """The module that a node computes, such as "encoder.layer.0.mlp.fc1"."""
    for entry in node.metadata_props:
        if entry.key == _SCOPES:  # "['', 'encoder', ..., 'encoder.layer.0.mlp.fc1', 'linear_4']"
            return re.findall("'([^']*)'", entry.value)[-2]
    return ".".join(node.name.split("/")[1:-1])  # "/encoder/layer.0/mlp/fc1/MatMul"


def _with_joined_positions(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The model slices its position embedding into the class token's and the patches', to resample those."""
    import torch

    for module in [name.removesuffix(_OF_CLASS) for name in state if name.endswith(_OF_CLASS)]:
        names = [module + part for part in (_OF_CLASS, _OF_PATCHES)]  # (1, 1, D), (1, N, D)
        parts = [state.pop(name) for name in names if name in state]
        state.setdefault(module + _POSITIONS, torch.cat(parts, dim=1))
    return state
