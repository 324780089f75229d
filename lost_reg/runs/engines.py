"""What a run is spread by, other than its own process: the interface; `lost_reg.ray` has one."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from lost_reg.images.sources import ALL, Images, Share
from lost_reg.types import Failure, Prediction

if TYPE_CHECKING:
    from lost_reg.backbones.base import Backbone
    from lost_reg.images.decoding import NamedImage
    from lost_reg.runs.discovery import Discovery


@dataclass(frozen=True)
class Todo:
    """The images that a session has to do; iterating over it reads them. See `Images.todo`."""

    images: Images
    done: Container[str] = ()
    share: Share = ALL
    limit: int | None = None

    def __iter__(self) -> Iterator[NamedImage | Failure]:
        return self.images.todo(self.done, self.share, self.limit)


class Engine(Protocol):
    """Spreads the images of a run over processes and machines."""

    @property
    def facts(self) -> dict[str, Any]:
        """What run.json records of a session by this engine."""
        ...

    def discover(
        self, todo: Todo, discovery: Discovery, backbone: Backbone
    ) -> Iterator[Prediction | Failure]:
        """The outcomes of the images, each once, in any order.

        backbone: the run's own, to which those elsewhere must be equal.

        Raises:
            LostRegError: machines or backbones that cannot be used; what was done is kept.
        """
        ...

    def close(self) -> None:
        """Leave the processes and machines, once the session is recorded."""
        ...
