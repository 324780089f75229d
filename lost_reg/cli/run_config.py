"""Where the options of `run` come from besides the command line: a file, or the run that is resumed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from lost_reg.cli.setting_options import SettingCommand, setting_options
from lost_reg.discovery.features import NATIVE
from lost_reg.errors import LostRegError
from lost_reg.files import absolute

_IMAGES = ("inputs", "files_from", "dataset")
# How a session is run, not what: not recorded.
_OF_SESSION = frozenset(("out", "resume", "overwrite", "config", "download", "offline", "strict", "preset"))


class ConfiguredCommand(SettingCommand):
    """A command whose options also come from `--config`, or with `--resume` alone from the run's record.

    The command line counts first, then the variables LOST_REG_RUN_*, then these.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        known = {parameter.name: parameter for parameter in self.get_params(ctx)}

        def early(name: str) -> Any:
            return given.get(name) or known[name].resolve_envvar_value(ctx)

        def chosen(name: str) -> Any:  # click marks in other types what is not given
            value = given.get(name)
            is_given = isinstance(value, (str, tuple, list)) and bool(value)
            return value if is_given else known[name].resolve_envvar_value(ctx)

        names_images = any(map(chosen, _IMAGES))
        options: dict[str, Any] = {}
        if not ctx.resilient_parsing and (file := early("config")):
            options = _read(Path(file), known)
        elif not ctx.resilient_parsing and early("resume") and early("out") and not names_images:
            options = _options_of_run(Path(early("out")))
        if names_images:
            options = _without(options, _IMAGES)
        is_other = chosen("method") and chosen("method") != options.get("method")
        if is_other or chosen("preset"):
            options = _without(options, [str(option.name) for option in setting_options()])
        ctx.default_map = {**(ctx.default_map or {}), **options}
        left = super().parse_args(ctx, args)
        if not ctx.params["inputs"]:  # to which click applies no such defaults
            ctx.params["inputs"] = tuple(map(str, options.get("inputs", ())))
        return left


def _without(options: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in {*names}}


def _read(path: Path, known: Mapping[str, Any]) -> dict[str, Any]:
    from lost_reg.runs.config_file import read_config

    options = read_config(path, [name for name in known if name not in ("config", "help")])
    for name, value in options.items():
        many = known[name].nargs == -1 or getattr(known[name], "multiple", False)
        values = value if isinstance(value, list) else [value]
        if (many and value is not values) or not all(isinstance(one, (str, int, float)) for one in values):
            expected = "a list of texts" if many else "a text, a number, true or false"
            raise LostRegError(f"{str(path)!r} has {value!r} for {name}: expected {expected}")
        if not many and value is values:  # several layers, as on the command line
            options[name] = ",".join(map(str, values))
    return options


def _options_of_run(folder: Path) -> dict[str, Any]:
    """The options that the run in a folder was started with; without its limit, so that all is done.

    Raises:
        LostRegError: no run, one of somebody else's, or one that has not recorded its options.
    """
    from lost_reg.runs.folder import RUN_FILE, read_record
    from lost_reg.runs.seals import foreign, is_own

    record = read_record(folder / RUN_FILE)
    if not is_own(record) or "command" not in record:
        raise LostRegError(f"{foreign(folder, 'its images and settings are not taken from it')}: name them")
    return _without(record["command"], ["limit"])


def recorded_options(
    params: Mapping[str, Any], backbone: str | None = None, setting: Any = None
) -> dict[str, Any]:
    """The options of a run as they are recorded: everything that was decided, with absolute paths.

    Args:
        params: all parameters of the command, as parsed.
        backbone: its name in the table; None for a detector, which has its own.
        setting: None for a detector.
    """
    given = {name: _plain(name, value) for name, value in sorted(params.items()) if name not in _OF_SESSION}
    options = {
        name: value for name, value in given.items() if value not in (None, [], ()) and value is not False
    }
    if setting is None:
        return _without(options, ["backbone"])
    options["backbone"] = backbone
    if setting.method.name == "head":  # which has features of its own
        return options
    decided = {**vars(setting.features), **vars(setting.config)}
    if not decided["square"]:
        decided["max_side"] = decided["max_side"] or NATIVE
    plain = {name: _plain(name, value) for name, value in decided.items() if value is not None}
    return {**_without(options, [*decided, "method"]), "method": setting.method.name, **plain}


def _plain(name: str, value: Any) -> Any:
    """An option's value as TOML has it."""
    if isinstance(value, Path):
        return os.path.abspath(value)
    if name == "write_parquet" and value:
        return absolute(value)
    if name == "inputs":
        return list(map(absolute, value))
    if name in ("files_from", "dataset", "weights") and isinstance(value, str):
        kind, is_named, path = value.rpartition("=") if name == "dataset" else ("", "", value)
        return f"{kind}{is_named}{os.path.abspath(path)}" if os.path.exists(path) and value != "-" else value
    return list(value) if isinstance(value, tuple) else value
