"""What compilation makes of a graph: all that running it takes, as plain data that can be kept."""

from __future__ import annotations

import marshal
import os
import sys
from dataclasses import astuple, fields
from functools import cache
from typing import Any

import numpy as np

from .fingerprint import Catalogue, fingerprint
from .graph import Graph
from .records import dataclass
from .runtime import cache as store
from .runtime import jit
from .slots import Slots
from .spec import DTYPES

Array = np.ndarray[Any, Any]


@dataclass(slots=True)
class Artifact:
    """Machine code for one layout of the table, and what its caller has to know.

    Attributes:
        objects: object files.
        constants: arrays that the code reads, in the order of the table.
        arena: bytes of scratch memory.
        written: the parameters that are states with new values.
        pooled: it hands work to the thread pool, or computes in the workspace of threads.
        signals: it looks for signals.
        calls: the nodes that it calls back to Python for, by their places among the traced ones
            (`fingerprint.nodes`); None for those that are not among them.
        work: estimated cost of one run, in additions.
    """

    objects: list[bytes]
    constants: list[Array]
    arena: int
    written: list[int]
    pooled: bool
    signals: bool
    calls: list[int | None]
    work: float

    def pack(self) -> bytes:
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        data["constants"] = [(a.dtype.name, a.shape, a.tobytes()) for a in self.constants]
        return marshal.dumps(data)

    @classmethod
    def unpack(cls, packed: bytes) -> Artifact:
        data = marshal.loads(packed)
        data["constants"] = [
            np.frombuffer(content, DTYPES[name].numpy).reshape(shape).copy()  # aligned
            for name, shape, content in data["constants"]
        ]
        return cls(**data)


def key(
    graph: Graph,
    slots: Slots,
    host: jit.Host,
    catalogue: Catalogue,
    optimization: int,
    tuned: int = 0,
) -> str | None:
    """The name of the artifact in the cache; None where it cannot be kept.

    `tuned`: the number of threads that products were measured with; 0 where they were not.
    """
    said = fingerprint(graph, catalogue)
    if said is None:
        return None
    target = repr(
        (optimization, tuned, astuple(slots), astuple(host), sys.implementation.cache_tag)
    )
    code = source_version(os.path.dirname(__file__))
    versions = (code, catalogue.version, jit.llvm_version(), np.__version__)
    return store.digest("artifact", *versions, target, said)


@cache
def source_version(*folders: str) -> str:
    """What tells the Python files in these folders, and below, from others: names, sizes and times
    of their last change."""
    said: list[str] = []
    waiting = list(folders)
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                if entry.name.endswith(".py"):
                    known = entry.stat()
                    said.append(f"{entry.path} {known.st_size} {known.st_mtime_ns}")
                elif entry.name != "__pycache__" and entry.is_dir():
                    waiting.append(entry.path)
    return "\n".join(said)
