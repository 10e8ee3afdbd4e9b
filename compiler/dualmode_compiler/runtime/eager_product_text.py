"""The generated code of eager matrix products: a builtin that checks its operands, runs the kernel
of `generic.product` and wraps the result, without executing any Python.

`matmul(a, b, transpose_a, transpose_b)` takes contiguous tensors of equal leading axes, with
elements. Anything else gives `MISS`, and nothing has been done; so does a long product with a
vector, which only moves a matrix through the processor: NumPy's library has better code for that.
"""

from __future__ import annotations

from ctypes import sizeof

from .eager_code import ARRAY, Code, all_suits, function, rank, type_number
from .eager_records import (
    AXES,
    COLUMNS,
    ROWS,
    TILE_COLUMNS,
    TILE_ROWS,
    Matmul,
    Product,
    ProductKernel,
)
from .entry_bind import WRAPPED
from .entry_records import Api
from .layout import Array, Boxed, List

_VECTOR = 1 << 15  # multiply-adds of a product with a vector up to which it is computed here
_PIECE = 19  # log2 of the multiply-adds that are worth a thread's while
_PIECES = 8  # what a product is cut in if it is large enough


def _dims(w: Code, array: str, ndim: str) -> tuple[str, str]:
    """The last two sizes of an array."""
    dims = w.get(Array, array, "dims")
    last = w.at(dims, "i64", ndim)
    return w.read("i64", w.at(last, "i64", -2)), w.read("i64", w.at(last, "i64", -1))


def _put(w: Code, **values: str) -> None:
    for name, value in values.items():
        w.put(Product, "%job", name, value)


def _sizes(w: Code) -> None:
    """Whether the operands fit; notes their sizes and the shape of the result."""
    ndim, other = rank(w, "%a"), rank(w, "%b")
    w.unless(w.is_("eq", ndim, other))
    w.unless(w.is_("ult", w.op("sub", ndim, 2), AXES - 1))
    (rows_a, lda), (rows_b, ldb) = (_dims(w, x, ndim) for x in ("%a", "%b"))
    m, k = w.choose("%turned_a", lda, rows_a), w.choose("%turned_a", rows_a, lda)
    same, n = w.choose("%turned_b", ldb, rows_b), w.choose("%turned_b", rows_b, ldb)
    w.unless(w.is_("eq", k, same))
    batch = w.emit("alloca i64")
    w.do(f"store i64 1, ptr {batch}")
    leading = w.op("sub", ndim, 2)
    dims = [w.get(Array, x, "dims") for x in ("%a", "%b")]
    with w.range(0, leading) as d:
        size, also = (w.read("i64", w.at(x, "i64", d)) for x in dims)
        w.unless(w.is_("eq", size, also))
        w.do(f"store i64 {w.op('mul', w.read('i64', batch), size)}, ptr {batch}")
        w.do(f"store i64 {size}, ptr {w.item(Product, '%job', 'shape', 'i64', d)}")
    for back, size in ((2, m), (1, n)):
        place = w.item(Product, "%job", "shape", "i64", w.op("sub", ndim, back))
        w.do(f"store i64 {size}, ptr {place}")
    count = w.read("i64", batch)
    work = w.op("mul", w.op("mul", m, n), k)
    w.unless(w.is_("ne", w.op("mul", work, count), 0))
    vector = w.emit(f"or i1 {w.is_('eq', m, 1)}, {w.is_('eq', n, 1)}")
    long = w.emit(f"and i1 {vector}, {w.is_('ugt', work, _VECTOR)}")
    w.unless(w.emit(f"xor i1 {long}, true"))
    turned = {f"turned_{x}": w.emit(f"zext i1 %turned_{x} to i64") for x in "ab"}
    _put(w, m=m, n=n, k=k, lda=lda, ldb=ldb, ndim=ndim, **turned)
    sizes = {"a": (m, k), "b": (k, n), "c": (m, n)}
    _put(w, **{f"{x}_size": w.op("mul", *both) for x, both in sizes.items()})
    w.put(Product, "%job", "batch", count)
    w.do("ret i1 true")


def _share(w: Code, size: str, pieces: str, unit: int, most: int) -> str:
    """What each of `pieces` parts of `size` has: whole units, and not more than `most`."""
    part = w.op("udiv", w.op("add", size, w.op("sub", pieces, 1)), pieces)
    part = w.op("and", w.op("add", part, unit - 1), str(-unit))
    return w.minimum(part, most)


def _over(w: Code, a: str, b: str) -> str:
    """a / b rounded up."""
    return w.op("udiv", w.op("add", a, w.op("sub", b, 1)), b)


def _run(w: Code) -> None:
    """All blocks. A product is cut by its sizes alone: first between columns, so that no part of B
    is packed twice."""
    m, n, k, batch = (w.get(Product, "%job", name) for name in ("m", "n", "k", "batch"))
    work = w.op("mul", w.op("mul", w.op("mul", m, n), k), batch)
    wanted = w.op("add", w.minimum(w.op("lshr", work, _PIECE), _PIECES - 1), 1)
    down = _over(w, m, str(ROWS))
    columns = _share(w, n, _over(w, wanted, w.op("mul", batch, down)), TILE_COLUMNS, COLUMNS)
    across = _over(w, n, columns)
    rows = _share(w, m, _over(w, wanted, w.op("mul", batch, across)), TILE_ROWS, ROWS)
    down = _over(w, m, rows)
    _put(w, rows=rows, columns=columns, down=down, across=across)
    run = w.get(ProductKernel, "%kernel", "run")
    chunks = w.op("mul", w.op("mul", batch, down), across)
    w.run_chunks(run, chunks, work)


def _matmul(w: Code) -> None:
    job = w.emit(f"alloca [{sizeof(Product)} x i8], align 8")
    op = w.get(Boxed, "%self", "data")
    api = w.get(Matmul, op, "api")
    obstacles = w.get(List, w.get(Matmul, op, "obstacles"), "size")
    fits = w.is_("eq", "%count", 4)
    w.unless(w.emit(f"and i1 {w.is_('eq', obstacles, 0)}, {fits}"))
    arguments = [w.read("ptr", w.at("%args", "ptr", k)) for k in range(4)]
    turned = []
    for flag in arguments[2:]:
        true, false = (
            w.is_("eq", flag, w.get(Matmul, op, name), "ptr") for name in ("true", "false")
        )
        w.unless(w.emit(f"or i1 {true}, {false}"))
        turned.append(true)
    a, b = (w.emit(f"call ptr @array(ptr {x}, ptr {api})") for x in arguments[:2])
    for x in (a, b):
        w.unless(w.is_("ne", x, "null", "ptr"))
    number = type_number(w, a)
    w.unless(w.is_("eq", number, type_number(w, b)))
    flags = f"i1 {turned[0]}, i1 {turned[1]}"
    w.unless(w.emit(f"call i1 @sizes(ptr {a}, ptr {b}, {flags}, ptr {job})"))
    kernel = w.read("ptr", w.at(w.get(Matmul, op, "kernels"), "ptr", number))
    w.unless(w.is_("ne", kernel, "null", "ptr"), "make")
    w.unless(w.is_("ne", w.get(ProductKernel, kernel, "run"), "null", "ptr"))
    descr = w.get(ProductKernel, kernel, "descr")
    array = w.new_array(Product, job, descr, api)
    w.unless(w.is_("ne", array, "null", "ptr"), "error")
    for name, x in (("a", a), ("b", b), ("c", array)):
        data = w.emit(f"ptrtoint ptr {w.get(Array, x, 'data')} to i64")
        w.put(Product, job, name, data)
    w.do(f"call void @run(ptr {job}, ptr {kernel}, ptr {api})")
    w.do(f"ret ptr {w.emit(f'call ptr @wrapped(ptr {array}, ptr {api})')}")
    w.block("error")
    w.do("ret ptr null")
    w.block("make")
    call, make = w.get(Matmul, op, "vectorcall"), w.get(Matmul, op, "make")
    w.do(f"ret ptr {w.emit(f'call ptr {call}(ptr {make}, ptr %args, i64 %count, ptr null)')}")
    w.block("no")
    miss = w.get(Api, api, "miss")
    w.do(f"call void {w.get(Api, api, 'incref')}(ptr {miss})")
    w.do(f"ret ptr {miss}")


TEXT = "\n".join(
    [
        "declare void @dm_pool_run(ptr, ptr, i64, i64)",
        WRAPPED,
        ARRAY,
        all_suits(_sizes, "sizes", "ptr %a, ptr %b, i1 %turned_a, i1 %turned_b, ptr %job"),
        function("internal void @run(ptr %job, ptr %kernel, ptr %api)", _run),
        function("ptr @matmul(ptr %self, ptr %args, i64 %count)", _matmul),
    ]
)
