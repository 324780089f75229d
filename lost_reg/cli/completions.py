"""Completions of names in the shell, besides those of choices, which click completes itself."""

from __future__ import annotations

import click

from lost_reg.discovery.methods import METHODS


def backbone_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Completions of a backbone's name."""
    from lost_reg.backbones.zoo import ALIASES, list_backbones

    return [name for name in (*ALIASES, *list_backbones()) if name.startswith(incomplete)]


def dataset_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Completions of a dataset's name; paths can be given, too."""
    from lost_reg.datasets.catalog import SPECS

    return [spec.name for spec in SPECS if spec.name.startswith(incomplete)]


def method_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Completions of the last of several methods' names, separated by commas."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in METHODS if name.startswith(last)]
