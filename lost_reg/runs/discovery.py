"""How the objects of a run's images are found, with the files that it writes for each image."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lost_reg.backbones.base import Backbone
from lost_reg.discovery.maps import Maps
from lost_reg.discovery.methods import Setting
from lost_reg.errors import UnreadableImage
from lost_reg.files import check_no_links
from lost_reg.images.batching import BatchSize, DecodedImage
from lost_reg.images.decoding import Decoding
from lost_reg.runs.batches import decoding_of
from lost_reg.runs.folder import MAPS_FOLDER, PICTURES_FOLDER
from lost_reg.runs.map_files import maps_path, write_maps
from lost_reg.runs.options import LoaderOptions
from lost_reg.runs.pictures import save_picture
from lost_reg.runs.scheduler import discover_in_batches
from lost_reg.types import Failure, Prediction


@dataclass(frozen=True)
class Discovery:
    """The job of a run: how the objects of its images are found; see `Job`.

    root: the folder that the names of image files are relative to.
    out: the run folder.
    masks, save_maps, visualize: see `RunOptions`.
    """

    setting: Setting
    loader: LoaderOptions
    root: Path
    out: Path
    masks: bool = False
    save_maps: bool = False
    visualize: bool = False

    def decoding(self, patch_size: int) -> Decoding:
        """See `Job`."""
        return decoding_of(patch_size, self.setting.features, self.loader)

    def outcomes(
        self, batches: Iterable[list[DecodedImage] | Failure], backbone: Backbone, size: BatchSize
    ) -> Iterator[Prediction | Failure]:
        """What is found in batches of images, each after its maps and its picture.

        So a run that is killed has the files of all images that it has done.
        """
        on_maps = maps_writer(self.out / MAPS_FOLDER) if self.save_maps else None
        found = discover_in_batches(
            batches, backbone, [self.setting], size, on_maps=on_maps, with_masks=self.masks
        )
        for outcomes in found:
            outcome = outcomes if isinstance(outcomes, Failure) else outcomes[0]
            if self.visualize and isinstance(outcome, Prediction):
                draw_outcome(outcome, self.root, self.out, self.loader)
            yield outcome


def draw_outcome(outcome: Prediction, root: Path, out: Path, loader: LoaderOptions) -> None:
    """Write an outcome's picture into a run folder, unless the image's file has disappeared since."""
    with contextlib.suppress(UnreadableImage):
        save_picture(
            root / outcome.image, outcome, out / PICTURES_FOLDER,
            apply_exif=loader.apply_exif, background=loader.background,
        )  # fmt: skip


def maps_writer(folder: Path) -> Callable[[str, Maps], None]:
    """A function that writes the maps of an image, of this name, into a folder of maps."""

    def write(image: str, maps: Maps) -> None:
        path = maps_path(folder, image)
        check_no_links(folder, path)
        write_maps(path, maps)

    return write
