"""What property tests run over: optimisation levels, numbers of threads, and the finest cuts."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from dualmode_compiler import build as _build  # so that all stages are among the modules

LEVELS = (0, 1, 2)
THREADS = (1, 2, 5)
# for `dm.config.override`
COMBINATIONS: tuple[dict[str, Any], ...] = tuple(
    {"optimization": level, "num_threads": n} for level, n in itertools.product(LEVELS, THREADS)
)
_THRESHOLDS = ("PARALLEL", "CHUNK", "SHARED")  # work from which it is cut, and of one chunk


@contextmanager
def cut_finely() -> Iterator[None]:
    """Inside the block, what is compiled hands work of any size to threads, in many chunks.

    Only for executables that the cache does not keep: its keys know nothing of this.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith(f"{_build.__package__}.") and not name.endswith(".generic"):
                for threshold in _THRESHOLDS:
                    if hasattr(module, threshold):
                        patch.setattr(module, threshold, 1)
        yield
