"""Options for features and methods, built from their configuration types."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, fields
from typing import Any, TypeVar

import click

from lost_reg.cli.options import given, together
from lost_reg.cli.parameter_types import Layers, OrWord
from lost_reg.discovery.features import NATIVE, FeatureConfig
from lost_reg.discovery.methods import METHODS, Setting, with_changes
from lost_reg.discovery.presets import BEST, chosen_preset, preset_names, scaled_for_own_images
from lost_reg.runs.heads import check_no_features, read_head
from lost_reg.types import AUTO

F = TypeVar("F", bound=Callable[..., Any])


class SettingCommand(click.Command):
    """A command with the options for features and for every registered method."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        *own, help_option = super().get_params(ctx)
        return [*own, *setting_options(), help_option]


class SweepCommand(click.Command):
    """A command that takes, for each option of every registered method, the values to try."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        *own, help_option = super().get_params(ctx)
        return [*own, *map(_values_option, _swept_fields().values()), help_option]


def _swept_fields() -> dict[str, dict[str, Field[Any]]]:
    """The options that a sweep can vary: as in `_setting_fields`, without those of the features."""
    return {
        name: owners
        for name, owners in _setting_fields().items()
        if "" not in owners and all(item.metadata.get("sweep") is not False for item in owners.values())
    }


def _values_option(owners: dict[str, Field[Any]]) -> click.Option:
    item = next(iter(owners.values()))
    shown = {owner: str(one.metadata.get("sweep", one.default)).lower() for owner, one in owners.items()}
    text = f"{item.metadata.get('help', '')}  [{_by_owner(shown)}]"
    return click.Option([f"--{item.name.replace('_', '-')}"], default=None, metavar="VALUES", help=text)


def values_given(options: Mapping[str, Any]) -> dict[str, str]:
    """The values to try, as text, of the methods' options that were given."""
    return given(options, _swept_fields())


def _method_option() -> click.Option:
    return click.Option(
        ["--method"], type=click.Choice(list(METHODS)), default=None,
        help="The discovery method; see `lost-reg methods`.",
    )  # fmt: skip


def setting_options() -> list[click.Parameter]:
    """--method, --preset, and an option for each field of the features and of the methods' options."""
    return [
        _method_option(),
        click.Option(
            ["--preset"], type=click.Choice(preset_names()),
            help="A named method with its features and options; the options below override it.  [default: "
            "published for datasets and with --method, best for your own images]",
        ),
        *(_option_of(of_owners) for of_owners in _setting_fields().values()),
    ]  # fmt: skip


def _setting_fields() -> dict[str, dict[str, Field[Any]]]:
    """The fields of the features and of all methods' options, by name, then by the method that has it.

    A field of the features has the owner "". Fields that share a name share their meaning and type.
    """
    configs: dict[str, Any] = {"": FeatureConfig, **{name: one.config for name, one in METHODS.items()}}
    found: dict[str, dict[str, Field[Any]]] = {}
    for owner, config in configs.items():
        for item in fields(config):
            found.setdefault(item.name, {})[owner] = item
    return found


def chosen_setting(options: dict[str, Any], family: str, *, own_images: bool) -> Setting:
    """The setting that the options of a `SettingCommand` choose; removes them from `options`.

    Args:
        family: the backbone's, see `BackboneSpec`.
        own_images: whether these are no dataset's, so that the default is the preset "best", and images are
            scaled down (`scaled_for_own_images`).

    Raises:
        LostRegError: an option that the method does not have, or an invalid value.
    """
    method, preset = options.pop("method"), options.pop("preset")
    if not method and not preset and own_images:
        preset = BEST
    base = chosen_preset(method, preset, family)
    names = {option.name for option in setting_options()}
    named = {name: options.pop(name) for name in [*options] if name in names}
    changes = without_native({name: value for name, value in named.items() if value is not None})
    if "head" in changes:
        changes["head"] = read_head(changes["head"])
    if base.method.name == "head":
        check_no_features(changes)
    if own_images and not {"max_side", "square"} & {*changes}:
        base = scaled_for_own_images(base)
    return with_changes(base, changes)


def without_native(changes: dict[str, Any]) -> dict[str, Any]:
    """Changes of features, in which no `max_side` stands for the word `native`."""
    return {name: None if (name, value) == ("max_side", NATIVE) else value for name, value in changes.items()}


def _option_of(owners: dict[str, Field[Any]]) -> click.Option:
    """The option for the fields that share a name; it is None unless given, so that presets apply."""
    item = next(iter(owners.values()))
    facts, name = item.metadata, item.name.replace("_", "-")
    declared, kind = f"--{name}", None
    if isinstance(item.default, bool):
        declared = f"--{name}/--{facts.get('off', f'no-{name}')}"
    else:
        kind = _type_of(list(owners.values()))
    text = f"{facts.get('help', '')}  [{_defaults(owners)}]"
    return click.Option([declared], type=kind, default=None, metavar=facts.get("metavar"), help=text)


def options_of(config: type[Any], **defaults: Any) -> Callable[[F], F]:
    """A decorator that gives a command an option for each field of a configuration that has a help text.

    Args:
        defaults: those that are shown, where they are not the fields' own.
    """
    items = [item for item in fields(config) if "help" in item.metadata]
    return together(*(_option_of_field(item, defaults.get(item.name, item.default)) for item in items))


def _option_of_field(item: Field[Any], default: Any) -> Callable[[F], F]:
    """The option for a field; it is None unless given, so that the field's default applies."""
    name, facts = item.name.replace("_", "-"), item.metadata
    flag = isinstance(item.default, bool)
    shown = _shown_default(item) if default == item.default else default
    return click.option(
        f"--{name}/--{facts.get('off', f'no-{name}')}" if flag else f"--{name}",
        type=None if flag else _type_of([item]),
        default=None,
        metavar=facts.get("metavar"),
        help=f"{facts['help']}  [default: {shown}]",
    )


def _defaults(owners: dict[str, Field[Any]]) -> str:
    """Which methods have an option, and its default in each."""
    return _by_owner({owner: _shown_default(item) for owner, item in owners.items()})


def _by_owner(shown: dict[str, str]) -> str:
    """Defaults by the method that has them, in words."""
    if "" in shown:
        return "default: the preset's"
    if len(set(shown.values())) == 1:
        return f"{', '.join(shown)}; default: {next(iter(shown.values()))}"
    return f"default: {', '.join(f'{default} for {owner}' for owner, default in shown.items())}"


def _shown_default(item: Field[Any]) -> str:
    if isinstance(item.default, bool):
        name = item.name.replace("_", "-")
        return name if item.default else item.metadata.get("off", f"no-{name}")
    return str(item.metadata.get("shown_default", item.default))


def _type_of(owners: Sequence[Field[Any]]) -> click.ParamType:
    """The type of an option, from the annotation of its fields and their metadata."""
    item = owners[0]
    if "choices" in item.metadata:
        return click.Choice(item.metadata["choices"])
    written = item.type.__name__ if isinstance(item.type, type) else str(item.type)
    kinds = {part.strip() for part in written.split("|")}
    if any(kind.startswith("tuple") for kind in kinds):
        return Layers()
    number: click.ParamType | None = None
    if "int" in kinds:
        least = [one.metadata["min"] for one in owners if "min" in one.metadata]
        number = click.IntRange(min=min(least)) if least else click.INT
    elif "float" in kinds:
        number = click.FLOAT
    if number:
        has_word = "str" in kinds or "word" in item.metadata
        return OrWord(number, item.metadata.get("word", AUTO)) if has_word else number
    return click.STRING
