"""Image inputs of the commands that measure a backbone, streamed repeatedly: files, or a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lost_reg.cli.options import chosen_loader
from lost_reg.cli.output import print_message, print_note
from lost_reg.text import counted, shown_names


def image_files(inputs: Sequence[str], options: dict[str, Any]) -> tuple[Sequence[str], Callable[[], Any]]:
    """The names of the images, and a function that makes a stream of them."""
    from lost_reg.images.sources import list_images

    files = list_images(inputs)
    note_passed_over(files)
    for folder in files.failures:
        print_message("Warning", f"{folder.image} {folder.reason}")
    names = files.names[: options["limit"]]

    def stream() -> Any:
        from lost_reg.artifacts.streams import ImageStream

        paths = [files.root / name for name in names]
        return ImageStream(paths, names, options["max_side"], chosen_loader(options))

    return names, stream


def images_of_dataset(name: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """A stream of the images of an annotated dataset, and the dataset."""
    from dataclasses import replace

    from lost_reg.artifacts.streams import ImageStream
    from lost_reg.datasets.catalog import data_root, find_dataset
    from lost_reg.runs.sources import source_of_dataset

    dataset = find_dataset(name, data_root(options["data_root"]))
    dataset.check_annotated()
    source = source_of_dataset(dataset)  # raises for images that are not there
    names = dataset.images[: options["limit"]]
    paths = [dataset.root / name for name in names]
    loader = replace(chosen_loader(options), apply_exif=source.apply_exif)
    return ImageStream(paths, names, options["max_side"], loader), dataset


def note_passed_over(images: Any) -> None:
    """Print one line each on what is beside the images and not read: other formats, and a run's pictures."""
    from lost_reg.images.folders import drawn_line, passed_over_line

    if images.passed_over:
        print_note(passed_over_line(images.passed_over))
    if images.drawn:
        print_note(drawn_line(images.drawn))


def warn_of_failures(failures: Iterable[Any], images: int) -> None:
    """Print one line on the images that could not be used, if any."""
    failures = list(failures)
    if failures:
        shown = shown_names(f"{failure.image} ({failure.reason})" for failure in failures)
        print_message(
            "Warning", f"{len(failures):,} of {counted(images, 'image')} could not be used: {shown}"
        )
