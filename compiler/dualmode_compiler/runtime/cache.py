"""A store of compiled code on disk, shared by all processes of one user.

An entry is a file whose name is the hash of all that its content depends on. It starts with a magic
line and a checksum over its name and content, so that a truncated, corrupted or foreign file is
found out, and made anew. Entries are written to a temporary file that is then renamed: readers see
a whole entry or none, and of several writers the last one wins, with the same content.

What is loaded is executed. So the directory must belong to this user, and nobody else may write to
it; otherwise there is no cache. Whatever goes wrong here, code is compiled as if there were none;
the log says why.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from itertools import count

from ..records import dataclass

try:  # hashlib would load OpenSSL
    from _blake2 import blake2b  # pyright: ignore[reportMissingModuleSource]
except ImportError:
    from hashlib import blake2b

_MAGIC = b"dualmode cache 1\n"
_DIGEST = 32
_HEAD = len(_MAGIC) + _DIGEST
_SUFFIX = ".code"
_BLOCK = 4096  # files take whole blocks of the disk
_STALE = 3600.0  # seconds after which a temporary file is what a killed process has left behind
_temporary = count()


@dataclass(slots=True)
class Settings:
    """What can be set; see `configure`."""

    enabled: bool
    directory: str
    limit: int
    log: bool = False


def default_directory() -> str:
    """`$XDG_CACHE_HOME/dualmode`, else `~/.cache/dualmode` (XDG Base Directory Specification), or
    "" for a user without a home, as there may be in containers: then there is no cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the specification has relative paths ignored
        base = os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "dualmode") if os.path.isabs(base) else ""


LIMIT = 512 << 20
settings = Settings(enabled=True, directory="", limit=LIMIT)


def configure(*, enabled: bool, directory: str, limit: int, log: bool) -> None:
    """Set up the cache for all threads.

    Args:
        enabled: False neither reads nor writes.
        directory: where entries are; "" for `default_directory()`.
        limit: bytes that all entries may take; those used least recently are dropped.
        log: write hits and misses, with their reasons, to the standard error stream.
    """
    settings.enabled, settings.directory = enabled, directory
    settings.limit, settings.log = limit, log


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the cache: its key, size in bytes, and when it was used last (Unix time)."""

    key: str
    size: int
    used: float


def digest(*parts: bytes | str) -> str:
    """The name of what depends on `parts` and nothing else."""
    found = blake2b(digest_size=20)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        found.update(len(data).to_bytes(8, "little"))  # so that ("ab", "c") is not ("a", "bc")
        found.update(data)
    return found.hexdigest()


def path() -> str:
    """The directory of the cache."""
    return settings.directory or default_directory()


def get(key: str, what: str) -> bytes | None:
    """The content of the entry `key`, or None; `what` it is is for the log."""
    if not settings.enabled:
        return None
    directory = _usable(path(), create=False)
    if directory is None:
        log(f"miss {what}: the cache is empty or cannot be used")
        return None
    file = os.path.join(directory, key + _SUFFIX)
    try:
        with open(file, "rb", buffering=0) as f:
            data = f.read()
        os.utime(file)  # used now
    except FileNotFoundError:
        log(f"miss {what}: no entry {key}")
        return None
    except OSError as error:
        log(f"miss {what}: {error}")
        return None
    wrong = _check(key, data)
    if wrong:
        log(f"miss {what}: entry {key} {wrong}; it is made anew")
        return None
    log(f"hit {what}: entry {key}, {len(data)} bytes")
    return data[_HEAD:]


def put(key: str, content: bytes, what: str) -> None:
    """Make `content` the entry `key`, and drop old entries where there are too many."""
    if not settings.enabled:
        return
    directory = _usable(path(), create=True)
    if directory is None:
        return
    name = f".{os.getpid()}-{threading.get_ident()}-{next(_temporary)}"
    temporary = os.path.join(directory, name)
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(handle, "wb", buffering=0) as f:
                f.write(_MAGIC + _checksum(key, content) + content)
            os.replace(temporary, os.path.join(directory, key + _SUFFIX))
        except BaseException:
            os.unlink(temporary)
            raise
        log(f"stored {what}: entry {key}, {_HEAD + len(content)} bytes")
        _written(directory, _HEAD + len(content))
    except OSError as error:
        log(f"not stored {what}: {error}")


def entries() -> list[Entry]:
    """All entries, the latest used first."""
    directory = _usable(path(), create=False)
    found = [] if directory is None else list(_scan(directory))
    return sorted(found, key=lambda e: e.used, reverse=True)


def clear() -> int:
    """Remove all entries; returns how many there were."""
    directory = _usable(path(), create=False)
    if directory is None:
        return 0
    return sum(_remove(directory, e.key) for e in list(_scan(directory)))


def log(line: str) -> None:
    if settings.log:
        print(f"dualmode cache: {line}", file=sys.stderr)


def _checksum(key: str, content: bytes) -> bytes:
    return blake2b(content, digest_size=_DIGEST, key=key.encode()).digest()


def _check(key: str, data: bytes) -> str:
    """What is wrong with the file of the entry `key`, or nothing."""
    if not data.startswith(_MAGIC):
        return "is of another format"
    content = memoryview(data)[_HEAD:]
    found = blake2b(content, digest_size=_DIGEST, key=key.encode()).digest()
    if found != data[len(_MAGIC) : _HEAD]:
        return "is truncated, corrupted or of another name"
    return ""


@cache
def _say_once(line: str) -> None:
    log(line)


def _usable(directory: str, create: bool) -> str | None:
    """`directory` if it is there, or can be made, and is this user's alone."""
    try:
        if create:
            os.makedirs(directory, 0o700, exist_ok=True)
        found = os.stat(directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        _say_once(f"no cache in {directory}: {error}")
        return None
    if hasattr(os, "geteuid") and (found.st_uid != os.geteuid() or found.st_mode & 0o022):
        _say_once(
            f"no cache in {directory}: it belongs to somebody else, or others may write to it "
            "(chmod 700 would mend that)"
        )
        return None
    return directory


def _scan(directory: str) -> Iterator[Entry]:
    """The entries; temporary files that nobody will rename are removed on the way."""
    now = time.time()
    with os.scandir(directory) as files:
        for file in files:
            try:
                known = file.stat(follow_symlinks=False)
                if file.name.endswith(_SUFFIX):
                    yield Entry(file.name.removesuffix(_SUFFIX), known.st_size, known.st_mtime)
                elif file.name.startswith(".") and now - known.st_mtime > _STALE:
                    os.unlink(file.path)
            except OSError:  # another process has removed it
                continue


def _remove(directory: str, key: str) -> bool:
    try:
        os.unlink(os.path.join(directory, key + _SUFFIX))
    except OSError:  # another process was faster
        return False
    return True


class _Growth:
    """Bytes that this process has written since it last looked at the size of the whole cache."""

    bytes = 0


def _written(directory: str, size: int) -> None:
    """Keep the size of the cache below its limit. A process that writes looks each time when it has
    written a sixteenth of the limit, and once when it ends: nobody waits for its first result."""
    _look_at_exit()
    _Growth.bytes += size
    if _Growth.bytes > settings.limit // 16:
        _Growth.bytes = 0
        _shrink(directory, settings.limit)


@cache
def _look_at_exit() -> None:
    atexit.register(_look)


def _look() -> None:
    directory = _usable(path(), create=False)
    if directory is not None:
        with suppress(OSError):
            _shrink(directory, settings.limit)


def _shrink(directory: str, limit: int) -> None:
    """Drop the entries used least recently until the others take at most 15/16 of `limit`."""
    found = sorted(_scan(directory), key=lambda e: e.used)
    total = sum(_on_disk(e) for e in found)
    if total <= limit - limit // 16:
        return
    for e in found:
        if total <= limit - limit // 16 - limit // 8:
            break
        if _remove(directory, e.key):
            log(f"dropped entry {e.key}: more than {limit} bytes are stored")
        total -= _on_disk(e)


def _on_disk(entry: Entry) -> int:
    return -(-entry.size // _BLOCK) * _BLOCK
