"""What a run of training is: its settings, and how far it is.

Both lie in the header of every checkpoint that training writes, so that a run can go
on.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from checkpoints import store, strict_json
from ondevice.device import journal, schedule

# Why a run ended.
EPOCHS, PATIENCE = "epochs", "patience"


class TrainingError(ValueError):
    """Training cannot begin, or cannot go on."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run is set to.

    Attributes:
      epochs: In all, those before a resumption included.
      head_epochs: Of them, the first ones, which train new class heads alone.
      learning_rate: At the schedule's height, for all that trains.
      schedule: A name of `schedule.NAMES`.
      seed: Of order and placing.
      frame: Range of the share of the frame that a picture takes.
      variants: Places that each picture is given, over and over, where the trunk's
        features of each are kept.
      patience: Epochs without a better validation that end the run; 0 waits for ever.
    """

    epochs: int = 32
    head_epochs: int = 0
    learning_rate: float = 1e-5
    schedule: str = schedule.COSINE
    seed: int = 0
    frame: tuple[float, float] = (0.4, 1.0)
    variants: int = 4
    patience: int = 8

    def __post_init__(self) -> None:
        faults = []
        if self.epochs < 1:
            faults.append("at least one epoch")
        if self.head_epochs < 0:
            faults.append("0 or more epochs of the class heads alone")
        if not (0 < self.learning_rate < math.inf):
            faults.append("a positive, finite learning rate")
        if self.schedule not in schedule.NAMES:
            faults.append(f"a schedule of {schedule.NAMES}")
        if self.variants < 1:
            faults.append("a variant or more of each picture")
        if self.seed < 0:
            faults.append("a seed of 0 or more")
        if not 0 < self.frame[0] <= self.frame[1] <= 1:
            faults.append("a frame 0 < low <= high <= 1")
        if self.patience < 0:
            faults.append("a patience of 0 or more")
        if faults:
            raise TrainingError(
                f"Training must have {', '.join(faults)}. Received: {self}."
            )


@dataclasses.dataclass
class State:
    """How far a run is; with the variables, all there is to it.

    Attributes:
      epoch: Epochs completed.
      epoch_step: Steps taken in the epoch that is not.
      steps: Steps taken in all.
      loss_sum: Of the losses of those of the epoch that is not completed.
      lines: Of metrics.jsonl.
      last: The last epoch's line of metrics.jsonl.
      best: The best epoch's line.
      patience_from: Epochs completed when patience ended the run and it was told to go
        on all the same; none before counts.
    """

    epoch: int = 0
    epoch_step: int = 0
    steps: int = 0
    loss_sum: float = 0.0
    lines: int = 0
    last: Mapping[str, Any] | None = None
    best: Mapping[str, Any] | None = None
    patience_from: int = 0


@dataclasses.dataclass(frozen=True)
class Resumption:
    """What a checkpoint says of the run that wrote it."""

    settings: Settings
    state: State
    data: str
    runtime: str


def ended(settings: Settings, state: State) -> str | None:
    """Why the run takes no further step: `EPOCHS` or `PATIENCE`; None where it does."""
    if state.epoch >= settings.epochs:
        return EPOCHS
    if state.epoch <= settings.head_epochs:
        return None
    if settings.patience and state.best is not None:
        since = max(state.best["epoch"], state.patience_from)
        if state.epoch - since >= settings.patience:
            return PATIENCE
    return None


def resumption(header: store.Header) -> Resumption:
    """Reads the header of a checkpoint that `Training` wrote.

    Raises:
      TrainingError: If something else wrote it.
    """
    faults: list[str] = []
    run = strict_json.decode(_Run, header.extra.get("run"), "run", faults)
    found = None
    if not faults:
        # Runs of before there were these had none.
        settings = {"patience": 0, "head_epochs": 0, **run.settings}
        state = {"patience_from": 0, **run.state}
        try:
            found = Resumption(
                strict_json.decode(Settings, settings, "settings", faults),
                strict_json.decode(State, state, "state", faults),
                run.data,
                run.runtime,
            )
        except TrainingError as error:
            faults.append(str(error))
    if found is not None and not faults:
        faults = _impossible(found.state)
    if found is None or faults:
        raise TrainingError(
            "A run must go on from a checkpoint that ondevice.train wrote. "
            "Received: one whose header does not tell how: "
            f"{strict_json.summary(faults)}."
        )
    return found


@dataclasses.dataclass(frozen=True)
class _Run:
    """The header's own entry."""

    settings: Mapping[str, Any]
    state: Mapping[str, Any]
    data: str
    runtime: str


def _impossible(state: State) -> list[str]:
    """What no type can tell of a state."""
    counts = ("epoch", "epoch_step", "steps", "lines", "patience_from")
    faults = [
        f"state.{name} is {getattr(state, name)}"
        for name in counts
        if not 0 <= getattr(state, name) < 2**53
    ]
    return faults + [
        f"state.{name} is no line of an epoch"
        for name in ("last", "best")
        if getattr(state, name) is not None
        and not journal.is_line(getattr(state, name), (journal.EPOCH,))
    ]
