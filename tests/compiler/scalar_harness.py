"""Scalar expressions as loops over arrays: what the tests of the emitter's lower half run."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from dualmode_compiler import expr
from dualmode_compiler.emit import rare, vmath
from dualmode_compiler.emit.instructions import Writer, apply, literal, memory_type, register_type
from dualmode_compiler.expr import Apply, Axis, Buffer, Const, Expr, Load
from dualmode_compiler.runtime import jit
from dualmode_compiler.spec import DType, Spec, bool_


def _value(w: Writer, root: Expr, known: dict[Expr, str], lanes: int) -> str:
    stack = [root]
    while stack:
        e = stack[-1]
        if e in known:
            stack.pop()
        elif isinstance(e, Const):
            known[e] = literal(e.value, e.dtype, lanes)
        else:
            assert isinstance(e, Apply), e
            wide = vmath.expand(e)
            needed = (wide,) if wide is not e else e.args if e.fn != "rarely" else rare.known(e)
            missing = [a for a in needed if a not in known]
            if missing:
                stack.extend(reversed(missing))
                continue
            if wide is not e:
                known[e] = known[wide]
                continue
            if e.fn == "rarely":
                known[e] = _both(w, e, [known[a] for a in rare.known(e)], lanes)
                continue
            names, kinds = [known[a] for a in e.args], [a.dtype for a in e.args]
            known[e] = apply(w, e.fn, names, kinds, e.dtype, lanes)
    return known[root]


def _both(w: Writer, x: Apply, names: list[str], lanes: int) -> str:
    """`rarely` without a branch, given what is `known` of it."""
    condition, usual, *given = names
    _, _, other, *arguments = x.args
    found = rare.straight(w, other, dict(zip(arguments, given, strict=True)), lanes)
    mask, kind = register_type(bool_, lanes), register_type(x.dtype, lanes)
    return w.emit(f"select {mask} {condition}, {kind} {found}, {kind} {usual}")


def _load(w: Writer, pointer: str, dtype: DType, lanes: int) -> str:
    kind = memory_type(dtype, lanes)
    where = w.emit(f"getelementptr {memory_type(dtype, 1)}, ptr {pointer}, i64 %i")
    name = w.emit(f"load {kind}, ptr {where}, align {dtype.itemsize}")
    if dtype is bool_:
        name = w.emit(f"trunc {kind} {name} to {register_type(dtype, lanes)}")
    return name


def module(
    fn: Callable[..., Expr], dtypes: list[DType], lanes: int, host: jit.Host | None = None
) -> tuple[str, DType]:
    """IR of `void f(inputs..., out, n)`, the loop `out[i] = fn(inputs[i]...)`, and its dtype."""
    with expr.fresh():
        axis = Axis(1 << 40)
        loads = [
            expr.load(Buffer(f"%p{k}", Spec((1 << 40,), d)), (axis,)) for k, d in enumerate(dtypes)
        ]
        root = fn(*loads)
        w = Writer(host)
        known: dict[Expr, str] = {}
        for x in loads:
            assert isinstance(x, Load)
            known[x] = _load(w, x.buffer.name, x.dtype, lanes)
        out = _value(w, root, known, lanes)
    kind = memory_type(root.dtype, lanes)
    if root.dtype is bool_:
        out = w.emit(f"zext {register_type(bool_, lanes)} {out} to {kind}")
    where = w.emit(f"getelementptr {memory_type(root.dtype, 1)}, ptr %out, i64 %i")
    w.line(f"  store {kind} {out}, ptr {where}, align {root.dtype.itemsize}")
    params = ", ".join(f"ptr noalias %p{k}" for k in range(len(dtypes)))
    head = f"define void @f({params}, ptr noalias %out, i64 %n) {{"
    loop = [
        "entry:\n  br label %loop\nloop:\n  %i = phi i64 [0, %entry], [%next, %loop]",
        *w.lines,
        f"  %next = add i64 %i, {lanes}\n  %more = icmp ult i64 %next, %n",
        "  br i1 %more, label %loop, label %done\ndone:\n  ret void\n}",
    ]
    return "\n".join([*sorted(w.declarations), head, *loop]), root.dtype


def kernel(
    fn: Callable[..., Expr], dtypes: list[DType], lanes: int = 16, host: jit.Host | None = None
) -> Callable[..., Any]:
    """`fn`, on expressions, compiled to a function on one-dimensional arrays.

    Args:
        host: the machine whose own instructions are used; None for those that all have.
    """
    text, dtype = module(fn, dtypes, lanes, host)
    library = jit.load(jit.compile_text(text, host), ["f"])
    pointers = [ctypes.c_void_p] * (len(dtypes) + 1)
    native = jit.function(library["f"], None, *pointers, ctypes.c_int64)

    def call(*arrays: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        n = arrays[0].size
        size = -(-n // lanes) * lanes
        padded = [np.resize(a.astype(d.numpy), size) for a, d in zip(arrays, dtypes, strict=True)]
        out = np.empty(size, dtype.numpy)
        native(*(a.ctypes.data for a in padded), out.ctypes.data, size)
        return out[:n]

    call.library = library  # type: ignore[attr-defined]  # keeps the code loaded
    return call
