"""Predictions as Parquet files at a path or an address, for runs that no single disk holds."""

from __future__ import annotations

import hashlib
import io
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lost_reg.errors import LostRegError
from lost_reg.files import absolute
from lost_reg.runs.writer import line_of
from lost_reg.text import first_sentence
from lost_reg.types import Failure, Prediction

if TYPE_CHECKING:
    import pyarrow as pa

_SUFFIX = ".parquet"


@dataclass(frozen=True)
class ParquetFiles:
    """Parquet files below a path or an address that fsspec writes, each of a block of predictions.

    A file appears when it is whole, and a block that is done again replaces its own. Columns: image; height
    and width, in pixels; boxes_xyxy, (objects, 4), in pixels of the original image; scores, null where a
    method gives none; and prediction, the line of predictions.jsonl.
    """

    location: str

    def make(self) -> None:
        """Make the folder.

        Raises:
            LostRegError: a place that cannot be written.
        """
        with self._errors("write"):
            files, folder = self._place()
            files.makedirs(folder, exist_ok=True)

    def write(self, outcomes: Sequence[Prediction | Failure]) -> None:
        """Write the predictions among the outcomes of a block, whose images name its file, into the folder.

        Raises:
            LostRegError: a place that cannot be written.
        """
        predictions = [one for one in outcomes if isinstance(one, Prediction)]
        if not predictions:
            return
        import pyarrow.parquet

        content = io.BytesIO()
        pyarrow.parquet.write_table(_table(predictions), content)
        images = "\0".join(sorted(one.image for one in outcomes))
        name = hashlib.sha256(images.encode("utf-8", "surrogateescape")).hexdigest()[:32] + _SUFFIX
        with self._errors("write"):
            files, folder = self._place()
            part = f"{folder}/.{name}.{secrets.token_hex(4)}"  # hidden from readers
            files.pipe_file(part, content.getvalue())
            files.mv(part, f"{folder}/{name}")

    def images(self) -> Iterator[str]:
        """The images that have predictions here.

        Raises:
            LostRegError: a place or a file that cannot be read.
        """
        import pyarrow.parquet

        with self._errors("read"):
            files, folder = self._place()
            for path in files.find(folder) if files.exists(folder) else []:
                if path.endswith(_SUFFIX):
                    with self._errors(f"read {path!r} among the"), files.open(path, "rb") as file:
                        yield from pyarrow.parquet.read_table(file, columns=["image"])["image"].to_pylist()

    def _place(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        files, folder = url_to_fs(absolute(self.location), use_listings_cache=False)
        return files, folder.rstrip("/")

    @contextmanager
    def _errors(self, verb: str) -> Iterator[None]:
        try:
            yield
        except LostRegError:
            raise
        except Exception as error:  # of any type, by the file system or Arrow
            raise LostRegError(
                f"cannot {verb} Parquet files at {self.location!r}: {first_sentence(error)}"
            ) from None


def is_text(name: str) -> bool:
    """Whether a name can be written: file names need not be UTF-8, and Parquet's texts are."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _table(predictions: Sequence[Prediction]) -> pa.Table:
    import pyarrow as pa

    objects = [one.objects for one in predictions]
    return pa.table({
        "image": pa.array((one.image for one in predictions), pa.string()),
        "height": pa.array((one.size_hw[0] for one in predictions), pa.int32()),
        "width": pa.array((one.size_hw[1] for one in predictions), pa.int32()),
        "boxes_xyxy": pa.array(
            [[list(one.box_xyxy) for one in found] for found in objects], pa.list_(pa.list_(pa.float64()))
        ),
        "scores": pa.array([[one.score for one in found] for found in objects], pa.list_(pa.float64())),
        "prediction": pa.array((line_of(one).decode().rstrip() for one in predictions), pa.string()),
    })  # fmt: skip
