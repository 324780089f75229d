"""The commands `train ...`: what is learned from a run."""

from __future__ import annotations

import click

from lost_reg.cli.train_detector import detector
from lost_reg.cli.train_head import head


@click.group()
def train() -> None:
    """Learn from the objects of a run: a head, or a detector."""


train.add_command(head)
train.add_command(detector)
