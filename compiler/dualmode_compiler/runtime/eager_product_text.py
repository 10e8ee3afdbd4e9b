"""The generated code of eager matrix products: a builtin that checks its operands, runs the kernel
of `generic.product` and wraps the result, without executing any Python.

`matmul(a, b, transpose_a, transpose_b)` takes contiguous tensors of equal leading axes, with
elements. Anything else gives `MISS`, and nothing has been done.
"""

from __future__ import annotations

from ctypes import sizeof

from .. import splitk
from ..splitk import ELEMENTS, PARTS, TERMS, WORK
from .eager_code import HOLD, Code, all_suits, array_function, function, rank, type_number
from .eager_records import (
    AXES,
    COLUMNS,
    DTYPES,
    FEW,
    ROWS,
    TILE_COLUMNS,
    TILE_ROWS,
    Matmul,
    Product,
    ProductKernel,
    ProductKernels,
)
from .entry_bind import WRAPPED
from .entry_records import Api
from .layout import Array, Boxed, List

_PIECE = 19  # log2 of the multiply-adds that are worth a thread's while
_THIN_PIECE = 16  # the same of a product of few rows
_PIECES = 8  # what a product is cut in if it is large enough
_WIDE = 4096  # columns of a block of few rows, at the most
_SWEPT = 1024  # columns of such a block of a B that runs along N, at least: long streams
_SLACK = 16  # elements after those of the parts, as these are added up by whole vectors
_ANY = 1 << 31  # type numbers


def _dims(w: Code, array: str, ndim: str) -> tuple[str, str]:
    """The last two sizes of an array."""
    dims = w.get(Array, array, "dims")
    last = w.at(dims, "i64", ndim)
    return w.read("i64", w.at(last, "i64", -2)), w.read("i64", w.at(last, "i64", -1))


def _get(w: Code, name: str) -> str:
    return w.get(Product, "%job", name)


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
    turned = {f"turned_{x}": w.emit(f"zext i1 %turned_{x} to i64") for x in "ab"}
    _put(w, m=m, n=n, k=k, lda=lda, ldb=ldb, ndim=ndim, **turned)
    sizes = {"a": (m, k), "b": (k, n), "c": (m, n)}
    _put(w, **{f"{x}_size": w.op("mul", *both) for x, both in sizes.items()})
    _put(w, batch=count, rest="0")
    w.do("ret i1 true")


def _flip(w: Code) -> None:
    """A product of one column is computed as the transposed one, of one row."""
    column = w.emit(f"and i1 {w.is_('eq', _get(w, 'n'), 1)}, {w.is_('ne', _get(w, 'm'), 1)}")
    with w.when(column):
        names = ("a", "b"), ("m", "n"), ("lda", "ldb"), ("a_size", "b_size")
        for pair in names:
            x, y = (_get(w, name) for name in pair)
            _put(w, **dict(zip(pair, (y, x), strict=True)))
        a, b = (w.op("xor", _get(w, f"turned_{x}"), "1") for x in "ab")
        _put(w, turned_a=b, turned_b=a)
    w.do("ret void")


def _share(w: Code, size: str, pieces: str, unit: int, most: str | int) -> str:
    """What each of `pieces` parts of `size` has: whole units, and not more than `most`."""
    part = w.op("udiv", w.op("add", size, w.op("sub", pieces, 1)), pieces)
    part = w.op("and", w.op("add", part, unit - 1), str(-unit))
    return w.minimum(part, most)


def _over(w: Code, a: str, b: str) -> str:
    """a / b rounded up."""
    return w.op("udiv", w.op("add", a, w.op("sub", b, 1)), b)


def _parts(w: Code) -> None:
    """Into how many parts the sums of a product of few results are cut, see `splitk`."""
    m, n, k, batch = (_get(w, name) for name in ("m", "n", "k", "batch"))
    w.unless(w.is_("eq", batch, 1))
    # inner products of many columns, which are computed whole, are enough to share out
    one = w.is_("eq", m, 1)
    along = w.emit(f"or i1 {one}, {w.is_('eq', _get(w, 'turned_a'), 0)}")
    along = w.emit(f"and i1 {along}, {w.is_('eq', _get(w, 'turned_b'), 1)}")
    shares = w.emit(f"and i1 {w.is_('ule', m, splitk.FEW)}, {w.is_('uge', n, splitk.MANY)}")
    w.unless(w.emit(f"xor i1 {w.emit(f'and i1 {along}, {shares}')}, true"))
    w.unless(w.is_("ne", w.get(ProductKernel, "%kernel", "splits"), 0))
    results = w.op("mul", m, n)
    by_work = w.op("udiv", w.op("mul", results, k), WORK)
    by_size = w.op("udiv", str(ELEMENTS), results)
    most = w.minimum(w.minimum(by_work, w.op("udiv", k, TERMS)), w.minimum(by_size, PARTS))
    w.unless(w.is_("uge", most, 2))
    w.do(f"ret i64 {most}")


def _run(w: Code) -> None:
    """The product: its blocks, or those of its parts and then their sum. False with an exception
    set where there is no memory for these."""
    w.do("call void @flip(ptr %job)")
    parts = w.emit("call i64 @parts(ptr %job, ptr %kernel)")
    with w.when(w.is_("ugt", parts, 1)):
        held = _memory_of(w, parts)
        memory = w.get(Array, held, "data")
        k, c = _get(w, "k"), _get(w, "c")
        _put(w, total=c, c=w.emit(f"ptrtoint ptr {memory} to i64"), batch=parts)
        part = w.op("udiv", k, parts)
        _put(w, k=part, rest=w.op("urem", k, parts))
        for x, turned in (("a", 0), ("b", 1)):  # parts lie side by side, or one below the other
            beside = w.is_("eq", _get(w, f"turned_{x}"), turned)
            below = w.op("mul", part, _get(w, f"ld{x}"))
            _put(w, **{f"{x}_size": w.choose(beside, part, below)})
        w.do("call void @blocks(ptr %job, ptr %kernel, ptr %api)")
        run = w.get(ProductKernel, "%kernel", "run")
        w.do(f"call void {run}(ptr %job, i64 -1)")
        w.do(f"call void {w.get(Api, '%api', 'decref')}(ptr {held})")
        w.do("ret i1 true")
    w.do("call void @blocks(ptr %job, ptr %kernel, ptr %api)")
    w.do("ret i1 true")


def _memory_of(w: Code, parts: str) -> str:
    """An array for the results of so many parts. Leaves by "no" if there is none."""
    results = w.op("mul", _get(w, "m"), _get(w, "n"))
    count = w.op("add", w.op("mul", results, parts), _SLACK)
    shape = w.emit("alloca i64")
    w.do(f"store i64 {count}, ptr {shape}")
    array = w.new_array_of("1", shape, w.get(ProductKernel, "%kernel", "descr"), "%api")
    w.unless(w.is_("ne", array, "null", "ptr"))
    return array


def _blocks(w: Code) -> None:
    """All blocks. A product is cut by its sizes alone: first between columns, so that no part of B
    is packed twice."""
    m, n, k, batch = (_get(w, name) for name in ("m", "n", "k", "batch"))
    work = w.op("mul", w.op("mul", w.op("mul", m, n), k), batch)
    along_n = w.is_("eq", _get(w, "turned_b"), 0)
    suits = w.emit(f"or i1 {w.is_('eq', m, 1)}, {along_n}")
    few = w.emit(f"and i1 {w.is_('ule', m, FEW)}, {suits}")
    piece = w.choose(few, _THIN_PIECE, _PIECE)
    wanted = w.op("add", w.minimum(w.op("lshr", w.op("sub", work, 1), piece), _PIECES - 1), 1)
    down = _over(w, m, str(ROWS))
    most = w.choose(few, _WIDE, COLUMNS)
    columns = _share(w, n, _over(w, wanted, w.op("mul", batch, down)), TILE_COLUMNS, most)
    least = w.choose(w.is_("eq", batch, 1), _over(w, n, "2"), w.minimum(n, _SWEPT))
    least = w.choose(w.emit(f"and i1 {few}, {along_n}"), w.minimum(least, _SWEPT), 1)
    columns = w.choose(w.is_("ult", columns, least), least, columns)
    across = _over(w, n, columns)
    rows = _share(w, m, _over(w, wanted, w.op("mul", batch, across)), TILE_ROWS, ROWS)
    down = _over(w, m, rows)
    _put(w, rows=rows, columns=columns, down=down, across=across)
    run = w.get(ProductKernel, "%kernel", "run")
    chunks = w.op("mul", w.op("mul", batch, down), across)
    w.run_chunks(run, chunks, work)


def _matmul(w: Code) -> None:
    job = w.emit(f"alloca [{sizeof(Product)} x i8], align 8")
    w.note_arguments(job)
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
    kernels = w.get(Matmul, op, "kernels")
    is_last = w.is_("eq", number, w.get(ProductKernels, kernels, "bfloat16"))
    number = w.choose(is_last, DTYPES, number)
    w.unless(w.is_("ule", number, DTYPES))
    flags = f"i1 {turned[0]}, i1 {turned[1]}"
    w.unless(w.emit(f"call i1 @sizes(ptr {a}, ptr {b}, {flags}, ptr {job})"))
    kernel = w.read("ptr", w.item(ProductKernels, kernels, "kernels", "ptr", number))
    w.unless(w.is_("ne", kernel, "null", "ptr"), "make")
    w.unless(w.is_("ne", w.get(ProductKernel, kernel, "run"), "null", "ptr"))
    descr = w.get(ProductKernel, kernel, "descr")
    array = w.new_array(Product, job, descr, api)
    w.unless(w.is_("ne", array, "null", "ptr"), "error")
    for name, x in (("a", a), ("b", b), ("c", array)):
        data = w.emit(f"ptrtoint ptr {w.get(Array, x, 'data')} to i64")
        w.put(Product, job, name, data)
    w.unless(w.emit(f"call i1 @run(ptr {job}, ptr {kernel}, ptr {api})"), "lost")
    w.do(f"ret ptr {w.emit(f'call ptr @wrapped(ptr {array}, ptr {api})')}")
    w.block("lost")
    w.do(f"call void {w.get(Api, api, 'decref')}(ptr {array})")
    w.do("br label %error")
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
        HOLD,
        array_function(_ANY),
        all_suits(_sizes, "sizes", "ptr %a, ptr %b, i1 %turned_a, i1 %turned_b, ptr %job"),
        function("internal void @flip(ptr %job)", _flip),
        function("internal i64 @parts(ptr %job, ptr %kernel)", _parts, "no:\n  ret i64 1"),
        function("internal void @blocks(ptr %job, ptr %kernel, ptr %api)", _blocks),
        all_suits(_run, "run", "ptr %job, ptr %kernel, ptr %api"),
        function("ptr @matmul(ptr %self, ptr %args, i64 %count)", _matmul),
    ]
)
