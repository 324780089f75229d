"""The command line. Thin: each command parses, calls the library, and prints.

torch is imported only by the commands that need it, inside them.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from lost_reg.cli.artifacts import artifacts
from lost_reg.cli.cluster import cluster
from lost_reg.cli.compare import compare
from lost_reg.cli.corloc import corloc
from lost_reg.cli.draw import draw
from lost_reg.cli.explore import explore
from lost_reg.cli.export import export
from lost_reg.cli.listings import backbones, datasets, methods
from lost_reg.cli.output import add_quiet, print_message
from lost_reg.cli.probe import probe
from lost_reg.cli.register_neurons import register_neurons
from lost_reg.cli.report import report
from lost_reg.cli.run import run
from lost_reg.cli.score import score
from lost_reg.cli.stopping import STOPPED_CODES, prompt_stop
from lost_reg.cli.streams import prepare_process
from lost_reg.cli.sweep import sweep
from lost_reg.cli.train import train
from lost_reg.cli.variables import PREFIX, warn_of_unknown_variables
from lost_reg.errors import LostRegError, OtherSettings
from lost_reg.text import table_width, text_table
from lost_reg.version import __version__


class _Commands(click.Group):
    """A group that turns library errors into one line on standard error and an exit code."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Run as a program: when stopped, exit at once instead of waiting a second for torch to shut down."""
        if not args:  # as the process's own program, not called from another
            prepare_process()
        try:
            return super().__call__(*args, **options)
        except SystemExit as ended:
            if ended.code in STOPPED_CODES:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(ended.code)
            raise

    def invoke(self, ctx: click.Context) -> Any:
        with prompt_stop(lambda text: print_message("Interrupted", text)) as ctx.obj:
            return self._invoke(ctx)

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            warn_of_unknown_variables(self)
            return super().invoke(ctx)
        except LostRegError as error:
            print_message("Error", str(error))
            if isinstance(error, OtherSettings):
                click.echo(
                    text_table(error.rows, width=table_width(), shorten=("new", "old", "setting")), err=True
                )
            ctx.exit(error.exit_code)
        except click.UsageError as error:
            if error.format_message() == (error.ctx or ctx).get_help():  # of a group without a command
                click.echo(error.format_message(), err=True)
                ctx.exit(error.exit_code)
            command = (error.ctx or ctx).command_path
            print_message("Error", f"{error.format_message().rstrip('.')} (see `{command} --help`)")
            ctx.exit(error.exit_code)
        except KeyboardInterrupt as stopped:
            print_message("Interrupted", ctx.obj.message())
            ctx.exit(getattr(stopped, "exit_code", STOPPED_CODES[0]))
        except BrokenPipeError:  # `lost-reg corloc ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except OSError as error:  # such as a path that is too long, or a full disk
            where = f": {error.filename!r}" if error.filename else ""
            print_message("Error", f"{error.strerror or error}{where}")
            ctx.exit(1)


@click.group(
    cls=_Commands,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 110,
        "auto_envvar_prefix": PREFIX,  # `lost-reg run --max-side` is LOST_REG_RUN_MAX_SIDE
    },
)
@click.version_option(__version__, prog_name="lost-reg")
def main() -> None:
    """Unsupervised object discovery: LOST on the features of DINO, DINOv2 and other vision transformers.

    \b
    lost-reg run photos/ --backbone dino --out results/      find objects in a folder of images
    lost-reg run --backbone dino --dataset voc07             find objects in a dataset, to score them
    lost-reg corloc results/                                 CorLoc of all runs in a folder
    lost-reg score results/                                  also AP of all boxes, and scores of masks
    lost-reg compare results/a results/b                     test whether two runs differ, and show where
    lost-reg sweep --backbone dinov2_reg --dataset voc07     try many settings; score one on held-out images
    lost-reg report results/                                 write an HTML page with charts and a gallery
    lost-reg explore photos/ --backbone dinov2_reg           look into images, patch by patch, in a browser
    lost-reg export results/a --to coco --out a.json         write the boxes as COCO, YOLO, VOC, ...
    lost-reg cluster results/a --k 20                        sort the objects into classes, without labels
    """


for command in (
    run, draw, sweep, corloc, score, compare, report, explore, export, cluster, train, artifacts,
    probe, register_neurons, methods, backbones, datasets,
):  # fmt: skip
    add_quiet(command)
    main.add_command(command)
