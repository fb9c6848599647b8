"""One proof: what was measured, the bound it must keep, and whether it does."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

# Parity of outputs: max|difference| over max|output|. The interpreter itself is as far
# from its own graph in float64.
PARITY = 5e-6

# Outputs against those of another library's kernels: as above, for two of them.
OTHER_KERNELS = 1e-5

# A layer of a file that rounds its activations: 1 - the correlation of what the Keras
# layer and the file's operator make of the same.
UNLIKENESS = 1 - 0.9995

# A trained variable: 1e-4 of its largest change plus two units in the last place; the
# figure is the error over that.
TRAINING = 1.0

# Finite difference of the loss along the gradient, relative.
SLOPE = 0.01

# The loss before a step, relative, from the same weights.
LOSS = 1e-5

# Things that must be equal to the bit, or must not fail: how many are not.
NONE = 0.0


@dataclasses.dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
      arrow: Which step of the chain: rebuild, convert, train, checkpoint or export.
      name: What was compared with what.
      runtime: Which runtime computed it, empty where none did.
      figure: The measured number; not finite counts as failed.
      bound: The largest figure that holds.
      note: What a reader should know beside it.
    """

    arrow: str
    name: str
    runtime: str
    figure: float
    bound: float
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether the figure keeps the bound."""
        return math.isfinite(self.figure) and self.figure <= self.bound

    def as_json(self) -> dict[str, Any]:
        """The check as a JSON object; a figure that is not finite becomes null."""
        figure = self.figure if math.isfinite(self.figure) else None
        return {**dataclasses.asdict(self), "figure": figure, "holds": self.holds}


def failed_to_run(runtime: str, reason: str) -> Check:
    """What there is to say of a runtime that gave nothing."""
    return Check("convert", "the files run", runtime, math.nan, NONE, reason)
