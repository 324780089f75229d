"""Backbones against the authors' formulation, against timm's own forward, and what they refuse."""

from __future__ import annotations

import copy
from dataclasses import replace

import original_vits
import pytest
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from timm.models import eva
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lost_reg.backbones import zoo
from lost_reg.backbones.base import PRECISIONS
from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.vit import VitBackbone, _create
from lost_reg.backbones.weights import RANDOM, Weights
from lost_reg.discovery.features import FACETS
from lost_reg.errors import LostRegError

TOLERANCE = 1e-4  # relative to the largest value

ORIGINALS = {
    "dino_vits16": {"patch": 16, "native": 14},
    "dino_vits8": {"patch": 8, "native": 28},
    "dinov2_vits14": {"patch": 14, "native": 37, "dinov2": True},
    "dinov2_vits14_reg": {"patch": 14, "native": 37, "dinov2": True, "registers": 4},
}
GRIDS = ((6, 8), (10, 5), (16, 9))  # at patch 16, (16, 9) has more rows than the native grid


@pytest.fixture(scope="module", params=ORIGINALS)
def original(request, tmp_path_factory):
    """A backbone loaded from a file in the authors' format, and the state dict of that file."""
    state = original_vits.random_state(**ORIGINALS[request.param])
    path = tmp_path_factory.mktemp("weights") / "original.pth"
    torch.save(state, path)
    backbone = load_backbone(request.param, weights=path, device="cpu")
    path.unlink()
    return backbone, state


@pytest.fixture(scope="module")
def timm_tiny():
    """A model of timm's that is not in the table, at random weights."""
    return load_backbone("timm:vit_tiny_patch16_224", weights=RANDOM, device="cpu")


def random_images(grid_hw: tuple[int, int], patch: int, batch: int = 1) -> Tensor:
    rows, columns = grid_hw
    return torch.randn(
        (batch, 3, rows * patch, columns * patch), generator=torch.Generator().manual_seed(rows)
    )


def deviation(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    return float((got.float() - expected).abs().max() / expected.abs().max())


@torch.inference_mode()
def timms_qkv(backbone: VitBackbone, images: Tensor, layer: int = -1) -> Tensor:
    """The output of a qkv layer in timm's own forward, prefix tokens included: (B, prefix + N, 3 D)."""
    outputs = []
    qkv = backbone.model.blocks[layer].attn.qkv
    handle = qkv.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    backbone.model.forward_features(images)
    handle.remove()
    return outputs[0]


def facet_of(qkv: Tensor, facet: str) -> Tensor:
    return qkv.chunk(3, dim=-1)["qkv".index(facet)]


@torch.inference_mode()
@pytest.mark.parametrize("grid_hw", GRIDS, ids=lambda grid: "x".join(map(str, grid)))
def test_features_equal_the_original_models(original, grid_hw):
    backbone, state = original
    images = random_images(grid_hw, backbone.patch_size, batch=2)
    expected = original_vits.qkv_of_blocks(state, images, heads=6)
    for layer, facet in [(-1, "k"), (-1, "q"), (-1, "v"), (-2, "k"), (0, "k")]:
        features = backbone.features(images, facet, layer)
        assert deviation(features, facet_of(expected[layer], facet)) < TOLERANCE, (layer, facet)


@torch.inference_mode()
def test_features_equal_the_original_models_at_the_native_grid(original):
    backbone, state = original
    native = ORIGINALS[backbone.name]["native"]
    images = random_images((native, native), backbone.patch_size)
    expected = original_vits.qkv_of_blocks(state, images, heads=6, blocks=2)
    for layer in (0, 1):
        assert deviation(backbone.features(images, "k", layer), facet_of(expected[layer], "k")) < TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize("original", ["dino_vits16", "dino_vits8"], indirect=True)
def test_a_grid_of_as_many_patches_as_the_native_one_is_resampled_too(original):
    backbone, state = original
    native = ORIGINALS[backbone.name]["native"]
    images = random_images((native // 2, native * 2), backbone.patch_size)
    expected = original_vits.qkv_of_blocks(state, images, heads=6, blocks=1)
    assert deviation(backbone.features(images, "k", 0), facet_of(expected[0], "k")) < TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize(
    ("original", "offset"),
    [(name, offset) for name in ("dino_vits16", "dino_vits8", "dinov2_vits14") for offset in (None, 0.0)]
    + [("dinov2_vits14_reg", 0.1)],
    indirect=["original"],
)
def test_another_position_rule_is_not_the_original_models(original, offset):
    """Guards the tests above: they would see it."""
    backbone, state = original
    wrong = copy.copy(backbone)
    wrong.spec = replace(backbone.spec, position_offset=offset)
    for grid_hw in GRIDS:
        images = random_images(grid_hw, backbone.patch_size)
        expected = original_vits.qkv_of_blocks(state, images, heads=6)[-1]
        assert deviation(wrong.features(images), facet_of(expected, "k")) > 100 * TOLERANCE


def test_timms_own_forward_differs_for_dino_and_dinov2_and_agrees_with_registers(original):
    backbone, _ = original
    images = random_images((6, 8), backbone.patch_size)
    prefix = backbone.model.num_prefix_tokens
    error = deviation(backbone.features(images), facet_of(timms_qkv(backbone, images), "k")[:, prefix:])
    if backbone.name == "dinov2_vits14_reg":
        assert error < TOLERANCE
    else:
        assert error > 100 * TOLERANCE


@torch.inference_mode()
def test_the_swiglu_of_vit_g_is_converted(monkeypatch, tmp_path):
    giant = zoo.find_spec("dinov2_vitg14")
    small = replace(giant, name="small_g", model_args={"depth": 3, "embed_dim": 48, "num_heads": 2})
    monkeypatch.setattr(zoo, "SPECS", (small,))
    state = original_vits.random_state(14, 37, dim=48, depth=3, dinov2=True, swiglu=True)
    torch.save(state, tmp_path / "g.pth")
    backbone = load_backbone("small_g", weights=tmp_path / "g.pth", device="cpu")
    images = random_images((5, 7), 14)
    expected = original_vits.qkv_of_blocks(state, images, heads=2)
    assert deviation(backbone.features(images), facet_of(expected[-1], "k")) < TOLERANCE


def test_only_the_blocks_before_the_layer_run(random_backbone):
    model, layer = random_backbone.model, 3
    ran = []
    handles = [
        module.register_forward_hook(lambda module, inputs, output, name=name: ran.append(name))
        for name, module in model.named_modules()
        if name.startswith("blocks.") and name.split(".")[2:] in (["norm1"], ["attn"], ["mlp"])
    ]
    random_backbone.features(torch.zeros(1, 3, 32, 48), layer=layer)
    for handle in handles:
        handle.remove()
    before = [f"blocks.{index}.{part}" for index in range(layer) for part in ("norm1", "attn", "mlp")]
    assert ran == [*before, f"blocks.{layer}.norm1"]


def test_only_the_facet_of_the_patches_is_computed(random_backbone):
    with FlopCounterMode(display=False) as counter:
        random_backbone.features(torch.zeros(1, 3, 32, 48), layer=0)
    patches, dim = 2 * 3, 192
    embedding, keys = 2 * patches * dim * 3 * 16 * 16, 2 * patches * dim * dim
    assert counter.get_total_flops() == embedding + keys


@pytest.mark.parametrize("facet", FACETS)
def test_features_are_those_of_the_patches_alone(random_backbone, facet):
    images = random_images((2, 3), 16, batch=2)
    features = random_backbone.features(images, facet)
    assert features.shape == (2, 6, 192)
    prefix = 1 + 4
    assert deviation(features, facet_of(timms_qkv(random_backbone, images), facet)[:, prefix:]) < TOLERANCE


def test_patches_are_in_row_major_order(random_backbone):
    images = torch.zeros(1, 3, 32, 48)
    images[:, :, 16:, :16] = 1  # row 1, column 0
    changed = random_backbone.features(images, layer=0) - random_backbone.features(images * 0, layer=0)
    assert changed.abs().amax(dim=(0, 2)).gt(0).tolist() == [False, False, False, True, False, False]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near_fp32(random_backbone, precision):
    half = load_backbone("tiny", weights=RANDOM, device="cpu", precision=precision)
    images = random_images((4, 6), 16)
    features = half.features(images)
    assert features.dtype == PRECISIONS[precision]
    assert features.isfinite().all()
    assert 0 < deviation(features, random_backbone.features(images)) < 0.05


@pytest.mark.parametrize("grid_hw", [(5, 9), (14, 14)], ids=["5x9", "native"])
def test_a_model_of_timm_equals_timms_own_forward(timm_tiny, grid_hw):
    images = random_images(grid_hw, 16)
    for facet, layer in [("k", -1), ("v", -2)]:
        expected = facet_of(timms_qkv(timm_tiny, images, layer), facet)[:, 1:]
        assert deviation(timm_tiny.features(images, facet, layer), expected) < TOLERANCE


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "swin_tiny_patch4_window7_224",
        "vit_small_resnet26d_224",
        "vit_small_patch16_rope_mixed_224",  # Eva, with a rotation of each block's own
    ],
)
def test_other_models_of_timm_are_refused(name, tmp_path):
    path = tmp_path / "weights.pth"
    path.touch()  # with a file the model is refused before it costs the time of random weights
    with pytest.raises(LostRegError, match=rf"^{name} is not .* not supported$"):
        load_backbone(f"timm:{name}", weights=path, device="cpu")


# --- rotary positions: DINOv3, and others of timm's Eva ------------------------------------------------

ROTARY = ["dinov3_vits16", "timm:vit_tiny_patch16_dinov3_qkvb", "timm:eva02_tiny_patch14_224"]


def with_weight(model: torch.nn.Module) -> torch.nn.Module:
    """Give every part of a model at random weights a say: biases, layer scales, and queries and keys that
    make attention uneven."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


@pytest.fixture(scope="module", params=ROTARY)
def rotary(request):
    """Split projections and SwiGLU (EVA-02), a fused one with a bias beside it, and one without (DINOv3)."""
    backbone = load_backbone(request.param, weights=RANDOM, device="cpu")
    with_weight(backbone.model)
    return backbone


@torch.inference_mode()
def keys_before_rotation(backbone: VitBackbone, images: Tensor, layer: int, monkeypatch) -> dict[str, Tensor]:
    """q, k and v in timm's own forward: q and k as apply_rot_embed_cat gets them, (B, N, D) of patches; v
    as attention gets it."""
    rotated, attended = [], []
    rotate, attend = eva.apply_rot_embed_cat, torch.nn.functional.scaled_dot_product_attention

    def note_rotated(tokens, *args, **options):
        rotated.append(tokens)  # (B, heads, N, D / heads)
        return rotate(tokens, *args, **options)

    def note_attended(q, k, v, **options):
        attended.append((q, k, v))
        return attend(q, k, v, **options)

    with monkeypatch.context() as patched:
        patched.setattr(eva, "apply_rot_embed_cat", note_rotated)
        patched.setattr(eva.F, "scaled_dot_product_attention", note_attended)
        backbone.model.forward_features(images)
    index = backbone.block_index(layer)
    prefix = backbone.model.num_prefix_tokens
    assert len(rotated) == 2 * backbone.depth
    found = {"q": rotated[2 * index], "k": rotated[2 * index + 1], "v": attended[index][2][:, :, prefix:]}
    assert deviation(attended[index][1][:, :, prefix:], found["k"]) > 0.1  # the rotation is no small one
    return {facet: tensor.transpose(1, 2).flatten(2) for facet, tensor in found.items()}


@pytest.mark.parametrize("grid_hw", [(16, 16), (5, 9), (18, 3)], ids=["native", "5x9", "18x3"])
@pytest.mark.parametrize("layer", [-1, 0, -3])
def test_features_are_timms_before_the_rotation(rotary, grid_hw, layer, monkeypatch):
    images = random_images(grid_hw, rotary.patch_size, batch=2)
    expected = keys_before_rotation(rotary, images, layer, monkeypatch)
    for facet in FACETS:
        assert deviation(rotary.features(images, facet, layer), expected[facet]) < TOLERANCE, facet


def test_positions_reach_the_features_of_rotary_models(rotary):
    """Guards the test above: with another rotation features differ."""
    images = random_images((5, 9), rotary.patch_size)
    wrong = copy.copy(rotary)
    wrong._rotation = lambda grid_hw: {"rope": rotary._rotation(grid_hw)["rope"].flip(0)}
    assert deviation(wrong.features(images), rotary.features(images)) > 100 * TOLERANCE


def test_a_batch_of_a_rotary_model_gives_what_its_images_give(rotary):
    images = random_images((4, 6), rotary.patch_size, batch=3)
    alone = torch.cat([rotary.features(image[None]) for image in images])
    assert deviation(rotary.features(images), alone) < TOLERANCE


def test_block_outputs_of_rotary_models_are_timms(rotary):
    images = random_images((4, 6), rotary.patch_size)
    *_, last = rotary.block_outputs(images)
    with torch.inference_mode():
        expected = rotary.model.forward_features(images)[:, rotary.model.num_prefix_tokens :]
    assert deviation(last, expected) < TOLERANCE


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_of_dinov3_is_near_fp32(precision):
    full = load_backbone("dinov3_vits16", weights=RANDOM, device="cpu")
    half = load_backbone("dinov3_vits16", weights=RANDOM, device="cpu", precision=precision)
    images = random_images((3, 5), 16)
    assert half.features(images).dtype == PRECISIONS[precision]
    assert 0 < deviation(half.features(images), full.features(images)) < 0.05


def test_dinov3_agrees_with_its_row():
    for size in "sbl":
        spec = zoo.find_spec(f"dinov3_vit{size}16")
        with torch.device("meta"):
            model = _create(spec)
        assert model.num_prefix_tokens == 1 + spec.registers == 5
        assert model.patch_embed.patch_size == (spec.patch_size, spec.patch_size)
        assert model.pos_embed is None and model.blocks[0].attn.q_bias is None
        assert tuple(model.pretrained_cfg["mean"]) == IMAGENET_DEFAULT_MEAN


@pytest.mark.parametrize("name", ["nope", "vit_tiny_patch16_224.nope", ""])
def test_names_that_timm_does_not_know_are_refused(name):
    with pytest.raises(LostRegError, match=r"^timm has no model .*$"):
        load_backbone(f"timm:{name}", weights=RANDOM, device="cpu")


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("dino_vits16", IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
        ("dinov2_vits14_reg", IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
        ("openclip", OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
    ],
)
def test_mean_and_std_are_the_models_own(name, mean, std):
    spec = zoo.find_spec(name)
    with torch.device("meta"):  # no weights
        model = _create(spec)
    backbone = VitBackbone(spec, model, Weights(RANDOM, RANDOM), torch.device("meta"), "fp32")
    assert (backbone.mean, backbone.std) == (mean, std)


@pytest.fixture
def random_state():
    """A state of torch's random numbers that no earlier test has left behind."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(12345)
        yield torch.random.get_rng_state()


def test_random_weights_are_the_same_in_every_load(timm_tiny, random_state):
    again = load_backbone(timm_tiny.name, weights=RANDOM, device="cpu")
    assert torch.equal(torch.random.get_rng_state(), random_state)
    for (name, one), other in zip(timm_tiny.model.state_dict().items(), again.model.state_dict().values()):
        assert torch.equal(one, other), name
    assert again.weights == Weights(source="random", name="random")


def test_loading_a_file_leaves_the_random_state_alone(random_state):
    load_backbone("tiny", device="cpu")
    assert torch.equal(torch.random.get_rng_state(), random_state)


def test_the_bundled_backbone_is_small():
    tiny = load_backbone("tiny", device="cpu")
    assert tiny.weights.source == "bundled"
    assert sum(p.numel() for p in tiny.model.parameters()) <= 2e6
    assert tiny.weights.path.stat().st_size <= 4e6
    assert tiny.features(torch.zeros(1, 3, 32, 48)).isfinite().all()


def test_the_table_agrees_with_the_models(original, random_backbone):
    for backbone in (original[0], random_backbone):
        assert backbone.patch_size == backbone.spec.patch_size
        assert backbone.model.num_prefix_tokens == 1 + backbone.spec.registers


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", "", "meta", "hpu", "mps:7"])
def test_a_device_that_cannot_be_used_is_refused(device):
    with pytest.raises(LostRegError, match=r"^device .* cannot be used \(.+\): try --device cpu$") as caught:
        load_backbone("tiny", weights=RANDOM, device=device)
    assert len(str(caught.value)) < 400


def test_an_unknown_precision_is_refused():
    with pytest.raises(LostRegError, match=r"^unknown precision 'fp8': choose among fp32, bf16, fp16$"):
        load_backbone("tiny", weights=RANDOM, device="cpu", precision="fp8")


def test_an_unknown_facet_is_refused(random_backbone):
    with pytest.raises(LostRegError, match=r"^unknown facet 'x': choose among q, k, v$"):
        random_backbone.features(torch.zeros(1, 3, 16, 16), facet="x")


@pytest.mark.parametrize("layer", [6, -7])
def test_a_layer_out_of_range_is_refused(random_backbone, layer):
    with pytest.raises(LostRegError, match=rf"^tiny has no layer {layer}: expected -6 .* -1 .*$"):
        random_backbone.features(torch.zeros(1, 3, 16, 16), layer=layer)


def pixel_means(images: Tensor) -> Tensor:
    """A user's own features: the mean colour of every patch of 8 x 8."""
    return torch.nn.functional.avg_pool2d(images, 8).flatten(2).mT


def test_a_function_can_be_a_backbone():
    backbone = load_backbone(pixel_means, patch_size=8, mean=(0, 0, 0), std=(1, 1, 1), device="cpu")
    images = random_images((2, 3), 8)
    assert torch.equal(backbone.features(images), pixel_means(images))
    assert (backbone.name, backbone.patch_size, backbone.mean) == ("pixel_means", 8, (0, 0, 0))
    assert backbone.weights.source == "callable"


def test_a_function_needs_its_patch_size():
    with pytest.raises(LostRegError, match=r"^a function as backbone needs its patch size.*$"):
        load_backbone(pixel_means, device="cpu")


def test_features_of_another_shape_are_refused():
    backbone = load_backbone(pixel_means, patch_size=16, device="cpu")  # it is 8
    with pytest.raises(LostRegError, match=r"^expected .* shape \(1, 1, D\) .* but got \(1, 4, 3\)$"):
        backbone.features(torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize("choice", [{"facet": "q"}, {"layer": -2}])
def test_facet_and_layer_of_a_function_are_refused(choice):
    backbone = load_backbone(pixel_means, patch_size=8, device="cpu")
    with pytest.raises(LostRegError, match=r"^facet and layer cannot be chosen for pixel_means.*$"):
        backbone.features(torch.zeros(1, 3, 16, 16), **choice)
