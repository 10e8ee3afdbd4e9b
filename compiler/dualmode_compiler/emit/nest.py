"""Loop nests with values at their levels: how expressions become instructions.

A `Nest` is one function under construction. Each open loop is a `Level`; an expression is emitted
once, in the outermost level that binds all its axes, so hoisting and common subexpressions need no
pass. Inside a vectorised loop, what depends on its axis is a vector and all else stays scalar until
a vector instruction needs it. Reductions are emitted as loops at the level of their value, with a
fixed number of accumulators that are combined in a fixed order: the result never depends on the
number of threads.
"""

from __future__ import annotations

from ..arithmetic import affine
from ..expr import Affine, Apply, Axis, Buffer, Const, Expr, Fold, Load, Reduce
from ..runtime.jit import Host
from ..spec import DType, bool_, int64
from . import onelane, rare
from .gather import gather
from .instructions import apply, literal, memory_type, register_type, splat
from .levels import Level, Levels, Value, iota
from .room import reserve
from .strided import FARTHEST, strided
from .vmath import expand

ACCUMULATORS = 4  # independent partial results of a reduction, to hide the latency of its operator


class Nest(Levels):
    """A function being emitted. `pointers` gives each buffer's base address as an SSA name."""

    def __init__(self, host: Host, pointers: dict[Buffer, str]) -> None:
        super().__init__()
        self.host = self.w.host = host
        self.pointers = pointers
        self.splats: dict[tuple[str, DType, int], str] = {}
        self.expanded: dict[Expr, Expr] = {}
        # values that are stored to a row when they are computed; the row, and its step
        self.kept: dict[Expr, tuple[str, int]] = {}
        # values to load from a row, at that axis times that step
        self.rows: dict[Expr, tuple[str, Axis, int]] = {}
        self._rooms: dict[str, int] = {}  # bytes of memory by name, see `room`
        self.streaming: set[Buffer] = set()  # where whole vectors are stored past the caches
        # loads that prefetch, and how many elements ahead: to the first and second level of caches
        self.ahead: dict[Load, int] = {}
        self.far_ahead: dict[Load, int] = {}

    def extent(self, axis: Axis) -> str:
        """The number of values of a bound axis."""
        return str(axis.extent)

    def _level(self, x: Expr) -> int:
        return max((self.depth[a] for a in x.axes), default=0)

    def scope_of(self, x: Expr) -> Level:
        """The level that `x` is computed at."""
        return self.levels[self._level(x)]

    def _to(self, level: int) -> Level:
        found = self.levels[level]
        self.w.lines = found.block.lines
        return found

    def value(self, x: Expr) -> Value:
        """`x` in registers: a vector where it depends on the level's vector axis, else a scalar."""
        stack = [x]
        while stack:
            e = stack[-1]
            if e in self.memo:
                stack.pop()
                continue
            missing = [c for c in self._needs(e) if c not in self.memo]
            if missing:
                stack.extend(missing)
                continue
            stack.pop()
            level = self._level(e)
            self.memo[e] = self._compute(e, level)
            self.levels[level].names.append(e)
            if e in self.kept:
                self._keep(e, level)
        return self.memo[x]

    def vector(self, x: Expr, lanes: int) -> str:
        """`x` in `lanes` lanes, splat if it is a scalar."""
        if isinstance(x, Const):
            return literal(x.value, x.dtype, lanes)
        v = self.value(x)
        return v.name if v.lanes == lanes else self._splat(v.name, x.dtype, lanes, self._level(x))

    def _splat(self, name: str, dtype: DType, lanes: int, level: int) -> str:
        key = (name, dtype, lanes)
        if key not in self.splats:
            self._to(level)
            self.splats[key] = splat(self.w, name, dtype, lanes)
        return self.splats[key]

    def _needs(self, x: Expr) -> tuple[Expr, ...]:
        if x in self.rows:
            return ()
        if isinstance(x, Apply):
            wide = self._expand(x)
            if wide is not x:
                return (wide,)
            one = onelane.compared(self, x)
            if one is not None:
                return onelane.needed(*one)
            choice = onelane.choice(self, x)
            if choice is not None:
                return choice.needs()
            return rare.known(x) if x.fn == "rarely" else x.args
        if isinstance(x, Affine):
            return tuple(a for a, _ in x.terms if not isinstance(a, Axis))
        if isinstance(x, Load):
            return self._needs(x.index[0]) if isinstance(x.index[0], Affine) else ()
        return ()

    def _expand(self, x: Apply) -> Expr:
        """`x` in core primitives."""
        found = self.expanded.get(x)
        if found is None:
            found = self.expanded[x] = expand(x)
        return found

    def is_plain(self, x: Apply) -> bool:
        """Whether `x` is a core primitive that is computed in one go."""
        return self._expand(x) is x and x.fn != "rarely"

    def _compute(self, x: Expr, level: int) -> Value:
        scope = self.levels[level]
        lanes = scope.lanes if scope.vector in x.axes else 1
        if isinstance(x, Const):
            return Value(literal(x.value, x.dtype, 1), 1)
        if x in self.rows:
            return Value(self._recall(x, level), lanes)
        if isinstance(x, Axis | Affine):
            return Value(self.base(x) if lanes == 1 else self._indices(x, level), lanes)
        if isinstance(x, Load):
            return self._load(x, level, lanes)
        if isinstance(x, Reduce | Fold):
            return self._reduce(x, level)
        assert isinstance(x, Apply)
        wide = self._expand(x)
        if wide is not x:
            return self.memo[wide]
        if x.fn == "rarely":
            return Value(self._rarely(x, level, lanes), lanes)
        one = onelane.compared(self, x)
        if one is not None:
            value, first = self.vector(one[0], 1), self.base(one[1])
            self._to(level)
            return Value(onelane.mask(self, x.fn, value, first, lanes), lanes)
        choice = onelane.choice(self, x)
        if choice is not None:
            value, first = self.vector(choice.value, 1), self.base(choice.index)
            return Value(onelane.branch(self, scope.block, choice, value, first, lanes), lanes)
        args = [self.vector(a, lanes) for a in x.args]
        self._to(level)
        kinds = [a.dtype for a in x.args]
        return Value(apply(self.w, x.fn, args, kinds, x.dtype, lanes), lanes)

    def _rarely(self, x: Apply, level: int, lanes: int) -> str:
        names = [self.vector(a, lanes) for a in rare.known(x)]
        self._to(level)
        return rare.branch(self, self.levels[level].block, x, names, lanes)

    # --- addresses --------------------------------------------------------------------------------

    def base(self, x: Expr) -> str:
        """An int64 index as a scalar, with the vector axis at its first lane."""
        if isinstance(x, Axis):
            return self.at[x]
        if not isinstance(x, Affine):
            return self.value(x).name
        if x in self.bases:
            return self.bases[x]
        *rest, (atom, coef) = sorted(x.terms, key=lambda t: self._level(t[0]))
        before = self.base(affine(rest, x.const))
        term = self.base(atom)
        level = self._level(x)
        self._to(level)
        if coef != 1:
            term = self.w.emit(f"mul i64 {term}, {coef}")
        out = term if before == "0" else self.w.emit(f"add i64 {before}, {term}")
        self.bases[x] = out
        self.levels[level].names.append(x)
        return out

    def _indices(self, x: Expr, level: int) -> str:
        """An int64 index that depends on the vector axis, one value per lane."""
        scope = self.levels[level]
        lanes, kind = scope.lanes, f"<{scope.lanes} x i64>"
        if isinstance(x, Axis):
            start = self._splat(self.at[x], int64, lanes, self.depth[x])
            self._to(level)
            return self.w.emit(f"add {kind} {start}, {iota(lanes)}")
        assert isinstance(x, Affine)
        fixed = affine(((a, c) for a, c in x.terms if scope.vector not in a.axes), x.const)
        total = self.vector(fixed, lanes)
        for atom, coef in x.terms:
            if scope.vector in atom.axes:
                part = self.vector(atom, lanes)
                self._to(level)
                scaled = self.w.emit(f"mul {kind} {part}, {literal(coef, int64, lanes)}")
                total = self.w.emit(f"add {kind} {total}, {scaled}")
        return total

    def stride(self, index: Expr, axis: Axis | None) -> int | None:
        """How far `index` moves per step of `axis`; None if not by a constant."""
        if axis is None or axis not in index.axes:
            return 0
        if index is axis:
            return 1
        if isinstance(index, Affine):
            if any(axis in a.axes and a is not axis for a, _ in index.terms):
                return None
            return dict(index.terms)[axis]
        return None

    def address(self, buffer: Buffer, index: Expr) -> str:
        """Where an element is. What the outer loops say of it is computed there, as a pointer: so
        addresses in the innermost loop are that and a counter, which instructions can add."""
        element = memory_type(buffer.spec.dtype, 1)
        place = self._place(self.pointers[buffer], element, index)
        self._to(self._level(index))
        return place

    def _place(self, base: str, element: str, index: Expr) -> str:
        scope = self.scope_of(index)
        known = scope.places.get((base, element, index))
        if known is not None:
            return known
        near, far = index, None
        if isinstance(index, Affine):
            level = self._level(index)
            inner = [t for t in index.terms if self._level(t[0]) == level]
            if len(inner) < len(index.terms):
                far = affine((t for t in index.terms if t not in inner), 0)
                near = affine(inner, index.const)
        start = base if far is None else self._place(base, element, far)
        offset = self.base(near)
        self._to(self._level(index))
        place = self.w.emit(f"getelementptr {element}, ptr {start}, i64 {offset}")
        scope.places[base, element, index] = place
        return place

    def _load(self, x: Load, level: int, lanes: int) -> Value:
        index, dtype, scope = x.index[0], x.dtype, self.levels[level]
        stride = self.stride(index, scope.vector) if lanes > 1 else 1
        if stride != 1:
            near = stride is not None and abs(stride) <= FARTHEST and scope.mask is None
            if near and stride is not None:
                first = self.address(x.buffer, index)
                self._to(level)
                out = strided(self.w, first, stride, dtype, lanes)
            elif scope.mask is None:
                out = gather(self, x, level)
            else:
                out = self._gather(x, level)
            return Value(self.from_memory(out, dtype, lanes), lanes)
        place = self.address(x.buffer, index)
        self._to(level)
        if lanes > 1 and scope.mask is None:
            self._prefetch(x, place)
        out = self.read(dtype, place, lanes, scope.mask)
        return Value(self.from_memory(out, dtype, lanes), lanes)

    def _prefetch(self, x: Load, place: str) -> None:
        element = memory_type(x.dtype, 1)
        for wanted, locality in ((self.ahead, 3), (self.far_ahead, 2)):
            if x in wanted:
                later = self.w.emit(f"getelementptr {element}, ptr {place}, i64 {wanted[x]}")
                given = f"ptr {later}, i32 0, i32 {locality}, i32 1"
                self._intrinsic("void @llvm.prefetch.p0", given)

    def read(self, dtype: DType, place: str, lanes: int, mask: str | None) -> str:
        """`lanes` neighbours from `place`, as they are in memory."""
        kind, size = memory_type(dtype, lanes), dtype.itemsize
        if lanes == 1 or mask is None:
            return self.w.emit(f"load {kind}, ptr {place}, align {size}")
        args = f"ptr {place}, i32 {size}, <{lanes} x i1> {mask}, {kind} zeroinitializer"
        return self._intrinsic(f"{kind} @llvm.masked.load.{_mangle(kind)}.p0", args)

    def write(self, name: str, dtype: DType, place: str, lanes: int, mask: str | None) -> None:
        """Store `lanes` neighbours, as they are in memory, to `place`."""
        kind, size = memory_type(dtype, lanes), dtype.itemsize
        if lanes == 1 or mask is None:
            self.w.line(f"  store {kind} {name}, ptr {place}, align {size}")
        else:
            args = f"{kind} {name}, ptr {place}, i32 {size}, <{lanes} x i1> {mask}"
            self._intrinsic(f"void @llvm.masked.store.{_mangle(kind)}.p0", args)

    def room(self, count: int, dtype: DType) -> str:
        """Memory for `count` values, there from the start of the function; see `reserve`."""
        row = self.w.fresh()
        self._rooms[row] = count * dtype.itemsize
        return row

    def reserve(self) -> int:
        """Write what makes all this memory, once the function is written. How many bytes of the
        thread's workspace it takes, or 0."""
        lines, self.w.lines = self.lines[:], []
        held = reserve(self.w, self._rooms)
        self.lines[:] = self.w.lines + lines
        return held

    def keep(self, value: Expr, reuse: Expr, inner: Axis, lanes: int) -> None:
        """Store `value` to a row as it is computed, and load `reuse` from there at `inner`.

        The row holds `lanes` neighbours for each value of `inner`.
        """
        row = self.room(inner.extent * lanes, value.dtype)
        self.kept[value] = row, lanes
        self.rows[reuse] = row, inner, lanes

    def _keep(self, x: Expr, level: int) -> None:
        (axis,) = (a for a in x.axes if self.depth[a] == level)
        row, step = self.kept[x]
        self.put(self.memo[x], x.dtype, row, axis, step, level)

    def _recall(self, x: Expr, level: int) -> str:
        row, axis, step = self.rows[x]
        lanes = self.levels[level].lanes if self.levels[level].vector in x.axes else 1
        return self.get(lanes, x.dtype, row, axis, step, level)

    def put(
        self, value: Value, dtype: DType, row: str, axis: Axis, step: int, level: int = -1
    ) -> None:
        """Store `value` to `row`, in the place of `axis` at an open level."""
        place = self._in_row(dtype, row, axis, step, level)
        mask = self.levels[level].mask if value.lanes > 1 else None
        self.write(value.name, dtype, place, value.lanes, mask)

    def get(
        self, lanes: int, dtype: DType, row: str, axis: Axis, step: int, level: int = -1
    ) -> str:
        """What `put` stored there."""
        place = self._in_row(dtype, row, axis, step, level)
        return self.read(dtype, place, lanes, self.levels[level].mask)

    def _in_row(self, dtype: DType, row: str, axis: Axis, step: int, level: int) -> str:
        self._to(level)
        at = self.at[axis]
        if step != 1:
            at = self.w.emit(f"mul nuw nsw i64 {at}, {step}")
        return self.w.emit(f"getelementptr {memory_type(dtype, 1)}, ptr {row}, i64 {at}")

    def _gather(self, x: Load, level: int) -> str:
        """Elements that do not lie side by side, one for each lane of the mask."""
        index, dtype, scope = x.index[0], x.dtype, self.levels[level]
        lanes, kind = scope.lanes, memory_type(dtype, scope.lanes)
        places = self.vector(index, lanes)
        self._to(level)
        element, base = memory_type(dtype, 1), self.pointers[x.buffer]
        pointers = self.w.emit(f"getelementptr {element}, ptr {base}, <{lanes} x i64> {places}")
        mask = f"<{lanes} x i1> {scope.mask}"
        args = f"<{lanes} x ptr> {pointers}, i32 {dtype.itemsize}, {mask}, {kind} zeroinitializer"
        return self._intrinsic(f"{kind} @llvm.masked.gather.{_mangle(kind)}.v{lanes}p0", args)

    def _intrinsic(self, signature: str, args: str) -> str:
        """Call an intrinsic and declare it: `signature` is its result type and name."""
        kinds = ", ".join(_kind(a) for a in _arguments(args))
        self.w.declarations.add(f"declare {signature}({kinds})")
        call = f"call {signature}({args})"
        if signature.startswith("void"):
            self.w.line(f"  {call}")
            return ""
        return self.w.emit(call)

    def from_memory(self, name: str, dtype: DType, lanes: int) -> str:
        """What was read, as it is computed with: booleans are bytes in memory, bits elsewhere."""
        if dtype is not bool_:
            return name
        wide, bits = memory_type(dtype, lanes), register_type(dtype, lanes)
        return self.w.emit(f"trunc {wide} {name} to {bits}")

    def store(self, buffer: Buffer, index: Expr, x: Expr) -> None:
        """Store `x`; contiguously, from the first lane's place, where the level is vectorised."""
        scope, dtype = self.levels[-1], buffer.spec.dtype
        lanes = scope.lanes
        name = self.vector(x, lanes)
        place = self.address(buffer, index)
        self._to(len(self.levels) - 1)
        if dtype is bool_:
            kind = memory_type(dtype, lanes)
            name = self.w.emit(f"zext {register_type(dtype, lanes)} {name} to {kind}")
        if buffer in self.streaming and scope.mask is None and lanes > 1:
            self._write_past(name, dtype, place, lanes)
        else:
            self.write(name, dtype, place, lanes, scope.mask)

    def _write_past(self, name: str, dtype: DType, place: str, lanes: int) -> None:
        """Store aligned vectors past the caches."""
        self.w.declarations.add("!0 = !{i32 1}")
        align = min(lanes * dtype.itemsize, self.host.vector_bytes)
        kind = memory_type(dtype, lanes)
        self.w.line(f"  store {kind} {name}, ptr {place}, align {align}, !nontemporal !0")

    def fence(self) -> None:
        """Let other threads see what was stored past the caches before what follows."""
        self.w.lines = self.lines
        self.w.declarations.add("declare void @llvm.x86.sse.sfence()")
        self.w.line("  call void @llvm.x86.sse.sfence()")

    def _reduce(self, x: Reduce | Fold, level: int) -> Value:
        from .fold import emit_fold  # these modules are one design in three files
        from .reduce import emit_reduce

        inner, self.levels = self.levels[level + 1 :], self.levels[: level + 1]
        try:
            return emit_reduce(self, x) if isinstance(x, Reduce) else emit_fold(self, x)
        finally:
            self.levels += inner


_SUFFIX = {"half": "f16", "float": "f32", "double": "f64"}


def _mangle(kind: str) -> str:
    lanes, _, element = kind[1:-1].split()
    return f"v{lanes}{_SUFFIX.get(element, element)}"


def _arguments(text: str) -> list[str]:
    """Split at the commas outside of brackets."""
    out, depth, start = [], 0, 0
    for k, c in enumerate(text):
        depth += (c in "<(") - (c in ">)")
        if c == "," and depth == 0:
            out.append(text[start:k].strip())
            start = k + 1
    return [*out, text[start:].strip()]


def _kind(argument: str) -> str:
    """The type in front of an operand."""
    if argument[0] == "<":
        return argument[: argument.index(">") + 1]
    return argument.split()[0]
