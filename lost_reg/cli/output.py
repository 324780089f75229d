"""How the command line prints: one line at a time, safe for a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable

import click

from lost_reg.errors import one_line


def print_line(text: str) -> None:
    """Print one line of output, on standard output."""
    click.echo(one_line(as_options(text)))


def print_message(kind: str, text: str) -> None:
    """Print one line on standard error, such as "Note: ..."."""
    click.echo(f"{kind}: {one_line(as_options(text))}", err=True)


def print_note(text: str) -> None:
    """Print a note on standard error."""
    print_message("Note", text)


def print_notes(texts: Iterable[str]) -> None:
    """Print each of several notes once."""
    for text in dict.fromkeys(texts):
        print_note(text)


def as_options(text: str) -> str:
    """A library message in the command line's terms: the parameter `max_side` becomes --max-side."""
    context = click.get_current_context(silent=True)
    if context is None:
        return text
    known = _option_names(context.find_root().command)

    def option(match: re.Match[str]) -> str:
        name = f"--{match[1].replace('_', '-')}"
        return name if name in known else match[0]

    return re.sub(r"`([a-z][a-z_]*)`", option, text)


def _option_names(command: click.Command) -> set[str]:
    """The options of a command, or of all commands of a group."""
    if isinstance(command, click.Group):
        return set().union(*map(_option_names, command.commands.values()))
    return {option for parameter in command.get_params(click.Context(command)) for option in parameter.opts}
