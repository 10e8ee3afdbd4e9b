"""What one run of a compiled function needs of memory, and whose values that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dualmode_compiler.lazy import lazy

if TYPE_CHECKING:
    from dualmode_compiler.graph import Graph
    from dualmode_compiler.timeline import Timeline

_ROWS = 24  # of the printed timeline
_LINES = 8  # of source code, printed
_BAR = 24


class Memory:
    """The memory of one run of a compiled function in bytes, as planned at its compilation.

    `peak` is that of the arrays: what a process grows by when their data comes to be in memory and
    the function runs. It leaves out what does not depend on their sizes: modules, the trace, and
    machine code; LLVM, while a process compiles that finds nothing in the cache on disk (see
    `dm.config.codegen`); and what the caller holds besides.

    Printed, it says which source lines hold the most when most is alive, and how that changes while
    the function runs.

    Args:
        graph: what is computed.
        executable: what the backend made of it.
        forward: gives the graph that runs in its place under a tape.

    Attributes:
        arguments: bytes of what it reads: arguments, Variables and captured arrays.
        results: bytes of what it gives; new values of Variables are written over the old ones.
        scratch: bytes for values in between, at offsets given by lifetimes; but for what a loop
            keeps of a number of iterations that is not known. 0 with the backend "interpret", which
            plans nothing.
    """

    def __init__(
        self, name: str, graph: Graph, executable: Any, forward: Callable[[], Graph]
    ) -> None:
        self.name = name
        self.arguments = sum(n.spec.nbytes for n in graph.params)
        self.results = sum(n.spec.nbytes for n in graph.outputs)
        self.scratch: int = getattr(executable, "arena", 0)
        self._graph, self._executable, self._forward = graph, executable, forward

    @property
    def peak(self) -> int:
        """All that exists at once while it runs, with no tape around the call."""
        return self.arguments + self.results + self.scratch

    @lazy
    def kept(self) -> int:
        """Bytes that a tape around the call keeps of it until the gradient is computed; but for
        what loops keep of a number of iterations that is not known."""
        kept = self._forward().outputs[len(self._graph.outputs) :]
        return sum(n.spec.nbytes for n in kept if not n.spec.is_stack)

    @lazy
    def _timeline(self) -> Timeline | None:
        if not hasattr(self._executable, "native"):
            return None
        from dualmode_compiler.timeline import timeline

        return timeline(self._executable.native().plan)

    @property
    def timeline(self) -> list[tuple[str, int]]:
        """What each step does, in order, and the bytes of scratch memory in use while it runs."""
        found = self._timeline
        return [] if found is None else [(m.step, m.alive) for m in found.moments]

    @property
    def lines(self) -> list[tuple[str, int]]:
        """The source lines whose values are in scratch memory when most of it is in use, as
        `file:line`, and the bytes that they hold; the largest first."""
        totals: dict[str, int] = {}
        for size, node in self._timeline.held if self._timeline else ():
            at = "unknown" if node.site is None else f"{node.site[0]}:{node.site[1]}"
            totals[at] = totals.get(at, 0) + size
        return sorted(totals.items(), key=lambda pair: -pair[1])

    def __str__(self) -> str:
        rows = [
            f"{self.name}: {_size(self.peak)} at the peak",
            f"  {_size(self.arguments):>10}  arguments, Variables and captured arrays",
            f"  {_size(self.results):>10}  results",
            f"  {_size(self.scratch):>10}  values in between",
        ]
        found = self._timeline
        if found is None or not self.scratch:
            return "\n".join(rows)
        moments = found.moments
        rows.append(f"most in between in step {found.peak} of {len(moments)}, from")
        rows += [f"  {_size(n):>10}  {at}" for at, n in self.lines[:_LINES]]
        rows.append("in between, step by step")
        most = max(m.alive for m in moments)
        group = -(-len(moments) // _ROWS)
        for start in range(0, len(moments), group):
            top = max(moments[start : start + group], key=lambda m: m.alive)
            bar = "#" * round(_BAR * top.alive / most)
            rows.append(f"  {_size(top.alive):>10}  {bar:<{_BAR}}  {start}: {top.step}")
        return "\n".join(rows)

    def __repr__(self) -> str:
        return f"Memory(arguments={self.arguments}, results={self.results}, scratch={self.scratch})"


def _size(n: int) -> str:
    """`n` bytes, to read."""
    if n < 1000:
        return f"{n} B"
    thousands = min((len(str(n)) - 1) // 3, 3)
    return f"{n / 1000**thousands:.1f} {' kMG'[thousands]}B"
