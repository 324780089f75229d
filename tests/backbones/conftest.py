"""What tests of backbones share: small models, and a cache of weights that is not the user's."""

from __future__ import annotations

from dataclasses import replace

import huggingface_hub
import pytest
from backbone_cases import SMALL

from lost_reg.backbones import zoo


@pytest.fixture
def small_models(monkeypatch):
    """The table, with models of two narrow blocks: weight files of kilobytes. ViT-B is wider than ViT-S."""
    rows = [
        replace(spec, model_args=spec.model_args | SMALL | ({"embed_dim": 96} if "vitb" in spec.name else {}))
        for spec in zoo.SPECS
    ]
    monkeypatch.setattr(zoo, "SPECS", tuple(rows))


@pytest.fixture
def hub_cache(monkeypatch, tmp_path):
    """An empty Hugging Face cache."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    return cache
