"""Tests of contenders in processes of their own, and of what is made of their times."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import sys
import threading
import time
from unittest import mock

import numpy as np
import pytest

from ondevice.measuring import bounds, contest, timing, worker
from ondevice.measuring.peers import missing

LABELS = {"contender": "a", "threads": 1}
PRODUCT = worker.Task("product", {}, LABELS)


def test_a_worker_measures_itself():
    with worker.Worker(PRODUCT) as running:
        (found,) = timing.measure([running], [None], 2, warmup=0)
        wall, cpu = found.wall["call"], found.cpu["call"]
        # A thousand million multiply-adds take some time, and one thread.
        assert (wall > 1e-4).all() and (cpu > 1e-4).all() and (cpu < 1.5 * wall).all()
        memory = running.peak_memory()
        assert memory is not None and 10e6 < memory < 1e9
        assert found.labels == LABELS
    assert not running.running
    running.close()


@pytest.mark.parametrize(
    "task, reason",
    [
        (worker.Task("nobody", {}, LABELS), "No module named .*nobody"),
        (worker.Task("product", {}, LABELS, "/no/python"), "No such file.*/no/python"),
        (worker.Task("product", {}, LABELS, "/bin/false"), "exit status 1"),
        # `files` without options ends in a traceback, whose last line is told.
        (worker.Task("files", {}, LABELS), "exit status 1: KeyError: 'signature'"),
        (
            worker.Task(
                "files",
                {"file": "", "runtime": "fast", "threads": 1, "signature": None},
                LABELS,
            ),
            "must be installed.*'fast'",
        ),
    ],
)
def test_who_cannot_take_part_says_why(task, reason):
    with pytest.raises(missing.Missing, match=reason):
        worker.Worker(task)


def test_another_python_is_used():
    with worker.Worker(worker.Task("product", {}, LABELS, sys.executable)) as running:
        assert running.running


def test_a_worker_that_died_is_an_error_that_tells_how():
    with worker.Worker(PRODUCT) as running:
        running._process.kill()
        with pytest.raises(worker.WorkerError, match="SIGKILL.*'contender': 'a'"):
            running.turn(None, timing.Clock())


def test_a_worker_that_hangs_is_ended(monkeypatch):
    with worker.Worker(PRODUCT) as running:
        monkeypatch.setattr(worker, "_CALLING", 0.0)
        with pytest.raises(worker.WorkerError, match="no answer within 0 seconds"):
            running.turn(None, timing.Clock())


@contextlib.contextmanager
def spinning(seconds):
    """A thread that computes for a while, as one does that waits for work."""
    stop = threading.Event()

    def spin():
        end = time.perf_counter() + seconds
        while time.perf_counter() < end and not stop.is_set():
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join()


def test_a_turn_ends_when_what_it_started_is_at_rest():
    with contextlib.ExitStack() as stack:
        started = []
        peer = mock.Mock()
        peer.prepare.return_value = lambda: started.append(
            stack.enter_context(spinning(0.2))
        )
        questions = [{"peer": "", "options": {}}, {"call": 1}]
        answers = io.StringIO()
        with mock.patch.object(worker.importlib, "import_module", lambda _: peer):
            worker._serve(io.StringIO("\n".join(map(json.dumps, questions))), answers)
        gc.enable()  # A worker does without.
        (thread,) = started
        assert not thread.is_alive()
        *_, answer = map(json.loads, answers.getvalue().splitlines())
        assert answer["wall"] > 0


def test_who_never_rests_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(worker, "_RESTLESS", 0.02)
    with spinning(60.0) as thread:
        worker._rest()
        assert thread.is_alive()


class Fake:
    """A worker whose calls take what it is told to, and that may die of one."""

    def __init__(self, task: worker.Task) -> None:
        if "missing" in task.options:
            raise missing.Missing(task.options["missing"])
        self.labels, self.options, self.calls = task.labels, task.options, 0
        self.running = True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def turn(self, value, clock):
        self.calls += 1
        if self.calls == self.options.get("dies"):
            self.running = False
            raise worker.WorkerError("died")
        return {worker.CALL: (self.options["wall"], self.options.get("cpu", 1.0))}

    def peak_memory(self):
        return self.options.get("memory")


def task(name: str, **options) -> worker.Task:
    """A fake contender."""
    return worker.Task("fake", options, {"contender": name, "threads": 1})


def test_a_contest_goes_on_without_those_who_are_missing_or_die(monkeypatch):
    monkeypatch.setattr(worker, "Worker", Fake)
    found = contest.Found()
    tasks = {
        "ours": task("ours", wall=2.0, memory=7),
        "away": task("away", missing="not installed"),
        "weak": task("weak", wall=1.0, dies=4),
        "theirs": task("theirs", wall=4.0),
    }
    results = contest.hold("x", tasks, 3, iter, found)
    assert list(results) == ["ours", "theirs"]
    assert (results["ours"].memory, results["theirs"].memory) == (7, None)
    ratio = timing.ratio(results["ours"].times, results["theirs"].times)
    assert ratio["median"] == 0.5
    assert [(r["contender"], r["rounds"]) for r in found.rows] == [
        ("ours", 3),
        ("theirs", 3),
    ]
    assert [row["peak_memory"] for row in found.rows] == [7, None]
    assert [(m["contender"], m["reason"]) for m in found.missing] == [
        ("away", "not installed"),
        ("weak", "died"),
    ]


def test_nobody_left():
    found = contest.Found()
    tasks = {"away": worker.Task("nobody", {}, LABELS)}
    assert contest.hold("x", tasks, 3, iter, found) == {}
    assert len(found.missing) == 1 and not found.rows


def test_memory_is_held_against_its_bound():
    assert contest.memory_ratio(None, 5, 1.0) is None
    assert contest.memory_ratio(5, None, 1.0) is None
    assert contest.memory_ratio(5, 10, None) == {"median": 0.5}
    kept, missed = (contest.memory_ratio(5, 10, b) for b in (0.5, 0.4))
    assert kept and kept["holds"] and missed and not missed["holds"]


def test_scaled_and_allowed_times():
    taken = np.array([2.0, 4.0])
    times = timing.Times({"a": 1}, {timing.TOTAL: taken}, {timing.TOTAL: taken / 2})
    more = times.scaled(3.0)
    assert more.labels == {"a": 1}
    np.testing.assert_array_equal(more.wall[timing.TOTAL], [6, 12])
    np.testing.assert_array_equal(more.cpu[timing.TOTAL], [3, 6])
    ratio = timing.ratio(times, timing.allowed(2.0, 2), 1.5)
    assert (ratio["median"], ratio["cpu_median"], ratio["holds"]) == (1.5, 0.75, True)


def test_bounds_of_a_step():
    assert bounds.step(bounds.FLEX, "ai_edge_litert", 2, "all") == 0.5
    assert bounds.step(bounds.FLEX, "ai_edge_litert", 2, "heads") is None
    assert bounds.step(bounds.FLEX, "tensorflow", 1, "all") is None
    assert (bounds.judged(1), bounds.judged(2)) == (timing.CPU, timing.WALL)
