"""Short campaigns of damaged files, one for each reader; tests/soak runs long ones."""

from __future__ import annotations

import importlib.util
import time
import tracemalloc
import warnings

import pytest

from tests.soak import campaigns, limits

# Without torch, which no extra of `test` brings, there is no reader of state dicts.
_NAMES = [
    name
    for name in campaigns.ALL
    if name.startswith("hostile_")
    and (name != "hostile_state_dict" or importlib.util.find_spec("torch"))
]
# Cases of each, of 50 inputs; the models' seeds are of every kind of file.
_CASES = {"hostile_tflite": 6, "hostile_decoding": 8, "hostile_picture": 3}


@pytest.mark.parametrize("name", _NAMES)
def test_damaged_files_are_read_or_refused(name):
    inputs = taken = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's and torch's, of what is damaged.
        for seed in range(_CASES.get(name, 2)):
            found = campaigns.ALL[name](seed)
            inputs += found["inputs"]
            taken += found["taken"]
    assert 0 < taken < inputs  # Some were read, and some refused.


class TestLimits:
    """The watch itself: what it must see."""

    def test_other_errors_pass_through(self):
        with pytest.raises(KeyError):
            limits.held(lambda: {}["a"], 0)

    def test_a_value_error_of_others_is_none_of_ours(self):
        with pytest.raises(ValueError, match="invalid literal"):
            limits.held(lambda: int("a"), 2**20)

    def test_memory(self):
        with pytest.raises(AssertionError, match="bytes allocated"):
            limits.held(lambda: bytearray(2**20), 2**19)
        assert limits.held(lambda: bytearray(2**20), 2**21)

    def test_time(self, monkeypatch):
        monkeypatch.setattr(limits, "SECONDS", 0.05)

        def swallow():
            while True:
                try:
                    while True:
                        pass
                except Exception:
                    pass

        with pytest.raises(AssertionError, match="no end after"):
            limits.held(swallow, 2**20)

    def test_time_is_told_without_what_watching_takes(self, monkeypatch):
        monkeypatch.setattr(limits, "SECONDS", 0.05)

        def slow(how):
            end = time.process_time() + 0.4  # Half of it the system's, not counted.
            while how() and time.process_time() < end:
                pass

        assert limits.held(lambda: slow(tracemalloc.is_tracing), 2**20)
        with pytest.raises(AssertionError, match="no end after 0.05"):
            limits.held(lambda: slow(lambda: True), 2**20)

    def test_files_and_processes(self, tmp_path):
        import os
        import subprocess

        for act in (
            lambda: open(tmp_path / "x", "w"),
            lambda: os.mkdir(tmp_path / "y"),
            lambda: subprocess.run(["true"]),
        ):
            with pytest.raises(AssertionError, match="Trespass"):
                limits.held(act, 2**20)
        assert not list(tmp_path.iterdir())
