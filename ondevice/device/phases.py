"""Phases of a run: new class heads on cached features first, then all that trains.

New heads have everything to learn, and what a trunk learns from them before they have
is noise that it pays for with what it knew. So they learn alone at first, on features
that are computed once, many times as fast as images can be run; then the whole network
does, and moves little: linear probing, then fine-tuning (Kumar et al. 2022,
https://arxiv.org/abs/2202.10054). BUILD_NOTES.md has what was measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from signatures import contract

# On features that stay as they are, heads stand steps this many times as large.
FEATURES_RATE = 4.0


@dataclasses.dataclass(frozen=True)
class Phase:
    """Epochs whose steps are of one kind.

    Attributes:
      key: The signature that takes them, one of `contract.STEPS`.
      first: Its first epoch, counting from 0.
      last: The first epoch after it.
      rate: Multiple of the run's learning rate.
    """

    key: str
    first: int
    last: int
    rate: float = 1.0

    @property
    def on_features(self) -> bool:
        """Whether its steps take features in the place of images."""
        return self.key in contract.ON_FEATURES


def plan(keys: Collection[str], epochs: int, head_epochs: int) -> tuple[Phase, ...]:
    """The phases of a run.

    Args:
      keys: Of the file's signatures.
      epochs: In all.
      head_epochs: Of them, those of class heads alone, where the file can train them.
    """
    if contract.TRAIN_FEATURES in keys:
        return (Phase(contract.TRAIN_FEATURES, 0, epochs, FEATURES_RATE),)
    alone = head_epochs if contract.TRAIN_CLASSES in keys else 0
    alone = min(alone, epochs)
    planned = (
        Phase(contract.TRAIN_CLASSES, 0, alone, FEATURES_RATE),
        Phase(contract.TRAIN, alone, epochs),
    )
    return tuple(phase for phase in planned if phase.first < phase.last)
