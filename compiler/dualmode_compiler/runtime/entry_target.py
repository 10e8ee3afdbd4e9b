"""What an entry runs."""

from __future__ import annotations

from typing import Any

from ..records import dataclass
from ..spec import Spec


@dataclass(frozen=True)
class State:
    """A variable that an executable reads, or writes as well.

    Attributes:
        spec: what its value must be.
    """

    variable: Any
    spec: Spec
    written: bool


@dataclass(frozen=True)
class Target:
    """An executable `i32 run(ptr table)`.

    `table` is an array of pointers: inputs, states, outputs, the arena (null when `arena_bytes` is
    0), then `fixed`. `run` writes new values of states in place and returns 0, or another number
    when it fails.

    Attributes:
        address: of `run`.
        inputs: what the arguments must be. A weak one is a Python float or int, for a float or int
            dtype of 32 or 64 bits; any other is a `layout.tensor` or an ndarray.
        outputs: what it gives back, in fresh arrays.
        single: the only output is given by itself, not in a tuple; without one that is None.
        states: variables that it reads or writes; kept alive.
        fixed: further pointers for the table.
        arena_bytes: size of the scratch memory, which starts on a 64-byte boundary.
        release_gil: run without the GIL.
        calls_back: it may call Python code.
        keep: whatever else must live as long as the entry.
    """

    address: int
    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    single: bool = False
    states: tuple[State, ...] = ()
    fixed: tuple[int, ...] = ()
    arena_bytes: int = 0
    release_gil: bool = False
    calls_back: bool = False
    keep: Any = None

    @property
    def writes(self) -> bool:
        return any(s.written for s in self.states)
