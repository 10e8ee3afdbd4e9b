"""Checkpoints: the values of variables by path, in safetensors files that are written atomically.

```python
checkpoint = dm.train.Checkpoint(model=model, optimizer=optimizer)
path = checkpoint.save("run/ckpt")                       # run/ckpt-1.safetensors
checkpoint.restore(dm.train.latest_checkpoint("run"))
```
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dualmode_compiler.spec import DTYPES, spec_of

from .errors import Error
from .tracer import init_scope
from .trackable import Pending, Trackable, named_variables, walk
from .variable import Variable

Array = np.ndarray[Any, Any]
StrPath = str | os.PathLike[str]

_SUFFIX = ".safetensors"
_NUMBERED = re.compile(r"(?P<prefix>.+)-(?P<number>\d+)\.safetensors")
_NAMES = {
    "bool": "BOOL",
    "bfloat16": "BF16",
    "complex64": "C64",
    **{f"float{n}": f"F{n}" for n in (16, 32, 64)},
    **{f"{k}{n}": f"{k[0].upper()}{n}" for k in ("int", "uint") for n in (8, 16, 32, 64)},
}
_DTYPES = {code: DTYPES[name] for name, code in _NAMES.items()}


class CheckpointError(Error):
    """A checkpoint that cannot be read, or does not fit the objects it is restored into."""


class Checkpoint:
    """The variables of named objects, to be saved and restored together.

    The path of a variable (`model/layers/0/kernel`) is its key in the file.

    Args:
        objects: variables, layers, models, optimizers, metrics, and lists, tuples and dicts of
            them, by the name that starts the keys.

    Raises:
        TypeError: an object holds no variables by its type.
    """

    def __init__(self, **objects: Any) -> None:
        for name, x in objects.items():
            if not isinstance(x, (Trackable, Variable, list, tuple, dict)):
                raise TypeError(
                    f"Checkpoint: {name} is a {type(x).__name__}; expected a Variable, layer, "
                    "model, optimizer, metric, or a list, tuple or dict of them"
                )
        self._objects = objects

    def save(self, prefix: StrPath) -> str:
        """Write to `{prefix}-{n}.safetensors`, n one above the highest there; return that path."""
        directory, stem = os.path.split(os.fspath(prefix))
        if not stem:
            raise ValueError(f"Checkpoint.save: prefix {os.fspath(prefix)!r} has no file name")
        number = max((n for p, n, _ in _numbered(directory) if p == stem), default=0) + 1
        return self.write(os.path.join(directory, f"{stem}-{number}{_SUFFIX}"))

    def write(self, path: StrPath) -> str:
        """Write to exactly `path` and return it. A file there stays until the new one is whole.

        The values go to a temporary file beside it, reach the disk, and take its name.
        """
        variables = named_variables(self._objects)
        _write(Path(path), {key: v.numpy() for key, v in variables.items()})
        return os.fspath(path)

    def restore(self, path: StrPath | None, partial: bool = False) -> RestoreStatus:
        """Set all variables to the values in the file at `path`; None does nothing.

        Values whose variables do not exist yet (layers not yet called, an optimizer before its
        first step) are kept, and are applied as soon as these are created.

        Args:
            path: what `save` or `latest_checkpoint` returned.
            partial: allow variables for which the file has no value.

        Raises:
            CheckpointError: the file is missing, truncated or damaged, or a variable has another
                shape or dtype or (unless `partial`) no value in it. Then nothing has changed.
        """
        if path is None:
            return RestoreStatus({}, "")
        values = read(path)
        with init_scope():
            variables = named_variables(self._objects)
            _check_fit(os.fspath(path), variables, values, partial)
            pending = Pending(values, _apply_later)
            for where, x in walk(self._objects):
                if isinstance(x, Trackable):
                    object.__setattr__(x, "_pending", (pending, where))
            for key, variable in variables.items():
                if key in values:
                    variable.assign(values.pop(key))
        return RestoreStatus(values, os.fspath(path))


class RestoreStatus:
    """What a restore has left to do."""

    def __init__(self, waiting: dict[str, Array], path: str) -> None:
        self._waiting = waiting
        self._path = path

    def assert_consumed(self) -> RestoreStatus:
        """Raise CheckpointError if values still wait for variables to be created."""
        if self._waiting:
            raise CheckpointError(
                f"{self._path} has values that no variable took: {_some(list(self._waiting))}"
            )
        return self


class CheckpointManager:
    """Keeps the newest checkpoints of a directory.

    Args:
        checkpoint: what to save.
        directory: where; it is created.
        max_to_keep: how many stay; None: all.
        checkpoint_name: the files are `{checkpoint_name}-{n}.safetensors`.

    Raises:
        ValueError: `max_to_keep` is less than 1.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        directory: StrPath,
        max_to_keep: int | None = 5,
        checkpoint_name: str = "ckpt",
    ) -> None:
        if max_to_keep is not None and max_to_keep < 1:
            raise ValueError(f"CheckpointManager: max_to_keep must be 1 or more, got {max_to_keep}")
        self._checkpoint = checkpoint
        self._directory = os.fspath(directory)
        self._max_to_keep = max_to_keep
        self._name = checkpoint_name

    @property
    def checkpoints(self) -> list[str]:
        """The paths of those that exist, oldest first."""
        found = sorted((n, path) for p, n, path in _numbered(self._directory) if p == self._name)
        return [path for _, path in found]

    @property
    def latest_checkpoint(self) -> str | None:
        """The path of the newest, or None."""
        return next(reversed(self.checkpoints), None)

    def save(self) -> str:
        """Save, then delete the oldest ones beyond `max_to_keep`. Returns the new path."""
        path = self._checkpoint.save(os.path.join(self._directory, self._name))
        if self._max_to_keep is not None:
            for old in self.checkpoints[: -self._max_to_keep]:
                os.remove(old)
        return path

    def restore_or_initialize(self) -> str | None:
        """Restore the newest checkpoint, if there is one, and return its path."""
        path = self.latest_checkpoint
        self._checkpoint.restore(path)
        return path


def latest_checkpoint(directory: StrPath) -> str | None:
    """The path of the newest file `*-{n}.safetensors` in `directory`, or None.

    The highest number counts; with several prefixes, that of the prefix written to last.
    """
    newest: dict[str, tuple[int, str]] = {}
    for prefix, number, path in _numbered(directory):
        newest[prefix] = max(newest.get(prefix, (0, "")), (number, path))
    paths = [path for _, path in newest.values()]
    return max(paths, key=lambda p: os.stat(p).st_mtime_ns, default=None)


def read(path: StrPath) -> dict[str, Array]:
    """The arrays in a safetensors file, by key.

    Raises:
        CheckpointError: the file is missing, truncated or damaged.
    """
    from safetensors import SafetensorError, deserialize

    file = Path(path)
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        near = latest_checkpoint(file.parent) if file.parent.is_dir() else None
        hint = f"; the newest one there is {near}" if near else ""
        raise CheckpointError(f"checkpoint {os.fspath(path)} does not exist{hint}") from None
    except IsADirectoryError:
        raise CheckpointError(
            f"{os.fspath(path)} is a directory; use dm.train.latest_checkpoint({os.fspath(path)!r})"
        ) from None
    except OSError as error:
        raise CheckpointError(f"checkpoint {os.fspath(path)} cannot be read: {error}") from error
    try:
        entries = dict(deserialize(data))
    except SafetensorError as error:
        raise CheckpointError(
            f"checkpoint {os.fspath(path)} is damaged or truncated ({len(data)} bytes): {error}"
        ) from None
    values = {key: _decode(os.fspath(path), key, entries[key]) for key in sorted(entries)}
    expected = _metadata(data).get("crc32")
    if expected is not None and expected != _checksum(values):
        raise CheckpointError(f"checkpoint {os.fspath(path)} is damaged: its checksum differs")
    return values


def _decode(path: str, key: str, entry: dict[str, Any]) -> Array:
    dtype = _DTYPES.get(entry["dtype"])
    if dtype is None:
        raise CheckpointError(f"checkpoint {path}: {key} has unknown dtype {entry['dtype']}")
    return np.frombuffer(entry["data"], dtype.numpy).reshape(entry["shape"])


def _metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file that is known to be well formed."""
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]).get("__metadata__") or {}


def _checksum(values: dict[str, Array]) -> str:
    crc = 0
    for key in sorted(values):
        crc = zlib.crc32(values[key].reshape(-1).view(np.uint8).data, crc)
    return f"{crc:08x}"


def _write(path: Path, values: dict[str, Array]) -> None:
    from safetensors.numpy import save

    for key, value in values.items():
        if value.dtype.name not in _NAMES:
            raise CheckpointError(
                f"{key} is {value.dtype}, which safetensors files cannot hold; they hold "
                f"{', '.join(_NAMES)}"
            )
    arrays = {key: np.asarray(value, order="C") for key, value in values.items()}
    data = save(arrays, metadata={"format": "dualmode", "crc32": _checksum(arrays)})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    """Make a rename last; systems that cannot open directories need no such step."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _check_fit(
    path: str, variables: dict[str, Variable], values: dict[str, Array], partial: bool
) -> None:
    problems = [
        problem
        for key, variable in variables.items()
        if key in values and (problem := _misfit(key, variable, values[key]))
    ]
    if problems:
        raise CheckpointError(f"{path} does not fit: " + "; ".join(problems[:5]))
    missing = [key for key in variables if key not in values]
    if missing and not partial:
        raise CheckpointError(
            f"{path} has no value for {_some(missing)}; it has {_some(list(values))}. "
            "Give partial=True to leave such variables as they are"
        )


def _misfit(key: str, variable: Variable, value: Array) -> str | None:
    saved = spec_of(value)
    return None if saved is variable.spec else f"{key} is {variable.spec}, the file has {saved}"


def _apply_later(key: str, variable: Variable, value: Array) -> None:
    """Set a variable that was created after the restore."""
    with init_scope():
        problem = _misfit(key, variable, value)
        if problem is not None:
            raise CheckpointError(f"the restored checkpoint does not fit: {problem}")
        variable.assign(value)


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    return (", ".join(keys[:5]) or "nothing") + more


def _numbered(directory: StrPath) -> Iterator[tuple[str, int, str]]:
    """(prefix, number, path) of the numbered checkpoints in `directory`."""
    where = os.fspath(directory)
    if not os.path.isdir(where or "."):
        return
    for name in os.listdir(where or "."):
        match = _NUMBERED.fullmatch(name)
        if match:
            yield match["prefix"], int(match["number"]), os.path.join(where, name)
