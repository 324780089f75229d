"""One run, from images to a run folder: `lost-reg run` as a function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lost_reg.backbones.base import CLASS_TOKEN, Backbone
from lost_reg.discovery.features import FeatureConfig
from lost_reg.discovery.methods import Setting
from lost_reg.errors import LostRegError
from lost_reg.images.sources import Images
from lost_reg.progress import Progress, no_progress
from lost_reg.runs.batches import batch_size_for, outcomes_of
from lost_reg.runs.discovery import Discovery
from lost_reg.runs.engines import Job, Todo
from lost_reg.runs.folder import (
    COMMAND,
    MAPS_FOLDER,
    PARQUET,
    PICTURES_FOLDER,
    RUN_LAYOUT,
    Layout,
    read_outcomes,
)
from lost_reg.runs.forecast import SAMPLED, forecast
from lost_reg.runs.heads import fitted, other_weights
from lost_reg.runs.map_files import maps_path
from lost_reg.runs.options import LoaderOptions, RunOptions
from lost_reg.runs.overwriting import remove_results
from lost_reg.runs.pictures import picture_path
from lost_reg.runs.sessions import RunSummary, Session, now
from lost_reg.runs.sorting import sort_lines
from lost_reg.runs.sources import Source, check_drawable
from lost_reg.runs.writer import RunWriter, while_locked
from lost_reg.text import agreeing, counted
from lost_reg.types import Failure

Note = Callable[[str], None]


def no_note(text: str) -> None:
    """Ignore notes."""


def run(
    source: Source,
    backbone: Backbone,
    out: Path,
    setting: Setting | None = None,
    options: RunOptions | None = None,
    *,
    progress: Progress = no_progress,
    note: Note = no_note,
) -> RunSummary:
    """Discover objects in all images of a source and write a run folder.

    Args:
        setting: features, method and its options; by default LOST as published.
        progress: called after each image with the numbers done, failed and in total (None if unknown), of
            this session.
        note: called before the run starts with a line for anything that will not fit in memory or take long,
            and at its end with one for images of earlier sessions that lack the maps or pictures asked for.

    Raises:
        LostRegError: a setting that the backbone does not support, or a folder that cannot be written.
    """
    options = options or RunOptions()
    setting = settled(setting or Setting(), backbone)
    if line := other_weights(setting, backbone):
        note(line)
    if options.visualize:
        check_drawable(source)
    with_masks = options.masks or setting.refine is not None
    loader = replace(options.loader, apply_exif=source.apply_exif)
    root = Path(source.images.location)
    discovery = Discovery(
        setting, loader, root, out.absolute(), with_masks, options.save_maps, options.visualize
    )

    settings = {**setting.recorded(), **({"masks": True} if with_masks else {})}
    work = Work(settings, discovery, costliest=setting)
    return write_folder(source, backbone, out, work, options, progress=progress, note=note)


@dataclass(frozen=True)
class Work:
    """What is done with the images of a source.

    settings: recorded besides those of the source and the backbone.
    job: what makes an outcome of each image.
    costliest: the setting from which the run time is estimated.
    layout: of the folder that is written.
    """

    settings: dict[str, Any]
    job: Job
    costliest: Setting
    layout: Layout = RUN_LAYOUT


def write_folder(
    source: Source,
    backbone: Backbone,
    out: Path,
    work: Work,
    options: RunOptions,
    *,
    progress: Progress,
    note: Note,
) -> RunSummary:
    """Process the images of a source that are not done yet, and write a folder; see `run`."""
    images, limit, engine = source.images, options.limit, options.engine
    count = images.count if images.count is None or limit is None else min(limit, images.count)
    settings = {**_settings(source, backbone, options.loader), **work.settings}
    elsewhere = None
    if engine:
        engine.check(images, limit)
    if engine and engine.parquet:
        settings[PARQUET], elsewhere = engine.parquet, engine.done()
    record = _record(source, backbone, options, count)
    if options.overwrite:
        with while_locked(out):
            remove_results(out, work.layout)
    with RunWriter(
        out, settings, record, resume=options.resume, layout=work.layout, elsewhere=elsewhere
    ) as writer:
        todo = Todo(images, writer.done, limit)
        left = todo.left
        if left != 0 and not engine:  # whose devices are others
            _note_cost(source, left, backbone, work.costliest, options, note)
        size = batch_size_for(backbone, options.loader.batch_size)
        with Session(writer, backbone, options, size) as session:
            if not engine:  # whose start is no measure of its rate
                progress(0, 0, left)
            for outcome in outcomes_of(todo, work.job, backbone, size, engine):
                session.add(outcome)
                progress(session.done, session.failed, left)
        if options.sort:
            sort_lines(out / work.layout.lines_file, _names(images, limit))
    if len(writer.done):
        for line in _without_files(out, options):
            note(line)
    return session.summary(out, len(writer.done))


def _names(images: Images, limit: int | None) -> Iterable[str]:
    """The names of the first images, in their order."""
    return (one.image if isinstance(one, Failure) else one[0] for one in images.todo((), limit=limit))


def _without_files(out: Path, options: RunOptions) -> Iterator[str]:
    """A line for each kind of files that is asked for and that images lack, done by a session without it."""
    kinds = {
        "maps": (options.save_maps, "save_maps", maps_path, MAPS_FOLDER),
        "picture": (options.visualize, "visualize", picture_path, PICTURES_FOLDER),
    }
    for kind, (wanted, option, path_of, folder) in kinds.items():
        names = (one.image for one in read_outcomes(out)) if wanted else ()
        if lacking := {name for name in names if not path_of(out / folder, name).is_file()}:
            have = agreeing(len(lacking), "have")
            yield (
                f"{counted(len(lacking), 'image')} in {str(out)!r} {have} no {kind}: what was done before "
                f"`{option}` was asked for is not done again; a run into another `out` makes them all"
            )


def _record(source: Source, backbone: Backbone, options: RunOptions, count: int | None) -> dict[str, Any]:
    """What run.json holds besides the settings."""
    weights = backbone.weights.path
    passed_over = dict(source.images.passed_over)
    return {
        "created": now(),
        "root": source.images.location,
        "data_root": str(options.data_root.absolute()) if options.data_root else None,
        "images": count,
        **({"passed_over": passed_over} if passed_over else {}),
        "weights_file": str(weights.absolute()) if weights else None,
        **({COMMAND: options.command} if options.command else {}),
    }


def _settings(source: Source, backbone: Backbone, loader: LoaderOptions) -> dict[str, Any]:
    """Settings that the results depend on: a folder with other settings is not continued."""
    settings = {
        **source.settings,
        "apply_exif": source.apply_exif,
        "background": loader.background,
        "backbone": backbone.name,
        "weights": backbone.weights.recorded(),
        "precision": backbone.precision,
    }
    if backbone.registers:
        settings["test_time_registers"] = backbone.registers.settings
    return settings


def _note_cost(
    source: Source, left: int | None, backbone: Backbone, setting: Setting, options: RunOptions, note: Note
) -> None:
    sample = source.images.sample(SAMPLED)
    expected = forecast(sample, left, backbone, setting, options.loader)
    for line in expected.warnings(setting.features.max_side) if expected else []:
        note(line)


def settled(setting: Setting, backbone: Backbone) -> Setting:
    """The setting as it is for a backbone, and recorded: with a head, and with negative layers.

    Raises:
        LostRegError: a layer, a class token, or an attention head that the backbone does not have, or a head
            that does not fit it.
    """
    setting = fitted(setting, backbone)
    if setting.method.class_attention == "needed" and backbone.prefix_tokens[:1] != (CLASS_TOKEN,):
        raise LostRegError(f"{backbone.name} has no class token, whose attention {setting.method.name} needs")
    if setting.method.check_heads and backbone.heads:
        setting.method.check_heads(setting.config, backbone.heads)
    return replace(setting, features=layers_from_last(setting.features, backbone))


def layers_from_last(features: FeatureConfig, backbone: Backbone) -> FeatureConfig:
    """The features with layers as negative indices, so that a layer has only one name in results.

    Raises:
        LostRegError: a layer that the backbone does not have.
    """
    layers = tuple(backbone.from_last(layer) for layer in features.layers)
    return replace(features, layer=layers[0] if isinstance(features.layer, int) else layers)
