"""Options for an engine that spreads work on images over processes and machines."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from typing import Any

import click

from lost_reg.cli.model_options import MODEL_OPTIONS
from lost_reg.cli.options import together
from lost_reg.cli.output import print_note
from lost_reg.files import absolute
from lost_reg.training.ranks import ranks_of_environment

actor_options = together(
    click.option(
        "--engine", type=click.Choice(["ray"]),
        help="Spread the images by Ray over GPUs, CPUs and machines; needs lost-reg[ray].  "
        "[default: this process]",
    ),
    click.option(
        "--address", metavar="HOST:PORT|auto",
        help="With --engine ray: a cluster that is there.  [default: Ray on this machine]",
    ),
    click.option(
        "--actors", type=click.IntRange(min=1), metavar="N",
        help="With --engine ray: how many actors hold a backbone.  [default: one a GPU, or else one a CPU]",
    ),
)  # fmt: skip

engine_options = together(
    actor_options,
    click.option(
        "--write-parquet", metavar="ADDRESS",
        help="With --engine ray: write the predictions as Parquet files, to a folder or an address such as "
        "s3://bucket/found, and not into the run folder.",
    ),
)  # fmt: skip


def choose_engine(options: dict[str, Any]) -> None:
    """Replace the engine's options by "engine": from what loads a backbone to the engine, or None.

    Raises:
        LostRegError: Ray is not installed.
        click.UsageError: options of an engine that is not asked for, or a run under torchrun.
    """
    engine, *others = (options.pop(name, None) for name in ("engine", "address", "actors", "write_parquet"))
    options["engine"] = None
    if engine is None:
        if any(others):
            raise click.UsageError("--address, --actors and --write-parquet are options of --engine ray")
        if ranks_of_environment().count > 1:
            raise click.UsageError("processes of torchrun do not share images: use --engine ray")
        return
    from lost_reg.ray.cluster import import_ray

    import_ray()
    from lost_reg.ray.engine import RayEngine

    address, actors, parquet = others
    if parquet and (options["overwrite"] or options["sort"]):
        raise click.UsageError("--write-parquet cannot be combined with --overwrite or --sort")
    parquet = parquet and absolute(parquet)
    options["engine"] = partial(RayEngine, address=address, actors=actors, parquet=parquet)


def engine_of(options: dict[str, Any], load: Callable[[], Any]) -> Any:
    """The engine that was chosen, or None.

    load: loads the backbone; it is called by each actor, so it must be possible to pickle it.
    """
    if not options["engine"]:
        return None
    print_note("Ray is started or joined, and actors load the backbone: the first images take a while")
    return options["engine"](load)


def engine_of_backbone(options: dict[str, Any], backbone: str, registers: Any = None) -> Any:
    """The engine that was chosen, or None, for a backbone that the options of models describe."""
    from lost_reg.backbones.loading import load_backbone

    arguments = {name: options[name] for name in MODEL_OPTIONS}
    return engine_of(options, partial(load_backbone, backbone, registers=registers, **arguments))


def closing_engine(engine: Any) -> AbstractContextManager[Any]:
    """Closes an engine at the end, if there is one."""
    return closing(engine) if engine else nullcontext()
