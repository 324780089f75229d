"""k-means of whitened tokens, on blobs whose clusters are known, and against scipy's whiten."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import refusal
from scipy.cluster.vq import whiten

from lost_reg.runs.folder import TOKENS_FILE
from lost_reg.training import clusters as clusters_module
from lost_reg.training.cluster_names import default_names, read_names, renamed
from lost_reg.training.clusters import find_clusters, whitened
from lost_reg.training.token_cache import TokenCache, box_key


def blobs(sizes=(12, 30, 20), seed=0):
    """Rows around directions that are far apart, shuffled, and the blob of each row."""
    random = np.random.default_rng(seed)
    of = random.permutation(np.repeat(range(len(sizes)), sizes))
    rows = np.eye(8)[of] + 0.05 * random.standard_normal((len(of), 8))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), of


def test_blobs_are_found_and_the_largest_comes_first():
    rows, of = blobs()
    clusters = find_clusters(rows, [3])
    assert [len(set(of[clusters.of == number])) for number in range(3)] == [1, 1, 1]
    assert np.bincount(clusters.of).tolist() == [30, 20, 12]
    centres = [whitened(rows)[clusters.of == number].mean(axis=0) for number in range(3)]
    by_hand = [np.linalg.norm(row - centres[of]) for row, of in zip(whitened(rows), clusters.of)]
    assert clusters.distances == pytest.approx(by_hand)
    again = find_clusters(rows, [3])
    assert (again.of == clusters.of).all() and (again.distances == clusters.distances).all()


def test_the_silhouette_chooses_k_in_a_range():
    rows, _ = blobs()
    clusters = find_clusters(rows, range(2, 7))
    assert clusters.k == 3
    assert clusters.tried.keys() == set(range(2, 7))
    assert (
        clusters.silhouette
        == max(clusters.tried.values())
        == pytest.approx(silhouette_by_hand(rows, clusters.of))
    )


def test_a_silhouette_of_zero_is_better_than_a_negative_one(monkeypatch):
    monkeypatch.setattr(
        clusters_module, "_silhouette", lambda rows, of, seed: {2: 0.0, 3: -0.1}[len(set(of))]
    )
    assert find_clusters(np.random.default_rng(0).normal(size=(20, 3)), [2, 3]).k == 2


def silhouette_by_hand(rows, of):
    rows, values = whitened(rows), []
    for index, row in enumerate(rows):
        distances = np.linalg.norm(rows - row, axis=1)
        own = distances[(of == of[index]) & (np.arange(len(rows)) != index)].mean()
        other = min(distances[of == number].mean() for number in set(of) - {of[index]})
        values.append((other - own) / max(own, other))
    return np.mean(values)


def test_whitening_is_scipys_then_l2_and_keeps_what_has_no_spread():
    rows = np.random.default_rng(0).standard_normal((20, 5))
    expected = whiten(rows)
    assert whitened(rows) == pytest.approx(expected / np.linalg.norm(expected, axis=1, keepdims=True))
    assert whitened([[1.0, 0], [1, 0]]).tolist() == [[1, 0], [1, 0]]
    assert whitened([[0.0, 0], [0, 0]]).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("k", "reason"),
    [
        ([1], "at least 2"),
        ([63], "63 clusters need more boxes than the 62"),
        (range(2, 63), "62 clusters need more boxes"),  # a silhouette needs a cluster of two
    ],
)
def test_a_k_that_does_not_fit_the_boxes_is_refused(k, reason):
    assert reason in refusal(find_clusters, blobs()[0], k)


def test_equal_tokens_are_not_more_clusters_than_they_are():
    rows = np.eye(4)[[0, 1, 0, 1, 0]]
    assert find_clusters(rows, [2]).of.tolist() == [0, 1, 0, 1, 0]
    assert "fewer than 3 different" in refusal(find_clusters, rows, [3])


# --- names -------------------------------------------------------------------------------------------


def test_names_are_numbered_as_wide_as_the_last():
    assert default_names(2) == ["cluster 01", "cluster 02"]
    assert default_names(120)[4] == "cluster 005"


@pytest.mark.parametrize(
    "text", ['{"cluster 02": "cat = 1", "3": "dog"}', "# mine\n\ncluster 02 = cat = 1\r\n3=dog\n"]
)
def test_names_are_read_as_json_or_lines(tmp_path, text):
    (tmp_path / "names").write_text(text, encoding="utf-8-sig")
    names = renamed(3, read_names(tmp_path / "names"))
    assert names == ["cluster 01", "cat = 1", "dog"]
    assert renamed(3, {"1": "bird", "2": "dog"}, names) == ["bird", "dog", "dog"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"cluster 01: cat", "line 1 of"),
        (b"1 = cat\n1 = dog", "line 2 of"),
        (b"1 = ", "line 1 of"),
        (b'{"1": 2}', "is not JSON of names"),
        (b'{"1": ', "is not JSON of names"),
        (b"\xff1 = cat", "UTF-8"),
        (None, "No such file"),
    ],
)
def test_a_file_that_holds_no_names_is_refused(tmp_path, content, reason):
    if content is not None:
        (tmp_path / "names").write_bytes(content)
    assert reason in refusal(read_names, tmp_path / "names")


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"cluster 04": "cat"}, "no cluster 'cluster 04' in the run: it has cluster 01 to cluster 03"),
        ({"cat": "cluster 01"}, "no cluster 'cat'"),
        ({"0": "cat"}, "no cluster '0'"),
        ({"1": " "}, "cannot be the name"),
        ({"1": "two\nlines"}, "cannot be the name"),
        ({"1": "x" * 101}, "cannot be the name"),
    ],
)
def test_names_that_do_not_fit_are_refused(wanted, reason):
    assert reason in refusal(renamed, 3, wanted)


# --- the cache ---------------------------------------------------------------------------------------


def test_tokens_are_kept_for_the_same_settings(tmp_path):
    key, token = box_key("a.jpg", (0, 0, 5, 5)), np.array([0.6, 0.8], np.float32)
    with TokenCache(tmp_path, {"backbone": "tiny"}) as cache:
        cache.add(key, token)
    assert (TokenCache(tmp_path, {"backbone": "tiny"}).rows([key]) == token).all()
    assert key not in TokenCache(tmp_path, {"backbone": "dino"})
    assert box_key("a.jpg", (0.0, 0, 5, 5)) == key != box_key("a.jpg", (0, 0, 5, 6))


def test_tokens_of_a_stopped_command_are_kept(tmp_path):
    with pytest.raises(KeyboardInterrupt), TokenCache(tmp_path, {}) as cache:
        cache.add(box_key("a", (0, 0, 1, 1)), np.ones(2, np.float32))
        raise KeyboardInterrupt
    assert box_key("a", (0, 0, 1, 1)) in TokenCache(tmp_path, {})


@pytest.mark.parametrize("damage", [b"", b"no archive", slice(0, 200)])
def test_a_damaged_cache_is_made_anew(tmp_path, damage):
    key = box_key("a", (0, 0, 1, 1))
    with TokenCache(tmp_path, {}) as cache:
        cache.add(key, np.ones(2, np.float32))
    path = tmp_path / TOKENS_FILE
    path.write_bytes(path.read_bytes()[damage] if isinstance(damage, slice) else damage)
    with TokenCache(tmp_path, {}) as cache:
        assert key not in cache
        cache.add(key, np.zeros(2, np.float32))
    assert key in TokenCache(tmp_path, {})
