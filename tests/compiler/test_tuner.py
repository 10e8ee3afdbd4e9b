"""Cuts of matrix products by measurement: the same bits, kept, and used again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dualmode as dm
from dualmode_compiler import driver, tuner
from dualmode_compiler.halves import Half
from dualmode_compiler.loops import Control, Kernel
from dualmode_compiler.runtime import cache as store
from dualmode_compiler.runtime import jit, pool
from dualmode_compiler.spec import bfloat16, float32, float64
from dualmode_compiler.tiling import Gemm, tiling
from graphs import trace

HOST = jit.host()
SQUARE = Gemm(96, 80, 130, float32, (130, 1), (80, 1), 80)
PRODUCTS = {
    "rows": SQUARE,
    "deep": Gemm(37, 100, 1500, float32, (1500, 1), (100, 1), 100),
    "B transposed": Gemm(50, 70, 640, float32, (640, 1), (1, 640), 70),
    "A transposed": Gemm(50, 70, 640, float32, (1, 50), (70, 1), 70),
    "batch": Gemm(20, 33, 70, float64, (70, 1), (33, 1), 33, ((3, 1400, 2310, 660),)),
    "flipped": Gemm(3000, 1, 333, float32, (1, 3000), (1, 1), 1),
    "halves": Gemm(40, 48, 333, float32, (333, 1), (48, 1), 48, (), Half(bfloat16, True)),
}


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache of its own, no choices in memory, and time to measure."""
    monkeypatch.setattr(tuner, "_known", {})
    monkeypatch.setattr(tuner._Spent, "seconds", 0.0)
    monkeypatch.setattr(tuner, "PRODUCT", 60.0)
    with dm.config.override(cache=True, cache_dir=str(tmp_path)):
        yield


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Gemm]:
    """The products that were measured, one entry for each time; the second cut always wins."""
    seen: list[Gemm] = []

    def measure(g: Gemm, host: jit.Host, epilogue: bool, end: float) -> tuner.Choice:
        seen.append(g)
        return tuner.Choice(tuner.candidates(g, host, epilogue)[1], 2, 1.5)

    monkeypatch.setattr(tuner, "_measure", measure)
    return seen


@pytest.mark.parametrize("epilogue", [False, True])
@pytest.mark.parametrize("name", PRODUCTS)
def test_every_cut_gives_the_same_bits(name: str, epilogue: bool):
    g = PRODUCTS[name]
    cuts = tuner.candidates(g, HOST, epilogue)
    assert cuts[0] == tuner.tiling(g.transposed() if name == "flipped" else g, HOST, epilogue)
    assert len(cuts) > 1
    operands = tuner._Operands(g)
    rng = np.random.default_rng(1)
    for x in operands.arrays:
        x[...] = rng.standard_normal(x.shape)
    found: set[bytes] = set()
    for cut in cuts:
        operands.arrays[2].fill(-1)
        tuner._Run(g, HOST, epilogue, cut, operands).time()
        found.add(operands.arrays[2].tobytes())
    assert len(found) == 1
    assert not (operands.arrays[2] == -1).any()


def test_the_quickest_is_chosen(monkeypatch: pytest.MonkeyPatch):
    cuts = tuner.candidates(SQUARE, HOST, False)

    def time(self: Any) -> None:
        self.best = 1.0 + 0.5 * (self.cut is not cuts[2] and self.cut != cuts[2])

    monkeypatch.setattr(tuner._Run, "time", time)
    choice = tuner.choose(SQUARE, HOST, False)
    assert choice is not None
    assert choice.tiling == cuts[2] and choice.gain == 1.5


def test_the_model_wins_unless_another_is_clearly_quicker(monkeypatch: pytest.MonkeyPatch):
    cuts = tuner.candidates(SQUARE, HOST, False)

    def time(self: Any) -> None:
        self.best = 1.0 + 0.01 * (self.cut == cuts[0])

    monkeypatch.setattr(tuner._Run, "time", time)
    choice = tuner.choose(SQUARE, HOST, False)
    assert choice is not None and choice.tiling == cuts[0] and choice.gain == 1


def test_a_part_of_a_large_product_is_measured(monkeypatch: pytest.MonkeyPatch):
    large = Gemm(3000, 300, 500, float32, (500, 1), (300, 1), 300)
    cuts = tuner.candidates(large, HOST, False)
    rows: set[int] = set()

    def time(self: Any) -> None:
        rows.add(self.cut.rows * self.cut.panels + self.cut.taller)
        self.best = 1.0 + (self.cut.tallest != cuts[-1].tallest)

    monkeypatch.setattr(tuner._Run, "time", time)
    choice = tuner.choose(large, HOST, False)
    assert choice is not None and choice.tiling.tallest == cuts[-1].tallest
    assert choice.tiling in cuts
    assert rows == {tuner.LARGE // (300 * 500)}
    assert tuner._part(SQUARE, HOST) == SQUARE


def test_choices_are_kept_and_not_measured_again(measured: list[Gemm]):
    first = tuner.choose(SQUARE, HOST, False)
    assert tuner.choose(SQUARE, HOST, False) == first
    tuner._known.clear()  # as in another process
    assert tuner.choose(SQUARE, HOST, False) == first
    assert measured == [SQUARE]


def test_a_choice_is_for_one_product_on_one_machine(measured: list[Gemm]):
    tuner.choose(SQUARE, HOST, False)
    tuner.choose(SQUARE, HOST, True)
    tuner.choose(replace(SQUARE, m=95), HOST, False)
    tuner.choose(replace(SQUARE, a=(131, 1)), HOST, False)
    tuner.choose(SQUARE, replace(HOST, cpu=""), False)
    pool.set_threads(pool.num_threads() + 1)
    tuner.choose(SQUARE, HOST, False)
    assert len(measured) == 6


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b"\xff", b"[[8, 0], 2, 1.5]", None])
def test_entries_that_make_no_sense_are_measured_anew(content: bytes | None, measured: list[Gemm]):
    first = tuner.choose(SQUARE, HOST, False)
    tuner._known.clear()
    key = tuner._key(SQUARE, HOST, False)
    if content is None:  # a truncated file
        file = Path(store.path()) / f"{key}.code"
        file.write_bytes(file.read_bytes()[:-3])
    else:
        store.put(key, content, "")
    assert tuner.choose(SQUARE, HOST, False) == first
    assert len(measured) == 2


def test_a_cut_that_does_not_fit_is_not_used(measured: list[Gemm]):
    """An entry with a cut that is none of the product's would be a crash."""
    tuner.choose(SQUARE, HOST, False)
    kept = store.get(tuner._key(SQUARE, HOST, False), "")
    assert kept is not None
    other = replace(SQUARE, n=17)
    store.put(tuner._key(other, HOST, False), kept, "")
    choice = tuner.choose(other, HOST, False)
    assert choice is not None and choice.tiling in tuner.candidates(other, HOST, False)
    assert measured == [SQUARE, other]


def test_no_time_left(measured: list[Gemm], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tuner._Spent, "seconds", tuner.PROCESS)
    assert tuner.choose(SQUARE, HOST, False) is None
    assert not measured


def test_small_products_and_other_machines_are_not_measured(measured: list[Gemm]):
    assert tuner.choose(Gemm(4, 4, 4, float32, (4, 1), (4, 1), 4), HOST, False) is None
    graph = trace(lambda x, y: [x @ y], "float32[64,64]", "float32[64,64]")
    other = replace(HOST, features=HOST.features + ",-avx512f", vector_bytes=32, registers=16)
    driver.compile(graph, host=other, tune=True).native()
    assert not measured


def test_programs_use_the_choice(measured: list[Gemm]):
    graph = trace(
        lambda x, y: [dm.relu(dm.fori_loop(0, 3, lambda _, z: z @ y, x) @ y)],
        *("float32[64,64]", "float32[64,64]"),
    )
    tuned, plain = driver.compile(graph, tune=True), driver.compile(graph)
    steps = tuned.native().plan.steps
    (loop,) = (s for s in steps if isinstance(s, Control))
    kernels = [s for s in (*steps, *loop.plans[0].steps) if isinstance(s, Kernel)]
    choices = [k.contraction.choice for k in kernels if k.contraction]
    assert len(choices) == 2 and len(measured) == 2
    assert all(c is not None and str(c) in driver.explain(tuned) for c in choices)
    assert "tuned" not in driver.explain(plain)
    rng = np.random.default_rng(2)
    arrays = [rng.standard_normal((64, 64)).astype(np.float32) for _ in range(2)]
    (a,), (b,) = tuned.run(arrays)[0], plain.run(arrays)[0]
    assert a.tobytes() == b.tobytes()
    assert tuned.native().program.text != plain.native().program.text


def test_really_measured():
    with dm.config.override(tune="measure"):
        f = dm.function(lambda x, y: dm.relu(x @ y))
        x = dm.ones((128, 64))
        y = f(x, dm.ones((64, 128)))
        text = f.get_concrete_function(x, dm.ones((64, 128))).explain()
    assert (np.asarray(y) == 64).all()
    if dm.config.backend == "compile":
        assert "tuned: tiles of" in text and "times as fast as the model's choice" in text
    assert tuner._Spent.seconds > 0


@pytest.mark.parametrize("value", ["fast", True, 1, None])
def test_other_values_are_refused(value: Any):
    with pytest.raises(ValueError, match="tune is 'model' or 'measure'"):
        dm.config.update(tune=value)


@pytest.mark.parametrize(("text", "shown"), [("measure", "measure"), ("all", "DUALMODE_TUNE")])
def test_environment(text: str, shown: str):
    code = "import dualmode as dm; print(dm.config.tune)"
    env = {**os.environ, "DUALMODE_TUNE": text}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert shown in done.stdout + done.stderr


def test_a_wish_is_within_reason():
    """What does not suit a product is left to the model."""
    for g in PRODUCTS.values():
        for cut in tuner.candidates(g, HOST, False):
            most = (HOST.registers - 1) // (cut.tallest + 1)
            assert cut.dots or cut.vectors <= most
            assert cut.rows * cut.panels + cut.taller in (g.m, g.n)
    assert tiling(SQUARE, HOST) == tuner.candidates(SQUARE, HOST, False)[0]
