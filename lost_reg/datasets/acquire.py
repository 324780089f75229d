"""Gets the datasets: where they are published, and what their files must hash to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock

from lost_reg.datasets.archives import extract
from lost_reg.datasets.catalog import COCO20K_ANNOTATIONS, COCO20K_LIST, find_dataset, missing_images
from lost_reg.datasets.downloads import Checksum, ImageJob, disk_errors, fetch, fetch_images
from lost_reg.errors import LostRegError

# Addresses and MD5 as in torchvision (torchvision/datasets/voc.py, DATASET_YEAR_DICT).
VOC_ARCHIVES = {
    "voc07": (
        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2007/VOCtrainval_06-Nov-2007.tar",
        Checksum("md5", "c52e279531787c972589f7e41ab4ae64"),
    ),
    "voc12": (
        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        Checksum("md5", "6cd6e144f989b92b3379bac3b3de84fd"),
    ),
}

# images.cocodataset.org answers https with a certificate for s3.amazonaws.com, so that a plain change of
# http to https fails; the bucket's own address serves the same files (as in mlcommons/inference, pull
# request 2572, which also has this SHA-256).
COCO_HOST = "http://images.cocodataset.org/"
COCO_HTTPS = "https://s3.amazonaws.com/images.cocodataset.org/"
COCO_ANNOTATIONS = (
    COCO_HTTPS + "annotations/annotations_trainval2014.zip",
    Checksum("sha256", "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009"),
)
COCO20K_NAMES = (
    "https://raw.githubusercontent.com/valeoai/LOST/72f762fcf7e0913f565f964b368cf8b917e98806/"
    "datasets/coco_20k_filenames.txt",
    Checksum("sha256", "74637e9b4f93f2ebef9b1f664aff53edd1f41ef08dad97bd22ce8e455052b335"),
)

DOWNLOADABLE = (*VOC_ARCHIVES, "coco20k")

Report = Callable[[str, int, int | None], None]


def download_dataset(name: str, root: Path, report: Report = lambda what, done, total: None) -> None:
    """Fetch whatever of a dataset is not there yet; every file is verified before it is put in place.

    Args:
        name: "voc07", "voc12" or "coco20k".
        root: the data root.
        report: called now and then with what is fetched, and the bytes or images done and in all.

    Raises:
        LostRegError: a dataset that cannot be downloaded, or a download that failed; calling again
            goes on where it stopped.
    """
    if name not in DOWNLOADABLE:
        raise LostRegError(f"{name!r} cannot be downloaded: only {', '.join(DOWNLOADABLE)} can")
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        # Several processes may ask for it, ranks among them: one brings it, the others wait and find it.
        with FileLock(root / f".{name}.lock"):
            if name in VOC_ARCHIVES:
                _download_voc(name, root, report)
            else:
                _download_coco20k(root, report)


def _download_voc(name: str, root: Path, report: Report) -> None:
    if _is_complete(name, root):
        return
    url, checksum = VOC_ARCHIVES[name]
    archive = root / Path(url).name
    fetch(url, archive, checksum, report=lambda done, total: report(archive.name, done, total))
    extract(archive, root)
    archive.unlink()  # half of the disk space, and never needed again


def _download_coco20k(root: Path, report: Report) -> None:
    folder = root / "coco"
    listed, annotations = folder / COCO20K_LIST, folder / COCO20K_ANNOTATIONS
    fetch(*_to(COCO20K_NAMES, listed), report=lambda done, total: report(listed.name, done, total))
    if not annotations.is_file():
        archive = folder / Path(COCO_ANNOTATIONS[0]).name
        fetch(*_to(COCO_ANNOTATIONS, archive), report=lambda done, total: report(archive.name, done, total))
        extract(archive, folder, members=lambda member: member == COCO20K_ANNOTATIONS)
        archive.unlink()
    if _is_complete("coco20k", root):
        return
    try:
        jobs = list(_coco_jobs(folder, listed, annotations))
    except (KeyError, TypeError, ValueError):
        raise LostRegError(
            f"{annotations} is damaged: remove it and run the same command again to get another"
        ) from None
    fetch_images(jobs, report=lambda done, total: report("images", done, total))


def _to(published: tuple[str, Checksum], destination: Path) -> tuple[str, Path, Checksum]:
    url, checksum = published
    return url, destination, checksum


def _coco_jobs(folder: Path, listed: Path, annotations: Path) -> Iterator[ImageJob]:
    wanted = {Path(line).name for line in listed.read_text().split()}
    for record in json.loads(annotations.read_text())["images"]:
        if record["file_name"] in wanted:
            yield ImageJob(
                url=https_address(record["coco_url"]),
                destination=folder / "train2014" / record["file_name"],
                size_hw=(record["height"], record["width"]),
            )


def https_address(url: str) -> str:
    """The https address of an image whose address in COCO's annotations is http."""
    if url.startswith(COCO_HOST):
        return COCO_HTTPS + url.removeprefix(COCO_HOST)
    return url.replace("http://", "https://", 1) if url.startswith("http://") else url


def _is_complete(name: str, root: Path) -> bool:
    try:
        return not missing_images(find_dataset(name, root))
    except LostRegError:
        return False
