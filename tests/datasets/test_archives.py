"""Archives that are whole, cut off, or made to do harm."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from helpers import names, refusal

from lost_reg.datasets import archives
from lost_reg.datasets.archives import extract

FILES = {"VOC/a.txt": b"a", "VOC/sub/b.txt": b"b" * 5000, "top.txt": b"top"}


def make_tar(path: Path, files: dict[str, bytes], extra: tarfile.TarInfo | None = None, mode="w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        if extra:
            tar.addfile(extra)
    return path


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("VOC/", b"")
        for name, content in files.items():
            opened.writestr(name, content)
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names(folder) if (folder / name).is_file()}


@pytest.fixture(params=[make_tar, make_zip], ids=["tar", "zip"])
def make(request: pytest.FixtureRequest):
    return request.param


class TestExtract:
    def test_all(self, tmp_path: Path, make) -> None:
        extract(make(tmp_path / "archive", FILES), tmp_path / "out" / "in")
        assert contents(tmp_path / "out" / "in") == FILES
        assert names(tmp_path / "out" / "in") == ["VOC", "VOC/a.txt", "VOC/sub", "VOC/sub/b.txt", "top.txt"]

    @pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
    def test_compressed_tars_are_not_read(self, tmp_path: Path, mode: str) -> None:
        """No dataset has one, and their headers could unpack to any size."""
        archive = make_tar(tmp_path / "archive", FILES, mode=mode)
        assert "neither a tar nor a zip" in refusal(extract, archive, tmp_path / "out")

    def test_bomb_of_one_file(self, tmp_path: Path) -> None:
        archive = make_zip(tmp_path / "archive", {"a": bytes(2**25)})
        assert archive.stat().st_size < 2**16
        assert "far more room" in refusal(extract, archive, tmp_path / "out")
        assert names(tmp_path / "out") == []

    def test_bomb_of_many_empty_files(self, tmp_path: Path, make, monkeypatch) -> None:
        monkeypatch.setattr(archives, "_MOST_TIMES", 2)
        monkeypatch.setattr(archives, "_SPARE_BYTES", 10 * 2**12)
        extract(make(tmp_path / "few", dict.fromkeys("abcdefghij", b"")), tmp_path / "out")
        many = make(tmp_path / "many", {str(number): b"" for number in range(100)})
        assert "far more room" in refusal(extract, many, tmp_path / "new")

    def test_bomb_of_a_sparse_file(self, tmp_path: Path) -> None:
        """GNU tar keeps only the parts of a file that are no zeros."""
        info = tarfile.TarInfo("a")
        info.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(2**50), "GNU.sparse.name": "a"}
        with tarfile.open(tmp_path / "archive", "w", format=tarfile.PAX_FORMAT) as tar:
            tar.addfile(info)
        with tarfile.open(tmp_path / "archive") as tar:
            assert tar.getmembers()[0].size == 2**50
        assert "far more room" in refusal(extract, tmp_path / "archive", tmp_path / "out")

    def test_archive_of_a_json_file_is_no_bomb(self, tmp_path: Path) -> None:
        text = b"".join(b'{"id": %d, "bbox": [1, 2, 3, 4]}, ' % (number**2 % 9973) for number in range(10**6))
        archive = make_zip(tmp_path / "archive", {"a.json": text})
        assert len(text) / archive.stat().st_size > 5
        extract(archive, tmp_path / "out")

    def test_wanted_members_only(self, tmp_path: Path, make) -> None:
        archive = make(tmp_path / "archive", {**FILES, "../evil": b"not asked for"})
        extract(archive, tmp_path / "out", members=lambda name: name == "VOC/a.txt")
        assert contents(tmp_path / "out") == {"VOC/a.txt": b"a"}

    def test_nothing_wanted(self, tmp_path: Path, make) -> None:
        archive = make(tmp_path / "archive", FILES)
        assert "none of the files" in refusal(extract, archive, tmp_path / "out", members=lambda name: False)

    def test_beside_what_is_there(self, tmp_path: Path, make) -> None:
        (tmp_path / "out" / "VOC" / "sub").mkdir(parents=True)
        (tmp_path / "out" / "VOC" / "old.txt").write_bytes(b"old")
        (tmp_path / "out" / "VOC" / "a.txt").write_bytes(b"older")
        extract(make(tmp_path / "archive", FILES), tmp_path / "out")
        assert contents(tmp_path / "out") == {**FILES, "VOC/old.txt": b"old"}

    @pytest.mark.parametrize("name", ["../evil.txt", "VOC/../../evil.txt", "/{}/evil.txt"])
    def test_member_that_leads_outside(self, tmp_path: Path, make, name: str) -> None:
        name = name.replace("/{}", tmp_path.as_posix())
        archive = make(tmp_path / "archive", {**FILES, name: b"evil"})
        text = refusal(extract, archive, tmp_path / "out")
        assert repr(name) in text and "outside" in text
        assert not any("evil" in found for found in names(tmp_path))
        assert names(tmp_path / "out") == []

    @pytest.mark.parametrize(
        "member",
        [
            special("VOC/link", tarfile.SYMTYPE, "../../outside"),
            special("VOC/link", tarfile.SYMTYPE, "/etc/passwd"),
            special("VOC/link", tarfile.SYMTYPE, "link"),
            special("VOC/link", tarfile.LNKTYPE, "../outside"),
            special("VOC/link", tarfile.LNKTYPE, "/etc/passwd"),
            special("VOC/link", tarfile.FIFOTYPE),
            special("VOC/link", tarfile.CHRTYPE),
        ],
        ids=["symlink", "absolute symlink", "loop", "hardlink", "absolute hardlink", "fifo", "device"],
    )
    def test_links_outside_and_devices(self, tmp_path: Path, member: tarfile.TarInfo) -> None:
        (tmp_path / "outside").write_text("secret")
        text = refusal(extract, make_tar(tmp_path / "archive", FILES, member), tmp_path / "out")
        assert "'VOC/link'" in text
        assert names(tmp_path / "out") == []

    def test_file_through_a_linked_folder(self, tmp_path: Path) -> None:
        (tmp_path / "outside").mkdir()
        with tarfile.open(tmp_path / "archive", "w") as tar:
            tar.addfile(special("VOC", tarfile.SYMTYPE, str(tmp_path / "outside")))
            tar.addfile(special("VOC/evil.txt", tarfile.REGTYPE))
        refusal(extract, tmp_path / "archive", tmp_path / "out")
        assert names(tmp_path / "outside") == []

    @pytest.mark.parametrize("kind, target", [(tarfile.SYMTYPE, "a.txt"), (tarfile.LNKTYPE, "VOC/a.txt")])
    def test_links_inside_become_copies(self, tmp_path: Path, kind: bytes, target: str) -> None:
        extract(make_tar(tmp_path / "archive", FILES, special("VOC/link", kind, target)), tmp_path / "out")
        assert contents(tmp_path / "out") == {**FILES, "VOC/link": b"a"}
        assert not (tmp_path / "out" / "VOC" / "link").is_symlink()

    def test_link_in_a_zip(self, tmp_path: Path) -> None:
        info = zipfile.ZipInfo("VOC/link")
        info.external_attr = 0o120777 << 16
        with zipfile.ZipFile(tmp_path / "archive", "w") as opened:
            opened.writestr(info, "../../outside")
        assert "'VOC/link'" in refusal(extract, tmp_path / "archive", tmp_path / "out")

    def test_interrupted(self, tmp_path: Path, make, monkeypatch) -> None:
        archive = make(tmp_path / "archive", FILES)
        copy, copied = archives._copy, []

        def interrupted(*args) -> int:
            if copied:
                raise KeyboardInterrupt
            copied.append(copy(*args))
            return copied[0]

        monkeypatch.setattr(archives, "_copy", interrupted)
        with pytest.raises(KeyboardInterrupt):
            extract(archive, tmp_path / "out")
        assert copied and names(tmp_path / "out") == []

    def test_what_a_killed_run_left_is_not_taken(self, tmp_path: Path, make) -> None:
        left = tmp_path / "out" / ".archive.extracting" / "VOC" / "half.txt"
        left.parent.mkdir(parents=True)
        left.write_text("ha")
        extract(make(tmp_path / "archive", FILES), tmp_path / "out")
        assert contents(tmp_path / "out") == FILES

    def test_truncated(self, tmp_path: Path, make) -> None:
        archive = make(tmp_path / "archive", {**FILES, "big": os.urandom(50_000)})
        os.truncate(archive, 20_000)
        assert str(archive) in refusal(extract, archive, tmp_path / "out")
        assert names(tmp_path / "out") == []

    def test_damaged(self, tmp_path: Path) -> None:
        archive = make_zip(tmp_path / "archive", {**FILES, "big": os.urandom(50_000)})
        with open(archive, "r+b") as file:
            file.seek(20_000)
            file.write(bytes(1000))
        assert "cannot unpack" in refusal(extract, archive, tmp_path / "out")
        assert names(tmp_path / "out") == []

    def test_no_archive(self, tmp_path: Path) -> None:
        assert "there is no archive" in refusal(extract, tmp_path / "archive", tmp_path / "out")
        (tmp_path / "archive").write_text("<html>")
        assert "neither a tar nor a zip" in refusal(extract, tmp_path / "archive", tmp_path / "out")

    def test_folder_that_cannot_be_made(self, tmp_path: Path, make) -> None:
        (tmp_path / "out").write_text("in the way")
        text = refusal(extract, make(tmp_path / "archive", FILES), tmp_path / "out")
        assert "cannot unpack" in text and str(tmp_path / "out") in text
