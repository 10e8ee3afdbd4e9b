"""What is converted and what is not, once for all threads; and that Python keeps its meaning."""

from __future__ import annotations

import gc
import importlib.util
import inspect
import linecache
import subprocess
import sys
import threading
import traceback
import weakref
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import pytest

import dualmode as dm
from dualmode.autograph import analysis, conversion, source
from dualmode.autograph.passes import Unsupported

ONE = dm.constant(1.5)


# --- conversion itself ----------------------------------------------------------------------------


def test_library_is_imported_on_demand() -> None:
    code = (
        "import sys, dualmode as dm; dm.function(lambda x: dm.tanh(x) + 1)(1.0); "
        "print('malt' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def relu(x):
    return x if x > 0 else x * 0.0


def early_return(x):
    for i in dm.range(6):
        for j in dm.range(3):
            x = x + j
            if x > 4:
                return x * i
    return -x


def no_flow(x, y):
    with dm.GradientTape() as tape:
        tape.watch(x)
        loss = dm.sum(dm.tanh(x) * y)
    return loss, tape.gradient(loss, x)


def calls_parameter(f, x):
    return f(x)


def prints(x):
    print(x)


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (no_flow, False),
        (relu, True),
        (calls_parameter, True),
        (prints, True),
        (lambda x: relu(x), True),
        (lambda x: np.tanh(x) + abs(x.ndim), False),
        (lambda x: not x, True),
        (lambda x: 0 < x < 1, True),
        (lambda x: [k + 1 for k in x], False),
    ],
)
def test_only_what_has_to_be_is_converted(fn: Any, expected: bool) -> None:
    assert analysis.needed(fn, source.find(fn)[0]) is expected


def test_to_code() -> None:
    text = dm.autograph.to_code(early_return)
    assert "ag__.for_stmt" in text
    assert "ag__.if_stmt" in text
    compile(text, "text", "exec")
    assert dm.autograph.to_code(dm.function(early_return)) == text
    with pytest.raises(TypeError, match="to_code"):
        dm.autograph.to_code(3)


def test_do_not_convert() -> None:
    @dm.autograph.do_not_convert
    def plain(x):
        return x if isinstance(x, dm.Tensor) and len(x.shape) == 0 else -x

    @dm.autograph.do_not_convert
    def branching(x):
        return x if x > 0 else -x

    assert float(dm.function(lambda x: plain(x))(ONE)) == 1.5
    with pytest.raises(dm.errors.TracedValueError, match="marked by do_not_convert"):
        dm.function(lambda x: branching(x))(ONE)


def test_lines_are_the_users() -> None:
    def fails(x):
        y = x + 1
        if y > 0:
            y = y @ y
        return y

    line = fails.__code__.co_firstlineno + 3
    with pytest.raises(dm.errors.ShapeError) as caught:
        dm.function(fails)(dm.ones(()))
    assert f"test_autograph_conversion.py:{line}: y = y @ y" in str(caught.value)
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert (__file__, line) in [(f.filename, f.lineno) for f in frames]


def test_nothing_is_kept_alive() -> None:
    def make(k):
        def fn(x):
            if x > 0:
                return x * k
            return x

        return fn

    class Token(float):
        pass

    dead = []
    for k in range(20):
        token = Token(k)
        fn = make(token)
        dead += [weakref.ref(fn), weakref.ref(token)]
        converted = dm.autograph.called(fn)
        assert converted is not fn
        assert float(converted(ONE)) == 1.5 * k
        del fn, token, converted
    gc.collect()
    assert not any(ref() for ref in dead)


def test_code_without_functions_is_forgotten() -> None:
    codes: list[weakref.ref[CodeType]] = []
    file = f"<{__name__}>"
    for k in range(5):
        text = f"def fn(x):\n    return x + {k} if x > 0 else x\n"
        linecache.cache[file] = (len(text), None, text.splitlines(True), file)
        scope: dict[str, Any] = {}
        exec(compile(text, file, "exec"), scope)
        assert float(dm.autograph.called(scope["fn"])(ONE)) == 1.5 + k
        codes.append(weakref.ref(scope["fn"].__code__))
        assert conversion.is_converted(scope["fn"].__code__)
    del scope
    gc.collect()
    assert not any(code() for code in codes)


def test_threads_convert_at_the_same_time() -> None:
    def fn(x):
        for i in dm.range(3):
            if x > i:
                x = x + 1
        return x

    found: list[float] = []
    threads = [
        threading.Thread(target=lambda: found.append(float(dm.function(fn)(ONE)))) for _ in range(4)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == [float(fn(ONE))] * 4


# --- Python stays Python --------------------------------------------------------------------------


def converted_copy(name: str) -> Any:
    """A module of Python's library with all its functions converted."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for owner in [module, *(x for x in vars(module).values() if isinstance(x, type))]:
        for key, x in list(vars(owner).items()):
            if isinstance(x, FunctionType) and x.__module__ == name:
                try:
                    setattr(owner, key, conversion.instance(x))
                except Unsupported:
                    assert inspect.isgeneratorfunction(x)
    return module


LIBRARY = {
    "textwrap": lambda m: (m.fill("aa bb-cc dd " * 20, 30), m.dedent("  a\n    b")),
    "heapq": lambda m: (m.nsmallest(3, [5, 1, 4, 2]), m.nlargest(2, range(9), key=lambda k: -k)),
    "bisect": lambda m: [m.bisect([1, 2, 2, 5], k, key=lambda v: v) for k in range(6)],
    "fnmatch": lambda m: m.filter(["ab", "ac", "b"], "a[!c]*"),
    "graphlib": lambda m: [*m.TopologicalSorter({1: {2, 3}, 2: {3}}).static_order()],
}


@pytest.mark.parametrize("name", LIBRARY)
def test_python_code_keeps_its_meaning(name: str) -> None:
    assert LIBRARY[name](converted_copy(name)) == LIBRARY[name](importlib.import_module(name))


def handled(x, kind):
    order = []
    try:
        try:
            if kind:
                order.append("set")
                raise kind("inner")
        except KeyError as error:
            order.append(str(error))
            raise
        except ValueError as error:
            order.append(str(error))
        else:
            order.append("else")
        finally:
            order.append("finally")
    except KeyError:
        return order, x
    return order, x + 1 if x > 0 else x


@pytest.mark.parametrize("kind", [None, KeyError, ValueError])
def test_exceptions_of_python(kind: Any) -> None:
    expected, found = handled(ONE, kind), dm.function(lambda x: handled(x, kind))(ONE)
    assert found[0] == expected[0]
    assert float(found[1]) == float(expected[1])
