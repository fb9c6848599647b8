"""Runs of one subject that are held against each other, and what they tell."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from checkpoints import manifest as manifests
from ondevice.device import runtimes, session
from ondevice.observing import runs, subject, verdict

# A fault is blamed where less than this share of the learning is left.
BLAMED = 0.5


@dataclasses.dataclass(frozen=True)
class Curve:
    """The right loss along a run; one point before each step, or fewer."""

    label: str
    steps: tuple[int, ...]
    losses: tuple[float, ...]


@dataclasses.dataclass
class Course:
    """The run that was never stopped, and what was kept of it.

    Attributes:
      half: The state after n steps.
      full: The state after 2 n.
      curve: The losses of 2 n steps.
      start: Mean loss over all batches before the first step.
      middle: The same after n.
      end: The same after 2 n.
    """

    half: runs.State
    full: runs.State
    curve: list[float]
    start: float
    middle: float
    end: float

    def share(self, loss: float) -> float:
        """Of the fall over the second half, what a run that ends here reached."""
        return (self.middle - loss) / (self.middle - self.end)

    def share_of_all(self, loss: float) -> float:
        """Of the fall over both halves, what a run that ends here reached."""
        return (self.start - loss) / (self.start - self.end)


class Study:
    """Experiments on one subject.

    Attributes:
      curves: Of every run so far.
      verdicts: Of every experiment so far.
    """

    _course: Course  # Of an experiment that goes before those that need it.

    def __init__(
        self,
        observed: subject.Subject,
        steps: int,
        directory: pathlib.Path,
        runtime: str = runtimes.AUTO,
    ) -> None:
        """Runs nothing yet.

        Args:
          observed: The network.
          steps: n.
          directory: For checkpoints that come and go.
          runtime: For all but the kernels, which are tried in each.
        """
        self._subject, self._steps = observed, steps
        self._directory, self._runtime = directory, runtime
        self.curves: list[Curve] = []
        self.verdicts: list[verdict.Verdict] = []

    @property
    def _checkpoint(self) -> pathlib.Path:
        return self._directory / f"{self._subject.name}-half.safetensors"

    def _opened(self, state: runs.State | None = None):
        model = self._subject.model(subject.Variant())
        return runs.opened(model, self._runtime, state)

    def _from(
        self, label: str, state: runs.State, rate: float | None = None
    ) -> float:
        """Goes on from a state for n steps; returns the share that was learnt."""
        n = self._steps
        with self._opened(state) as running:
            losses = runs.train(running, self._subject, n, n, rate)
            end = runs.loss(running, self._subject)
        self._draw(label, n, losses)
        return self._course.share(end)

    def _learnt(
        self, variant: subject.Variant, runtime: str, rate: float | None = None
    ) -> Curve:
        """Trains another file from the start for 2 n steps.

        Returns:
          Its curve, of the right loss.
        """
        pieces = 4
        steps = max(1, 2 * self._steps // pieces)
        places, losses = [0], [self._course.start]
        with (
            runs.opened(self._subject.model(variant), runtime) as running,
            self._opened() as judge,
        ):
            for piece in range(pieces):
                runs.train(running, self._subject, piece * steps, steps, rate)
                judge.load_state({**judge.state(), **_weights(running)})
                places.append((piece + 1) * steps)
                losses.append(runs.loss(judge, self._subject))
        label = variant.fault if variant.whole else f"{variant.fault}, last layers"
        return Curve(label, tuple(places), tuple(losses))

    def _draw(self, label: str, first: int, losses: list[float]) -> None:
        places = tuple(range(first, first + len(losses)))
        self.curves.append(Curve(label, places, tuple(losses)))

    def _blame(
        self,
        key: str,
        claim: str,
        shares: Mapping[str, float],
        evidence: Mapping[str, Any] | None = None,
    ) -> None:
        """Adds a verdict: the claim holds where one share is less than half."""
        self._add(
            key,
            claim,
            min(shares.values()) < BLAMED,
            {"share_of_the_learning_that_is_left": shares, **(evidence or {})},
            f"Blamed where less than {BLAMED:.0%} of the loss's fall is left.",
        )

    def _add(
        self, key: str, claim: str, holds: bool, evidence: Mapping, because: str
    ) -> None:
        name = self._subject.name
        self.verdicts.append(
            verdict.Verdict(key, name, claim, holds, dict(evidence), because)
        )


def _weights(running: session.Session) -> dict:
    names = [v.name for v in running.manifest.variables if v.role == manifests.WEIGHT]
    state = running.state()
    return {name: state[name] for name in names}
