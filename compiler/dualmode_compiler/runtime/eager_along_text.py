"""The generated code of eager ops along an axis: two builtins that check their operands, run a
kernel of `generic.reduced` and wrap the result, without executing any Python.

- `along(x, axis)` and `along(x, axis, keepdims)`: axes as users name them. Seen along them the
  array has three sizes (outer, n, m); sizes of 1 count for nothing.
- `rows(x, ...)`: along the last axis of the first operand. The others have an element for each row,
  or are one row for all.

Operands are contiguous tensors with elements. Anything else gives `MISS`, and nothing has been
done. The code contains no address.
"""

from __future__ import annotations

from ctypes import sizeof

from ..cost import CHUNK
from .eager_code import ARRAY, HOLD, Code, all_suits, function, rank, type_number
from .eager_records import AXES, DTYPES, OPERANDS, ROLES, Along, Given, Kernel, Operand, Sweep
from .entry_bind import WRAPPED
from .entry_records import Api, field
from .layout import Array, Boxed, Descr, List, Object

_OPERAND = f"[{sizeof(Operand)} x i8]"
_WHOLE_COLUMNS, _RUN = 64, 512  # chunks of columns are multiples of one of these
PART = 1 << 15  # elements of a part of a row, at the least
PARTS = 64  # of a row, at the most
_LONGEST = 1 << 31  # positions along an axis fit int32


# --- operands -------------------------------------------------------------------------------------


def _axis(w: Code) -> None:
    """Whether `%axis` is an int that names an axis, not yet named; notes it."""
    is_int = w.is_("eq", w.get(Object, "%axis", "type"), w.get(Api, "%api", "int"), "ptr")
    w.unless(is_int)
    overflow = w.emit(field(Sweep, "%job", "overflow"))
    k = w.emit(f"call i64 {w.get(Api, '%api', 'as_long')}(ptr %axis, ptr {overflow})")
    w.unless(w.is_("eq", w.read("i32", overflow), 0, "i32"))
    k = w.choose(w.is_("slt", k, 0), w.op("add", k, "%ndim"), k)
    w.unless(w.is_("ult", k, "%ndim"))
    bit, axes = w.op("shl", "1", k), w.get(Sweep, "%job", "axes")
    w.unless(w.is_("eq", w.op("and", axes, bit), 0))
    w.put(Sweep, "%job", "axes", w.op("or", axes, bit))
    w.do("ret i1 true")


def _axes(w: Code) -> None:
    """Whether `%axis` is None, an int, or a tuple of ints; notes the axes."""
    every, some, several = w.name("every"), w.name("some"), w.name("several")
    none = w.is_("eq", "%axis", w.get(Api, "%api", "none"), "ptr")
    w.do(f"br i1 {none}, label %{every}, label %{some}")
    w.block(every)
    w.put(Sweep, "%job", "axes", w.op("sub", w.op("shl", "1", "%ndim"), 1))
    w.do("ret i1 true")
    w.block(some)
    w.put(Sweep, "%job", "axes", 0)
    kind = w.get(Object, "%axis", "type")
    is_tuple = w.is_("eq", kind, w.get(Along, "%op", "tuple"), "ptr")
    one = w.name("one")
    w.do(f"br i1 {is_tuple}, label %{several}, label %{one}")
    w.block(one)
    arguments = "i64 %ndim, ptr %job, ptr %api"
    w.do(f"ret i1 {w.emit(f'call i1 @axis(ptr %axis, {arguments})')}")
    w.block(several)
    count = w.get(List, "%axis", "size")  # of a tuple as well
    items = w.at("%axis", "i8", w.get(Along, "%op", "items"))
    with w.range(0, count) as k:
        item = w.read("ptr", w.at(items, "ptr", k))
        w.unless(w.emit(f"call i1 @axis(ptr {item}, {arguments})"))
    w.do("ret i1 true")


# --- shape ----------------------------------------------------------------------------------------


def _sizes(w: Code) -> None:
    """Whether the array is (outer, n, m) along its axes, from the last on: first come axes that are
    kept, then those that are reduced, then others that are kept."""
    axes = w.get(Sweep, "%job", "axes")
    phase = w.emit("alloca i64")
    outer_at = w.emit(field(Sweep, "%job", "outer"))
    n_at, m_at = (w.item(Sweep, "%job", "sizes", "i64", k) for k in (0, 1))
    for at in (outer_at, n_at, m_at):
        w.do(f"store i64 1, ptr {at}")
    w.do(f"store i64 0, ptr {phase}")
    dims = w.get(Array, "%array", "dims")
    with w.range(0, "%ndim") as back:
        d = w.op("sub", w.op("sub", "%ndim", 1), back)
        size = w.read("i64", w.at(dims, "i64", d))
        w.unless(w.is_("ne", size, 0))
        with w.when(w.is_("ne", size, 1)):
            reduced = w.op("and", w.op("lshr", axes, d), "1")
            now = w.read("i64", phase)
            kept_in = w.choose(w.is_("eq", now, 0), 0, 2)
            following = w.choose(w.is_("ne", reduced, 0), 1, kept_in)
            w.unless(w.is_("uge", following, now))  # reduced, kept, reduced again
            w.do(f"store i64 {following}, ptr {phase}")
            is_n, is_m = w.is_("eq", following, 1), w.is_("eq", following, 0)
            place = w.emit(f"select i1 {is_m}, ptr {m_at}, ptr {outer_at}")
            place = w.emit(f"select i1 {is_n}, ptr {n_at}, ptr {place}")
            w.do(f"store i64 {w.op('mul', w.read('i64', place), size)}, ptr {place}")
    w.unless(w.is_("ult", w.read("i64", n_at), _LONGEST))
    w.do("ret i1 true")


def _shape(w: Code) -> None:
    """The shape of the result: that of the array without the reduced axes, or with sizes of 1 where
    `%keep`, or the same where `%whole`."""
    axes = w.choose("%whole", 0, w.get(Sweep, "%job", "axes"))
    dims = w.get(Array, "%array", "dims")
    ndim_at = w.emit(field(Sweep, "%job", "ndim"))
    w.do(f"store i64 0, ptr {ndim_at}")
    with w.range(0, "%ndim") as d:
        reduced = w.is_("ne", w.op("and", w.op("lshr", axes, d), "1"), 0)
        kept = w.emit(f"xor i1 {reduced}, true")
        with w.when(w.emit(f"or i1 {kept}, %keep")):
            size = w.choose(reduced, 1, w.read("i64", w.at(dims, "i64", d)))
            k = w.read("i64", ndim_at)
            w.do(f"store i64 {size}, ptr {w.item(Sweep, '%job', 'shape', 'i64', k)}")
            w.do(f"store i64 {w.op('add', k, 1)}, ptr {ndim_at}")
    w.do("ret void")


# --- execution ------------------------------------------------------------------------------------


def _chunk(w: Code) -> None:
    """Some rows; or some slices of columns; or some columns of the only slice."""
    outer, piece = w.get(Sweep, "%job", "outer"), w.get(Sweep, "%job", "piece")
    pointers, steps, sizes = (
        w.emit(field(Sweep, "%job", name)) for name in ("pointers", "steps", "sizes")
    )
    run, m = w.get(Sweep, "%job", "run"), w.read("i64", w.at(sizes, "i64", 1))
    first = w.op("mul", "%chunk", piece)
    end = w.op("add", first, piece)
    rows, columns, slices, only = (w.name(k) for k in ("rows", "columns", "slices", "only"))
    arguments = f"ptr {steps}, ptr {sizes}"
    w.do(f"br i1 {w.is_('eq', m, 1)}, label %{rows}, label %{columns}")
    w.block(rows)
    last = w.minimum(end, outer)
    w.do(f"call void {run}(ptr {pointers}, {arguments}, i64 {first}, i64 {last})")
    w.do("ret void")
    w.block(columns)
    w.do(f"br i1 {w.is_('eq', outer, 1)}, label %{only}, label %{slices}")
    w.block(only)
    last = w.minimum(end, m)
    w.do(f"call void {run}(ptr {pointers}, {arguments}, i64 {first}, i64 {last})")
    w.do("ret void")
    w.block(slices)
    here = w.emit(f"alloca [{OPERANDS + 1} x i64]")
    with w.loop(first, w.minimum(end, outer)) as slice_:
        for k in range(2):  # the result and the operand
            base, step = (w.read("i64", w.at(x, "i64", k)) for x in (pointers, steps))
            far = w.op("add", base, w.op("mul", slice_, step))
            w.do(f"store i64 {far}, ptr {w.at(here, 'i64', k)}")
        w.do(f"call void {run}(ptr {here}, {arguments}, i64 0, i64 {m})")
    w.do("ret void")


def _in_parts(w: Code) -> None:
    """The only row as rows of `%part` elements, and what is left; then their results as a row."""
    values = w.emit(f"alloca [{PARTS + 1} x i64]")
    job = w.emit(f"alloca [{sizeof(Sweep)} x i8], align 8")
    n = w.read("i64", w.item(Sweep, "%job", "sizes", "i64", 0))
    size = w.get(Kernel, "%kernel", "size")
    whole, left = w.op("udiv", n, "%part"), w.op("urem", n, "%part")
    at = w.emit(f"ptrtoint ptr {values} to i64")
    for name in ("arguments", "number"):
        w.put(Given, job, name, w.get(Given, "%job", name))
    result, data = (w.read("i64", w.item(Sweep, "%job", "pointers", "i64", k)) for k in (0, 1))

    def row(count: str, rows: str, to: str, source: str) -> None:
        w.do(f"store i64 {count}, ptr {w.item(Sweep, job, 'sizes', 'i64', 0)}")
        w.do(f"store i64 1, ptr {w.item(Sweep, job, 'sizes', 'i64', 1)}")
        w.put(Sweep, job, "outer", rows)
        for k, (place, step) in enumerate(((to, size), (source, w.op("mul", count, size)))):
            w.do(f"store i64 {place}, ptr {w.item(Sweep, job, 'pointers', 'i64', k)}")
            w.do(f"store i64 {step}, ptr {w.item(Sweep, job, 'steps', 'i64', k)}")
        w.do(f"call void @rows_or_columns(ptr {job}, ptr %kernel, ptr %api)")

    row("%part", whole, at, data)
    with w.when(w.is_("ne", left, 0)):
        far = w.op("mul", w.op("mul", whole, "%part"), size)
        row(left, "1", w.op("add", at, w.op("mul", whole, size)), w.op("add", data, far))
    more = w.emit(f"zext i1 {w.is_('ne', left, 0)} to i64")
    row(w.op("add", whole, more), "1", result, at)
    w.do("ret void")


def _run(w: Code) -> None:
    """All rows or columns. A long row is computed in parts, which its size alone decides."""
    n, m = (w.read("i64", w.item(Sweep, "%job", "sizes", "i64", k)) for k in (0, 1))
    alone = w.is_("eq", w.op("mul", w.get(Sweep, "%job", "outer"), m), 1)
    splits = w.is_("ne", w.get(Kernel, "%kernel", "splits"), 0)
    long = w.is_("uge", n, 2 * PART)
    parts, plain = w.name("parts"), w.name("plain")
    ready = w.emit(f"and i1 {w.emit(f'and i1 {alone}, {splits}')}, {long}")
    w.do(f"br i1 {ready}, label %{parts}, label %{plain}")
    w.block(parts)
    part = w.op("add", w.op("udiv", n, PARTS), 1)
    part = w.choose(w.is_("ult", part, PART), PART, part)
    w.do(f"call void @in_parts(ptr %job, ptr %kernel, ptr %api, i64 {part})")
    w.do("ret void")
    w.block(plain)
    w.do("call void @rows_or_columns(ptr %job, ptr %kernel, ptr %api)")
    w.do("ret void")


def _rows_or_columns(w: Code) -> None:
    """All rows or columns, in chunks by size alone; several may run in parallel, without the
    GIL."""
    n, m = (w.read("i64", w.item(Sweep, "%job", "sizes", "i64", k)) for k in (0, 1))
    outer, grain = w.get(Sweep, "%job", "outer"), w.get(Kernel, "%kernel", "grain")
    w.put(Sweep, "%job", "run", w.get(Kernel, "%kernel", "run"))
    several = w.op("add", w.op("udiv", grain, w.op("mul", n, m)), 1)
    splits = w.is_("ne", w.get(Kernel, "%kernel", "splits"), 0)
    least = w.choose(splits, _RUN, _WHOLE_COLUMNS)  # rows are read in order
    wide = w.op("and", w.op("add", w.op("udiv", grain, n), least), w.op("sub", "0", least))
    split = w.emit(f"and i1 {w.is_('eq', outer, 1)}, {w.is_('ne', m, 1)}")
    piece, all_ = w.choose(split, wide, several), w.choose(split, m, outer)
    w.put(Sweep, "%job", "piece", piece)
    chunks = w.op("udiv", w.op("add", all_, w.op("sub", piece, 1)), piece)
    w.run_chunks("@chunk", chunks, w.op("mul", chunks, CHUNK))


def _finish(w: Code) -> None:
    """The result: a new tensor; null with an exception set."""
    descr = w.get(Kernel, "%kernel", "descr")
    array = w.new_array(Sweep, "%job", descr, "%api")
    w.unless(w.is_("ne", array, "null", "ptr"))
    data = w.emit(f"ptrtoint ptr {w.get(Array, array, 'data')} to i64")
    w.do(f"store i64 {data}, ptr {w.item(Sweep, '%job', 'pointers', 'i64', 0)}")
    n, m = (w.read("i64", w.item(Sweep, "%job", "sizes", "i64", k)) for k in (0, 1))
    elements = w.op("mul", w.choose("%whole", n, 1), m)
    step = w.op("mul", elements, w.get(Kernel, "%kernel", "size"))
    w.do(f"store i64 {step}, ptr {w.item(Sweep, '%job', 'steps', 'i64', 0)}")
    w.do("call void @run(ptr %job, ptr %kernel, ptr %api)")
    w.do(f"ret ptr {w.emit(f'call ptr @wrapped(ptr {array}, ptr %api)')}")


# --- the builtins ---------------------------------------------------------------------------------


def _start(w: Code) -> tuple[str, str, str]:
    """The job, the op, and its api; leaves where the call is not for native code."""
    job = w.emit(f"alloca [{sizeof(Sweep)} x i8], align 8")
    w.note_arguments(job)
    op = w.get(Boxed, "%self", "data")
    api = w.get(Along, op, "api")
    obstacles = w.get(List, w.get(Along, op, "obstacles"), "size")
    fits = w.is_("eq", w.get(Along, op, "count"), "%count")
    w.unless(w.emit(f"and i1 {w.is_('eq', obstacles, 0)}, {fits}"))
    return job, op, api


def _kernel(w: Code, op: str, row: str, column: str) -> str:
    at = w.op("add", w.op("mul", row, DTYPES), column)
    kernel = w.read("ptr", w.at(w.get(Along, op, "kernels"), "ptr", at))
    w.unless(w.is_("ne", kernel, "null", "ptr"), "make")
    w.unless(w.is_("ne", w.get(Kernel, kernel, "run"), "null", "ptr"))
    return kernel


def _along(w: Code) -> None:
    job, op, api = _start(w)
    tensor, axis = (w.read("ptr", w.at("%args", "ptr", k)) for k in (0, 1))
    keep_at = w.emit("alloca i1")
    w.do(f"store i1 false, ptr {keep_at}")
    with w.when(w.is_("eq", "%count", 3)):
        flag = w.read("ptr", w.at("%args", "ptr", 2))
        true, false = (
            w.is_("eq", flag, w.get(Along, op, name), "ptr") for name in ("true", "false")
        )
        w.unless(w.emit(f"or i1 {true}, {false}"))
        w.do(f"store i1 {true}, ptr {keep_at}")
    array = w.emit(f"call ptr @array(ptr {tensor}, ptr {api})")
    w.unless(w.is_("ne", array, "null", "ptr"))
    number = type_number(w, array)
    allowed = w.op("and", w.op("lshr", w.get(Along, op, "kinds"), number), "1")
    w.unless(w.is_("ne", allowed, 0))
    ndim = rank(w, array)
    w.unless(w.is_("ule", ndim, AXES))
    arguments = f"i64 {ndim}, ptr {job}, ptr {op}, ptr {api}"
    w.unless(w.emit(f"call i1 @axes(ptr {axis}, {arguments})"))
    w.unless(w.emit(f"call i1 @sizes(ptr {array}, i64 {ndim}, ptr {job})"))
    n, m = (w.read("i64", w.item(Sweep, job, "sizes", "i64", k)) for k in (0, 1))
    kernel = _kernel(w, op, number, w.choose(w.is_("eq", m, 1), 0, 1))
    whole = w.is_("ne", w.get(Along, op, "whole"), 0)
    flags = f"i1 {whole}, i1 {w.read('i1', keep_at)}"
    w.do(f"call void @shape(ptr {array}, i64 {ndim}, ptr {job}, {flags})")
    operand = w.emit(field(Kernel, kernel, "operands"))
    size = w.emit(f"sext i32 {w.get(Operand, operand, 'size')} to i64")
    data = w.emit(f"ptrtoint ptr {w.get(Array, array, 'data')} to i64")
    w.do(f"store i64 {data}, ptr {w.item(Sweep, job, 'pointers', 'i64', 1)}")
    step = w.op("mul", w.op("mul", n, m), size)
    w.do(f"store i64 {step}, ptr {w.item(Sweep, job, 'steps', 'i64', 1)}")
    finished = f"call ptr @finish(ptr {job}, ptr {kernel}, ptr {api}, i1 {whole})"
    w.do(f"ret ptr {w.emit(finished)}")
    w.otherwise(Along, op, api)


def _others(w: Code) -> None:
    """Whether operand `%k` is what the kernel takes beside the first array; notes where it is."""
    operand = w.at(w.emit(field(Kernel, "%kernel", "operands")), _OPERAND, "%k")
    tensor = w.read("ptr", w.at("%args", "ptr", "%k"))
    array = w.emit(f"call ptr @array(ptr {tensor}, ptr %api)")
    w.unless(w.is_("ne", array, "null", "ptr"))
    number = w.get(Descr, w.get(Array, array, "descr"), "type_num")
    w.unless(w.is_("eq", number, w.get(Operand, operand, "type_num"), "i32"))
    size = w.emit(f"sext i32 {w.get(Operand, operand, 'size')} to i64")
    own_rank, ndim = (rank(w, x) for x in (array, "%first"))
    dims, wanted = (w.get(Array, x, "dims") for x in (array, "%first"))
    n = w.read("i64", w.item(Sweep, "%job", "sizes", "i64", 0))
    role, leading = w.get(Operand, operand, "mode"), w.op("sub", ndim, 1)
    step_at = w.item(Sweep, "%job", "steps", "i64", w.op("add", "%k", 1))
    shared, own, done = w.name("shared"), w.name("own"), w.name("done")
    w.do(f"br i1 {w.is_('eq', role, ROLES['shared'])}, label %{shared}, label %{own}")
    w.block(shared)
    w.unless(w.is_("eq", own_rank, 1))
    w.unless(w.is_("eq", w.read("i64", dims), n))
    w.do(f"store i64 0, ptr {step_at}")
    w.do(f"br label %{done}")
    w.block(own)
    every = w.is_("eq", role, ROLES["row"])
    w.unless(w.is_("eq", own_rank, w.choose(every, ndim, leading)))
    with w.range(0, own_rank) as d:
        same = (w.read("i64", w.at(x, "i64", d)) for x in (dims, wanted))
        w.unless(w.is_("eq", *same))
    w.do(f"store i64 {w.op('mul', w.choose(every, n, 1), size)}, ptr {step_at}")
    w.do(f"br label %{done}")
    w.block(done)
    data = w.emit(f"ptrtoint ptr {w.get(Array, array, 'data')} to i64")
    place = w.item(Sweep, "%job", "pointers", "i64", w.op("add", "%k", 1))
    w.do(f"store i64 {data}, ptr {place}")
    w.do("ret i1 true")


def _rows(w: Code) -> None:
    job, op, api = _start(w)
    last = w.op("sub", "%count", 1)
    ends = [w.read("ptr", w.at("%args", "ptr", k)) for k in (0, last)]
    first, final = (w.emit(f"call ptr @array(ptr {x}, ptr {api})") for x in ends)
    w.unless(w.is_("ne", first, "null", "ptr"))
    w.unless(w.is_("ne", final, "null", "ptr"))
    kernel = _kernel(w, op, type_number(w, first), type_number(w, final))
    ndim = rank(w, first)
    w.unless(w.is_("ult", w.op("sub", ndim, 1), AXES))  # one axis at least
    w.put(Sweep, job, "axes", w.op("shl", "1", w.op("sub", ndim, 1)))
    w.unless(w.emit(f"call i1 @sizes(ptr {first}, i64 {ndim}, ptr {job})"))
    # a last axis of size 1 is rows of one element
    m_at = w.item(Sweep, job, "sizes", "i64", 1)
    outer = w.op("mul", w.get(Sweep, job, "outer"), w.read("i64", m_at))
    w.put(Sweep, job, "outer", outer)
    w.do(f"store i64 1, ptr {m_at}")
    with w.loop(0, "%count") as k:
        arguments = f"ptr {first}, ptr {job}, ptr {kernel}, ptr {api}"
        w.unless(w.emit(f"call i1 @others(ptr %args, i64 {k}, {arguments})"))
    whole = w.is_("ne", w.get(Along, op, "whole"), 0)
    w.do(f"call void @shape(ptr {first}, i64 {ndim}, ptr {job}, i1 {whole}, i1 false)")
    finished = f"call ptr @finish(ptr {job}, ptr {kernel}, ptr {api}, i1 {whole})"
    w.do(f"ret ptr {w.emit(finished)}")
    w.otherwise(Along, op, api)


TEXT = "\n".join(
    [
        "declare void @dm_pool_run(ptr, ptr, i64, i64)",
        WRAPPED,
        ARRAY,
        HOLD,
        all_suits(_axis, "axis", "ptr %axis, i64 %ndim, ptr %job, ptr %api"),
        all_suits(_axes, "axes", "ptr %axis, i64 %ndim, ptr %job, ptr %op, ptr %api"),
        all_suits(_sizes, "sizes", "ptr %array, i64 %ndim, ptr %job"),
        all_suits(
            _others, "others", "ptr %args, i64 %k, ptr %first, ptr %job, ptr %kernel, ptr %api"
        ),
        function(
            "internal void @shape(ptr %array, i64 %ndim, ptr %job, i1 %whole, i1 %keep)", _shape
        ),
        function("internal void @chunk(ptr %job, i64 %chunk)", _chunk),
        function(
            "internal void @rows_or_columns(ptr %job, ptr %kernel, ptr %api)", _rows_or_columns
        ),
        function("internal void @in_parts(ptr %job, ptr %kernel, ptr %api, i64 %part)", _in_parts),
        function("internal void @run(ptr %job, ptr %kernel, ptr %api)", _run),
        function(
            "internal ptr @finish(ptr %job, ptr %kernel, ptr %api, i1 %whole)",
            _finish,
            "no:\n  ret ptr null",
        ),
        function("ptr @along(ptr %self, ptr %args, i64 %count)", _along),
        function("ptr @rows(ptr %self, ptr %args, i64 %count)", _rows),
    ]
)
