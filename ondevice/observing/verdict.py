"""A claim, whether it held, and what was seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One claim on one network.

    Attributes:
      key: Short name of the experiment, the same in every run.
      network: What it was made on.
      claim: A sentence that may be true or not.
      holds: Whether it is.
      evidence: Figures and messages by name; JSON.
      because: One sentence on how the evidence decides.
    """

    key: str
    network: str
    claim: str
    holds: bool
    evidence: Mapping[str, Any]
    because: str
