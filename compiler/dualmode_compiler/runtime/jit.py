"""LLVM IR text to machine code in this process, through LLVM and the cache on disk.

LLVM runs in a process of its own (`apart`), or in threads of this one (`crew`). What is in the
cache needs neither; llvmlite is imported only where its library is of a version that is not known.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, field
from functools import cache
from typing import TYPE_CHECKING, Any

from ..lazy import lazy
from ..records import dataclass
from . import cache as store
from . import cpu, elf, llvm
from .caches import Caches, caches

if TYPE_CHECKING:  # what is in the cache needs neither
    from .apart import Request
    from .crew import Crew, Job

Library = Any  # `elf.Library`, or `lljit.Library` where the platform is another one
_LEVEL = 2  # of LLVM's optimization while it selects and orders instructions
QUICK = "; quick\n"
"""Text that begins so is compiled as it stands, in a fifth of the time: for code without hot loops,
which keeps in memory what several of its blocks use."""


@dataclass(frozen=True, slots=True)
class Host:
    """The machine that code is generated for. Whatever emission reads of a machine is here, since
    keys of the cache on disk name all of it.

    Attributes:
        triple, cpu, features: as LLVM names them.
        vector_bytes: width of a vector register (64 AVX-512, 32 AVX2, 16 SSE2 and NEON).
        registers: number of vector registers.
        fma: True where a fused multiply-add is one instruction.
        caches: by whose sizes blocks are cut.
    """

    triple: str
    cpu: str
    features: str
    vector_bytes: int
    registers: int
    fma: bool
    caches: Caches = field(default_factory=caches)

    @property
    def has_masks(self) -> bool:
        """True where masked loads and stores are single instructions for every lane width."""
        return self.vector_bytes == 64


@cache
def llvm_version() -> str:
    """What tells this installation of llvmlite from others, found without importing it."""
    folder = llvm.folder()
    said = [folder]
    for part in ("_version.py", "binding", "binding/libllvmlite.so"):
        try:
            known = os.stat(os.path.join(folder, part))
        except FileNotFoundError:  # other platforms call the library otherwise
            continue
        said += [part, str(known.st_size), str(known.st_mtime_ns)]
    return "\n".join(said)


@cache
def host() -> Host:
    """This machine's CPU."""
    return _known_host() or _host(*_ask_for_host())


@cache
def _known_host() -> Host | None:
    """This machine's CPU, where the cache on disk knows of it."""
    key = _host_key()
    known = None if key is None else store.get(key, "the CPU's features")
    return None if known is None else _host(*known.decode().split("\n"))


@cache
def _host_key() -> str | None:
    identity = cpu.identity()
    return None if identity is None else store.digest("host", identity, llvm_version())


def _ask_for_host() -> tuple[str, str, str]:
    said: tuple[str, str, str] = _Work("describe").result()
    key = _host_key()
    if key is not None:
        store.put(key, "\n".join(said).encode(), "the CPU's features")
    return said


def _host(triple: str, cpu_name: str, features: str) -> Host:
    on = {name[1:] for name in features.split(",") if name.startswith("+")}
    x86 = triple.startswith(("x86_64", "i686"))
    if {"avx512f", "avx512vl", "avx512dq", "avx512bw"} <= on:
        width, registers = 64, 32
        features += ",-prefer-256-bit"
    elif "avx2" in on:
        width, registers = 32, 16
    else:
        width, registers = 16, 16 if x86 else 32
    return Host(triple, cpu_name, features, width, registers, "fma" in on or not x86)


def start() -> bool:
    """Start what makes code, where nothing is known yet of this machine's CPU; whether it is."""
    if host.cache_info().currsize or _known_host() is not None:
        return True
    from . import apart

    if apart.settings.wanted:
        with suppress(apart.Unavailable):
            apart.start()
    return False


class InternalError(RuntimeError):
    """LLVM cannot compile what was written for it: the fault is the compiler's."""

    def __init__(self, text: str, said: str) -> None:
        from tempfile import NamedTemporaryFile

        where = ""
        with suppress(OSError):
            with NamedTemporaryFile("w", prefix="dualmode-", suffix=".ll", delete=False) as file:
                file.write(text)
            where = f" with {file.name}, which has the code"
        super().__init__(
            "LLVM cannot compile the code that dualmode has made. This is a bug of dualmode, not "
            f"of your program: please report it{where}. Meanwhile DUALMODE_JIT=0 runs functions "
            "without compiling them, and DUALMODE_KERNELS=numpy computes eager operations with "
            f"NumPy. LLVM said:\n{said}"
        )


class Making:
    """Machine code of one text that is being made, or was found in the cache on disk."""

    def __init__(self, text: str, target: Host, promote: str, look: bool) -> None:
        self._text, self._target, self._promote = text, target, promote
        look = look and store.settings.enabled
        self._made = store.get(self._key, self._what) if look else None
        self.found = self._made is not None
        self._work = None if self.found else _compile(text, target, promote)

    @lazy
    def _key(self) -> str:
        how = (*astuple(self._target), _level(self._text), llvm.OPTIONS, self._promote)
        return store.digest("code", llvm_version(), "\n".join(map(repr, how)), self._text)

    @property
    def _what(self) -> str:
        return f"machine code of {len(self._text)} characters"

    def result(self) -> bytes:
        """The object file, as soon as it is there.

        Raises:
            InternalError: LLVM does not accept the text, or has failed over it.
        """
        if self._made is None:
            assert self._work is not None
            try:
                self._made = self._work.result()
            except RecursionError:
                raise
            except RuntimeError as error:
                raise InternalError(self._text, str(error)) from None
        return self._made

    def keep(self) -> None:
        """Put it into the cache."""
        if not self.found and store.settings.enabled:
            store.put(self._key, self.result(), self._what)


def begin(text: str, target: Host | None = None, promote: str = "", look: bool = True) -> Making:
    """Begin to make machine code of LLVM IR text, while the caller goes on. No IR passes run: the
    text is vectorised already.

    Args:
        promote: a function whose variables in memory are put in registers first.
        look: whether it may be in the cache.
    """
    return Making(text, target or host(), promote, look)


def compile_text(text: str, target: Host | None = None, promote: str = "") -> bytes:
    """An object file from LLVM IR text; see `begin`.

    Raises:
        InternalError: LLVM does not accept the text, or has failed over it.
    """
    return compile_texts([text], target, promote)[0]


def compile_texts(texts: list[str], target: Host | None = None, promote: str = "") -> list[bytes]:
    """`compile_text` of each; those that are not in the cache at the same time."""
    codes = [begin(text, target, promote) for text in texts]
    made = [code.result() for code in codes]
    for code in codes:
        code.keep()
    return made


def _compile(text: str, target: Host, promote: str) -> _Work:
    how = (target.triple, target.cpu, target.features, _level(text))
    return _Work("object_code", *how, text, promote)


def _level(text: str) -> int:
    return 0 if text.startswith(QUICK) else _LEVEL


def rest() -> None:
    """Nothing more is to be compiled for now: LLVM gives back what it can of its memory."""
    from . import apart

    apart.rest()
    if _library.cache_info().currsize and not _crew().busy:
        _library().rest()


class _Work:
    """A method of `llvm.Library`, called where LLVM is: in a process of its own if that is wanted
    and can be had, else here, by threads and by whoever waits for the result."""

    def __init__(self, name: str, *args: Any) -> None:
        from . import apart

        self._what = (name, *args)
        self._request: Request | None = None
        self._job: Job | None = None
        if apart.settings.wanted:
            with suppress(apart.Unavailable):
                self._request = apart.ask(*self._what)
        if self._request is None:
            self._job = self._here()

    def _here(self) -> Job:
        return _crew().submit(*self._what, size=sum(len(str(x)) for x in self._what))

    def result(self) -> Any:
        from . import apart

        if self._request is not None:
            with suppress(apart.Unavailable):
                return apart.result(self._request)
        self._request = None
        self._job = self._job or self._here()
        return _crew().wait(self._job)


@cache
def _crew() -> Crew:
    """The threads of this process that use LLVM. Whoever waits for them works too. The process ends
    after them, and forks when there are none: a child would wait for ever for what they hold."""
    from .cores import cores
    from .crew import Crew

    def start(run: Callable[[], None]) -> None:
        threading.Thread(target=run, name="dualmode-llvm").start()

    made = Crew(_here, cores() - 1, start)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lambda: _rest(made))
    return made


def _rest(crew: Crew) -> None:
    while crew.busy:
        time.sleep(1e-3)


def _here(name: str, *args: Any) -> Any:
    with _loading:
        library = _library()
    return getattr(library, name)(*args)


_loading = threading.RLock()  # the handler of a signal may compile as well


@cache
def _library() -> Any:
    """llvmlite's library, or llvmlite where that is not of a known version."""
    file = llvm.file()
    if file is not None:
        with suppress(OSError, AttributeError):
            return llvm.Library(file)
    from .bindings import Bindings

    return Bindings()


def load(
    objects: bytes | list[bytes], exports: Sequence[str], imports: Mapping[str, int] | None = None
) -> Library:
    """Object code into this process; several objects may call one another.

    Args:
        exports: the functions whose addresses are wanted.
        imports: addresses of symbols that the code calls; other undefined ones (memcpy, fmodf, ...)
            are looked up in the process.
    """
    parts = [objects] if isinstance(objects, bytes) else objects
    if elf.supported:
        return elf.Library(parts, exports, imports or {})
    from . import lljit
    from .bindings import binding, new_machine

    target = host()
    how = (target.triple, target.cpu, target.features, _LEVEL)
    return lljit.Library(parts, exports, imports or {}, binding(), lambda: new_machine(*how))


def function(address: int, restype: Any, *argtypes: Any) -> Any:
    """A ctypes function at `address`; it holds the GIL while it runs."""
    return ctypes.PYFUNCTYPE(restype, *argtypes)(address)
