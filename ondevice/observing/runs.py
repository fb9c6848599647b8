"""Running a subject's files: steps, losses, outputs, states to go on from."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from checkpoints import manifest as manifests
from ondevice.device import runtimes, session
from signatures import contract

if TYPE_CHECKING:  # It imports tensorflow, which a run does without.
    from ondevice.observing import subject

State = Mapping[str, np.ndarray]

# So that equal bits can be asked for.
_THREADS = 1


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a model shows at a moment: its outputs on the probe, and its losses."""

    outputs: tuple[np.ndarray, ...]
    losses: tuple[float, ...]

    def differs(self, other: Seen) -> int:
        """How many outputs and losses are not the same, to the bit."""
        pairs = zip(self.outputs, other.outputs, strict=True)
        return sum(not np.array_equal(a, b) for a, b in pairs) + sum(
            a != b for a, b in zip(self.losses, other.losses, strict=True)
        )


@contextlib.contextmanager
def opened(
    model: Any, runtime: str = runtimes.AUTO, state: State | None = None
) -> Iterator[session.Session]:
    """A session on a file, its variables set where a state is given."""
    with session.Session(model, runtime, _THREADS) as found:
        if state is not None:
            found.load_state(state)
        yield found


def train(
    running: session.Session,
    observed: subject.Subject,
    first: int,
    steps: int,
    rate: float | None = None,
) -> list[float]:
    """Takes steps, batch after batch, round and round.

    Args:
      running: Its variables move.
      observed: Gives batches and the rate.
      first: Steps taken before: which batch comes first.
      steps: How many.
      rate: In the place of the subject's.

    Returns:
      The loss before each step.
    """
    rate = observed.rate if rate is None else rate
    found = []
    for number in range(first, first + steps):
        batch = observed.batches[number % len(observed.batches)]
        arrays = {**batch, "learning_rate": rate}
        found.append(float(running.call(contract.TRAIN, arrays)["loss"]))
    return found


def loss(running: session.Session, observed: subject.Subject) -> float:
    """The mean loss over all batches."""
    return float(np.mean(look(running, observed).losses))


def look(running: session.Session, observed: subject.Subject) -> Seen:
    """Outputs on the probe and the loss of every batch; nothing moves."""
    outputs = running.call(contract.INFER, observed.probe)
    losses = [
        float(running.call(contract.EVALUATE, batch)["loss"])
        for batch in observed.batches
    ]
    return Seen(tuple(outputs[name] for name in sorted(outputs)), tuple(losses))


def differing(state: State, other: State) -> int:
    """How many variables are not the same, to the bit."""
    return sum(not np.array_equal(state[name], other[name]) for name in state)


def without(
    state: State, specs: Sequence[manifests.VariableSpec], *roles: str
) -> State:
    """A state with the variables of these roles at zero."""
    gone = {spec.name for spec in specs if spec.role in roles}
    return {n: np.zeros_like(v) if n in gone else v for n, v in state.items()}


def keras_name(name: str) -> str:
    """What `weight.name` is in Keras 3: of `<layer>/kernel` only `kernel`."""
    return name.split("/", 1)[-1]


def rounded(state: State) -> State:
    """A state that has been through float16."""
    return {
        n: v.astype(np.float16).astype(v.dtype) if v.dtype == np.float32 else v
        for n, v in state.items()
    }


def collided(state: State) -> State:
    """A state saved in a dictionary by names that are not unique.

    Where several variables of one shape have one name the last one's values are all
    that there is of them.
    """
    last = {(keras_name(n), v.shape): v for n, v in state.items()}
    return {n: last[keras_name(n), v.shape] for n, v in state.items()}
