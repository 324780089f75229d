"""Pictures and maps of a finished run, made afterwards: `lost-reg draw` as functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lost_reg.backbones.base import Backbone
from lost_reg.backbones.registers import AddedRegisters, RegisterNeurons
from lost_reg.discovery.methods import DETECTOR, METHODS, Setting, preset_setting, with_changes
from lost_reg.errors import LostRegError, UnreadableImage
from lost_reg.images.decoding import NamedImage
from lost_reg.images.reading import as_recorded
from lost_reg.progress import Progress, no_progress
from lost_reg.runs.discovery import maps_writer
from lost_reg.runs.folder import MAPS_FOLDER, PICTURES_FOLDER, Results
from lost_reg.runs.image_folder import ImageFolder
from lost_reg.runs.map_files import maps_path
from lost_reg.runs.options import LoaderOptions
from lost_reg.runs.pictures import picture_path, save_picture
from lost_reg.runs.scheduler import discover_by_each
from lost_reg.runs.writer import while_locked
from lost_reg.types import Failure


@dataclass(frozen=True)
class Drawn:
    """How many files were made, and how many were there; why others could not be made."""

    made: int
    there: int
    failures: list[Failure]


def draw_pictures(results: Results, images: ImageFolder, progress: Progress = no_progress) -> Drawn:
    """Write the pictures of a run that are not there yet: each image with its boxes, seed and masks.

    Raises:
        LostRegError: images that are not read (see `ImageFolder`), or a folder that cannot be written.
    """
    folder, reading = results.folder / PICTURES_FOLDER, as_recorded(results.settings)
    todo = _lacking(results, folder, picture_path)
    failures: list[Failure] = []
    with while_locked(results.folder):
        for number, image in enumerate(todo, start=1):
            path = images.find(image)
            try:
                if path is None:
                    raise UnreadableImage("no file on this machine")
                save_picture(path, results.predictions[image], folder, **reading)
            except UnreadableImage as error:
                failures.append(Failure(image, str(error)))
            progress(number - len(failures), len(failures), len(todo))
    return Drawn(len(todo) - len(failures), len(results.predictions) - len(todo), failures)


def draw_maps(
    results: Results,
    images: ImageFolder,
    backbone: Backbone,
    loader: LoaderOptions,
    progress: Progress = no_progress,
) -> Drawn:
    """Write the maps of a run that are not there yet, which takes its features again.

    Args:
        backbone: the run's, with its weights and test-time registers.

    Raises:
        LostRegError: as `draw_pictures`, or a method whose maps cannot be made afterwards.
    """
    folder, setting = results.folder / MAPS_FOLDER, recorded_setting(results)
    todo = _lacking(results, folder, maps_path)
    found = {image: images.find(image) for image in todo}
    failures: list[Failure] = []

    def named() -> Iterator[NamedImage | Failure]:
        for image, path in found.items():
            yield Failure(image, "no file on this machine") if path is None else (image, path)

    with while_locked(results.folder):
        outcomes = discover_by_each(named(), backbone, [setting], loader, on_maps=maps_writer(folder))
        for number, outcome in enumerate(outcomes, start=1):
            failures += [outcome] if isinstance(outcome, Failure) else []
            progress(number - len(failures), len(failures), len(todo))
    return Drawn(len(todo) - len(failures), len(results.predictions) - len(todo), failures)


def recorded_setting(results: Results) -> Setting:
    """The setting of a run, from its record.

    Raises:
        LostRegError: a method that is not installed, a detector, or a head, whose numbers are not recorded.
    """
    settings = results.settings
    method, features = settings["method"], settings["features"]
    if method in (DETECTOR, "head") or method not in METHODS:
        raise LostRegError(
            f"the maps of {results.folder} cannot be made afterwards, because the method {method} needs more "
            "than its record: run it again with `save_maps`"
        )
    size = {"square": features.get("square"), "max_side": features.get("max_side")}
    return with_changes(preset_setting(method), {**features, **size, **settings["options"]})


def recorded_registers(results: Results) -> AddedRegisters | None:
    """The test-time registers of a run, from its record."""
    recorded = results.settings.get("test_time_registers")
    if not recorded:
        return None
    neurons = RegisterNeurons(tuple((layer, neuron) for layer, neuron in recorded["neurons"]))
    return AddedRegisters(neurons, recorded["count"], recorded["rule"])


def _lacking(results: Results, folder: Path, path_of) -> list[str]:
    """The images of a run without their file in a folder."""
    return [image for image in results.predictions if not path_of(folder, image).is_file()]
