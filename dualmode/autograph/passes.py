"""The pass over a syntax tree before those of the library that converts control flow.

It takes care of what they do not know of; `finish` undoes some of it after them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from .snippets import fstring, note, parsed, place, placed, with_notes
from .source import FunctionNode, copy

# functions that look at the frame that they are called in
FRAME_READERS = frozenset(
    ("breakpoint", "dir", "eval", "exec", "globals", "input", "locals", "super", "vars")
)
_GENERATOR = "it is a generator; return a list, or write the loop where it is used"
_UNKNOWN: dict[type[ast.AST], str] = {
    **dict.fromkeys((ast.AsyncFor, ast.AsyncWith, ast.Await), "it is asynchronous"),
    **dict.fromkeys((ast.Yield, ast.YieldFrom), _GENERATOR),
    **({ast.TryStar: "it has an except* clause; write except"} if hasattr(ast, "TryStar") else {}),
}
_LAZY = ast.BoolOp | ast.IfExp | ast.Compare


class Unsupported(Exception):
    """Code that cannot be converted; says why, as the end of a sentence.

    Attributes:
        line: where.
    """

    def __init__(self, why: str, line: int) -> None:
        super().__init__(why)
        self.line = line


def _check(node: FunctionNode) -> None:
    """Raise `Unsupported` if the prepared function holds what is not converted."""
    for found in _within(node):
        why = _UNKNOWN.get(type(found))
        if why is not None:
            raise Unsupported(why, getattr(found, "lineno", node.lineno))
        if isinstance(found, _LAZY) and not (
            isinstance(found, ast.Compare) and len(found.ops) == 1
        ):
            for assignment in ast.walk(found):
                if isinstance(assignment, ast.NamedExpr):
                    raise Unsupported(
                        "it assigns by := in an operand that may not be evaluated; assign it in "
                        "a statement of its own",
                        assignment.lineno,
                    )


def _within(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below `node` that are converted."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not _stays(child):
            yield from _within(child)


def _stays(node: ast.AST) -> bool:
    """Whether a definition in a function is left as it is."""
    if isinstance(node, ast.FunctionDef):
        return any(isinstance(x, ast.Yield | ast.YieldFrom) for x in _own(node))
    return isinstance(node, ast.ClassDef | ast.AsyncFunctionDef)


def _own(function: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function without those of functions in it."""
    for child in ast.iter_child_nodes(function):
        yield child
        if not isinstance(child, FunctionNode):
            yield from _own(child)


def prepare(node: FunctionNode, owner: str) -> tuple[FunctionNode, list[ast.stmt]]:
    """A copy of a function, in terms that the conversion knows; and statements that stay as they
    are, for which it has placeholders.

    Args:
        owner: the name of the class around it, or "".

    Raises:
        Unsupported: it holds what is not converted.
    """
    if isinstance(node, ast.AsyncFunctionDef):
        raise Unsupported("it is asynchronous", node.lineno)
    node = copy(node)
    if isinstance(node, ast.FunctionDef):
        node.decorator_list = []
        node.returns = None
    arguments = node.args
    for k in range(len(arguments.defaults)):  # given to the function when it is made
        arguments.defaults[k] = ast.copy_location(ast.Constant(None), arguments.defaults[k])
    for k, default in enumerate(arguments.kw_defaults):
        if default is not None:
            arguments.kw_defaults[k] = ast.copy_location(ast.Constant(None), default)
    for a in _all_arguments(arguments):
        a.annotation = None
    node = _Names(owner.lstrip("_"), _first_argument(arguments)).visit(node)
    statements = _Statements()
    node = statements.visit(node)
    _check(node)
    return node, statements.kept


def _all_arguments(a: ast.arguments) -> list[ast.arg]:
    single = [x for x in (a.vararg, a.kwarg) if x is not None]
    return [*a.posonlyargs, *a.args, *a.kwonlyargs, *single]


def _first_argument(arguments: ast.arguments) -> str | None:
    first = [*arguments.posonlyargs, *arguments.args][:1]
    return first[0].arg if first else None


class _Names(ast.NodeTransformer):
    """Private names of a class as they are stored, and `super()` with its arguments."""

    def __init__(self, owner: str, first: str | None) -> None:
        self._owner = owner
        self._first = first

    def _mangled(self, name: str | None) -> Any:
        if self._owner and name and name.startswith("__") and not name.endswith("__"):
            return f"_{self._owner}{name}"
        return name

    def generic_visit(self, node: ast.AST) -> ast.AST:
        for field in ("id", "attr", "arg", "name"):
            name = getattr(node, field, None)
            if isinstance(name, str):
                setattr(node, field, self._mangled(name))
        if isinstance(node, ast.Nonlocal | ast.Global):
            node.names = [self._mangled(name) for name in node.names]
        return super().generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        plain = isinstance(node.func, ast.Name) and node.func.id == "super"
        if plain and not node.args and not node.keywords and self._first:
            names = ("__class__", self._first)
            node.args = [ast.copy_location(ast.Name(x, ast.Load()), node) for x in names]
        return self.generic_visit(node)


class _Statements(ast.NodeTransformer):
    """Appends to local lists as assignments, and loops whose test assigns.

    Attributes:
        kept: statements that stay as they are, which have placeholders.
    """

    def __init__(self) -> None:
        self.kept: list[ast.stmt] = []
        self._locals: list[set[str]] = []
        self._tries = 0  # statements with handlers around this one
        self._flags = 0

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        if self._locals and _stays(node):
            return self._keep(node, node.name)
        self._locals.append(set(_assigned(node)))
        self.generic_visit(node)
        self._locals.pop()
        return with_notes(node)

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if name == "print":
            node.args = [fstring(x) if isinstance(x, ast.JoinedStr) else x for x in node.args]
        return node

    def _write(self, node: Any) -> Any:
        """An assignment, behind notes of the attributes and items that it writes."""
        self.generic_visit(node)
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        notes = [note(x, node) for target in targets for x in ast.walk(target)]
        return [*(x for x in notes if x), node]

    visit_Assign = visit_AugAssign = visit_AnnAssign = _write  # noqa: N815

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        self.generic_visit(node)
        call = node.value
        if not (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr == "append"
            and isinstance(call.func.value, ast.Name)
            and call.func.value.id in self._locals[-1]
            and len(call.args) == 1
            and not isinstance(call.args[0], ast.Starred)
            and not call.keywords
        ):
            return node
        name = call.func.value.id
        new = parsed(f"{name} = ag__.list_append({name}, None)")
        assert isinstance(new, ast.Assign)
        assert isinstance(new.value, ast.Call)
        place(new, node)
        new.value.args[1] = call.args[0]
        return new

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._keep(node, node.name)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._keep(node, node.name)

    def visit_Match(self, node: ast.Match) -> list[ast.stmt]:
        """The statement sets a number only, by which an `if` chooses the case."""
        choice = f"case_{len(self.kept)}"
        blocks = []
        for k, case in enumerate(node.cases):
            blocks.append(_flat([self.visit(x) for x in case.body]))
            case.body = [placed(f"{choice} = {k}", case.pattern)]
        chain: list[ast.stmt] = []
        for k, block in reversed(list(enumerate(blocks))):
            test = placed(f"if {choice} == {k}: pass", block[0])
            assert isinstance(test, ast.If)
            test.body, test.orelse = _flat(block), chain
            chain = [test]
        captured = [x for x in map(_captured, ast.walk(node)) if x]
        placeholder = self._keep(node, ", ".join([*captured, choice]), node.subject)
        return [placed(f"{choice} = -1", node), placeholder, *chain]

    def _keep(self, node: ast.stmt, names: str, *subject: ast.expr) -> ast.stmt:
        """A placeholder for a statement that assigns `names`."""
        read = {x.id for x in ast.walk(node) if isinstance(x, ast.Name)} & self._locals[-1]
        reads = "".join(f"{name}, " for name in sorted(read))
        new = placed(f"{names} = ag__.kept({len(self.kept)}, lambda: ({reads}))", node)
        assert isinstance(new, ast.Assign)
        assert isinstance(new.value, ast.Call)
        new.value.args += subject
        self.kept.append(node)
        return new

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        self.generic_visit(node)
        if node.exc is not None:
            call = ast.parse(f"ag__.raised(None, {self._tries > 0})").body[0].value  # type: ignore
            place(call, node)
            call.args[0] = node.exc
            node.exc = call
        return node

    def visit_Try(self, node: ast.Try) -> Any:
        """`except E as e` assigns e in a statement, and `else` becomes an `if` behind it all."""
        self._tries += bool(node.handlers)
        node.body = _flat([self.visit(x) for x in node.body])
        self._tries -= bool(node.handlers)
        for handler in node.handlers:
            handler.body = _flat([self.visit(x) for x in handler.body])
            if handler.name is not None:
                handler.body.insert(0, placed(f"{handler.name} = ag__.caught()", handler))
                handler.name = None
        orelse = _flat([self.visit(x) for x in node.orelse])
        node.finalbody = _flat([self.visit(x) for x in node.finalbody])
        if not orelse:
            return node
        self._flags += 1
        flag = f"completed_{self._flags}"
        node.orelse = []
        node.body.append(placed(f"{flag} = True", orelse[0]))
        behind = placed(f"if {flag}: pass", orelse[0])
        assert isinstance(behind, ast.If)
        behind.body = orelse
        block = [placed(f"{flag} = False", node), node, behind]
        if not node.finalbody:
            return block
        outer = ast.copy_location(ast.Try(block, [], [], node.finalbody), node)
        node.finalbody = []
        return outer

    def visit_If(self, node: ast.If) -> Any:
        self.generic_visit(node)
        first = _first_assignment(node)
        return node if first is None else [first, node]

    def visit_While(self, node: ast.While) -> ast.AST:
        self.generic_visit(node)
        if node.orelse or not any(isinstance(x, ast.NamedExpr) for x in ast.walk(node.test)):
            return node
        leave = placed("if not None: break", node.test)
        assert isinstance(leave, ast.If)
        assert isinstance(leave.test, ast.UnaryOp)
        leave.test.operand = node.test
        node.test = ast.copy_location(ast.Constant(True), node.test)
        first = _first_assignment(leave)
        node.body = [*([] if first is None else [first]), leave, *node.body]
        return node


def _first_assignment(node: ast.If) -> ast.stmt | None:
    """What a condition assigns by `:=` before all else, as a statement; taken out of it."""
    parent: Any = node
    field = "test"
    while True:
        x = getattr(parent, field)
        several = isinstance(x, list)
        x = x[0] if several else x
        if isinstance(x, ast.NamedExpr):
            name = ast.copy_location(ast.Name(x.target.id, ast.Load()), x)
            setattr(parent, field, [name, *getattr(parent, field)[1:]] if several else name)
            return ast.copy_location(ast.Assign([x.target], x.value), x)
        if type(x) not in _LEFTMOST:
            return None
        parent, field = x, _LEFTMOST[type(x)]


_LEFTMOST: dict[type[ast.AST], str] = {
    ast.BoolOp: "values",
    ast.Compare: "left",
    ast.BinOp: "left",
    ast.UnaryOp: "operand",
}


def _assigned(function: ast.FunctionDef) -> Iterator[str]:
    """The local variables of a function."""
    yield from (a.arg for a in _all_arguments(function.args))
    outer: set[str] = set()
    names: list[str] = []
    stack: list[ast.AST] = list(function.body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Nonlocal | ast.Global):
            outer.update(node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append(node.id)
        if isinstance(node, ast.FunctionDef | ast.ExceptHandler) and node.name:
            names.append(node.name)
        if not isinstance(node, FunctionNode | ast.ClassDef):
            stack.extend(ast.iter_child_nodes(node))
    yield from (name for name in names if name not in outer)


def _captured(pattern: ast.AST) -> str | None:
    """The name that part of a pattern assigns."""
    if isinstance(pattern, ast.MatchAs | ast.MatchStar):
        return pattern.name
    return pattern.rest if isinstance(pattern, ast.MatchMapping) else None


def _flat(block: list[Any]) -> list[ast.stmt]:
    return [y for x in block for y in (x if isinstance(x, list) else [x])]
