"""Side effects of Python code that would happen once, when it is traced: found, with their line."""

from __future__ import annotations

import collections
import datetime
import functools
import itertools
import random
import sys
import threading
import time
import warnings
from random import randint
from time import perf_counter as clock

import numpy as np
import pytest

import dualmode as dm
from dualmode.errors import SideEffectError, SideEffectWarning

history, table, seen = [], {"n": 0, "x": None}, set()
counter = 0
numbers, recent = np.zeros(3), collections.deque([0], maxlen=2)
generator, dice = np.random.default_rng(0), random.Random(0)


class Settings:
    rate = 0.5


def appends(x):
    history.append(1)  # HERE
    return x


def changes_a_dict(x):
    table["n"] += 1  # HERE
    return x


def clears_a_set(x):
    seen.clear()  # HERE
    return x


def assigns_a_global(x):
    global counter
    counter += 1  # HERE
    return x


def make_nonlocal():
    count = 0

    def assigns_a_nonlocal(x):
        nonlocal count
        count += 1  # HERE
        return x

    return assigns_a_nonlocal


def writes_an_array(x):
    numbers[0] += 1  # HERE
    return x


def extends_a_deque(x):
    recent.append(1)  # HERE
    return x


def changes_a_class(x):
    Settings.rate *= 0.5  # HERE
    return x


def with_a_default(x, cache=[1]):  # noqa: B006
    cache.append(2)  # HERE
    return x


def changes_a_default(x):
    return with_a_default(x)


def keeps_a_tensor(x):
    table["x"] = x * 2  # HERE
    return x


def numpy_random(x):
    return x * np.random.rand()  # HERE


def python_random(x):
    return x * random.random()  # HERE


def random_by_name(x):
    return x * randint(1, 6)  # HERE


def numpy_generator(x):
    return x * generator.normal()  # HERE


def python_generator(x):
    return x * dice.random()  # HERE


def prints(x):
    print("tracing")  # HERE
    return x


def reads_a_clock(x):
    return x * time.time()  # HERE


def reads_a_clock_by_name(x):
    return x * clock()  # HERE


def reads_the_date(x):
    return x * datetime.datetime.now().year  # HERE


def opens_a_file(x):
    open(__file__).close()  # HERE
    return x


def calls_another(x):
    return functools.partial(appends)(x)


class Model:
    def __init__(self):
        self.steps = 0
        self.losses = []
        self.built = False
        self.cache = {}
        self.w = None
        self.blocks = []

    def count(self, x):
        self.steps += 1  # HERE
        return x

    def keep(self, x):
        self.last = x * 2  # HERE
        return x

    def collect(self, x):
        losses = self.losses
        losses.append(x)  # HERE
        return x

    def by_a_method(self, x):
        return self.count(x)


rows, positions, tally = iter([1.0] * 9), itertools.count(), collections.Counter(n=0)


def made_rows():
    for k in range(9):
        yield k + 1.0


made = made_rows()


def takes_a_row(x):
    return x * next(rows)  # HERE


def takes_a_position(x):
    return x * next(positions)  # HERE


def takes_what_is_made(x):
    return x * next(made)  # HERE


def counts(x):
    tally["n"] += 1  # HERE
    return x


def sets_an_attribute(x):
    setattr(Settings, "rate", Settings.rate / 2)  # HERE  # noqa: B010
    return x


EFFECTS = [
    (takes_a_row, "takes items of the iterator `rows`"),
    (takes_a_position, "takes items of the iterator `positions`"),
    (takes_what_is_made, "takes items of the iterator `made`"),
    (counts, "changes `tally`"),
    (sets_an_attribute, "changes the attribute `Settings.rate`"),
    (appends, "changes `history`"),
    (changes_a_dict, "changes `table`"),
    (clears_a_set, "changes `seen`"),
    (assigns_a_global, "changes the global `counter`"),
    (make_nonlocal(), "changes `count`"),
    (writes_an_array, "changes `numbers`"),
    (extends_a_deque, "changes `recent`"),
    (changes_a_class, "changes the attribute `Settings.rate`"),
    (changes_a_default, "changes `cache`"),
    (keeps_a_tensor, "keeps a traced tensor in `table`"),
    (numpy_random, "draws random numbers outside of dm"),
    (python_random, "draws random numbers outside of dm"),
    (random_by_name, "draws random numbers outside of dm"),
    (numpy_generator, "draws random numbers outside of dm"),
    (python_generator, "draws random numbers outside of dm"),
    (prints, "prints"),
    (reads_a_clock, "reads the clock"),
    (reads_a_clock_by_name, "reads the clock"),
    (reads_the_date, "reads the clock"),
    (opens_a_file, "opens a file"),
    (calls_another, "changes `history`"),
    (Model().count, "changes the attribute `self.steps`"),
    (Model().keep, "keeps a traced tensor in the attribute `self.last`"),
    (Model().collect, "keeps a traced tensor in `losses`"),
    (Model().by_a_method, "changes the attribute `self.steps`"),
]
NAMES = [getattr(f, "__name__", "") for f, _ in EFFECTS]
AUTOGRAPH = pytest.mark.parametrize("autograph", [True, False])


@AUTOGRAPH
@pytest.mark.parametrize(("function", "what"), EFFECTS, ids=NAMES)
def test_an_effect_is_reported_with_its_line(function, what, autograph):
    table["x"] = None
    seen.add(1)
    step = dm.function(autograph=autograph)(function)
    with pytest.warns(SideEffectWarning) as found:
        step(dm.asarray(1.0))
    (warning,) = found
    message = str(warning.message)
    assert f": a line {what}, which happens once, when the function is traced" in message
    assert "# HERE" in message.splitlines()[-1]
    assert warning.filename == __file__


STRICTLY = [e for e in EFFECTS if e[0] in (appends, numpy_random, python_random, prints)]


@pytest.mark.parametrize(("function", "what"), STRICTLY, ids=lambda x: "")
def test_strict_raises(function, what):
    step = dm.function(strict=True)(function)
    for _ in range(2):
        with pytest.raises(SideEffectError, match=f"a line {what}") as info:
            step(dm.asarray(1.0))
        assert str(info.value).endswith("# HERE")
        assert __file__ in str(info.value.site)
    assert step.trace_count == 0
    assert dm.executing_eagerly()
    assert sys.getprofile() is None


def test_a_line_is_reported_once_a_function():
    step = dm.function(appends)
    with pytest.warns(SideEffectWarning):
        step(dm.zeros(2))
    step(dm.zeros((2, 2)))  # pytest makes errors of warnings
    assert step.trace_count == 2


def test_what_only_the_first_call_does_is_fine():
    class Lazy(dm.nn.Layer):
        def __init__(self):
            super().__init__()
            self.steps = 0
            self.names = []
            self.w = None

        @dm.function(strict=True)
        def __call__(self, x):
            if self.w is None:
                self.names.append("w")
                self.steps += 1
                print("building")
                self.w = dm.Variable(np.random.rand())
            return x * self.w

    assert Lazy()(dm.asarray(0.0)) == 0


def test_what_is_done_once_on_purpose_is_fine():
    model, ids = Model(), {}

    @functools.cache
    def table_of(n):
        return np.arange(n)

    @dm.function(strict=True)
    def step(x, self):
        if not self.built:
            self.built = True
            self.scale = 2.0
            self.w = np.ones(2)
            self.blocks = [1, 2]
            self.cache["w"] = self.w
        ids.setdefault(x.shape, len(ids))
        seen.add(x.shape)
        local = []
        local.append(x)
        counts = {"local": 0}
        counts["local"] += table_of(3).size
        rng = np.random.default_rng(0)
        noise = rng.normal(size=2)
        self.w = self.w
        return local[0] * self.scale + noise.sum() * 0

    assert step(dm.asarray([1.0]), model) == 2
    assert model.built


def test_layers_and_optimizers_keep_quiet():
    model = dm.nn.Sequential([dm.nn.Dense(3, activation="relu"), dm.nn.Dense(1)])
    optimizer = dm.optim.Adam(0.01)
    mean = dm.metrics.Mean()

    @dm.function(strict=True)
    def step(x, y):
        with dm.GradientTape() as tape:
            loss = dm.mean(dm.square(model(x) - y))
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        mean.update_state(loss)
        return loss

    step(dm.ones((4, 2)), dm.zeros((4, 1)))


def test_libraries_may_do_what_they_like():
    import logging

    @dm.function(strict=True)
    def step(x):
        logging.getLogger("dualmode.test").debug("reads the clock")
        warnings.warn_explicit("kept in a registry", UserWarning, __file__, 1, registry={})
        return x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        step(1.0)


def test_what_others_change_meanwhile_is_not_reported():
    shared = []

    @dm.function(strict=True)
    def step(x):
        worker.start()
        worker.join()
        return x * len(shared)

    worker = threading.Thread(target=shared.append, args=(1,))
    assert step(2.0) == 2


def test_effects_of_each_call_are_fine():
    @dm.function(strict=True)
    def step(x):
        dm.print("x =", x)
        dm.py_function(lambda: history.append(1), [], [])
        now = dm.py_function(time.time, [], dm.TensorSpec((), "float64"))
        return x * dm.random.normal(()) + dm.cast(now, "float32")

    before = len(history)
    step(1.0)
    step(1.0)
    assert len(history) == before + 2


def test_init_scope_is_for_what_happens_once():
    @dm.function(strict=True)
    def step(x):
        with dm.init_scope():
            print("once")
        return x

    step(1.0)


def test_inner_functions_are_reported_once():
    inner = dm.function(prints)

    @dm.function
    def outer(x):
        return inner(x) + 1

    with pytest.warns(SideEffectWarning) as found:
        outer(1.0)
    assert len(found) == 1


def test_a_profiler_of_the_users_goes_on():
    calls = []
    sys.setprofile(lambda *event: calls.append(event[1]))
    try:
        dm.function(prints)(1.0)
        assert sys.getprofile() is not None
    finally:
        sys.setprofile(None)
    assert calls


def adds_to_a_dict(batch):
    batch["y"] = batch["x"] * 2  # HERE
    return batch["y"]


def takes_of_a_list(batch, more=None):
    more.pop()  # HERE
    return batch


@pytest.mark.parametrize(
    ("function", "args"),
    [(adds_to_a_dict, ({"x": dm.ones(2)},)), (takes_of_a_list, (dm.ones(2), [1.0, 2.0]))],
)
def test_arguments_that_are_changed(function, args):
    with pytest.warns(SideEffectWarning, match="changes the argument `(batch|more)`") as found:
        dm.function(function)(*args)
    assert "callers do not see that" in str(found[0].message)
    assert str(found[0].message).endswith("# HERE")


def test_iterators_and_copies_of_arguments_may_be_used_up():
    def body(batch, *others, **named):
        batch = dict(batch)
        batch["y"] = batch.pop("x")
        named["z"] = 1.0
        first, *rest = iter(others)
        return batch["y"] + sum(a * b for a, b in zip([1, 2], rest, strict=True)) + first

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = dm.ones(2)
        assert dm.function(body)({"x": x}, x, x, x, k=x).tolist() == [5, 5]
