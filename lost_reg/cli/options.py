"""Options shared by commands. Those for features and methods are built from their configuration types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, TypeVar

import click

from lost_reg.cli.output import print_note
from lost_reg.cli.parameter_types import Layers, OrWord
from lost_reg.discovery.features import FeatureConfig
from lost_reg.discovery.methods import (
    METHODS,
    Setting,
    with_changes,
)
from lost_reg.discovery.presets import BEST, chosen_preset, preset_names
from lost_reg.runs.heads import check_no_features, read_head
from lost_reg.runs.options import BATCH_SIZE, MOST_PATCHES, LoaderOptions
from lost_reg.types import AUTO

F = TypeVar("F", bound=Callable[..., Any])


# --- a setting: features, method and the method's options --------------------------------------------


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
        own_images: whether these are no dataset's, so that the default is the preset "best".

    Raises:
        LostRegError: an option that the method does not have, or an invalid value.
    """
    method, preset = options.pop("method"), options.pop("preset")
    if not method and not preset and own_images:
        preset = BEST
    base = chosen_preset(method, preset, family)
    names = {option.name for option in setting_options()}
    named = {name: options.pop(name) for name in [*options] if name in names}
    changes = {name: value for name, value in named.items() if value is not None}
    if "head" in changes:
        changes["head"] = read_head(changes["head"])
    if base.method.name == "head":
        check_no_features(changes)
    return with_changes(base, changes)


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
        return OrWord(number, item.metadata.get("word", AUTO)) if "str" in kinds else number
    return click.STRING


# --- other options -----------------------------------------------------------------------------------


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


def together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """A decorator that gives a command several options, in this order in its help."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


data_root_option = click.option(
    "--data-root",
    type=click.Path(path_type=Path),
    help="Folder that holds the datasets.  [default: $LOST_REG_DATA, then ./data]",
)

MODEL_OPTIONS = ("weights", "download", "device", "precision")

model_options = together(
    click.option(
        "--weights", metavar="FILE|FOLDER|ID|random",
        help="A checkpoint: a file, a folder, or a Hugging Face id; or `random` for benchmarks.  "
        "[default: the published weights]",
    ),
    click.option("--download", is_flag=True, help="Download weights and data that are missing."),
    click.option("--device", default="auto", show_default=True, help="Device: auto, cpu, cuda, cuda:1, ..."),
    click.option(
        "--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True,
        help="Floating-point precision of the backbone.",
    ),
)  # fmt: skip

loader_options = together(
    click.option(
        "--batch-size", type=OrWord(click.IntRange(min=1)), metavar="N|auto",
        help="How many images of one size run together; auto: as many as fit on the device.  "
        f"[default: {BATCH_SIZE}]",
    ),
    click.option(
        "--workers", type=click.IntRange(min=0), metavar="N",
        help="Number of decoding processes.  [default: depends on the machine]",
    ),
    click.option(
        "--max-patches", type=click.IntRange(min=1), metavar="N",
        help=f"Refuse images of more patches than this, once scaled.  [default: {MOST_PATCHES:,}]",
    ),
    click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Process only the first N images."),
)  # fmt: skip

background_option = click.option(
    "--background", metavar="COLOUR",
    help="The colour under transparent images: a name, or a value such as #808080.  [default: white]",
)  # fmt: skip

max_side_option = click.option(
    "--max-side", type=click.IntRange(min=1), metavar="PIXELS",
    help="Scale images down so that the longer side is at most this.  [default: native resolution]",
)  # fmt: skip

image_root_options = together(
    click.option(
        "--image-root", type=click.Path(path_type=Path),
        help="Folder of the images, if it moved since the run or the run is not yours.  [default: the run's]",
    ),
    click.option("--follow-links", is_flag=True, help="Also read images that are links out of their folder."),
)  # fmt: skip


def image_root_of(options: dict[str, Any]) -> Any:
    """The ImageRoot of `image_root_options`, which are taken out of the options."""
    from lost_reg.runs.image_folder import ImageRoot

    return ImageRoot(options.pop("image_root"), options.pop("follow_links"))


register_options = together(
    click.option(
        "--test-time-registers", type=click.IntRange(min=1), metavar="N",
        help="Add N register tokens to a model trained without any; needs --register-neurons.",
    ),
    click.option(
        "--register-neurons", type=click.Path(path_type=Path), metavar="FILE.json",
        help="The neurons whose activations move to the registers, from `lost-reg register-neurons`.",
    ),
    click.option(
        "--register-rule", type=click.Choice(["paper", "code"]),
        help="How activations move to the registers: as in the paper, or in its code.  [default: paper]",
    ),
)  # fmt: skip

unannotated_option = click.option(
    "--unannotated", type=click.Choice(["refuse", "leave-out"]), default="refuse", show_default=True,
    help="What to do about images of a VOC folder that have no annotation.",
)  # fmt: skip

scoring_options = together(
    click.option(
        "--dataset", "-d", help="The ground truth, for prediction files and for runs on your own images."
    ),
    data_root_option,
    click.option(
        "--partial", is_flag=True, help="Accept incomplete runs, using only the images that are done."
    ),
    click.option(
        "--no-hard", is_flag=True, help="Ignore VOC's difficult and truncated objects (LOST's no_hard)."
    ),
    unannotated_option,
)

table_options = together(
    click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table."),
    click.option("--csv", "as_csv", is_flag=True, help="Print CSV instead of a table."),
)


def one_of_json_and_csv(as_json: bool, as_csv: bool) -> None:
    """Raises click.UsageError if both are requested."""
    if as_json and as_csv:
        raise click.UsageError("choose one of --json and --csv")


def given(options: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Those of the named options that were given; the library's defaults apply to the others."""
    return {name: options[name] for name in names if options.get(name) is not None}


def chosen_loader(options: Mapping[str, Any]) -> LoaderOptions:
    """How images are loaded, according to the `loader_options` that were given."""
    return LoaderOptions(**given(options, ("batch_size", "workers", "background", "max_patches")))


def scoring_options_of(
    dataset: str | None, data_root: Path | None, partial: bool, no_hard: bool, unannotated: str
) -> Any:
    """The values of `scoring_options` as a `ScoringOptions`."""
    from lost_reg.scoring.found_boxes import ScoringOptions

    return ScoringOptions(dataset, data_root, partial, count_hard=not no_hard, unannotated=unannotated)


def added_registers(options: dict[str, Any]) -> Any:
    """The test-time registers that `register_options` ask for, or None; removes these from `options`."""
    from lost_reg.backbones.registers import DEFAULT_RULE, AddedRegisters, read_neurons

    names = ("test_time_registers", "register_neurons", "register_rule")
    count, file, rule = (options.pop(name) for name in names)
    if count is None and file is None and rule is None:
        return None
    if count is None or file is None:
        raise click.UsageError("test-time registers need both --test-time-registers and --register-neurons")
    return AddedRegisters(read_neurons(file), count, rule or DEFAULT_RULE)


def load(
    backbone: str, options: Mapping[str, Any], note: Callable[[str], None] = print_note, **changes: Any
) -> Any:
    """The backbone that a command's model options ask for; prints notes on what the user should know."""
    from lost_reg.backbones.loading import load_backbone

    loaded = load_backbone(backbone, **{**{name: options[name] for name in MODEL_OPTIONS}, **changes})
    if loaded.weights.source == "random":
        note(f"{loaded.name} runs with random weights: its results are meaningless")
    added = loaded.registers
    if added and not added.neurons.are_of(loaded.weights.name, loaded.weights.sha256):
        note(f"the register neurons were found in other weights than {loaded.weights.name}")
    if added and not added.neurons.may_be_real:
        note("nothing stood out when the register neurons were searched for: they need not be any")
    return loaded


def default_name(source: str, backbone: str) -> str:
    """The name for results if none is given."""
    stem = Path(source).absolute().stem.replace("*", "") or "images"
    return f"{stem}-{backbone}".replace(":", "-").replace("/", "-")
