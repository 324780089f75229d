"""Reading a COCO annotation file by pycocotools."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

from lost_reg.errors import LostRegError


def read_coco_file(annotations: Path) -> Any:
    """A pycocotools COCO of the file.

    Raises:
        LostRegError: a file in another format, or an image in it without name or id.
    """
    from pycocotools.coco import COCO

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
            coco = COCO(str(annotations))
        if not all(isinstance(one["file_name"], str) and "id" in one for one in coco.dataset["images"]):
            raise ValueError("an image without file_name or id")
    except (ValueError, KeyError, TypeError, AssertionError, OSError, RecursionError) as error:
        raise LostRegError(
            f"{str(annotations)!r} is not a COCO annotation file: {type(error).__name__} {error}"
        ) from None
    return coco


def counted_objects(coco: Any, record: dict[str, Any]) -> list[dict[str, Any]]:
    """The annotations of an image, without crowds."""
    return [one for one in coco.imgToAnns[record["id"]] if not one.get("iscrowd", 0)]
