"""Lists of register neurons that others have published, fetched from where they lie."""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass

from lost_reg.backbones.registers import RegisterNeurons
from lost_reg.datasets import https
from lost_reg.datasets.https import RequestFailed
from lost_reg.errors import LostRegError
from lost_reg.json_files import as_json


@dataclass(frozen=True)
class PublishedList:
    """A Python file that assigns one dictionary, {layer: [neuron, ...]}, at a fixed version.

    sha256: of the (layer, neuron) pairs, see `pairs_digest`.
    """

    url: str
    sha256: str
    source: str


LISTS = {
    "dinov2_vitl14": PublishedList(
        "https://raw.githubusercontent.com/nickjiang2378/test-time-registers/"
        "cddce29a58880e0b7befcd32ed9c8cffd95ba5f5/dinov2/dinov2/hub/register_neurons.py",
        "6f90798ed20a746ed83116fcba3977575b27bacc041ce3d4c1bac5a45792e570",
        "Jiang et al. 2025, the code that they published",
    )
}


def find_list(backbone: str) -> PublishedList:
    """The published list for a backbone.

    Raises:
        LostRegError: there is none.
    """
    if backbone not in LISTS:
        raise LostRegError(
            f"no list of register neurons is published for {backbone}, only for {', '.join(LISTS)}: "
            f"`lost-reg register-neurons` finds those of {backbone} on your images"
        )
    return LISTS[backbone]


def published_neurons(backbone: str) -> RegisterNeurons:
    """Fetch the register neurons that were published for a backbone, and check that they are still the same.

    Raises:
        LostRegError: there are none, the server cannot be reached, or it has another list.
    """
    published = find_list(backbone)
    try:
        text = https.with_retries(lambda: https.read_all(published.url))
    except RequestFailed as error:
        raise LostRegError(f"cannot download {published.url}: {error}") from error
    pairs = _parsed(text)
    if not pairs or pairs_digest(pairs) != published.sha256:
        raise LostRegError(f"{published.url} does not hold the list of neurons that was published there")
    found = {"published": published.source, "url": published.url, "sha256": published.sha256}
    return RegisterNeurons(pairs, backbone, found=found)


def pairs_digest(pairs: tuple[tuple[int, int], ...]) -> str:
    """The sha256 of sorted [layer, neuron] pairs as JSON: the same however the file is laid out."""
    return hashlib.sha256(as_json(sorted(pairs)).encode()).hexdigest()


def _parsed(text: bytes) -> tuple[tuple[int, int], ...]:
    """The (layer, neuron) pairs of a Python file, which is not executed; none if it holds something else."""
    try:
        (statement,) = ast.parse(text).body
        layers = ast.literal_eval(statement.value)  # type: ignore[attr-defined]
        return tuple((int(layer), int(neuron)) for layer, neurons in layers.items() for neuron in neurons)
    except (ValueError, SyntaxError, AttributeError, TypeError, RecursionError, MemoryError):
        return ()
