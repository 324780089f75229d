"""docs/notebook.ipynb runs, offline, and is stored without outputs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


def test_it_is_short_and_stored_without_outputs():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    of_code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert 8 <= len(cells) <= 12 and len(of_code) >= 6
    assert [cell for cell in of_code if cell["outputs"] or cell["execution_count"]] == []


def test_it_runs_from_top_to_bottom_and_shows_pictures(monkeypatch, tmp_path):
    nbclient, nbformat = (pytest.importorskip(name) for name in ("nbclient", "nbformat"))
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    )
    client.execute()  # raises for a cell that fails
    shown = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", ())]
    pictures = [data["text/html"].count("<img ") for data in shown if "text/html" in data]
    assert pictures == [4, 1, 2]
    assert any("image/png" in data for data in shown)  # by matplotlib
    texts = "".join(data.get("text/plain", "") for data in shown)
    assert "<Backbone tiny: patches of 16 pixels" in texts and "missing.jpg" in texts
