"""Kernels that move data: transposes by tiles, parts of results, writes at indices, prefix sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dualmode as dm
from dualmode.ops.cumulative import CUMULATIVE_SUM
from dualmode.ops.gather import SCATTER_ADD, SCATTER_SET
from dualmode_compiler import driver, folds, split
from dualmode_compiler.expr import Axis
from dualmode_compiler.graph import Graph
from dualmode_compiler.loops import HostCall, Kernel
from dualmode_compiler.runtime import pool
from dualmode_compiler.runtime.jit import Host
from graphs import check, hosts, on_every_host, trace, values

ANY = {"suppress_health_check": list(HealthCheck), "deadline": None}
TYPES = ("float32", "float64", "int8", "bool", "bfloat16", "int16")
EDGES = (0, 1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 33, 64, 70)
FEW = ("float32", "int8")  # for hosts but the first
EVERY = [(h, d) for k, h in enumerate(hosts()) for d in (TYPES if k == 0 else FEW)]
with_types = pytest.mark.parametrize(
    ("host", "dtype"), EVERY, ids=[f"{8 * h.vector_bytes} bits, {d}" for h, d in EVERY]
)
some_hosts = st.sampled_from(hosts())


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are cut into parts however small they are."""
    monkeypatch.setattr(split, "LEAST", 1)


def _spec(dtype: str, *shape: int) -> str:
    return f"{dtype}[{','.join(map(str, shape))}]"


def _kernels(graph: Graph) -> list[Kernel]:
    steps = driver.compile(graph).native().plan.steps
    assert not any(isinstance(s, HostCall) for s in steps)
    return [s for s in steps if isinstance(s, Kernel)]


# --- transposes -----------------------------------------------------------------------------------


@with_types
def test_transposes_at_the_edges_of_tiles(dtype: str, host: Host):
    shapes = [(2, 64), (5, 31), (17, 16), (33, 3), (31, 33), (70, 4)]

    def transposed(*xs: Any) -> list[Any]:
        return [x.mT for x in xs]

    check(trace(transposed, *(_spec(dtype, *shape) for shape in shapes)), host=host)


@on_every_host
def test_tiles_that_may_not_overlap(host: Host):
    """What a kernel reads where it stores may be stored over: nothing may be computed twice."""
    for shape in ((33, 31), (17, 70), (3, 50)):

        def step(y: Any, x: Any) -> Any:
            return [y * 2 + x.mT], []

        specs = _spec("float32", *shape), _spec("float32", *shape[::-1])
        check(trace(step, *specs, states=1), host=host)


@settings(max_examples=16, **ANY)
@given(data=st.data(), host=some_hosts)
def test_permutations(data: st.DataObject, host: Host):
    shape = data.draw(st.lists(st.sampled_from(EDGES), min_size=2, max_size=4).filter(_moderate))
    axes = data.draw(st.permutations(range(len(shape))))
    step = data.draw(st.sampled_from([1, 2, -1]))
    dtype = data.draw(st.sampled_from(TYPES))

    def permuted(x: Any) -> Any:
        return dm.permute_dims(x[::step], axes)

    check(trace(permuted, _spec(dtype, *shape)), host=host)


def _moderate(shape: Sequence[int]) -> bool:
    return int(np.prod(shape)) <= 20000


@on_every_host
def test_transposes_with_what_is_fused(host: Host):
    """Other operands, other dtypes, and several results, around a transposed load."""

    def fused(x: Any, y: Any, z: Any) -> list[Any]:
        out = [x.mT * 2 + y + x.mT[:, :1], x.mT + y.mT.mT, dm.cast(z.mT, "float64"), z.mT > 0]
        return [*out, dm.where(x.mT > y, x.mT, 0)]

    check(trace(fused, "float32[70,50]", "float32[50,70]", "int8[70,50]"), host=host)


# --- parts ----------------------------------------------------------------------------------------


@settings(max_examples=16, **ANY)
@given(data=st.data(), host=some_hosts)
def test_concatenations(data: st.DataObject, host: Host, small_parts: None):
    axis = data.draw(st.sampled_from([0, 1, -1]))
    sizes = data.draw(st.lists(st.sampled_from([0, 1, 7, 64, 100, 300]), min_size=1, max_size=5))
    rest = data.draw(st.sampled_from([1, 3, 17]))
    dtype = data.draw(st.sampled_from(TYPES))
    specs = [_spec(dtype, n, rest) if axis == 0 else _spec(dtype, rest, n) for n in sizes]
    fused = data.draw(st.booleans())

    def joined(*xs: Any) -> Any:
        y = dm.concat(xs, axis)
        return [y, dm.where(y == y[:1, :1], y, 0)] if fused and dtype != "bool" else y

    check(trace(joined, *specs), host=host)


@settings(max_examples=16, **ANY)
@given(data=st.data(), host=some_hosts)
def test_pads_and_rolls(data: st.DataObject, host: Host, small_parts: None):
    shape = data.draw(st.lists(st.sampled_from([0, 1, 3, 9, 70, 200]), min_size=1, max_size=3))
    width = [[data.draw(st.sampled_from([0, 1, 5, 64])) for _ in range(2)] for _ in shape]
    shift = [data.draw(st.integers(-70, 70)) for _ in shape]
    if np.prod([n + a + b for n, (a, b) in zip(shape, width, strict=True)]) > 100000:
        return

    def moved(x: Any) -> list[Any]:
        axes = list(range(len(shape)))
        return [dm.pad(x, width, 2), dm.roll(x, shift, axes), dm.roll(dm.pad(x, width), 3)]

    check(trace(moved, _spec(data.draw(st.sampled_from(["float32", "int8"])), *shape)), host=host)


def test_a_concatenation_has_no_choice_left():
    """Each part is a copy: no comparison is in the code."""
    graph = trace(lambda *xs: dm.concat(xs, 1), *["float32[50,100]"] * 3)
    text = driver.compile(graph).native().program.text
    assert "select" not in text and "masked.gather" not in text


def test_small_kernels_stay_whole():
    """Parts cost more to compile than the choices that they save would ever take."""
    small = trace(lambda x: dm.pad(x, 1), "float32[8,4,8,8]")
    large = trace(lambda x: dm.pad(x, 1), "float32[300,300]")
    assert [driver.compile(g).native().program.kernels for g in (small, large)] == [1, 5]


@with_types
def test_strides_repetitions_and_stacks(dtype: str, host: Host):
    def moved(x: Any, y: Any) -> list[Any]:
        out = [x[:, ::s] for s in (-1, 2, -2, 3, -3, 4, -4, 5, -5)]
        out += [dm.repeat(x, k, axis=1) for k in (2, 3, 8, 9, 20)] + [dm.repeat(y, 3, axis=0)]
        out += [dm.tile(x, (2, 3)), dm.stack([x, y, x], -1), dm.stack([x, y], -1), x[:, 3::2]]
        return out

    for n in (5, 67):
        check(trace(moved, _spec(dtype, 3, n), _spec(dtype, 3, n)), host=host)


# --- writes at indices ----------------------------------------------------------------------------

SCATTERS: list[tuple[tuple[int, ...], int, tuple[int, ...]]] = [
    ((7,), 0, (20,)),
    ((7,), 0, (3, 5)),
    ((1,), 0, (9,)),
    ((7, 1), 1, (9,)),
    ((7, 3), 0, (9,)),
    ((7, 33), 0, (9,)),
    ((5, 7), 1, (9,)),
    ((4, 6, 17), 1, (2, 4)),
    ((3, 0), 0, (9,)),
    ((3, 4), 0, (0, 9)),
    ((600, 300), 0, (700,)),
    ((40, 50, 60), 1, (90,)),
    ((900, 70), 0, (1000,)),
]


@pytest.mark.parametrize("n", [100_000, 100_007, 99_999])
def test_long_stacks_in_chunks(n: int):
    """The last chunk has what is left of the vectors."""
    graph = trace(lambda x, y: dm.stack([x, y, x + y], 1), f"float32[{n}]", f"float32[{n}]")
    assert driver.compile(graph).native().program.chunked
    check(graph)


@with_types
def test_writes_at_repeated_and_negative_indices(dtype: str, host: Host):
    rng = np.random.default_rng(3)
    ops = (SCATTER_SET,) if dtype == "bool" else (SCATTER_SET, SCATTER_ADD)
    arrays: list[Any] = []
    for shape, axis, many in SCATTERS:
        updates = _spec(dtype, *shape[:axis], *many, *shape[axis + 1 :])
        arrays += [values(_spec(dtype, *shape)), rng.integers(-shape[axis], shape[axis], many)]
        arrays.append(values(updates, 1))

    def written(*xs: Any) -> list[Any]:
        cases = zip(xs[::3], xs[1::3], xs[2::3], SCATTERS, strict=True)
        return [op(x, i, u, axis=axis) for x, i, u, (_, axis, _) in cases for op in ops]

    check(trace(written, *arrays), arrays, host)


KEYS: list[Any] = [
    (slice(1, -1), slice(1, -1)),
    (slice(None, None, -1), slice(None, None, 2)),
    (slice(None), 3),
    (np.array([1, 1, 4, -1, 0, 1]),),
    (slice(None), np.array([[1, 1, 4], [-1, 0, 1]])),
    (np.array([1, 1, 4, -1, 0, 1]), np.array([2, 2, 0, 1, 1, 2])),
    (np.array([1, 0, 1, 1, 1]) > 0,),
    (slice(1, 4), np.array([1, 1, 4, -1, 0, 1])),
]


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_updates_are_those_of_numpy(key: Any):
    x = values("float32[5,7]")
    new = values(f"float32[{','.join(map(str, x[key].shape))}]", 1)
    added, written = x.copy(), x.copy()
    np.add.at(added, key, new)
    written[key] = new
    for mode in (lambda f: f, dm.function):
        y, z = mode(lambda x, u: (x.at[key].add(u), x.at[key].set(u)))(dm.tensor(x), dm.tensor(new))
        np.testing.assert_array_equal(np.asarray(y), added)
        np.testing.assert_array_equal(np.asarray(z), written)


def test_windows_that_overlap_keep_their_order():
    """Columns of neighbouring windows meet: no two chunks may have them."""
    place = np.arange(8000)[:, None] * 8 + np.arange(64)
    arrays = [values("float32[64056]"), values("float32[8000,64]", 1)]

    def written(x: Any, u: Any) -> Any:
        at = dm.arange(8000, dtype="int64")[:, None] * 8 + dm.arange(64, dtype="int64")
        return SCATTER_SET(x, at, u, axis=0)

    graph = trace(written, *arrays)
    assert driver.compile(graph).native().program.chunked == 0
    (y,) = check(graph, arrays)
    want = arrays[0].copy()
    for row, new in zip(place, arrays[1], strict=True):
        want[row] = new
    np.testing.assert_array_equal(y, want)


def test_which_places_are_known_to_be_apart():
    """Windows of 4 places meet if they are 3 apart."""
    i, j = Axis(9), Axis(4)
    assert folds._injective(4 * i + j, (i, j)) and folds._injective(-4 * i + j, (i, j))
    assert not folds._injective(3 * i + j, (i, j)) and not folds._injective(2 * i + j, (i, j))
    assert not folds._injective(i + 0, (i, j))


def test_updates_of_a_state_are_in_place():
    """Only the updates are stored: nothing copies the rest of the state."""

    def step(x: Any, i: Any, u: Any) -> Any:
        return [x.at[i].add(u)], []

    graph = trace(step, "float32[900,64]", "int64[9]", "float32[9,64]", states=1)
    at = np.array([3, 3, -1, 0, 5, 5, 5, 899, 1])
    check(graph, [values("float32[900,64]"), at, values("float32[9,64]")])
    code = driver.compile(graph).native()
    kernels = [s for s in code.plan.steps if isinstance(s, Kernel) and s.axes]
    assert code.program.kernels == 1 + len(kernels) and code.arena < 1000


def test_what_is_only_copied_is_stored_once():
    """An update of a slice is one of the flat array, and its reshape is no pass of its own."""
    specs = "float32[64,63]", "float32[62,61]"
    graph = trace(lambda x, u: x.at[1:-1, 1:-1].set(u), *specs)
    check(graph, [values(s) for s in specs])
    assert driver.compile(graph).native().program.kernels == 2
    state = trace(lambda x, u: ([x.at[1:-1, 1:-1].set(u)], []), *specs, states=1)
    check(state, [values(s) for s in specs])
    assert driver.compile(state).native().arena < 1000


def test_what_others_read_is_stored_and_copied():
    """Beside the reshape of the update, which is a copy, its prefix sums are wanted."""

    def both(x: Any, i: Any, u: Any) -> list[Any]:
        y = x.at[i].add(u)
        return [dm.reshape(y, (64, 63)), dm.cumulative_sum(y, axis=0)]

    at = np.array([3, 3, -1, 0, 5, 5, 5, 899, 1])
    arrays = [values("float32[4032]"), at, values("float32[9]")]
    check(trace(both, *arrays), arrays)


def test_indices_out_of_range_raise_and_touch_nothing():
    v = dm.Variable(np.zeros((5, 40), np.float32))

    @dm.function
    def step(i: Any) -> Any:
        v.assign(v.read_value().at[i].add(1.0))

    step(dm.tensor([0, 1, 2, 3, 4, 4]))
    with pytest.raises(IndexError, match="index 5"):
        step(dm.tensor([0, 1, 2, 3, 4, 5]))
    assert np.asarray(v.read_value())[:, 0].tolist() == [1, 1, 1, 1, 2]


@pytest.mark.parametrize("dtype", [f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)])
def test_indices_of_every_type(dtype: str):
    """In range they are wrapped; what is just out of range, or as far as can be, raises."""
    x, n = values("float32[100]"), 100
    low = 0 if dtype.startswith("u") else -n
    at = np.arange(low, n, 7).astype(dtype)
    read = dm.function(lambda x, i: dm.take(x, i, axis=0) * 2.0)
    written = dm.function(lambda x, i: x.at[i].add(1.0))
    np.testing.assert_array_equal(read(dm.tensor(x), dm.tensor(at)), x[at] * 2)
    expected = x.copy()
    np.add.at(expected, at.astype(np.int64), np.float32(1))
    np.testing.assert_array_equal(written(dm.tensor(x), dm.tensor(at)), expected)
    limits = np.iinfo(dtype)
    for wrong in {n, limits.max, *((low - 1, limits.min) if low else ())}:
        at[-2] = wrong
        for call in (read, written):
            with pytest.raises(IndexError, match=f"index {wrong} is out of range"):
                call(dm.tensor(x), dm.tensor(at))


# --- prefix sums ----------------------------------------------------------------------------------


@with_types
def test_prefix_sums_at_every_edge(dtype: str, host: Host):
    dtype = {"bool": "int64", "int16": "uint16"}.get(dtype, dtype)
    shapes = [(n,) for n in EDGES] + [(3, 20), (20, 3), (5, 33), (2, 3, 4), (3, 0), (0, 3)]

    def sums(*xs: Any) -> list[Any]:
        axes = [(x, axis) for x in xs for axis in range(x.ndim)]
        return [CUMULATIVE_SUM(x, axis=k, reverse=r) for x, k in axes for r in (False, True)]

    arrays = [values(_spec(dtype, *shape)) for shape in shapes]
    if dtype in ("float16", "bfloat16"):  # sums that are exact
        arrays = [(np.abs(a) // 2).astype(a.dtype) for a in arrays]
    check(trace(sums, *arrays), arrays, host)


@pytest.mark.parametrize("reverse", [False, True])
def test_long_prefix_sums(reverse: bool):
    """In blocks, in chunks of rows and of columns, with what is fused before and after."""
    shapes = [(140001,), (300, 301), (7, 2100), (3, 50, 70), (2, 100003)]

    def sums(*xs: Any) -> list[Any]:
        out: list[Any] = []
        for x in xs:
            for axis in range(x.ndim):
                y = CUMULATIVE_SUM(dm.where(x > 0, x, 1), axis=axis, reverse=reverse)
                out += [y, y * 2 + x, dm.cast(y, "int64")]
        return out

    check(trace(sums, *(_spec("float32", *shape) for shape in shapes)))


def test_what_follows_a_prefix_sum_is_in_its_loop():
    graph = trace(lambda x: dm.cumulative_sum(x * x, axis=1) / 2 + x, "float32[50,60]")
    (kernel,) = _kernels(graph)
    assert kernel.fold is not None and len(kernel.nodes) > 1


def test_gradients_are_native():
    def loss(x: Any, i: Any) -> Any:
        with dm.GradientTape() as tape:
            tape.watch(x)
            y = dm.sum(dm.cumulative_sum(x, axis=0) * x) + dm.sum(dm.square(dm.take(x, i, axis=0)))
        return tape.gradient(y, x)

    graph = trace(loss, "float32[40,30]", "int64[50]")
    steps = driver.compile(graph).native().plan.steps
    assert [s.node.op.name for s in steps if isinstance(s, HostCall)] == ["check_indices"]


# --- threads --------------------------------------------------------------------------------------


def _movement(x: Any, i: Any) -> list[Any]:
    out = [x.mT, dm.concat([x, dm.flip(x)], 0), dm.pad(x, 3)]
    out += [dm.cumulative_sum(x, axis=a) for a in (0, 1)] + [dm.cumulative_sum(dm.flatten(x))]
    flat, at = dm.flatten(x), dm.flatten(i[:, None] * 1100 + dm.cast(x * 300, "int64"))
    out += [flat.at[at % x.size].add(flat), flat.at[at % x.size].set(flat)]
    return [*out, x.at[i].add(x), x.at[i].set(x), dm.take(x, i, axis=0)]


def test_bits_do_not_depend_on_the_number_of_threads():
    rng = np.random.default_rng(7)
    x, i = rng.standard_normal((1000, 1100)).astype(np.float32), rng.integers(-1000, 1000, 1000)
    executable = driver.compile(trace(_movement, x, i))
    assert executable.native().program.chunked >= 9
    found: set[tuple[bytes, ...]] = set()
    for n in (1, 2, 5):
        pool.set_threads(n)
        for _ in range(2):
            found.add(tuple(a.tobytes() for a in executable.run([x, i])[0]))
    assert len(found) == 1
