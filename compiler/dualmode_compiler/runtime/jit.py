"""LLVM IR text to machine code in this process, through llvmlite."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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


_idle: dict[Host, list[Any]] = {}


@contextmanager
def _machine(target: Host) -> Iterator[Any]:
    """A target machine that no other thread has at the moment."""
    idle = _idle.setdefault(target, [])
    try:
        machine = idle.pop()
    except IndexError:  # asked first, another thread could take it in between
        machine = _new_machine(target)
    try:
        yield machine
    finally:
        idle.append(machine)


def _new_machine(target: Host) -> Any:
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


class _Linker:
    """Puts object code into the process.

    LLVM keeps some kilobytes of each library that it has unloaded, for as long as the linker that
    loaded it: so there is a new one from time to time. An old one goes with its last library.
    """

    _BATCH = 64

    def __init__(self) -> None:
        self._linker: Any = None
        self._count = 0

    def link(self, builder: Any) -> tuple[Any, Any]:
        """What keeps the code loaded, and the linker that has to outlive it."""
        if self._count % self._BATCH == 0:
            self._linker = _llvm().create_lljit_compiler(_new_machine(host()))
        self._count += 1
        return builder.link(self._linker, f"lib{self._count}"), self._linker


_linker = _Linker()
_lock = threading.Lock()


class Library:
    """Loaded machine code. Keep it alive for as long as its addresses are in use."""

    def __init__(self, tracker: Any, linker: Any, addresses: dict[str, int]) -> None:
        self._tracker = tracker  # goes before the linker
        self._linker = linker
        self.addresses = addresses

    def __getitem__(self, symbol: str) -> int:
        return self.addresses[symbol]


def compile_text(text: str, target: Host | None = None, promote: str = "") -> bytes:
    """An object file from LLVM IR text. No IR passes run: the text is vectorised already.

    Args:
        promote: a function whose variables in memory are put in registers first.

    Raises:
        RuntimeError: LLVM does not accept the text.
    """
    llvm = _llvm()
    module = llvm.parse_assembly(text, llvm.create_context())
    with _machine(target or host()) as machine:
        if promote:
            _promote(module.get_function(promote), machine)
        return _emit(machine, module)


def _promote(function: Any, machine: Any) -> None:
    """Variables in memory become values in registers."""
    if function.is_declaration:
        return
    llvm = _llvm()
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options())
    passes = llvm.create_new_function_pass_manager()
    passes.add_sroa_pass()
    passes.run(function, builder)


def compile_texts(texts: list[str], target: Host | None = None, promote: str = "") -> list[bytes]:
    """`compile_text` of each, at the same time."""
    if len(texts) == 1:
        return [compile_text(texts[0], target, promote)]
    with ThreadPoolExecutor(len(texts)) as threads:
        return list(threads.map(lambda text: compile_text(text, target, promote), texts))


def _emit(machine: Any, module: Any) -> bytes:
    """`machine.emit_object(module)`, but for llvmlite's lock, which lets one thread at a time into
    LLVM. Here the thread has a context and a machine of its own, which is what LLVM asks for."""
    ffi = _llvm().ffi
    message = ctypes.c_char_p()
    code = _emitter()(machine._ptr, module._ptr, 1, ctypes.byref(message))
    if not code:
        return machine.emit_object(module)  # raises, with the message
    try:
        start, size = ffi.lib.LLVMPY_GetBufferStart(code), ffi.lib.LLVMPY_GetBufferSize(code)
        return ctypes.string_at(start, size)
    finally:
        ffi.lib.LLVMPY_DisposeMemoryBuffer(code)


@cache
def _emitter() -> Any:
    ffi = _llvm().ffi
    emit = ctypes.CDLL(ffi.lib._name).LLVMPY_TargetMachineEmitToMemory
    emit.argtypes = [
        ffi.LLVMTargetMachineRef,
        ffi.LLVMModuleRef,
        ctypes.c_int,
        ctypes.POINTER(ctypes.c_char_p),
    ]
    emit.restype = ffi.LLVMMemoryBufferRef
    return emit


def assembly(text: str, target: Host | None = None) -> str:
    """The assembly that LLVM generates for `text`, to read."""
    with _machine(target or host()) as machine:
        return machine.emit_assembly(_llvm().parse_assembly(text))


def promoted(text: str, function: str) -> str:
    """`text` with variables of `function` in registers, to read."""
    module = _llvm().parse_assembly(text)
    with _machine(host()) as machine:
        _promote(module.get_function(function), machine)
    return str(module)


def load(
    objects: bytes | list[bytes], exports: list[str], imports: dict[str, int] | None = None
) -> Library:
    """Object code into this process; several objects may call one another.

    Args:
        exports: the functions whose addresses are wanted.
        imports: addresses of symbols that the code calls; other undefined ones (memcpy, fmodf, ...)
            are looked up in the process.
    """
    llvm = _llvm()
    with _lock:
        builder = llvm.JITLibraryBuilder().add_current_process()
        for code in [objects] if isinstance(objects, bytes) else objects:
            builder.add_object_img(code)
        for name, address in (imports or {}).items():
            builder.import_symbol(name, address)
        for name in exports:
            builder.export_symbol(name)
        tracker, linker = _linker.link(builder)
    return Library(tracker, linker, {name: tracker[name] for name in exports})


def function(address: int, restype: Any, *argtypes: Any) -> Any:
    """A ctypes function at `address`; it holds the GIL while it runs."""
    return ctypes.PYFUNCTYPE(restype, *argtypes)(address)
