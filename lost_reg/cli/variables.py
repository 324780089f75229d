"""Variables of the environment: those that stand for options, and a warning of misspelt ones."""

from __future__ import annotations

import os
from collections.abc import Iterator

import click

from lost_reg.cli.output import print_warning

PREFIX = "LOST_REG"
# Those that are no option's: of the data root, of the tests, and of the Space in docs/space.
_OTHERS = frozenset(
    f"{PREFIX}_{name}" for name in ("DATA", "CHROMIUM", "TEST_DEVICE", "SPACE_BACKBONES", "COMPLETE")
)


def warn_of_unknown_variables(main: click.Group) -> None:
    """Warn of each variable LOST_REG_* that no option has, with the nearest name that one has."""
    given = {name for name in os.environ if name.startswith(f"{PREFIX}_")} - _OTHERS
    if not given:
        return
    known = {*_variables(main, PREFIX), *_OTHERS}
    for name in sorted(given - known):
        from difflib import get_close_matches

        near = get_close_matches(name, sorted(known), 1)
        advice = f"; did you mean {near[0]}?" if near else ""
        print_warning(f"no option has the variable {name}, which is ignored{advice}")


def _variables(command: click.Command, prefix: str) -> Iterator[str]:
    """The variables of a command's options, and of those of its commands, as click names them."""
    for parameter in command.get_params(click.Context(command)):
        yield f"{prefix}_{str(parameter.name).upper()}"
    if isinstance(command, click.Group):
        for name, one in command.commands.items():
            yield from _variables(one, f"{prefix}_{name.upper()}".replace("-", "_"))
