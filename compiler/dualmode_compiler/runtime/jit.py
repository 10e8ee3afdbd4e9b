"""LLVM IR text to machine code in this process, through llvmlite."""

from __future__ import annotations

import ctypes
import itertools
import threading
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True, slots=True)
class Host:
    """The CPU that code is generated for.

    Attributes:
        triple, cpu, features: as LLVM names them.
        vector_bytes: width of a vector register (64 AVX-512, 32 AVX2, 16 SSE2 and NEON).
        registers: number of vector registers.
        fma: True where a fused multiply-add is one instruction.
    """

    triple: str
    cpu: str
    features: str
    vector_bytes: int
    registers: int
    fma: bool

    @property
    def has_masks(self) -> bool:
        """True where masked loads and stores are single instructions for every lane width."""
        return self.vector_bytes == 64


@cache
def _llvm() -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


@cache
def host() -> Host:
    """This machine's CPU."""
    llvm = _llvm()
    features = llvm.get_host_cpu_features()
    triple = llvm.get_process_triple()
    on = {name for name, enabled in features.items() if enabled}
    x86 = triple.startswith(("x86_64", "i686"))
    if "avx512f" in on and "avx512vl" in on and "avx512dq" in on and "avx512bw" in on:
        width, registers = 64, 32
    elif "avx2" in on:
        width, registers = 32, 16
    else:
        width, registers = 16, 16 if x86 else 32
    text = features.flatten()
    if width == 64:
        text += ",-prefer-256-bit"
    return Host(triple, llvm.get_host_cpu_name(), text, width, registers, "fma" in on or not x86)


@cache
def _machine(target: Host) -> Any:
    return (
        _llvm()
        .Target.from_triple(target.triple)
        .create_target_machine(
            cpu=target.cpu,
            features=target.features,
            opt=2,
            reloc="pic",
            codemodel="small",
            jit=True,
        )
    )


@cache
def _lljit() -> Any:
    return _llvm().create_lljit_compiler(_machine(host()))


_names = itertools.count()
_lock = threading.Lock()


class Library:
    """Loaded machine code. Keep it alive for as long as its addresses are in use."""

    def __init__(self, tracker: Any, addresses: dict[str, int]) -> None:
        self._tracker = tracker
        self.addresses = addresses

    def __getitem__(self, symbol: str) -> int:
        return self.addresses[symbol]


def compile_text(text: str, target: Host | None = None) -> bytes:
    """An object file from LLVM IR text. No IR passes run: the text is vectorised already.

    Raises:
        RuntimeError: LLVM does not accept the text.
    """
    llvm = _llvm()
    with _lock:
        module = llvm.parse_assembly(text)
        return _machine(target or host()).emit_object(module)


def assembly(text: str, target: Host | None = None) -> str:
    """The assembly that LLVM generates for `text`, to read."""
    return _machine(target or host()).emit_assembly(_llvm().parse_assembly(text))


def load(obj: bytes, exports: list[str], imports: dict[str, int] | None = None) -> Library:
    """Object code into this process. `imports` gives addresses of symbols that it calls;
    other undefined ones (memcpy, fmodf, ...) are looked up in the process."""
    llvm = _llvm()
    with _lock:
        builder = llvm.JITLibraryBuilder().add_object_img(obj).add_current_process()
        for name, address in (imports or {}).items():
            builder.import_symbol(name, address)
        for name in exports:
            builder.export_symbol(name)
        tracker = builder.link(_lljit(), f"lib{next(_names)}")
    return Library(tracker, {name: tracker[name] for name in exports})


def function(address: int, restype: Any, *argtypes: Any) -> Any:
    """A ctypes function at `address`; it holds the GIL while it runs."""
    return ctypes.PYFUNCTYPE(restype, *argtypes)(address)
