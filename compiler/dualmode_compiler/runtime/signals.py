"""Signals while native code runs: Ctrl-C ends a loop that goes on for too long.

CPython notes a signal and runs its Python handler at the next opportunity, which long loops have to
give it (`PyErr_CheckSignals`, C API, "Exception handling"). What the handler raises is kept until
the loop has been left.
"""

from __future__ import annotations

import ctypes

CHECK = """\
define internal i32 @dm_signal() noinline {
  %state = call i32 @PyGILState_Ensure()
  %raised = call i32 @PyErr_CheckSignals()
  %some = icmp ne i32 %raised, 0
  br i1 %some, label %keep, label %done
keep:
  %value = getelementptr ptr, ptr @dm_raised, i64 1
  %trace = getelementptr ptr, ptr @dm_raised, i64 2
  call void @PyErr_Fetch(ptr @dm_raised, ptr %value, ptr %trace)
  br label %done
done:
  call void @PyGILState_Release(i32 %state)
  ret i32 %raised
}
"""
"""A function that is not 0 where a signal's handler has raised."""

DECLARATIONS = [
    "@dm_raised = external global [3 x ptr]",
    "declare i32 @PyGILState_Ensure()",
    "declare void @PyGILState_Release(i32)",
    "declare i32 @PyErr_CheckSignals()",
    "declare void @PyErr_Fetch(ptr, ptr, ptr)",
]

# type, value and traceback; one place is enough, as handlers run in the main thread only
_raised = (ctypes.c_void_p * 3)()


def symbols() -> dict[str, int]:
    """Addresses of what `CHECK` refers to."""
    api = ctypes.pythonapi
    functions = ("PyGILState_Ensure", "PyGILState_Release", "PyErr_CheckSignals", "PyErr_Fetch")
    found = {
        name: ctypes.cast(getattr(api, name), ctypes.c_void_p).value or 0 for name in functions
    }
    return {**found, "dm_raised": ctypes.addressof(_raised)}


def reraise() -> None:
    """Raise what the handler raised."""
    restore = ctypes.PYFUNCTYPE(None, *[ctypes.c_void_p] * 3)(("PyErr_Restore", ctypes.pythonapi))
    restore(*_raised)
