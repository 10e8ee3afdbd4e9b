"""The blocks that a matrix product is cut into, for caches and threads: the fastest by estimate.

A small cost model chooses. It counts cycles of one core for one step of K in a block of m x n:

    m n / (vectors a cycle)       multiply-adds
    + m MOVE                      elements of A are brought in,
      or START a strip            or packed: each strip of a column is on a page of its own
    + n (MOVE, COPY or PACK)      elements of B: brought in, copied row by row, or packed
    + START                       a row of B begins: on another page, ahead of no prefetcher

besides START for each row of each array of C's size that a block writes or its epilogue reads,
HAND_OUT for every block, and UNEVEN of the last one where several cores share them. So wide blocks
make better use of packed operands and of rows of B, many blocks keep more threads busy, and the
caches say how large a block may be. The model's figures are rounded measurements; only their ratios
matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .emit.simd import Element
from .records import dataclass
from .runtime.jit import Host

if TYPE_CHECKING:
    from .tiling import Gemm

# Multiply-adds from which a product is worth a second thread.
SHARED = 1 << 18
# Numbers of threads for which the cut is weighed.
THREADS = (1, 1, 2, 2, 4)
# Cycles to hand out a block, to begin a row of B; for an element of an operand: to bring it in from
# a far cache, to copy it to a packed row, to pack it in another order.
HAND_OUT, START, MOVE, COPY, PACK = 1500, 24, 0.15, 0.6, 1.2
# The part of a block's time for which cores wait, at the end, for one that others have disturbed.
UNEVEN = 0.08
# Starts of rows for each row of a block that an epilogue costs, with the arrays that it walks.
STREAMS = 8
# Bytes of a row of a block, and of the scratch block of C.
ROW_BYTES, TILE_BYTES = 8192, 1 << 18


@dataclass(frozen=True)
class Blocks:
    """Weighs ways to cut C into blocks.

    Attributes:
        rows, width: rows and columns of the largest micro-tile.
        panels: how many there are, each of at most `rows` rows.
        depth: the longest stretch of K.
        pack_a, pack_b, abreast: as in `Tiling`.
        epilogue: what is done with C reads and writes other arrays of its size.
        least: columns that a block has at least.
    """

    g: Gemm
    host: Host
    e: Element
    rows: int
    panels: int
    width: int
    depth: int
    pack_a: str | None
    pack_b: str | None
    abreast: int
    epilogue: bool
    least: int

    @property
    def streams(self) -> int:
        """Starts of rows that a row of a block costs besides its computation."""
        if not self.epilogue:
            return 1
        # That of half types does little more than to round, as a rule.
        return STREAMS // 4 if self.g.half else STREAMS

    @property
    def scratch(self) -> bool:
        """Whether panels are computed in memory beside C."""
        return self.epilogue or self.host.vector_bytes < 32

    def best(self) -> tuple[int, int]:
        """(panels, columns) of a block of the cut that is fastest by estimate."""
        size = self.e.size
        tiles = -(-self.g.n // self.width)
        most = max(ROW_BYTES // size, self.least)
        if self.pack_b:
            most = min(most, self.host.caches.second // 2 // (self.depth * size))
        across = {min(-(-tiles // i), max(1, most // self.width)) for i in range(1, tiles + 1)}
        choices: list[tuple[float, int, int]] = []
        wide = {x * self.width for x in across}
        for columns in sorted({x for x in wide if x >= self.least} or {max(wide)}, reverse=True):
            high = self.panels
            if self.scratch and self.depth < self.g.k:  # it has to hold all panels until the end
                high = max(1, TILE_BYTES // (self.rows * columns * size))
            down = {min(-(-self.panels // i), high) for i in range(1, min(self.panels, 64) + 1)}
            choices += [(self.cost(block, columns), block, columns) for block in self._whole(down)]
        _, block, columns = min(choices)
        return block, columns

    def _whole(self, down: set[int]) -> set[int]:
        """Numbers of panels, so that those which are packed together stay together."""
        step = self.abreast
        return {min(-(-block // step) * step, self.panels) for block in down}

    def cost(self, block: int, columns: int) -> float:
        """Cycles that the cores are held, summed over the numbers of threads. Those that find no
        block left wait for the others."""
        g = self.g
        down, across = -(-self.panels // block), -(-g.n // columns)
        a = START / (self.rows * self.abreast) if self.pack_a else MOVE
        b = {None: MOVE, "rows": COPY}.get(self.pack_b, PACK)
        speed = self.e.lanes * _per_cycle(self.host)
        step = g.m * g.n / speed + a * g.m * across + b * g.n * down + START * down * across
        blocks = g.count * down * across
        edges = self.streams * START * g.m * across
        whole = g.count * (g.k * step + edges) + HAND_OUT * blocks
        threads = THREADS if g.macs >= SHARED else (1,)
        turns = (p * (-(-blocks // p) + UNEVEN * (p > 1)) for p in threads)
        return sum(turns) * whole / blocks


def _per_cycle(host: Host) -> int:
    """Vector multiply-adds that a core starts in a cycle: many do one of 64 bytes, two of less."""
    return 1 if host.vector_bytes == 64 else 2
