"""One function per kernel: `void @name(ptr %bufs, i64 %chunk)`; `%bufs` holds base pointers."""

from __future__ import annotations

import re
from dataclasses import field

from .. import contract
from ..contraction import is_plain
from ..expr import Buffer
from ..folds import Scan, Scatter
from ..loops import Contraction, Kernel
from ..records import dataclass
from ..runtime.jit import Host
from .epilogue import epilogues
from .fold import Update
from .interleave import Interleave, short
from .nest import Nest
from .rows import Loops
from .scan import Prefix
from .transpose import Tiles, turned

LONG = 128  # turns of a micro-kernel beside which it does not matter how its arguments are computed


@dataclass(slots=True)
class Code:
    """A kernel's text and how to call it.

    Attributes:
        text: IR that defines `@name`.
        buffers: (buffer, byte offset) whose addresses `%bufs` holds, in order.
        chunks: how many times to call it, with chunk = 0, 1, ...; more than 1 may run in parallel.
        helpers: shared functions by name, defined once a module.
        declarations: of the intrinsics used.
        workspace: bytes that a chunk asks of its thread (`runtime.workspace`), or 0.
        quick: `@name` does no more than call others that take long.
    """

    text: str
    buffers: list[tuple[Buffer, int]]
    chunks: int = 1
    helpers: dict[str, str] = field(default_factory=dict)
    declarations: set[str] = field(default_factory=set)
    workspace: int = 0
    quick: bool = False


def attributes(host: Host) -> str:
    bits = 8 * host.vector_bytes
    return f'nounwind "prefer-vector-width"="{bits}" "min-legal-vector-width"="{bits}"'


def emit_kernel(
    kernel: Kernel, name: str, host: Host, work: float, streams: frozenset[Buffer]
) -> Code:
    """The code of `kernel`.

    Args:
        work: its cost in additions; chunks are cut by it alone.
        streams: results to be stored past the caches.
    """
    if kernel.contraction is not None:
        return _contraction(kernel, kernel.contraction, name, host)
    buffers = list(dict.fromkeys([*kernel.writes(), *kernel.reads()]))
    nest = Nest(host, {})
    _pointers(nest, buffers)
    if isinstance(kernel.fold, Scatter):
        chunks = Update(nest, kernel, kernel.fold).emit()
    elif isinstance(kernel.fold, Scan):
        chunks = Prefix(nest, kernel, kernel.fold).emit()
    elif (brief := short(nest, kernel)) is not None:
        chunks = Interleave(nest, kernel, brief, work).emit()
    elif (exchanged := turned(nest, kernel)) is not None:
        chunks = Tiles(nest, kernel, exchanged, work).emit()
    else:
        chunks = Loops(nest, kernel, work, streams).emit()
    held = nest.reserve()
    text = _function(f"@{name}(ptr noalias %bufs, i64 %chunk)", nest, host)
    return Code(text, [(b, 0) for b in buffers], chunks, {}, nest.w.declarations, held)


def _function(signature: str, nest: Nest, host: Host) -> str:
    body = "\n".join(nest.lines)
    return (
        f"define internal void {signature} {attributes(host)} {{\nentry:\n{body}\n  ret void\n}}\n"
    )


def _pointers(nest: Nest, buffers: list[Buffer]) -> None:
    nest.w.lines = nest.lines
    for k, b in enumerate(buffers):
        slot = nest.w.emit(f"getelementptr ptr, ptr %bufs, i64 {k}")
        nest.pointers[b] = nest.w.emit(f"load ptr, ptr {slot}")


def _contraction(kernel: Kernel, c: Contraction, name: str, host: Host) -> Code:
    epilogue, of_sums = epilogues(kernel, c, name, host)
    sums = None if c.sums is None else of_sums.name
    left = None if c.left is None else f"{name}_left"
    right = None if c.right is None else f"{name}_right"
    if is_plain(kernel):
        fused = contract.Fused(None, sums, left, right)
        code = contract.emit(name, c.gemm, host, fused, c.cut)
        text = code.text
    else:
        mixed = epilogue if epilogue.mixing else None
        fused = contract.Fused(epilogue.name, sums, left, right, mixed)
        code = contract.emit(name, c.gemm, host, fused, c.cut)
        text = epilogue.function(code.widths) + code.text
    if sums is not None:
        text = of_sums.function(code.widths) + text
    if left is not None:
        text = epilogue.prologue(left) + text
    if right is not None:
        text = epilogue.prologue_of_b(right) + text
    buffers = [c.a, c.b, *((b, 0) for b in epilogue.extra)]
    declarations = epilogue.declarations | of_sums.declarations
    own = code.text[code.text.rindex(f"@{name}(") :]
    long = c.gemm.k >= LONG or epilogue.mixing != ""
    quick = long and re.search(r"<\d+ x ", own) is None
    helpers = dict(code.helpers)
    return Code(text, buffers, code.chunks, helpers, declarations, code.workspace, quick)
