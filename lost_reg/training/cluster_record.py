"""What `lost-reg cluster` leaves in a run folder, read back without a model."""

from __future__ import annotations

from lost_reg.runs.folder import CLUSTERS, Results
from lost_reg.types import Prediction

CLUSTER, DISTANCE = "cluster", "centre_distance"  # in an object's details


def has_clusters(results: Results) -> bool:
    """Whether a run was clustered. Reading a run checks what it records of its clusters."""
    return results.record.get(CLUSTERS) is not None


def boxes_by_cluster(results: Results) -> dict[int, list[tuple[float, Prediction, int]]]:
    """The clustered boxes of a run by cluster, from 1: (distance, image, index), the nearest first."""
    found: dict[int, list[tuple[float, Prediction, int]]] = {}
    for one in results.predictions.values():
        for index, each in enumerate(one.objects):
            if number := each.details.get(CLUSTER):
                found.setdefault(int(number), []).append((each.details.get(DISTANCE, 0.0), one, index))
    return {
        number: sorted(boxes, key=lambda box: (box[0], box[1].image, box[2]))
        for number, boxes in sorted(found.items())
    }
