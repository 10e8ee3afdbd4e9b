"""A function's syntax tree: read from its own lines, it is what the whole file has."""

from __future__ import annotations

import ast
import importlib
import linecache
import textwrap
from collections.abc import Iterator
from types import CodeType

import pytest

from dualmode.autograph import source


def codes(code: CodeType) -> Iterator[CodeType]:
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield inner
            yield from codes(inner)


def compare(lines: list[str], file: str) -> dict[str, bool]:
    """Whether the function was found by its lines alone, by its name."""
    found: dict[str, bool] = {}
    whole = source._File(lines)
    for code in codes(compile("".join(lines), file, "exec")):
        if code.co_name.startswith("<") and code.co_name != "<lambda>":
            continue
        try:
            wanted = whole.find(code)
        except source.SourceError:  # the body of a class
            continue
        alone = source._alone(lines, code)
        found[f"{code.co_name} {code.co_firstlineno}"] = alone is not None
        if alone is not None:
            trees = [ast.dump(node, include_attributes=True) for node, _ in (wanted, alone)]
            assert trees[0] == trees[1] and wanted[1] == alone[1]
    return found


@pytest.mark.parametrize("module", ["nn.layers", "optim", "tensor", "autograph.source"])
def test_functions_of_the_engine(module):
    file = importlib.import_module(f"dualmode.{module}").__file__
    assert file is not None
    found = compare(linecache.getlines(file), file)
    assert sum(found.values()) > 5


TEXT = '''
class Outer:
    """A class."""

    class Inner:
        @staticmethod
        def method(
            a,
            b=(1,
2),
        ):
            """Text
at the start of a line.
"""
            return a
            # a comment
        # another one

    def other(self):
        def inner():
            return self.__private
        value: int

        return inner


def last():
    def inner():
        return 1
    """
text
"""


@property
# a comment
def decorated(self): return self; x: int

async def later(): pass
f = lambda x: x
if 1:
	def tabs():
		return 1
'''


def test_unusual_functions():
    found = compare([*TEXT.splitlines(keepends=True)], "<text>")
    names = [name.split()[0] for name, alone in found.items() if not alone]
    assert names == ["last", "<lambda>"]  # the last string of the one looks like the end of it
    assert len(found) == 9


def test_a_file_that_has_changed():
    code = next(codes(compile("def f():\n    return 1\n", "<text>", "exec")))
    for text in ("def g():\n    return 1\n", "x = 1\n", "", "    def f():\n  return 1\n"):
        assert source._alone(textwrap.dedent(text).splitlines(keepends=True), code) is None
