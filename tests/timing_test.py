"""Tests of measuring in turn, on a clock that moves when it is told to."""

from __future__ import annotations

import collections
import gc

import numpy as np
import pytest

from ondevice.measuring import timing


class Bench:
    """Contenders whose calls take what they are told to, and a note of the calls."""

    def __init__(self) -> None:
        self.now = self.used = 0.0
        self.calls: list[tuple[str, object]] = []
        self.clock = timing.Clock(lambda: self.now, lambda: self.used)

    def contender(self, name: str, wall: list[float], share: float = 1.0):
        """Takes `wall[i]` seconds at its i-th call, `share` of them computing."""
        left = iter(wall)

        def stage(value):
            self.calls.append((name, value))
            seconds = next(left)
            self.now += seconds
            self.used += share * seconds
            return value

        return timing.Contender({"contender": name}, {"call": stage})


def times(wall, cpu=None) -> timing.Times:
    """Times of one contender with one stage."""
    wall = np.array(wall, float)
    cpu = wall if cpu is None else np.array(cpu, float)
    return timing.Times({"classes": 1}, {"call": wall, "total": wall}, {"total": cpu})


class TestMeasure:
    def test_takes_turns_in_changing_order(self):
        bench = Bench()
        contenders = [bench.contender(name, [1.0] * 60) for name in "abc"]
        timing.measure(contenders, ["x", "y"], 60, warmup=0, clock=bench.clock)
        rounds = [bench.calls[i : i + 3] for i in range(0, 180, 3)]
        for number, calls in enumerate(rounds):
            assert sorted(name for name, _ in calls) == ["a", "b", "c"]
            # All of a round get one picture.
            assert {value for _, value in calls} == {"xy"[number % 2]}
        orders = collections.Counter("".join(n for n, _ in calls) for calls in rounds)
        assert len(orders) == 6 and max(orders.values()) < 20

    def test_warmup_does_not_count(self):
        bench = Bench()
        slow_first = bench.contender("a", [100.0, 100.0, 1.0, 2.0, 3.0])
        (found,) = timing.measure([slow_first], [0], 3, warmup=2, clock=bench.clock)
        assert found.wall["call"].tolist() == [1, 2, 3]
        short = bench.contender("b", [100.0, 100.0, 7.0])
        (found,) = timing.measure([short], [0], 1, warmup=2, clock=bench.clock)
        assert found.wall["call"].tolist() == [7]

    def test_times_on_the_clock_and_on_the_processor(self):
        bench = Bench()
        waiting = bench.contender("a", [4.0, 2.0], share=0.25)
        (found,) = timing.measure([waiting], [0], 2, warmup=0, clock=bench.clock)
        assert found.wall["total"].tolist() == [4, 2]
        assert found.cpu["total"].tolist() == [1, 0.5]

    def test_a_stage_takes_what_the_one_before_gave(self):
        stages = {"double": lambda x: 2 * x, "check": lambda x: seen.append(x)}
        seen: list[int] = []
        contender = timing.Contender({}, stages)
        (found,) = timing.measure([contender], [1, 5], 2, warmup=0)
        assert seen == [2, 10]
        np.testing.assert_array_equal(
            found.wall["total"], found.wall["double"] + found.wall["check"]
        )

    def test_collector_rests_and_goes_on(self):
        found = []
        stages = {"call": lambda _: found.append(gc.isenabled())}
        contender = timing.Contender({}, stages)
        assert gc.isenabled()
        timing.measure([contender], [0], 1, warmup=0)
        assert found == [False] and gc.isenabled()

    def test_collector_goes_on_after_a_failure(self):
        def fail(_):
            raise RuntimeError("runtime")

        with pytest.raises(RuntimeError):
            timing.measure([timing.Contender({}, {"call": fail})], [0], 1)
        assert gc.isenabled()


class TestRows:
    def test_a_row_for_each_stage_and_the_total(self):
        found = timing.Times(
            {"classes": 7},
            {s: np.array(v) for s, v in ONE_TO_FIVE.items()},
            {s: np.array(v) / 2 for s, v in ONE_TO_FIVE.items()},
        )
        rows = found.rows("classes")
        assert [row["what"] for row in rows] == ["infer", "detect", "total"]
        assert rows[0] == {
            "section": "classes",
            "what": "infer",
            "classes": 7,
            "rounds": 5,
            "median_ms": 3000,
            "spread_ms": [2000, 4000],
            "cpu_ms": 1500,
        }

    def test_no_total_of_a_single_stage(self):
        bench = Bench()
        contender = bench.contender("a", [1.0])
        (found,) = timing.measure([contender], [0], 1, warmup=0, clock=bench.clock)
        assert [row["what"] for row in found.rows("x")] == ["call"]


ONE_TO_FIVE = {
    "infer": [1.0, 2, 3, 4, 5],
    "detect": [1.0, 1, 1, 1, 1],
    "total": [2.0, 3, 4, 5, 6],
}


class TestRatio:
    def test_is_the_median_of_ratios_not_the_ratio_of_medians(self):
        # The machine slows down by 10 while it runs: each pair still says 2.
        found = timing.ratio(times([2, 20, 6]), times([1, 10, 3]))
        assert found["median"] == 2 and found["quartiles"] == [2, 2]
        # Medians 3 over 2, but the pairs say 3, 0.5 and 1.5.
        found = timing.ratio(times([3, 1, 4.5]), times([1, 2, 3]))
        assert found["median"] == 1.5
        found = timing.ratio(times([3, 1, 40]), times([1, 2, 100]))
        assert found["median"] == 0.5

    def test_what_is_added(self):
        found = timing.ratio(times([2, 20, 6]), times([1, 10, 3], [1, 1, 1]))
        assert (found["added_ms"], found["cpu_added_ms"]) == (3000, 5000)

    @pytest.mark.parametrize(
        "judged, bound, holds",
        [
            (timing.WALL, 2.0, True),
            (timing.WALL, 1.99, False),
            (timing.CPU, 1.1, True),
            (timing.CPU, 1.09, False),
        ],
    )
    def test_bound_is_held_against_the_time_that_judges(self, judged, bound, holds):
        over, under = times([2, 2, 2], [1.1, 1.1, 1.1]), times([1, 1, 1])
        found = timing.ratio(over, under, bound, judged)
        assert (found["bound"], found["holds"]) == (bound, holds)

    def test_without_a_bound_nothing_holds_or_not(self):
        assert "holds" not in timing.ratio(times([1]), times([1]))


def test_pooled_rounds_stand_beside_their_own():
    first = [times([2, 4]), times([1, 2])]
    second = [times([30, 60]), times([10, 20])]
    over, under = timing.pooled([first, second])
    assert over.wall["total"].tolist() == [2, 4, 30, 60]
    assert under.cpu["total"].tolist() == [1, 2, 10, 20]
    assert over.labels == {"classes": 1}
    assert timing.ratio(over, under)["median"] == 2.5
