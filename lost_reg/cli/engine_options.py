"""Options of `run` for an engine that spreads it over processes and machines."""

from __future__ import annotations

from typing import Any

import click

from lost_reg.cli.model_options import MODEL_OPTIONS
from lost_reg.cli.options import together

engine_options = together(
    click.option(
        "--engine", type=click.Choice(["ray"]),
        help="Spread the run by Ray over GPUs, CPUs and machines; needs lost-reg[ray].  "
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


def chosen_engine(backbone: str, registers: Any, options: dict[str, Any]) -> Any:
    """The engine that the options ask for, or None; removes `engine_options` from them.

    Raises:
        LostRegError: Ray is not installed.
    """
    engine, address, actors = (options.pop(name) for name in ("engine", "address", "actors"))
    if engine is None:
        if address or actors:
            raise click.UsageError("--address and --actors are options of --engine ray")
        return None
    from lost_reg.ray.cluster import import_ray

    import_ray()
    from lost_reg.ray.engine import RayEngine

    arguments = {name: options[name] for name in MODEL_OPTIONS}
    return RayEngine(
        {"backbone": backbone, "registers": registers, **arguments}, address=address, actors=actors
    )
