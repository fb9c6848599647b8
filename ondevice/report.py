"""report.json and report.html: each arrow of the chain, its figure and its bound."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ondevice import page
from ondevice.device import needs

# Arrow -> what a reader of the page is told it is.
ARROWS = {
    "rebuild": "Vendor's file → Keras model",
    "convert": "Keras model → fresh .tflite",
    "train": "Training in the interpreter",
    "checkpoint": "Interpreter → checkpoint → interpreter",
    "export": "Checkpoint → exported files",
}


def as_json(report: Mapping[str, Any]) -> str:
    """The report as JSON, readable by people too."""
    return json.dumps(report, indent=1) + "\n"


def as_html(
    report: Mapping[str, Any],
    losses: Mapping[str, Sequence[float]],
    errors: Mapping[str, Mapping[str, float]],
) -> str:
    """The report as one page that needs no other file.

    Args:
      report: What report.json holds.
      losses: Run -> loss before each step.
      errors: Runtime -> variable -> error over bound.

    Returns:
      HTML. Where matplotlib is missing the plots are replaced by a line that says so.
    """
    verified = report["verified"]
    verdict = "verified: every figure keeps its bound" if verified else "NOT verified"
    parts = [
        f"<p class='verdict {'holds' if verified else 'fails'}'>{verdict}</p>",
        _facts(report),
    ]
    for arrow, title in ARROWS.items():
        rows = [c for c in report["checks"] if c["arrow"] == arrow]
        if rows:
            parts += [f"<h2>{html.escape(title)}</h2>", _table(rows)]
        if arrow == "train" and rows:
            parts += _plots(losses, errors)
    return page.page(f"Build of {report['source']}", parts)


def _facts(report: Mapping[str, Any]) -> str:
    rows = {
        "Source": f"{report['source']}, sha256 {report['sha256']}",
        "Detector": report["spec"],
        "Classes": ", ".join(report["classes"]),
        "Trained": f"{report['trainable']}: {report['parameters']:,} parameters in "
        f"{report['variables']} variables, slots and step included",
        "Optimizer": report["optimizer"],
        "Fast in": report["target"],
        "Memory": f"{needs.told(report['memory'])}; runtimes take somewhat more",
        "Versions": ", ".join(f"{k} {v}" for k, v in report["versions"].items()),
        "Seconds": f"{report['seconds']:.0f}",
    }
    cells = (
        f"<tr><th>{html.escape(k)}<td>{html.escape(str(v))}" for k, v in rows.items()
    )
    return f"<table>{''.join(cells)}</table>"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = ["<tr><th>What<th>Runtime<th>Figure<th>Bound<th>"]
    for row in rows:
        figure = "none" if row["figure"] is None else f"{row['figure']:.3g}"
        verdict = "holds" if row["holds"] else "fails"
        note = html.escape(row["note"])
        note = f"<div class=note>{note}</div>" if note else ""
        lines.append(
            f"<tr><td>{html.escape(row['name'])}{note}<td>{html.escape(row['runtime'])}"
            f"<td class=number>{figure}<td class=number>{row['bound']:.3g}"
            f"<td class={verdict}>{verdict}"
        )
    return f"<table>{''.join(lines)}</table>"


def _plots(
    losses: Mapping[str, Sequence[float]], errors: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """Loss curves laid over each other, and the error of every variable."""
    curves = page.figure(9, 3.6)
    if curves is None:
        return [f"<p class=note>{page.NO_PLOTS}</p>"]
    axes = curves.subplots()
    widths = range(2 * len(losses), 0, -2)
    for width, (name, values) in zip(widths, losses.items()):
        # Wide lines below narrow ones: curves that coincide all stay visible.
        axes.plot(range(len(values)), values, label=name, linewidth=width, alpha=0.75)
    axes.set(xlabel="steps taken", ylabel="loss", title="Loss on one batch")
    axes.legend()
    layers = page.figure(9, 3.6)
    axes = layers.subplots()
    for name, found in errors.items():
        axes.semilogy([max(v, 1e-6) for v in found.values()], ".", label=name)
    axes.axhline(1.0, color="#b3261e", linewidth=1)
    axes.set(
        xlabel="variables: weights from the input to the heads, then slots",
        ylabel="error / bound",
        title="Every variable against tf.GradientTape after one step",
    )
    axes.legend()
    return [
        page.image(curves, "loss curves"),
        page.image(layers, "error of every variable"),
    ]
