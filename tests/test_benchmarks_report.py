"""Goals, reports and the functions that are measured. How long anything takes is not tested."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import (
    catalogue,
    contestants,
    fresh,
    functions,
    goals,
    ours,
    peers_numpy,
    predictions,
    results,
)
from benchmarks.__main__ import main
from benchmarks.figures import Figures, load
from benchmarks.fresh import Measured
from benchmarks.goals import BANDWIDTH, COMPILED, ITSELF, PEAK, Goal, outcomes
from benchmarks.measure import Result, Worker, agree
from benchmarks.process import values_of
from benchmarks.suite import ABOUT, NAMES

SMALL = [c for cases in functions.FUNCTIONS.values() for c in cases if c.moved < 1e5]
LABELS = {c.label for c in contestants.CONTESTANTS} | {ITSELF, "dualmode"}
LABELS |= {fresh.PREDICTED, predictions.PREDICTED}


def result(name: str, contestant: str, blocks: list[float], **others) -> Result:
    case, threads = others.pop("case", name), others.pop("threads", 1)
    return Result(name, case, threads, contestant, "compiled", blocks=blocks, **others)


@pytest.mark.parametrize("goal", goals.GOALS, ids=lambda g: g.name)
def test_goals_name_benchmarks_and_contestants(goal):
    assert goal.benchmark in NAMES and {goal.ours, *goal.others} <= LABELS
    assert goal.threads in ("one", "all", "both")
    if goal.benchmark in catalogue.WORKLOADS:
        cases = [
            case
            for case in catalogue.WORKLOADS[goal.benchmark]
            if re.fullmatch(goal.cases, case.name)
        ]
        assert cases
        known = {c.label: c for c in contestants.CONTESTANTS}
        for case in cases:
            assert known[goal.ours].takes(case)
            for label in set(goal.others) & {PEAK, BANDWIDTH}:
                assert known[label].takes(case)


def test_goals_have_different_names():
    assert len({g.name for g in goals.GOALS}) == len(goals.GOALS)
    assert set(ABOUT) == set(NAMES)


def test_cases_of_a_benchmark_have_different_names():
    for cases in catalogue.WORKLOADS.values():
        assert len({c.name for c in cases}) == len(cases)


@pytest.mark.parametrize("workload", SMALL, ids=lambda w: f"{w.op} {w.name}")
def test_functions_agree_with_numpy(workload):
    if "numpy" in workload.without:
        pytest.skip("NumPy has no such function")
    theirs = peers_numpy.build(workload, "eager", 1)
    expected = values_of(theirs.call(*theirs.args))
    for mode in ("eager", "compiled"):
        step = ours.build(workload, mode, 1)
        values = values_of(step.call(*step.args))
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
        assert agree(values, expected)
    size = sum(np.asarray(a).nbytes for a in theirs.args)
    assert 0 < workload.moved <= 2 * size + workload.result


def test_values_tell_permutations_apart():
    x = np.arange(60.0).reshape(6, 10)
    assert not agree(values_of(x), values_of(x.T))
    assert agree(values_of((x, x)), values_of([x, x]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_limits_of_the_machine(dtype):
    from benchmarks import machine
    from benchmarks.workloads import Adam, Gemm

    kernel, lanes = machine._fma(dtype)
    out = np.zeros(machine.CHAINS * lanes, dtype)
    kernel(3, out.ctypes.data)
    some = np.nextafter(np.float32(1), np.float32(0)).astype(dtype)
    expected = some
    for _ in range(3):
        expected = expected * some + some
    np.testing.assert_allclose(out, expected, rtol=1e-6)
    source, target = (machine._aligned(4096) for _ in range(2))
    source[:] = np.arange(4096) % 251
    for past_caches in (False, True):
        target[:] = 0
        machine._copier(past_caches)(target.ctypes.data, source.ctypes.data, 3584)
        assert (target[:3584] == source[:3584]).all() and not target[3584:].any()
    step = machine.build(Gemm("g", m=8, n=8, k=8, dtype=dtype), "fma", 2)
    assert step.call() == 0 and step.repeats > 1
    assert contestants.COPY.takes(Adam("adam")) and not contestants.COPY.takes(catalogue.TINY)


def test_outcomes_are_medians_over_the_rounds_with_quartiles():
    found = [
        result("softmax", COMPILED, [1.0, 1.0, 1.0]),
        result("softmax", BANDWIDTH, [0.8, 0.9, 0.8]),
        result("softmax", "jax.jit", [1.1, 3.0, 2.0]),
        result("softmax", "torch eager", [9.0, 9.0, 9.0]),
    ]
    limit, peer = outcomes(found, [])
    assert (limit.goal.name, limit.other, limit.value) == ("bandwidth: softmax", BANDWIDTH, 0.8)
    assert limit.verdict == "FAIL ~" and limit.high == pytest.approx(0.85)
    assert (peer.goal.name, peer.other, peer.value) == ("softmax beside peers", "jax.jit", 0.5)
    assert peer.verdict == "pass"


def test_goals_in_seconds_and_on_more_threads():
    goal = Goal("scaling", "gemm", others=(ITSELF,), least=1.9, threads="all")
    call = Goal("call", "dispatch", others=(), most=150e-9, unit="s")
    found = [
        result("gemm", COMPILED, [1.0, 1.0], threads=2),
        result("gemm", COMPILED, [1.8, 1.8], threads=1),
        result("dispatch", COMPILED, [1e-7, 1.2e-7], threads=1),
    ]
    scaling, alone = outcomes(found, [], (goal, call))
    assert (scaling.value, scaling.threads, scaling.passed) == (1.8, 2, False)
    assert alone.passed and alone.shown.startswith("110 ns")


def saved(tmp_path, *names: str):
    """A file of made-up figures of these benchmarks."""
    figures = Figures(
        {"cpu": "a CPU", "cores": 2, "platform": "p", "python": "3.11", "versions": {"numpy": "2"}},
        {"seconds": 1, "rounds": 2, "peers": ["jax"]},
    )
    for name in names:
        for case in catalogue.WORKLOADS[name]:
            for threads in (1, 2):
                for k, c in enumerate(contestants.CONTESTANTS):
                    if c.takes(case):
                        r = Result(name, case.name, threads, c.label, c.kind, case.work, case.moved)
                        r.blocks = [(k + 1) * 1e-4, (k + 2) * 1e-4]
                        figures.results.append(r)
    figures.measured.append(Measured("import", "import", 0, "dualmode", "s", [0.07, 0.09]))
    path = tmp_path / f"{'-'.join(names)}.json"
    figures.save(path)
    return path


def test_report_from_saved_slices(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    slices = [str(saved(tmp_path, *n)) for n in (("gemm", "math"), ("tiny", "softmax"))]
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- results -->\nold\n<!-- end of results -->\nafter\n")
    argv = ["report", "--from", *slices, "--to", str(tmp_path), "--readme", str(readme)]
    assert main(argv) == 0
    text = (tmp_path / "RESULTS.md").read_text()
    for part in (
        "a CPU, 2 cores",
        "## Goals",
        "### gemm",
        "### softmax",
        "not measured",
        "peak of",
    ):
        assert part in text
    for name in re.findall(r"\]\((pictures/.*?)\)", text):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert text.count("pictures/") == 4
    written = readme.read_text()
    assert written.startswith("before\n<!--") and written.endswith("-->\nafter\n")
    assert "`tiny`: 3-20-1" in written and "old" not in written
    assert main(["check", "--from", *slices]) == 0
    assert re.search(r"\d+ of \d+ pass", capsys.readouterr().out)


def test_a_slice_replaces_what_was_measured_with_others(tmp_path):
    first, second = saved(tmp_path, "tiny"), tmp_path / "again.json"
    again = Figures(results=[result("tiny", COMPILED, [1.0], threads=2)])
    again.save(second)
    found = load([first, second])
    assert [r.blocks for r in found.results if r.threads == 2] == [[1.0]]
    assert len(found.results) == 1 + len(found.results) - 1 and found.measured[0].value == 0.08
    assert any(r.threads == 1 for r in found.results)


def test_a_readme_without_the_block_is_refused(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("nothing\n")
    with pytest.raises(ValueError, match="no block"):
        results.rewrite(Figures(), readme)


TREE = """
import subprocess, sys
from benchmarks.tree import Tree
child = "x = bytearray(b'1') * (50 << 20); print(); input()"
with Tree() as tree:
    before = tree.peak()
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        process.stdout.readline()
        process.communicate(b"\\n")
    both = tree.peak() - before
    after = tree.peak() - before
print(50 < both / (1 << 20) < 80, after < 20 << 20)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="reads /proc")
def test_the_peak_of_all_processes_is_that_of_their_sum():
    """Two children, one after the other, never hold what they would together."""
    command = [sys.executable, "-c", TREE]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "True True\n"


@pytest.mark.slow
def test_the_cache_and_the_peak_of_memory_in_fresh_processes():
    found = {m.quantity: m for m in fresh.disk_cache(threads=1, rounds=1)}
    assert found["mnist_mlp, warm"].value < found["mnist_mlp, cold"].value
    worker = Worker(contestants.OUR_COMPILED, 1)
    try:
        peak = worker.peak(catalogue.MNIST_MLP, 3)
    finally:
        worker.close()
    assert peak.predicted is not None and peak.predicted > 1 << 20
    assert peak.predicted < peak.again < peak.first < peak.together
