"""Going through expressions: all of their parts, and the same with other parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .arithmetic import affine, floordiv, linear_terms, mod
from .expr import Affine, Apply, Axis, Expr, Fold, Load, Reduce, apply, fold, load, reduce


def operands(x: Expr) -> tuple[Expr, ...]:
    return x.operands


def walk(roots: Iterable[Expr]) -> Sequence[Expr]:
    """Every distinct subexpression of `roots`, operands first."""
    roots = tuple(roots)
    if len(roots) == 1:  # kept with the expression, which many ask for again
        (root,) = roots
        if root.parts is None:
            root.parts = _walk(roots)
        return root.parts
    return _walk(roots)


def _walk(roots: tuple[Expr, ...]) -> tuple[Expr, ...]:
    found: dict[Expr, None] = {}
    stack = list(roots)
    while stack:
        e = stack[-1]
        if e not in found:
            if e.parts is not None:
                found.update(dict.fromkeys(e.parts))
            else:
                size = len(stack)
                for c in e.operands:  # a list of those that are missing would take twice the time
                    if c not in found:
                        stack.append(c)
                if len(stack) > size:
                    continue
                found[e] = None
        stack.pop()
    return tuple(found)


def substitute(x: Expr, mapping: Mapping[Expr, Expr]) -> Expr:
    """`x` with the given subexpressions replaced; axes that a reduction binds are left alone."""
    memo: dict[Expr, Expr] = dict(mapping)
    moved = frozenset(a for a in mapping if isinstance(a, Axis))
    whole = len(moved) == len(mapping)  # then parts without these axes stay as they are
    stack = [x]
    while stack:
        e = stack[-1]
        if e not in memo:
            if whole and e.axes.isdisjoint(moved):
                memo[e] = e
            else:
                missing = [c for c in e.operands if c not in memo]
                if missing:
                    stack += missing
                    continue
                memo[e] = rebuild(e, [memo[c] for c in e.operands])
        stack.pop()
    return memo[x]


def rebuild(x: Expr, args: Sequence[Expr]) -> Expr:
    """`x` with other operands, in the order of `operands(x)`."""
    for new, old in zip(args, x.operands, strict=True):
        if new is not old:
            break
    else:
        return x
    if isinstance(x, Apply):
        if x.fn in ("floordiv", "mod"):
            return (floordiv if x.fn == "floordiv" else mod)(*args)
        return apply(x.fn, *args, dtype=x.dtype)
    if isinstance(x, Affine):
        terms: list[tuple[Expr, int]] = []
        constant = x.const
        for new, (_, c) in zip(args, x.terms, strict=True):
            inner, k = linear_terms(new)
            terms += [(atom, c * n) for atom, n in inner]
            constant += c * k
        return affine(terms, constant)
    if isinstance(x, Load):
        return load(x.buffer, args)
    if isinstance(x, Fold):
        return fold(x.kind, x.bound, *args)
    assert isinstance(x, Reduce)
    return reduce(x.kind, x.bound, args[0])
