"""Places and order of steps: nothing is overwritten while it is needed, states change in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dualmode as dm
from drawing import graphs
from dualmode_compiler import driver, expr, passes
from dualmode_compiler.expr import Axis, Buffer
from dualmode_compiler.graph import Graph
from dualmode_compiler.loops import Copy, HostCall, Kernel, Store
from dualmode_compiler.lower import lower
from dualmode_compiler.plan import ALIGN, Plan, plan, same_element
from dualmode_compiler.spec import Spec, float32, int64
from graphs import check, trace

Region = tuple[str, int, int]  # space, first byte, end


class Memory:
    """Runs a plan on names: who lies where, and of which value."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.held: dict[Buffer, Region] = {}
        self.value: dict[Buffer, Any] = {}

    def region(self, b: Buffer) -> Region:
        place = self.plan.places[b]
        if place.kind == "arena":
            assert place.at % ALIGN == 0 and place.at + b.spec.nbytes <= self.plan.arena
            return "arena", place.at, place.at + b.spec.nbytes
        return f"{place.kind} {place.at}", 0, b.spec.nbytes

    def put(self, b: Buffer, value: Any, step: Any = None) -> None:
        space, start, stop = here = self.region(b)
        for other, (s, low, high) in list(self.held.items()):
            if s == space and low < stop and start < high:
                if step is not None and other in step.reads():
                    assert isinstance(step, Kernel) and (low, high) == (start, stop)
                    assert same_element(step, other, b), f"{step.name} reads {other} elsewhere"
                del self.held[other]
        self.held[b], self.value[b] = here, value

    def run(self) -> None:
        made = {b for s in self.plan.steps if not isinstance(s, Copy) for b in s.writes()}
        for b, place in self.plan.places.items():
            if place.kind in ("param", "const") and b not in made:
                self.put(b, b)
        for step in self.plan.steps:
            for b in step.reads():
                assert b in self.held or not b.spec.nbytes, f"{step} reads {b}, which is gone"
            assert len(set(step.writes())) == len(step.writes())
            for b in step.writes():
                assert step.reads() == [b] or b not in step.reads()
                self.put(b, self.value[step.source] if isinstance(step, Copy) else b, step)

    def at(self, kind: str, number: int) -> Any:
        """The value in that parameter or output at the end."""
        (b,) = [b for b, (space, _, _) in self.held.items() if space == f"{kind} {number}"]
        return self.value[b]


def planned(graph: Graph) -> tuple[Plan, Memory]:
    """The plan of `graph`, run on names: outputs and states end with their values."""
    with expr.fresh():
        steps, lowering = lower(graph)
        made = plan(graph, steps, lowering)
        memory = Memory(made)
        memory.run()
        for k, node in enumerate(graph.outputs):
            if node.spec.nbytes:
                assert memory.at("output", k) is lowering.lowered[node].buffer
        for k, node in graph.updates:
            if node.spec.nbytes:
                assert memory.at("param", k) is lowering.lowered[node].buffer
    return made, memory


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_no_live_buffers_overlap(data: st.DataObject):
    planned(passes.run(graphs(data.draw, data.draw(st.integers(1, 25)))))


F = "float32[7]"
NUMBERS = st.lists(st.integers(0, 3), min_size=4, max_size=4)


@settings(max_examples=200)
@given(NUMBERS, st.lists(st.integers(0, 5), min_size=4, max_size=4), st.lists(st.integers(0, 7)))
def test_states_take_each_others_values(new: list[int], how: list[int], outputs: list[int]):
    """Every state takes another's old value, its own, or one that is computed from both."""

    def fn(*states: Any) -> Any:
        def value(k: int) -> Any:
            x, y = states[k], states[new[k]]
            return [y, y, y, x, x - y, dm.flip(y)][how[k]]

        values = [*states, *map(value, range(4))]
        return values[4:], [values[k] for k in outputs]

    planned(trace(fn, *[F] * 4, states=4))


UPDATES: dict[str, tuple[Any, list[str], int]] = {
    "swap": (lambda a, b: ([b, a], []), [F, F], 2),
    "swap and read": (lambda a, b: ([b, a], [a, b, a + b]), [F, F], 2),
    "rotate": (lambda a, b, c: ([b, c, a], [a, b, c]), [F, F, F], 3),
    "broadcast": (lambda a, b, c: ([b, b, b], [a, b, c]), [F, F, F], 3),
    "mixed": (lambda a, b, c: ([b, a + b, a], [a, b, c, c]), [F, F, F], 3),
    "by a parameter": (lambda a, b, c: ([c, c], [a, b, c]), [F, F, F], 2),
    "one value twice": (lambda a, b: ([a + b, a + b], [a + b, a + b, a]), [F, F], 2),
    "old values, copied late": (lambda a: ([a * 2.0], [a, a]), [F], 1),
    "itself": (lambda a: ([a], [a]), [F], 1),
    "constants": (lambda a, b: ([dm.zeros(7), dm.ones(7)], [a]), [F, F], 2),
    "nothing": (lambda a, b: ([a * 2.0, b + a], []), ["float32[0]", "float32[0]"], 2),
    "a scalar": (lambda a, b: ([a * 2.0, b + a[0]], [a[1]]), ["float32[4]", "float32[]"], 2),
    "reversed": (lambda a, b: ([dm.flip(a), dm.flip(b) + a], [dm.flip(a)]), [F, F], 2),
    "transposed": (
        lambda a, b: ([dm.transpose(a) + 1.0, a @ b], [dm.sum(b, axis=0)]),
        ["float32[33,33]", "float32[33,33]"],
        2,
    ),
    "gathered": (
        lambda a, i: ([dm.take(a, dm.abs(i), 0) + a], [dm.take(a, dm.abs(i), 0)]),
        ["float32[9]", "int32[9]"],
        1,
    ),
    "scattered": (
        lambda a, i: ([a.at[dm.abs(i)].add(1.0)], [a * 2.0, dm.take(a, dm.abs(i), 0)]),
        ["float32[9]", "int32[9]"],
        1,
    ),
    "rows and elements": (
        lambda v, r: ([v - dm.sum(v, 1, True), r + dm.sum(v, 1)], [v * 2.0, r * 3.0, dm.sum(v)]),
        ["float32[9,17]", "float32[9]"],
        2,
    ),
    "elements read rows": (
        lambda v, r: ([v - r[:, None], r * 2.0], [v * 2.0]),
        ["float32[3,4]", "float32[3]"],
        2,
    ),
    "old value after a chain": (
        lambda a, b: ([dm.tanh(a) * b, b + dm.sum(a)], [dm.sum(a) + b, dm.max(b) + a]),
        [F, F],
        2,
    ),
    "a product with itself": (
        lambda w: ([w - dm.matmul(w, w, True, False)], [w @ w, dm.sum(w)]),
        ["float32[65,65]"],
        1,
    ),
    "an epilogue over the state": (
        lambda w, x: ([w * 0.5 + dm.matmul(x, x, True, False)], [dm.sum(w)]),
        ["float32[65,65]", "float32[40,65]"],
        1,
    ),
    "a new value that does not read the old": (
        lambda v, g: ([g * 2.0], [v * 3.0 + g * 2.0]),
        [F, F],
        1,
    ),
    "by the host": (
        lambda a: ([dm.conj(a)], [a, dm.conj(a + 1.0)]),
        ["complex64[5]"],
        1,
    ),
    "complex": (lambda a, b: ([b, a * b], [a + b, b]), ["complex64[5]", "complex64[5]"], 2),
}


@pytest.mark.parametrize("name", UPDATES)
def test_updates(name: str):
    fn, specs, states = UPDATES[name]
    graph = trace(fn, *specs, states=states)
    planned(graph)
    check(graph, ulp=8)


def test_a_plain_update_is_in_place():
    graph = trace(lambda v, g: ([v - g * 0.1], []), F, F, states=1)
    made, _ = planned(graph)
    assert made.arena == 0
    assert [type(s) for s in made.steps] == [Kernel]


def test_an_update_waits_for_readers_of_the_old_value():
    """The reader is made last, and no data leads from it to the update."""
    graph = trace(
        lambda v: ([v * 2.0], [dm.sum(dm.cumulative_sum(v)), dm.flip(v) * 3.0]), F, states=1
    )
    made, memory = planned(graph)
    state = next(b for b, p in made.places.items() if p.kind == "param" and b in memory.value)
    writers = [k for k, s in enumerate(made.steps) if made.places[s.writes()[0]].kind == "param"]
    assert writers and all(k <= writers[0] for k, s in enumerate(made.steps) if state in s.reads())
    check(graph)


def test_states_change_after_all_that_may_fail():
    """A call back to Python comes before updates that do not need it: it may raise."""
    graph = trace(lambda a, c: ([a * 2.0, dm.conj(c)], []), F, "complex64[5]", states=2)
    made, _ = planned(graph)
    calls = [k for k, s in enumerate(made.steps) if isinstance(s, HostCall)]
    writers = [
        k
        for k, s in enumerate(made.steps)
        if any(made.places[b].kind == "param" for b in s.writes())
    ]
    assert calls and len(writers) == 2 and max(calls) < min(writers)


def test_a_product_is_not_stored_over_its_operand():
    """Every element of the product reads a row and a column of the operands."""
    for fn in (lambda a, b: ([a @ b], []), lambda a, b: ([b @ a], []), lambda a, b: ([a @ a], [])):
        graph = trace(fn, "float32[64,64]", "float32[64,64]", states=1)
        made, _ = planned(graph)
        assert made.arena >= 64 * 64 * 4
        check(graph, ulp=8)


def test_scratch_is_used_again():
    """A chain of reductions and rows needs two rows' room, not one for every link."""

    def chain(x: Any) -> Any:
        for _ in range(20):
            x = dm.flip(dm.cumulative_sum(x)) + 1.0
        return x

    made, _ = planned(trace(chain, "float32[1000]"))
    assert made.arena <= 3 * 4032


def test_every_state_that_does_not_change_is_left_alone():
    graph = trace(lambda a, b: ([a, b + a], [a * b]), F, F, states=2)
    made, _ = planned(graph)
    written = {
        made.places[b].at for s in made.steps for b in s.writes() if made.places[b].kind == "param"
    }
    assert written == {1}


def _kernel(source_offset: Any, target_offset: Any, axes: tuple[Axis, ...]) -> tuple[Any, ...]:
    source, target = Buffer("x", Spec((8,), float32)), Buffer("y", Spec((8,), float32))
    value = expr.apply("neg", expr.load(source, [source_offset]))
    kernel = Kernel("k", axes, [Store(target, target_offset, value, len(axes))])
    return kernel, source, target


def test_same_element():
    i = Axis(8)
    assert same_element(*_kernel(i, i, (i,)))
    assert not same_element(*_kernel(i + 1, i, (i,)))
    assert not same_element(*_kernel(7 - i, i, (i,)))
    assert not same_element(*_kernel(expr.const(0, int64), i, (i,)))


def test_effects_keep_their_order_where_a_later_one_gives_the_result():
    seen: list[str] = []
    graph = _effects(seen)
    for _ in range(2):
        seen.clear()
        driver.compile(graph).run([np.ones(3, np.float32)])
        assert seen == ["first", "second", "third"]
    calls = [
        s.node.attr("tag")
        for s in driver.compile(graph).native().plan.steps
        if isinstance(s, HostCall)
    ]
    assert calls == ["first", "second", "third"]


def _effects(seen: list[str]) -> Graph:
    """Three effects, of which the last one's value is the only output."""

    class Note:
        name, effect, lower, simplify = "note", True, None, ()

        @staticmethod
        def infer(x: Spec, *, tag: str) -> Spec:
            return x

        @staticmethod
        def kernel(x: Any, tag: str) -> Any:
            seen.append(tag)
            return x

    graph = Graph()
    x = graph.param(Spec((3,), float32))
    made = [graph.add(Note(), [x], {"tag": tag}) for tag in ("first", "second", "third")]
    graph.outputs = [made[2], made[1]]
    return graph
