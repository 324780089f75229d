"""Heads as files, those that come with lost-reg, and whether a head fits a backbone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lost_reg.discovery.features import FeatureConfig
from lost_reg.discovery.head import Head, HeadConfig
from lost_reg.discovery.methods import Setting
from lost_reg.errors import LostRegError
from lost_reg.files import check_kind, read_regular, whole_file
from lost_reg.json_files import MALFORMED, as_json, parse_json, reason_of

if TYPE_CHECKING:
    from lost_reg.backbones.base import Backbone

HEAD_FILE = "head.json"
WORK_FOLDER = "unfinished"  # in the folder of a head, until it is finished
WORK_SETTINGS = "settings.json"  # in that folder
_SCALE = ("max_side", "square")
_OWN_FEATURES = (
    "a head takes the features that it was trained on: leave out `facet`, `layer`, `center` and `normalize`"
)
BUNDLED = Path(__file__).parent / "bundled"


def read_head(path: str | Path) -> Head:
    """Read the head in a folder that `lost-reg train head` wrote, or in its file.

    Raises:
        LostRegError: no head there, or a malformed file.
    """
    file = Path(path)
    file = file / HEAD_FILE if file.is_dir() else file
    try:
        return parse_json(read_regular(file), Head)
    except FileNotFoundError:
        if not Path(path).is_dir():
            raise LostRegError(f"no such head: {str(path)!r}; `lost-reg train head` makes one") from None
        unfinished = (file.parent / WORK_FOLDER).is_dir()
        reason = (
            "its training has not finished: `resume` continues it" if unfinished else f"no {file.name} in it"
        )
        raise LostRegError(f"no head in {str(path)!r}: {reason}") from None
    except OSError as error:
        raise LostRegError(f"cannot read the head {str(path)!r}: {error.strerror}") from None
    except (*MALFORMED, LostRegError) as error:
        raise LostRegError(f"{file} is not a head: {reason_of(error)}") from None


def write_head(head: Head, folder: Path) -> None:
    """Write a head into a folder, in place of one that is there.

    Raises:
        LostRegError: the file cannot be written.
    """
    with whole_file(folder / HEAD_FILE, "the head", durable=True) as part:
        part.write_text(as_json(asdict(head)) + "\n", encoding="utf-8")


def check_free_for_head(out: Path, *, resume: bool, overwrite: bool = False) -> None:
    """Check that a head may be written to a folder.

    Raises:
        LostRegError: a file; a damaged head; unless `overwrite` is given, a folder with a head, or with an
            unfinished one although `resume` is not given, which also continues one that replaces a head.
    """
    if out.exists() and not out.is_dir():
        raise LostRegError(f"cannot write a head to {str(out)!r}: it is a file; choose a folder as `out`")
    is_begun = (out / WORK_FOLDER).exists()
    if (out / HEAD_FILE).exists() and not (overwrite or (resume and is_begun)):
        raise LostRegError(
            f"{str(out)!r} holds a head already: `overwrite` replaces it, or choose another `out`"
        )
    if is_begun and not (resume or overwrite):
        raise LostRegError(
            f"{str(out)!r} holds an unfinished training: `resume` continues it, `overwrite` starts another, "
            "or choose another `out`"
        )
    check_kind(out / HEAD_FILE, lambda: read_head(out))


def bundled_heads() -> list[str]:
    """The backbones for which a head comes with lost-reg."""
    return sorted(file.stem for file in BUNDLED.glob("*.json"))


def fitted(setting: Setting, backbone: Backbone) -> Setting:
    """A setting of the method `head` with its head, and the features that the head takes.

    A size of the images that the setting has stays; otherwise it is the one that the head was trained on.
    Settings of other methods are returned as they are.

    Raises:
        LostRegError: a head of another backbone, none for this backbone, or features that it does not take.
    """
    config = setting.config
    if not isinstance(config, HeadConfig):
        return setting
    head = config.head or _bundled_head(backbone)
    if head.backbone != backbone.name:
        raise LostRegError(
            f"the head was trained on features of {head.backbone}, not of {backbone.name}: "
            f"choose that `backbone`, or train one for this"
        )
    asked = setting.features
    chosen = replace(asked, max_side=None, square=None)
    if chosen not in (FeatureConfig(), replace(head.features, max_side=None, square=None)):
        raise LostRegError(_OWN_FEATURES)
    given = {name: getattr(asked, name) for name in _SCALE} if asked.max_side or asked.square else {}
    return replace(setting, features=replace(head.features, **given), config=replace(config, head=head))


def check_no_features(changes: Iterable[str]) -> None:
    """Check that of the features of a head nothing is changed but the size of the images.

    Raises:
        LostRegError: another field of `FeatureConfig` is among the names.
    """
    if {*changes} & {*FeatureConfig.__dataclass_fields__} - {*_SCALE}:
        raise LostRegError(_OWN_FEATURES)


def drawing(seed: int) -> Callable[[str], float]:
    """A function from an image's name to a number from 0 to 1, as if drawn at random, but always the same."""

    def number(image: str) -> float:
        digest = hashlib.blake2b(f"{seed} {image}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64

    return number


def is_held_out(image: str, trained_on: Mapping[str, Any]) -> bool:
    """Whether an image was kept out when a head was trained; see `Head.trained_on`."""
    return drawing(trained_on["options"]["seed"])(image) < trained_on["held_out_below"]


def other_weights(setting: Setting, backbone: Backbone) -> str | None:
    """A line if a setting's head was trained on features of other weights than the backbone has."""
    head = getattr(setting.config, "head", None)
    if not isinstance(head, Head) or head.weights_sha256 == backbone.weights.sha256:
        return None
    return (
        f"the head was trained on features of {head.weights_name}, whose weights are not those of "
        f"{backbone.weights.name}: it may find less"
    )


def _bundled_head(backbone: Backbone) -> Head:
    if backbone.name not in bundled_heads():
        known = ", ".join(bundled_heads())
        raise LostRegError(
            f"no head comes with lost-reg for {backbone.name}, only for {known}: give one as `head`; "
            "`lost-reg train head` makes it"
        )
    return read_head(BUNDLED / f"{backbone.name}.json")
