"""What a process imports while it waits for the process that makes machine code.

One that has to compile an eager operation found nothing in the cache on disk; it is likely to
compile functions as well. To import all stages of that takes as long as to lower a small model.
"""

from __future__ import annotations

from importlib import import_module

# parts of about equal length, in the order in which they import each other
_MODULES = [
    "contract",
    "contraction",
    "clusters",
    "lower",
    "plan",
    "emit.nest",
    "emit.sweep",
    "emit.kernel",
    "emit.main",
    "build",
]


def step() -> bool:
    """Import the next part; False if there is none left."""
    if not _MODULES:
        return False
    import_module(f"{__name__.split('.')[0]}.{_MODULES.pop(0)}")
    return True
