"""The training loop: steps, validation, checkpoints, metrics.

Everything that a run needs to go on is in its last checkpoint, so that a run that was
stopped, or killed, and resumed takes the same steps and writes the same weights and
metrics as one that was not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

from absl import logging

from ondevice.device import (
    detectors,
    evaluation,
    events,
    finite,
    image_cache,
    journal,
    labelled,
    opening,
    phases,
    plot,
    runs,
    samples,
    schedule,
    session,
    supplies,
)

LATEST, BEST = "latest.safetensors", "best.safetensors"
METRICS, PLOT, EVENTS = "metrics.jsonl", "training.png", "tensorboard"

# Steps between two lines of metrics.jsonl.
LINE_EVERY = 10

# Wraps an iterable, and is told what it goes through and how long it is.
Progress = Callable[[Iterable, str, int], Any]


class Training:
    """One run, from its first step or from where it was stopped."""

    def __init__(
        self,
        opened: session.Session,
        train: samples.Dataset,
        validation: samples.Dataset,
        directory: pathlib.Path,
        settings: runs.Settings,
        cache: image_cache.ImageCache | None = None,
        resumed: runs.Resumption | None = None,
        teacher: detectors.Detector | None = None,
    ) -> None:
        """Checks that the data can be trained on.

        Args:
          opened: With the weights to start from.
          train: Labelled; pictures without labels are left out.
          validation: A picture without labels counts for its class alone.
          directory: Of the checkpoints; it exists.
          settings: Of this run.
          cache: Decoded pictures.
          resumed: What the checkpoint that was restored says.
          teacher: The untouched detector, whose anchors hold the hands; None leaves
            that to geometry.

        Raises:
          DataError: If a data set does not do.
        """
        self._session, self._directory = opened, directory
        self._settings, self._train, self._validation = settings, train, validation
        self._cache = cache or image_cache.ImageCache()
        self._supplies = supplies.Supplies(
            opened, directory, settings, self._cache, teacher
        )
        keys = [signature.key for signature in opened.manifest.signatures]
        self._phases = phases.plan(keys, settings.epochs, settings.head_epochs)
        self._phase = self._phase_at(resumed.state.epoch if resumed else 0)
        self._batches = self._supplies.to_train(train, self._phase.on_features)
        # The middle of what is trained on, the same for every picture and epoch.
        self._share = sum(settings.frame) / 2
        self._fixed = None
        if validation.labelled().samples:
            self._fixed = self._supplies.to_validate(validation, self._share)
        self._detector = opening.of_session(opened)
        self._data = labelled.digest(train.labelled())
        self._journal = journal.Journal(directory / METRICS)
        self.state = runs.State()
        self._plot = plot.Plot(directory / PLOT)
        self._started = time.monotonic()
        if resumed is not None:
            self._take_up(resumed)
        self._events = events.Events(directory / EVENTS, self.state.steps)

    @property
    def epoch_steps(self) -> int:
        """Steps in an epoch."""
        return self._batches.steps

    def run(self, progress: Progress = lambda items, what, total: items) -> runs.State:
        """Trains to the last epoch, or until patience ends.

        Args:
          progress: Wraps steps and validation.

        Returns:
          The state reached.

        Raises:
          TrainingError: If the loss or the gradient is not finite: the step is taken
            back, a line of metrics.jsonl tells it, and the last checkpoint stays.
          KeyboardInterrupt: After Ctrl-C, when the step has ended and all is saved. A
            second Ctrl-C does not wait.
          OSError: If something cannot be written.
        """
        with _interruptions() as asked:
            try:
                while runs.ended(self._settings, self.state) is None:
                    self._steps(asked, progress)
                    self._end_of_epoch(asked, progress)
            except _Stopped:
                self._save(LATEST)
                logging.info(
                    "Stopped after step %d, in epoch %d; %s has it all.",
                    self.state.steps, self.state.epoch + 1, self._directory / LATEST,
                )  # fmt: skip
                raise KeyboardInterrupt from None
            finally:
                self._plot.close()
                self._events.close()
        if runs.ended(self._settings, self.state) == runs.PATIENCE:
            logging.info(
                "Stopped after epoch %d: --patience=%d epochs without a better "
                "validation. --resume with more --epochs or --patience goes on.",
                self.state.epoch, self._settings.patience,
            )  # fmt: skip
        return self.state

    def _steps(self, asked: threading.Event, progress: Progress) -> None:
        """Takes the steps of the epoch that are left."""
        state, settings = self.state, self._settings
        phase = self._enter_phase()
        take = getattr(self._session, phase.key)
        left = self.epoch_steps - state.epoch_step
        given = self._batches.epoch(state.epoch, state.epoch_step)
        bar = progress(given, f"epoch {state.epoch + 1}/{settings.epochs}", left)
        with _closing(given):
            for batch in bar:
                rate = schedule.rate(
                    settings.schedule,
                    settings.learning_rate * phase.rate,
                    (state.epoch - phase.first) * self.epoch_steps + state.epoch_step,
                    self.epoch_steps,
                    (phase.last - phase.first) * self.epoch_steps,
                )
                try:
                    found = take(**batch, learning_rate=rate)
                except finite.NotFiniteError as error:
                    raise self._diverged(error, rate) from error
                state.steps += 1
                state.epoch_step += 1
                state.loss_sum += found.loss
                if state.steps % LINE_EVERY == 0 or state.steps == 1:
                    self._add(
                        {
                            "kind": journal.STEP,
                            "step": state.steps,
                            "epoch": state.epoch,
                            **dataclasses.asdict(found),
                            "learning_rate": rate,
                        }
                    )
                if hasattr(bar, "set_postfix"):
                    bar.set_postfix(loss=f"{state.loss_sum / state.epoch_step:.3f}")
                if asked.is_set():
                    raise _Stopped

    def _enter_phase(self) -> phases.Phase:
        """Goes over to the epoch's phase, if it is another."""
        epoch = self.state.epoch
        phase = self._phase_at(epoch)
        if phase != self._phase:
            logging.info("All that trains does so from epoch %d on.", phase.first + 1)
            self._batches = self._supplies.to_train(self._train, phase.on_features)
            self._phase = phase
        if epoch == phase.first > 0 and self.state.epoch_step == 0:
            # The steps so far were of other weights, or other sizes.
            self._session.forget_steps()
        return phase

    def _phase_at(self, epoch: int) -> phases.Phase:
        """The phase of an epoch; after the last epoch the last phase."""
        return next((p for p in self._phases if epoch < p.last), self._phases[-1])

    def _end_of_epoch(self, asked: threading.Event, progress: Progress) -> None:
        """Validates and saves."""
        state, settings = self.state, self._settings
        validation = self._validate(asked, progress)
        line: dict[str, Any] = {
            "kind": journal.EPOCH,
            "epoch": state.epoch + 1,
            "step": state.steps,
            "loss": state.loss_sum / self.epoch_steps,
            "validation": validation,
        }
        # A phase is judged by its own epochs: the last one trains all that is to train.
        best = None if state.epoch == self._phase.first else state.best
        line["best"] = best is None or _rank(line) > _rank(best)
        state.epoch, state.epoch_step, state.loss_sum = state.epoch + 1, 0, 0.0
        state.last = line
        if line["best"]:
            state.best = line
        self._add(line)
        if line["best"]:
            self._save(BEST)
        self._save(LATEST)
        logging.info(
            "Epoch %d/%d: loss %.4f; validation: class accuracy %.4f, recall %.4f, "
            "mean IoU %.4f%s; %.0f s; steps waited for images %.1f %% of their time.",
            state.epoch, settings.epochs, line["loss"],
            validation["class_accuracy"], validation["recall"], validation["mean_iou"],
            " (best so far)" if line["best"] else "", time.monotonic() - self._started,
            100 * self._batches.waited,
        )  # fmt: skip

    def _validate(self, asked: threading.Event, progress: Progress) -> dict[str, Any]:
        """Metrics of the detections, and the loss where there are labels."""

        def watched(items: Iterable) -> Iterator:
            for item in items:
                if asked.is_set():
                    raise _Stopped
                yield item

        loss = None
        if self._fixed is not None:
            weighted = counted = 0.0
            given = self._fixed.epoch(0)
            with _closing(given):
                for batch in watched(given):
                    count = float(batch["sample_weights"].sum())
                    weighted += count * self._session.evaluate(**batch).loss
                    counted += count
            loss = weighted / counted
            # Another epoch may still mend it; what is not finite is not JSON either.
            loss = loss if math.isfinite(loss) else None
        found = evaluation.evaluate(
            self._validation,
            self._detector,
            self._share,
            self._cache,
            lambda items: watched(progress(items, "validation", len(items))),
        )
        del found["confusion"]
        return {"loss": loss, **found}

    def _diverged(
        self, error: finite.NotFiniteError, rate: float
    ) -> runs.TrainingError:
        """Writes down the step that was refused, and says how to go on."""
        state, saved = self.state, self._directory / LATEST
        self._journal.add(
            {
                "kind": journal.REFUSED,
                "step": state.steps + 1,
                "epoch": state.epoch,
                "learning_rate": rate,
                "not_finite": error.variables,
            }
        )
        way = f"{saved} is as it was: --resume goes on from it"
        if not saved.exists():
            way = "nothing was saved yet: it must begin anew"
        return runs.TrainingError(
            f"The loss must be finite. At step {state.steps + 1}, at the learning rate "
            f"{rate:g}: {error} Of the run {way}, with a lower --learning_rate."
        )

    def _add(self, line: Mapping[str, Any]) -> None:
        self._journal.add(line)
        self.state.lines = self._journal.count
        self._plot.offer(self._journal.lines)
        self._events.add(line)

    def _save(self, name: str) -> None:
        run = {
            "settings": dataclasses.asdict(self._settings),
            "state": dataclasses.asdict(self.state),
            "data": self._data,
            "runtime": self._session.runtime,
        }
        self._journal.flush()
        self._session.save(
            self._directory / name,
            epoch=self.state.epoch,
            seed=self._settings.seed,
            extra={"run": run},
        )

    def _take_up(self, resumed: runs.Resumption) -> None:
        """Goes on from a checkpoint, and says where that is not the same run."""
        self.state = dataclasses.replace(resumed.state)
        changed = [
            f"--{name}={getattr(self._settings, name)} was {before}"
            for name, before in vars(resumed.settings).items()
            if before != getattr(self._settings, name)
        ]
        settings, ended = self._settings, runs.ended(self._settings, self.state)
        if ended == runs.PATIENCE and settings.epochs > resumed.settings.epochs:
            self.state.patience_from = self.state.epoch  # More were asked for.
        if resumed.runtime != self._session.runtime:
            changed.append(f"the runtime was {resumed.runtime}")
        if resumed.data != self._data:
            changed.append("the images or labels were others")
            if self.state.epoch_step:
                changed.append("so the epoch begins anew")
                self.state.epoch_step, self.state.loss_sum = 0, 0.0
        if changed:
            logging.warning(
                "The run goes on, and not as if never stopped: %s.", "; ".join(changed)
            )
        self._journal.rewind(self.state.lines)
        logging.info(
            "Going on after %d steps, in epoch %d.",
            self.state.steps, self.state.epoch + 1,
        )  # fmt: skip


class _Stopped(Exception):
    """Ctrl-C was pressed, and the variables are those of a whole number of steps."""


@contextlib.contextmanager
def _interruptions() -> Iterator[threading.Event]:
    """Turns the first Ctrl-C into an event; the second interrupts as ever."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked  # Signals are the main thread's.
        return

    def stop(number: int, frame: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)
        logging.info("Stopping after this step; Ctrl-C again does not wait.")

    # None: a handler that is not Python's, which only C could put back.
    before = signal.getsignal(signal.SIGINT) or signal.default_int_handler
    signal.signal(signal.SIGINT, stop)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _closing(given: Iterator) -> Iterator[None]:
    """Ends the threads behind a generator as soon as it is left."""
    try:
        yield
    finally:
        if isinstance(given, Generator):
            given.close()


def _rank(line: Mapping[str, Any]) -> tuple[float, float, float]:
    """Of an epoch: class accuracy, then recall, then a lower loss."""
    found = line["validation"]
    loss = line["loss"] if found["loss"] is None else found["loss"]
    return found["class_accuracy"], found["recall"], -loss
