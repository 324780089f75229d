"""Whether checkpoints of every form that lost-reg reads give the patch tokens of the model that wrote them.

    python evaluation/checkpoints.py

Makes small models of Hugging Face transformers at random weights, saves each in every form, and prints a
table: the largest difference of a patch token after any block, relative to the largest value of the block.
Exports by torch's ONNX exporter since 2.9 are among them if onnxscript is installed.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import huggingface_hub
import onnx
import torch
import transformers
from harness import argument_parser, describe_machine, run_script, table_head, table_row
from safetensors.torch import load_file
from torch import Tensor

from lost_reg.backbones import zoo
from lost_reg.backbones.filling import filled_model
from lost_reg.backbones.vit import VitBackbone
from lost_reg.backbones.weights import find_weights

State = dict[str, Tensor]

GRID = 4  # patches per side, for which the positions are
WIDTH, DEPTH, HEADS = 48, 2, 3
SMALL = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}

# --- models ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A class of transformers, how a small one is made, and the backbone that it is.

    backbone: a name of the table or of timm. mlp_ratio: of the hidden layer to the width.
    """

    name: str
    backbone: str
    config: Mapping[str, Any]
    mlp_ratio: float = 4

    @property
    def patch_size(self) -> int:
        return self.config["patch_size"]

    def spec(self) -> zoo.BackboneSpec:
        """The backbone's row, for a small model."""
        spec = zoo.find_spec(self.backbone)
        return replace(spec, model_args={**spec.model_args, **SMALL, "mlp_ratio": self.mlp_ratio})

    def model(self, seed: int = 0) -> transformers.PreTrainedModel:
        """A small model at random weights, of which every part weighs in."""
        cls = getattr(transformers, self.name)
        sizes = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS}
        config = cls.config_class(**sizes, image_size=GRID * self.patch_size, **self.config)
        model = cls(config).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                if parameter.ndim == 1:  # biases, norms and layer scales keep their means
                    parameter.add_(0.2 * noise)
                elif "patch" in name or (parameter.ndim == 2 and "position" not in name):
                    parameter.copy_(noise * parameter[0].numel() ** -0.5)
                else:  # tokens and positions
                    parameter.copy_(noise)
        return model


_MLP = {"intermediate_size": 4 * WIDTH}
KINDS = {
    "DINOv2": Kind("Dinov2Model", "dinov2_vits14", {"patch_size": 14}),
    "DINOv2, SwiGLU": Kind("Dinov2Model", "dinov2_vitg14", {"patch_size": 14, "use_swiglu_ffn": True}, 5.34),
    "DINOv2 + registers": Kind("Dinov2WithRegistersModel", "dinov2_vits14_reg", {"patch_size": 14}),
    "DINO": Kind("ViTModel", "dino_vits16", {"patch_size": 16, **_MLP}),
    "DINOv3": Kind(
        "DINOv3ViTModel", "dinov3_vits16",
        {"patch_size": 16, "num_register_tokens": 4, "query_bias": False, "value_bias": False, **_MLP},
    ),
    "DINOv3 with biases": Kind(
        "DINOv3ViTModel", "timm:vit_small_patch16_dinov3_qkvb",
        {"patch_size": 16, "num_register_tokens": 4, **_MLP},
    ),
    "DINOv3, SwiGLU": Kind(
        "DINOv3ViTModel", "timm:vit_small_plus_patch16_dinov3_qkvb",
        {"patch_size": 16, "num_register_tokens": 4, "use_gated_mlp": True, "hidden_act": "silu", **_MLP},
    ),
    "OpenCLIP": Kind("CLIPVisionModel", "openclip", {"patch_size": 16, "hidden_act": "gelu", **_MLP}),
    "CLIP": Kind(
        "CLIPVisionModel", "timm:vit_base_patch16_clip_quickgelu_224.openai", {"patch_size": 16, **_MLP}
    ),
    "SigLIP": Kind("SiglipVisionModel", "timm:vit_base_patch16_siglip_224.webli", {"patch_size": 16, **_MLP}),
}  # fmt: skip


@torch.inference_mode()
def token_error(kind: Kind, model: transformers.PreTrainedModel, weights: Path | str) -> float:
    """The largest relative difference of patch tokens after any block, between transformers and lost-reg."""
    found = find_weights(kind.spec(), weights)
    model_of_timm = filled_model(kind.spec(), found.path)
    backbone = VitBackbone(kind.spec(), model_of_timm, found, torch.device("cpu"), "fp32")
    images = torch.randn(1, 3, *2 * [GRID * kind.patch_size], generator=torch.Generator().manual_seed(1))
    expected = model(images, output_hidden_states=True).hidden_states[1:]
    errors = [
        (tokens - hidden[:, -(GRID**2) :]).abs().max() / hidden.abs().max()
        for tokens, hidden in zip(backbone.block_outputs(images), expected, strict=True)
    ]
    return float(max(errors))


# --- forms of transformers ---------------------------------------------------------------------------


def save_folder(model: transformers.PreTrainedModel, folder: Path) -> Path:
    """As save_pretrained does: config.json, and model.safetensors with the names of transformers 4."""
    model.save_pretrained(folder)
    return folder


def save_shards(model: transformers.PreTrainedModel, folder: Path) -> Path:
    """In shards with an index."""
    model.save_pretrained(folder, max_shard_size="150KB")
    assert (folder / "model.safetensors.index.json").exists()
    return folder


def save_bin(model: transformers.PreTrainedModel, folder: Path) -> Path:
    """pytorch_model.bin, as transformers 4 wrote it."""
    model.save_pretrained(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def save_memory(model: transformers.PreTrainedModel, folder: Path) -> Path:
    """Its state_dict(), which has the names of transformers 5."""
    folder.mkdir()
    torch.save(model.state_dict(), folder / "checkpoint.pth")
    if isinstance(model, transformers.SiglipVisionModel):  # the GELU that it has is not in the names
        model.config.save_pretrained(folder)
    return folder / "checkpoint.pth"


def save_whole(model: transformers.PreTrainedModel, folder: Path) -> Path:
    """A model of images and texts, of which this is the vision tower."""
    family = type(model).__name__.removesuffix("VisionModel")
    text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9}
    config_class = getattr(transformers, f"{family}Config")
    config = config_class(vision_config=model.config.to_dict(), text_config=text)
    whole = getattr(transformers, f"{family}Model")(config)
    whole.vision_model.load_state_dict(model.state_dict())
    whole.save_pretrained(folder)
    return folder


def save_in_cache(model: transformers.PreTrainedModel, folder: Path, hub_id: str = "someone/model") -> str:
    """Where hf_hub_download puts a repository; the cache is the folder."""
    repository = folder / f"models--{hub_id.replace('/', '--')}"
    model.save_pretrained(repository / "snapshots" / "0")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0")
    huggingface_hub.constants.HF_HUB_CACHE = str(folder)
    return hub_id


class _Encoder(torch.nn.Module):
    """A model whose encoder is that of transformers."""

    def __init__(self, model: transformers.PreTrainedModel):
        super().__init__()
        self.backbone, self.head = model, torch.nn.Linear(WIDTH, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images).last_hidden_state)


def save_onnx(model: transformers.PreTrainedModel, folder: Path, new_exporter: bool) -> Path:
    """Exported by torch as part of a larger model, in one file. The new exporter is that since torch 2.9."""
    folder.mkdir()
    images = torch.zeros(2, 3, *2 * [GRID * model.config.patch_size])
    axes = None if new_exporter else {"images": {0: "batch", 2: "height", 3: "width"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the old exporter, that there is a new one
        torch.onnx.export(
            _Encoder(model).eval(), (images,), folder / "exported.onnx", input_names=["images"],
            dynamic_axes=axes, dynamo=new_exporter, verbose=False,
        )  # fmt: skip
    onnx.save(onnx.load(folder / "exported.onnx"), folder / "model.onnx")
    return folder / "model.onnx"


# The kinds that each of torch's exporters can export, but for those whose positions the new one folds.
EXPORTS = {
    False: ["DINOv2", "DINOv2, SwiGLU", "DINO", "DINOv3", "OpenCLIP", "CLIP"],
    True: ["DINOv2", "DINOv2, SwiGLU", "DINOv2 + registers", "DINO", "DINOv3"],
}

Save = Callable[[transformers.PreTrainedModel, Path], Path | str]
FORMS: dict[str, Save] = {
    "folder": save_folder,
    "shards": save_shards,
    "pytorch_model.bin": save_bin,
    "state_dict() of transformers 5": save_memory,
}

# --- forms of authors and training -------------------------------------------------------------------


_AUTHORS = {  # of DINO and DINOv2, for the names of transformers 5
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.": "",
    "encoder.layer.": "blocks.",
    "layers.": "blocks.",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "layernorm.": "norm.",
    ".layer_scale1.lambda1": ".ls1.gamma",
    ".layer_scale2.lambda1": ".ls2.gamma",
    "attention.o_proj": "attn.proj",
    "attention.": "attn.",
    "mlp.weights_in": "mlp.w12",
    "mlp.weights_out": "mlp.w3",
}
_OPENAI = {
    "embeddings.patch_embedding.": "conv1.",
    "embeddings.class_embedding": "class_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "pre_layrnorm": "ln_pre",
    "post_layernorm": "ln_post",
    "encoder.layers.": "transformer.resblocks.",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.": "attn.",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def authors_state(model: transformers.PreTrainedModel) -> State:
    """The weights of a DINO or DINOv2 of transformers under the names of its authors."""
    return joined(renamed(model.state_dict(), _AUTHORS), "qkv.")


def open_clip_state(model: transformers.CLIPVisionModel) -> State:
    """The weights of a CLIP of transformers under OpenAI's names, with part of a text tower beside them."""
    state = joined(renamed(model.state_dict(), _OPENAI), "in_proj_")
    return prefixed(state | {"proj": torch.ones(WIDTH, 7)}, "visual.") | {"text_projection": torch.ones(7, 7)}


def renamed(state: State, names: Mapping[str, str]) -> State:
    """The state with parts of its names replaced, in order."""
    for old, new in names.items():
        state = {name.replace(old, new): tensor for name, tensor in state.items()}
    return state


def joined(state: State, name: str) -> State:
    """The state with q, k and v of each block as one layer of that name."""
    state = dict(state)
    for query in [key for key in state if "attn.q_proj." in key]:
        parts = [state.pop(query.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        state[query.replace("q_proj.", name)] = torch.cat(parts)
    return state


def prefixed(state: State, prefix: str) -> State:
    """The state under a prefix."""
    return {prefix + name: tensor for name, tensor in state.items()}


def in_blocks(state: State, old: str, new: str) -> State:
    """The state with the number of each block, `old` in braces, written as in `new`."""
    for index in range(DEPTH):
        name, other = old.format(index), new.format(index)
        state = {other + key.removeprefix(name) if key.startswith(name) else key: state[key] for key in state}
    return state


def training_checkpoint(teacher: State, student: State) -> dict[str, Any]:
    """What DINO's main_dino.py saves (facebookresearch/dino), but for its arguments."""
    return {
        "student": prefixed(student, "module.backbone.")
        | {"module.head.last_layer.weight": torch.ones(3, 3)},
        "teacher": prefixed(teacher, "backbone.") | {"head.last_layer.weight": torch.ones(3, 3)},
        "optimizer": {"state": {0: {"step": 1, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
        "epoch": 3,
    }


Wrap = Callable[[State], Any]
WRAPPERS: dict[str, Wrap] = {
    **{
        f"prefix {prefix}": lambda state, prefix=prefix: prefixed(state, prefix)
        for prefix in ("module.", "_orig_mod.", "model.", "encoder.", "backbone.", "teacher.backbone.")
    },
    **{
        f"nested under {key}": lambda state, key=key: {key: state, "epoch": 3}
        for key in ("state_dict", "model", "model_state_dict", "teacher")
    },
    "FSDP": lambda state: prefixed(
        in_blocks(state, "blocks.{}.", "blocks.{}._fsdp_wrapped_module."), "_fsdp_wrapped_module."
    ),
    "chunked blocks": lambda state: in_blocks(state, "blocks.{}.", "blocks.{0}.{0}."),
    "DINOv2's teacher_checkpoint.pth": lambda state: {
        "teacher": prefixed(in_blocks(state, "blocks.{}.", "blocks.0.{}."), "backbone.")
        | {"dino_head.last_layer.weight": torch.ones(3, 3)}
    },
    "training checkpoint": lambda state: training_checkpoint(
        state, {name: tensor + 1 for name, tensor in state.items()}
    ),
    "student and teacher in one": lambda state: (
        prefixed({name: tensor + 1 for name, tensor in state.items()}, "student.backbone.")
        | prefixed(state, "teacher.backbone.")
    ),
}


# --- the table ---------------------------------------------------------------------------------------


def cases() -> Iterator[tuple[str, str, Save]]:
    """Each form: its name, the kind of model, and the function that saves it."""
    for kind in KINDS:
        for form, save in FORMS.items():
            yield form, kind, save
    for kind in ("OpenCLIP", "CLIP", "SigLIP"):
        yield "folder of the whole model", kind, save_whole
    yield "id in the cache", "DINOv2", save_in_cache
    for new, kinds in EXPORTS.items():
        if not new or find_spec("onnxscript"):
            form = f"ONNX, torch's exporter {'since' if new else 'before'} 2.9"
            for kind in kinds:
                yield form, kind, lambda model, folder, new=new: save_onnx(model, folder, new)
    yield "OpenCLIP's names", "OpenCLIP", lambda model, folder: save_state(open_clip_state(model), folder)
    for kind in ("DINO", "DINOv2 + registers", "DINOv2"):
        yield "authors' .pth", kind, lambda model, folder: save_state(authors_state(model), folder)
    for form, wrap in WRAPPERS.items():
        yield form, "DINOv2", lambda model, folder, wrap=wrap: save_state(wrap(authors_state(model)), folder)


def save_state(content: Any, folder: Path) -> Path:
    """A .pth file with any content."""
    folder.mkdir()
    torch.save(content, folder / "checkpoint.pth")
    return folder / "checkpoint.pth"


def main() -> None:
    argument_parser(__doc__).parse_args()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    print(f"{describe_machine(torch.device('cpu'))}, transformers {transformers.__version__}\n")
    print(table_head(["form", "class", "`--backbone`", "relative error"]))
    models = {name: kind.model() for name, kind in KINDS.items()}
    with tempfile.TemporaryDirectory() as folder:
        for number, (form, name, save) in enumerate(cases()):
            kind, model = KINDS[name], models[name]
            error = token_error(kind, model, save(model, Path(folder, str(number))))
            print(table_row([form, f"{kind.name} ({name})", kind.backbone, f"{error:.0e}" if error else "0"]))


if __name__ == "__main__":
    run_script(main)
