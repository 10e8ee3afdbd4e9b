"""The cache on disk: what is stored comes back, and nothing else does."""

from __future__ import annotations

import os
import random
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import dualmode as dm
from dualmode_compiler.runtime import cache, jit

KEY = cache.digest("test")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "cache"
    dm.config.update(cache=True, cache_dir=str(path), cache_mb=512, log="")
    return path


def test_what_is_stored_comes_back(directory: Path):
    assert cache.get(KEY, "it") is None
    cache.put(KEY, b"content", "it")
    assert cache.get(KEY, "it") == b"content"
    assert [e.key for e in cache.entries()] == [KEY]
    assert cache.clear() == 1
    assert cache.get(KEY, "it") is None and cache.entries() == []


def test_only_the_user_may_read_and_write(directory: Path):
    cache.put(KEY, b"content", "it")
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    (file,) = directory.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_a_directory_that_others_may_write_to_is_not_used(directory: Path, mode: int, capfd):
    cache.put(KEY, b"content", "it")
    directory.chmod(mode)
    dm.config.log = "cache"
    cache._say_once.cache_clear()
    assert cache.get(KEY, "it") is None
    cache.put(KEY, b"other", "it")
    directory.chmod(0o700)
    assert cache.get(KEY, "it") == b"content"
    assert capfd.readouterr().err.count("others may write to it") == 1


def test_any_damage_is_found(directory: Path, capfd):
    content = bytes(range(256)) * 20
    cache.put(KEY, content, "it")
    (file,) = directory.iterdir()
    good = file.read_bytes()
    draw = random.Random(0)
    bad = [good[:n] for n in (0, 5, 40, len(good) - 1)] + [good + b"\0", b"\x7fELF" + good]
    for _ in range(50):
        k, bit = draw.randrange(len(good)), 1 << draw.randrange(8)
        bad.append(good[:k] + bytes([good[k] ^ bit]) + good[k + 1 :])
    dm.config.log = "cache"
    for data in bad:
        file.write_bytes(data)
        assert cache.get(KEY, "it") is None
        assert "it is made anew" in capfd.readouterr().err
    cache.put(KEY, content, "it")
    assert cache.get(KEY, "it") == content


def test_the_entry_of_another_key_is_refused(directory: Path):
    cache.put(KEY, b"content", "it")
    (file,) = directory.iterdir()
    other = cache.digest("other")
    file.rename(file.with_name(file.name.replace(KEY, other)))
    assert cache.get(other, "it") is None


def test_parts_of_a_key_are_told_apart():
    assert cache.digest("ab", "c") != cache.digest("a", "bc")
    assert cache.digest("ab") == cache.digest(b"ab")


def test_the_least_recently_used_entries_are_dropped(directory: Path, monkeypatch):
    monkeypatch.setattr(cache._Growth, "bytes", 0)
    keys = [cache.digest(str(k)) for k in range(40)]
    for k, key in enumerate(keys):
        cache.put(key, bytes(60_000), "it")
        os.utime(directory / f"{key}.code", (k, k))
    assert cache.get(keys[0], "it") is not None  # now it is the latest
    dm.config.cache_mb = 1
    monkeypatch.setattr(cache._Growth, "bytes", 1 << 20)
    cache.put(KEY, b"content", "it")
    left = {e.key for e in cache.entries()}
    assert sum(e.size for e in cache.entries()) < 1 << 20
    assert {KEY, keys[0], keys[39]} <= left and keys[1] not in left
    assert left - {KEY, keys[0]} == set(keys[-(len(left) - 2) :])


def test_an_error_in_another_thread_is_raised(directory: Path, monkeypatch, tmp_path: Path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # for the text at fault
    good = "define void @f() {\n  ret void\n}\n"
    with pytest.raises(RuntimeError, match="parsing error"):
        jit.compile_texts([good, "nonsense"])
    assert len(jit.compile_texts([good, good.replace("@f", "@g")])) == 2


ENDING = """
import sys
from dualmode_compiler.runtime import cache, jit
cache.configure(enabled=True, directory=sys.argv[1], limit=1 << 20, log=False)
cache.put(cache.digest("mine"), b"content", "it")
print(len(cache.entries()))
"""


def test_entries_are_dropped_when_the_process_ends(directory: Path):
    for k in range(40):
        cache.put(cache.digest(str(k)), bytes(60_000), "it")
    command = [sys.executable, "-c", ENDING, str(directory)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("41\n", "")
    assert sum(e.size for e in cache.entries()) < 1 << 20
    assert cache.get(cache.digest("mine"), "it") == b"content"


def test_what_killed_processes_leave_behind_is_removed(directory: Path, monkeypatch):
    cache.put(KEY, b"content", "it")
    old, new = directory / ".12-34-0", directory / ".56-78-0"
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (0, time.time() - 1e5))
    cache.entries()
    assert not old.exists() and new.exists()


def test_without_a_usable_directory_nothing_is_kept(tmp_path: Path, capfd):
    (tmp_path / "file").write_text("")
    dm.config.update(cache_dir=str(tmp_path / "file" / "cache"), log="cache")
    cache.put(KEY, b"content", "it")
    assert cache.get(KEY, "it") is None
    assert cache.entries() == [] and cache.clear() == 0
    assert "no cache in" in capfd.readouterr().err


def test_a_directory_without_permission_is_survived(directory: Path, monkeypatch, capfd):
    def refuse(*_: object) -> int:
        raise PermissionError("no")

    cache.put(KEY, b"content", "it")
    dm.config.log = "cache"
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        cache.put(cache.digest("new"), b"content", "new")
    assert "not stored new: no" in capfd.readouterr().err
    assert len(cache.entries()) == 1


def test_switched_off(directory: Path):
    dm.config.cache = False
    cache.put(KEY, b"content", "it")
    assert cache.get(KEY, "it") is None and not directory.exists()


def test_default_directory(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "/fast")
    assert cache.default_directory() == "/fast/dualmode"
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert cache.default_directory() == "/home/someone/.cache/dualmode"


def test_users_without_a_home_have_no_cache(monkeypatch, tmp_path: Path):
    """Nor a directory of the name `~` where they work."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    dm.config.cache_dir = ""
    assert cache.path() == ""
    cache.put(KEY, b"content", "it")
    assert cache.get(KEY, "it") is None and cache.entries() == [] and cache.clear() == 0
    assert not list(tmp_path.iterdir())


WRITER = """
import sys
from dualmode_compiler.runtime import cache, jit
cache.configure(enabled=True, directory=sys.argv[1], limit=1 << 20, log=False)
for turn in range(60):
    for k in range(8):
        key, content = cache.digest(str(k)), bytes([k]) * (10_000 * (k + 1))
        found = cache.get(key, "it")
        assert found is None or found == content, "half an entry was read"
        if found is None or turn % 3 == 0:
            cache.put(key, content, "it")
    if turn % 20 == 10:
        cache.clear()
"""


def test_many_processes_at_once(directory: Path):
    command = [sys.executable, "-c", WRITER, str(directory)]
    writers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert (writer.returncode, errors) == (0, "")
    assert all(cache.get(e.key, "it") is not None for e in cache.entries())
    assert not [f for f in directory.iterdir() if f.name.startswith(".")]
