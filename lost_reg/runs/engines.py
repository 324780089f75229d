"""What is done with the images of a run, and where: in this process, or by an engine such as Ray's."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from lost_reg.backbones.base import Backbone
    from lost_reg.images.batching import BatchSize, DecodedImage
    from lost_reg.images.decoding import Decoding, NamedImage
    from lost_reg.images.sources import Images
    from lost_reg.runs.options import LoaderOptions
    from lost_reg.types import Failure


class Done(Sized, Container[str], Protocol):
    """The names of images that are done, such as a `NameSet`."""


@dataclass(frozen=True)
class Todo:
    """The images that a session has to do; iterating over it reads them. See `Images.todo`."""

    images: Images
    done: Done = frozenset()
    limit: int | None = None

    @property
    def left(self) -> int | None:
        """How many there are; None if only reading them all would tell."""
        if self.images.count is None:
            return None
        return max(0, min(self.images.count, self.limit or self.images.count) - len(self.done))

    def __iter__(self) -> Iterator[NamedImage | Failure]:
        return self.images.todo(self.done, self.limit)


class Job(Protocol):
    """What is done with images, wherever that is: a job can be pickled, and leaves the backbone to others."""

    @property
    def loader(self) -> LoaderOptions: ...

    def decoding(self, patch_size: int) -> Decoding:
        """How the images are prepared for patches of this size, in pixels."""
        ...

    def outcomes(
        self, batches: Iterable[list[DecodedImage] | Failure], backbone: Backbone, size: BatchSize
    ) -> Iterator[Any]:
        """What becomes of batches of images, in any order: a Failure, or what the job makes of an image."""
        ...


class Engine(Protocol):
    """Spreads the images of a run over processes and machines."""

    @property
    def facts(self) -> dict[str, Any]:
        """What run.json records of a session by this engine."""
        ...

    @property
    def parquet(self) -> str | None:
        """Where the engine keeps the predictions instead of the run folder; None if it does not."""
        ...

    def check(self, images: Images, limit: int | None) -> None:
        """Check what can be wrong before a run folder is made.

        Raises:
            LostRegError: machines or a place that cannot be used, or images that cannot be spread so.
        """
        ...

    def done(self) -> Iterator[str]:
        """The images whose predictions it keeps.

        Raises:
            LostRegError: a place that cannot be read.
        """
        ...

    def outcomes(self, images: Iterable[NamedImage | Failure], job: Job, backbone: Backbone) -> Iterator[Any]:
        """The outcomes of the images, such as a `Todo`, each once, in any order.

        backbone: the run's own, to which those elsewhere must be equal.

        Raises:
            LostRegError: machines or backbones that cannot be used; what was done is kept.
        """
        ...

    def close(self) -> None:
        """Leave the processes and machines, once the session is recorded."""
        ...
