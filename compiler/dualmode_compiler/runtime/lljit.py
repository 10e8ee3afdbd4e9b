"""Loads object code by LLVM's own linker, where `elf` does not know the platform."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any


class _Linker:
    """Puts object code into the process.

    LLVM keeps some kilobytes of each library that it has unloaded, for as long as the linker that
    loaded it: so there is a new one from time to time. An old one goes with its last library.
    """

    _BATCH = 64

    def __init__(self) -> None:
        self._linker: Any = None
        self._count = 0

    def link(self, llvm: Any, machine: Callable[[], Any], builder: Any) -> tuple[Any, Any]:
        """What keeps the code loaded, and the linker that has to outlive it."""
        if self._count % self._BATCH == 0:
            self._linker = llvm.create_lljit_compiler(machine())
        self._count += 1
        return builder.link(self._linker, f"lib{self._count}"), self._linker


_linker = _Linker()
_lock = threading.Lock()


class Library:
    """Loaded machine code. Keep it alive for as long as its addresses are in use."""

    def __init__(
        self,
        objects: Sequence[bytes],
        exports: Sequence[str],
        imports: Mapping[str, int],
        llvm: Any,
        machine: Callable[[], Any],
    ) -> None:
        with _lock:
            builder = llvm.JITLibraryBuilder().add_current_process()
            for code in objects:
                builder.add_object_img(code)
            for name, address in imports.items():
                builder.import_symbol(name, address)
            for name in exports:
                builder.export_symbol(name)
            # the tracker goes before the linker
            self._tracker, self._linker = _linker.link(llvm, machine, builder)
        self.addresses = {name: self._tracker[name] for name in exports}

    def __getitem__(self, symbol: str) -> int:
        return self.addresses[symbol]
