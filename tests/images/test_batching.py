"""Grouping a stream of images into batches of one shape: nothing lost, nothing mixed, memory bounded."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lost_reg.images.batching import BatchSize, DecodedImage, GridBatcher


def image(name, height: int, width: int = 1) -> DecodedImage:
    """An image of 3 * height * width bytes."""
    return DecodedImage(str(name), np.zeros((height, width, 3), np.uint8), (height, width), (height, width))


def names(batches) -> list[str]:
    """Each batch as its images' names run together."""
    return ["".join(one.name for one in batch) for batch in batches]


def test_a_batch_is_passed_on_once_it_is_full():
    batcher = GridBatcher(BatchSize(2))
    assert names(batcher.add(image("a", 1))) == []
    assert names(batcher.add(image("b", 2))) == []
    assert names(batcher.add(image("c", 2))) == ["bc"]
    assert names(batcher.add(image("d", 2))) == []
    assert names(batcher.add(image("e", 1))) == ["ae"]
    assert names(batcher.flush()) == ["d"]
    assert names(batcher.flush()) == []


def test_height_and_width_both_make_the_group():
    batcher = GridBatcher(BatchSize(2))
    assert names(batcher.add(image("a", 2, 3))) == []
    assert names(batcher.add(image("b", 3, 2))) == []
    assert names(batcher.flush()) == ["a", "b"]


def test_a_batch_size_of_one_waits_for_nothing():
    batcher = GridBatcher(BatchSize(1))
    assert names(batcher.add(image("a", 1))) == ["a"]
    assert names(batcher.flush()) == []


def test_when_too_much_waits_the_group_that_began_first_goes_first():
    batcher = GridBatcher(BatchSize(10), waiting_bytes=3 * 10)
    for one in (image("a", 2), image("b", 3), image("c", 2), image("d", 3)):
        assert names(batcher.add(one)) == []
    # 2 + 3 + 2 + 3 rows are the most that may wait; a's group began first, though d came after c
    assert names(batcher.add(image("e", 1))) == ["ac"]
    # 7 wait; 4 more are too many, and b's group is the oldest now
    assert names(batcher.add(image("f", 4))) == ["bd"]
    assert names(batcher.flush()) == ["e", "f"]


def test_a_group_begins_anew_after_it_was_passed_on():
    batcher = GridBatcher(BatchSize(2), waiting_bytes=3 * 4)
    for one in (image("a", 2), image("b", 1), image("c", 2)):  # a and c make a full batch
        list(batcher.add(one))
    assert names(batcher.add(image("d", 2))) == []
    assert names(batcher.add(image("e", 3))) == [
        "b",
        "d",
    ]  # b has waited longer than d, the second of its size


def test_an_image_larger_than_all_that_may_wait_goes_at_once():
    batcher = GridBatcher(BatchSize(8), waiting_bytes=3 * 4)
    assert names(batcher.add(image("a", 1))) == []
    assert names(batcher.add(image("b", 9))) == ["a", "b"]


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), max_size=60),
    st.integers(1, 5),
    st.integers(0, 100),
)
def test_each_image_comes_once_in_batches_of_one_shape_within_the_bound(sizes, batch_size, waiting_bytes):
    batcher = GridBatcher(BatchSize(batch_size), waiting_bytes)
    taken, waiting = [], {}
    for index, (height, width) in enumerate(sizes):
        one = image(index, height, width)
        waiting[one.name] = one.pixels.nbytes
        full = []
        for batch in batcher.add(one):
            full.append(len(batch) == batch_size)
            taken.append(batch)
            for gone in batch:
                del waiting[gone.name]  # fails for an image that came twice
        assert sum(waiting.values()) <= waiting_bytes
    taken += batcher.flush()
    assert sorted(int(one.name) for batch in taken for one in batch) == list(range(len(sizes)))
    for batch in taken:
        assert 1 <= len(batch) <= batch_size
        assert len({one.pixels.shape for one in batch}) == 1
        order = [int(one.name) for one in batch]
        assert order == sorted(order)


@given(st.lists(st.integers(1, 4), max_size=60), st.integers(1, 5))
def test_with_memory_enough_all_batches_of_the_stream_are_full(heights, batch_size):
    batcher = GridBatcher(BatchSize(batch_size))
    streamed = [batch for index, height in enumerate(heights) for batch in batcher.add(image(index, height))]
    assert all(len(batch) == batch_size for batch in streamed)
    rests = [batch[0].pixels.shape for batch in batcher.flush()]
    assert len(rests) == len(set(rests))  # one batch at most for each shape
