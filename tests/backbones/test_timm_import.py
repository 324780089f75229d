"""timm without torch's compiler: what stands in for it, and that it gives way to the real one."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
import torch

from lost_reg.backbones import timm_import
from lost_reg.backbones.timm_models import create_model, empty_model
from lost_reg.backbones.zoo import find_spec

AFTERWARDS = """
import sys
from lost_reg.backbones.timm_import import timm
import torch, torchvision

assert not [name for name in sys.modules if name.startswith("torch._dynamo")]
assert torch.compiler.disable.__module__ == "torch.compiler"

graphs, compiling = [], []
uncompiled = timm.layers.disable_compiler(lambda: compiling.append(torch.compiler.is_compiling()))

def backend(graph, inputs):
    graphs.append(graph)
    return graph.forward

@torch.compile(backend=backend)
def function(x):
    y = x * 2
    uncompiled()
    return y * 3

assert function(torch.ones(1)) == 6 and len(graphs) == 2 and compiling == [False]

kept = sys.modules["torchvision.ops.roi_align"].is_compile_supported
for device in ("cpu", "meta"):
    assert kept(device) == torch._dynamo.utils.is_compile_supported(device)
"""


def test_torchvision_and_timm_can_still_use_the_compiler():
    subprocess.run([sys.executable, "-c", AFTERWARDS], check=True)


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """A package in the place of torch._dynamo, not imported yet."""
    folder = tmp_path / "a_compiler"
    folder.mkdir()
    (folder / "__init__.py").write_text("from a_compiler import utils")
    (folder / "utils.py").write_text("counters = {}\ndef is_compile_supported(device): return device")
    (folder / "config.py").write_text("from a_compiler.utils import is_compile_supported")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(timm_import, "_DYNAMO", "a_compiler")
    monkeypatch.setattr(timm_import, "_UTILS", "a_compiler.utils")
    yield
    for name in [name for name in sys.modules if name.startswith("a_compiler")]:
        del sys.modules[name]


def test_a_function_is_imported_when_it_is_called(compiler):
    with timm_import.without_dynamo():
        supported = importlib.import_module("a_compiler.utils").is_compile_supported
    assert not [name for name in sys.modules if name.startswith("a_compiler")]
    assert supported("cpu") == "cpu" and "a_compiler" in sys.modules


def test_the_compiler_is_imported_if_more_of_it_is_needed(compiler):
    with timm_import.without_dynamo():
        counters = importlib.import_module("a_compiler.utils").counters
        assert sys.modules["a_compiler.utils"].counters is counters
    assert sys.modules["a_compiler.utils"].counters is counters


def test_another_module_of_the_compiler_finds_the_real_ones(compiler):
    with timm_import.without_dynamo():
        config = importlib.import_module("a_compiler.config")
    utils = sys.modules["a_compiler"].utils
    assert utils is sys.modules["a_compiler.utils"] and utils.__file__
    assert config.is_compile_supported is utils.is_compile_supported


def test_nothing_is_left_behind_after_an_error(compiler):
    finders, disable = list(sys.meta_path), torch.compiler.disable
    with pytest.raises(ImportError), timm_import.without_dynamo():
        raise ImportError
    assert sys.meta_path == finders and torch.compiler.disable is disable
    assert "a_compiler.utils" not in sys.modules


@pytest.mark.parametrize("name", ["dino_vits16", "dinov2_vits14_reg", "dinov3_vits16"])
def test_a_model_without_values_has_places_for_all(name):
    spec = find_spec(name)
    expected, found = create_model(spec).state_dict(), empty_model(spec).state_dict()
    assert {key: (one.shape, one.device.type, one.dtype) for key, one in found.items()} == {
        key: (one.shape, "meta", one.dtype) for key, one in expected.items()
    }
