"""The syntax tree of a function, found in its file, with the file's own lines and columns."""

from __future__ import annotations

import ast
import linecache
import sys
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any, Generic, TypeVar

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
T = TypeVar("T")
_FILES = 16  # whose trees are kept


class ByCode(Generic[T]):
    """A value for each of some code objects, for as long as these live.

    By identity: equal code of two places has two values, and comparing code is slow.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[CodeType], T]] = {}

    def get(self, code: CodeType) -> T | None:
        found = self._known.get(id(code))
        return None if found is None or found[0]() is not code else found[1]

    def set(self, code: CodeType, value: T) -> None:
        known, key = self._known, id(code)

        def forget(dead: Any) -> None:
            if known.get(key, (None,))[0] is dead:
                del known[key]

        known[key] = weakref.ref(code, forget), value


class SourceError(Exception):
    """A function's syntax tree that is not to be had; says why, as the end of a sentence."""


class _File:
    """The functions of a source file.

    Attributes:
        lines: the text that was parsed.
    """

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        self._tree = ast.parse("".join(lines))

    def _starting(self, line: int, node: ast.AST, owner: str) -> Iterator[tuple[FunctionNode, str]]:
        """The functions within `node` whose first line is `line`."""
        for child in ast.iter_child_nodes(node):
            end = getattr(child, "end_lineno", None)  # some nodes have no place of their own
            if end is not None and not _first_line(child) <= line <= end:
                continue
            if isinstance(child, FunctionNode) and _first_line(child) == line:
                yield child, owner
            inner = child.name if isinstance(child, ast.ClassDef) else owner
            yield from self._starting(line, child, inner)

    def find(self, code: CodeType) -> tuple[FunctionNode, str]:
        """The function that `code` was compiled from, and the name of the class around it."""
        found = [
            (node, owner)
            for node, owner in self._starting(code.co_firstlineno, self._tree, "")
            if getattr(node, "name", "<lambda>") == code.co_name
        ]
        if len(found) > 1:
            found = [(node, owner) for node, owner in found if _spans(node, code)]
        if len(found) > 1:  # the innermost of nested lambdas
            found = [max(found, key=lambda f: (f[0].lineno, f[0].col_offset))]
        if not found:
            raise SourceError("its file has changed since it was imported")
        return found[0]


_files: OrderedDict[str, _File] = OrderedDict()


def find(function: FunctionType) -> tuple[FunctionNode, str]:
    """The syntax tree of `function`, not to be changed, and the name of the class around it.

    Raises:
        SourceError: there is none.
    """
    code = function.__code__
    lines = linecache.getlines(code.co_filename, function.__globals__)
    if not lines:
        raise _unavailable(code)
    file = _files.get(code.co_filename)
    if file is None or file.lines != lines:
        found = _alone(lines, code)
        if found is not None:
            return found
        try:
            file = _File(lines)
        except SyntaxError:
            raise SourceError("its file has changed since it was imported") from None
        _files[code.co_filename] = file
        while len(_files) > _FILES:
            _files.popitem(last=False)
    try:
        return file.find(code)
    except SourceError:
        if code.co_filename == "<string>":  # these lines are those of `python -c`
            raise _unavailable(code) from None
        raise


def _alone(lines: list[str], code: CodeType) -> tuple[FunctionNode, str] | None:
    """What `find` gives, from the lines of the function only: files are long. None where these are
    not easily told from others."""
    first, name = code.co_firstlineno - 1, getattr(code, "co_qualname", "")  # Python 3.11
    start = lines[first] if first < len(lines) else ""
    indent = len(start) - len(start.lstrip())
    if not name or not start[indent:].startswith(("def ", "async ", "@")):
        return None
    end = max((line for _, _, line in code.co_lines() if line is not None), default=first)
    while end < len(lines) and not _ends(lines[end], indent):
        end += 1
    above = ["\n"] * (first - 1) + (["if 1:\n"] if indent else ["\n"])[:first]
    try:
        tree = ast.parse("".join([*above, *lines[first:end]]))
    except SyntaxError:  # such as that of a string whose lines look like the end of the function
        return None
    node: Any = tree.body[0].body[0] if indent else tree.body[0]  # pyright: ignore
    if not isinstance(node, FunctionNode) or getattr(node, "name", "") != code.co_name:
        return None
    *around, _ = name.replace(".<locals>", "<locals>").split(".")
    classes = [name for name in around if not name.endswith("<locals>")]
    return node, classes[-1] if classes else ""


def _ends(line: str, indent: int) -> bool:
    """Whether a statement that is indented so has ended before `line`."""
    text = line.lstrip()
    return bool(text) and not text.startswith("#") and len(line) - len(text) <= indent


def _unavailable(code: CodeType) -> SourceError:
    where = _origin(code.co_filename)
    return SourceError(f"its source code is not available ({where}); write it in a file")


def _origin(file: str) -> str:
    if file == "<stdin>" or file.startswith("<python-input"):
        return "it was typed into the interactive interpreter"
    if file.startswith("<frozen") or getattr(sys, "frozen", False):
        return "the program is frozen"
    return "it was made by exec or eval" if file.startswith("<") else f"there is no file {file}"


def _first_line(node: Any) -> int:
    decorators = getattr(node, "decorator_list", ())
    return min([node.lineno, *(d.lineno for d in decorators)])


def _spans(node: FunctionNode, code: CodeType) -> bool:
    """Whether all of the code lies within the node's body."""
    body = node.body if isinstance(node, ast.Lambda) else node
    start = body.lineno, body.col_offset
    end = body.end_lineno, body.end_col_offset
    for line, end_line, column, end_column in _positions(code):
        if not (start <= (line, column) and (end_line, end_column) <= end):
            return False
    return True


def _positions(code: CodeType) -> Iterator[tuple[int, int, int, int]]:
    for line, end_line, column, end_column in code.co_positions():
        if line and end_line and end_column and column is not None:
            yield line, end_line, column, end_column


def copy(node: Any) -> Any:
    """A deep copy of a syntax tree; four times as fast as `copy.deepcopy`."""
    if isinstance(node, list):
        return [copy(x) for x in node]
    if not isinstance(node, ast.AST):
        return node
    new = type(node)()
    for name, value in vars(node).items():
        setattr(new, name, copy(value))
    return new
