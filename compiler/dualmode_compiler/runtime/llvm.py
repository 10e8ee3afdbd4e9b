"""The few functions of LLVM that code generation takes, called in llvmlite's library directly.

llvmlite's own Python modules take longer to import than a program takes to compile, and let one
thread at a time into LLVM. These declarations are those of the versions in `_KNOWN`; with others,
llvmlite is imported as usual (see `jit`). The process that `apart` starts imports this module first
of all, so it imports little itself.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_void_p

from .trim import trim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OPTIONS = ("-disable-lsr", "-disable-cgp", "-enable-misched=false")
"""LLVM's options where a process is there for LLVM alone: they hold for all of a process. Addresses
in loops are written as machines take them, and instructions in an order that leaves the processor
something to do; to look for better ones takes a fifth of the time and finds none."""

_KNOWN = ("0.50.",)
_NOW = 2  # RTLD_NOW
_VERIFY = "DUALMODE_VERIFY"
_TEXT = POINTER(c_char_p)
_DECLARATIONS: dict[str, tuple[Any, list[Any]]] = {
    "InitializeNativeTarget": (c_int, []),
    "InitializeNativeAsmPrinter": (c_int, []),
    "SetCommandLine": (None, [c_char_p, c_char_p]),
    "GetHostCPUFeatures": (c_int, [_TEXT]),
    "GetHostCPUName": (None, [_TEXT]),
    "GetProcessTriple": (None, [_TEXT]),
    "ContextCreate": (c_void_p, []),
    "ContextDispose": (None, [c_void_p]),
    "ParseAssembly": (c_void_p, [c_void_p, c_char_p, _TEXT]),
    "VerifyModule": (c_int, [c_void_p, _TEXT]),
    "DisposeModule": (None, [c_void_p]),
    "GetNamedFunction": (c_void_p, [c_void_p, c_char_p]),
    "IsDeclaration": (c_int, [c_void_p]),
    "CreatePipelineTuningOptions": (c_void_p, []),
    "DisposePipelineTuningOptions": (None, [c_void_p]),
    "CreatePassBuilder": (c_void_p, [c_void_p, c_void_p]),
    "DisposePassBuilder": (None, [c_void_p]),
    "CreateNewFunctionPassManager": (c_void_p, []),
    "DisposeNewFunctionPassManger": (None, [c_void_p]),
    "function_AddSROAPass": (None, [c_void_p]),
    "RunNewFunctionPassManager": (None, [c_void_p, c_void_p, c_void_p]),
    "GetTargetFromTriple": (c_void_p, [c_char_p, _TEXT]),
    "CreateTargetMachine": (
        c_void_p,
        # target, triple, CPU, features, level, relocation, code model, print, JIT, ABI
        [c_void_p, *[c_char_p] * 3, c_int, *[c_char_p] * 2, c_int, c_int, c_char_p],
    ),
    "DisposeTargetMachine": (None, [c_void_p]),
    "TargetMachineEmitToMemory": (c_void_p, [c_void_p, c_void_p, c_int, _TEXT]),
    "GetBufferStart": (c_void_p, [c_void_p]),
    "GetBufferSize": (c_size_t, [c_void_p]),
    "DisposeMemoryBuffer": (None, [c_void_p]),
    "DisposeString": (None, [c_char_p]),
}


def verifies() -> bool:
    """Whether LLVM's verifier goes over each text before code is made of it, as it does in tests.
    The parser accepts much on which code generation aborts, or of which it makes something else:
    two blocks of one name, values that are used where they are not defined."""
    return bool(os.environ.get(_VERIFY))


def folder() -> str:
    """Where llvmlite is installed, found without importing it."""
    import importlib.util

    found = importlib.util.find_spec("llvmlite")
    if found is None or found.origin is None:
        raise ImportError(
            "dualmode compiles with llvmlite, which is not installed", name="llvmlite"
        )
    return os.path.dirname(found.origin)


def file() -> str | None:
    """llvmlite's library; None where it is of a version that is not known here."""
    found = os.path.join(folder(), "binding", "libllvmlite.so")
    try:
        with open(os.path.join(folder(), "_version.py")) as version:
            known = any(f"version_version = '{v}" in line for line in version for v in _KNOWN)
    except OSError:
        return None
    return found if known and os.path.exists(found) else None


class Library:
    """llvmlite's library. Any number of threads may use it at the same time.

    Args:
        options: of LLVM's command line, for all that is compiled in this process.

    Raises:
        OSError, AttributeError: this is no such library.
    """

    def __init__(self, file: str, options: tuple[str, ...] = ()) -> None:
        self._file = os.path.realpath(file)
        # first without the GIL, which `CDLL` keeps: it takes some milliseconds
        ctypes.CDLL(None).dlopen(os.fsencode(file), _NOW)
        self._call = ctypes.CDLL(file)
        for name, (result, arguments) in _DECLARATIONS.items():
            function = getattr(self._call, f"LLVMPY_{name}")
            function.restype, function.argtypes = result, arguments
        self._call.LLVMPY_InitializeNativeTarget()
        self._call.LLVMPY_InitializeNativeAsmPrinter()
        for option in options:
            self._call.LLVMPY_SetCommandLine(b"dualmode", option.encode())
        self._idle: dict[tuple[str, str, str, int], list[int]] = {}
        self._verifies = verifies()

    def describe(self) -> tuple[str, str, str]:
        """The triple, CPU and features of this machine, as LLVM names them."""
        said: list[str] = []
        for name in ("GetProcessTriple", "GetHostCPUName", "GetHostCPUFeatures"):
            text = c_char_p()
            getattr(self._call, f"LLVMPY_{name}")(byref(text))
            said.append(self._taken(text))
        triple, cpu, features = said
        return triple, cpu, ",".join(sorted(features.split(","), key=lambda f: f[1:]))

    def object_code(
        self, triple: str, cpu: str, features: str, level: int, text: str, promote: str = ""
    ) -> bytes:
        """The object file that LLVM makes of its IR.

        Args:
            level: of optimization, from 0 to 3. No IR passes run.
            promote: a function whose variables in memory are put in registers first.

        Raises:
            RuntimeError: LLVM does not accept the text.
        """
        call = self._call
        message = c_char_p()
        machine = self._machine(triple, cpu, features, level)
        context = call.LLVMPY_ContextCreate()
        try:
            module = call.LLVMPY_ParseAssembly(context, text.encode(), byref(message))
            if not module:
                raise RuntimeError(f"LLVM IR parsing error\n{self._taken(message)}")
            try:
                if self._verifies and call.LLVMPY_VerifyModule(module, byref(message)):
                    raise RuntimeError(f"LLVM IR that is not valid\n{self._taken(message)}")
                if promote:
                    self._promote(machine, module, promote)
                code = call.LLVMPY_TargetMachineEmitToMemory(machine, module, 1, byref(message))
                if not code:
                    raise RuntimeError(self._taken(message))
                start, size = call.LLVMPY_GetBufferStart(code), call.LLVMPY_GetBufferSize(code)
                made = ctypes.string_at(start, size)
                call.LLVMPY_DisposeMemoryBuffer(code)
                return made
            finally:
                call.LLVMPY_DisposeModule(module)
        finally:
            call.LLVMPY_ContextDispose(context)
            self._idle[triple, cpu, features, level].append(machine)

    def rest(self) -> None:
        """Give back to the system what the next request does without, or takes anew in three
        milliseconds: most of all that the library holds. Requests may be at work meanwhile."""
        for idle in list(self._idle.values()):
            while idle:
                try:
                    machine = idle.pop()
                except IndexError:  # a request was quicker
                    break
                self._call.LLVMPY_DisposeTargetMachine(machine)
        trim(self._file)

    def _machine(self, triple: str, cpu: str, features: str, level: int) -> int:
        """A target machine that no other thread has at the moment. A process makes few of them, so
        they are kept."""
        idle = self._idle.setdefault((triple, cpu, features, level), [])
        try:
            return idle.pop()
        except IndexError:  # asked first, another thread could take it in between
            pass
        message = c_char_p()
        target = self._call.LLVMPY_GetTargetFromTriple(triple.encode(), byref(message))
        if not target:
            raise RuntimeError(f"LLVM has no target {triple}: {self._taken(message)}")
        names = (triple.encode(), cpu.encode(), features.encode())
        # position-independent code, for this process: not printed, run at once, the usual ABI
        return self._call.LLVMPY_CreateTargetMachine(
            target, *names, level, b"pic", b"small", 0, 1, b""
        )

    def _promote(self, machine: int, module: int, name: str) -> None:
        call = self._call
        function = call.LLVMPY_GetNamedFunction(module, name.encode())
        if not function or call.LLVMPY_IsDeclaration(function):
            return
        options = call.LLVMPY_CreatePipelineTuningOptions()
        builder = call.LLVMPY_CreatePassBuilder(machine, options)
        passes = call.LLVMPY_CreateNewFunctionPassManager()
        call.LLVMPY_function_AddSROAPass(passes)
        call.LLVMPY_RunNewFunctionPassManager(passes, function, builder)
        call.LLVMPY_DisposeNewFunctionPassManger(passes)
        call.LLVMPY_DisposePassBuilder(builder)
        call.LLVMPY_DisposePipelineTuningOptions(options)

    def _taken(self, message: c_char_p) -> str:
        """The text that LLVM has left in `message`."""
        text = (message.value or b"").decode(errors="replace")
        if message:
            self._call.LLVMPY_DisposeString(message)
        return text
