"""Errors point to the user's own line; settings come from update, override and the environment."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest

import dualmode as dm
from dualmode import errors

MISMATCH = r"float32\[3,7\] @ float32\[4,5\]"


def test_a_shape_error_names_the_users_line():
    x, w = dm.zeros((3, 7)), dm.zeros((4, 5))
    with pytest.raises(errors.ShapeError, match=MISMATCH) as info:
        x @ w  # here
    assert info.value.site is not None
    assert info.value.site[0] == __file__
    assert str(info.value).endswith(": x @ w  # here")


def test_errors_are_the_natural_builtins():
    with pytest.raises(ValueError, match="add"):
        dm.zeros((2,)) + dm.zeros((3,))
    with pytest.raises(TypeError):
        dm.asarray("text")


def test_located_once():
    error = errors.locate(ValueError("what"), ("file.py", 3))
    errors.locate(error, ("other.py", 4))
    assert str(error) == "what\n  at file.py:3"


def test_site_skips_the_engine():
    assert errors.user_site() == (__file__, test_site_skips_the_engine.__code__.co_firstlineno + 1)


def _run(tmp_path, code, **environment):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(code))
    return subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(p for p in sys.path if p), **environment},
        check=False,
    )


BAD = """
    import dualmode as dm

    def layer(x):
        return x @ dm.zeros((4, 5))

    layer(dm.zeros((3, 7)))
"""


def test_tracebacks_show_only_the_users_frames(tmp_path):
    text = _run(tmp_path, BAD).stderr
    assert text.count('File "') == text.count("script.py") - 1 == 2
    assert "matmul: inner sizes differ" in text
    assert "script.py:5: return x @ dm.zeros((4, 5))" in text
    assert "op.py" in _run(tmp_path, BAD, DUALMODE_FULL_TRACEBACKS="1").stderr


def test_settings():
    before = dm.config.num_threads
    with dm.config.override(num_threads=2, jit=False):
        assert (dm.config.num_threads, dm.config.jit) == (2, False)
        dm.config.update(num_threads=3)
    assert (dm.config.num_threads, dm.config.jit) == (before, True)
    for bad in ({"num_threads": -1}, {"num_threads": "2"}, {"jit": 1}, {"entry": "magic"}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            dm.config.update(**bad)
    with pytest.raises(AttributeError, match="no setting 'threads'; it has num_threads"):
        dm.config.update(threads=2)


def test_the_number_of_threads_reaches_the_pool():
    from dualmode_compiler.runtime import pool

    before = pool.num_threads()
    with dm.config.override(num_threads=3):
        assert pool.num_threads() == 3
    assert pool.num_threads() == before


def test_settings_from_the_environment(tmp_path):
    code = "import dualmode as dm; print(dm.config.num_threads, dm.config.jit, dm.config.entry)"
    run = _run(tmp_path, code, DUALMODE_NUM_THREADS="3", DUALMODE_DISABLE_JIT="1")
    assert run.stdout.split() == ["3", "False", "native"], run.stderr
    assert "DUALMODE_ENTRY" in _run(tmp_path, code, DUALMODE_ENTRY="magic").stderr


def test_import_is_silent_and_loads_nothing_heavy(tmp_path):
    heavy = "llvmlite", "ml_dtypes", "optree", "safetensors"
    code = f"import sys, dualmode; print([m for m in {heavy} if m in sys.modules])"
    run = _run(tmp_path, code)
    assert (run.stdout.strip(), run.stderr) == ("[]", "")


def test_kernel_errors_pass_where_infer_is_content():
    def kernel(x):
        raise RuntimeError("out of luck")

    op = dm.op.Op("unlucky", infer=lambda x: x, kernel=kernel)
    with pytest.raises(RuntimeError, match=r"out of luck\n  at .*op\(dm.asarray"):
        op(dm.asarray(np.ones(2)))
