"""training.png: loss, learning rate and validation, redrawn while training runs."""

from __future__ import annotations

import concurrent.futures
import gc
import importlib.util
import io
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from checkpoints import atomic
from ondevice.device import journal

# Time that passes after a drawing, in units of what it cost: a drawing takes 0.3 s of
# one core, and training must not notice it.
_REST = 100

# Lines of steps that the smoothed loss is the mean of: this share of them all, so that
# the trend is seen early and late, within bounds.
_WINDOW_SHARE = 1 / 8
_WINDOW = (3, 101)

# Curve of an epoch's validation -> its name in the legend.
_VALIDATION = {
    "class_accuracy": "class accuracy",
    "recall": "recall",
    "mean_iou": "mean IoU",
}


class Plot:
    """Draws in a thread of its own, so that no step waits for a picture.

    When it draws depends on the clock, and nothing else does.
    """

    def __init__(self, path: pathlib.Path) -> None:
        """Looks for matplotlib, without which nothing is drawn and a line says so.

        Args:
          path: Of the picture.
        """
        self._path = path
        self._pool = concurrent.futures.ThreadPoolExecutor(1, "plot")
        self._running: concurrent.futures.Future | None = None
        self._undrawn: Sequence[Mapping[str, Any]] = ()
        self._due = 0.0  # By time.monotonic().
        self._works = can_draw(path.name)

    def offer(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Has the lines drawn if the last drawing has ended, and long enough ago.

        Args:
          lines: Of the journal, so far.
        """
        self._undrawn = lines
        idle = self._running is None or self._running.done()
        if self._works and idle and time.monotonic() >= self._due:
            self._undrawn = ()
            self._running = self._pool.submit(self._draw, list(lines))

    def close(self) -> None:
        """Draws what was offered last unless it is drawn, and ends the thread."""
        self._pool.shutdown(wait=True)
        if self._running is not None:
            self._running.result()  # A fault of ours is not lost in the thread.
        if self._works and self._undrawn:
            self._draw(self._undrawn)

    def _draw(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Draws; a picture that cannot be drawn is no reason to stop training."""
        started = time.thread_time()
        try:
            import matplotlib.figure  # noqa: F401  Once, and no part of the cost.

            started = time.thread_time()
            draw(lines, self._path)
            # A figure is full of cycles: left to themselves, dead ones take 100 MB.
            gc.collect()
        except (ImportError, OSError) as error:
            self._works = False
            logging.warning("%s is not drawn any more: %s", self._path, error)
        finally:
            cost = time.thread_time() - started
            self._due = time.monotonic() + _REST * cost


def can_draw(name: str) -> bool:
    """Whether matplotlib is installed; if not, a line in the log says so.

    Args:
      name: Of what is not drawn then.
    """
    found = importlib.util.find_spec("matplotlib") is not None
    if not found:
        logging.info(
            "%s is not drawn: pip install matplotlib, or the extra `report`.", name
        )
    return found


def draw(lines: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
    """Draws loss, learning rate and validation over the steps.

    Args:
      lines: Of the journal.
      path: Of the picture, which is the old one or the new one at any moment.

    Raises:
      ImportError: If matplotlib cannot be imported.
      OSError: If it cannot be written.
    """
    # Not pyplot, which is not to be used off the main thread.
    from matplotlib import figure

    page = figure.Figure(figsize=(9, 8), layout="constrained")
    steps = [line for line in lines if line["kind"] == journal.STEP]
    epochs = [line for line in lines if line["kind"] == journal.EPOCH]
    top, middle, bottom = page.subplots(3, 1, sharex=True)
    at = [line["step"] for line in steps]
    for name, title in (("class_loss", "class"), ("box_loss", "box"), ("loss", "loss")):
        values = [line[name] for line in steps]
        (curve,) = top.plot(at, values, linewidth=0.8, alpha=0.35)
        top.plot(at, smoothed(values), color=curve.get_color(), label=title)
    ends = [line["step"] for line in epochs]
    losses = [line["validation"]["loss"] for line in epochs]
    top.plot(ends, losses, "k.--", label="validation loss")
    top.set_ylabel("loss, and its running mean")
    top.set_ylim(bottom=0)
    middle.plot(at, [line["learning_rate"] for line in steps], color="tab:green")
    middle.set_ylabel("learning rate")
    middle.set_ylim(bottom=0)
    for name, title in _VALIDATION.items():
        values = [line["validation"][name] for line in epochs]
        bottom.plot(ends, values, ".-", label=title)
    best = [line["step"] for line in epochs if line["best"]]
    if best:
        bottom.axvline(best[-1], color="grey", linestyle=":", label="best.safetensors")
    bottom.set_ylabel("validation")
    bottom.set_ylim(-0.02, 1.02)
    bottom.set_xlabel("step")
    for axes in (top, bottom):
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    for axes in (top, middle, bottom):
        axes.grid(alpha=0.3)
    stream = io.BytesIO()
    page.savefig(stream, format="png", dpi=100)
    atomic.write(path, [stream.getbuffer()])


def smoothed(values: Sequence[float]) -> np.ndarray:
    """The running mean, centred, over fewer values towards the ends.

    Args:
      values: [n], finite.

    Returns:
      [n] float64.
    """
    low, high = _WINDOW
    half = min(max(round(len(values) * _WINDOW_SHARE), low), high) // 2
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    index = np.arange(len(values))
    first = np.maximum(index - half, 0)
    last = np.minimum(index + half + 1, len(values))
    return (total[last] - total[first]) / (last - first)
