"""Claim d: why training from a checkpoint may not lead to further learning.

A run of 2 n steps is stopped after n and gone on with: as it should be, and with one
fault at a time. What a fault costs is the share that is left of the loss's fall over
the second n steps; it is blamed where less than half is left.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from checkpoints import manifest as manifests
from ondevice.device import runtimes, session
from ondevice.observing import runs, subject, verdict

# A fault is blamed where less than this share of the learning is left.
_BLAMED = 0.5

# Runs this many times as long are taken for converged, or for what converges.
_LONG = 6

# Steps after which gradients are looked at.
_FEW = 3

# Rates that an app cannot change any more, in multiples of the one that does.
_BAKED = (0.01, 30.0)


@dataclasses.dataclass(frozen=True)
class Curve:
    """The right loss along a run; one point before each step, or fewer."""

    label: str
    steps: tuple[int, ...]
    losses: tuple[float, ...]


@dataclasses.dataclass
class _Course:
    """The run that was never stopped, and what was kept of it.

    Attributes:
      half: The state after n steps.
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


class Causes:
    """The experiments on one subject.

    Attributes:
      curves: Of every run so far.
      verdicts: Of every experiment so far.
    """

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

    def experiments(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """(what it is, what runs it), to be run in this order."""
        yield "a run that is not stopped", self._uninterrupted
        yield "restored as it should be", self._properly
        yield "optimizer left behind", self._optimizer
        yield "restored before or after the first call", self._order
        yield "names that collide", self._names
        yield "float16", self._half_precision
        yield "a rate of another size", self._baked
        yield "converged", self._converged
        yield "loss with its arguments swapped", self._swapped
        yield "softmax twice", self._twice
        yield "frozen", self._frozen
        yield "a wrong kernel", self._kernel
        yield "what remains of the claim", self._heart

    # The two runs that others are held against.

    def _uninterrupted(self) -> None:
        n = self._steps
        with self._opened() as running:
            start = runs.loss(running, self._subject)
            losses = runs.train(running, self._subject, 0, n)
            half, middle = running.state(), runs.loss(running, self._subject)
            running.save(self._checkpoint)
            losses += runs.train(running, self._subject, n, n)
            full, end = running.state(), runs.loss(running, self._subject)
            self._specs = running.manifest.variables
        self._course = _Course(half, full, losses, start, middle, end)
        self._draw("not stopped", 0, losses)

    def _properly(self) -> None:
        n, course = self._steps, self._course
        with self._opened() as running:
            running.restore(self._checkpoint)
            losses = runs.train(running, self._subject, n, n)
            state = running.state()
        differing = runs.differing(state, course.full)
        self._draw("restored", n, losses)
        self._add(
            "d.restored",
            "A run that is restored from a checkpoint of everything goes on as if it "
            "had never been stopped.",
            differing == 0 and losses == course.curve[n:],
            {
                "variables_that_differ": differing,
                "of": len(state),
                "losses": [course.start, course.middle, course.end],
                "losses_equal": losses == course.curve[n:],
            },
            f"{n} steps after the restoration every weight, slot and loss is compared "
            "bit by bit with the run that was not stopped.",
        )

    # Faults of what is saved.

    def _optimizer(self) -> None:
        half, specs = self._course.half, self._specs
        shares = {
            name: self._from(f"restored, {name} at zero", state)
            for name, state in {
                "slots and step": runs.without(
                    half, specs, manifests.SLOT, manifests.STEP
                ),
                "slots": runs.without(half, specs, manifests.SLOT),
                "step": runs.without(half, specs, manifests.STEP),
            }.items()
        }
        self._blame(
            "d.optimizer",
            "Slots or step that are not saved (Adam begins anew) end the learning.",
            shares,
        )

    def _names(self) -> None:
        state = runs.collided(self._course.half)
        changed = runs.differing(state, self._course.half)
        share = self._from("restored, names collide", state)
        message = self._saved_under_keras_names()
        self._blame(
            "d.names",
            "Variables that are saved under names of Keras 3, every kernel `kernel`, "
            "get each other's values.",
            {"a dictionary by name": share},
            {"variables_with_another's_values": changed, "tf.raw_ops.Save": message},
        )

    def _half_precision(self) -> None:
        half = self._course.half
        slots = {s.name for s in self._specs if s.role == manifests.SLOT}
        all_of_it = runs.rounded(half)
        weights = {n: half[n] if n in slots else v for n, v in all_of_it.items()}
        gone = sum(int(((all_of_it[n] == 0) & (half[n] != 0)).sum()) for n in slots)
        self._blame(
            "d.float16",
            "A checkpoint of float16 ends the learning.",
            {
                "weights and slots": self._from("restored, through float16", all_of_it),
                "weights alone": self._from(
                    "restored, weights through float16", weights
                ),
            },
            {"numbers_of_the_slots_that_became_zero": gone},
        )

    # Faults of when, how fast and how long.

    def _order(self) -> None:
        n, course = self._steps, self._course
        with self._opened() as running:
            runs.train(running, self._subject, 0, 1)
            running.restore(self._checkpoint)
            losses = runs.train(running, self._subject, n, n)
            differing = runs.differing(running.state(), course.full)
        same = losses == course.curve[n:]
        self._add(
            "d.order",
            "It matters whether a checkpoint is restored before or after the first "
            "call: initialisation undoes it.",
            differing > 0 or not same,
            {"variables_that_differ": differing, "losses_equal": same},
            "One run is restored before its first step, the other after one; both are "
            "compared bit by bit with the run that was not stopped.",
        )

    def _baked(self) -> None:
        shares = {}
        for multiple in _BAKED:
            rate = multiple * self._subject.rate
            label = f"restored, rate times {multiple:g}"
            shares[f"times {multiple:g}"] = self._from(
                label, self._course.half, rate
            )
        self._blame(
            "d.rate",
            "A learning rate that is baked in at conversion ends the learning where it "
            "does not suit any more.",
            shares,
        )

    def _converged(self) -> None:
        n = self._steps
        with self._opened(self._course.full) as running:
            losses = runs.train(running, self._subject, 2 * n, (_LONG - 1) * n)
            before = runs.loss(running, self._subject)
            late = runs.train(running, self._subject, (_LONG + 1) * n, n)
            after = runs.loss(running, self._subject)
        self._draw("not stopped, long", 2 * n, losses + late)
        fall = self._course.middle - self._course.end
        self._blame(
            "d.converged",
            "The model had converged: there is next to nothing left to learn, restored "
            "or not.",
            {"not stopped at all": (before - after) / fall},
            {"steps": (_LONG + 2) * n, "loss": after},
        )

    # Faults of the file. What such a file learns is judged by the right one's loss.

    def _swapped(self) -> None:
        self._faulty(
            "d.swapped",
            "The loss called with its arguments swapped, as in both official samples, "
            "ends the learning.",
            subject.Variant(fault=subject.SWAPPED),
        )

    def _twice(self) -> None:
        self._faulty(
            "d.softmax",
            "A softmax before a loss that takes another ends the learning.",
            subject.Variant(fault=subject.TWICE),
        )

    def _frozen(self) -> None:
        self._faulty(
            "d.frozen",
            "Weights that are frozen in the file end the learning.",
            subject.Variant(whole=False),
        )

    def _faulty(self, key: str, claim: str, variant: subject.Variant) -> None:
        share, curve = self._learnt(variant, self._runtime)
        self.curves.append(curve)
        self._blame(key, claim, {"of all that is learnt in 2 n steps": share})

    def _kernel(self) -> None:
        """The last layers alone: their steps are quick in every runtime."""
        shares, evidence, errors = {}, {}, {}
        for runtime in runtimes.installed():
            fell, after = {}, {}
            for fault in (subject.RIGHT, subject.REVERSED):
                variant = subject.Variant(whole=False, fault=fault)
                share, curve = self._learnt(variant, runtime)
                fell[fault], after[fault] = share, self._slots(variant, runtime)
                if fault == subject.REVERSED:
                    self.curves.append(
                        dataclasses.replace(curve, label=f"{curve.label}, {runtime}")
                    )
            shares[runtime] = fell[subject.REVERSED] / fell[subject.RIGHT]
            evidence[runtime] = fell
            wrong, right = after[subject.REVERSED], after[subject.RIGHT]
            errors[runtime] = _largest_error(wrong, right)
        self._blame(
            "d.kernel",
            "A kernel that is wrong in one runtime (REVERSE_V2 over two axes) ends the "
            "learning there.",
            shares,
            {
                "share_of_what_the_whole_network_learns": evidence,
                f"error_of_a_slot_after_{_FEW}_steps_over_its_largest_number": errors,
            },
        )

    def _heart(self) -> None:
        tried = [each for each in self.verdicts if each.key not in _CONTROLS]
        blamed = [each.key for each in tried if each.holds]
        cleared = [each.key for each in tried if not each.holds]
        (restored,) = (v for v in self.verdicts if v.key == "d.restored")
        self._add(
            "d",
            "Training from a checkpoint, when using a non-fresh .tflite, may not lead "
            "to further learning.",
            not restored.holds,
            {"what_can_make_it_so": blamed, "what_does_not": cleared},
            "Restored from a checkpoint of everything it learns on, bit for bit; where "
            "it does not, one of the faults that are named here is at work.",
        )

    # Parts of them.

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
        self, variant: subject.Variant, runtime: str
    ) -> tuple[float, Curve]:
        """Trains another file from the start for 2 n steps.

        Returns:
          Of the right run's fall in as many steps, the share that it reached by the
          right loss; and its curve.
        """
        course, pieces = self._course, 4
        steps = max(1, 2 * self._steps // pieces)
        places, losses = [0], [course.start]
        with (
            runs.opened(self._subject.model(variant), runtime) as running,
            self._opened() as judge,
        ):
            for piece in range(pieces):
                runs.train(running, self._subject, piece * steps, steps)
                judge.load_state({**judge.state(), **_weights(running)})
                places.append((piece + 1) * steps)
                losses.append(runs.loss(judge, self._subject))
        label = variant.fault if variant.whole else f"{variant.fault}, last layers"
        curve = Curve(label, tuple(places), tuple(losses))
        return (course.start - losses[-1]) / (course.start - course.end), curve

    def _slots(self, variant: subject.Variant, runtime: str) -> runs.State:
        """The optimizer's slots, which are made of gradients, after a few steps.

        Below a last layer that starts at zero the first step's gradient is zero.
        """
        with runs.opened(self._subject.model(variant), runtime) as running:
            runs.train(running, self._subject, 0, _FEW)
            roles = {v.name: v.role for v in running.manifest.variables}
            state = running.state()
        return {n: v for n, v in state.items() if roles[n] == manifests.SLOT}

    def _saved_under_keras_names(self) -> str:
        """What becomes of a checkpoint that TensorFlow writes under colliding names."""
        variant = subject.Variant("select", fault=subject.COLLIDING)
        try:
            with runs.opened(self._subject.model(variant), runtimes.FLEX) as running:
                before = runs.look(running, self._subject)
                path = self._directory / f"{self._subject.name}-colliding"
                running.save(path)
                running.restore(path)
                moved = before.differs(runs.look(running, self._subject))
        except (runtimes.RuntimeFailure, runtimes.RuntimeChoiceError) as error:
            return str(error)
        return f"written; restored, {moved} outputs and losses are others"

    def _draw(self, label: str, first: int, losses: list[float]) -> None:
        places = tuple(range(first, first + len(losses)))
        self.curves.append(Curve(label, places, tuple(losses)))

    def _blame(self, key, claim, shares, evidence=()) -> None:
        """Adds a verdict: the claim holds where one share is less than half."""
        self._add(
            key,
            claim,
            min(shares.values()) < _BLAMED,
            {"share_of_the_learning_that_is_left": shares, **dict(evidence)},
            f"Blamed where less than {_BLAMED:.0%} of the loss's fall is left.",
        )

    def _add(self, key, claim, holds, evidence, because) -> None:
        name = self._subject.name
        self.verdicts.append(
            verdict.Verdict(key, name, claim, holds, evidence, because)
        )


def _largest_error(state: runs.State, right: runs.State) -> float:
    return max(
        float(np.abs(state[name] - value).max() / np.abs(value).max())
        for name, value in right.items()
        if value.any()
    )


# Verdicts of d that blame nothing.
_CONTROLS = ("d", "d.restored")


def _weights(running: session.Session) -> dict:
    names = [v.name for v in running.manifest.variables if v.role == manifests.WEIGHT]
    state = running.state()
    return {name: state[name] for name in names}
