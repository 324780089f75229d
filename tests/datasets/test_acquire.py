"""Getting datasets, end to end, from a server on this machine with small ones."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest
from helpers import names, refusal
from http_server import Resource, Server
from PIL import Image
from torchvision.datasets.voc import DATASET_YEAR_DICT

from lost_reg.datasets import acquire
from lost_reg.datasets.acquire import download_dataset, https_address
from lost_reg.datasets.catalog import find_dataset, missing_images
from lost_reg.datasets.downloads import Checksum

NAMES = [f"COCO_train2014_{number:012}.jpg" for number in (560992, 9, 25)]
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir")
NOT_LISTED = "COCO_train2014_000000000030.jpg"


def publish(server: Server, path: str, body: bytes) -> tuple[str, Checksum]:
    """Serve a file; its address and checksum, as the tables of acquire.py have them."""
    return server.add(path, Resource(body=body)), Checksum(
        "sha256", hashlib.sha256(body).hexdigest(), len(body)
    )


def jpeg(size_wh=(8, 6)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size_wh, "grey").save(file, "jpeg")
    return file.getvalue()


# --- VOC ---------------------------------------------------------------------------------------------


@pytest.fixture
def voc07(server, tmp_path, make_voc, monkeypatch):
    """VOC2007 with two images, served as an archive."""
    folder = make_voc(tmp_path / "made" / "VOC2007", {"000005": [("dog", 33, 17, 96, 64)], "000007": []})
    (folder / "SegmentationClass").mkdir()  # moved after the images
    (folder / "SegmentationClass" / "000007.png").write_text("a mask")
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.add(folder, "VOCdevkit/VOC2007")
    served = publish(server, "/voc2007/VOCtrainval.tar", file.getvalue())
    monkeypatch.setitem(acquire.VOC_ARCHIVES, "voc07", served)


def test_voc_end_to_end(server, voc07, tmp_path):
    root, reports = tmp_path / "new" / "root", []
    download_dataset("voc07", root, lambda *report: reports.append(report))
    found = find_dataset("voc07", root)
    assert found.truths["000005.jpg"].boxes_xyxy == ((32, 16, 96, 64),)
    assert missing_images(found) == []
    assert not list(root.rglob("*.tar")) and not list(root.rglob("*.part"))
    size = len(server.resources["/voc2007/VOCtrainval.tar"].body)
    assert reports[-1] == ("VOCtrainval.tar", size, size)
    assert server.requested == ["/voc2007/VOCtrainval.tar"]
    download_dataset("voc07", root)
    assert len(server.requested) == 1  # all is there: nothing is asked for


@pytest.mark.parametrize("earlier", [None, "VOCdevkit/VOC2007/kept.txt"], ids=["new", "beside others"])
def test_killed_at_any_moment_of_unpacking(server, voc07, tmp_path, earlier):
    """Before each operation on files in turn; downloaded again, all is there, and nothing is left over."""
    killed, made = 0, [name for name in names(tmp_path / "made") if (tmp_path / "made" / name).is_file()]
    for deadly in count(1):
        root = tmp_path / str(deadly)
        if earlier:
            (root / earlier).parent.mkdir(parents=True)
            (root / earlier).write_text("the user's")
        before = len(server.requested)
        if not killed_at(deadly, root):
            break
        killed += 1
        download_dataset("voc07", root)
        files = {name for name in names(root) if (root / name).is_file()}
        assert files == {f"VOCdevkit/{name}" for name in made} | ({earlier} if earlier else set())
        assert not [name for name in names(root) if ".extracting" in name]
        assert len(server.requested) - before <= 2
    assert killed > 15


def killed_at(deadly: int, root: Path) -> bool:
    """Whether a process that downloads is killed: before its n-th operation on files in the root."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    changes = count(1)

    def hook(event: str, arguments: tuple) -> None:
        writes = event == "open" and arguments[1] and "r" not in arguments[1]
        if (writes or event in CHANGES) and next(changes) == deadly:
            os._exit(9)

    sys.addaudithook(hook)
    try:
        download_dataset("voc07", root)
    finally:
        os._exit(0)


def test_several_that_ask_at_once_get_one_download(server, voc07, tmp_path):
    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(download_dataset, "voc07", tmp_path) for _ in range(4)]:
            done.result()
    assert missing_images(find_dataset("voc07", tmp_path)) == []
    assert server.requested == ["/voc2007/VOCtrainval.tar"]


def test_incomplete_voc_is_fetched_again(server, voc07, tmp_path):
    download_dataset("voc07", tmp_path)
    (tmp_path / "VOCdevkit/VOC2007/JPEGImages/000007.jpg").unlink()
    download_dataset("voc07", tmp_path)
    assert missing_images(find_dataset("voc07", tmp_path)) == []
    assert len(server.requested) == 2


def test_another_file_than_the_one_published_is_not_unpacked(server, voc07, tmp_path):
    body = server.resources["/voc2007/VOCtrainval.tar"].body
    server.resources["/voc2007/VOCtrainval.tar"].body = body[:-1] + b"1"
    assert "is not the file expected" in refusal(download_dataset, "voc07", tmp_path / "root")
    assert not list((tmp_path / "root").rglob("VOCdevkit"))


# --- COCO --------------------------------------------------------------------------------------------


@pytest.fixture
def coco20k(server, monkeypatch):
    """Three images of coco20k, and the annotations of a fourth."""
    records = [
        {
            "id": number,
            "file_name": name,
            "height": 6,
            "width": 8,
            "coco_url": f"http://images.cocodataset.org/train2014/{name}",
        }
        for number, name in enumerate([*NAMES, NOT_LISTED])
    ]
    boxes = [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 0}]
    content = {"images": records, "annotations": boxes, "categories": []}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("annotations/instances_train2014.json", json.dumps(content))
        archive.writestr("annotations/captions_train2014.json", "{}")
    listed = "".join(f"train2014/{name}\n" for name in NAMES).encode()
    monkeypatch.setattr(acquire, "COCO20K_NAMES", publish(server, "/list.txt", listed))
    monkeypatch.setattr(
        acquire, "COCO_ANNOTATIONS", publish(server, "/annotations_trainval2014.zip", file.getvalue())
    )
    monkeypatch.setattr(acquire, "COCO_HTTPS", f"http://127.0.0.1:{server.server_port}/")
    for name in [*NAMES, NOT_LISTED]:
        publish(server, f"/train2014/{name}", jpeg())


def test_coco20k_end_to_end(server, coco20k, tmp_path):
    reports = []
    download_dataset("coco20k", tmp_path, lambda *report: reports.append(report))
    found = find_dataset("coco20k", tmp_path)
    assert (found.images, missing_images(found)) == (tuple(NAMES), [])
    assert found.truths[NAMES[0]].boxes_xyxy == ((1, 2, 4, 6),)
    images = [f"/train2014/{name}" for name in NAMES]
    assert sorted(server.requested) == sorted(["/list.txt", "/annotations_trainval2014.zip", *images])
    assert reports[-1] == ("images", 3, 3)
    # the archive is gone, and of it only what is needed was kept
    assert not list(tmp_path.rglob("*.zip")) and not list(tmp_path.rglob("captions*"))
    download_dataset("coco20k", tmp_path)
    assert len(server.requested) == 5


def test_interrupted_coco20k_goes_on_with_the_rest(server, coco20k, tmp_path):
    resource = server.resources.pop(f"/train2014/{NAMES[1]}")
    text = refusal(download_dataset, "coco20k", tmp_path)
    assert "1 of 3 images could not be fetched" in text
    assert f"{NAMES[1]}: the server answers 404" in text and "run the same command again" in text
    assert missing_images(find_dataset("coco20k", tmp_path)) == [NAMES[1]]
    server.resources[f"/train2014/{NAMES[1]}"] = resource
    server.requested.clear()
    download_dataset("coco20k", tmp_path)
    assert server.requested == [f"/train2014/{NAMES[1]}"]
    assert missing_images(find_dataset("coco20k", tmp_path)) == []


def test_image_of_another_size_than_annotated_is_not_kept(server, coco20k, tmp_path):
    server.resources[f"/train2014/{NAMES[2]}"].body = jpeg((9, 6))
    assert "expected 8 x 6 pixels, but got 9 x 6" in refusal(download_dataset, "coco20k", tmp_path)
    assert missing_images(find_dataset("coco20k", tmp_path)) == [NAMES[2]]


def test_annotations_that_are_there_are_not_fetched(server, coco20k, tmp_path):
    path = tmp_path / "coco" / "annotations" / "instances_train2014.json"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(io.BytesIO(server.resources["/annotations_trainval2014.zip"].body)) as archive:
        path.write_bytes(archive.read("annotations/instances_train2014.json"))
    download_dataset("coco20k", tmp_path)
    assert "/annotations_trainval2014.zip" not in server.requested


@pytest.mark.parametrize("text", ["", '{"images": [{"file_na', "[]", '{"images": [{}]}', "null"])
def test_damaged_annotations_are_one_line(coco20k, tmp_path, text):
    path = tmp_path / "coco" / "annotations" / "instances_train2014.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert str(path) in refusal(download_dataset, "coco20k", tmp_path)


# --- addresses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "http://images.cocodataset.org/train2014/a.jpg",
            "https://s3.amazonaws.com/images.cocodataset.org/train2014/a.jpg",
        ),
        ("http://example.org/http://a.jpg", "https://example.org/http://a.jpg"),
        ("https://images.cocodataset.org/a.jpg", "https://images.cocodataset.org/a.jpg"),
    ],
)
def test_https_address(url, expected):
    assert https_address(url) == expected


def test_annotations_of_other_types_are_one_line(coco20k, tmp_path):
    path = tmp_path / "coco" / "annotations" / "instances_train2014.json"
    path.parent.mkdir(parents=True)
    record = {"file_name": NAMES[0], "coco_url": "https://127.0.0.1/", "height": 6, "width": 8}
    for key, value in (("height", "6"), ("width", None), ("coco_url", 3), ("file_name", [])):
        path.write_text(json.dumps({"images": [record | {key: value}]}))
        assert f"{path} is damaged" in refusal(download_dataset, "coco20k", tmp_path)
    path.write_text("[" * 100_000)
    assert f"{path} is damaged" in refusal(download_dataset, "coco20k", tmp_path)


def test_every_address_is_https_and_every_checksum_of_its_length():
    published = [*acquire.VOC_ARCHIVES.values(), acquire.COCO_ANNOTATIONS, acquire.COCO20K_NAMES]
    assert all(url.startswith("https://") for url, _ in published)
    assert acquire.COCO_HTTPS.startswith("https://")
    lengths = [len(checksum.hexdigest) for _, checksum in published]
    assert lengths == [32, 32, 64, 64]
    assert len({checksum for _, checksum in published}) == 4
    sizes = [460032000, 1999639040, 252872794, 2**20]  # TensorFlow Datasets; the list has 19,817 lines of 42
    assert [checksum.most_bytes for _, checksum in published] == sizes


@pytest.mark.parametrize(("name", "year"), [("voc07", "2007"), ("voc12", "2012")])
def test_voc_is_torchvisions(name, year):
    url, checksum = acquire.VOC_ARCHIVES[name]
    theirs = DATASET_YEAR_DICT[year]
    assert (checksum.algorithm, checksum.hexdigest) == ("md5", theirs["md5"])
    assert Path(url).name == theirs["filename"] == Path(theirs["url"]).name


def test_list_of_coco20k_is_that_of_the_official_commit():
    url, checksum = acquire.COCO20K_NAMES
    assert url == (
        "https://raw.githubusercontent.com/valeoai/LOST/72f762fcf7e0913f565f964b368cf8b917e98806"
        "/datasets/coco_20k_filenames.txt"
    )
    expected = "74637e9b4f93f2ebef9b1f664aff53edd1f41ef08dad97bd22ce8e455052b335"
    assert (checksum.algorithm, checksum.hexdigest) == ("sha256", expected)


@pytest.mark.parametrize("name", ["samples", "voc2007", "", "/some/folder"])
def test_what_cannot_be_downloaded_is_refused(tmp_path, name):
    assert "cannot be downloaded: only voc07, voc12, coco20k can" in refusal(
        download_dataset, name, tmp_path / "root"
    )
    assert not (tmp_path / "root").exists()
