"""Object code into the process: our own loader, and LLVM's where the platform is another one."""

from __future__ import annotations

import ctypes
import gc
import struct
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dualmode_compiler.runtime import cpu, elf, jit, lljit, llvm
from dualmode_compiler.runtime.bindings import Bindings

needs_loader = pytest.mark.skipif(not elf.supported, reason="other platforms use LLVM's loader")
LOADERS = [pytest.param(True, marks=needs_loader), False]
INT = ctypes.c_int64


@pytest.fixture(params=LOADERS, ids=["own", "llvm"])
def own(request, monkeypatch) -> bool:
    monkeypatch.setattr(elf, "supported", request.param)
    return request.param


def load(text: str | list[str], exports: list[str], **imports: int) -> jit.Library:
    texts = [text] if isinstance(text, str) else text
    return jit.load(jit.compile_texts(texts), exports, imports)


def call(library: jit.Library, name: str, *args: int) -> int:
    return jit.function(library[name], INT, *[INT] * len(args))(*args)


VARIABLES = """
@count = internal global i64 5
@zeros = internal global [100 x i64] zeroinitializer, align 128
@table = internal constant [3 x ptr] [ptr @one, ptr @two, ptr @count]

define internal i64 @one() noinline { ret i64 1 }
define internal i64 @two() noinline { ret i64 2 }
define i64 @next(i64 %by) {
  %old = load i64, ptr @count
  %new = add i64 %old, %by
  store volatile i64 %new, ptr @count
  %at = getelementptr i64, ptr @zeros, i64 99
  %seen = load i64, ptr %at
  store i64 %new, ptr %at
  %both = add i64 %seen, %new
  ret i64 %both
}
define i64 @pick(i64 %k) {
  %at = getelementptr ptr, ptr @table, i64 %k
  %f = load ptr, ptr %at
  %n = call i64 %f()
  ret i64 %n
}
define i64 @aligned() {
  %n = ptrtoint ptr @zeros to i64
  %low = and i64 %n, 127
  ret i64 %low
}
"""


def test_variables_and_tables(own: bool):
    library = load(VARIABLES, ["next", "pick", "aligned"])
    assert [call(library, "next", 2), call(library, "next", 3)] == [7, 7 + 10]
    assert [call(library, "pick", k) for k in (0, 1)] == [1, 2]
    assert call(library, "aligned") == 0
    assert call(load(VARIABLES, ["next"]), "next", 0) == 5  # each has its own


def test_objects_call_one_another(own: bool):
    one = """
    @shared = global i64 40
    declare i64 @there(ptr)
    define i64 @start(i64 %x) { %y = call i64 @there(ptr @back) %z = add i64 %x, %y ret i64 %z }
    define i64 @back(i64 %x) { %y = add i64 %x, 1 ret i64 %y }
    """
    two = """
    @shared = external global i64
    define i64 @there(ptr %f) { %s = load i64, ptr @shared %y = call i64 %f(i64 %s) ret i64 %y }
    """
    assert call(load([one, two], ["start"]), "start", 1) == 42


def test_imports_and_the_process(own: bool):
    text = """
    @given = external global i64
    declare i64 @mine(i64)
    declare i64 @labs(i64)
    declare double @fmod(double, double)
    define i64 @run(i64 %x) {
      %a = call i64 @mine(i64 %x)
      %b = call i64 @labs(i64 %a)
      %c = load i64, ptr @given
      %d = add i64 %b, %c
      %e = sitofp i64 %d to double
      %f = call double @fmod(double %e, double 1.0e+02)
      %g = fptosi double %f to i64
      ret i64 %g
    }
    """
    given = INT(1000)
    mine = ctypes.PYFUNCTYPE(INT, INT)(lambda x: -2 * x)
    address = ctypes.cast(mine, ctypes.c_void_p).value or 0
    library = load(text, ["run"], mine=address, given=ctypes.addressof(given))
    assert call(library, "run", 21) == 42


def test_constants_of_all_sizes(own: bool):
    text = """
    define void @run(ptr %p) {
      %x = load <16 x float>, ptr %p, align 4
      %y = fmul <16 x float> %x, <float 1.0, float 2.0, float 3.0, float 4.0, float 5.0, float 6.0,
        float 7.0, float 8.0, float 9.0, float 10.0, float 11.0, float 12.0, float 13.0, float 14.0,
        float 15.0, float 16.0>
      %z = fadd <16 x float> %y, splat (float 0.5)
      store <16 x float> %z, ptr %p, align 4
      ret void
    }
    """
    x = np.ones(16, np.float32)
    library = load(text, ["run"])
    jit.function(library["run"], None, ctypes.c_void_p)(x.ctypes.data)
    np.testing.assert_array_equal(x, np.arange(1, 17) + 0.5)


@needs_loader
def test_code_is_not_writable_and_data_not_executable():
    library = load(VARIABLES, ["next"])
    start, access = library._pages.address, []
    for line in Path("/proc/self/maps").read_text().splitlines():
        bounds, flags, *_ = line.split()
        low, high = (int(x, 16) for x in bounds.split("-"))
        if low <= start < high or (access and low <= start + 4096 * len(access) < high):
            access += [flags[:3]] * ((high - low) // 4096)
    assert access[0] == "r-x"
    assert set(access[:3]) == {"r-x", "r--", "rw-"}


@needs_loader
def test_pages_go_with_their_library():
    library = load(VARIABLES, ["next"])
    pages, start = weakref.ref(library._pages), f"{library._pages.address:x}-"
    assert any(line.startswith(start) for line in Path("/proc/self/maps").read_text().splitlines())
    del library
    gc.collect()
    assert pages() is None


def test_linkers_of_llvm_go_with_what_they_have_linked(monkeypatch):
    monkeypatch.setattr(elf, "supported", False)
    code = jit.compile_text("define i32 @run(ptr %table) {\n ret i32 7\n}\n")
    libraries = [jit.load(code, ["run"]) for _ in range(200)]
    linkers = {weakref.ref(x._linker) for x in libraries}
    assert 3 <= len(linkers) <= 5
    assert isinstance(libraries[100], lljit.Library)
    assert jit.function(libraries[100]["run"], ctypes.c_int32, ctypes.c_void_p)(None) == 7
    del libraries
    gc.collect()
    assert sum(r() is not None for r in linkers) <= 2  # with other code, and the latest


@needs_loader
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda code: b"\x7fELX" + code[4:], "no relocatable object file"),
        (lambda code: code[:18] + struct.pack("<H", 183) + code[20:], "no relocatable object"),
    ],
)
def test_other_files_are_refused(change, message: str):
    code = jit.compile_text("define i64 @run() {\n ret i64 7\n}\n")
    with pytest.raises(elf.LinkError, match=message):
        elf.Library([change(code)], ["run"], {})


@needs_loader
def test_what_cannot_be_linked_is_named():
    text = "declare i64 @dm_no()\ndefine i64 @run() {\n %x = call i64 @dm_no()\n ret i64 %x\n}"
    code = jit.compile_text(text)
    with pytest.raises(elf.LinkError, match="no symbol dm_no"):
        jit.load(code, ["run"])
    code = jit.compile_text("define i64 @run() {\n ret i64 7\n}\n")
    with pytest.raises(elf.LinkError, match="does not define 'walk'"):
        jit.load(code, ["walk"])
    with pytest.raises(elf.LinkError, match="run is defined twice"):
        jit.load([code, code], ["run"])


def test_identity_of_the_cpu():
    said = cpu.identity()
    if elf.supported:
        assert said is not None and len(said) > 40
        cpu.identity.cache_clear()
        assert cpu.identity() == said


@pytest.fixture(params=[llvm.Library, Bindings], ids=["directly", "through llvmlite"])
def library(request) -> Any:
    if request.param is Bindings:
        return Bindings()
    file = llvm.file()
    return llvm.Library(file) if file else pytest.skip("llvmlite is of another version")


def test_the_host_is_what_llvm_says(library):
    assert jit.host() == jit._host(*library.describe())


LOOP = """
define i32 @f(i32 %x) {
  %p = alloca i32
  store i32 %x, ptr %p
  br label %loop
loop:
  %y = load i32, ptr %p
  %z = add i32 %y, 1
  store i32 %z, ptr %p
  %again = icmp ult i32 %z, 100
  br i1 %again, label %loop, label %done
done:
  ret i32 %z
}
declare void @g()
"""


def test_both_ways_to_llvm_make_the_same_code(library):
    target = (jit.host().triple, jit.host().cpu, jit.host().features)
    plain = [library.object_code(*target, level, LOOP) for level in (0, 2)]
    promoted = library.object_code(*target, 2, LOOP, "f")
    assert len({*plain, promoted}) == 3
    assert library.object_code(*target, 2, LOOP, "g") == plain[1]  # is declared only
    other = Bindings()
    assert plain == [other.object_code(*target, level, LOOP) for level in (0, 2)]
    assert promoted == other.object_code(*target, 2, LOOP, "f")
    with pytest.raises(RuntimeError, match="parsing error"):
        library.object_code(*target, 2, "define nothing")
