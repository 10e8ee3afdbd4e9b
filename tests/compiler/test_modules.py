"""Programs as modules that are compiled at the same time, and the threads that do it."""

from __future__ import annotations

import ctypes
import threading

import pytest

from dualmode_compiler.emit import modules
from dualmode_compiler.emit.modules import Modules
from dualmode_compiler.runtime import jit
from dualmode_compiler.runtime.crew import Crew

INT = ctypes.c_int64


def function(k: int, lines: int) -> str:
    """`f(k)`, which adds to `f(k - 1)`; of so many lines or some more."""
    calls = f"call i64 @f{k - 1}(i64 %x0)" if k else "call i64 @llvm.abs.i64(i64 %x0, i1 0)"
    body = [f"  %x{n + 1} = add i64 %x{n}, 0" for n in range(lines)]
    body += [f"  %y = {calls}", f"  %z = add i64 %y, {k}", "  ret i64 %z"]
    return "\n".join([f"define internal i64 @f{k}(i64 %x0) nounwind {{", *body, "}\n"])


RUN = """\
define i64 @run(i64 %x0) nounwind {
  %f = load ptr, ptr @table
  %y = call i64 %f(i64 %x0)
  %z = call i64 @twice(i64 %y)
  ret i64 %z
}
"""
TWO = "@two = internal constant i64 2"
TWICE = """\
define internal i64 @twice(i64 %x) noinline {
  %two = load i64, ptr @two
  %y = mul i64 %x, %two
  ret i64 %y
}"""
ABS = "declare i64 @llvm.abs.i64(i64, i1)"


def program(count: int, lines: int) -> Modules:
    taken: list[str] = []
    made = Modules(taken.append)
    made.declare([ABS, TWO, TWICE, "declare void @unused()"])
    for k in range(count):
        made.add(function(k, lines))
        assert taken == made.texts  # each as soon as it is complete
    made.add(RUN)
    made.finish([f"@table = internal constant [1 x ptr] [ptr @f{count - 1}]"])
    assert taken == made.texts
    return made


@pytest.mark.parametrize(("count", "lines"), [(1, 1), (6, 100)])
def test_a_text_is_cut(count: int, lines: int):
    """Into parts that are the same together."""
    text = "\n".join([ABS, "; a comment", *(function(k, lines) for k in range(count))])
    text += RUN.replace("load ptr, ptr @table", "bitcast ptr @f0 to ptr")
    text += TWICE.replace("load i64, ptr @two", "add i64 0, 2")
    parts = modules.cut(text)
    assert (len(parts) > 1) == (count * lines > modules.LEAST)
    library = jit.load(jit.compile_texts(parts), ["run"])
    assert jit.function(library["run"], INT, INT)(-7) == 14
    assert modules.cut(text + "@state = internal global i64 0\n") == [
        text + "@state = internal global i64 0\n"
    ]


@pytest.mark.parametrize(("count", "lines"), [(1, 1), (6, 100), (40, 60)])
def test_functions_call_each_other_across_modules(count: int, lines: int):
    made = program(count, lines)
    assert (len(made.texts) > 1) == (count * lines > modules.LEAST)
    library = jit.load(jit.compile_texts(made.texts), ["run"])
    run = jit.function(library["run"], INT, INT)
    assert run(-7) == 2 * (7 + sum(range(count)))


def test_modules_have_what_they_use():
    """Also what that uses, and nothing else: what is not used would be compiled again and again."""
    texts = program(40, 60).texts
    assert [ABS in text for text in texts] == [True] + [False] * (len(texts) - 1)
    for needed in (TWICE, TWO):
        assert [needed in text for text in texts] == [False] * (len(texts) - 1) + [True]
    assert not any("@unused" in text for text in texts)
    longest = max(text.count("\n") for text in texts)
    assert modules.LEAST <= longest < modules.MOST + 100


def test_functions_of_the_only_module_are_its_own():
    (text,) = program(1, 1).texts
    assert "define internal i64 @f0" in text and "define i64 @run" in text


# --- threads --------------------------------------------------------------------------------------


def start(run) -> None:
    threading.Thread(target=run).start()


def test_a_crew_does_the_largest_job_first():
    first, order = threading.Event(), []

    def work(name: str) -> str:
        if name == "first":
            first.wait()
        order.append(name)
        return name

    crew = Crew(work, 1, start)
    jobs = [crew.submit(name, size=size) for name, size in [("first", 0), ("b", 1), ("c", 5)]]
    first.set()
    assert [job.result() for job in jobs] == ["first", "b", "c"]
    assert order == ["first", "c", "b"]


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_whoever_waits_works_too(threads: int):
    crew = Crew(lambda x: x * x, threads, start)
    jobs = [crew.submit(x) for x in range(20)]
    assert [crew.wait(job) for job in jobs] == [x * x for x in range(20)]


@pytest.mark.parametrize("wanted", [0, 1])
def test_a_job_that_ctrl_c_ends_is_done_when_it_is_wanted_again(wanted: int):
    interrupts = [KeyboardInterrupt()]

    def work(x: int) -> int:
        if interrupts:
            raise interrupts.pop()
        return x

    crew = Crew(work, 0, start)
    jobs = [crew.submit(x) for x in (5, 6)]
    with pytest.raises(KeyboardInterrupt):
        crew.wait(jobs[0])
    assert crew.wait(jobs[wanted]) == 5 + wanted and crew.wait(jobs[1 - wanted]) == 6 - wanted


def test_errors_are_raised_where_the_result_is_wanted():
    crew = Crew(lambda x: 1 // x, 1, start)
    jobs = [crew.submit(x) for x in (0, 1)]
    with pytest.raises(ZeroDivisionError):
        crew.wait(jobs[0])
    assert crew.wait(jobs[1]) == 1


def test_one_more_thread_in_a_hurry():
    together = threading.Barrier(2, timeout=10)
    crew = Crew(lambda _: together.wait(), 1, start)
    jobs = [crew.submit(k) for k in range(2)]
    crew.hurry()
    assert {job.result() for job in jobs} == {0, 1}


def test_where_there_are_no_more_threads_the_caller_works():
    def none(_) -> None:
        raise RuntimeError("can't start new thread")

    crew = Crew(lambda x: x, 2, none)
    assert crew.wait(crew.submit(3)) == 3 and crew.busy == 0
