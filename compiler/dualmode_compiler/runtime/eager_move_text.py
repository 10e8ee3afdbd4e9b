"""The generated code of eager ops that move whole elements along an axis, for any dtype: builtins
that check their operands, move the bytes and wrap the result, without executing any Python.

- `take(x, indices, axis)`: what lies at the indices.
- `join(x, y, ..., axis)`: one after the other.

What `eager_move_code` does not take gives `MISS`, as an index out of range does, and nothing has
been done. The code contains no address.
"""

from __future__ import annotations

from ..cost import CHUNK
from .eager_code import Code, all_suits, function, over, rank, type_number
from .eager_move_code import (
    BUILTIN,
    INDICES,
    ROW,
    RUN,
    SHARED,
    chunked,
    copy,
    finish,
    operand,
    position,
    start,
)
from .eager_records import AXES, ITEMS, JOINED, Move
from .layout import Array

# --- take -----------------------------------------------------------------------------------------


def _taken(wide: int, inner: int) -> str:
    """Rows `%first` to before `%last`, of `inner` bytes if that is not 0."""

    def body(w: Code) -> None:
        size = str(inner) if inner else "%inner"
        with w.loop("%first", "%last") as k:
            at = position(w, k, wide)
            source, to = (
                w.at(x, "i8", w.op("mul", i, size)) for x, i in (("%source", at), ("%result", k))
            )
            if inner:
                value = w.emit(f"load i{8 * inner}, ptr {source}, align 1")
                w.do(f"store i{8 * inner} {value}, ptr {to}, align 1")
            else:
                copy(w, to, source, size)
        w.do("ret i1 true")

    arguments = "ptr %source, ptr %index, ptr %result, i64 %first, i64 %last, i64 %n, i64 %inner"
    return all_suits(body, f"take_{wide}_{inner}", arguments)


def _take_chunk(w: Code) -> None:
    """Some rows of the result, counted through all slices."""
    source, index, result, n, count, inner, piece, run = (
        w.get(Move, "%job", name)
        for name in ("source", "index", "result", "n", "count", "inner", "piece", "run")
    )
    start = w.op("mul", "%chunk", piece)
    rows = w.op("mul", w.get(Move, "%job", "outer"), count)
    stop = w.minimum(w.op("add", start, piece), rows)
    with w.loop(w.op("udiv", start, count), over(w, stop, count)) as o:
        before = w.op("mul", o, count)
        first = w.choose(w.is_("ugt", start, before), w.op("sub", start, before), 0)
        last = w.minimum(w.op("sub", stop, before), count)
        x = w.at(source, "i8", w.op("mul", o, w.op("mul", n, inner)))
        y = w.at(result, "i8", w.op("mul", before, inner))
        arguments = f"ptr {x}, ptr {index}, ptr {y}, i64 {first}, i64 {last}, i64 {n}, i64 {inner}"
        w.unless(w.emit(f"call i1 {run}({arguments})"))
    w.do("ret void")


def _take_run(w: Code) -> None:
    """All rows, in chunks by size alone."""
    inner, wide = w.get(Move, "%job", "inner"), w.get(Move, "%job", "wide")
    run = w.emit("alloca ptr")
    for k, size in enumerate(INDICES):
        with w.when(w.is_("eq", wide, k)):
            w.do(f"store ptr @take_{size}_0, ptr {run}")
            for item in ITEMS:
                with w.when(w.is_("eq", inner, item)):
                    w.do(f"store ptr @take_{size}_{item}, ptr {run}")
    w.put(Move, "%job", "run", w.read("ptr", run))
    rows = w.op("mul", w.get(Move, "%job", "outer"), w.get(Move, "%job", "count"))
    each = w.op("add", inner, ROW)
    piece = w.op("add", w.op("udiv", str(CHUNK), each), 1)
    piece = over(w, rows, over(w, rows, piece))
    w.put(Move, "%job", "piece", piece)
    w.run_chunks("@take_chunk", over(w, rows, piece), w.op("mul", rows, each))


def _take(w: Code) -> None:
    job, op, api, array, axis = start(w, 3, 3)
    index = operand(w, api, 1)
    arguments = f"ptr {array}, ptr {index}, i64 {axis}, ptr {job}, ptr {op}"
    w.unless(w.emit(f"call i1 @indices({arguments})"))
    finish(w, "@take_run", job, api, array)
    w.miss(api)


# --- join -----------------------------------------------------------------------------------------


def _joined_chunk(w: Code) -> None:
    """Some slices; or some bytes of the only one."""
    names = ("result", "outer", "inner", "piece", "count")
    result, outer, row, piece, count = (w.get(Move, "%job", name) for name in names)
    first = w.op("mul", "%chunk", piece)
    one = w.is_("eq", outer, 1)
    last = w.minimum(w.op("add", first, piece), w.choose(one, row, outer))
    at = w.emit("alloca i64")
    start, stop = w.choose(one, 0, first), w.choose(one, 1, last)
    low, high = w.choose(one, first, 0), w.choose(one, last, row)
    with w.loop(start, stop) as o:
        to = w.at(result, "i8", w.op("mul", o, row))
        w.do(f"store i64 0, ptr {at}")
        with w.loop("0", count) as k:
            size = w.read("i64", w.item(Move, "%job", "parts", "i64", k))
            source = w.read("ptr", w.item(Move, "%job", "sources", "ptr", k))
            source = w.at(source, "i8", w.op("mul", o, size))
            begin = w.read("i64", at)
            end = w.op("add", begin, size)
            w.do(f"store i64 {end}, ptr {at}")
            here = w.choose(w.is_("ugt", low, begin), low, begin)
            until = w.minimum(high, end)
            with w.when(w.is_("ult", here, until)):
                part = w.at(source, "i8", w.op("sub", here, begin))
                copy(w, w.at(to, "i8", here), part, w.op("sub", until, here))
    w.do("ret void")


def _joined_run(w: Code) -> None:
    """All slices or bytes, in chunks by size alone."""
    outer, row = w.get(Move, "%job", "outer"), w.get(Move, "%job", "inner")
    total = w.op("mul", outer, row)
    chunks = w.op("add", w.op("udiv", total, CHUNK), 1)
    one = w.is_("eq", outer, 1)
    size = w.choose(one, row, outer)
    piece = over(w, size, chunks)
    w.put(Move, "%job", "piece", piece)
    w.run_chunks("@joined_chunk", over(w, size, piece), total)


def _part(w: Code) -> None:
    """Whether argument `%k` fits the first array but along the axis; notes it."""
    tensor = w.read("ptr", w.at("%args", "ptr", "%k"))
    array = w.emit(f"call ptr @array(ptr {tensor}, ptr %api)")
    w.unless(w.is_("ne", array, "null", "ptr"))
    w.unless(w.is_("eq", type_number(w, array), type_number(w, "%first")))
    ndim = rank(w, "%first")
    w.unless(w.is_("eq", rank(w, array), ndim))
    dims, wanted = (w.get(Array, x, "dims") for x in (array, "%first"))
    with w.range("0", ndim) as d:
        same = w.is_("eq", *(w.read("i64", w.at(x, "i64", d)) for x in (dims, wanted)))
        w.unless(w.emit(f"or i1 {same}, {w.is_('eq', d, '%axis')}"))
    n = w.read("i64", w.at(dims, "i64", "%axis"))
    size_at = w.item(Move, "%job", "shape", "i64", "%axis")
    w.do(f"store i64 {w.op('add', w.read('i64', size_at), n)}, ptr {size_at}")
    size = w.op("mul", n, w.get(Move, "%job", "inner"))
    w.do(f"store i64 {size}, ptr {w.item(Move, '%job', 'parts', 'i64', '%k')}")
    data = w.get(Array, array, "data")
    w.do(f"store ptr {data}, ptr {w.item(Move, '%job', 'sources', 'ptr', '%k')}")
    w.do("ret i1 true")


def _join(w: Code) -> None:
    job, _, api, array, axis = start(w, 2, JOINED + 1)
    ndim = rank(w, array)
    w.unless(w.is_("ule", ndim, AXES))
    w.put(Move, job, "ndim", ndim)
    dims = w.get(Array, array, "dims")
    with w.range("0", ndim) as d:
        size = w.choose(w.is_("eq", d, axis), 0, w.read("i64", w.at(dims, "i64", d)))
        w.do(f"store i64 {size}, ptr {w.item(Move, job, 'shape', 'i64', d)}")
    arrays = w.op("sub", "%count", 1)
    w.put(Move, job, "count", arrays)
    with w.loop("0", arrays) as k:
        arguments = f"ptr %args, i64 {k}, ptr {array}, i64 {axis}, ptr {job}, ptr {api}"
        w.unless(w.emit(f"call i1 @part({arguments})"))
    n = w.read("i64", w.item(Move, job, "shape", "i64", axis))
    w.put(Move, job, "inner", w.op("mul", n, w.get(Move, job, "inner")))
    finish(w, "@joined_run", job, api, array)
    w.miss(api)


TEXT = "\n".join(
    [
        *SHARED,
        *(_taken(wide, inner) for wide in INDICES for inner in (0, *ITEMS)),
        chunked("take_chunk", _take_chunk),
        function(f"internal void @take_run{RUN}", _take_run),
        function(f"ptr @take{BUILTIN}", _take),
        function("internal void @joined_chunk(ptr %job, i64 %chunk)", _joined_chunk),
        function(f"internal void @joined_run{RUN}", _joined_run),
        all_suits(_part, "part", "ptr %args, i64 %k, ptr %first, i64 %axis, ptr %job, ptr %api"),
        function(f"ptr @join{BUILTIN}", _join),
    ]
)
