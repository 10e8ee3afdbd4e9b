"""What the generated code of eager ops that move or combine elements along an axis shares: how
operands are checked, and how the result is made.

Operands are contiguous tensors with elements, seen as (outer, n, inner) along the axis; indices are
of int32 or int64.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import sizeof

from .eager_code import ARRAY, HOLD, Code, all_suits, function, rank, type_number
from .eager_records import AXES, Move, Moves
from .entry_bind import WRAPPED
from .entry_records import Api, field
from .layout import Array, Boxed, List, Object

INDICES = (4, 8)  # bytes of an index
ROW = 8  # additions that finding a row takes
COLUMNS = 512  # bytes that columns are cut into multiples of
RUN = "(ptr %job, ptr %api)"
BUILTIN = "(ptr %self, ptr %args, i64 %count)"


# --- operands -------------------------------------------------------------------------------------


def _axis(w: Code) -> None:
    """The axis that the int `%object` names, counted from the first one; -1 if it names none."""
    w.unless(w.is_("eq", w.get(Object, "%object", "type"), w.get(Api, "%api", "int"), "ptr"))
    overflow = w.emit(field(Move, "%job", "overflow"))
    k = w.emit(f"call i64 {w.get(Api, '%api', 'as_long')}(ptr %object, ptr {overflow})")
    w.unless(w.is_("eq", w.read("i32", overflow), 0, "i32"))
    k = w.choose(w.is_("slt", k, 0), w.op("add", k, "%ndim"), k)
    w.unless(w.is_("ult", k, "%ndim"))
    w.do(f"ret i64 {k}")


def _product(w: Code) -> None:
    """The product of the sizes from `%start` to before `%stop`."""
    total = w.emit("alloca i64")
    w.do(f"store i64 1, ptr {total}")
    with w.range("%start", "%stop") as d:
        size = w.read("i64", w.at("%dims", "i64", d))
        w.do(f"store i64 {w.op('mul', w.read('i64', total), size)}, ptr {total}")
    w.do(f"ret i64 {w.read('i64', total)}")


def _sizes(w: Code) -> None:
    """Whether `%array` has axis `%k`, and elements; notes its sizes (outer, n, inner)."""
    dims, ndim = w.get(Array, "%array", "dims"), rank(w, "%array")
    w.unless(w.is_("sge", "%k", 0))
    outer = w.emit(f"call i64 @product(ptr {dims}, i64 0, i64 %k)")
    n = w.read("i64", w.at(dims, "i64", "%k"))
    after = w.op("add", "%k", 1)
    inner = w.emit(f"call i64 @product(ptr {dims}, i64 {after}, i64 {ndim})")
    w.unless(w.is_("ne", w.op("mul", w.op("mul", outer, n), inner), 0))
    size = w.read("i64", w.item(Moves, "%op", "sizes", "i64", type_number(w, "%array")))
    for name, value in (("outer", outer), ("n", n), ("inner", w.op("mul", inner, size))):
        w.put(Move, "%job", name, value)
    w.put(Move, "%job", "size", size)
    w.put(Move, "%job", "source", w.get(Array, "%array", "data"))
    w.do("ret i1 true")


def _indices(w: Code) -> None:
    """Whether `%index` holds indices; notes them, and the shape of what lies at them."""
    number = type_number(w, "%index")
    is_wide = w.is_("eq", number, w.get(Moves, "%op", "int64"))
    narrow = w.is_("eq", number, w.get(Moves, "%op", "int32"))
    w.unless(w.emit(f"or i1 {is_wide}, {narrow}"))
    w.put(Move, "%job", "wide", w.emit(f"zext i1 {is_wide} to i64"))
    w.put(Move, "%job", "index", w.get(Array, "%index", "data"))
    (ndim, dims), (more, others) = (
        (rank(w, x), w.get(Array, x, "dims")) for x in ("%array", "%index")
    )
    total = w.op("sub", w.op("add", ndim, more), 1)
    w.unless(w.is_("ule", total, AXES))
    count = w.emit(f"call i64 @product(ptr {others}, i64 0, i64 {more})")
    w.unless(w.is_("ne", count, 0))
    w.put(Move, "%job", "count", count)
    w.put(Move, "%job", "ndim", total)
    shape = w.emit(field(Move, "%job", "shape"))
    last = w.op("add", "%k", more)
    for source, start, stop, to in (
        (dims, "0", "%k", "0"),
        (others, "0", more, "%k"),
        (dims, w.op("add", "%k", 1), ndim, last),
    ):
        with w.range(start, stop) as d:
            size = w.read("i64", w.at(source, "i64", d))
            place = w.op("add", w.op("sub", d, start), to)
            w.do(f"store i64 {size}, ptr {w.at(shape, 'i64', place)}")
    w.do("ret i1 true")


def position(w: Code, k: str, wide: int) -> str:
    """Index `k` as a position below `%n`; leaves where it is out of range."""
    kind = f"i{8 * wide}"
    index = w.read(kind, w.at("%index", kind, k))
    index = index if wide == 8 else w.emit(f"sext i32 {index} to i64")
    at = w.choose(w.is_("slt", index, 0), w.op("add", index, "%n"), index)
    w.unless(w.is_("ult", at, "%n"))
    return at


def copy(w: Code, to: str, source: str, size: str) -> None:
    w.do(f"call void @llvm.memcpy.p0.p0.i64(ptr {to}, ptr {source}, i64 {size}, i1 false)")


# --- a builtin ------------------------------------------------------------------------------------


def start(w: Code, least: int, most: int, axis: int = -1) -> tuple[str, str, str, str, str]:
    """The job, the op, its api, the first array, and the axis that an argument names."""
    job = w.emit(f"alloca [{sizeof(Move)} x i8], align 8")
    w.note_arguments(job)
    op = w.get(Boxed, "%self", "data")
    api = w.get(Moves, op, "api")
    w.unless(w.is_("eq", w.get(List, w.get(Moves, op, "obstacles"), "size"), 0))
    w.unless(w.is_("ule", w.op("sub", "%count", least), most - least))
    place = w.op("add", "%count", axis) if axis < 0 else str(axis)
    named = w.read("ptr", w.at("%args", "ptr", place))
    array = operand(w, api, 0)
    arguments = f"ptr {named}, i64 {rank(w, array)}, ptr {job}, ptr {api}"
    k = w.emit(f"call i64 @axis({arguments})")
    w.unless(w.emit(f"call i1 @sizes(ptr {array}, i64 {k}, ptr {job}, ptr {op})"))
    return job, op, api, array, k


def same_shape(w: Code, job: str, array: str) -> None:
    """The result has the shape of `array`."""
    ndim, dims = rank(w, array), w.get(Array, array, "dims")
    w.unless(w.is_("ule", ndim, AXES))
    w.put(Move, job, "ndim", ndim)
    with w.range("0", ndim) as d:
        size = w.read("i64", w.at(dims, "i64", d))
        w.do(f"store i64 {size}, ptr {w.item(Move, job, 'shape', 'i64', d)}")


def operand(w: Code, api: str, k: int) -> str:
    tensor = w.read("ptr", w.at("%args", "ptr", k))
    array = w.emit(f"call ptr @array(ptr {tensor}, ptr {api})")
    w.unless(w.is_("ne", array, "null", "ptr"))
    return array


def finish(w: Code, run: str, job: str, api: str, like: str) -> None:
    """Make the result, of the dtype of `like`, and return it; or `MISS` where an index was bad."""
    array = w.new_array(Move, job, w.get(Array, like, "descr"), api)
    w.unless(w.is_("ne", array, "null", "ptr"), "error")
    w.put(Move, job, "result", w.get(Array, array, "data"))
    w.put(Move, job, "bad", 0)
    w.do(f"call void {run}(ptr {job}, ptr {api})")
    w.unless(w.is_("eq", w.get(Move, job, "bad"), 0), "drop")
    w.do(f"ret ptr {w.emit(f'call ptr @wrapped(ptr {array}, ptr {api})')}")
    w.block("drop")
    w.do(f"call void {w.get(Api, api, 'decref')}(ptr {array})")
    w.do("br label %no")
    w.block("error")
    w.do("ret ptr null")


def chunked(name: str, body: Callable[[Code], None]) -> str:
    """A function of a chunk, which says so if an index is bad."""
    bad = f"no:\n  %bad = {field(Move, '%job', 'bad')}\n  store i64 1, ptr %bad\n  ret void"
    return function(f"internal void @{name}(ptr %job, i64 %chunk)", body, bad)


SHARED = [
    "declare void @dm_pool_run(ptr, ptr, i64, i64)",
    "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)",
    WRAPPED,
    ARRAY,
    HOLD,
    function(
        "internal i64 @axis(ptr %object, i64 %ndim, ptr %job, ptr %api)",
        _axis,
        "no:\n  ret i64 -1",
    ),
    function("internal i64 @product(ptr %dims, i64 %start, i64 %stop)", _product),
    all_suits(_sizes, "sizes", "ptr %array, i64 %k, ptr %job, ptr %op"),
    all_suits(_indices, "indices", "ptr %array, ptr %index, i64 %k, ptr %job, ptr %op"),
]
"""Functions that the builtins call."""
