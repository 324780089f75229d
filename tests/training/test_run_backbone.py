"""The backbone of a run, loaded again: which weights, and from whose run."""

from __future__ import annotations

import pytest
from helpers import refusal, run_settings

from lost_reg.runs.folder import Results
from lost_reg.runs.seals import sealed
from lost_reg.training.run_backbone import backbone_and_weights


@pytest.fixture
def results(tmp_path):
    weights = {"source": "file", "name": "a.pth", "sha256": None}
    record = {"settings": run_settings(backbone="dinov2_vits14", weights=weights), "weights_file": "/w/a.pth"}
    return Results(tmp_path, sealed(record), {}, {})


def test_the_file_that_an_own_run_used_is_read_again(results):
    assert backbone_and_weights(results) == ("dinov2_vits14", "/w/a.pth")


def test_a_file_that_a_foreign_run_names_is_not(results):
    results.record["weights_file"] = "/etc/shadow"
    assert refusal(backbone_and_weights, results).endswith(
        "so its weights are not read: name them with `weights`"
    )
    assert backbone_and_weights(results, weights="mine.pth") == ("dinov2_vits14", "mine.pth")


@pytest.mark.parametrize("name", ["/etc/passwd", "models/mine"])
def test_a_path_that_a_foreign_run_gives_as_an_id_of_the_hub_is_not_read(
    results, name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    results.settings["weights"] |= {"source": "hub", "name": name}
    assert "so its weights are not read: name them with `weights`" in refusal(backbone_and_weights, results)
    results.settings["weights"]["name"] = "facebook/dinov2-small"
    assert backbone_and_weights(results)[1] == "facebook/dinov2-small"
