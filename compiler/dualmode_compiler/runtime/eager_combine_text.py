"""The generated code of eager ops that combine elements along an axis: builtins that check their
operands, run a kernel and wrap the result, without executing any Python.

- `scatter(x, indices, updates, axis)`: `x` with the updates at the indices, one after the other;
  where the op combines the old with the new, by its elementwise kernel.
- `scan(x, axis, reverse)`: all elements up to each one, combined: by a kernel along rows
  (`generic.scan`), or row by row by the elementwise kernel of the op that combines.

What `eager_move_code` does not take gives `MISS`, as an index out of range does, and nothing has
been done. The code contains no address.
"""

from __future__ import annotations

from ..cost import CHUNK
from .eager_code import Code, all_suits, function, over, rank, type_number
from .eager_move_code import (
    BUILTIN,
    COLUMNS,
    INDICES,
    ROW,
    RUN,
    SHARED,
    chunked,
    copy,
    finish,
    operand,
    position,
    same_shape,
    start,
)
from .eager_records import ELEMENTS, Kernel, Move, Moves
from .layout import Array

# --- scatter --------------------------------------------------------------------------------------


def _added(wide: int, kind: str) -> str:
    """Numbers added one by one."""

    def body(w: Code) -> None:
        add = "add" if kind.startswith("i") else "fadd"
        with w.loop("0", "%count") as k:
            place = w.at("%result", kind, position(w, k, wide))
            new = w.read(kind, w.at("%update", kind, k))
            total = w.emit(f"{add} {kind} {w.read(kind, place)}, {new}")
            w.do(f"store {kind} {total}, ptr {place}")
        w.do("ret i1 true")

    arguments = "ptr %result, ptr %index, ptr %update, i64 %count, i64 %n"
    return all_suits(body, f"add_{wide}_{kind}", arguments)


def _placed(wide: int) -> str:
    """Parts of rows, of `%width` bytes from `%column` on, stored or combined with what is there."""

    def body(w: Code) -> None:
        pointers, masks = (w.emit("alloca [3 x i64]") for _ in range(2))
        for k in range(2):
            w.do(f"store i64 -1, ptr {w.at(masks, 'i64', k)}")
        run, items = w.get(Move, "%job", "run"), w.op("udiv", "%width", w.get(Move, "%job", "size"))
        inner = w.get(Move, "%job", "inner")
        combine, store, done = (w.name(x) for x in ("combine", "store", "done"))
        with w.loop("0", "%count") as k:
            at = w.op("add", w.op("mul", position(w, k, wide), inner), "%column")
            to = w.at("%result", "i8", at)
            source = w.at("%update", "i8", w.op("add", w.op("mul", k, inner), "%column"))
            w.do(f"br i1 {w.is_('eq', run, 'null', 'ptr')}, label %{store}, label %{combine}")
            w.block(store)
            copy(w, to, source, "%width")
            w.do(f"br label %{done}")
            w.block(combine)
            for place, value in enumerate((to, to, source)):
                w.do(f"store ptr {value}, ptr {w.at(pointers, 'ptr', place)}")
            w.do(f"call void {run}(ptr {pointers}, ptr {masks}, i64 0, i64 {items})")
            w.do(f"br label %{done}")
            w.block(done)
        w.do("ret i1 true")

    arguments = (
        "ptr %job, ptr %result, ptr %index, ptr %update, i64 %count, i64 %n, i64 %column, "
        "i64 %width"
    )
    return all_suits(body, f"place_{wide}", arguments)


def _slice(w: Code) -> None:
    """Slice `%o`, in columns of `%width` bytes from `%column` on: first `x`, then the updates."""
    names = ("source", "index", "update", "result", "n", "count", "inner", "wide", "kind")
    source, index, update, result, n, count, inner, wide, kind = (
        w.get(Move, "%job", name) for name in names
    )
    before = w.op("mul", "%o", w.op("mul", n, inner))
    x, y = (w.at(p, "i8", before) for p in (source, result))
    new = w.at(update, "i8", w.op("mul", "%o", w.op("mul", count, inner)))
    whole, part, there = (w.name(k) for k in ("whole", "part", "there"))
    w.do(f"br i1 {w.is_('eq', '%width', inner)}, label %{whole}, label %{part}")
    w.block(whole)
    copy(w, y, x, w.op("mul", n, inner))
    w.do(f"br label %{there}")
    w.block(part)
    with w.loop("0", n) as row:
        far = w.op("add", w.op("mul", row, inner), "%column")
        copy(w, w.at(y, "i8", far), w.at(x, "i8", far), "%width")
    w.do(f"br label %{there}")
    w.block(there)
    given = f"ptr {y}, ptr {index}, ptr {new}, i64 {count}, i64 {n}"
    for k, size in enumerate(INDICES):
        with w.when(w.is_("eq", wide, k)):
            for number, item in enumerate(ELEMENTS.values(), 1):
                with w.when(w.is_("eq", kind, number)):
                    w.do(f"ret i1 {w.emit(f'call i1 @add_{size}_{item}({given})')}")
                    w.block(w.name("never"))
            rest = f"ptr %job, {given}, i64 %column, i64 %width"
            w.do(f"ret i1 {w.emit(f'call i1 @place_{size}({rest})')}")
            w.block(w.name("never"))
    w.do("ret i1 false")


def _scatter_chunk(w: Code) -> None:
    """Some slices; or some columns of the only one."""
    outer, inner, piece = (w.get(Move, "%job", name) for name in ("outer", "inner", "piece"))
    first = w.op("mul", "%chunk", piece)
    only, several = w.name("only"), w.name("several")
    w.do(f"br i1 {w.is_('eq', outer, 1)}, label %{only}, label %{several}")
    w.block(only)
    width = w.minimum(piece, w.op("sub", inner, first))
    w.unless(w.emit(f"call i1 @slice(ptr %job, i64 0, i64 {first}, i64 {width})"))
    w.do("ret void")
    w.block(several)
    with w.loop(first, w.minimum(w.op("add", first, piece), outer)) as o:
        w.unless(w.emit(f"call i1 @slice(ptr %job, i64 {o}, i64 0, i64 {inner})"))
    w.do("ret void")


def _scatter_run(w: Code) -> None:
    """All slices or columns, in chunks by size alone."""
    outer, n, count, inner = (w.get(Move, "%job", x) for x in ("outer", "n", "count", "inner"))
    slice_ = w.op("mul", w.op("add", n, count), w.op("add", inner, ROW))
    work = w.op("mul", slice_, outer)
    chunks = w.op("add", w.op("udiv", work, CHUNK), 1)
    several = over(w, outer, chunks)
    columns = w.op("and", w.op("add", over(w, inner, chunks), COLUMNS - 1), str(-COLUMNS))
    one = w.is_("eq", outer, 1)
    piece = w.choose(one, columns, several)
    w.put(Move, "%job", "piece", piece)
    w.run_chunks("@scatter_chunk", over(w, w.choose(one, inner, outer), piece), work)


def _scatter(w: Code) -> None:
    job, op, api, array, axis = start(w, 4, 4)
    index, update = operand(w, api, 1), operand(w, api, 2)
    arguments = f"ptr {array}, ptr {index}, i64 {axis}, ptr {job}, ptr {op}"
    w.unless(w.emit(f"call i1 @indices({arguments})"))
    number, ndim = type_number(w, array), rank(w, update)
    w.unless(w.is_("eq", number, type_number(w, update)))
    w.unless(w.is_("eq", ndim, w.get(Move, job, "ndim")))
    dims = w.get(Array, update, "dims")
    with w.range("0", ndim) as d:
        wanted = w.read("i64", w.item(Move, job, "shape", "i64", d))
        w.unless(w.is_("eq", w.read("i64", w.at(dims, "i64", d)), wanted))
    w.put(Move, job, "update", w.get(Array, update, "data"))
    w.put(Move, job, "run", "null")
    w.put(Move, job, "kind", 0)
    kernels = w.get(Moves, op, "kernels")
    with w.when(w.is_("ne", kernels, "null", "ptr")):
        kernel = w.read("ptr", w.at(kernels, "ptr", number))
        w.unless(w.is_("ne", kernel, "null", "ptr"), "make")
        run = w.get(Kernel, kernel, "run")
        w.unless(w.is_("ne", run, "null", "ptr"))
        w.put(Move, job, "run", run)
        single = w.is_("eq", w.get(Move, job, "inner"), w.get(Move, job, "size"))
        kind = w.read("i64", w.item(Moves, op, "kinds", "i64", number))
        w.put(Move, job, "kind", w.choose(single, kind, 0))
    same_shape(w, job, array)
    finish(w, "@scatter_run", job, api, array)
    w.otherwise(Moves, op, api)


# --- scan -----------------------------------------------------------------------------------------


def _scan_chunk(w: Code) -> None:
    """Some slices; or some columns of the only one."""
    names = ("source", "result", "outer", "n", "inner", "size", "piece", "run")
    source, result, outer, n, inner, size, piece, run = (
        w.get(Move, "%job", name) for name in names
    )
    first = w.op("mul", "%chunk", piece)
    slices, columns = w.name("slices"), w.name("columns")
    one, along = w.is_("eq", outer, 1), w.is_("eq", inner, size)
    whole = w.emit(f"or i1 {along}, {w.emit(f'xor i1 {one}, true')}")
    w.do(f"br i1 {whole}, label %{slices}, label %{columns}")
    w.block(columns)
    width = w.minimum(piece, w.op("sub", inner, first))
    w.do(f"call void @scan_columns(ptr %job, ptr {source}, ptr {result}, i64 {first}, i64 {width})")
    w.do("ret void")
    w.block(slices)
    with w.loop(first, w.minimum(w.op("add", first, piece), outer)) as o:
        far = w.op("mul", o, w.op("mul", n, inner))
        x, y = w.at(source, "i8", far), w.at(result, "i8", far)
        with w.when(along):
            w.do(f"call void {run}(ptr {y}, ptr {x}, i64 {n})")
        with w.when(w.emit(f"xor i1 {along}, true")):
            w.do(f"call void @scan_columns(ptr %job, ptr {x}, ptr {y}, i64 0, i64 {inner})")
    w.do("ret void")


def _scan_columns(w: Code) -> None:
    """Columns of `%width` bytes from `%column` on, one row after the other."""
    pointers, masks = (w.emit("alloca [3 x i64]") for _ in range(2))
    for k in range(2):
        w.do(f"store i64 -1, ptr {w.at(masks, 'i64', k)}")
    n, inner, size, run, reverse = (
        w.get(Move, "%job", name) for name in ("n", "inner", "size", "run", "reverse")
    )
    items = w.op("udiv", "%width", size)
    backward = w.is_("ne", reverse, 0)
    last = w.op("sub", n, 1)
    start = w.op("add", w.op("mul", w.choose(backward, last, 0), inner), "%column")
    step = w.choose(backward, w.op("sub", "0", inner), inner)
    copy(w, w.at("%result", "i8", start), w.at("%source", "i8", start), "%width")
    with w.range("0", last) as k:
        before = w.op("add", start, w.op("mul", k, step))
        here = w.op("add", before, step)
        places = (("%result", here), ("%result", before), ("%source", here))
        for slot, (base, at) in enumerate(places):
            w.do(f"store ptr {w.at(base, 'i8', at)}, ptr {w.at(pointers, 'ptr', slot)}")
        w.do(f"call void {run}(ptr {pointers}, ptr {masks}, i64 0, i64 {items})")
    w.do("ret void")


def _scan_run(w: Code) -> None:
    """All slices or columns, in chunks by size alone."""
    outer, n, inner, size = (w.get(Move, "%job", x) for x in ("outer", "n", "inner", "size"))
    work = w.op("mul", w.op("mul", outer, n), w.op("add", inner, ROW))
    chunks = w.op("add", w.op("udiv", work, CHUNK), 1)
    columns = w.op("and", w.op("add", over(w, inner, chunks), COLUMNS - 1), str(-COLUMNS))
    split = w.emit(f"and i1 {w.is_('eq', outer, 1)}, {w.is_('ne', inner, size)}")
    piece = w.choose(split, columns, over(w, outer, chunks))
    w.put(Move, "%job", "piece", piece)
    w.run_chunks("@scan_chunk", over(w, w.choose(split, inner, outer), piece), work)


def _scan(w: Code) -> None:
    job, op, api, array, _ = start(w, 3, 3, axis=1)
    flag = w.read("ptr", w.at("%args", "ptr", 2))
    true, false = (w.is_("eq", flag, w.get(Moves, op, name), "ptr") for name in ("true", "false"))
    w.unless(w.emit(f"or i1 {true}, {false}"))
    reverse = w.emit(f"zext i1 {true} to i64")
    w.put(Move, job, "reverse", reverse)
    rows = w.read("ptr", w.item(Moves, op, "rows", "ptr", reverse))
    along = w.is_("eq", w.get(Move, job, "inner"), w.get(Move, job, "size"))
    kernels = w.emit(f"select i1 {along}, ptr {rows}, ptr {w.get(Moves, op, 'kernels')}")
    kernel = w.read("ptr", w.at(kernels, "ptr", type_number(w, array)))
    w.unless(w.is_("ne", kernel, "null", "ptr"), "make")
    run = w.get(Kernel, kernel, "run")
    w.unless(w.is_("ne", run, "null", "ptr"))
    w.put(Move, job, "run", run)
    same_shape(w, job, array)
    finish(w, "@scan_run", job, api, array)
    w.otherwise(Moves, op, api)


TEXT = "\n".join(
    [
        *SHARED,
        *(_added(wide, kind) for wide in INDICES for kind in ELEMENTS.values()),
        *(_placed(wide) for wide in INDICES),
        all_suits(_slice, "slice", "ptr %job, i64 %o, i64 %column, i64 %width"),
        chunked("scatter_chunk", _scatter_chunk),
        function(f"internal void @scatter_run{RUN}", _scatter_run),
        function(f"ptr @scatter{BUILTIN}", _scatter),
        function(
            "internal void @scan_columns"
            "(ptr %job, ptr %source, ptr %result, i64 %column, i64 %width)",
            _scan_columns,
        ),
        function("internal void @scan_chunk(ptr %job, i64 %chunk)", _scan_chunk),
        function(f"internal void @scan_run{RUN}", _scan_run),
        function(f"ptr @scan{BUILTIN}", _scan),
    ]
)
