"""Matrix products against NumPy: sizes, strides, batches, vector widths, epilogues, margins."""

from __future__ import annotations

import ctypes
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dualmode_compiler import contract, tiling
from dualmode_compiler.contract import Fused, Gemm
from dualmode_compiler.runtime import jit, pool, workspace
from dualmode_compiler.runtime.caches import Caches, caches
from dualmode_compiler.spec import DType, float32, float64, int32

Array = np.ndarray[Any, Any]

# bufs[3] is an output of the same layout as the tile's rows: out = 2*tile + row number, element by
# element, into a row-major (batch, m, n) array whose n is bufs[4][0] and whose m is bufs[4][1].
EPILOGUE = """
define internal void @epilogue(ptr %bufs, i64 %batch, i64 %i0, i64 %j0, i64 %mr, i64 %nr, ptr %tile,
                               i64 %ldt) {{
entry:
  %slot = getelementptr ptr, ptr %bufs, i64 3
  %out = load ptr, ptr %slot
  %sizes.slot = getelementptr ptr, ptr %bufs, i64 4
  %sizes = load ptr, ptr %sizes.slot
  %n = load i64, ptr %sizes
  %m.slot = getelementptr i64, ptr %sizes, i64 1
  %m = load i64, ptr %m.slot
  %size = mul i64 %m, %n
  %skip = mul i64 %batch, %size
  br label %row
row:
  %r = phi i64 [ 0, %entry ], [ %r1, %next ]
  %i = add i64 %i0, %r
  %term = sitofp i64 %i to {t}
  %source = mul i64 %r, %ldt
  %line0 = mul i64 %i, %n
  %line1 = add i64 %line0, %skip
  %line = add i64 %line1, %j0
  br label %column
column:
  %c = phi i64 [ 0, %row ], [ %c1, %column ]
  %from = add i64 %source, %c
  %p = getelementptr {t}, ptr %tile, i64 %from
  %x = load {t}, ptr %p
  %twice = fadd {t} %x, %x
  %y = fadd {t} %twice, %term
  %to = add i64 %line, %c
  %q = getelementptr {t}, ptr %out, i64 %to
  store {t} %y, ptr %q
  %c1 = add i64 %c, 1
  %c.more = icmp ult i64 %c1, %nr
  br i1 %c.more, label %column, label %next
next:
  %r1 = add i64 %r, 1
  %r.more = icmp ult i64 %r1, %mr
  br i1 %r.more, label %row, label %done
done:
  ret void
}}
"""
EXPORT = f"""
{workspace.DECLARATION}
define void @run(ptr %bufs, i64 %chunk) {{
  call void @product(ptr %bufs, i64 %chunk)
  ret void
}}
"""


def _hosts() -> list[jit.Host]:
    host = jit.host()
    out = [host]
    if platform.machine() == "x86_64":
        if host.vector_bytes > 32:
            out.append(jit.Host(host.triple, "x86-64-v3", "", 32, 16, True))
        if host.vector_bytes > 16:
            out.append(jit.Host(host.triple, "x86-64-v2", "", 16, 16, False))
    return out


HOSTS = _hosts()
STRIDES = ("row", "column", "strided", "broadcast")


@dataclass(frozen=True)
class Case:
    m: int
    n: int
    k: int
    dtype: DType = float32
    a: str = "row"
    b: str = "row"
    batch: tuple[int, ...] = ()
    margin: int = 5


cases = st.builds(
    Case,
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from([float32, float64]),
    st.sampled_from(STRIDES),
    st.sampled_from(STRIDES),
    st.lists(st.integers(1, 3), max_size=2).map(tuple),
    st.integers(0, 5),
)


def _operand(rng: np.random.Generator, case: Case, rows: int, columns: int, mode: str) -> Array:
    """A view of shape (*batch, rows, columns) into a larger array of NaN."""
    d, e = case.dtype.numpy, case.margin
    if mode == "column":
        view = _operand(rng, case, columns, rows, "row")
        return np.swapaxes(view, -1, -2)
    if mode == "broadcast":
        return np.broadcast_to(_operand(rng, case, 1, columns, "row"), (*case.batch, rows, columns))
    s, t = (2, 3) if mode == "strided" else (1, 1)
    whole = np.full((*case.batch, s * rows + e, t * columns + e), np.nan, d)
    view = whole[..., : s * rows : s, : t * columns : t]
    view[...] = rng.integers(-8, 9, view.shape)  # exact in any order of summation
    return view


def _strides(x: Array) -> tuple[int, ...]:
    return tuple(s // x.itemsize for s in x.strides)


def _gemm(case: Case, a: Array, b: Array, c: Array) -> Gemm:
    sa, sb, sc = _strides(a), _strides(b), _strides(c)
    batch = tuple(zip(case.batch, sa[:-2], sb[:-2], sc[:-2], strict=True))
    a2, b2 = (sa[-2], sa[-1]), (sb[-2], sb[-1])
    return Gemm(case.m, case.n, case.k, case.dtype, a2, b2, sc[-2], batch)


def _call(g: Gemm, host: jit.Host, arrays: list[Array], epilogue: bool) -> contract.Code:
    code = contract.emit("product", g, host, Fused("epilogue" if epilogue else None))
    kind = "float" if g.dtype is float32 else "double"
    extra = EPILOGUE.format(t=kind) if epilogue else ""
    text = "".join(code.helpers.values()) + extra + code.text + EXPORT
    library = jit.load(jit.compile_text(text, host), ["run"], pool.symbols())
    run = jit.function(library["run"], None, ctypes.c_void_p, ctypes.c_int64)
    bufs = (ctypes.c_void_p * len(arrays))(*(x.ctypes.data for x in arrays))
    for chunk in reversed(range(code.chunks)):
        run(bufs, chunk)
    return code


def _check(case: Case, host: jit.Host, epilogue: bool) -> contract.Code:
    rng = np.random.default_rng(0)
    a = _operand(rng, case, case.m, case.k, case.a)
    b = _operand(rng, case, case.k, case.n, case.b)
    want = a @ b
    whole = np.full((*case.batch, case.m + 2, case.n + 9), np.nan, case.dtype.numpy)
    c = whole[..., 1:-1, 4:-5]
    g = _gemm(case, a, b, c)
    if not epilogue:
        code = _call(g, host, [a, b, c], False)
        np.testing.assert_array_equal(c, want)
    else:
        out = np.full(want.shape, np.nan, want.dtype)
        sizes = np.array([case.n, case.m], np.int64)
        code = _call(g, host, [a, b, c, out, sizes], True)
        np.testing.assert_array_equal(out, 2 * want + np.arange(case.m)[:, None])
        assert np.isnan(c).all()
    c[...] = np.nan
    assert np.isnan(whole).all(), "wrote outside C"
    return code


@pytest.mark.parametrize("host", HOSTS, ids=lambda h: f"{8 * h.vector_bytes}-bit")
@given(cases, st.booleans())
@example(Case(1, 1, 1), False)
@example(Case(8, 32, 1), False)
@example(Case(64, 10, 65, a="column"), True)
@example(Case(17, 33, 3, float64, "strided", "strided", (2, 3)), True)
@settings(max_examples=40, deadline=None)
def test_product(host: jit.Host, case: Case, epilogue: bool) -> None:
    _check(case, host, epilogue)


FEW = [
    Case(1, 200, 45),  # tiles of some vectors, single ones, a part of one; rows of B left over
    Case(2, 131, 13, float64, "column"),
    Case(2, 70, 4100),  # K in two stretches, which are added
    Case(1, 203, 70, b="column"),
    Case(1, 9, 600, float64, b="column"),
    Case(4, 130, 600, b="column"),
    Case(3, 66, 64, b="column"),  # panels of one and two rows where registers are few
]


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("case", FEW, ids=lambda c: f"{c.m}x{c.n}x{c.k}")
@pytest.mark.parametrize("host", HOSTS, ids=lambda h: f"{8 * h.vector_bytes}-bit")
def test_few_rows(host: jit.Host, case: Case, far: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One or a few rows times a B that lies along N or K, in a cache or in memory."""
    monkeypatch.setattr(tiling, "FAR", 1 if far else 1 << 40)
    for epilogue in (False, True):
        code = _check(case, host, epilogue)
        kinds = ("dm_gemv", "dm_dot")
        assert host.vector_bytes < 32 or any(x.startswith(kinds) for x in code.helpers)


LARGE = [
    Case(129, 65, 1030),
    Case(64, 256, 784),
    Case(150, 130, 1100, float64, "column", "column"),
    Case(7, 1100, 33),
    Case(1, 3000, 40),
    Case(3000, 1, 40),
    Case(1, 300, 500, b="column"),
    Case(300, 1, 500, a="column"),
    Case(7, 101, 600, b="column"),
    Case(101, 10, 600, b="column"),  # the transposed product, whose rows are few
    Case(300, 7, 530, float64, b="column", batch=(2,)),
    Case(7, 101, 1024, b="column"),  # inner products, of a few rows at a time
    Case(5, 300, 530, float64, b="column", batch=(2,)),
    Case(101, 10, 1024, b="column"),  # the same of the transposed product
    Case(300, 3, 600),  # the few columns are gathered into rows
    Case(260, 8, 515, float64, batch=(2,)),
    Case(130, 520, 520, batch=(2,)),
    Case(200, 300, 600, float32, "row", "column"),
    Case(3, 2, 5, batch=(200, 3)),
    Case(100, 1000, 600),  # B is far: its next stretch of K is fetched ahead
    Case(1016, 70, 200, a="column", margin=8),  # rows of A 4096 bytes apart: two panels a strip
    Case(504, 70, 200, float64, a="column", margin=8),
    Case(40, 290, 700),  # columns shared out evenly, a ragged tail
]


@pytest.mark.parametrize("host", HOSTS, ids=lambda h: f"{8 * h.vector_bytes}-bit")
@pytest.mark.parametrize("epilogue", [False, True], ids=["store", "epilogue"])
@pytest.mark.parametrize("case", LARGE, ids=lambda c: f"{c.m}x{c.n}x{c.k}")
def test_blocked_product(case: Case, epilogue: bool, host: jit.Host) -> None:
    _check(case, host, epilogue)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="for code of one architecture")
@pytest.mark.parametrize("dtype", [float32, float64], ids=lambda d: d.name)
def test_inner_products_of_many_short_registers(dtype: DType) -> None:
    host = jit.Host(jit.host().triple, "x86-64-v2", "", 16, 32, False)
    for m, n in ((7, 101), (2, 10), (101, 7)):
        _check(Case(m, n, 600, dtype, b="column"), host, epilogue=False)


def test_few_columns_are_gathered() -> None:
    def helpers(n: int, k: int) -> set[str]:
        g = Gemm(1024, n, k, float32, (k, 1), (n, 1), n)
        return {name.split("_")[1] for name in contract.emit("f", g, HOSTS[0]).helpers}

    assert helpers(4, 1024) == {"dot"}
    assert helpers(4, 64) == helpers(20, 1024) == {"gemm"}


def test_chunks_follow_the_sizes() -> None:
    def chunks(m: int, n: int, k: int) -> int:
        return contract.emit("f", Gemm(m, n, k, float32, (k, 1), (n, 1), n), HOSTS[0]).chunks

    assert chunks(8, 8, 8) == 1
    assert 2 <= chunks(128, 128, 128) <= chunks(512, 512, 512)


def test_cuts_suit_the_strides() -> None:
    host = jit.host()
    if host.vector_bytes != 64 or caches().second != 1 << 20:
        pytest.skip("the expected cuts are those of one kind of machine")
    near = contract.tiling(Gemm(512, 512, 512, float32, (1, 512), (512, 1), 512), host)
    assert near.pack_a is None
    apart = contract.tiling(Gemm(1024, 1024, 1024, float32, (1, 1024), (1024, 1), 1024), host)
    assert apart.pack_a == "rows"
    assert apart.abreast == 2
    far = contract.tiling(Gemm(128, 1024, 1024, float32, (1024, 1), (1024, 1), 1024), host)
    assert far.fetch
    assert far.depth < 1024
    assert not contract.tiling(Gemm(64, 64, 64, float32, (64, 1), (64, 1), 64), host).fetch


def test_caches(tmp_path: Path) -> None:
    def entry(name: str, kind: str, level: str, size: str) -> None:
        (tmp_path / name).mkdir()
        for file, text in (("type", kind), ("level", level), ("size", size)):
            (tmp_path / name / file).write_text(text + "\n")

    assert caches(tmp_path) == Caches()
    caches.cache_clear()
    entry("index0", "Data", "1", "48K")
    entry("index1", "Instruction", "1", "32K")
    entry("index2", "Unified", "2", "2M")
    entry("index3", "Unified", "3", "unknown")
    assert caches(tmp_path) == Caches(48 << 10, 2 << 20)
    caches.cache_clear()


def test_equal_helpers_have_equal_text() -> None:
    one = contract.emit("f", Gemm(64, 64, 9, float32, (9, 1), (64, 1), 64), HOSTS[0])
    two = contract.emit("g", Gemm(128, 32, 7, float32, (7, 1), (32, 1), 32), HOSTS[0])
    shared = one.helpers.keys() & two.helpers.keys()
    assert shared
    assert all(one.helpers[name] == two.helpers[name] for name in shared)


def test_integers_are_refused() -> None:
    with pytest.raises(TypeError, match="int32"):
        contract.emit("f", Gemm(2, 2, 2, int32, (2, 1), (2, 1), 2), HOSTS[0])
