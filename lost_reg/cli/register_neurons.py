"""The command `register-neurons`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lost_reg.cli.completions import backbone_names
from lost_reg.cli.image_streams import image_files, warn_of_failures
from lost_reg.cli.imports import import_models
from lost_reg.cli.model_options import get_weights, load, model_options, own_weights
from lost_reg.cli.options import default_name, given, loader_options, max_side_option, overwrite_option
from lost_reg.cli.output import print_line, print_message
from lost_reg.errors import LostRegError
from lost_reg.text import counted

_SEARCH = ("threshold", "top_layer", "top_k", "rule")


@click.command("register-neurons")
@click.argument("inputs", nargs=-1, metavar="FILES_FOLDERS_GLOBS...")
@click.option(
    "--backbone",
    "-b",
    shell_complete=backbone_names,
    required=True,
    help="A backbone that was trained without registers.",
)
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), metavar="FILE.json",
    help="The file to write.  [default: register-neurons-BACKBONE.json]",
)  # fmt: skip
@overwrite_option
@click.option(
    "--published", is_flag=True,
    help="Download the list that was published for the backbone instead; needs no images.",
)  # fmt: skip
@click.option(
    "--threshold", type=float,
    help="Patches with a larger norm are outliers.  [default: mean + 3 sigma, if they stand out]",
)  # fmt: skip
@click.option(
    "--detect-layer", type=int, default=-2, show_default=True,
    help="Norms are compared with the threshold after this block; negative counts from the last.",
)  # fmt: skip
@click.option(
    "--top-layer", type=int,
    help="The last block whose neurons are searched.  [default: the block where outliers begin, if any do]",
)  # fmt: skip
@click.option("--top-k", type=click.IntRange(min=1), help="How many neurons to keep.  [default: 45]")
@click.option(
    "--register-rule", "rule", type=click.Choice(["paper", "code"]),
    help="Rank by mean activation at outliers (paper), or by its magnitude, at the class token too (code).  "
    "[default: paper]",
)  # fmt: skip
@model_options
@max_side_option
@loader_options
def register_neurons(
    inputs: tuple[str, ...], backbone: str, out: Path | None, published: bool, **options: Any
) -> None:
    """Find the neurons that cause outlier tokens.

    The result is for `lost-reg run --register-neurons`. As in Jiang et al. 2025, they are the neurons of the
    early blocks that are most active where the patch norms are large. The images need no labels. Without
    --threshold, a model in which nothing stands out has none.
    """
    from lost_reg.backbones.registers import check_can_be_added, read_neurons, write_neurons
    from lost_reg.backbones.zoo import find_spec
    from lost_reg.files import check_kind, check_new

    backbone, options = own_weights(backbone, options)
    spec = find_spec(backbone)
    check_can_be_added(spec.name, spec.registers)
    out = out or Path(f"{default_name('register-neurons', backbone)}.json")
    check_new(out, overwrite=options["overwrite"])
    check_kind(out, lambda: read_neurons(out))
    if published:
        _fetch(spec.name, out, inputs, options)
        return
    if not inputs:
        raise click.UsageError("give images (files, folders, patterns), or --published")
    names, stream = image_files(inputs, options)
    get_weights(backbone, options)
    import_models()

    from lost_reg.artifacts.neuron_search import SearchOptions, find_register_neurons
    from lost_reg.progress import image_progress

    chosen = SearchOptions(**given(options, ("detect_layer", *_SEARCH)))
    loaded = load(backbone, options)
    failures: list[Any] = []
    with image_progress(loaded.name) as progress:
        found = find_register_neurons(stream(), loaded, chosen, failures=failures, progress=progress)
    write_neurons(out, found, overwrite=options["overwrite"])
    warn_of_failures(failures, len(names))
    _print_found(found, out)


def _fetch(backbone: str, out: Path, inputs: tuple[str, ...], options: dict[str, Any]) -> None:
    """Write the published list of a backbone's neurons."""
    from lost_reg.artifacts.published_neurons import find_list, published_neurons
    from lost_reg.backbones.registers import write_neurons

    if inputs or given(options, _SEARCH):
        raise click.UsageError("--published searches no images: give no images, and no options for a search")
    url = find_list(backbone).url
    if options["offline"]:
        raise LostRegError(f"the published list is at {url}: `offline` forbids downloading it")
    found = published_neurons(backbone)
    write_neurons(out, found, overwrite=options["overwrite"])
    print_line(f"{counted(len(found.neurons), 'neuron')} from {url}; in {out}")


def _print_found(found: Any, out: Path) -> None:
    """Print what was found, or that nothing stands out."""
    facts = found.found
    above = f"{100 * facts['outlier_share']:.2f} % of the patches"
    if "class_tokens" in facts:
        above += f" and {counted(facts['class_tokens'], 'class token')}"
    above += f" have a norm above {facts['threshold']:.4g} after layer {facts['detect_layer']}"
    nothing = (
        f"nothing stands out in {found.backbone}: after no layer do these patches have more than "
        f"{facts['norm_ratio']:.1f} times the mean norm of the others, and artifacts have about 10 times"
    )
    if not found.neurons:
        print_line(
            f"{nothing} ({above}, in {counted(facts['images'], 'image')}); {out} says so, and has no neurons"
        )
        return
    print_line(
        f"{counted(len(found.neurons), 'neuron')} of layers 0 to {facts['top_layer']}, from "
        f"{counted(facts['images'], 'image')}: {above}; in {out}"
    )
    if not found.may_be_real:
        print_message(
            "Warning",
            f"{nothing}; the neurons written are the most active there, and need not be register neurons",
        )
