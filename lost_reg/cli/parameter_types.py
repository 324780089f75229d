"""Types of options that click does not have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from lost_reg.types import AUTO


class OrWord(click.ParamType):
    """The values of another type, or one word."""

    def __init__(self, other: click.ParamType, word: str = AUTO):
        self.other, self.word = other, word
        self.name = f"{other.name} or {word}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == self.word:
            return value
        try:
            return self.other.convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value!r} is neither {self.word} nor a valid number", param, ctx)


class NumberOrFile(click.ParamType):
    """A number, or the path of a file."""

    name = "number|file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return float(value)
        except ValueError:
            return Path(value)


class Several(click.ParamType):
    """Words of a few, each at most once, separated by commas."""

    name = "list"

    def __init__(self, choices: Sequence[str]):
        self.choices = tuple(choices)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        words = tuple(word.strip() for word in value.split(","))
        unknown = [word for word in words if word not in self.choices]
        if unknown:
            self.fail(f"{unknown[0]!r} is not one of {', '.join(self.choices)}", param, ctx)
        if len({*words}) < len(words):
            self.fail(f"{value!r} has a word twice", param, ctx)
        return words


class Layers(click.ParamType):
    """An integer, or several separated by commas."""

    name = "layer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):  # as in a file of settings
            return tuple(value) if isinstance(value, list) else value
        try:
            layers = tuple(int(number) for number in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a layer, such as -1, or layers, such as -4,-1", param, ctx)
        return layers[0] if len(layers) == 1 else layers
