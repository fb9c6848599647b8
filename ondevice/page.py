"""Pages that need no other file: their style, and plots inside them."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable
from typing import Any

from absl import logging

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


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page.

    Args:
      title: Text, of the page and its first heading.
      parts: HTML, below the heading.
    """
    title = html.escape(title)
    head = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'>",
        f"<title>{title}</title>",
        f"<style>{_STYLE}</style>",
        f"<h1>{title}</h1>",
    ]
    return "\n".join([*head, *parts]) + "</html>\n"


# What stands in a plot's place.
NO_PLOTS = "No plots: install the extra `report` (matplotlib) to have them."


def figure(width: float, height: float) -> Any:
    """An empty figure of so many inches; None, and a warning, without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        logging.warning(NO_PLOTS)
        return None
    return Figure(figsize=(width, height), layout="constrained")


def image(drawn: Any, label: str) -> str:
    """A figure as HTML, the picture within it."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=110)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    label = html.escape(label, quote=True)
    return f"<p><img alt='{label}' src='data:image/png;base64,{encoded}'></p>"
