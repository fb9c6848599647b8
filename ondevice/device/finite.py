"""Steps that leave every number finite, or are not taken.

One number that is not makes every weight so, by the gradient's norm, in one step. So
what goes into a step is looked at before the interpreter sees it, and where what comes
out is not finite the variables go back to the last good state. That is kept in memory
anyway, where it was last loaded or saved, so that it costs no time while all is well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from checkpoints import scans, strict_json, weights
from signatures import contract

if TYPE_CHECKING:
    from ondevice.device import session


class NotFiniteError(ValueError):
    """A step that was refused.

    Attributes:
      variables: Names of those that the step made other than finite, in the order of
        the manifest; none where the step was not begun.
    """

    def __init__(self, message: str, variables: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.variables = variables


class Keeper:
    """Keeps the last good state of a session; as in its file until it knows another."""

    def __init__(self) -> None:
        self._good: Mapping[str, np.ndarray] | None = None

    def remember(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Takes a state for the last good one, if every number in it is finite."""
        if not scans.not_finite(tensors):
            self.keep({name: np.array(array) for name, array in tensors.items()})

    def keep(self, tensors: Mapping[str, np.ndarray]) -> None:
        """The same of arrays that are nobody else's, and proven finite."""
        self._good = tensors

    def step(
        self, opened: session.Session, key: str, arrays: Mapping[str, Any]
    ) -> dict[str, np.ndarray]:
        """Takes a step, or none.

        Args:
          opened: The session; nobody else calls it meanwhile.
          key: Of a signature that trains.
          arrays: What it takes.

        Returns:
          What the signature found, every number finite.

        Raises:
          NotFiniteError: If a number that goes in is not finite, and nothing happened;
            or one that comes out, and the variables are those of the last good state.
          SessionError: As `Session.call`.
        """
        # Features are many numbers for a short step: where one of them is not finite
        # the loss is not, either.
        whole = key == contract.TRAIN
        _require({n: a for n, a in arrays.items() if whole or not np.ndim(a)})
        found = opened.call(key, arrays)
        if all(np.isfinite(value).all() for value in found.values()):
            return found
        numbers = ", ".join(f"{name} {float(found[name]):g}" for name in found)
        if opened.manifest.ops == "select":
            raise NotFiniteError(
                f"A step must find finite numbers. Received: {numbers}; the variables "
                "moved, and restoring a checkpoint mends them."
            )
        state = opened.state()
        names = [variable.name for variable in opened.manifest.variables]
        wrong = tuple(name for name in names if not np.isfinite(state[name]).all())
        opened.load_state(
            self._good or weights.of_trainable(opened.file, opened.manifest)
        )
        shown = ", ".join(wrong[:5]) + ", ..." * (len(wrong) > 5)
        raise NotFiniteError(
            f"A step must find finite numbers. Received: {numbers}, and {len(wrong)} "
            f"of {len(names)} variables that are not{': ' * bool(wrong)}{shown}; they "
            "are again what they were when last loaded or saved.",
            wrong,
        )


def _require(arrays: Mapping[str, Any]) -> None:
    """Refuses inputs that are not finite, naming each."""
    faults = []
    for name, value in arrays.items():
        array = np.asarray(value)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            places = np.argwhere(~np.isfinite(array))
            first = places[0].tolist()
            faults.append(f"{name!r} with {len(places)}, the first at {first}")
    if faults:
        raise NotFiniteError(
            "The inputs of a step must be finite. Received: "
            f"{strict_json.summary(faults)}; no step was taken."
        )
