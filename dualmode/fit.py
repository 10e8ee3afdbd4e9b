"""Numbers as functions of symbolic sizes, from what they are at some sizes.

All arithmetic is exact: a form gives the very numbers that it was made from, or there is none.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

Sizes = tuple[int, ...]
_DENOMINATOR = 1 << 12  # of the constants in forms that hold quotients


class Unfit(Exception):
    """There is no such number, or no such graph, at these sizes; the message says why."""


class Form:
    """A number that depends on sizes."""

    __slots__ = ("_compute", "whole")

    def __init__(self, compute: Callable[[Sizes], Any], whole: bool) -> None:
        self._compute = compute
        self.whole = whole

    def at(self, sizes: Sizes) -> Any:
        """Its value.

        Raises:
            Unfit: it is an integer elsewhere, and would not be one here.
        """
        value = self._compute(sizes)
        if not self.whole:
            return float(value)
        if value.denominator != 1:
            raise Unfit(f"{value} would have to be an integer")
        return int(value)


class Fitter:
    """Finds forms of numbers that are known in several traces.

    Args:
        rows: the sizes of all candidates for symbols, one row a trace.

    Attributes:
        symbols: the columns that are independent of those before them; forms are of these.
        rows: their sizes.
    """

    def __init__(self, rows: Sequence[Sizes]) -> None:
        self.symbols: list[int] = []
        reduced: list[list[Fraction]] = [[Fraction(1)] for _ in rows]
        for column in range(len(rows[0])):
            trial = [[*r, Fraction(row[column])] for r, row in zip(reduced, rows, strict=True)]
            if _independent_rows(trial) is not None:
                reduced = trial
                self.symbols.append(column)
        self.rows = [tuple(row[c] for c in self.symbols) for row in rows]
        chosen = _independent_rows(reduced)
        assert chosen is not None
        self._chosen = chosen
        self._inverse = _inverse([reduced[k] for k in chosen])
        self._known: dict[Any, Form | None] = {}

    def fit(self, values: tuple[Any, ...], dtype: np.dtype[Any] | None = None) -> Any:
        """The form of `values`, one a trace, all of one type; the value itself where all are equal.

        Args:
            dtype: what the numbers have been rounded to.

        Raises:
            Unfit: no simple one gives them all.
        """
        first = values[0]
        if all(v == first for v in values):
            return first
        key = (type(first), values, dtype)
        if key not in self._known:

            def rounded(x: Any) -> Any:
                return x if dtype is None else np.asarray(x, dtype).item()

            self._known[key] = next(self._forms(values, rounded), None)
        form = self._known[key]
        if form is None:
            raise Unfit(f"{', '.join(map(str, values))} are no simple function of the sizes")
        return form

    def _forms(self, values: tuple[Any, ...], rounded: Callable[[Any], Any]) -> Iterator[Form]:
        whole = type(values[0]) is int
        if not whole and not all(abs(v) < float("inf") for v in values):
            return
        for compute in (*self._multiples(values), *self._quotients(values, whole)):
            form = Form(compute, whole)
            if self._agrees(form, values, rounded):
                yield form
        exact = whole or all(v == int(v) for v in values)
        form = Form(self._linear([Fraction(v) for v in values]), whole)
        if exact and self._agrees(form, values, rounded):
            yield form

    def _agrees(self, form: Form, values: tuple[Any, ...], rounded: Callable[[Any], Any]) -> bool:
        try:
            return all(rounded(form.at(row)) == v for row, v in zip(self.rows, values, strict=True))
        except (Unfit, ZeroDivisionError, OverflowError):
            return False

    def _products(self) -> list[tuple[int, ...]]:
        """Symbols, and products of two."""
        count = range(len(self.symbols))
        pairs = itertools.combinations_with_replacement(count, 2)
        return [*((k,) for k in count), *pairs]

    def _multiples(self, values: tuple[Any, ...]) -> Iterator[Callable[[Sizes], Any]]:
        for product in self._products():
            size = _product(product, self.rows[0])
            if size:
                for factor in _constants(Fraction(values[0]) / size):
                    yield lambda sizes, c=factor, p=product: c * _product(p, sizes)

    def _quotients(self, values: tuple[Any, ...], whole: bool) -> Iterator[Callable[[Sizes], Any]]:
        if whole:
            return
        for product in self._products():
            for factor in _constants(Fraction(values[0]) * _product(product, self.rows[0])):
                yield lambda sizes, c=factor, p=product: c / _product(p, sizes)
        yield from self._shifted(values)

    def _shifted(self, values: tuple[Any, ...]) -> Iterator[Callable[[Sizes], Any]]:
        """c / (n + b), as in a step 1 / (n - 1)."""
        for k in range(len(self.symbols)):
            first, last = (0, len(values) - 1) if values[0] != values[-1] else (0, 1)
            n, m = self.rows[first][k], self.rows[last][k]
            v, w = Fraction(values[first]), Fraction(values[last])
            if n != m and v and w and v != w:
                c = ((n - m) / (1 / v - 1 / w)).limit_denominator(_DENOMINATOR)
                b = round(c / v - n)
                yield lambda sizes, c=c, b=b, k=k: c / (sizes[k] + b)

    def _linear(self, values: list[Fraction]) -> Callable[[Sizes], Fraction]:
        known = [values[k] for k in self._chosen]
        base, *slopes = (
            sum((a * v for a, v in zip(row, known, strict=True)), Fraction())
            for row in self._inverse
        )

        def compute(sizes: Sizes) -> Fraction:
            return base + sum((a * n for a, n in zip(slopes, sizes, strict=True)), Fraction())

        return compute


def _constants(c: Fraction) -> list[Fraction]:
    """`c`, which rounding may have moved, as a simple fraction, and as it is."""
    return list(dict.fromkeys([c.limit_denominator(_DENOMINATOR), c]))


def _product(factors: Sequence[int], sizes: Sizes) -> int:
    out = 1
    for k in factors:
        out *= sizes[k]
    return out


def _independent_rows(matrix: Sequence[Sequence[Fraction]]) -> list[int] | None:
    """Rows that make a regular square matrix; None where the columns are dependent."""
    rows = [list(r) for r in matrix]
    chosen: list[int] = []
    for column in range(len(rows[0])):
        free = (k for k in range(len(rows)) if k not in chosen and rows[k][column])
        pivot = next(free, None)
        if pivot is None:
            return None
        chosen.append(pivot)
        for k, row in enumerate(rows):
            if k not in chosen and row[column]:
                factor = row[column] / rows[pivot][column]
                rows[k] = [a - factor * b for a, b in zip(row, rows[pivot], strict=True)]
    return chosen


def _inverse(matrix: Sequence[Sequence[Fraction]]) -> list[list[Fraction]]:
    """The inverse of a regular matrix, by Gauss and Jordan."""
    n = len(matrix)
    rows = [[*r, *(Fraction(i == k) for i in range(n))] for k, r in enumerate(matrix)]
    for column in range(n):
        pivot = next(k for k in range(column, n) if rows[k][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        head = rows[column][column]
        rows[column] = [a / head for a in rows[column]]
        for k in range(n):
            if k != column and rows[k][column]:
                factor = rows[k][column]
                rows[k] = [a - factor * b for a, b in zip(rows[k], rows[column], strict=True)]
    return [row[n:] for row in rows]
