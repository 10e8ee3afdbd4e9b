"""Datasets: order, structure, determinism, bad input."""

from __future__ import annotations

import itertools
import threading
from typing import NamedTuple

import numpy as np
import pytest

import dualmode as dm
from dualmode.data import INFINITE_CARDINALITY, UNKNOWN_CARDINALITY, Dataset


def numbers(dataset):
    return [int(x) for x in dataset]


def lists(dataset):
    return [x.numpy().tolist() for x in dataset]


class Pair(NamedTuple):
    x: object
    y: object


def test_slices_of_nested_structures_are_tensors():
    x, y = np.arange(6.0).reshape(3, 2), [7, 8, 9]
    dataset = Dataset.from_tensor_slices({"x": x, "rest": (y, Pair(x, y))})
    elements = list(dataset)
    assert len(dataset) == len(elements) == 3
    last = elements[2]
    assert isinstance(last["x"], dm.Tensor) and last["x"].dtype is dm.float64
    assert last["rest"][0].dtype is dm.int32 and int(last["rest"][0]) == 9
    assert isinstance(last["rest"][1], Pair)
    np.testing.assert_array_equal(last["rest"][1].x, [4, 5])


def test_batches_from_slices_and_from_elements_are_equal():
    x = np.arange(10).reshape(5, 2)
    fast = Dataset.from_tensor_slices((x, x[:, 0])).batch(2)
    slow = Dataset.from_tensor_slices((x, x[:, 0])).map(lambda a, b: (a, b)).batch(2)
    for (a, b), (c, d) in zip(fast, slow, strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)
        assert a.dtype is c.dtype
    assert [len(a) for a, _ in fast] == [2, 2, 1]
    assert len(fast) == 3 and len(slow) == 3


def test_drop_remainder():
    dataset = Dataset.range(5).batch(2, drop_remainder=True)
    assert lists(dataset) == [[0, 1], [2, 3]] and len(dataset) == 2


def test_iterating_twice_gives_the_same_elements():
    dataset = Dataset.range(3, 9, 2)
    assert numbers(dataset) == numbers(dataset) == [3, 5, 7]
    assert next(iter(dataset)).dtype is dm.int64


@pytest.mark.parametrize("buffer_size", [1, 3, 10, 1000])
def test_shuffle_is_a_permutation_that_the_seed_decides(buffer_size):
    first, second = (Dataset.range(10).shuffle(buffer_size, seed=4) for _ in range(2))
    passes = [numbers(first) for _ in range(3)]
    assert passes == [numbers(second) for _ in range(3)]
    assert all(sorted(order) == list(range(10)) for order in passes)
    if buffer_size > 1:
        assert passes[0] != passes[1]
    for place, value in enumerate(passes[0]):  # an element cannot come before it is in the buffer
        assert value < place + buffer_size


def test_shuffle_may_keep_its_order():
    dataset = Dataset.range(10).shuffle(10, seed=1, reshuffle_each_iteration=False)
    assert numbers(dataset) == numbers(dataset)


def test_shuffle_without_a_seed_follows_the_global_one():
    orders = []
    for seed in (0, 0, 1):
        dm.random.set_seed(seed)
        orders.append(numbers(Dataset.range(50).shuffle(50)))
    assert orders[0] == orders[1] != orders[2]


def test_shuffle_is_uniform():
    counts = np.zeros((4, 4))
    dataset = Dataset.range(4).shuffle(4, seed=0)
    for _ in range(2000):
        for place, value in enumerate(dataset._source()):
            counts[place, value] += 1
    assert (np.abs(counts - 500) < 100).all()


def test_shuffled_batches_keep_rows_together():
    x = np.arange(20)
    for a, b in Dataset.from_tensor_slices((x, x * 10)).shuffle(20).batch(6):
        np.testing.assert_array_equal(a.numpy() * 10, b)


def test_repeat():
    dataset = Dataset.range(2)
    assert numbers(dataset.repeat(3)) == [0, 1] * 3
    assert numbers(dataset.repeat(0)) == []
    assert numbers(dataset.repeat().take(5)) == [0, 1, 0, 1, 0]
    assert dataset.repeat().cardinality() == INFINITE_CARDINALITY
    assert lists(dataset.repeat(2).batch(3)) == [[0, 1, 0], [1]]
    with pytest.raises(TypeError, match="infinite"):
        len(dataset.repeat())


def test_every_repetition_is_shuffled_anew():
    order = numbers(Dataset.range(20).shuffle(20, seed=0).repeat(2))
    assert sorted(order[:20]) == sorted(order[20:]) and order[:20] != order[20:]


def test_take_and_skip():
    dataset = Dataset.range(5)
    assert numbers(dataset.take(2)) == [0, 1] and len(dataset.take(9)) == 5
    assert numbers(dataset.skip(3)) == [3, 4] and len(dataset.skip(9)) == 0
    assert numbers(dataset.take(-1)) == list(range(5))


def test_map_filter_enumerate_zip():
    dataset = Dataset.range(4)
    assert numbers(dataset.map(lambda x: x * x)) == [0, 1, 4, 9]
    assert numbers(dataset.filter(lambda x: x % 2 == 0)) == [0, 2]
    pairs = [(int(i), int(x)) for i, x in dataset.skip(2).enumerate(start=1)]
    assert pairs == [(1, 2), (2, 3)]
    zipped = Dataset.zip(dataset, dataset.repeat())
    assert len(zipped) == 4 and [int(a + b) for a, b in zipped] == [0, 2, 4, 6]
    assert dataset.filter(lambda x: True).cardinality() == UNKNOWN_CARDINALITY


def test_from_generator_starts_afresh_each_time():
    def generate():
        for i in range(3):
            yield {"a": i, "b": np.full(2, i)}

    dataset = Dataset.from_generator(generate).batch(2)
    for _ in range(2):
        batches = list(dataset)
        np.testing.assert_array_equal(batches[0]["b"], [[0, 0], [1, 1]])
        assert batches[0]["a"].dtype is dm.int32
    with pytest.raises(TypeError, match="unknown"):
        len(dataset)


def test_prefetch_gives_the_same_and_stops_its_thread():
    def threads():
        return [t for t in threading.enumerate() if t.name == "dualmode-prefetch"]

    dataset = Dataset.range(100).prefetch(2)
    assert numbers(dataset) == list(range(100))
    iterator = iter(dataset)
    next(iterator)
    iterator.close()
    for thread in threads():
        thread.join(timeout=5)
    assert not threads()


def test_prefetch_passes_errors_on():
    def generate():
        yield 1
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        list(Dataset.from_generator(generate).prefetch(1))


def test_an_empty_dataset_iterates_zero_times():
    empty = Dataset.from_tensor_slices((np.zeros((0, 3)), np.zeros(0)))
    assert len(empty) == 0 and list(empty) == []
    assert list(empty.shuffle(4).repeat().batch(2)) == []
    assert bool(empty)


def test_a_batch_does_not_change_with_the_arrays_it_came_from():
    x = np.arange(4)
    row, batch = (
        next(iter(Dataset.from_tensor_slices(x))),
        next(iter(Dataset.from_tensor_slices(x).batch(4))),
    )
    x[:] = -1
    assert int(row) == 0 and batch.numpy().tolist() == [0, 1, 2, 3]


def test_nan_passes_through():
    assert np.isnan(next(iter(Dataset.from_tensor_slices(np.array([np.nan])).batch(1))).numpy())


def test_bad_input():
    with pytest.raises(ValueError, match=r"tensors\[0\] has 3 .*tensors\[1\] has 4"):
        Dataset.from_tensor_slices((np.zeros((3, 2)), np.zeros(4)))
    with pytest.raises(ValueError, match=r"tensors\['x'\] is a scalar"):
        Dataset.from_tensor_slices({"x": 3.0})
    with pytest.raises(ValueError, match="empty structure"):
        Dataset.from_tensor_slices(())
    for method, name in (("batch", "batch_size"), ("shuffle", "buffer_size")):
        with pytest.raises(ValueError, match=f"{method}: {name} must be 1 or more, got 0"):
            getattr(Dataset.range(3), method)(0)
        with pytest.raises(TypeError, match=f"{name} must be an integer, not float"):
            getattr(Dataset.range(3), method)(2.0)
    with pytest.raises(ValueError, match="count must be 0 or more"):
        Dataset.range(3).repeat(-2)
    with pytest.raises(ValueError, match="seed must not be negative"):
        Dataset.range(3).shuffle(3, seed=-1)
    with pytest.raises(TypeError, match="function that returns an iterable, not list"):
        Dataset.from_generator([1, 2])
    ragged = Dataset.from_generator(lambda: [np.zeros(2), np.zeros(3)])
    with pytest.raises(
        ValueError, match=r"element 0 of the batch has \(2,\), element 1 has \(3,\)"
    ):
        list(ragged.batch(2))
    mixed = Dataset.from_generator(lambda: [(1, 2), {"a": 1}])
    with pytest.raises(ValueError, match=r"tuple of 2, dict of \['a'\]"):
        list(mixed.batch(2))


def test_shipped_data():
    sklearn = pytest.importorskip("sklearn.datasets")
    for ours, theirs in (
        (dm.datasets.iris(), sklearn.load_iris()),
        (dm.datasets.digits(), sklearn.load_digits()),
    ):
        np.testing.assert_array_equal(ours.data, theirs.data.astype(np.float32))
        np.testing.assert_array_equal(ours.target, theirs.target)
        assert len(ours.feature_names) == ours.data.shape[1]
        assert len(ours.target_names) == len(theirs.target_names)


def test_the_order_of_methods_matters_as_in_tensorflow():
    batches = list(Dataset.range(6).batch(2).shuffle(3, seed=0))
    assert sorted(b.numpy().tolist() for b in batches) == [[0, 1], [2, 3], [4, 5]]
    repeated = Dataset.range(3).repeat().shuffle(2, seed=0).batch(4)
    assert [b.shape for b in itertools.islice(repeated, 2)] == [(4,), (4,)]
