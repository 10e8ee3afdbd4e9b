"""LLVM IR text to machine code in this process, through llvmlite and the cache on disk.

What is in the cache needs neither LLVM nor llvmlite, which is imported at the first miss.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field
from functools import cache
from typing import Any

from . import apart, cpu, elf, llvm
from . import cache as store
from .caches import Caches, caches

Library = Any  # `elf.Library`, or `lljit.Library` where the platform is another one
# What `create_target_machine` is asked for, besides the CPU.
_OPTIONS = {"opt": 2, "reloc": "pic", "codemodel": "small", "jit": True}


@dataclass(frozen=True, slots=True)
class Host:
    """The machine that code is generated for. Whatever emission reads of a machine is here, since
    keys of the cache on disk name all of it.

    Attributes:
        triple, cpu, features: as LLVM names them.
        vector_bytes: width of a vector register (64 AVX-512, 32 AVX2, 16 SSE2 and NEON).
        registers: number of vector registers.
        fma: True where a fused multiply-add is one instruction.
        caches: by whose sizes blocks are cut.
    """

    triple: str
    cpu: str
    features: str
    vector_bytes: int
    registers: int
    fma: bool
    caches: Caches = field(default_factory=caches)

    @property
    def has_masks(self) -> bool:
        """True where masked loads and stores are single instructions for every lane width."""
        return self.vector_bytes == 64


@cache
def _llvm() -> Any:
    import llvmlite.binding as binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding


@cache
def llvm_version() -> str:
    """What tells this installation of llvmlite from others, found without importing it."""
    folder = llvm.folder()
    said = [folder]
    for part in ("_version.py", "binding", "binding/libllvmlite.so"):
        try:
            known = os.stat(os.path.join(folder, part))
        except FileNotFoundError:  # other platforms call the library otherwise
            continue
        said += [part, str(known.st_size), str(known.st_mtime_ns)]
    return "\n".join(said)


@cache
def host() -> Host:
    """This machine's CPU."""
    identity = cpu.identity()
    if identity is None:
        return _host(*_work("describe"))
    key = store.digest("host", identity, llvm_version())
    known = store.get(key, "the CPU's features")
    if known is None:
        known = "\n".join(_work("describe")).encode()
        store.put(key, known, "the CPU's features")
    return _host(*known.decode().split("\n"))


def _describe() -> tuple[str, str, str]:
    """The triple, CPU and features of this machine, as LLVM names them."""
    library = llvm.library()
    if library is not None:
        return llvm.describe(library)
    binding = _llvm()
    features = binding.get_host_cpu_features().flatten()
    return binding.get_process_triple(), binding.get_host_cpu_name(), features


def _host(triple: str, cpu_name: str, features: str) -> Host:
    on = {name[1:] for name in features.split(",") if name.startswith("+")}
    x86 = triple.startswith(("x86_64", "i686"))
    if {"avx512f", "avx512vl", "avx512dq", "avx512bw"} <= on:
        width, registers = 64, 32
        features += ",-prefer-256-bit"
    elif "avx2" in on:
        width, registers = 32, 16
    else:
        width, registers = 16, 16 if x86 else 32
    return Host(triple, cpu_name, features, width, registers, "fma" in on or not x86)


_idle: dict[tuple[Host, Any], list[Any]] = {}


@contextmanager
def _machine(target: Host, library: Any = None) -> Iterator[Any]:
    """A target machine that no other thread has at the moment, llvmlite's or that of `library`."""
    idle = _idle.setdefault((target, library), [])
    try:
        machine = idle.pop()
    except IndexError:  # asked first, another thread could take it in between
        machine = _new_machine(target, library)
    try:
        yield machine
    finally:
        idle.append(machine)


def _new_machine(target: Host, library: Any = None) -> Any:
    if library is not None:
        return llvm.new_machine(library, target.triple, target.cpu, target.features, _OPTIONS)
    return (
        _llvm()
        .Target.from_triple(target.triple)
        .create_target_machine(cpu=target.cpu, features=target.features, **_OPTIONS)
    )


def load_compiler() -> None:
    """Load what compiles, which takes some milliseconds, in a thread of the caller's choice."""
    if apart.settings.wanted:
        with suppress(apart.Unavailable):
            apart.start()
        return
    if llvm.library() is None:
        _llvm()


def compile_text(text: str, target: Host | None = None, promote: str = "") -> bytes:
    """An object file from LLVM IR text. No IR passes run: the text is vectorised already.

    Args:
        promote: a function whose variables in memory are put in registers first.

    Raises:
        RuntimeError: LLVM does not accept the text.
    """
    return compile_texts([text], target, promote)[0]


def compile_texts(texts: list[str], target: Host | None = None, promote: str = "") -> list[bytes]:
    """`compile_text` of each; those that are not in the cache at the same time."""
    target = target or host()
    options = "\n".join(map(repr, (*astuple(target), *_OPTIONS.items(), promote)))
    keys = [store.digest("code", llvm_version(), options, text) for text in texts]
    found = [
        store.get(key, f"machine code of {len(text)} characters")
        for key, text in zip(keys, texts, strict=True)
    ]
    missing = [k for k, code in enumerate(found) if code is None]
    made = (
        _work("compile", [texts[k] for k in missing], astuple(target), promote) if missing else []
    )
    for k, code in zip(missing, made, strict=True):
        found[k] = code
        store.put(keys[k], code, f"machine code of {len(texts[k])} characters")
    return [code for code in found if code is not None]


def _work(name: str, *args: Any) -> Any:
    """What `WORK` names, in a process of its own if that is wanted and can be had."""
    if apart.settings.wanted:
        with suppress(apart.Unavailable):
            return apart.ask(name, *args)
    return WORK[name](*args)


def _in_parallel(texts: list[str], fields: tuple[Any, ...], promote: str) -> list[bytes]:
    """Machine code for the `Host` of these `fields`. As many texts at the same time as there are
    cores: a thread that is done with one takes the next. The import of `concurrent.futures` would
    take as long as a small module does."""
    *plain, sizes = fields
    target = Host(*plain, caches=Caches(*sizes))
    made: dict[int, bytes | Exception] = {}
    waiting = iter(range(len(texts)))  # of which each is taken once

    def work() -> None:
        for k in waiting:
            try:
                made[k] = _generate(texts[k], target, promote)
            except Exception as error:
                made[k] = error

    count = min(len(texts), max(2, os.cpu_count() or 2))
    threads = [threading.Thread(target=work) for _ in range(count - 1)]
    for thread in threads:
        thread.start()
    try:
        work()
    finally:
        for thread in threads:
            thread.join()
    return [_code(made[k]) for k in range(len(texts))]


def _code(made: bytes | Exception) -> bytes:
    if isinstance(made, Exception):
        raise made
    return made


WORK: dict[str, Callable[..., Any]] = {"describe": _describe, "compile": _in_parallel}
"""All that LLVM does, by name; arguments and results are plain data."""


def _generate(text: str, target: Host, promote: str) -> bytes:
    library = None if promote else llvm.library()
    if library is not None:
        with _machine(target, library) as machine:
            return llvm.object_code(library, machine, text)
    binding = _llvm()
    module = binding.parse_assembly(text, binding.create_context())
    with _machine(target) as machine:
        if promote:
            _promote(module.get_function(promote), machine)
        return _emit(machine, module)


def _promote(function: Any, machine: Any) -> None:
    """Variables in memory become values in registers."""
    if function.is_declaration:
        return
    binding = _llvm()
    builder = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options())
    passes = binding.create_new_function_pass_manager()
    passes.add_sroa_pass()
    passes.run(function, builder)


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
    objects: bytes | list[bytes], exports: Sequence[str], imports: Mapping[str, int] | None = None
) -> Library:
    """Object code into this process; several objects may call one another.

    Args:
        exports: the functions whose addresses are wanted.
        imports: addresses of symbols that the code calls; other undefined ones (memcpy, fmodf, ...)
            are looked up in the process.
    """
    parts = [objects] if isinstance(objects, bytes) else objects
    if elf.supported:
        return elf.Library(parts, exports, imports or {})
    from . import lljit

    return lljit.Library(parts, exports, imports or {}, _llvm(), lambda: _new_machine(host()))


def function(address: int, restype: Any, *argtypes: Any) -> Any:
    """A ctypes function at `address`; it holds the GIL while it runs."""
    return ctypes.PYFUNCTYPE(restype, *argtypes)(address)
