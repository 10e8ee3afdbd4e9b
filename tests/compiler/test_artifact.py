"""Whole programs in the cache: found again by the same graph only, and run without the compiler."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

import dualmode as dm
from dualmode.op import Op
from dualmode.ops import OPS
from dualmode_compiler import driver
from dualmode_compiler.artifact import Artifact, key, source_version
from dualmode_compiler.build import Build
from dualmode_compiler.fingerprint import Catalogue, fingerprint, nodes, numbers
from dualmode_compiler.graph import Graph
from dualmode_compiler.runtime import elf, jit
from dualmode_compiler.runtime.caches import Caches
from dualmode_compiler.slots import Slots
from dualmode_compiler.spec import Spec, float32
from dualmode_compiler.tiling import Gemm, tiling

CATALOGUE = Catalogue(OPS, "1")
# another value of each attribute of a host
OTHER = {"triple": "", "cpu": "", "features": "", "vector_bytes": 8, "registers": 8, "fma": None}


def said(fn, *args) -> str | None:
    return fingerprint(dm.function(fn).get_concrete_function(*args).graph, CATALOGUE)


def test_equal_graphs_have_equal_text_and_others_do_not():
    x, y = dm.ones((3, 4)), dm.ones((4, 3))
    one = said(lambda x: dm.sum(dm.exp(x) * 2.0, axis=0), x)
    assert one == said(lambda x: dm.sum(dm.exp(x) * 2.0, axis=0), x)
    others = [
        said(lambda x: dm.sum(dm.exp(x) * 2.5, axis=0), x),
        said(lambda x: dm.sum(dm.exp(x) * 2.0, axis=1), x),
        said(lambda x: dm.sum(dm.log(x) * 2.0, axis=0), x),
        said(lambda x: dm.sum(dm.exp(x) * 2.0, axis=0), y),
        said(lambda x: (dm.sum(dm.exp(x) * 2.0, axis=0), x), x),
        said(lambda x: dm.sum(dm.exp(x) * -0.0, axis=0), x),
        said(lambda x: dm.sum(dm.exp(x) * 0.0, axis=0), x),
    ]
    assert None not in others
    assert len({one, *others}) == 1 + len(others)


def test_graphs_inside_of_graphs_count():
    def loop(scale):
        return lambda x: dm.fori_loop(0, 3, lambda _, x: x * scale, x)

    x = dm.ones(3)
    assert said(loop(2.0), x) == said(loop(2.0), x) != said(loop(3.0), x)
    assert said(loop(2.0), x) is not None


def test_what_means_something_in_this_process_only_is_not_kept():
    assert said(lambda x: dm.py_function(lambda x: x, [x], dm.float32), dm.ones(3)) is None
    own = Op("exp", infer=OPS["exp"].infer, kernel=OPS["exp"].kernel, lower=OPS["exp"].lower)
    graph = Graph()
    graph.outputs = [graph.add(own, [graph.param(Spec((3,), float32))])]
    assert fingerprint(graph, CATALOGUE) is None


def test_artifacts_come_back_as_they_were():
    import ml_dtypes

    constants = [np.arange(6.0).reshape(2, 3), np.ones(3, ml_dtypes.bfloat16), np.ones((0, 2))]
    made = Artifact([b"code", b"more"], constants, 64, [1, 2], True, False, [7, None], 1e6)
    back = Artifact.unpack(made.pack())
    for a, b in zip(made.constants, back.constants, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape and (a == b).all()
        assert b.flags.aligned and b.flags.writeable
    made.constants = back.constants = []
    assert made == back


def test_whatever_is_read_of_the_machine_counts():
    here = jit.host()
    one = replace(here, caches=Caches(32 << 10, 256 << 10))
    other = replace(here, caches=Caches(48 << 10, 2 << 20))
    product = Gemm(512, 512, 512, float32, (512, 1), (512, 1), 512)
    assert tiling(product, one) != tiling(product, other)
    graph = dm.function(lambda x: x @ x).get_concrete_function(dm.ones((512, 512))).graph

    def named(host: jit.Host) -> str | None:
        return key(graph, Slots.of(graph), host, CATALOGUE, 2)

    hosts = [here, one, other, *(replace(here, **{name: value}) for name, value in OTHER.items())]
    assert {field.name for field in fields(jit.Host)} == {*OTHER, "caches"}
    names = [named(host) for host in hosts if host != here]
    assert None not in names and len({named(here), *names}) == 1 + len(names)


def test_versions_follow_the_sources(tmp_path: Path):
    (tmp_path / "inner").mkdir()
    file = tmp_path / "inner" / "a.py"
    file.write_text("x = 1\n")

    def version() -> str:
        source_version.cache_clear()
        return source_version(str(tmp_path))

    before = version()
    assert before == version()
    (tmp_path / "notes.txt").write_text("not code")
    assert before == version()
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    assert before != version()


PROGRAM = """
import sys
import numpy as np
import dualmode as dm

model = dm.nn.Sequential([dm.nn.Dense(8, activation="tanh"), dm.nn.Dense(1)])
optimizer = dm.optim.Adam(0.01)
table = dm.asarray(np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4))

@dm.function
def step(x, y):
    with dm.GradientTape() as tape:
        loss = dm.mean((model(x + dm.sum(table)) - y) ** 2)
    variables = model.trainable_variables
    optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
    return loss

dm.random.set_seed(0)
x = dm.asarray(np.linspace(0, 1, 20, dtype=np.float32).reshape(5, 4))
losses = [float(step(x, x[:, :1])).hex() for _ in range(4)]
print(" ".join(losses), "llvmlite" in sys.modules)
"""


CALLS = """
import sys
import numpy as np
import dualmode as dm

table = dm.asarray(np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3))

@dm.function
def step(k, x):
    rows = dm.gather(table, k)  # here
    for _ in range(2):
        dm.debugging.assert_less(x, 10.0, message="too large")  # there
    return dm.sum(rows * dm.exp(x))

print(float(step(dm.asarray([1, 3]), dm.ones(3))).hex())
for k, x in ([1, 4], 1.0), ([1, 2], 11.0):
    try:
        step(dm.asarray(k), dm.ones(3) * x)
    except Exception as error:
        print(type(error).__name__, str(error).replace(__file__, ""))
print("llvmlite" in sys.modules)
"""


def run(directory: Path, program: str = PROGRAM) -> tuple[str, str]:
    environment = dict(os.environ, DUALMODE_CACHE_DIR=str(directory), DUALMODE_LOG="cache")
    file = directory.parent / "program.py"
    file.write_text(program)
    process = subprocess.run(
        [sys.executable, str(file)], env=environment, capture_output=True, text=True, check=True
    )
    return process.stdout, process.stderr


@pytest.mark.skipif(not elf.supported, reason="LLVM loads the code on other platforms")
def test_the_second_process_compiles_nothing(tmp_path: Path):
    directory = tmp_path / "cache"
    cold, log = run(directory)
    assert "miss step: no entry" in log and "stored step" in log
    warm, log = run(directory)
    assert "hit step" in log and "miss" not in log
    assert warm.split()[-1] == "False"
    assert warm.split()[:-1] == cold.split()[:-1]
    for file in directory.iterdir():  # every entry damaged
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 4
        file.write_bytes(content)
    mended, log = run(directory)
    assert "it is made anew" in log and "hit step" not in log
    assert mended.split()[:-1] == cold.split()[:-1]


@pytest.mark.skipif(not elf.supported, reason="LLVM loads the code on other platforms")
def test_programs_with_calls_of_known_ops_are_kept(tmp_path: Path):
    """Checks raise as before, and name the lines of the program that runs."""
    directory = tmp_path / "cache"
    cold, log = run(directory, CALLS)
    assert "stored step" in log
    assert ":10:" in cold and ":12:" in cold and "too large" in cold
    warm, log = run(directory, CALLS)
    assert "hit step" in log and "miss" not in log
    assert warm.splitlines()[:-1] == cold.splitlines()[:-1]
    assert warm.split()[-1] == "False"
    moved, log = run(directory, "\n\n" + CALLS)
    assert "hit step" in log and "miss" not in log
    assert ":12:" in moved and ":14:" in moved and ":10:" not in moved


def _taking() -> Graph:
    """A graph with a check of indices."""
    take = dm.function(lambda x, k: dm.gather(x, k))
    return take.get_concrete_function(dm.ones(3), dm.asarray([0, 1])).graph


def test_calls_are_found_among_the_traced_nodes():
    def checked(x):
        dm.debugging.assert_less(x, 10.0)
        return dm.fori_loop(0, 3, lambda _, x: dm.gather(x, dm.asarray([2, 1, 0])), x + 0.0)

    graph = dm.function(checked).get_concrete_function(dm.ones(3)).graph
    made = driver.compile(graph, catalogue=CATALOGUE).native()
    places = made.artifact.calls
    assert places and None not in places
    traced = nodes(graph)
    for k, call in zip(places, made.build.calls, strict=True):
        assert k is not None
        assert traced[k].op is call.node.op and traced[k].site == call.node.site
        assert [n.spec for n in traced[k].inputs] == [b.spec for b in call.inputs]


def test_a_call_whose_line_is_unknown_is_not_found():
    graph = _taking()
    (check,) = (n for n in graph.nodes() if n.op.name == "check_indices")
    other = Graph().add(check.op, check.inputs, check.attrs, ("elsewhere", 1), check.spec)
    assert numbers(graph, [check, other]) == [nodes(graph).index(check), None]


def test_another_version_of_the_ops_misses():
    graph = _taking()
    names = {
        key(graph, Slots.of(graph), jit.host(), Catalogue(OPS, version), 2)
        for version in ("1", "2", "1")
    }
    assert None not in names and len(names) == 2
    one = dict(OPS)
    one["check_indices"] = replace(OPS["check_indices"], kernel=lambda *_, **__: None)
    assert fingerprint(graph, Catalogue(one, "1")) is None  # it is not the op of that name


COMMANDS = """
import contextlib, io, os, sys
import dualmode as dm
from dualmode import cli

def said(action):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert cli.main(["cache", action]) == 0
    return out.getvalue()

here = os.environ["DUALMODE_CACHE_DIR"]
assert said("path").strip() == here
dm.function(lambda x: dm.sin(x) * 2.0)(dm.ones(3))
out, count = said("list"), len(os.listdir(here))
assert "last used" in out and f"{count} entries" in out and count > 0, (out, os.listdir(here))
assert "removed from" in said("clear")
assert not os.listdir(here)
"""


def test_command_line(tmp_path: Path):
    """In a process of its own: threads that other tests have left may store something."""
    environment = dict(os.environ, DUALMODE_CACHE_DIR=str(tmp_path / "cache"))
    result = subprocess.run(
        [sys.executable, "-c", COMMANDS], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("wanted", [True, False])
def test_the_garbage_collector_is_as_it_was_after_a_compilation(
    wanted: bool, monkeypatch: pytest.MonkeyPatch
):
    """It waits meanwhile, also where the compilation fails."""
    during: list[bool] = []

    def artifact(build: Build) -> Artifact:
        during.append(gc.isenabled())
        raise RuntimeError("no code")

    monkeypatch.setattr(Build, "artifact", artifact)
    if not wanted:
        gc.disable()
    try:
        with pytest.raises(RuntimeError, match="no code"):
            driver.compile(
                dm.function(lambda x: x + 1).get_concrete_function(dm.ones(3)).graph
            ).native()
        assert during == [False]
        assert gc.isenabled() is wanted
    finally:
        gc.enable()
