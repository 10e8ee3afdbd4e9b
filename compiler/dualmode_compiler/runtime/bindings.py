"""LLVM through llvmlite's Python modules: where its library is not one that `llvm` knows, for
LLVM's own linker, and to read what LLVM makes of a text."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from . import llvm


@cache
def binding() -> Any:
    import llvmlite.binding as binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding


class Bindings:
    """The same as `llvm.Library`."""

    def describe(self) -> tuple[str, str, str]:
        features = binding().get_host_cpu_features().flatten()
        return binding().get_process_triple(), binding().get_host_cpu_name(), features

    def object_code(
        self, triple: str, cpu: str, features: str, level: int, text: str, promote: str = ""
    ) -> bytes:
        module = binding().parse_assembly(text, binding().create_context())
        if llvm.verifies():
            module.verify()
        with _machine(triple, cpu, features, level) as machine:
            if promote:
                _promote(module, promote, machine)
            return _emit(machine, module)

    def rest(self) -> None:
        pass


_idle: dict[tuple[str, str, str, int], list[Any]] = {}


@contextmanager
def _machine(triple: str, cpu: str, features: str, level: int) -> Iterator[Any]:
    """A target machine that no other thread has at the moment."""
    idle = _idle.setdefault((triple, cpu, features, level), [])
    try:
        machine = idle.pop()
    except IndexError:  # asked first, another thread could take it in between
        machine = new_machine(triple, cpu, features, level)
    try:
        yield machine
    finally:
        idle.append(machine)


def new_machine(triple: str, cpu: str, features: str, level: int) -> Any:
    """A target machine of llvmlite's, for code that this process runs at once."""
    target = binding().Target.from_triple(triple)
    how = {"opt": level, "reloc": "pic", "codemodel": "small", "jit": True}
    return target.create_target_machine(cpu=cpu, features=features, **how)


def _promote(module: Any, name: str, machine: Any) -> None:
    """Variables in memory become values in registers."""
    try:
        function = module.get_function(name)
    except NameError:
        return
    if function.is_declaration:
        return
    builder = binding().create_pass_builder(machine, binding().create_pipeline_tuning_options())
    passes = binding().create_new_function_pass_manager()
    passes.add_sroa_pass()
    passes.run(function, builder)


def _emit(machine: Any, module: Any) -> bytes:
    """`machine.emit_object(module)`, but for llvmlite's lock, which lets one thread at a time into
    LLVM. Here the thread has a context and a machine of its own, which is what LLVM asks for."""
    ffi = binding().ffi
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
    ffi = binding().ffi
    emit = ctypes.CDLL(ffi.lib._name).LLVMPY_TargetMachineEmitToMemory
    emit.argtypes = [
        ffi.LLVMTargetMachineRef,
        ffi.LLVMModuleRef,
        ctypes.c_int,
        ctypes.POINTER(ctypes.c_char_p),
    ]
    emit.restype = ffi.LLVMMemoryBufferRef
    return emit


def promoted(text: str, function: str, triple: str, cpu: str, features: str) -> str:
    """`text` with variables of `function` in registers, to read."""
    module = binding().parse_assembly(text)
    with _machine(triple, cpu, features, 2) as machine:
        _promote(module, function, machine)
    return str(module)
