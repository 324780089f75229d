"""ONNX files as torch's exporters write them for the ViTs of Hugging Face's transformers.

An oracle of what is stored, seen in files that torch 2.7 and 2.14 wrote. "old": the exporter before torch
2.9, "new": that since. Only the nodes that use weights are in the graph, so nothing can run it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

EXPORTERS = ["old", "new"]


def write_onnx(path: Path, state: dict[str, Tensor], exporter: str, dtype=np.float32) -> Path:
    """Export a state dict with the names of transformers, to a file in one piece."""
    tensors: list[TensorProto] = []
    nodes: list[NodeProto] = []

    def store(name: str, values: Tensor) -> str:
        tensors.append(numpy_helper.from_array(values.numpy().astype(dtype), name))
        return name

    def store_nameless(operation: str, values: Tensor) -> str:
        return store(f"onnx::{operation}_{len(nodes)}" if exporter == "old" else f"val_{len(nodes)}", values)

    def use(operation: str, module: str, stored: str) -> None:
        nodes.append(_node(operation, module, stored, len(nodes), exporter))

    for name, values in state.items():
        module, _, kind = name.rpartition(".")
        if kind == "position_embeddings" and exporter == "old":  # sliced, to be resampled
            use("Reshape", module, store_nameless("Reshape", values[:, 1:]))
            use("Concat", module, store_nameless("Concat", values[:, :1]))
        elif kind in ("cls_token", "register_tokens") and exporter == "new":  # repeated for a batch of two
            use("Concat", module, store(f"expand_{len(nodes)}", values.expand(2, -1, -1)))
        elif kind == "weight" and values.ndim == 2:
            use("MatMul", module, store_nameless("MatMul", values.T))
        else:
            use("Add", module, store(name, values))
    tensors.append(numpy_helper.from_array(np.array([1, -1, 8]), "val_shape"))
    graph = helper.make_graph(nodes, "main_graph", [], [], tensors)
    onnx.save(helper.make_model(graph), path)
    return path


def _node(operation: str, module: str, stored: str, number: int, exporter: str) -> NodeProto:
    inputs, outputs = [f"value_{number}", stored], [f"value_{number + 1}"]
    parts = module.split(".")
    if exporter == "old":  # containers that are not called are part of the next name: /encoder/layer.0/norm1
        path = "/" + module.replace(".", "/").replace("layer/", "layer.")
        return helper.make_node(operation, inputs, outputs, f"{path}/{operation}")
    node = helper.make_node(operation, inputs, outputs, f"node_{operation}_{number}")
    scopes = ["", *(".".join(parts[:end]) for end in range(1, len(parts) + 1)), f"linear_{number}"]
    node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=str(scopes))
    return node
