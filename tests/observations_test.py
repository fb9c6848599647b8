"""Tests of the page of observations, and of what its command refuses."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from ondevice import commands
from ondevice.observing import observations, study, verdict
from tests import conftest

VERDICTS = [
    verdict.Verdict("a", "net", "Files <stay>.", True, {"runtime": "x"}, "Bytes."),
    verdict.Verdict(
        "d.rate", "net", "A rate ends it.", False,
        {"share_of_the_learning_that_is_left": {"times 30": 0.25}}, "Half.",
    ),
]  # fmt: skip
CURVES = [
    study.Curve(label, (0, 1), (2.0, 1.0))
    for label in ("not stopped", "restored", "b", "c", "d", "e", "f")
]


def test_every_claim_has_its_verdict_and_figures():
    page = observations.as_html(VERDICTS, {"net": []}, {"Seed": 3})
    assert "Files &lt;stay&gt;." in page and "<stay>" not in page
    assert page.count("<td class=holds>holds<") == 1
    assert page.count("<td class=fails>does not hold<") == 1
    assert "learning left: times 30 25%" in page
    assert "<th>Seed<td>3" in page


def test_curves_are_drawn_four_a_plot():
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("no matplotlib")
    page = observations.as_html(VERDICTS, {"net": CURVES}, {})
    assert page.count("<img ") == 2
    assert "alt='b; c; d; e'" in page and "alt='f'" in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--networks=alexnet", "--output_dir=x"], "alexnet"),
        ([], "output_dir"),
        (["--output_dir=x", "--steps=1"], "steps"),
    ],
)
def test_wrong_flags(arguments, said, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "ondevice.observe", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(conftest.ROOT)},
    )
    assert done.returncode == commands.USAGE and said in done.stderr
    assert "Traceback" not in done.stderr and not any(tmp_path.iterdir())
