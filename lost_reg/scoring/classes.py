"""Scores of objects with labels, such as clusters, on a dataset with classes.

AP of each pair of class and cluster by the rules of PASCAL VOC's development kit (Everingham et al. 2010):
IoU above 0.5, each true object found once, difficult ones ignored, and the area under the precision envelope.
VOC adds a pixel to the sides of its inclusive boxes, which gives the areas of half-open boxes. Clusters are
assigned to classes by the Hungarian method on AP50, as in LOST's OD. COCO's AP is pycocotools', for the same
assignment.

Purity and NMI (normalised by the arithmetic mean of the entropies, as in scikit-learn) are of the boxes that
have IoU >= 0.5 with a true object. Their class is that of the true object with the highest IoU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lost_reg.boxes import iou
from lost_reg.scoring.average_precision import BOXES, average_precision, scored_objects
from lost_reg.types import Box, ImageTruth, Prediction

THRESHOLD = 0.5
THRESHOLDS = tuple(step / 100 for step in range(50, 100, 5))
RESAMPLES = 1000
SEED = 0
_NORMAL = 1.959963984540054  # the quantile of a 95 % interval
_MATCHED = 0.5  # IoU from which a box is of the class of a true object


@dataclass(frozen=True)
class Agreement:
    """A measure of labels against classes, in percent, with 95 % intervals.

    The intervals reach 1.96 standard errors to both sides; these are the bootstrap's, over images. Its
    percentiles would be too high: boxes that are drawn twice agree with themselves.

    chance: the mean with labels permuted among the boxes. above: value minus chance.
    """

    value: float
    low: float
    high: float
    chance: float
    above: float
    above_low: float
    above_high: float


@dataclass(frozen=True)
class ClassScore:
    """One class: how many true objects it has, the cluster assigned to it or None, and its APs in percent.

    ap50: VOC's at IoU > 0.5; ap: the mean of VOC's at 0.50, 0.55, ..., 0.95. coco_ap, coco_ap50: COCO's.
    """

    name: str
    objects: int
    cluster: str | None
    ap50: float
    ap: float
    coco_ap: float
    coco_ap50: float


@dataclass(frozen=True)
class ClassScores:
    """Scores of labels.

    clusters: how many labels there are. labelled: how many objects have one. boxes: those of them that have a
        true object, of which purity and nmi are; without any, these are None.
    """

    classes: tuple[ClassScore, ...]
    clusters: int
    labelled: int
    boxes: int
    purity: Agreement | None
    nmi: Agreement | None

    def mean(self, name: str) -> float:
        """The mean of a field of `ClassScore` over all classes; those without a cluster count as 0."""
        return float(np.mean([getattr(one, name) for one in self.classes]))


def score_classes(
    truths: Mapping[str, ImageTruth], predictions: Mapping[str, Prediction]
) -> ClassScores | None:
    """Score labelled objects; objects without a label are left out.

    Args:
        truths: of the images that were done, by image name.
        predictions: by image name; an image of `truths` may be missing.

    Returns:
        The scores; None if the true objects that count are not of two classes at least.
    """
    images = _Images(truths, predictions)
    if len(images.classes) < 2:
        return None
    table = np.array(
        [[images.voc_ap(name, cluster) for cluster in images.clusters] for name in images.classes]
    )
    assigned = assignment(table)
    classes = tuple(
        images.class_score(name, images.clusters[assigned[row]] if row in assigned else None)
        for row, name in enumerate(images.classes)
    )
    of, true, image = images.matched()
    labelled = sum(map(len, images.found.values()))
    purity = nmi = None
    if len(of):
        purity, nmi = agreement(of, true, image, purity_of), agreement(of, true, image, nmi_of)
    return ClassScores(classes, len(images.clusters), labelled, len(of), purity, nmi)


def assignment(table: np.ndarray) -> dict[int, int]:
    """Rows to columns, each at most once, by the greatest sum of values: the Hungarian method."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(table, maximize=True)
    return dict(zip(rows.tolist(), columns.tolist()))


class _Images:
    """The true and the labelled objects of all images."""

    def __init__(self, truths: Mapping[str, ImageTruth], predictions: Mapping[str, Prediction]):
        self.truths = truths
        self.found: dict[str, list[tuple[float, Box, str]]] = {
            image: [(score, one.box_xyxy, one.label) for score, one in objects if one.label is not None]
            for image, objects in scored_objects(predictions).items()
            if image in truths
        }
        self.classes = sorted({name for one in truths.values() for name, _ in _counting(one)})
        self.clusters = sorted({label for objects in self.found.values() for *_, label in objects})
        self._ious = {
            image: iou(np.array([box for _, box, _ in objects]), truths[image].boxes_xyxy)
            for image, objects in self.found.items()
            if objects
        }
        self._of_clusters = self._by_cluster()
        self._best: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}

    def _by_cluster(self) -> dict[str, list[tuple[float, str, int]]]:
        """The objects of each cluster, (score, image, index), by score; equal ones keep their order."""
        of: dict[str, list[tuple[float, str, int]]] = {cluster: [] for cluster in self.clusters}
        for image, objects in self.found.items():
            for index, (score, _, label) in enumerate(objects):
                of[label].append((score, image, index))
        return {cluster: sorted(boxes, key=lambda one: -one[0]) for cluster, boxes in of.items()}

    def _best_of(self, name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By image, for each found object the best true one of a class: its index and its IoU."""
        if name not in self._best:
            best = {}
            for image, ious in self._ious.items():
                labels = np.array(self.truths[image].labels, dtype=object)
                columns = np.flatnonzero(labels == name)
                if len(columns):
                    of_class = ious[:, columns]
                    best[image] = columns[of_class.argmax(axis=1)], of_class.max(axis=1)
            self._best[name] = best
        return self._best[name]

    def voc_ap(self, name: str, cluster: str, threshold: float = THRESHOLD) -> float:
        """VOC's AP of a cluster as the detector of a class, in percent."""
        best = self._best_of(name)
        taken: set[tuple[str, int]] = set()
        hits = []
        for _, image, index in self._of_clusters[cluster]:
            if image not in best or best[image][1][index] <= threshold:
                hits.append(False)
                continue
            truth = int(best[image][0][index])
            if _is_difficult(self.truths[image], truth):
                continue
            hits.append((image, truth) not in taken)
            taken.add((image, truth))
        return 100 * area_under_envelope(np.array(hits, dtype=bool), self.objects(name))

    def objects(self, name: str) -> int:
        """How many true objects of a class count."""
        return sum(label == name for one in self.truths.values() for label, _ in _counting(one))

    def class_score(self, name: str, cluster: str | None) -> ClassScore:
        """The scores of a class with the cluster assigned to it."""
        if cluster is None:
            return ClassScore(name, self.objects(name), None, 0.0, 0.0, 0.0, 0.0)
        aps = [self.voc_ap(name, cluster, threshold) for threshold in THRESHOLDS]
        truths = {
            image: [box for label, box in _counting(one) if label == name]
            for image, one in self.truths.items()
        }
        found = {
            image: [(score, box) for score, box, label in objects if label == cluster]
            for image, objects in self.found.items()
        }
        coco = average_precision(BOXES, truths, found)
        return ClassScore(name, self.objects(name), cluster, aps[0], float(np.mean(aps)), coco.ap, coco.ap50)

    def matched(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The cluster, the class and the image, (N,) int each, of each object with a true one."""
        clusters = {name: number for number, name in enumerate(self.clusters)}
        classes = {
            name: number
            for number, name in enumerate(sorted({n for one in self.truths.values() for n in one.labels}))
        }
        rows = [
            (clusters[label], classes[self.truths[image].labels[best]], number)
            for number, (image, ious) in enumerate(self._ious.items())
            for (_, _, label), best, most in _with_best(self.found[image], ious)
            if most >= _MATCHED
        ]
        of, true, images = np.array(rows, dtype=int).reshape(-1, 3).T
        return of, true, images


def _with_best(objects: Sequence[tuple[float, Box, str]], ious: np.ndarray):
    """Each found object with the index of its best true object and their IoU; none without true objects."""
    if not ious.shape[1]:
        return []
    return list(zip(objects, ious.argmax(axis=1).tolist(), ious.max(axis=1).tolist()))


def _counting(truth: ImageTruth) -> list[tuple[str, Box]]:
    """The objects that are not difficult: (class, box)."""
    return [
        (label, box)
        for index, (label, box) in enumerate(zip(truth.labels, truth.boxes_xyxy))
        if not _is_difficult(truth, index)
    ]


def _is_difficult(truth: ImageTruth, index: int) -> bool:
    return bool(truth.difficult) and truth.difficult[index]


def area_under_envelope(hits: np.ndarray, objects: int) -> float:
    """The area under the precision envelope, as a fraction.

    Args:
        hits: (N,) bool, whether each detection is right, the highest score first.
        objects: how many true objects there are.

    Example:
        >>> area_under_envelope(np.array([True, False, True]), 2)  # 1/2 at precision 1, 1/2 at 2/3
        0.8333333333333333
    """
    if not objects or not hits.any():
        return 0.0
    found = np.cumsum(hits)
    precision = found / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[hits].sum() / objects)


# --- purity and NMI ----------------------------------------------------------------------------------


def purity_of(counts: np.ndarray) -> float:
    """The share of boxes that are of the most frequent class of their cluster: counts (clusters, classes)."""
    return float(counts.max(axis=1).sum() / counts.sum())


def nmi_of(counts: np.ndarray) -> float:
    """Normalised mutual information of counts (clusters, classes): 2 I / (H + H), 0 without any entropy."""
    shares = counts / counts.sum()
    by_cluster, by_class = _entropy(shares.sum(axis=1)), _entropy(shares.sum(axis=0))
    mutual = by_cluster + by_class - _entropy(shares.ravel())
    return float(max(0.0, 2 * mutual / (by_cluster + by_class))) if by_cluster + by_class > 0 else 0.0


def _entropy(shares: np.ndarray) -> float:
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def agreement(
    of: np.ndarray, true: np.ndarray, image: np.ndarray, measure: Callable[[np.ndarray], float]
) -> Agreement:
    """A measure of clusters against classes with its intervals, in percent.

    Each resample draws images with replacement, and permutes the labels among the drawn boxes for the chance
    level. Many small clusters raise both alike, so `above` is what tells clusters from chance.

    Args:
        of, true, image: (N,) int: cluster, class and image of each box.
        measure: of counts (clusters, classes), as a fraction.
    """
    random = np.random.default_rng(SEED)
    shape = of.max() + 1, true.max() + 1
    names = np.unique(image)

    def measured(clusters: np.ndarray, classes: np.ndarray) -> float:
        pairs = np.bincount(clusters * shape[1] + classes, minlength=shape[0] * shape[1])
        return 100 * measure(pairs.reshape(shape))

    value = measured(of, true)
    chance = float(np.mean([measured(random.permutation(of), true) for _ in range(RESAMPLES)]))
    order = np.argsort(image, kind="stable")
    starts, ends = (np.searchsorted(image[order], names, side=side) for side in ("left", "right"))
    boxes = [order[start:end] for start, end in zip(starts, ends)]
    values, above = [], []
    for _ in range(RESAMPLES):
        drawn = np.concatenate([boxes[one] for one in random.integers(len(names), size=len(names))])
        values.append(measured(of[drawn], true[drawn]))
        above.append(values[-1] - measured(random.permutation(of[drawn]), true[drawn]))
    reach, above_reach = (_NORMAL * float(np.std(one)) for one in (values, above))
    low, high = max(0.0, value - reach), min(100.0, value + reach)
    gain = value - chance
    return Agreement(value, low, high, chance, gain, gain - above_reach, gain + above_reach)
