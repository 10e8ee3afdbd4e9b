"""The steps of a graph as text of the function that runs them, one graph inside another."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..cost import BYTES, LARGE
from ..expr import Buffer, Fold, Load, Reduce
from ..folds import Scatter
from ..loops import Copy, HostCall, Kernel
from ..plan import Plan
from ..spec import Spec
from ..walks import walk
from .function import Function, Known, Piece, Stack
from .jobs import Place
from .nest import Nest
from .sweep import Call, Range, Sweep
from .values import memory_type


def is_number(spec: Spec) -> bool:
    """True for one element of a type that registers hold."""
    return spec.size == 1 and not spec.dtype.is_complex


class Scope:
    """One graph: where its buffers are, and the text of its steps.

    Attributes:
        pointer: the address of a place that is not in the arena: ("param", 2) -> "%p".
        arena: where this graph's part of the arena starts.
        weight: how often it is expected to run.
        outermost: the graph is the whole program's.
        sweep: kernels that are about to be called.
        step: the number of the step at hand.
    """

    def __init__(
        self,
        function: Function,
        plan: Plan,
        pointer: Callable[[str, int], str],
        arena: int = 0,
        weight: float = 1,
        outermost: bool = False,
    ) -> None:
        self.function, self.plan, self.pointer = function, plan, pointer
        self.arena, self.weight, self.outermost = arena, weight, outermost
        self.sweep, self.step = Sweep(function), 0
        self.stacks: dict[Buffer, Stack] = {}
        self._addresses: dict[tuple[Buffer, int], str] = {}

    def offset(self, buffer: Buffer) -> int:
        """Where `buffer` lies in the arena."""
        return self.arena + self.plan.places[buffer].at

    def address(self, buffer: Buffer, offset: int = 0) -> str:
        key = (buffer, offset)
        found = self._addresses.get(key)
        if found is None:
            found = self._addresses[key] = self._address(buffer, offset)
        return found

    def _place(self, buffer: Buffer, offset: int) -> Place:
        """`address`, by the table of the function where that points to it."""
        f, place = self.function, self.plan.places[buffer]
        if place.kind == "arena" and not (f.structured and is_number(buffer.spec)):
            return f.slots.arena, self.offset(buffer) + offset
        if place.kind == "const":
            return f.slots.constants[place.at], offset
        if self.outermost and place.kind in ("param", "output"):
            slots = f.slots.params if place.kind == "param" else f.slots.outputs
            return slots[place.at], offset
        return self.address(buffer, offset)

    def _address(self, buffer: Buffer, offset: int) -> str:
        f, place = self.function, self.plan.places[buffer]
        if place.kind == "arena" and f.structured and is_number(buffer.spec):
            return f.number(buffer.spec)
        if place.kind in ("arena", "const"):
            found = self._place(buffer, offset)
            assert isinstance(found, tuple)
            return f.at(*found)
        base = self.pointer(place.kind, place.at)
        if not offset:
            return base
        name = f.name("%a")
        lines = f.body if base in f.varying else f.head
        lines.append(f"  {name} = getelementptr i8, ptr {base}, i64 {offset}")
        if base in f.varying:
            f.varying.add(name)
        return name

    def flush(self) -> None:
        """Run the kernels that wait, before what is written next."""
        self.sweep.flush()
        self.function.flush()

    def kernel(self, step: Kernel) -> None:
        f, known = self.function, self.function.known(step)
        f.totals.work += known.cost.work * self.weight
        if f.structured and _is_straight(step):
            self.flush()
            self._straight(step)
        elif isinstance(step.fold, Scatter):
            self._update(step, step.fold)
        elif step.stores:
            self._calls(known)

    def _update(self, step: Kernel, form: Scatter) -> None:
        """What is there before comes first, unless it is in place already."""
        first = form.before(step)
        value = first.stores[0].value
        if not (
            isinstance(value, Load)
            and value.index[0] is first.stores[0].offset
            and self.address(value.buffer) == self.address(first.stores[0].buffer)
        ):
            self._calls(self.function.known(first), whole=True)
            self.sweep.flush()
        self._calls(self.function.known(form.each_once(step) or step), whole=True)

    def _straight(self, step: Kernel) -> None:
        """Numbers are computed right here."""
        f = self.function
        buffers = dict.fromkeys([*step.writes(), *step.reads()])
        nest = Nest(f.host, {b: self.address(b) for b in buffers})
        nest.w, f.w.lines = f.w, nest.lines
        block = nest.levels[0].block
        block.label = start = nest.label("numbers")
        for s in step.stores:
            nest.value(s.value)
        for s in step.stores:
            nest.store(s.buffer, s.offset, s.value)
        if block.label != start:  # there are branches
            f.body += [f"  br label %{start}", f"{start}:"]
        f.body += nest.lines
        f.w.lines = f.body

    def _calls(self, known: Known, whole: bool = False) -> None:
        """Call the code of a kernel, part by part unless it stays `whole`."""
        f = self.function
        for part in [known.whole] if whole else known.parts:
            code = part.code(f, self._streams(part, known.buffers))
            f.totals.kernels += 1
            kernel, buffers = part.kernel, known.buffers
            self.sweep.add(
                Call(
                    code.name,
                    tuple([self._place(buffers[b], at) for b, at in code.places]),
                    code.chunks,
                    part.work,
                    self.step,
                    tuple([self._range(buffers[b]) for b in kernel.reads()]),
                    tuple([self._range(buffers[b]) for b in kernel.writes()]),
                )
            )

    def _range(self, buffer: Buffer) -> Range:
        """The memory of `buffer`. What comes from outside of an inner graph may be all the same."""
        place = self.plan.places[buffer]
        if place.kind == "arena":
            start = self.offset(buffer)
            return "arena", start, start + buffer.spec.nbytes
        if place.kind == "const" or not self.outermost:
            return ("const" if place.kind == "const" else "outside"), 0, 1
        return f"{place.kind} {place.at}", 0, 1

    def _streams(self, part: Piece, buffers: Mapping[Buffer, Buffer]) -> frozenset[Buffer]:
        """Results that are best stored past the caches: none that are written in place."""
        if part.work * BYTES < LARGE or part.cost.moved < LARGE:
            return frozenset()
        places, kernel = self.plan.places, part.kernel
        read = {places[buffers[b]] for b in kernel.reads()}
        return frozenset(b for b in kernel.writes() if places[buffers[b]] not in read)

    def host(self, step: HostCall) -> None:
        f = self.function
        on = None
        if step.guard is not None:
            call, on = f.name("call"), f.name("on")
            flag = f.w.emit(f"load i8, ptr {self.address(step.guard)}")
            wanted = f.w.emit(f"icmp ne i8 {flag}, 0")
            f.body += [f"  br i1 {wanted}, label %{call}, label %{on}", f"{call}:"]
        self._call_back(step)
        if on is not None:
            f.body += [f"  br label %{on}", f"{on}:"]

    def _call_back(self, step: HostCall) -> None:
        """The host has copies of numbers, so that they can stay in registers."""
        f = self.function
        places = [self.address(b) for b in (*step.inputs, step.output)]
        seen = list(places)
        for k, b in enumerate((*step.inputs, step.output)):
            if places[k] in f.variables:
                seen[k] = f.number(b.spec)
        for b, place, copied in zip(step.inputs, places, seen, strict=False):
            if copied != place:
                copy(f, place, copied, b.spec)
        array = f.array(seen)
        number = len(f.totals.calls)
        f.totals.calls.append(step)
        callback = f.base(f.slots.callback)
        code = f.w.emit(f"call i32 {callback}(i64 {number}, ptr {array})")
        f.fail_if(f.w.emit(f"icmp ne i32 {code}, 0"), number + 1)
        if seen[-1] != places[-1]:
            copy(f, seen[-1], places[-1], step.output.spec)

    def copy(self, step: Copy) -> None:
        copy(self.function, self.address(step.source), self.address(step.target), step.source.spec)
        self.function.totals.work += step.source.spec.size * self.weight


def copy(f: Function, source: str, target: str, spec: Spec) -> None:
    """`*target = *source`"""
    if f.structured and is_number(spec):
        kind, size = memory_type(spec.dtype, 1), spec.dtype.itemsize
        value = f.w.emit(f"load {kind}, ptr {source}, align {size}")
        f.body.append(f"  store {kind} {value}, ptr {target}, align {size}")
    elif spec.nbytes:
        args = f"ptr {target}, ptr {source}, i64 {spec.nbytes}, i1 0"
        f.body.append(f"  call void @llvm.memcpy.p0.p0.i64({args})")


def _is_straight(step: Kernel) -> bool:
    values = [s.value for s in step.stores]
    return not step.axes and not any(isinstance(e, Reduce | Fold) for e in walk(values))
