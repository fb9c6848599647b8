"""Claim d: why training from a checkpoint may not lead to further learning.

A run of 2 n steps is stopped after n and gone on with: as it should be, and with one
fault at a time. What a fault costs is the share that is left of the loss's fall over
the second n steps; it is blamed where less than half is left.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

import numpy as np

from checkpoints import manifest as manifests
from ondevice.device import runtimes
from ondevice.observing import runs, study, subject

# Runs this many times as long are taken for converged, or for what converges.
_LONG = 6

# Steps after which gradients are looked at.
_FEW = 3

# A loss that rises to this many times what it was restored at has been undone.
_JUMP = 3.0

# Rates that an app cannot change any more, in multiples of the one that does.
_BAKED = (0.01, 30.0)


class Causes(study.Study):
    """The experiments on one subject."""

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
        self._course = study.Course(half, full, losses, start, middle, end)
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
        shares, jumps = {}, {}
        for what, state in {
            "weights and slots": all_of_it,
            "weights alone": weights,
        }.items():
            shares[what] = self._from(f"restored, {what} through float16", state)
            losses = self.curves[-1].losses
            jumps[what] = max(losses) / losses[0]
        self._add(
            "d.float16",
            "A checkpoint of float16 ends the learning, or undoes it for a while.",
            min(shares.values()) < study.BLAMED or max(jumps.values()) > _JUMP,
            {
                "share_of_the_learning_that_is_left": shares,
                "highest_loss_over_the_loss_restored": jumps,
                "numbers_of_the_slots_that_became_zero": gone,
            },
            "Adam divides by a slot that becomes zero: its next steps are large. "
            f"Blamed where less than {study.BLAMED:.0%} of the loss's fall is left, or "
            f"the loss rises to more than {_JUMP:g} times what it was.",
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
        self._wrong_loss(
            "d.swapped",
            "The loss called with its arguments swapped, as in both official samples, "
            "ends the learning.",
            subject.SWAPPED,
        )

    def _twice(self) -> None:
        self._wrong_loss(
            "d.softmax",
            "A softmax before a loss that takes another ends the learning.",
            subject.TWICE,
        )

    def _wrong_loss(self, key: str, claim: str, fault: str) -> None:
        """At two rates: such a loss has no gradient where a class is ruled out.

        The right one's gradient by the logits is p - y. That of either wrong one has
        p of the right class for a factor: what is wrong with certainty stays so, and
        the faster logits grow the sooner that is.
        """
        observed, shares, after = self._subject, {}, {}
        for what, rate in (
            ("logits stay small", observed.gentle),
            ("logits grow large", observed.fast),
        ):
            curve = self._learnt(subject.Variant(fault=fault), self._runtime, rate)
            right = self._right_at(rate)
            fell = right.losses[0] - right.losses[-1]
            label = f"{what}, rate {rate:g}"
            shares[label] = (curve.losses[0] - curve.losses[-1]) / fell
            after[label] = {fault: curve.losses[-1], "right": right.losses[-1]}
            self.curves.append(
                dataclasses.replace(curve, label=f"{fault}, rate {rate:g}")
            )
        self._blame(key, claim, shares, {"loss_after_2_n_steps": after})

    @functools.cache
    def _right_at(self, rate: float) -> study.Curve:
        return self._learnt(subject.Variant(), self._runtime, rate)

    def _frozen(self) -> None:
        curve = self._learnt(subject.Variant(whole=False), self._runtime)
        self.curves.append(curve)
        self._blame(
            "d.frozen",
            "Weights that are frozen in the file end the learning.",
            {
                "of all that is learnt in 2 n steps": self._course.share_of_all(
                    curve.losses[-1]
                )
            },
        )

    def _kernel(self) -> None:
        """The last layers alone: their steps are quick in every runtime."""
        shares, evidence, errors = {}, {}, {}
        for runtime in runtimes.installed():
            fell, after = {}, {}
            for fault in (subject.RIGHT, subject.REVERSED):
                variant = subject.Variant(whole=False, fault=fault)
                curve = self._learnt(variant, runtime)
                fell[fault] = self._course.share_of_all(curve.losses[-1])
                after[fault] = self._slots(variant, runtime)
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


def _largest_error(state: runs.State, right: runs.State) -> float:
    return max(
        float(np.abs(state[name] - value).max() / np.abs(value).max())
        for name, value in right.items()
        if value.any()
    )


# Verdicts of d that blame nothing.
_CONTROLS = ("d", "d.restored")
