"""The command line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dualmode import cli, demo


def test_demo_trains_both_tasks_in_both_modes_and_compares_them(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    plot = tmp_path / "losses.png"
    assert cli.main(["demo", "--quick", "--plot", str(plot)]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    for label in ("iris eager", "iris compiled", "digits eager", "digits compiled"):
        line = next(line for line in lines if line.startswith(label))
        assert "us/step" in line and "loss" in line
    assert "36/36" in out and "56/56" in out
    header = next(line for line in lines if line.startswith("task"))
    for column in ("eager steps/s", "compiled steps/s", "speed-up", "largest loss difference"):
        assert column in header
    for task in ("iris", "digits"):
        row = next(line for line in lines if line.startswith(task) and "x  " in line)
        assert float(row.split()[-1]) < 1e-3
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_runs_of_one_task_start_from_the_same_weights():
    import dualmode as dm

    losses = []
    for mode in ("eager", "compiled"):
        dm.random.set_seed(0)
        losses.append(demo.train(demo.iris_task(quick=True), mode).losses[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_plot_that_cannot_be_drawn_is_refused_before_the_training(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "main", lambda *_: pytest.fail("trained"))
    assert cli.main(["demo", "--plot", str(tmp_path / "missing" / "x.png")]) == 1
    assert "there is no directory" in capsys.readouterr().err
    monkeypatch.setattr(cli, "find_spec", lambda _: None)
    assert cli.main(["demo", "--plot", "x.png"]) == 1
    assert "pip install matplotlib" in capsys.readouterr().err


def test_version_and_help(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("dualmode ")
    assert cli.main([]) == 2
    assert "demo" in capsys.readouterr().out


def test_an_unknown_command_is_an_error(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["demos"])
    assert stop.value.code == 2
    assert "invalid choice" in capsys.readouterr().err


def test_importing_the_command_does_not_import_the_engine():
    import subprocess

    code = "import sys, dualmode.cli; assert 'dualmode.demo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_reader_may_go_away():
    """As `head` does, which wants the first lines only."""
    command = [sys.executable, "-m", "dualmode.cli", "cache", "list"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1
