"""Attributes that are computed when they are first asked for."""

from __future__ import annotations

import threading

from dualmode_compiler.lazy import lazy


def test_computed_once() -> None:
    class Box:
        made = 0

        @lazy
        def value(self) -> object:
            """What is in it."""
            Box.made += 1
            return object()

    box = Box()
    assert box.value is box.value
    assert Box.made == 1
    assert Box.value.__doc__ == "What is in it."


def test_objects_do_not_wait_for_each_other() -> None:
    """One computes the attribute while it waits for a lock, whose holder asks another object."""
    lock, asked = threading.Lock(), threading.Event()

    class Box:
        def __init__(self, waits: bool) -> None:
            self.waits = waits

        @lazy
        def value(self) -> int:
            if self.waits:
                asked.set()
                with lock:
                    return 1
            return 2

    first, second = Box(True), Box(False)
    with lock:
        thread = threading.Thread(target=lambda: first.value, daemon=True)
        thread.start()
        assert asked.wait(10)
        got: list[int] = []
        other = threading.Thread(target=lambda: got.append(second.value), daemon=True)
        other.start()
        other.join(10)
        assert got == [2]
    thread.join(10)
    assert first.value == 1


def test_threads_see_one_value() -> None:
    meet = threading.Barrier(2)

    class Box:
        @lazy
        def value(self) -> object:
            meet.wait(10)  # both compute it
            return object()

    box, seen = Box(), []
    threads = [threading.Thread(target=lambda: seen.append(box.value)) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(10)
    assert seen[0] is seen[1] is box.value
