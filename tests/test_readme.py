"""The code in README.md and docs/errors.md runs, and prints or raises what is shown after it."""

from __future__ import annotations

import linecache
import re
import shlex
import tomllib
from pathlib import Path

import pytest

import dualmode as dm

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
ERRORS = ROOT / "docs" / "errors.md"
# a block of code, and the text block that follows it with nothing between
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.M | re.S)


@pytest.mark.parametrize("mode", ["compiled", "eager"])
def test_readme_blocks(mode, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    dm.run_functions_eagerly(mode == "eager")
    text = README.read_text()
    names = {"__name__": "readme"}
    for block in BLOCK.finditer(text):
        first = text.count("\n", 0, block.start(1))
        source = "\n" * first + block[1]  # lines as in the README
        file = f"{README}#{first + 1}"
        linecache.cache[file] = (len(source), None, source.splitlines(True), file)
        exec(compile(source, file, "exec"), names)
        printed = capsys.readouterr().out
        if block[2] is not None and mode == "compiled":
            assert printed == block[2], f"README.md:{first + 1}"


@pytest.mark.filterwarnings("ignore::dualmode.errors.SideEffectWarning")
@pytest.mark.parametrize(("code", "message"), BLOCK.findall(ERRORS.read_text()))
def test_error_messages(code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "train.py"
    path.write_text(code)
    linecache.clearcache()
    with pytest.raises(dm.errors.Error) as info:
        exec(compile(code, str(path), "exec"), {})
    assert f"{type(info.value).__name__}: {info.value}\n" == message


def test_every_error_is_explained():
    explained = set(re.findall(r"^## (\w+)", ERRORS.read_text(), re.M))
    assert {c.__name__ for c in dm.errors.Error.__subclasses__()} <= explained


def test_set_up_commands():
    text = README.read_text()
    for command in ("pip install . && dualmode demo", 'pip install ".[test]" && pytest'):
        assert f"```sh\n{command}\n```" in text
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].keys()
    assert set(re.findall(r'pip install "\.\[(\w+)\]', text)) <= extras
    for line in re.findall(r"^python -m .*", text, re.M):
        *module, command = shlex.split(line, comments=True)[:4]
        assert module == ["python", "-m", "benchmarks"] and command in ("run", "check", "report")


@pytest.mark.parametrize("page", [README, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target


def test_settings_table_is_complete():
    for name in dm.config._NAMES:
        assert f"| `{name}` | `DUALMODE_{name.upper()}` |" in README.read_text()
