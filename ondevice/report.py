"""report.json and report.html: each arrow of the chain, its figure and its bound."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

# Arrow -> what a reader of the page is told it is.
ARROWS = {
    "rebuild": "Vendor's file → Keras model",
    "convert": "Keras model → fresh .tflite",
    "train": "Training in the interpreter",
    "checkpoint": "Interpreter → checkpoint → interpreter",
    "export": "Checkpoint → exported files",
}

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; color: #1c2430; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 2rem; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #d8dee6;
         vertical-align: top; }
td.number { text-align: right; white-space: nowrap;
            font-variant-numeric: tabular-nums; }
.holds { color: #14713a; } .fails { color: #b3261e; font-weight: 600; }
.verdict { font-size: 1.25rem; } img { max-width: 100%; } .note { color: #5b6675; }
"""


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
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'>",
        f"<title>Build of {html.escape(report['source'])}</title>",
        f"<style>{_STYLE}</style>",
        f"<h1>Build of {html.escape(report['source'])}</h1>",
        f"<p class='verdict {'holds' if verified else 'fails'}'>{verdict}</p>",
        _facts(report),
    ]
    for arrow, title in ARROWS.items():
        rows = [c for c in report["checks"] if c["arrow"] == arrow]
        if rows:
            parts += [f"<h2>{html.escape(title)}</h2>", _table(rows)]
        if arrow == "train" and rows:
            parts += _plots(losses, errors)
    return "\n".join(parts) + "</html>\n"


def _facts(report: Mapping[str, Any]) -> str:
    rows = {
        "Source": f"{report['source']}, sha256 {report['sha256']}",
        "Detector": report["spec"],
        "Classes": ", ".join(report["classes"]),
        "Trained": f"{report['trainable']}: {report['parameters']:,} parameters in "
        f"{report['variables']} variables, slots and step included",
        "Optimizer": report["optimizer"],
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
    try:
        from matplotlib.figure import Figure
    except ImportError:
        message = "No plots: install the extra `report` (matplotlib) to have them."
        logging.warning(message)
        return [f"<p class=note>{message}</p>"]
    curves = Figure(figsize=(9, 3.6), layout="constrained")
    axes = curves.subplots()
    widths = range(2 * len(losses), 0, -2)
    for width, (name, values) in zip(widths, losses.items()):
        # Wide lines below narrow ones: curves that coincide all stay visible.
        axes.plot(range(len(values)), values, label=name, linewidth=width, alpha=0.75)
    axes.set(xlabel="steps taken", ylabel="loss", title="Loss on one batch")
    axes.legend()
    layers = Figure(figsize=(9, 3.6), layout="constrained")
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
    return [_image(curves, "loss curves"), _image(layers, "error of every variable")]


def _image(figure: Any, label: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f"<p><img alt='{label}' src='data:image/png;base64,{encoded}'></p>"
