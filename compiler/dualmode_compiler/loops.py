"""Kernels: what lowering makes of a graph and what the emitters turn into code."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import field
from typing import TYPE_CHECKING

from . import expr
from .expr import Affine, Axis, Buffer, Expr, Load, Reduce
from .graph import LOOP, Graph, Node
from .index import ravel
from .records import dataclass
from .spec import int64
from .walks import operands, rebuild, substitute, walk

if TYPE_CHECKING:
    from .contract import Gemm, Tiling
    from .folds import Scan, Scatter
    from .plan import Plan
    from .tuner import Choice


@dataclass(slots=True)
class Store:
    """`buffer[offset] = value` for every value of the kernel's first `depth` axes."""

    buffer: Buffer
    offset: Expr
    value: Expr
    depth: int


@dataclass(slots=True)
class Contraction:
    """The part of a kernel that the GEMM template computes.

    Attributes:
        reduce: the expression that a finished tile holds.
        gemm: sizes and strides.
        a, b: operands, and their constant element offsets.
        batch, m, n: the kernel axes that the template's indices stand for (None: size 1).
        choice: how it is cut, where that was measured; else by the model.
        sums: the sum over the rows of B, which the kernel computes besides. Its stores have depth
            1, and the kernel's axes are then n and m.
        left, right: an element of A, or B, where that is computed as it is read; `a`, or `b`, is
            then the largest array that it is computed of.
    """

    reduce: Reduce
    gemm: Gemm
    a: tuple[Buffer, int]
    b: tuple[Buffer, int]
    batch: tuple[Axis, ...]
    m: Axis | None
    n: Axis | None
    choice: Choice | None = None
    sums: Reduce | None = None
    left: Expr | None = None
    right: Expr | None = None

    @property
    def cut(self) -> Tiling | None:
        return None if self.choice is None else self.choice.tiling


@dataclass(slots=True)
class Kernel:
    """One loop nest over `axes`, outermost first; each store sits at its own depth.

    Values are recomputed or hoisted by the emitter: an expression is evaluated once, in the
    outermost loop that binds all its axes, so a softmax is three loops inside its row loop.

    Attributes:
        nodes: what it computes.
        apart: the kernel that it might have been part of, and why it is not.
    """

    name: str
    axes: tuple[Axis, ...]
    stores: list[Store]
    contraction: Contraction | None = None
    nodes: list[Node] = field(default_factory=list)
    fold: Scan | Scatter | None = None
    apart: str = ""

    def reads(self) -> list[Buffer]:
        found = walk([s.value for s in self.stores])
        reads = dict.fromkeys(e.buffer for e in found if isinstance(e, Load))
        if self.fold is not None and self.fold.totals is not None:
            reads[self.fold.totals] = None
        return list(reads)

    def writes(self) -> list[Buffer]:
        return [s.buffer for s in self.stores]

    def products(self) -> list[Store]:
        """The stores inside of all loops."""
        return [s for s in self.stores if s.depth == len(self.axes)]


@dataclass(slots=True)
class HostCall:
    """A node whose NumPy kernel is called back, because it has no lowering or is an effect.

    Attributes:
        guard: holds whether there is anything to call it for; None: always.
    """

    node: Node
    inputs: list[Buffer]
    output: Buffer
    guard: Buffer | None = None

    def reads(self) -> list[Buffer]:
        return self.inputs if self.guard is None else [*self.inputs, self.guard]

    def writes(self) -> list[Buffer]:
        return [self.output]


@dataclass(slots=True)
class Copy:
    """`target[...] = source[...]`, the whole buffer."""

    source: Buffer
    target: Buffer

    def reads(self) -> list[Buffer]:
        return [self.source]

    def writes(self) -> list[Buffer]:
        return [self.target]


@dataclass(eq=False, slots=True)
class Control:
    """A node that owns graphs: a branch, a call or a loop.

    A loop's body has its carried values as states, which it updates in place, iteration by
    iteration; its outputs are the entries of stacked results. Results that nobody reads are left
    out, but for carried ones.

    Attributes:
        inputs: the node's operands.
        outputs: results; those of a loop's carried values come first.
        graphs: branches; or a loop's body, then its condition if it has one.
        plans: theirs, once they are planned.
        scratch: memory for them, which one after the other has; None if they need none.
    """

    node: Node
    inputs: list[Buffer]
    outputs: list[Buffer]
    graphs: list[Graph]
    plans: list[Plan] = field(default_factory=list)
    scratch: Buffer | None = None

    @property
    def carried(self) -> int:
        return self.node.attr("carried") if self.node.op is LOOP else 0

    @property
    def scanned(self) -> int:
        return self.node.attr("scanned") if self.node.op is LOOP else 0

    def reads(self) -> list[Buffer]:
        return list(dict.fromkeys(self.inputs))

    def writes(self) -> list[Buffer]:
        return self.outputs if self.scratch is None else [*self.outputs, self.scratch]

    @property
    def may_fail(self) -> bool:
        """True where a host call may raise, or memory of unknown size run out."""
        inside = (s for p in self.plans for s in p.steps)
        stacks = any(b.spec.is_stack for b in self.outputs)
        return stacks or any(may_fail(s) for s in inside)

    @property
    def may_hang(self) -> bool:
        """True where a loop may not end."""
        if self.node.op is LOOP and self.node.attr("cond") is not None:
            return True
        inside = (s for p in self.plans for s in p.steps)
        return any(isinstance(s, Control) and s.may_hang for s in inside)


Step = Kernel | HostCall | Copy | Control


def may_fail(step: Step) -> bool:
    """True where a run may end at `step`, with an error."""
    return isinstance(step, HostCall) or (isinstance(step, Control) and step.may_fail)


def loads(root: Expr) -> list[Load]:
    return [e for e in walk([root]) if isinstance(e, Load)]


def flat(x: Expr) -> Expr:
    """`x` with every load addressed by its row-major element offset."""
    memo: dict[Expr, Expr] = {}
    for e in walk([x]):
        args = [memo[c] for c in operands(e)]
        if isinstance(e, Load):
            memo[e] = expr.load(e.buffer, (ravel(args, e.buffer.spec.shape),))
        else:
            memo[e] = rebuild(e, args) if args else e
    return memo[x]


def collapse(kernel: Kernel) -> None:
    """Merge neighbouring axes that every address walks through as one.

    for i < 64: for j < 10: y[10*i + j] = x[10*i + j] + 1  -->  for f < 640: y[f] = x[f] + 1
    """
    k = 0
    while k + 1 < len(kernel.axes):
        outer, inner = kernel.axes[k], kernel.axes[k + 1]
        split = any(s.depth == k + 1 for s in kernel.stores)
        roots = [e for s in kernel.stores for e in (s.value, s.offset)]
        if split or not mergeable(roots, outer, inner):
            k += 1
            continue
        merged = Axis(outer.extent * inner.extent)
        change = merger(outer, inner, merged)
        for s in kernel.stores:
            s.value, s.offset = change(s.value), change(s.offset)
            s.depth -= s.depth > k
        kernel.axes = (*kernel.axes[:k], merged, *kernel.axes[k + 2 :])


def mergeable(roots: Iterable[Expr], outer: Axis, inner: Axis) -> bool:
    """True if `outer` and `inner` only ever occur as c * (extent(inner) * outer + inner)."""
    for e in walk(roots):
        if isinstance(e, Affine):
            coef = dict(e.terms)
            if coef.get(outer, 0) != coef.get(inner, 0) * inner.extent:
                return False
        elif any(c is outer or c is inner for c in operands(e)):
            return False
    return not any(r is outer or r is inner for r in roots)


def merger(outer: Axis, inner: Axis, merged: Axis) -> Callable[[Expr], Expr]:
    """The rewrite extent(inner) * outer + inner --> merged."""
    mapping: dict[Expr, Expr] = {outer: expr.const(0, int64), inner: merged}
    return lambda e: substitute(e, mapping)


def collapse_reduce(x: Reduce) -> Reduce:
    """`collapse` for the bound axes of a reduction."""
    k = 0
    while k + 1 < len(x.bound):
        outer, inner = x.bound[k], x.bound[k + 1]
        if mergeable([x.body], outer, inner):
            merged = Axis(outer.extent * inner.extent)
            body = merger(outer, inner, merged)(x.body)
            bound = (*x.bound[:k], merged, *x.bound[k + 2 :])
            again = expr.reduce(x.kind, bound, body)
            assert isinstance(again, Reduce)
            x = again
        else:
            k += 1
    return x
