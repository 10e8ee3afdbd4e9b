"""Values that few arguments need: computed apart, only where a lane asks for them.

`rarely(condition, usual, rare, *arguments)` is `rare` where the condition holds, else `usual`. So
`rare` is a call of a function of the arguments, kept out of the loop's code, which runs if the
condition holds in any lane.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..expr import Apply, Const, Expr
from ..runtime.cache import digest
from ..spec import bool_
from .instructions import apply
from .simd import attributes
from .values import Writer, literal, register_type

if TYPE_CHECKING:
    from .levels import Block
    from .nest import Nest


def straight(w: Writer, root: Expr, known: dict[Expr, str], lanes: int) -> str:
    """Emit `root`, made of core primitives over constants and what is `known`, in `lanes` lanes."""
    stack = [root]
    while stack:
        e = stack[-1]
        if e in known:
            stack.pop()
        elif isinstance(e, Const):
            known[e] = literal(e.value, e.dtype, lanes)
        else:
            assert isinstance(e, Apply), e
            missing = [a for a in e.args if a not in known]
            if missing:
                stack.extend(reversed(missing))
                continue
            kinds = [a.dtype for a in e.args]
            known[e] = apply(w, e.fn, [known[a] for a in e.args], kinds, e.dtype, lanes)
    return known[root]


def known(x: Apply) -> tuple[Expr, ...]:
    """What must have been computed before `x` is: all that it has but for the rare value."""
    condition, usual, _, *arguments = x.args
    return (condition, usual, *arguments)


def branch(nest: Nest, block: Block, x: Apply, names: Sequence[str], lanes: int) -> str:
    """`x` at the end of `block`, which then ends in another basic block."""
    condition, usual, *given = names
    _, _, rare, *arguments = x.args
    w, kind, mask = nest.w, register_type(x.dtype, lanes), register_type(bool_, lanes)
    called = _function(nest, rare, arguments, lanes)
    typed = [f"{register_type(a.dtype, lanes)} {n}" for a, n in zip(arguments, given, strict=True)]
    some = condition
    if lanes > 1:
        bits = w.emit(f"bitcast {mask} {condition} to i{lanes}")
        some = w.emit(f"icmp ne i{lanes} {bits}, 0")
    then, done = nest.label("rare"), nest.label("usual")
    w.line(f"  br i1 {some}, label %{then}, label %{done}")
    w.line(f"{then}:")
    other = w.emit(f"call {kind} {called}({', '.join(typed)})")
    mixed = w.emit(f"select {mask} {condition}, {kind} {other}, {kind} {usual}")
    w.line(f"  br label %{done}")
    w.line(f"{done}:")
    out = w.emit(f"phi {kind} [ {usual}, %{block.label} ], [ {mixed}, %{then} ]")
    block.label = done
    return out


def _function(nest: Nest, rare: Expr, arguments: Sequence[Expr], lanes: int) -> str:
    """The name of a function of the module with the value `rare`; equal ones are one."""
    w = Writer(nest.host)
    names = [f"%a{k}" for k in range(len(arguments))]
    out = straight(w, rare, dict(zip(arguments, names, strict=True)), lanes)
    kinds = [register_type(a.dtype, lanes) for a in arguments]
    kind = register_type(rare.dtype, lanes)
    lines = [*w.lines, f"  ret {kind} {out}"]
    name = "@rare_" + digest("\n".join(lines))[:16]
    parameters = ", ".join(f"{k} {n}" for k, n in zip(kinds, names, strict=True))
    head = f"define internal {kind} {name}({parameters}) cold noinline {attributes(nest.host)} {{"
    nest.w.declarations |= w.declarations | {"\n".join([head, *lines, "}"])}
    return name
