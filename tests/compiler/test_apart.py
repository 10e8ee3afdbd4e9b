"""LLVM in a process of its own."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dualmode_compiler.runtime import apart, jit, llvm, worker

TEXT = "define i32 @{name}(i32 %x) {{\n  %y = add i32 %x, {step}\n  ret i32 %y\n}}\n"
ONE, TWO = TEXT.format(name="one", step=1), TEXT.format(name="two", step=2)

pytestmark = pytest.mark.skipif(
    not hasattr(os, "posix_spawn") or llvm.file() is None, reason="LLVM is always used here"
)


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # for texts that LLVM does not accept
    monkeypatch.setattr(apart.settings, "codegen", "apart")
    monkeypatch.setattr(apart, "_process", None)
    monkeypatch.setattr(jit.store.settings, "enabled", False)


def here(text: str) -> bytes:
    apart.settings.codegen = "here"
    try:
        return jit.compile_text(text)
    finally:
        apart.settings.codegen = "apart"


def value(code: bytes, name: str) -> int:
    library = jit.load(code, [name])
    return jit.function(library[name], ctypes.c_int32, ctypes.c_int32)(5)


def running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for_end(pid: int) -> None:
    end = time.monotonic() + 20
    while running(pid):
        assert time.monotonic() < end, "it goes on"
        time.sleep(0.01)


def current() -> apart._Process:
    assert apart._process is not None
    return apart._process


def test_code_from_there_runs_here() -> None:
    one, two = jit.compile_texts([ONE, TWO])
    assert current().pid not in (0, os.getpid())
    assert value(one, "one") == 6 and value(two, "two") == 7
    assert one == here(ONE)


def test_errors_of_llvm_are_raised_here() -> None:
    with pytest.raises(RuntimeError, match="parsing error"):
        jit.compile_text("nonsense")
    assert jit.compile_text(ONE)


def test_a_thread_that_waits_may_compile_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the handler of a signal does, which comes at any time."""
    made: list[bytes] = []

    def handler() -> bool:
        monkeypatch.setattr(apart.ahead, "step", lambda: False)
        made.append(jit.compile_text(TWO))
        return False

    monkeypatch.setattr(apart.ahead, "step", handler)
    thread = threading.Thread(target=lambda: made.append(jit.compile_text(ONE)), daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "it waits for itself"
    two, one = made
    assert value(one, "one") == 6 and value(two, "two") == 7


TWICE = """\
define i32 @f(i32 %x) {
entry:
  %c = icmp eq i32 %x, 0
  br i1 %c, label %a, label %b
a:
  br label %b
b:
  %y = phi i32 [ 0, %entry ], [ 1, %a ]
  br label %a
a:
  ret i32 %y
}
"""
UNDEFINED = """\
define i32 @f(i1 %x) {
  br i1 %x, label %a, label %b
a:
  %y = add i32 1, 1
  br label %b
b:
  ret i32 %y
}
"""


@pytest.mark.parametrize("codegen", ["apart", "here"])
@pytest.mark.parametrize("text", [TWICE, UNDEFINED], ids=["label", "value"])
def test_tests_verify_all_texts(text: str, codegen: Any) -> None:
    apart.settings.codegen = codegen
    with pytest.raises(jit.InternalError, match="not valid\n.*(middle|dominate)"):
        jit.compile_text(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [(TWICE, "error: .*symbol"), (UNDEFINED, "LiveVariables.*Aborted$")],
    ids=["exit", "abort"],
)
def test_a_text_on_which_llvm_ends_itself_raises_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, said: str
) -> None:
    """What others have asked for at the same time is made."""
    monkeypatch.delenv("DUALMODE_VERIFY")
    before, bad, after = (jit.begin(t) for t in (ONE, text, TWO))
    for _ in range(2):
        with pytest.raises(jit.InternalError, match=f"(?s)bug of dualmode.*DUALMODE_JIT=0.*{said}"):
            bad.result()
    assert value(before.result(), "one") == 6 and value(after.result(), "two") == 7
    assert [file.read_text() for file in tmp_path.glob("*.ll")] == [text, text]


def test_answers_go_to_those_who_asked() -> None:
    """Many threads, each of which may find the answer of another."""
    found: dict[int, int] = {}

    def ask(k: int) -> None:
        text = TEXT.format(name="f", step=k)
        found[k] = value(jit.compile_text(text), "f")

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {k: k + 5 for k in range(12)}


def test_texts_are_made_while_the_caller_goes_on() -> None:
    begun = [jit.begin(TEXT.format(name="f", step=k)) for k in range(6)]
    assert [value(m.result(), "f") for m in reversed(begun)] == [10, 9, 8, 7, 6, 5]


def test_one_that_has_ended_is_started_anew() -> None:
    jit.compile_text(ONE)
    first = current().pid
    os.kill(first, signal.SIGKILL)
    assert jit.compile_text(TWO)
    assert current().pid != first


def test_what_was_asked_of_one_that_ends_is_asked_again() -> None:
    jit.compile_text(ONE)
    first = current().pid
    os.kill(first, signal.SIGSTOP)
    making = jit.begin(TWO)
    os.kill(first, signal.SIGKILL)
    assert value(making.result(), "two") == 7
    assert current().pid != first


def test_code_is_made_here_where_the_process_ends_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(apart._Process, "_read", lambda _: (_ for _ in ()).throw(EOFError))
    assert value(jit.compile_text(ONE), "one") == 6


def test_an_answer_that_nobody_waited_for_is_not_taken_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    jit.compile_text(ONE)
    with monkeypatch.context() as patch:
        patch.setattr(apart, "receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            jit.compile_text(ONE)
    assert value(jit.compile_text(TWO), "two") == 7


@pytest.mark.parametrize("executable", ["/nowhere/python", "/usr/bin/some_application", ""])
def test_where_none_can_be_started_code_is_made_here(
    monkeypatch: pytest.MonkeyPatch, executable: str
) -> None:
    """Programs that embed Python are not started again."""
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(apart.Unavailable):
        apart.start()
    assert jit.compile_text(ONE)


def test_one_that_cannot_start_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    spawn = apart._spawn

    def counted(*files: int) -> int:
        started.append(spawn(*files))
        return started[-1]

    monkeypatch.setattr(apart, "_spawn", counted)
    monkeypatch.setattr(apart, "_START", "raise SystemExit({path!r}{module!r}{arguments!r})")
    assert jit.compile_text(ONE) and jit.compile_text(TWO)
    (pid,) = started
    with pytest.raises(ChildProcessError):  # it is no zombie
        os.waitpid(pid, os.WNOHANG)


def run(script: str, *options: str, **how: Any) -> str:
    """What a new process prints that has code made in another one."""
    start = (
        "import os, signal, sys\n"
        "from dualmode_compiler.runtime import apart, jit\n"
        "apart.settings.codegen, jit.store.settings.enabled = 'apart', False\n"
        f"one, two = {ONE!r}, {TWO!r}\n"
    )
    command = [sys.executable, *options, "-c", start + script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, **how)
    assert not done.stderr
    return done.stdout


def test_a_program_that_sigpipe_ends_goes_on() -> None:
    script = """
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
jit.compile_text(one)
os.kill(apart._process.pid, signal.SIGKILL)
while apart._process._is_there() is False:
    pass
print(len(jit.compile_text(two)) > 0, signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""
    assert run(script) == "True set()\n"


@pytest.mark.parametrize("closed", [(0,), (1, 2), (0, 1, 2), (2,), (0, 2)], ids=str)
def test_standard_streams_may_be_closed(tmp_path: Path, closed: tuple[int, ...]) -> None:
    """The numbers of these stay free for what the program opens."""
    out = tmp_path / "out"
    script = f"""
for stream in {closed}:
    os.close(stream)
jit.compile_text(one)
first = apart._process
held = {{os.readlink(f"/proc/self/fd/{{f}}") for f in (first._to, first._back, first._said)}}
for stream in {closed}:
    assert os.open(os.devnull, os.O_RDWR) == stream
jit.compile_text(two)
assert apart._process is first and len(held) == 3
open({str(out)!r}, "w").write("done")
"""
    run(script)
    assert out.read_text() == "done"


def test_programs_may_have_many_files_open() -> None:
    script = """
import resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(2048, hard), hard))
kept = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
jit.compile_text(one)
print(apart._process._back > 1023)
"""
    assert run(script) == "True\n"


def test_it_holds_nothing_of_the_program() -> None:
    """A pipe is closed for its reader as soon as the program closes it."""
    script = """
end, other = os.pipe()
os.set_inheritable(other, True)
jit.compile_text(one)
os.close(other)
os.set_blocking(end, False)
print(os.read(end, 1), os.readlink(f"/proc/{apart._process.pid}/cwd"))
"""
    assert run(script) == "b'' /\n"


@pytest.mark.parametrize("prefix", [False, True])
def test_byte_code_is_written_where_the_program_writes_it(tmp_path: Path, prefix: bool) -> None:
    options = ("-X", f"pycache_prefix={tmp_path}") if prefix else ("-B",)
    package = Path(apart.__file__).parent.parent
    copy = tmp_path / "copy" / package.name
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    environment = os.environ | {"PYTHONPATH": str(copy.parent), "PYTHONDONTWRITEBYTECODE": ""}
    run("jit.compile_text(one)", *options, env=environment)
    assert not list(copy.rglob("*.pyc"))


def test_a_fork_has_one_of_its_own() -> None:
    jit.compile_text(ONE)
    pid = os.fork()
    if not pid:
        own = False
        try:
            own = apart._process is None and bool(jit.compile_text(TWO))
        finally:
            os._exit(0 if own and apart._process is not None else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert jit.compile_text(ONE)


def test_a_fork_asks_again_for_what_its_parent_has_begun() -> None:
    jit.compile_text(ONE)
    making = jit.begin(TWO)
    files = current()._to, current()._back, current()._said
    pid = os.fork()
    if not pid:
        right = False
        try:
            for file in files:  # these are closed, as a daemon's are that opens others instead
                with pytest.raises(OSError, match="Bad file"):
                    os.fstat(file)
            right = value(making.result(), "two") == 7 and apart._process is not None
        finally:
            os._exit(0 if right else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert value(making.result(), "two") == 7


@pytest.mark.parametrize("others", [set(), {1}], ids=["none", "some"])
def test_it_ends_where_it_can_start_no_thread(
    monkeypatch: pytest.MonkeyPatch, others: set[int]
) -> None:
    """Else whoever asked would wait for ever."""
    ended: list[int] = []

    def refuse(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(worker, "start_new_thread", refuse)
    monkeypatch.setattr(worker, "_busy", others)
    monkeypatch.setattr(os, "_exit", ended.append)
    with pytest.raises(RuntimeError):
        worker._start(lambda: None)
    assert bool(ended) == (not others)


def test_where_there_is_no_file_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "memfd_create", refuse)
    assert value(jit.compile_text(ONE), "one") == 6 and current().pid


def test_ctrl_c_is_not_for_it() -> None:
    jit.compile_text(ONE)
    first = current().pid
    os.kill(first, signal.SIGINT)
    assert value(jit.compile_text(TWO), "two") == 7
    assert current().pid == first


def test_it_ends_with_who_started_it_and_is_nobodys_child() -> None:
    script = (
        "import os\n"
        "from dualmode_compiler.runtime import apart, jit\n"
        "apart.settings.codegen = 'apart'\n"
        "jit.store.settings.enabled = False\n"
        f"jit.compile_text({ONE!r})\n"
        "try:\n"
        "    os.waitpid(-1, os.WNOHANG)\n"
        "except ChildProcessError:\n"
        "    print(apart._process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    wait_for_end(int(done.stdout))


def test_it_ends_when_nothing_is_asked_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    impatient = "; serve.__globals__['PATIENCE'] = 0.01; serve{"
    monkeypatch.setattr(apart, "_START", apart._START.replace("; serve{", impatient))
    jit.compile_text(ONE)
    first = current().pid
    wait_for_end(first)
    assert value(jit.compile_text(TWO), "two") == 7
    assert worker.PATIENCE > 1


def resident(pid: int) -> float:
    """MiB of memory."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def wait_for_less(pid: int, most: float) -> None:
    end = time.monotonic() + 20
    while resident(pid) > most:
        assert time.monotonic() < end, f"it holds {resident(pid)} MiB"
        time.sleep(0.01)


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
@pytest.mark.parametrize("asked", [True, False], ids=["asked", "idle"])
def test_one_at_rest_gives_its_memory_back(monkeypatch: pytest.MonkeyPatch, asked: bool) -> None:
    patience = f"; serve.__globals__['REST'] = {1e9 if asked else 0.2}; serve{{"
    monkeypatch.setattr(apart, "_START", apart._START.replace("; serve{", patience))
    one = jit.compile_text(ONE)
    pid = current().pid
    assert resident(pid) > 30
    if asked:
        apart.rest()
    wait_for_less(pid, 25)
    assert jit.compile_text(ONE) == one and current().pid == pid
    assert resident(pid) > 30


def test_nothing_is_started_to_rest() -> None:
    jit.rest()
    assert apart._process is None
    jit.compile_text(ONE)
    os.kill(current().pid, signal.SIGKILL)
    wait_for_end(current().pid)
    jit.rest()
    assert value(jit.compile_text(TWO), "two") == 7


@linux
def test_llvm_in_this_process_gives_its_memory_back() -> None:
    """Relocated pages of its library stay as they are."""
    script = """
apart.settings.codegen = "here"
def resident():
    return int(open("/proc/self/statm").read().split()[1])
before = jit.compile_text(one)
most = resident()
jit.rest()
print(resident() < 0.7 * most, jit.compile_text(one) == before)
"""
    assert run(script) == "True True\n"


WHOLE = """
import numpy as np, dualmode as dm
from dualmode_compiler.runtime import apart
x = dm.asarray(np.ones((4, 4), np.float32))
y = dm.function(lambda x: dm.tanh(x @ x))(x) + dm.add(x, x)
assert abs(float(y[0, 0]) - (np.tanh(4) + 2)) < 1e-5
maps = open("/proc/self/maps").read()
print("libllvmlite" in maps, apart._process is not None)
"""


@linux
@pytest.mark.parametrize("options", [[], ["-I"]], ids=["", "isolated"])
def test_this_process_has_no_llvm(options: list[str]) -> None:
    environment = {**os.environ, "DUALMODE_CODEGEN": "apart", "DUALMODE_CACHE": "0"}
    start = f"import sys; sys.path[:] = {sys.path!r}\n"
    done = subprocess.run(
        [sys.executable, *options, "-c", start + WHOLE],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["False", "True"] and not done.stderr
