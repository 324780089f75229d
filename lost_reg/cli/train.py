"""The commands `train ...`: what is learned from a run."""

from __future__ import annotations

import click

from lost_reg.cli.detector import detector


@click.group()
def train() -> None:
    """Learn from the objects of a run: a head, or a detector."""


train.add_command(detector)
