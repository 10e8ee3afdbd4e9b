"""The few functions of LLVM that code generation takes, called in llvmlite's library directly.

llvmlite's own Python modules take longer to import than a program takes to compile, and let one
thread at a time into LLVM. These declarations are those of the versions in `_KNOWN`; with others,
and for all else, llvmlite is imported as usual (see `jit`).
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import threading
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_void_p
from functools import cache
from typing import Any

_KNOWN = ("0.50.",)
_NOW = 2  # RTLD_NOW
_TEXT = POINTER(c_char_p)
_DECLARATIONS: dict[str, tuple[Any, list[Any]]] = {
    "InitializeNativeTarget": (c_int, []),
    "InitializeNativeAsmPrinter": (c_int, []),
    "GetHostCPUFeatures": (c_int, [_TEXT]),
    "GetHostCPUName": (None, [_TEXT]),
    "GetProcessTriple": (None, [_TEXT]),
    "ContextCreate": (c_void_p, []),
    "ContextDispose": (None, [c_void_p]),
    "ParseAssembly": (c_void_p, [c_void_p, c_char_p, _TEXT]),
    "DisposeModule": (None, [c_void_p]),
    "GetTargetFromTriple": (c_void_p, [c_char_p, _TEXT]),
    "CreateTargetMachine": (
        c_void_p,
        # target, triple, CPU, features, level, relocation, code model, print, JIT, ABI
        [c_void_p, *[c_char_p] * 3, c_int, *[c_char_p] * 2, c_int, c_int, c_char_p],
    ),
    "TargetMachineEmitToMemory": (c_void_p, [c_void_p, c_void_p, c_int, _TEXT]),
    "GetBufferStart": (c_void_p, [c_void_p]),
    "GetBufferSize": (c_size_t, [c_void_p]),
    "DisposeMemoryBuffer": (None, [c_void_p]),
    "DisposeString": (None, [c_char_p]),
}
_lock = threading.Lock()


def folder() -> str:
    """Where llvmlite is installed, found without importing it."""
    found = importlib.util.find_spec("llvmlite")
    if found is None or found.origin is None:
        raise ImportError(
            "dualmode compiles with llvmlite, which is not installed", name="llvmlite"
        )
    return os.path.dirname(found.origin)


def library() -> ctypes.CDLL | None:
    """llvmlite's library, with its targets initialised; None where it is not a known one."""
    with _lock:
        return _library()


@cache
def _library() -> ctypes.CDLL | None:
    file = os.path.join(folder(), "binding", "libllvmlite.so")
    try:
        with open(os.path.join(folder(), "_version.py")) as version:
            known = any(f"version_version = '{v}" in line for line in version for v in _KNOWN)
        if not known:
            return None
        # first without the GIL, which `CDLL` keeps: it takes some milliseconds
        ctypes.CDLL(None).dlopen(file.encode(), _NOW)
        found = ctypes.CDLL(file)
        for name, (result, arguments) in _DECLARATIONS.items():
            function = getattr(found, f"LLVMPY_{name}")
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError):
        return None
    found.LLVMPY_InitializeNativeTarget()
    found.LLVMPY_InitializeNativeAsmPrinter()
    return found


def describe(lib: ctypes.CDLL) -> tuple[str, str, str]:
    """The triple, CPU and features of this machine, as LLVM names them."""
    said: list[str] = []
    for name in ("GetProcessTriple", "GetHostCPUName", "GetHostCPUFeatures"):
        text = c_char_p()
        getattr(lib, f"LLVMPY_{name}")(byref(text))
        said.append(_taken(lib, text))
    triple, cpu, features = said
    return triple, cpu, ",".join(sorted(features.split(","), key=lambda f: f[1:]))


def new_machine(
    lib: ctypes.CDLL, triple: str, cpu: str, features: str, options: dict[str, Any]
) -> int:
    """A target machine; there is no need to dispose of the few that a process makes."""
    message = c_char_p()
    target = lib.LLVMPY_GetTargetFromTriple(triple.encode(), byref(message))
    if not target:
        raise RuntimeError(f"LLVM has no target {triple}: {_taken(lib, message)}")
    return lib.LLVMPY_CreateTargetMachine(
        target,
        *(text.encode() for text in (triple, cpu, features)),
        options["opt"],
        options["reloc"].encode(),
        options["codemodel"].encode(),
        0,
        int(options["jit"]),
        b"",
    )


def object_code(lib: ctypes.CDLL, machine: int, text: str) -> bytes:
    """The object file that `machine` makes of LLVM IR. Several threads may do this at the same
    time, each with a machine of its own.

    Raises:
        RuntimeError: LLVM does not accept the text.
    """
    message = c_char_p()
    context = lib.LLVMPY_ContextCreate()
    try:
        module = lib.LLVMPY_ParseAssembly(context, text.encode(), byref(message))
        if not module:
            raise RuntimeError(f"LLVM IR parsing error\n{_taken(lib, message)}")
        try:
            code = lib.LLVMPY_TargetMachineEmitToMemory(machine, module, 1, byref(message))
            if not code:
                raise RuntimeError(_taken(lib, message))
            start, size = lib.LLVMPY_GetBufferStart(code), lib.LLVMPY_GetBufferSize(code)
            made = ctypes.string_at(start, size)
            lib.LLVMPY_DisposeMemoryBuffer(code)
            return made
        finally:
            lib.LLVMPY_DisposeModule(module)
    finally:
        lib.LLVMPY_ContextDispose(context)


def _taken(lib: ctypes.CDLL, message: c_char_p) -> str:
    """The text that LLVM has left in `message`."""
    text = (message.value or b"").decode(errors="replace")
    if message:
        lib.LLVMPY_DisposeString(message)
    return text
