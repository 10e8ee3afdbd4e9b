"""`Dataset`: a lazily evaluated sequence of elements, with the methods of `tf.data.Dataset`.

A dataset made from arrays travels as row numbers: shuffling, repeating and cutting move integers,
and a batch gathers its rows from the arrays in one indexing step.
"""

from __future__ import annotations

import builtins
import contextlib
import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from .. import op
from ..random import fresh_key
from .structure import as_array, leaves, map_leaves, stack

INFINITE_CARDINALITY = -1
UNKNOWN_CARDINALITY = -2

Source = Callable[[], Iterator[Any]]


class Dataset:
    """A sequence of elements, each a structure (tuple, dict) of tensors. Iterating starts afresh.

    Every method that changes the sequence returns a new dataset.
    """

    def __init__(
        self,
        source: Source,
        cardinality: int,
        arrays: Any = None,
        batch_sizes: tuple[int, ...] = (),
    ) -> None:
        """Use `from_tensor_slices`, `from_generator` or `range`.

        Args:
            source: starts one pass over the items.
            cardinality: how many items a pass has.
            arrays: a structure of arrays, if the items are row numbers into them.
            batch_sizes: if the items are batches, the sizes that they may have, where that is
                known.
        """
        self._source = source
        self._cardinality = cardinality
        self._arrays = arrays
        self.batch_sizes = batch_sizes

    @staticmethod
    def from_tensor_slices(tensors: Any) -> Dataset:
        """One element per row of `tensors`, a structure of arrays with equal first dimensions.

        Raises:
            ValueError: no arrays, a 0-d array, or first dimensions that differ.
        """
        arrays = map_leaves(as_array, tensors)
        found = list(leaves(arrays))
        if not found:
            raise ValueError("from_tensor_slices: there are no arrays in an empty structure")
        for path, array in found:
            if array.ndim == 0:
                raise ValueError(f"from_tensor_slices: tensors{path} is a scalar: it has no rows")
        first_path, first = found[0]
        rows = len(first)
        for path, array in found:
            if len(array) != rows:
                raise ValueError(
                    f"from_tensor_slices: numbers of rows differ: tensors{first_path} has {rows} "
                    f"(shape {first.shape}), tensors{path} has {len(array)} (shape {array.shape})"
                )
        return Dataset(lambda: iter(builtins.range(rows)), rows, arrays)

    @staticmethod
    def from_generator(generator: Callable[[], Iterable[Any]]) -> Dataset:
        """The elements that `generator()` yields; it is called once per pass.

        Raises:
            TypeError: `generator` is not callable (an iterator could be consumed only once).
        """
        if not callable(generator):
            raise TypeError(
                f"from_generator: expected a function that returns an iterable, not "
                f"{type(generator).__name__}; wrap it: from_generator(lambda: ...)"
            )
        return Dataset(lambda: iter(generator()), UNKNOWN_CARDINALITY)

    @staticmethod
    def range(*args: int) -> Dataset:
        """int64 scalars, as Python's `range(stop)`, `range(start, stop)` or with a step."""
        numbers = builtins.range(*args)
        return Dataset(lambda: iter(np.array(numbers, np.int64)), len(numbers))

    @staticmethod
    def zip(*datasets: Any) -> Dataset:
        """Tuples of one element of each dataset; ends with the shortest."""
        parts = datasets[0] if len(datasets) == 1 and isinstance(datasets[0], tuple) else datasets
        if not parts or not all(isinstance(d, Dataset) for d in parts):
            raise TypeError("zip: expected one or more Dataset objects")
        sizes = [d._cardinality for d in parts]
        finite = [s for s in sizes if s >= 0]
        size = UNKNOWN_CARDINALITY if UNKNOWN_CARDINALITY in sizes else min(finite, default=-1)
        return Dataset(lambda: builtins.zip(*(d._elements() for d in parts), strict=False), size)

    def __iter__(self) -> Iterator[Any]:
        for element in self._elements():
            yield map_leaves(op.convert, element)

    def __len__(self) -> int:
        """The number of elements.

        Raises:
            TypeError: it is infinite or unknown.
        """
        if self._cardinality < 0:
            kind = "infinite" if self._cardinality == INFINITE_CARDINALITY else "unknown"
            raise TypeError(f"the length of this dataset is {kind}")
        return self._cardinality

    def __bool__(self) -> bool:
        return True  # as any object; without this, truth would ask `__len__`

    def __repr__(self) -> str:
        names = {INFINITE_CARDINALITY: "infinite", UNKNOWN_CARDINALITY: "unknown"}
        return f"<Dataset cardinality={names.get(self._cardinality, self._cardinality)}>"

    def cardinality(self) -> int:
        """The number of elements, `INFINITE_CARDINALITY` (-1) or `UNKNOWN_CARDINALITY` (-2)."""
        return self._cardinality

    def shuffle(
        self, buffer_size: int, seed: int | None = None, reshuffle_each_iteration: bool = True
    ) -> Dataset:
        """Each element drawn at random from the next `buffer_size` ones.

        Args:
            buffer_size: the whole length or more gives a uniform permutation.
            seed: equal seeds give equal orders; None takes a new one now, in a
                sequence that `dm.random.set_seed` starts anew.
            reshuffle_each_iteration: whether each pass has an order of its own.
        """
        _check_positive("shuffle", "buffer_size", buffer_size)
        if seed is not None and seed < 0:
            raise ValueError(f"shuffle: seed must not be negative, got {seed}")
        key = fresh_key().tolist() if seed is None else [seed]
        passes = itertools.count()

        def source() -> Iterator[Any]:
            this_pass = next(passes) if reshuffle_each_iteration else 0
            return _shuffled(self._source(), buffer_size, np.random.default_rng([*key, this_pass]))

        return self._derive(source, self._cardinality)

    def repeat(self, count: int | None = None) -> Dataset:
        """The sequence `count` times over; None or -1: for ever (an empty one stays empty)."""
        if count == -1:
            count = None
        if count is not None and count < 0:
            raise ValueError(f"repeat: count must be 0 or more, or None for ever; got {count}")

        def source() -> Iterator[Any]:
            for _ in itertools.count() if count is None else builtins.range(count):
                empty = True
                for item in self._source():
                    empty = False
                    yield item
                if empty:
                    return

        if count is None:
            return self._derive(source, 0 if self._cardinality == 0 else INFINITE_CARDINALITY)
        size = self._cardinality if count else 0
        return self._derive(source, size * count if size > 0 else size)

    def take(self, count: int) -> Dataset:
        """The first `count` elements, or all if there are fewer; -1: all."""
        if count == -1:
            return self
        if count < 0:
            raise ValueError(f"take: count must be 0 or more, or -1 for all; got {count}")
        known = {INFINITE_CARDINALITY: count, UNKNOWN_CARDINALITY: UNKNOWN_CARDINALITY}
        size = known.get(self._cardinality, min(count, self._cardinality))
        return self._derive(lambda: itertools.islice(self._source(), count), size)

    def skip(self, count: int) -> Dataset:
        """All elements but the first `count`."""
        if count < 0:
            raise ValueError(f"skip: count must be 0 or more, got {count}")
        size = self._cardinality if self._cardinality < 0 else max(0, self._cardinality - count)
        return self._derive(lambda: itertools.islice(self._source(), count, None), size)

    def batch(self, batch_size: int, drop_remainder: bool = False) -> Dataset:
        """Consecutive elements stacked along a new first axis.

        Args:
            batch_size: elements per batch, at least 1.
            drop_remainder: whether a last batch that is smaller is left out.

        Raises:
            ValueError: now for a bad size; on iteration when elements differ in shape.
        """
        _check_positive("batch", "batch_size", batch_size)

        def source() -> Iterator[Any]:
            items = self._source()
            while len(group := list(itertools.islice(items, batch_size))) > 0:
                if drop_remainder and len(group) < batch_size:
                    return
                yield self._gather(group)

        rows = self._cardinality
        full, rest = divmod(rows, batch_size) if rows >= 0 else (rows, 0)
        partial = rest > 0 and not drop_remainder
        sizes = [*([batch_size] if full else []), *([rest] if partial else [])]
        return Dataset(source, full + partial, None, tuple(sizes) if rows >= 0 else ())

    def map(self, map_func: Callable[..., Any]) -> Dataset:
        """`map_func` of every element; tuples arrive as separate arguments."""
        if not callable(map_func):
            raise TypeError(f"map: expected a function, not {type(map_func).__name__}")

        def source() -> Iterator[Any]:
            for element in self:
                plain_tuple = isinstance(element, tuple) and not hasattr(element, "_fields")
                yield map_func(*element) if plain_tuple else map_func(element)

        return Dataset(source, self._cardinality)

    def filter(self, predicate: Callable[..., Any]) -> Dataset:
        """The elements for which `predicate` is true; tuples arrive as separate arguments."""

        def source() -> Iterator[Any]:
            for element in self:
                plain_tuple = isinstance(element, tuple) and not hasattr(element, "_fields")
                if bool(predicate(*element) if plain_tuple else predicate(element)):
                    yield element

        return Dataset(source, UNKNOWN_CARDINALITY)

    def enumerate(self, start: int = 0) -> Dataset:
        """Pairs of an int64 counter and the element."""

        def source() -> Iterator[Any]:
            for i, element in builtins.enumerate(self._elements(), start):
                yield np.int64(i), element

        return Dataset(source, self._cardinality)

    def prefetch(self, buffer_size: int) -> Dataset:
        """The same elements, up to `buffer_size` of them made ahead in a thread (-1: two)."""
        depth = 2 if buffer_size == -1 else buffer_size
        _check_positive("prefetch", "buffer_size", depth)
        return Dataset(
            lambda: _prefetched(self._elements, depth),
            self._cardinality,
            None,
            self.batch_sizes,
        )

    def as_numpy_iterator(self) -> Iterator[Any]:
        """The elements with NumPy arrays as leaves."""
        for element in self._elements():
            yield map_leaves(as_array, element)

    def _derive(self, source: Source, cardinality: int) -> Dataset:
        """The same items in another order or number."""
        return Dataset(source, cardinality, self._arrays, self.batch_sizes)

    def _elements(self) -> Iterator[Any]:
        if self._arrays is None:
            return self._source()
        return (map_leaves(lambda a, i=row: a[i], self._arrays) for row in self._source())

    def _gather(self, items: list[Any]) -> Any:
        if self._arrays is None:
            return stack(items)
        rows = np.array(items)
        return map_leaves(lambda a: a[rows], self._arrays)


def _check_positive(method: str, name: str, value: int) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        raise TypeError(f"{method}: {name} must be an integer, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{method}: {name} must be 1 or more, got {value}")


def _shuffled(items: Iterator[Any], size: int, rng: np.random.Generator) -> Iterator[Any]:
    """Fill a buffer of `size`, then replace a random entry by each further item."""
    buffer = list(itertools.islice(items, size))
    if len(buffer) == size:
        for item in items:
            i = int(rng.random() * size)
            chosen, buffer[i] = buffer[i], item
            yield chosen
    for i in rng.permutation(len(buffer)):
        yield buffer[i]


def _prefetched(source: Source, depth: int) -> Iterator[Any]:
    """The items of `source`, made in a thread that stops when this iterator is dropped."""
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(entry: tuple[str, Any]) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(entry, timeout=0.1)
                return

    def produce() -> None:
        try:
            for item in source():
                put(("item", item))
                if stopped.is_set():
                    return
            put(("end", None))
        except BaseException as error:  # it belongs to the consumer, who re-raises it
            put(("error", error))

    threading.Thread(target=produce, daemon=True, name="dualmode-prefetch").start()
    try:
        while (entry := ready.get())[0] == "item":
            yield entry[1]
        if entry[0] == "error":
            raise entry[1]
    finally:
        stopped.set()
