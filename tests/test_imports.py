"""What modules import, and that the page on the architecture has them all."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = (ROOT / "dualmode", ROOT / "compiler" / "dualmode_compiler", ROOT / "benchmarks")


def _modules() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for package in PACKAGES:
        for path in package.rglob("*.py"):
            parts = path.relative_to(package.parent).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _imported(name: str, path: Path) -> Iterator[str]:
    """Names of what the module imports where it stands outside of functions and conditions."""
    package = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def test_no_modules_import_each_other():
    """Each can be read after those that it imports."""
    modules = _modules()
    order: TopologicalSorter[str] = TopologicalSorter()
    for name, path in modules.items():
        for found in _imported(name, path):
            target = found if found in modules else found.rpartition(".")[0]
            if target in modules and target != name:
                order.add(name, target)
    assert set(order.static_order()) <= set(modules)  # raises where there is a cycle


def test_the_architecture_names_every_module():
    """In the list at its beginning, where a star stands for several."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    house = text[text.index("## The house") : text.index("**Who may import whom**")]
    names = re.findall(r"\b(\w+)(\*|\b)", house)
    known = {name for name, star in names if not star}
    starts = tuple(name for name, star in names if star)
    listed = {"", "emit", "runtime"}  # other folders are described as a whole
    for package in PACKAGES[:2]:
        for path in package.rglob("*.py"):
            folder = path.parent.relative_to(package).as_posix().strip(".")
            name = path.stem
            if folder in listed and not name.startswith("__"):
                assert name in known or name.startswith(starts), f"{path} is not in the list"
