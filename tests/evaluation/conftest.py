"""What the tests of the scripts share. The scripts lie on the path of all tests: see pyproject.toml."""

from __future__ import annotations

import sys

import harness
import pytest


@pytest.fixture
def printed(monkeypatch, capsys):
    """A function that runs a script and gives what it prints."""

    def run_main(module, *arguments) -> str:
        monkeypatch.setattr(sys, "argv", [module.__file__, *map(str, arguments)])
        module.main()
        return capsys.readouterr().out

    return run_main


@pytest.fixture
def small_photos(monkeypatch):
    monkeypatch.setattr(harness, "PHOTO_SIZES", {(50, 38): 1, (64, 48): 1})
