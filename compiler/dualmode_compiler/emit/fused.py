"""What is computed along with a matrix product, in the same kernel."""

from __future__ import annotations

from typing import Protocol

from ..records import dataclass
from .gemm import Kernel


class Mixed(Protocol):
    """What follows a product, between the turns of its sums: see `epilogue.Epilogue`."""

    @property
    def waits(self) -> bool: ...

    def between(self, spec: Kernel, name: str, resumes: bool) -> str | None: ...


@dataclass(frozen=True)
class Fused:
    """Functions that a product calls, by name; None where it does without.

    Attributes:
        epilogue: `void f(ptr bufs, i64 batch, i64 i0, i64 j0, i64 mr, i64 nr, ptr tile, i64 ldt)`
            is handed each finished panel, in place of C: element (r, c) of the rows from i0 and the
            columns from j0 is tile[r*ldt + c], and whole vectors past nr may be read.
        sums: another one, which is handed the sums over the rows of B, as one row.
        left, right: others, which compute a panel of A, and a micro-tile's columns of B.
        mixed: writes micro-kernels that walk finished panels (`overlap`).
    """

    epilogue: str | None = None
    sums: str | None = None
    left: str | None = None
    right: str | None = None
    mixed: Mixed | None = None
