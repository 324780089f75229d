"""How the command line prints: one line at a time, safe for a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable

import click

from lost_reg.errors import one_line
from lost_reg.progress import hide_progress


def print_line(text: str) -> None:
    """Print one line of output, on standard output."""
    click.echo(one_line(as_options(text)))


def print_message(kind: str, text: str) -> None:
    """Print one line on standard error, such as "Note: ..."."""
    click.echo(f"{kind}: {one_line(as_options(text))}", err=True)


def print_note(text: str) -> None:
    """Print a note on standard error, unless --quiet was given."""
    if not _of_context("quiet"):
        print_message("Note", text)


def print_warning(text: str) -> None:
    """Print a warning on standard error, also with --quiet."""
    print_message("Warning", text)


def print_detail(text: str) -> None:
    """Print a note if --verbose was given."""
    if _of_context("verbose"):
        print_note(text)


def _of_context(name: str) -> bool:
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get(f"lost_reg.{name}"))


def _set(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta[f"lost_reg.{param.name}"] = value
    if param.name == "quiet":
        hide_progress(value)


quiet_option = click.option(
    "--quiet", "-q", is_flag=True, expose_value=False, is_eager=True, callback=_set,
    help="Print only results, warnings and errors: no notes and no progress.",
)  # fmt: skip

verbose_option = click.option(
    "--verbose", "-v", is_flag=True, expose_value=False, is_eager=True, callback=_set,
    help="Also print which weights, device and settings are used.",
)  # fmt: skip


def add_quiet(command: click.Command) -> None:
    """Give a command, or the commands of a group, the option --quiet."""
    if isinstance(command, click.Group):
        for one in command.commands.values():
            add_quiet(one)
    else:
        quiet_option(command)


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


def _option_names(command: click.Command) -> frozenset[str]:
    """The options of a command, or of all commands of a group."""
    if isinstance(command, click.Group):
        return frozenset().union(*map(_option_names, command.commands.values()))
    return frozenset(
        option for parameter in command.get_params(click.Context(command)) for option in parameter.opts
    )
