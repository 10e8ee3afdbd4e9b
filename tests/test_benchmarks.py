"""The benchmarks measure, compare and report. How long anything takes is not tested."""

from __future__ import annotations

import json

import pytest

from benchmarks import catalogue, contestants, fresh, measure, report
from benchmarks.__main__ import main
from benchmarks.contestants import OUR_COMPILED, OUR_EAGER, Contestant
from benchmarks.measure import Result
from benchmarks.suite import NAMES

BRIEFLY = ("--threads", "1", "--seconds", "0.02", "--rounds", "2")


def result(contestant: Contestant, blocks: list[float], **others) -> Result:
    name, kind = contestant.label, contestant.kind
    return Result("tiny", "tiny", 1, name, kind, blocks=blocks, **others)


def peer(label: str) -> Contestant:
    return next(c for c in contestants.CONTESTANTS if c.label == label)


def test_run_measures_both_modes_and_numpy(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    figures, plot = tmp_path / "figures.json", tmp_path / "plot.png"
    argv = ["run", "tiny", "dispatch", "--peers", "numpy", "--json", str(figures)]
    assert main([*argv, "--plot", str(plot), *BRIEFLY]) == 0
    out = capsys.readouterr().out
    header = next(line for line in out.splitlines() if line.startswith("workload"))
    for column in ("threads", "dualmode eager", "dualmode compiled", "numpy", "compiled vs best"):
        assert column in header
    assert "Time of the first call" in out
    saved = json.loads(figures.read_text())
    found = {(r["case"], r["contestant"]): r for r in saved["results"]}
    assert set(found) == {
        ("tiny", "dualmode eager"),
        ("tiny", "dualmode compiled"),
        ("add 4x4", "dualmode eager"),
        ("add 4x4", "numpy"),
        ("add 4x4, tape", "dualmode eager"),
        ("x + y 4x4", "dualmode compiled"),
        ("x + y 4x4, arrays", "dualmode compiled"),
        ("x + y of ten trees", "dualmode compiled"),
    }
    for r in found.values():
        assert len(r["blocks"]) == 2 and min(r["blocks"]) > 0
        assert r["started"] > r["first"] > 0 and r["threads"] == 1
    assert {"cpu", "cores", "versions"} <= set(saved["machine"])
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(catalogue.WORKLOADS))
@pytest.mark.parametrize("who", ["torch", "jax", "tensorflow"])
def test_peers_compute_the_same(name, who, capsys):
    if not contestants.installed([who]):
        pytest.skip(f"{who} is not installed")
    assert main(["run", name, "--peers", who, *BRIEFLY]) == 0, capsys.readouterr().out


def test_loops_run(capsys, tmp_path):
    figures = tmp_path / "figures.json"
    assert main(["run", "loops", "--peers", "", "--json", str(figures), *BRIEFLY]) == 0
    found = {r["case"]: r["values"][0] for r in json.loads(figures.read_text())["results"]}
    assert found["a million iterations"] == pytest.approx(1000, rel=1e-2)  # 1 / (1 - decay)
    assert 0 < found["scan"] < 1 and abs(found["scan, gradient"]) < 1


def test_memory_and_imports():
    measured = fresh.memory(1, rounds=1, steps=100)
    assert [m.contestant for m in measured] == [OUR_EAGER.label, OUR_COMPILED.label]
    assert all(m.unit == "KiB" and len(m.rounds) == 1 for m in measured)
    (imported,) = fresh.imports([OUR_EAGER, OUR_COMPILED], rounds=1)
    assert imported.contestant == "dualmode" and imported.value > 0


def test_first_call_is_measured_once_in_each_process():
    measured = fresh.first_calls(
        [OUR_EAGER, OUR_COMPILED], threads=1, rounds=2, workloads=[catalogue.MNIST_MLP]
    )
    assert [m.quantity for m in measured] == ["mnist_mlp", "mnist_mlp with imports"]
    assert all(len(m.rounds) == 2 for m in measured)
    assert measured[0].value < measured[1].value


def test_a_contestant_that_fails_leaves_the_others():
    broken = Contestant("broken", "", "dualmode", "no_such_module", "eager", "eager")
    found = measure.run("tiny", (catalogue.TINY,), [broken, OUR_COMPILED], 1, 0.01, 1)
    assert "no_such_module" in found[0].error and not found[0].blocks
    assert not found[1].error and len(found[1].blocks) == 1
    text = report.tables(found, [])
    assert "failed: tiny tiny (1), broken" in text


def test_other_results_disqualify():
    same = result(OUR_EAGER, [], values=[1.0, 0.5])
    other = result(OUR_COMPILED, [], values=[1.0, 0.6])
    measure._compare([same, other])
    assert not same.error and "not [1.0, 0.5]" in other.error


def test_ratios_are_medians_over_the_rounds_against_the_best_peer():
    found = [
        result(OUR_COMPILED, [1.0, 2.0, 1.0]),
        result(OUR_EAGER, [4.0, 4.0, 4.0]),
        result(peer("torch eager"), [2.0, 2.0, 2.0]),
        result(peer("jax.jit"), [3.0, 6.0, 4.0]),
    ]
    cells = report.ratio_cells({r.contestant: r for r in found})
    assert cells == ["2.00x", "0.50x", "4.00x"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (2.5, "2.50 s"),
        (0.0123, "12.3 ms"),
        (4.56e-4, "456 us"),
        (1.2e-9, "1.20 ns"),
        (0, "0.00 ns"),
    ],
)
def test_durations_have_three_digits(seconds, text):
    assert report.duration(seconds) == text


def test_list_names_all_workloads(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in NAMES) and "numpy" in out
    assert set(catalogue.ABOUT) == set(catalogue.WORKLOADS)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["tinny"], "no benchmark 'tinny'; there are tiny, iris"),
        (["tiny", "--peers", "mxnet"], "no peer 'mxnet'; there are numpy, torch"),
        (["tiny", "--threads", "0"], "--threads: numbers from 1 to"),
    ],
)
def test_mistakes_on_the_command_line_are_named(argv, message, capsys):
    with pytest.raises(SystemExit):
        main(["run", *argv])
    assert message in capsys.readouterr().err
