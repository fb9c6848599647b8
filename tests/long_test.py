"""Short runs of what a long one must keep: memory, open files, threads, speed."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest

from ondevice.device import session
from ondevice.measuring import step_inputs
from tests.soak import long

FLAT = long.Figures(40, [100] * 40, [4] * 40, [1] * 40, 40.0, [1.0] * 9)


# A tenth of a short run is a few milliseconds; by speed the campaign judges.
@pytest.mark.parametrize(
    "way, name, steps",
    [("session", "model.tflite", 1000), ("opened", "inference.tflite", 200)],
)
def test_nothing_grows(tiny_model, way, name, steps):
    found = long.measured(tiny_model("adam").with_name(name), way, steps)
    assert found.steps == steps
    found.require(slower=1.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"memory": [100] * 39 + [103]},
        {"files": [4] * 20 + [5] * 20},
        {"threads": [1] * 20 + [2] * 20},
        {"turns": [1.0] * 4 + [1.2] * 5},
    ],
    ids=["memory", "files", "threads", "speed"],
)
def test_what_grows_is_seen(changes):
    FLAT.require()
    with pytest.raises(AssertionError, match="40 steps"):
        dataclasses.replace(FLAT, **changes).require()


def test_what_comes_and_goes_is_no_fault():
    dataclasses.replace(FLAT, turns=[1.0] * 5 + [1.5] * 4).require()


def test_closing_while_other_threads_call(tiny_model):
    """Every call is right, or refused in words."""
    opened = session.Session(tiny_model("adam"), threads=1)
    batch = step_inputs.of_signature(opened.manifest, "evaluate", 3)
    expected = opened.evaluate(**batch)
    results, refusals, faults = [], [], []
    begun = threading.Barrier(5)

    def call():
        begun.wait()
        try:
            for _ in range(1000):
                results.append(opened.evaluate(**batch))
        except RuntimeError as error:
            refusals.append(str(error))
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    begun.wait()
    while len(results) < 8:
        assert any(thread.is_alive() for thread in threads)
    opened.close()
    for thread in threads:
        thread.join()
    assert not faults and set(results) == {expected}
    assert refusals == [
        "The session must be open. Received: a call after close()."
    ] * 4


def test_steps_of_several_threads_are_steps_of_one(tiny_model):
    """With the same batch the order does not matter; none is lost."""
    model = tiny_model("adam")
    with session.Session(model, threads=1) as one, session.Session(
        model, threads=1
    ) as many:
        batch = step_inputs.of_signature(one.manifest, "train", 1)
        batch["learning_rate"] = np.array(1e-3, np.float32)
        for _ in range(20):
            one.train(**batch)
        threads = [
            threading.Thread(target=lambda: [many.train(**batch) for _ in range(5)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expected, found = one.state(), many.state()
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
