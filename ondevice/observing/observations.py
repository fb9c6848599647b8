"""observations.json and observations.html: every claim, its verdict, what was seen."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ondevice import page
from ondevice.observing import study, verdict

# Curves that every plot shows, for comparison.
_ALWAYS = ("not stopped", "restored")
_CURVES_A_PLOT = 4


def as_html(
    verdicts: Sequence[verdict.Verdict],
    curves: Mapping[str, Sequence[study.Curve]],
    facts: Mapping[str, Any],
) -> str:
    """The page.

    Args:
      verdicts: In order.
      curves: Network -> its curves.
      facts: What the page begins with, by name.

    Returns:
      HTML that needs no other file.
    """
    rows = "".join(
        f"<tr><th>{html.escape(name)}<td>{html.escape(str(value))}"
        for name, value in facts.items()
    )
    parts = [f"<table>{rows}</table>"]
    for network in dict.fromkeys(each.network for each in verdicts):
        parts.append(f"<h2>{html.escape(network)}</h2>")
        parts += _table([each for each in verdicts if each.network == network])
        parts += _plots(curves.get(network, ()))
    return page.page("Fresh and non-fresh .tflite files: what was observed", parts)


def _table(verdicts: Sequence[verdict.Verdict]) -> list[str]:
    lines = ["<table><tr><th>Claim<th>Verdict<th>What was seen"]
    for each in verdicts:
        evidence = html.escape(json.dumps(each.evidence, indent=1, default=str))
        lines.append(
            f"<tr id='{html.escape(each.key)}'><td><b>{html.escape(each.key)}</b> "
            f"{html.escape(each.claim)}"
            f"<div class=note>{html.escape(each.because)}</div>"
            f"<td class={'holds' if each.holds else 'fails'}>"
            f"{'holds' if each.holds else 'does not hold'}"
            f"<td><details><summary>{html.escape(_summary(each.evidence))}</summary>"
            f"<pre>{evidence}</pre></details>"
        )
    return [*lines, "</table>"]


def _summary(evidence: Mapping[str, Any]) -> str:
    """The first figures of the evidence, on one line."""
    shares = evidence.get("share_of_the_learning_that_is_left")
    if shares is None:
        return "figures"
    return "learning left: " + ", ".join(f"{k} {v:.0%}" for k, v in shares.items())


def _plots(curves: Sequence[study.Curve]) -> list[str]:
    """A few curves a plot, each beside the run that was not stopped."""
    always = [c for c in curves if c.label in _ALWAYS]
    others = [c for c in curves if c.label not in _ALWAYS]
    parts = []
    for first in range(0, len(others), _CURVES_A_PLOT):
        shown = others[first : first + _CURVES_A_PLOT]
        drawn = page.figure(9, 3.6)
        if drawn is None:
            return [f"<p class=note>{page.NO_PLOTS}</p>"]
        axes = drawn.subplots()
        for width, curve in zip((5, 3, *[1.5] * len(shown)), [*always, *shown]):
            axes.plot(
                curve.steps, curve.losses, label=curve.label, linewidth=width, alpha=0.8
            )
        axes.set(xlabel="steps taken", ylabel="loss")
        axes.set_ylim(0, 1.3 * max(always[0].losses) if always else None)
        axes.legend(fontsize="small")
        parts.append(page.image(drawn, "; ".join(curve.label for curve in shown)))
    return parts
