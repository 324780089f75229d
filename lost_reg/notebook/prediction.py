"""Predictions that draw themselves, and convert to what supervision, FiftyOne and COCO's tools take."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import zip_longest
from typing import Any

from PIL import Image

from lost_reg.errors import LostRegError, UnreadableImage
from lost_reg.images.reading import scaled_size
from lost_reg.notebook import conversions, html
from lost_reg.notebook.images import ImageSource
from lost_reg.runs.pictures import draw_prediction
from lost_reg.types import Failure, Prediction

_SHOWN_SIDE = 480  # pixels, of a picture in a notebook
_SHOWN_IN_LIST, _SIDE_IN_LIST = 24, 240


@dataclass(frozen=True, repr=False, eq=False)
class ImagePrediction(Prediction):
    """A Prediction with its image: what `discover` and `discover_stream` return.

    It is equal to a Prediction with the same content. Of a file it holds the path, of an image in memory the
    pixels.
    """

    _source: ImageSource | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Prediction) and _content(self) == _content(other)

    __hash__ = Prediction.__hash__

    def picture(self, max_side: int | None = None) -> Image.Image:
        """The image with its masks, boxes and seed, as `lost-reg run --visualize` draws them.

        Args:
            max_side: scale the picture down so that its longer side is at most this.

        Raises:
            UnreadableImage: a file that is gone, cannot be decoded, or has changed its size.
        """
        try:
            if self._source is None:
                raise UnreadableImage("the prediction has no image")
            image = self._source.read(self.size_hw)
        except UnreadableImage as error:
            raise UnreadableImage(f"{self.image}: {error}") from None
        drawn = draw_prediction(image, self)
        height, width = scaled_size(self.size_hw, max_side and min(max_side, max(self.size_hw)))
        return drawn if drawn.size == (width, height) else drawn.resize((width, height))

    def plot(self, axes: Any = None) -> Any:
        """Draw the `picture` with matplotlib, and return the axes.

        Args:
            axes: where to draw; new ones by default.

        Raises:
            UnreadableImage: see `picture`.
        """
        picture = self.picture()
        if axes is None:
            from matplotlib import pyplot

            _, axes = pyplot.subplots()
        axes.imshow(picture)
        axes.set_title(self.image)
        axes.set_axis_off()
        return axes

    def to_coco(self) -> dict[str, Any]:
        """A COCO instances file as a dictionary: see `Predictions.to_coco`."""
        return conversions.to_coco([self])

    def to_supervision(self) -> Any:
        """The objects as `supervision.Detections`: boxes, scores, masks, and labels as class names.

        `confidence` is None if an object has no score, and `mask` if one has no mask.

        Raises:
            LostRegError: supervision is not installed.
        """
        return conversions.to_supervision(self)

    def to_fiftyone(self) -> Any:
        """The objects as `fiftyone.Detections`, to be put into a field of a sample; with masks, if kept.

        Raises:
            LostRegError: fiftyone is not installed.
        """
        return conversions.to_fiftyone(self)

    def _repr_html_(self) -> str:
        """A small picture and a table of the objects, for a notebook."""
        return html.of_prediction(self, _shown(self, _SHOWN_SIDE))


def _content(prediction: Prediction) -> list[Any]:
    return [getattr(prediction, item.name) for item in fields(Prediction)]


def _shown(prediction: ImagePrediction, side: int) -> Image.Image | str:
    """The small picture of a prediction, or why there is none."""
    try:
        return prediction.picture(side)
    except LostRegError as error:
        return str(error)


class Predictions(list[ImagePrediction]):
    """A list of predictions that shows its pictures in a notebook.

    failures: the images that `discover` has skipped, and why.
    """

    failures: tuple[Failure, ...] = ()

    def __getitem__(self, index: Any) -> Any:
        """A prediction, or for a slice Predictions; the failures stay with the whole list."""
        found = super().__getitem__(index)
        return Predictions(found) if isinstance(index, slice) else found

    def plot(self, columns: int = 4) -> Any:
        """Draw the first pictures beside each other with matplotlib, and return its figure.

        Args:
            columns: how many are in a row.

        Raises:
            LostRegError: no predictions.
            UnreadableImage: see `ImagePrediction.picture`.
        """
        if not self:
            raise LostRegError("there are no predictions to plot")
        from matplotlib import pyplot

        shown = self[:_SHOWN_IN_LIST]
        columns = min(columns, len(shown))
        rows = -(-len(shown) // columns)
        figure, grid = pyplot.subplots(rows, columns, squeeze=False, figsize=(3 * columns, 3 * rows))
        for axes, one in zip_longest(grid.flat, shown):
            one.plot(axes) if one else axes.set_axis_off()
        return figure

    def to_coco(self) -> dict[str, Any]:
        """A COCO instances file as a dictionary, as `lost-reg export --to coco` writes it.

        Images are numbered from 1. Those without an object are named under "images_without_box".

        Raises:
            LostRegError: several images have one name.
        """
        return conversions.to_coco(self)

    def _repr_html_(self) -> str:
        """The first pictures, and how many images there are."""
        shown = [(one, _shown(one, _SIDE_IN_LIST)) for one in self[:_SHOWN_IN_LIST]]
        return html.of_predictions(shown, len(self), self.failures)
