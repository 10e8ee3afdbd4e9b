"""Every Python block of the README runs, in both modes, and prints the text that is shown after it."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

import dualmode as dm

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
# a block, and the text block that follows it with nothing between
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.M | re.S)


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "functions run eagerly"])
def test_blocks(compiled, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    dm.run_functions_eagerly(not compiled)
    text = README.read_text()
    names = {"__name__": "readme"}
    blocks = list(BLOCK.finditer(text))
    assert len(blocks) > 5
    for block in blocks:
        first = text.count("\n", 0, block.start(1))
        code = compile("\n" * first + block[1], str(README), "exec")  # lines as in the README
        exec(code, names)
        shown = capsys.readouterr().out
        if compiled:
            assert shown == (block[2] or shown), f"README.md:{first}"


def test_set_up_commands_are_as_promised():
    text = README.read_text()
    for command in ("pip install . && dualmode demo", 'pip install ".[test]" && pytest'):
        assert f"```sh\n{command}\n```" in text
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name in re.findall(r'pip install "?\.\[(\w+)\]', text):
        assert name in extras


def test_links_lead_to_files():
    for page in (README, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(\s*([^)#\s]+)", page.read_text()):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def test_settings_table_is_complete():
    text = README.read_text()
    for name in dm.config._NAMES:
        assert f"| `{name}` | `DUALMODE_{name.upper()}` |" in text


def test_benchmark_commands_parse():
    for line in re.findall(r"^python -m .*", README.read_text(), re.M):
        assert shlex.split(line, comments=True)[:4] == ["python", "-m", "benchmarks", "run"]
