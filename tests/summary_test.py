"""Tests of what a benchmark says to people, and beside an earlier one."""

from __future__ import annotations

import json
import re

import pytest

from ondevice.measuring import summary

TIMED = {
    "median": 1.0625, "quartiles": [1.0, 1.25], "cpu_median": 1.5, "judged": "wall",
    "bound": 1.05, "holds": False,
}  # fmt: skip


def test_table_says_what_missed():
    text = summary.table({"rows": [], "ratios": {"seven": TIMED}})
    line = r"1\.062 +1\.000 - 1\.250 +1\.500  <= 1\.05, seven  MISSED"
    assert re.search(line, text)


def test_table_says_memory_who_is_missing_and_what_is_worse():
    row = {
        "what": "call", "contender": "ours", "runtime": "", "threads": 1,
        "median_ms": 2.0, "spread_ms": [1.0, 3.0], "cpu_ms": 2.5, "peak_memory": 5e6,
    }  # fmt: skip
    worse = {"ratio": "seven", "before": 1.0, "after": 1.2, "factor": 1.2}
    text = summary.table(
        {
            "rows": [row],
            "ratios": {"memory": {"median": 0.5, "bound": 0.25, "holds": False}},
            "missing": [{"contender": "theirs", "runtime": "", "reason": "away"}],
            "worse": [worse],
        }
    )
    assert re.search(r"2\.00 +1\.00 - 3\.00 +2\.50 +5  call, ours, 1\n", text)
    assert re.search(r"0\.500 +- +-  <= 0\.25, memory  MISSED", text)
    assert "not measured: theirs: away" in text
    assert "WORSE by 1.20: 1.000 -> 1.200, seven" in text


def test_a_tenth_more_is_worse():
    """By the time that judges; what only one run has is passed over."""
    now = {
        "same": {"median": 1.09},
        "worse": {"median": 1.11},
        "worst": {"median": 1.0, "cpu_median": 4.0, "judged": "cpu"},
        "new": {"median": 9.0},
    }
    earlier = {"same": 1.0, "worse": 1.0, "worst": 2.0, "gone": 1.0}
    found = summary.worse(now, earlier)
    assert [entry["ratio"] for entry in found] == ["worst", "worse"]
    assert found[0] == {"ratio": "worst", "before": 2.0, "after": 4.0, "factor": 2.0}


def test_reads_the_last_line(tmp_path):
    path = tmp_path / "before.json"
    ratios = {"a": TIMED, "b": {**TIMED, "judged": "cpu"}}
    path.write_text(f"told before\n{json.dumps({'ratios': ratios})}\n")
    assert summary.read(path) == {"a": 1.0625, "b": 1.5}


@pytest.mark.parametrize(
    "content", ["", "{}", '{"ratios": {"a": {}}}', '{"ratios": [1]}', "[]", "no json"]
)
def test_refuses_what_is_no_result(tmp_path, content):
    path = tmp_path / "before.json"
    path.write_text(content)
    with pytest.raises(summary.BaselineError, match="before.json"):
        summary.read(path)
