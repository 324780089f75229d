"""Downloads the datasets: their addresses and checksums."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from lost_reg.datasets.archives import extract, is_unfinished, remove_leftovers
from lost_reg.datasets.catalog import DOWNLOADABLE, find_dataset, missing_images
from lost_reg.datasets.coco import ANNOTATIONS_FILE, LIST_FILE, listed_images
from lost_reg.datasets.downloads import Checksum, ImageJob, disk_errors, fetch, fetch_images
from lost_reg.errors import LostRegError
from lost_reg.json_files import MALFORMED, parse_json

# Addresses and MD5 as in torchvision (torchvision/datasets/voc.py, DATASET_YEAR_DICT), sizes as in TensorFlow
# Datasets (url_checksums/voc.txt and coco.txt).
VOC_ARCHIVES = {
    "voc07": (
        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2007/VOCtrainval_06-Nov-2007.tar",
        Checksum("md5", "c52e279531787c972589f7e41ab4ae64", 460_032_000),
    ),
    "voc12": (
        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        Checksum("md5", "6cd6e144f989b92b3379bac3b3de84fd", 1_999_639_040),
    ),
}

# images.cocodataset.org answers https with a certificate for s3.amazonaws.com, so replacing http with https
# fails. The bucket's own address serves the same files (as in mlcommons/inference, pull request 2572, which
# also has this SHA-256).
COCO_HOST = "http://images.cocodataset.org/"
COCO_HTTPS = "https://s3.amazonaws.com/images.cocodataset.org/"
COCO_ANNOTATIONS = (
    COCO_HTTPS + "annotations/annotations_trainval2014.zip",
    Checksum("sha256", "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009", 252_872_794),
)
COCO20K_NAMES = (
    "https://raw.githubusercontent.com/valeoai/LOST/72f762fcf7e0913f565f964b368cf8b917e98806/"
    "datasets/coco_20k_filenames.txt",
    Checksum("sha256", "74637e9b4f93f2ebef9b1f664aff53edd1f41ef08dad97bd22ce8e455052b335", 2**20),
)

# Called with what is being downloaded (a file, or "images"), how much is done, and the total if known.
DownloadProgress = Callable[[str, int, int | None], object]


def download_dataset(
    name: str, root: Path, progress: DownloadProgress = lambda what, done, total: None
) -> None:
    """Download the missing parts of a dataset; every file is verified before it is put in place.

    Args:
        name: one of DOWNLOADABLE.
        root: the data root.
        progress: called repeatedly, with bytes of a file or with a number of images.

    Raises:
        LostRegError: a dataset that cannot be downloaded, or a download that failed; calling again
            resumes where it stopped.
    """
    if name not in DOWNLOADABLE:
        raise LostRegError(f"{name!r} cannot be downloaded: only {', '.join(DOWNLOADABLE)} can")
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        # Several processes may ask for it: one downloads, the others wait and find it.
        with FileLock(root / f".{name}.lock"):
            if name in VOC_ARCHIVES:
                _download_voc(name, root, progress)
            else:
                _download_coco20k(root, progress)


def _download_voc(name: str, root: Path, progress: DownloadProgress) -> None:
    _unpack_into(root, VOC_ARCHIVES[name], lambda: _is_complete(name, root), progress)


def _download_coco20k(root: Path, progress: DownloadProgress) -> None:
    folder = root / "coco"
    listed = _fetch_into(folder, COCO20K_NAMES, progress, LIST_FILE)
    annotations = folder / ANNOTATIONS_FILE
    _unpack_into(
        folder, COCO_ANNOTATIONS, annotations.is_file, progress, lambda member: member == ANNOTATIONS_FILE
    )
    if _is_complete("coco20k", root):
        return
    try:
        jobs = list(_coco_jobs(folder, listed, annotations))
    except MALFORMED:
        raise LostRegError(
            f"{annotations} is damaged: remove it and run the same command again to download another"
        ) from None
    fetch_images(jobs, progress=lambda done, total: progress("images", done, total))


def _unpack_into(
    folder: Path,
    published: tuple[str, Checksum],
    is_there: Callable[[], bool],
    progress: DownloadProgress,
    members: Callable[[str], bool] | None = None,
) -> None:
    """Fetch an archive, unpack it and remove it, unless its content is there and all of it was moved there.

    The archive takes half of the disk space, and is never needed again.
    """
    archive = folder / Path(published[0]).name
    if is_there() and not is_unfinished(archive, folder):
        remove_leftovers(archive, folder)
        return
    _fetch_into(folder, published, progress)
    extract(archive, folder, members=members, remove=True)


def _fetch_into(
    folder: Path, published: tuple[str, Checksum], progress: DownloadProgress, name: str | None = None
) -> Path:
    """Fetch a published file, under its own name unless another is given; returns its path."""
    url, checksum = published
    file = folder / (name or Path(url).name)
    fetch(url, file, checksum, progress=lambda done, total: progress(file.name, done, total))
    return file


@dataclass(frozen=True)
class _Image:
    """What COCO's annotations say about an image's file."""

    file_name: str
    coco_url: str
    height: int
    width: int


@dataclass(frozen=True)
class _Annotations:
    images: list[_Image]


def _coco_jobs(folder: Path, listed: Path, annotations: Path) -> Iterator[ImageJob]:
    wanted = set(listed_images(listed))
    for image in parse_json(annotations.read_bytes(), _Annotations).images:
        if image.file_name in wanted:
            yield ImageJob(
                url=https_address(image.coco_url),
                destination=folder / "train2014" / image.file_name,
                size_hw=(image.height, image.width),
            )


def https_address(url: str) -> str:
    """The https address of an image, for the http address in COCO's annotations."""
    if url.startswith(COCO_HOST):
        return COCO_HTTPS + url.removeprefix(COCO_HOST)
    return url.replace("http://", "https://", 1) if url.startswith("http://") else url


def _is_complete(name: str, root: Path) -> bool:
    try:
        return not missing_images(find_dataset(name, root))
    except LostRegError:
        return False
