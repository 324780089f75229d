"""Files and folders: a user's text, atomic writes, and paths for images that cannot escape a folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from lost_reg.errors import LostRegError
from lost_reg.text import text_of

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_PART = re.compile(r"\.[0-9a-f]{16}\.part")  # the names that `whole_file` and `whole_folder` write to
_MOST_BYTES = 4 << 30  # of annotations, predictions, records and lists, which are read as a whole
_ATTEMPTS = 10  # to make a part that no other process removes
_LONGEST_PATH = 800  # characters of an image's name, folders included; a path can have 4,096 bytes
_LONGEST_NAME = 230  # bytes; file systems allow 255, and suffixes are added


def is_address(text: str) -> bool:
    """Whether a text is an address such as s3://bucket/photos, and not a path."""
    return _ADDRESS.match(text) is not None


def absolute(name: str) -> str:
    """A path as an absolute one; an address as it is."""
    return name if is_address(name) else os.path.abspath(name)


def read_text(path: Path, what: str = "", *, errors: str = "strict") -> str:
    """The text of a user's file: see `text_of`; `what`: what errors call it, such as "`names`".

    Raises:
        LostRegError: a file that cannot be read, or is not text.
    """
    content = read_bytes(path, what)
    try:
        return text_of(content, errors=errors)
    except ValueError as error:
        raise _cannot_read(path, what, str(error)) from None


def read_bytes(path: Path, what: str = "") -> bytes:
    """The content of a user's file; `what`: what errors call it.

    Raises:
        LostRegError: a file that cannot be read.
    """
    try:
        with path.open("rb") as file:
            return _content(file)
    except OSError as error:
        raise _cannot_read(path, what, str(error.strerror)) from None


def open_regular(path: str | Path, buffering: int = -1) -> Any:
    """Open a file for reading, but no pipe, for whose writer it would wait, and no device.

    The file is looked at once it is open, so that it cannot become another one in between.

    Raises:
        OSError: it is another kind of file, or cannot be opened.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    opened = open(path, "rb", buffering=buffering, opener=opener)  # noqa: SIM115 - the caller closes it
    if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
        opened.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return opened


def read_regular(path: Path) -> bytes:
    """The content of a file. Raises OSError: see `open_regular`; or it is too large."""
    with open_regular(path) as file:
        return _content(file)


def _content(file: BinaryIO) -> bytes:
    if os.fstat(file.fileno()).st_size > _MOST_BYTES:
        raise OSError(errno.EFBIG, f"larger than {_MOST_BYTES >> 30} GiB")
    return file.read()


def _cannot_read(path: Path, what: str, reason: str) -> LostRegError:
    named = f"{what} {str(path)!r}".strip()
    return LostRegError(f"cannot read {named}: {reason}")


def leads_out(name: str) -> bool:
    """Whether the name of an image is not that of a file below a folder: absolute, or with ".."."""
    path = PurePath(name)
    return bool(path.anchor) or ".." in path.parts


@contextlib.contextmanager
def whole_file(
    target: Path, what: str = "", *, durable: bool = False, among_many: bool = False
) -> Iterator[Path]:
    """A temporary file to write to; it replaces the target when the block ends without an error.

    The target's folder is created. A process that is killed can leave a hidden file beside the target; the
    next one that writes the target removes it.

    Args:
        what: what errors call the target, such as "the picture".
        durable: sync to disk first, so that even after a power loss the target is complete, old or new.
        among_many: do not search the target's folder for what killed processes left, as it holds very many
            files: see `remove_parts`.

    Raises:
        LostRegError: a write fails, here or in the block; nothing is left behind.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not among_many:
            _remove_parts_of(target)
        with _new_part(target, lambda part: part.touch(exist_ok=False)) as part:
            yield part
            if durable:
                with part.open("rb+") as file:
                    os.fsync(file.fileno())
            part.replace(target)
    except OSError as error:
        named = f"{what} {target}".strip()
        raise LostRegError(f"cannot write {named}: {error.strerror or error}") from None


def _part_of(target: Path) -> Path:
    """A new hidden name beside a target: short, as the target's may be as long as allowed."""
    return target.with_name(f"{_start_of_parts(target)}{secrets.token_hex(4)}.part")


def _start_of_parts(target: Path) -> str:
    return f".{hashlib.sha256(target.name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[None]:
    """Hold a lock, which ends with the process, so that others do not take a part for one that was left.

    Raises:
        OSError: another process took it for one before it was locked; or it cannot be opened.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(part, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: none is removed there either
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # waits for a process that is about to remove it
        os.stat(part)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _new_part(target: Path, create: Callable[[Path], None]) -> Iterator[Path]:
    """A new hidden file or folder beside a target, locked; it is removed at the end, if it is there still."""
    with contextlib.ExitStack() as stack:
        for attempt in range(_ATTEMPTS):
            part = _part_of(target)
            stack.callback(_remove, part)
            create(part)
            try:
                stack.enter_context(_locked(part))
            except FileNotFoundError:  # removed by another process that writes the same target
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                break
        yield part


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)  # does not follow links
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _remove_parts_of(target: Path) -> None:
    """Remove what killed processes left of a target, but not what others are writing; not on Windows."""
    for name in _names_in(target.parent) if fcntl else ():
        if name.startswith(_start_of_parts(target)) and _PART.fullmatch(name):
            with contextlib.suppress(OSError):
                _remove_unlocked(target.with_name(name))


def _remove_unlocked(part: Path) -> None:
    """Raises OSError if another process holds the lock, or it is a link."""
    descriptor = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink()
    finally:
        os.close(descriptor)


def remove_parts(folder: Path, below: Iterable[str] = ()) -> None:
    """Remove what killed processes left of files that they wrote by `whole_file`.

    What others are writing stays, on systems with locks; elsewhere nothing else may be writing there. Links
    are not followed.

    Args:
        below: folders in this one, such as "maps", in which it is removed at any depth.
    """
    entries = [folder / name for name in _names_in(folder)]
    for top in (folder / name for name in below):
        if not top.is_symlink():
            entries += [Path(path, name) for path, _, names in os.walk(top) for name in names]
    for path in entries:
        if _PART.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            with contextlib.suppress(OSError):
                _remove_unlocked(path) if fcntl else path.unlink()


def _names_in(folder: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir(folder)
    return []


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A temporary folder to write to; it becomes the target when the block ends without an error.

    What killed processes left of the target is removed.

    Raises:
        LostRegError: a write fails; nothing is left behind.
    """
    target = Path(os.path.abspath(target))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_parts_of(target)
        with _new_part(target, Path.mkdir) as part:
            yield part
            part.replace(target)
    except OSError as error:
        raise LostRegError(f"cannot write {str(target)!r}: {error.strerror or error}") from None


def check_no_links(folder: Path, target: Path) -> None:
    """Check that no link leads out of a folder that is written to: it may come from somebody else.

    Raises:
        LostRegError: the folder, the target or a folder between them is a link.
    """
    for path in (target, *target.parents):
        if path.is_symlink():
            raise LostRegError(f"{str(path)!r} is a link, which nothing is written through: replace it")
        if path == folder:
            return


def check_new(path: Path, *, overwrite: bool = False) -> None:
    """Check that a file does not exist yet and can be written, before doing the work that fills it.

    Args:
        overwrite: it may exist.

    Raises:
        LostRegError: it exists, or its folder cannot be written to.
    """
    if path.exists() and not overwrite:
        raise LostRegError(f"{str(path)!r} exists already: choose another `out`, or `overwrite` it")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise LostRegError(
            f"cannot write {str(path)!r}: {str(above)!r} is not a folder that can be written to"
        )


def check_kind(path: Path, read: Callable[[], Any]) -> None:
    """Check that a file which may be replaced, if it is there, is of the kind that replaces it.

    Args:
        read: reads the file; raises LostRegError if it is of another kind.

    Raises:
        LostRegError: it is damaged or of another kind.
    """
    if path.exists():
        try:
            read()
        except LostRegError as error:
            raise LostRegError(f"{error}; delete it, or choose another `out`") from None


def remove_files(folder: Path, names: Iterable[str]) -> None:
    """Remove files of a folder and of folders in it, with those that become empty, but nothing behind a link.

    Raises:
        LostRegError: a file that cannot be removed.
    """
    for path in (folder / name for name in names):
        if path.parent != folder and path.parent.is_symlink():
            continue
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise LostRegError(f"cannot remove {str(path)!r}: {error.strerror or error}") from None
        if path.parent != folder:
            with contextlib.suppress(OSError):
                path.parent.rmdir()


def file_digest(path: Path, algorithm: str) -> str:
    """The hexadecimal digest of a file's contents; `algorithm` is one of hashlib's."""
    hasher = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(2**20):
            hasher.update(block)
    return hasher.hexdigest()


def folders_with(top: Path, name: str) -> list[Path]:
    """The folders from `top` down that contain a file of this name, sorted."""
    return sorted(Path(folder) for folder, _, names in os.walk(top) if name in names)


def path_within(folder: Path, image: str) -> Path:
    """A path for an image of this name that stays inside the folder and is not too long."""
    if len(image) > _LONGEST_PATH:
        image = _shortened(image)
    parts = (image if os.sep == "/" else image.replace(os.sep, "/")).split("/")
    return folder.joinpath(*(_harmless(part) for part in parts if part not in ("", ".")))


def _harmless(part: str) -> str:
    if part == "..":
        return "%2E%2E"
    return part if len(part.encode("utf-8", "surrogatepass")) <= _LONGEST_NAME else _shortened(part)


def _shortened(name: str) -> str:
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    start, suffix = os.path.basename(name)[:50], os.path.splitext(name)[1][:10]
    return f"{start}-{digest}{suffix}"
