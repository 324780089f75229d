"""`lost-reg cluster`: the boxes of a run, clustered by the class tokens of their crops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lost_reg.errors import LostRegError
from lost_reg.export.run_export import images_left
from lost_reg.images.reading import as_recorded
from lost_reg.progress import Progress, no_progress
from lost_reg.runs.folder import CLUSTERS, Results, read_run
from lost_reg.runs.image_folder import RECORDED, ImageRoot, image_folder
from lost_reg.runs.labels import relabel
from lost_reg.training.cluster_names import renamed
from lost_reg.training.cluster_record import CLUSTER, DISTANCE, has_clusters
from lost_reg.training.clusters import Clusters, K, check_k, find_clusters
from lost_reg.training.token_cache import TokenCache, box_key
from lost_reg.types import FoundObject

if TYPE_CHECKING:
    from lost_reg.backbones.base import Backbone

BATCH_SIZE = 16


@dataclass(frozen=True)
class ClusterOptions:
    """How the boxes of a run are clustered.

    k: the number of clusters; among several, the silhouette chooses.
    names: of clusters, see `cluster_names.renamed`.
    image_root: where the images are; by default where they were during the run.
    """

    k: Sequence[int] = (K,)
    seed: int = 0
    names: dict[str, str] = field(default_factory=dict)
    image_root: ImageRoot = RECORDED
    batch_size: int = BATCH_SIZE


@dataclass(frozen=True)
class ClusterSummary:
    """What was recorded: the sizes by name, in order, the silhouette, and whether the run was finished."""

    boxes: int
    k: int
    silhouette: float | None
    sizes: dict[str, int]
    is_finished: bool


def read_clusterable(folder: Path) -> Results:
    """Read a run that can be clustered.

    Raises:
        LostRegError: a folder without a run, a malformed one, one to be joined, or one without a box.
    """
    results = read_run(folder)
    if not any(one.objects for one in results.predictions.values()):
        raise LostRegError(f"{str(folder)!r} holds no boxes: nothing to cluster")
    return results


def check_clusterable(results: Results, options: ClusterOptions) -> None:
    """Check, before a backbone is loaded, that the boxes are enough and that their images are there.

    Raises:
        LostRegError: see `clusters.check_k`; images that are gone.
    """
    check_k(options.k, sum(len(one.objects) for one in results.predictions.values()))
    renamed(max(options.k), options.names)
    files = image_folder(results.folder, results.record, options.image_root)
    files.find_all(image for image, one in results.predictions.items() if one.objects)


def cluster_run(
    results: Results, backbone: Backbone, options: ClusterOptions, progress: Progress = no_progress
) -> ClusterSummary:
    """Cluster the boxes of a run, and write labels and record into its folder; earlier ones are replaced.

    Args:
        progress: called with the numbers of boxes embedded, 0, and in total.

    Raises:
        LostRegError: a backbone without a class token, images that changed, or a folder that cannot be
            written; the run is as it was before.
    """
    backbone.check_class_token()
    check_clusterable(results, options)
    settings = {
        "backbone": backbone.name,
        "weights": backbone.weights.recorded(),
        "precision": backbone.precision,
    }
    keys = {
        (image, index): box_key(image, found.box_xyxy)
        for image, one in results.predictions.items()
        for index, found in enumerate(one.objects)
    }
    with TokenCache(results.folder, settings) as cache:
        _embed(results, keys, backbone, options, cache, progress)
    clusters = find_clusters(cache.rows(keys.values()), options.k, options.seed)
    names = renamed(clusters.k, options.names)
    record = {**settings, "seed": options.seed, **_recorded(clusters), "names": names}
    places = {key: row for row, key in enumerate(keys)}

    def change(image: str, index: int, found: FoundObject) -> FoundObject:
        row = places.get((image, index))
        if row is None:
            return found
        number = int(clusters.of[row])
        details = {**found.details, CLUSTER: number + 1, DISTANCE: round(float(clusters.distances[row]), 6)}
        return replace(found, label=names[number], details=details)

    relabel(results.folder, change, record)
    return _summary(results, record)


def _embed(
    results: Results,
    keys: dict[tuple[str, int], bytes],
    backbone: Backbone,
    options: ClusterOptions,
    cache: TokenCache,
    progress: Progress,
) -> None:
    """Add to the cache the class tokens that it lacks."""
    from lost_reg.training.crops import class_tokens, crops_of

    files = image_folder(results.folder, results.record, options.image_root)
    todo: dict[str, list[int]] = {}
    for (image, index), key in keys.items():
        if key not in cache:
            todo.setdefault(image, []).append(index)
    total = sum(map(len, todo.values()))
    reading = as_recorded(results.settings)

    def crops():
        for image, indices in todo.items():
            file = files.find(image)
            if file is None:
                raise LostRegError(f"{image} of the run is gone: what was done is kept")
            yield from crops_of(results.predictions[image], indices, file, backbone, reading)

    for done, (place, token) in enumerate(class_tokens(crops(), backbone, options.batch_size), start=1):
        cache.add(keys[place], token)
        progress(done, 0, total)


def _recorded(clusters: Clusters) -> dict[str, Any]:
    silhouette = clusters.silhouette
    return {
        "k": clusters.k,
        "boxes": len(clusters.of),
        "sizes": [int((clusters.of == number).sum()) for number in range(clusters.k)],
        "silhouette": None if silhouette is None else round(silhouette, 6),
        **({"tried": {str(k): round(one, 6) for k, one in clusters.tried.items()}} if clusters.tried else {}),
    }


def rename_run(results: Results, wanted: dict[str, str]) -> ClusterSummary:
    """Rename the clusters of a run; those not among the wanted keep their names.

    Raises:
        LostRegError: a run without clusters, a cluster that it does not have, or a folder that cannot be
            written.
    """
    if not has_clusters(results):
        raise LostRegError(f"{str(results.folder)!r} has no clusters to rename: cluster it with `k` first")
    earlier = results.record[CLUSTERS]
    names = renamed(earlier["k"], wanted, earlier["names"])

    def change(image: str, index: int, found: FoundObject) -> FoundObject:
        number = int(found.details.get(CLUSTER, 0))
        return replace(found, label=names[number - 1]) if 0 < number <= len(names) else found

    relabel(results.folder, change, {**earlier, "names": names})
    return _summary(results, {**earlier, "names": names})


def _summary(results: Results, record: dict[str, Any]) -> ClusterSummary:
    sizes: Counter[str] = Counter()
    for name, size in zip(record["names"], record["sizes"]):
        sizes[name] += size
    is_finished = images_left(results) == 0
    return ClusterSummary(record["boxes"], record["k"], record["silhouette"], dict(sizes), is_finished)
