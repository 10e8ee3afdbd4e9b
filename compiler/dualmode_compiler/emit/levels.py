"""The loops of a function being emitted, and what is known at each of their levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field

from ..expr import Axis, Expr
from ..records import dataclass
from .instructions import Writer

UNROLL = 8  # loops of at most this many iterations are written out


@dataclass(slots=True)
class Block:
    """Straight-line text under construction, and the label of the basic block it ends in."""

    lines: list[str]
    label: str


@dataclass(slots=True)
class Level:
    """One loop (or one written-out iteration, which shares its parent's block).

    Attributes:
        vector: the axis whose values lie in lanes from here inward, if any.
        mask: operand text of the active lanes; None if all are.
        names: expressions that were emitted here and are forgotten when the level closes.
        places: addresses that were computed here, by where they are counted from, the elements'
            type, and the index.
    """

    block: Block
    vector: Axis | None = None
    lanes: int = 1
    mask: str | None = None
    names: list[Expr] = field(default_factory=list)
    places: dict[tuple[str, str, Expr], str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Value:
    """An SSA name or constant text, of `lanes` lanes."""

    name: str
    lanes: int


def iota(lanes: int) -> str:
    return f"<{', '.join(f'i64 {k}' for k in range(lanes))}>"


def mask_text(active: int, lanes: int) -> str | None:
    """The constant mask with the first `active` lanes on."""
    if active == lanes:
        return None
    return f"<{', '.join('i1 true' if k < active else 'i1 false' for k in range(lanes))}>"


def pieces(left: int, short: bool) -> list[tuple[int, int, int]]:
    """How the last `left` elements of an axis are walked: (offset, lanes, active lanes) of each.

    One vector under a mask, which is as narrow as it can be. On a `short` axis rather two whole
    vectors if that is enough: a load under a mask waits until a store under a mask is in the cache,
    which takes longer than all the rest.
    """
    out: list[tuple[int, int, int]] = []
    at = 0
    if short and left.bit_count() == 2:
        at = 1 << (left.bit_length() - 1)
        out.append((0, at, at))
    if left > at:
        out.append((at, 1 << (left - at - 1).bit_length(), left - at))
    return out


class Levels:
    """A stack of open loops, the function itself at the bottom.

    Attributes:
        levels: from the outermost in.
        depth: the level that binds each axis.
        at: the value of each bound axis, or of its first lane, as an SSA name or a number.
        memo: values that are known, by expression.
        bases: addresses' scalar parts, likewise.
    """

    def __init__(self) -> None:
        self.w = Writer()
        self.levels = [Level(Block([], "entry"))]
        self.depth: dict[Axis, int] = {}
        self.at: dict[Axis, str] = {}
        self.memo: dict[Expr, Value] = {}
        self.bases: dict[Expr, str] = {}

    @property
    def lines(self) -> list[str]:
        """The text of the function, but for the loops still open."""
        return self.levels[0].block.lines

    def label(self, stem: str) -> str:
        """A new label, of all that share the writer."""
        return stem + self.w.fresh()[1:]

    def open(self, level: Level, axis: Axis | None, at: str) -> None:
        self.levels.append(level)
        if axis is not None:
            self.depth[axis] = len(self.levels) - 1
            self.at[axis] = at

    def close(self) -> Level:
        level = self.levels.pop()
        for e in level.names:
            self.memo.pop(e, None)
            self.bases.pop(e, None)
        return level

    def inherit(self, block: Block) -> Level:
        top = self.levels[-1]
        return Level(block, top.vector, top.lanes, top.mask)

    def scope(
        self,
        axis: Axis,
        at: str,
        body: Callable[[], None],
        lanes: int | None = None,
        mask: str | None = None,
    ) -> None:
        """`body` with `axis` fixed at the scalar `at`, or at lanes at, at + 1, ..."""
        level = self.inherit(self.levels[-1].block)
        if lanes is not None:
            level.vector, level.lanes, level.mask = (axis if lanes > 1 else None), lanes, mask
        self.open(level, axis, at)
        body()
        self.close()

    def loop(
        self,
        start: str,
        stop: str,
        step: int,
        body: Callable[[str, list[str]], list[str]],
        carried: Sequence[tuple[str, str]] = (),
        empty: bool = False,
    ) -> list[str]:
        """A counted loop.

        Args:
            body: `(index, carried values) -> next carried values`.
            carried: (LLVM type, initial value) of what the iterations pass on.
            empty: whether there may be no iteration.

        Returns:
            The carried values after the last iteration.
        """
        head, done = self.label("loop"), self.label("done")
        index, phis = self.w.fresh(), [self.w.fresh() for _ in carried]
        self.open(self.inherit(Block([], head)), None, index)
        new = body(index, phis)
        block = self.close().block
        self.w.lines = block.lines
        following = self.w.emit(f"add nuw nsw i64 {index}, {step}")
        more = self.w.emit(f"icmp ult i64 {following}, {stop}")
        outer = self.levels[-1].block
        self.w.lines = outer.lines
        begin = f"label %{head}"
        if empty:
            some = self.w.emit(f"icmp ult i64 {start}, {stop}")
            begin = f"i1 {some}, label %{head}, label %{done}"
        outer.lines += [f"  br {begin}", f"{head}:"]

        def meet(kind: str, phi: str, first: str, again: str) -> None:
            ends = f"[ {first}, %{outer.label} ], [ {again}, %{block.label} ]"
            outer.lines.append(f"  {phi} = phi {kind} {ends}")

        meet("i64", index, start, following)
        for (kind, first), phi, again in zip(carried, phis, new, strict=True):
            meet(kind, phi, first, again)
        outer.lines += block.lines
        outer.lines += [f"  br i1 {more}, label %{head}, label %{done}", f"{done}:"]
        if empty:
            last, new = new, [self.w.fresh() for _ in carried]
            for (kind, first), out, again in zip(carried, new, last, strict=True):
                meet(kind, out, first, again)
        outer.label = done
        return new

    def when(self, condition: str, body: Callable[[], None]) -> None:
        """`body` if the i1 `condition` holds."""
        then, done = self.label("then"), self.label("join")
        self.open(self.inherit(Block([], then)), None, "")
        body()
        block = self.close().block
        outer = self.levels[-1].block
        outer.lines += [f"  br i1 {condition}, label %{then}, label %{done}", f"{then}:"]
        outer.lines += [*block.lines, f"  br label %{done}", f"{done}:"]
        outer.label = done

    def each(self, axis: Axis, body: Callable[[], None], start: str = "0", stop: str = "") -> None:
        """`body` for every value of `axis` (from start to stop, at least one)."""
        if not stop and axis.extent <= UNROLL // 2:
            for k in range(axis.extent):
                self.scope(axis, str(k), body)
            return

        def iteration(index: str, _: list[str]) -> list[str]:
            self.scope(axis, index, body)
            return []

        self.loop(start, stop or str(axis.extent), 1, iteration)
