"""The generated code of eager ops: a builtin that checks its operands, takes them apart into rows,
runs a kernel and wraps the result, without executing any Python.

One function serves all ops; what differs is in an `Operation` record, which the builtin finds
through its `self`. Operands may be tensors of any strides whose rows have neighbours side by side,
and Python numbers; they broadcast by NumPy's rule. Anything else gives `MISS`, and nothing has been
done. The code contains no address.
"""

from __future__ import annotations

from ctypes import sizeof

from ..cost import CHUNK
from ..spec import float32, float64, int64
from .eager_code import HOLD, Code, all_suits, function, native, over
from .eager_records import AXES, DTYPES, OPERANDS, SPLAT, Job, Kernel, Operand, Operation, Place
from .entry_bind import WRAPPED
from .entry_records import WEAK, Api, field
from .layout import ALIGNED, Array, Boxed, Descr, Float, List, Object

_PLACE, _OPERAND = f"[{sizeof(Place)} x i8]", f"[{sizeof(Operand)} x i8]"


def _places(w: Code, job: str) -> str:
    return w.emit(field(Job, job, "places"))


# --- operands -------------------------------------------------------------------------------------


def _find(w: Code) -> None:
    """The arrays of tensors and variables go to the operands' places; numbers have none. Gives the
    last array."""
    places, last = _places(w, "%job"), w.emit("alloca ptr")
    holder = w.emit("alloca ptr")
    w.do(f"store ptr null, ptr {last}")
    tensor, ndarray = w.get(Api, "%api", "tensor"), w.get(Api, "%api", "ndarray")
    slot = w.offset("%api", "tensor_slot")
    number = [w.get(Api, "%api", kind) for kind in ("float", "int")]
    with w.loop(0, "%count") as k:
        place = w.at(places, _PLACE, k)
        argument = w.read("ptr", w.at("%args", "ptr", k))
        kind = w.get(Object, argument, "type")
        w.put(Place, place, "array", "null")
        a, b = (w.is_("eq", kind, n, "ptr") for n in number)
        done = w.name("number")
        other = w.name("other")
        w.do(f"br i1 {w.emit(f'or i1 {a}, {b}')}, label %{done}, label %{other}")
        w.block(other)
        w.do(f"store ptr {argument}, ptr {holder}")
        with w.when(w.is_("ne", kind, tensor, "ptr")):
            w.unless(w.is_("eq", kind, w.get(Api, "%api", "variable"), "ptr"))
            heard = w.get(List, w.get(Operation, "%op", "recording"), "size")
            w.unless(w.is_("eq", heard, 0))
            held = w.read("ptr", w.at(argument, "i8", w.offset("%api", "variable_slot")))
            w.unless(w.is_("ne", held, "null", "ptr"))
            w.do(f"store ptr {held}, ptr {holder}")
        value = w.read("ptr", w.at(w.read("ptr", holder), "i8", slot))
        w.unless(w.is_("ne", value, "null", "ptr"))
        w.unless(w.is_("eq", w.get(Object, value, "type"), ndarray, "ptr"))
        w.put(Place, place, "array", value)
        w.do(f"store ptr {value}, ptr {last}")
        w.do(f"br label %{done}")
        w.block(done)
    w.do(f"ret ptr {w.read('ptr', last)}")


def _bind(w: Code) -> None:
    """Whether the operands are what the kernel takes; fills their places."""
    places, operands = _places(w, "%job"), w.emit(field(Kernel, "%kernel", "operands"))
    with w.loop(0, "%count") as k:
        place, operand = w.at(places, _PLACE, k), w.at(operands, _OPERAND, k)
        size = w.emit(f"sext i32 {w.get(Operand, operand, 'size')} to i64")
        w.put(Place, place, "size", size)
        array = w.get(Place, place, "array")
        known, number, done = w.name("array"), w.name("number"), w.name("done")
        test = w.is_("eq", array, "null", "ptr")
        w.do(f"br i1 {test}, label %{number}, label %{known}")
        w.block(known)
        descr = w.get(Array, array, "descr")
        num, want = w.get(Descr, descr, "type_num"), w.get(Operand, operand, "type_num")
        w.unless(w.is_("eq", num, want, "i32"))
        w.unless(native(w, descr))
        aligned = w.emit(f"and i32 {w.get(Array, array, 'flags')}, {ALIGNED}")
        w.unless(w.is_("ne", aligned, 0, "i32"))
        w.put(Place, place, "base", w.get(Array, array, "data"))
        w.do(f"br label %{done}")
        w.block(number)
        w.put(Place, place, "base", w.emit(field(Place, place, "value")))
        argument = w.read("ptr", w.at("%args", "ptr", k))
        mode = w.get(Operand, operand, "mode")
        call = "call i1 @number"
        w.unless(w.emit(f"{call}(ptr {argument}, ptr {place}, i64 {mode}, ptr %job, ptr %api)"))
        w.do(f"br label %{done}")
        w.block(done)
    w.do("ret i1 true")


def _number(w: Code) -> None:
    """Whether the Python number has a value of the wanted type; stores that."""
    w.unless(w.is_("ne", "%mode", 0))
    place = w.emit(field(Place, "%place", "value"))
    kind = w.get(Object, "%object", "type")
    floating = w.is_("ule", "%mode", WEAK[float32])  # those of floats come first
    wide = w.is_("eq", "%mode", WEAK[float64])
    real, whole, exact, store = (w.name(k) for k in ("float", "int", "exact", "store"))
    is_float = w.is_("eq", kind, w.get(Api, "%api", "float"), "ptr")
    w.do(f"br i1 {is_float}, label %{real}, label %{whole}")

    w.block(whole)
    overflow = w.emit(field(Job, "%job", "overflow"))
    as_long = w.get(Api, "%api", "as_long")
    long = w.emit(f"call i64 {as_long}(ptr %object, ptr {overflow})")
    w.unless(w.is_("eq", w.read("i32", overflow), 0, "i32"))
    w.do(f"store i64 {long}, ptr {place}")
    w.unless(w.emit(f"xor i1 {floating}, true"), exact)
    half = w.emit(f"sext i32 {w.emit(f'trunc i64 {long} to i32')} to i64")
    held, any_long = w.is_("eq", half, long), w.is_("eq", "%mode", WEAK[int64])
    w.unless(w.emit(f"or i1 {held}, {any_long}"))
    w.do("ret i1 true")

    w.block(exact)
    most = 1 << 24  # whole numbers up to here are exact in float32
    w.unless(w.is_("ule", w.emit(f"add i64 {long}, {most}"), 2 * most))
    w.do(f"store double {w.emit(f'sitofp i64 {long} to double')}, ptr {place}")
    w.do(f"br label %{store}")

    w.block(real)
    w.unless(floating)
    value = w.read("double", w.emit(field(Float, "%object", "value")))
    w.do(f"store double {value}, ptr {place}")
    w.do(f"br label %{store}")

    w.block(store)
    with w.when(w.emit(f"xor i1 {wide}, true")):
        single = w.emit(f"fptrunc double {w.read('double', place)} to float")
        w.do(f"store float {single}, ptr {place}")
    w.do("ret i1 true")


# --- shape ----------------------------------------------------------------------------------------


def _broadcast(w: Code) -> None:
    """Whether the operands broadcast, and their rows have neighbours side by side; fills the job's
    shape and levels."""
    places = _places(w, "%job")
    starts = {"ndim": 0, "total": 1, "levels": 0}
    ndim_at, total_at, level_at = (w.emit(field(Job, "%job", name)) for name in starts)
    size_at, apart_at = w.emit("alloca i64"), w.emit("alloca i1")
    for name, start in starts.items():
        w.put(Job, "%job", name, start)
    with w.loop(0, "%count") as k:
        array = w.get(Place, w.at(places, _PLACE, k), "array")
        with w.when(w.is_("ne", array, "null", "ptr")):
            rank = w.emit(f"sext i32 {w.get(Array, array, 'ndim')} to i64")
            most = w.read("i64", ndim_at)
            w.do(f"store i64 {w.choose(w.is_('ugt', rank, most), rank, most)}, ptr {ndim_at}")
    ndim = w.read("i64", ndim_at)
    w.unless(w.is_("ule", ndim, AXES))
    with w.range(0, ndim) as d:
        w.do(f"store i64 1, ptr {size_at}")
        with w.loop(0, "%count") as k:
            _axis(w, w.at(places, _PLACE, k), d, size_at)
        size = w.read("i64", size_at)
        axis = w.op("sub", w.op("sub", ndim, 1), d)
        w.do(f"store i64 {size}, ptr {w.item(Job, '%job', 'shape', 'i64', axis)}")
        w.do(f"store i64 {w.op('mul', w.read('i64', total_at), size)}, ptr {total_at}")
        with w.when(w.is_("ne", size, 1)):
            _level(w, places, level_at, apart_at, size)
    _row(w, places, w.read("i64", level_at))
    w.do("ret i1 true")


def _axis(w: Code, place: str, d: str, size_at: str) -> None:
    """The step of an operand along axis `d`, counted from the last; its size is that of all."""
    w.put(Place, place, "step", 0)
    array = w.get(Place, place, "array")
    with w.when(w.is_("ne", array, "null", "ptr")):
        rank = w.emit(f"sext i32 {w.get(Array, array, 'ndim')} to i64")
        with w.when(w.is_("ult", d, rank)):
            axis = w.op("sub", w.op("sub", rank, 1), d)
            dim = w.read("i64", w.at(w.get(Array, array, "dims"), "i64", axis))
            with w.when(w.is_("ne", dim, 1)):
                size = w.read("i64", size_at)
                same, first = w.is_("eq", size, dim), w.is_("eq", size, 1)
                w.unless(w.emit(f"or i1 {same}, {first}"))
                w.do(f"store i64 {dim}, ptr {size_at}")
                stride = w.read("i64", w.at(w.get(Array, array, "strides"), "i64", axis))
                w.put(Place, place, "step", stride)


def _level(w: Code, places: str, level_at: str, apart_at: str, size: str) -> None:
    """An axis of `size` joins the level inside of it where all operands walk both as one."""
    level = w.read("i64", level_at)
    w.do(f"store i1 {w.is_('eq', level, 0)}, ptr {apart_at}")
    inner = w.op("sub", level, 1)
    extent_at = w.item(Job, "%job", "extents", "i64", inner)
    with w.when(w.is_("ne", level, 0)), w.loop(0, "%count") as k:
        place = w.at(places, _PLACE, k)
        stride = w.read("i64", w.item(Place, place, "strides", "i64", inner))
        whole = w.op("mul", stride, w.read("i64", extent_at))
        differs = w.is_("ne", whole, w.get(Place, place, "step"))
        apart = w.emit(f"or i1 {differs}, {w.read('i1', apart_at)}")
        w.do(f"store i1 {apart}, ptr {apart_at}")
    apart = w.read("i1", apart_at)
    with w.when(w.emit(f"xor i1 {apart}, true")):
        w.do(f"store i64 {w.op('mul', w.read('i64', extent_at), size)}, ptr {extent_at}")
    with w.when(apart):
        w.do(f"store i64 {size}, ptr {w.item(Job, '%job', 'extents', 'i64', level)}")
        with w.loop(0, "%count") as k:
            place = w.at(places, _PLACE, k)
            step = w.get(Place, place, "step")
            w.do(f"store i64 {step}, ptr {w.item(Place, place, 'strides', 'i64', level)}")
        w.do(f"store i64 {w.op('add', level, 1)}, ptr {level_at}")


def _row(w: Code, places: str, levels: str) -> None:
    """Rows have neighbours side by side, or one value: that is what masks say."""
    with w.when(w.is_("eq", levels, 0)):  # one element
        w.do(f"store i64 1, ptr {w.item(Job, '%job', 'extents', 'i64', 0)}")
        w.put(Job, "%job", "levels", 1)
    alone = w.is_("eq", levels, 0)
    with w.loop(0, "%count") as k:
        place = w.at(places, _PLACE, k)
        stride = w.read("i64", w.item(Place, place, "strides", "i64", 0))
        size = w.get(Place, place, "size")
        beside = w.emit(f"or i1 {w.is_('eq', stride, size)}, {alone}")
        w.unless(w.emit(f"or i1 {beside}, {w.is_('eq', stride, 0)}"))
        w.put(Place, place, "mask", w.choose(beside, -1, 0))


# --- execution ------------------------------------------------------------------------------------


def _run(w: Code) -> None:
    """All rows, in chunks by size alone; several may run in parallel, without the GIL."""
    inner = w.read("i64", w.item(Job, "%job", "extents", "i64", 0))
    rows_at = w.emit(field(Job, "%job", "rows"))
    w.do(f"store i64 1, ptr {rows_at}")
    with w.range(1, w.get(Job, "%job", "levels")) as level:
        extent = w.read("i64", w.item(Job, "%job", "extents", "i64", level))
        w.do(f"store i64 {w.op('mul', w.read('i64', rows_at), extent)}, ptr {rows_at}")
    rows, grain = w.read("i64", rows_at), w.get(Kernel, "%kernel", "grain")
    w.put(Job, "%job", "run", w.get(Kernel, "%kernel", "run"))
    w.put(Job, "%job", "size", w.get(Kernel, "%kernel", "size"))
    w.put(Job, "%job", "count", "%count")
    single = w.is_("eq", rows, 1)
    several = w.op("add", w.op("udiv", grain, inner), 1)
    piece, all_ = w.choose(single, grain, several), w.choose(single, inner, rows)
    w.put(Job, "%job", "grain", all_)
    pieces_at = w.emit("alloca i64")
    w.do(f"store i64 1, ptr {pieces_at}")
    with w.when(w.is_("ugt", all_, piece)):
        share = over(w, all_, over(w, all_, piece))  # pieces of one size; of a row whole lines
        line = w.op("and", w.op("add", share, SPLAT - 1), str(-SPLAT))
        share = w.choose(single, line, share)
        w.put(Job, "%job", "grain", share)
        w.do(f"store i64 {over(w, all_, share)}, ptr {pieces_at}")
    chunks = w.read("i64", pieces_at)
    w.run_chunks("@chunk", chunks, w.op("mul", chunks, CHUNK))


def _chunk(w: Code) -> None:
    """Part of the only row, or some whole rows."""
    pointers, masks = (w.emit(f"alloca [{OPERANDS + 1} x i64]") for _ in range(2))
    splats = w.emit(f"alloca [{OPERANDS * SPLAT} x i8], align {SPLAT}")
    rest_at, from_at = w.emit("alloca i64"), w.emit("alloca ptr")
    places, count, run = _places(w, "%job"), w.get(Job, "%job", "count"), w.get(Job, "%job", "run")
    inner = w.read("i64", w.item(Job, "%job", "extents", "i64", 0))
    rows, grain = w.get(Job, "%job", "rows"), w.get(Job, "%job", "grain")
    single = w.is_("eq", rows, 1)
    first = w.op("mul", "%chunk", grain)
    last = w.minimum(w.op("add", first, grain), w.choose(single, inner, rows))
    start, stop = w.choose(single, first, 0), w.choose(single, last, inner)
    with w.loop(0, count) as k:
        mask = w.get(Place, w.at(places, _PLACE, k), "mask")
        w.do(f"store i64 {mask}, ptr {w.at(masks, 'i64', k)}")
    bytes_ = w.op("mul", inner, w.get(Job, "%job", "size"))
    with w.loop(w.choose(single, 0, first), w.choose(single, 1, last)) as row:
        target = w.at(w.get(Job, "%job", "result"), "i8", w.op("mul", row, bytes_))
        w.do(f"store ptr {target}, ptr {pointers}")
        with w.loop(0, count) as k:
            place = w.at(places, _PLACE, k)
            w.do(f"store ptr {w.get(Place, place, 'base')}, ptr {from_at}")
            w.do(f"store i64 {row}, ptr {rest_at}")
            with w.range(1, w.get(Job, "%job", "levels")) as level:
                _advance(w, place, level, rest_at, from_at)
            with w.when(w.is_("eq", w.get(Place, place, "mask"), 0)):
                splat = w.at(splats, f"[{SPLAT} x i8]", k)
                size = w.get(Place, place, "size")
                w.do(f"call void @splat(ptr {splat}, ptr {w.read('ptr', from_at)}, i64 {size})")
                w.do(f"store ptr {splat}, ptr {from_at}")
            slot = w.at(pointers, "ptr", w.op("add", k, 1))
            w.do(f"store ptr {w.read('ptr', from_at)}, ptr {slot}")
        w.do(f"call void {run}(ptr {pointers}, ptr {masks}, i64 {start}, i64 {stop})")
    w.do("ret void")


def _advance(w: Code, place: str, level: str, rest_at: str, from_at: str) -> None:
    """To where the rest of the row's number says along this level."""
    rest = w.read("i64", rest_at)
    extent = w.read("i64", w.item(Job, "%job", "extents", "i64", level))
    stride = w.read("i64", w.item(Place, place, "strides", "i64", level))
    step = w.op("mul", w.op("urem", rest, extent), stride)
    w.do(f"store ptr {w.at(w.read('ptr', from_at), 'i8', step)}, ptr {from_at}")
    w.do(f"store i64 {w.op('udiv', rest, extent)}, ptr {rest_at}")


def _splat(w: Code) -> None:
    """One value as often as a vector holds it."""
    labels = {size: w.name("size") for size in (1, 2, 4, 8)}
    cases = " ".join(f"i64 {size}, label %{label}" for size, label in labels.items())
    w.do(f"switch i64 %size, label %{labels[8]} [ {cases} ]")
    for size, label in labels.items():
        w.block(label)
        kind = f"<{SPLAT // size} x i{8 * size}>"
        value = w.read(f"i{8 * size}", "%value")
        one = w.emit(f"insertelement {kind} poison, i{8 * size} {value}, i64 0")
        zeros = f"<{SPLAT // size} x i32> zeroinitializer"
        every = w.emit(f"shufflevector {kind} {one}, {kind} poison, {zeros}")
        w.do(f"store {kind} {every}, ptr %to, align {SPLAT}")
        w.do("ret void")


# --- the builtin ----------------------------------------------------------------------------------


def _apply(w: Code) -> None:
    job = w.emit(f"alloca [{sizeof(Job)} x i8], align 8")
    w.note_arguments(job)
    op = w.get(Boxed, "%self", "data")
    api = w.get(Operation, op, "api")
    count = w.get(Operation, op, "count")
    obstacles = w.get(List, w.get(Operation, op, "obstacles"), "size")
    free, fits = w.is_("eq", obstacles, 0), w.is_("eq", count, "%count")
    w.unless(w.emit(f"and i1 {free}, {fits}"))
    last = w.emit(f"call ptr @find(ptr %args, i64 %count, ptr {job}, ptr {op}, ptr {api})")
    w.unless(w.is_("ne", last, "null", "ptr"))
    descr = w.get(Array, last, "descr")
    num = w.emit(f"zext i32 {w.get(Descr, descr, 'type_num')} to i64")
    w.unless(w.is_("ult", num, DTYPES))
    kernel = w.read("ptr", w.at(w.get(Operation, op, "kernels"), "ptr", num))
    w.unless(w.is_("ne", kernel, "null", "ptr"), "make")
    w.unless(w.is_("ne", w.get(Kernel, kernel, "run"), "null", "ptr"))
    bind = f"@bind(ptr %args, i64 %count, ptr {job}, ptr {kernel}, ptr {api})"
    w.unless(w.emit(f"call i1 {bind}"))
    w.unless(w.emit(f"call i1 @broadcast(ptr {job}, i64 %count)"))
    result = w.get(Kernel, kernel, "descr")
    array = w.new_array(Job, job, result, api)
    w.unless(w.is_("ne", array, "null", "ptr"), "error")
    w.put(Job, job, "result", w.get(Array, array, "data"))
    with w.when(w.is_("ne", w.get(Job, job, "total"), 0)):
        w.do(f"call void @run(ptr {job}, ptr {kernel}, i64 %count, ptr {api})")
    tensor = w.emit(f"call ptr @wrapped(ptr {array}, ptr {api})")
    w.do(f"ret ptr {tensor}")
    w.block("error")
    w.do("ret ptr null")
    w.otherwise(Operation, op, api)


TEXT = "\n".join(
    [
        "declare void @dm_pool_run(ptr, ptr, i64, i64)",
        WRAPPED,
        HOLD,
        function(
            "internal ptr @find(ptr %args, i64 %count, ptr %job, ptr %op, ptr %api)",
            _find,
            "no:\n  ret ptr null",
        ),
        all_suits(_number, "number", "ptr %object, ptr %place, i64 %mode, ptr %job, ptr %api"),
        all_suits(_bind, "bind", "ptr %args, i64 %count, ptr %job, ptr %kernel, ptr %api"),
        all_suits(_broadcast, "broadcast", "ptr %job, i64 %count"),
        function("internal void @splat(ptr %to, ptr %value, i64 %size)", _splat),
        function("internal void @chunk(ptr %job, i64 %chunk)", _chunk),
        function("internal void @run(ptr %job, ptr %kernel, i64 %count, ptr %api)", _run),
        function("ptr @apply(ptr %self, ptr %args, i64 %count)", _apply),
    ]
)
