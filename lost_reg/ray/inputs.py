"""Images as a dataset of Ray Data, a row for each block of them: files, or what shards and addresses hold."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from lost_reg.images.fetching import fetched
from lost_reg.images.shards import TarShards
from lost_reg.runs.engines import Todo
from lost_reg.types import Failure

if TYPE_CHECKING:
    import pyarrow as pa

    from lost_reg.images.decoding import NamedImage

# The column of datasets; what it holds is pickled: a block of images, or a part of them that a task reads.
_COLUMN = "pickled"
_READER_CPUS, _MOST_READERS = 0.05, 16
_IMAGES_OF_A_PART = 2048
BYTES_OF_A_ROW = 2**26  # at most, about: several rows must fit in the object store


def dataset_of(ray: Any, images: Iterable[NamedImage | Failure], rows: int) -> Any:
    """Images as a dataset, whose rows are blocks of this many images, or of fewer that are large.

    The command sends parts; tasks divide them into blocks, read them if they are shards, and fetch images at
    addresses.
    """
    done: Any = ()
    parts: Iterable[Any] = blocks(images, _IMAGES_OF_A_PART)
    if isinstance(images, Todo) and isinstance(images.images, TarShards):
        done, parts = images.done, images.images.parts()
    done = ray.put(done)

    def read(table: pa.Table) -> Iterator[pa.Table]:
        for part in rows_of(table):
            found = part.todo(ray.get(done)) if isinstance(part, TarShards) else part
            yield from map(as_table, blocks(fetched(found), rows))

    tables = [ray.put(as_table(part)) for part in parts] or [ray.put(as_table([]))]
    dataset = ray.data.from_arrow_refs(tables)
    # Each row becomes a block of Ray Data's own, which is what it gives an actor, and tries again.
    dataset.context.target_max_block_size = 1
    return dataset.map_batches(
        read, batch_size=1, batch_format="pyarrow", num_cpus=_READER_CPUS,
        compute=ray.data.TaskPoolStrategy(size=_MOST_READERS),
    )  # fmt: skip


def as_table(row: Any) -> pa.Table:
    """A table of one row."""
    import pyarrow as pa

    return pa.table({_COLUMN: pa.array([pickle.dumps(row)], pa.large_binary())})


def rows_of(table: pa.Table) -> Iterator[Any]:
    """What the rows of a table hold."""
    return map(pickle.loads, table[_COLUMN].to_pylist())


def blocks(images: Iterable[NamedImage | Failure], most: int) -> Iterator[list[NamedImage | Failure]]:
    """Images in blocks of so many, or of fewer where they are large."""
    block: list[NamedImage | Failure] = []
    size = 0
    for image in images:
        block.append(image)
        size += _bytes_of(image)
        if len(block) == most or size >= BYTES_OF_A_ROW:
            yield block
            block, size = [], 0
    if block:
        yield block


def _bytes_of(image: NamedImage | Failure) -> int:
    """Of an image's content, or nothing if it is a file."""
    content = None if isinstance(image, Failure) else image[1]
    return len(content) if isinstance(content, bytes) else getattr(content, "nbytes", 0)
