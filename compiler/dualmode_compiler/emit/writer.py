"""A writer of whole functions: blocks, index arithmetic and counted loops."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .values import Writer


class LoopWriter(Writer):
    """The body of a whole function. Operands are texts: a register or a literal."""

    __slots__ = ("label",)

    def __init__(self) -> None:
        super().__init__()
        self.label = "entry"

    def name(self, stem: str) -> str:
        """A new label, or the stem of a register."""
        return stem + self.fresh()[1:]

    def do(self, line: str) -> None:
        """Append an instruction without a result."""
        self.line(f"  {line}")

    def block(self, label: str) -> None:
        """Start block `label`; the block before must have been ended."""
        self.lines.append(f"{label}:")
        self.label = label

    def op(self, opcode: str, a: str | int, b: str | int) -> str:
        """An i64 operation; folded where both operands are known, or one is neutral."""
        if isinstance(a, int) and isinstance(b, int):
            raise TypeError(f"{opcode} {a}, {b}: fold it in Python")
        if (opcode in ("add", "sub") and b == 0) or (opcode in ("mul", "udiv") and b == 1):
            return str(a)
        if (opcode == "mul" and b == 0) or (opcode == "urem" and b == 1):
            return "0"
        return self.emit(f"{opcode} i64 {a}, {b}")

    def minimum(self, a: str | int, b: str | int) -> str:
        less = self.emit(f"icmp ult i64 {a}, {b}")
        return self.emit(f"select i1 {less}, i64 {a}, i64 {b}")

    def at(self, base: str, kind: str, index: str | int) -> str:
        """The address of element `index` of type `kind` from `base`."""
        if index in (0, "0"):
            return base
        return self.emit(f"getelementptr {kind}, ptr {base}, i64 {index}")

    @contextmanager
    def loop(self, start: str | int, stop: str | int, step: int = 1) -> Iterator[str]:
        """`for index in range(start, stop, step)`, with start < stop: it runs at least once."""
        head, done = self.name("loop"), self.name("done")
        index, following = f"%{self.name('i')}", f"%{self.name('i')}"
        before = self.label
        self.do(f"br label %{head}")
        self.block(head)
        phi = len(self.lines)
        self.do("")
        yield index
        self.do(f"{following} = add i64 {index}, {step}")
        more = self.emit(f"icmp ult i64 {following}, {stop}")
        self.do(f"br i1 {more}, label %{head}, label %{done}")
        self.lines[phi] = (
            f"  {index} = phi i64 [ {start}, %{before} ], [ {following}, %{self.label} ]"
        )
        self.block(done)

    @contextmanager
    def when(self, condition: str) -> Iterator[None]:
        """The body runs if the i1 `condition` holds."""
        then, done = self.name("then"), self.name("done")
        self.do(f"br i1 {condition}, label %{then}, label %{done}")
        self.block(then)
        yield
        self.do(f"br label %{done}")
        self.block(done)

    def text(self) -> str:
        return "\n".join(self.lines)
