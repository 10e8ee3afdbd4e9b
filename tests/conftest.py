"""What all tests share: hypothesis profiles, and global state that each test finds as new."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import dualmode as dm
from dualmode.op import state
from dualmode_compiler.runtime import pool

ROOT = Path(__file__).parent.parent

# No deadlines: an example may compile. The same examples on every run, but for `thorough`, which
# looks for new failures: HYPOTHESIS_PROFILE=thorough pytest
settings.register_profile("default", deadline=None, derandomize=True)
settings.register_profile("ci", settings.get_profile("default"), print_blob=True)
settings.register_profile("thorough", deadline=None, max_examples=1000)
profile = os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default")
settings.load_profile(profile)

# Processes that tests start import this checkout as well, whatever is installed.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(ROOT), str(ROOT / "compiler"), *filter(None, [os.environ.get("PYTHONPATH")])]
)

# LLVM's verifier goes over all that is compiled, in every process that tests start.
os.environ["DUALMODE_VERIFY"] = "1"

# Compiled code is kept apart from the user's own, in a directory that this run of the tests starts
# with empty and that all its processes share: what one of them compiles, another one loads.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="dualmode-tests-")
    os.environ["DUALMODE_CACHE_DIR"] = _cache.name
dm.config.update(cache_dir=os.environ["DUALMODE_CACHE_DIR"])


@pytest.fixture(autouse=True)
def _global_state() -> Iterator[None]:
    """Start from a fixed seed; end with the settings of before, and no trace or tape left open."""
    settings_before = {name: getattr(dm.config, name) for name in dm.config._NAMES}
    mode, tapes, threads = state.mode, state.tapes, pool.num_threads()
    dm.random.set_seed(0)
    yield
    left = state.mode, state.tapes
    state.mode, state.tapes = mode, tapes
    dm.config.update(**settings_before)
    if pool.num_threads() != threads:
        pool.set_threads(threads)
    assert left == (mode, tapes), "the test left a trace or a tape open"
