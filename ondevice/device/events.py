"""TensorBoard's event files, written where the package `tensorboard` is installed.

Its own writer imports tensorflow wherever there is one. Here its messages and records
are written to a plain file, which takes neither.
Source: tensorboard/compat/proto/event.proto;
tensorboard/backend/event_processing/event_accumulator.py, for what a reader drops.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
import socket
import time
from collections.abc import Mapping
from typing import Any

from absl import logging

from ondevice.device import journal

# What readers know the format by.
_VERSION = "brain.Event:2"


class Events:
    """The scalars of one run; without the package, nothing."""

    def __init__(self, directory: pathlib.Path, steps: int = 0) -> None:
        """Writes nothing yet.

        Args:
          directory: Made with the first line; every process that goes on with a run
            writes a file of its own there.
          steps: Steps taken so far. Readers drop what earlier files have beyond them:
            it was lost with a process that was killed, and is written again.
        """
        self._directory, self._steps = directory, steps
        self._records: Any = None
        self._works = importlib.util.find_spec("tensorboard") is not None

    def add(self, line: Mapping[str, Any]) -> None:
        """Writes one line of the journal; a full disk costs only these files."""
        if not self._works:
            return
        try:
            if self._records is None:
                self._open()
            values = [
                {"tag": tag, "simple_value": value}
                for tag, value in scalars(line).items()
            ]
            self._write(step=line["step"], summary={"value": values})
            self._records.flush()
        except (ImportError, OSError, TypeError) as error:
            # TypeError: how protobuf refuses the messages of an old tensorboard.
            self._works = False
            logging.warning("%s: no more events: %s", self._directory, error)

    def close(self) -> None:
        """Closes the file."""
        if self._records is not None:
            self._records.close()

    def _open(self) -> None:
        # Not EventFileWriter, which imports tensorflow.
        from tensorboard.summary.writer import record_writer

        self._directory.mkdir(exist_ok=True)
        # As TensorBoard names them; it reads files in the order of their names.
        seconds, rest = divmod(time.time_ns(), 10**9)
        place = f"{rest:09d}.{socket.gethostname()}.{os.getpid()}"
        name = f"events.out.tfevents.{seconds:010d}.{place}"
        file = open(self._directory / name, "xb")
        self._records = record_writer.RecordWriter(file)
        self._write(file_version=_VERSION)
        self._write(step=self._steps + 1, session_log={"status": "START"})

    def _write(self, **fields: Any) -> None:
        from tensorboard.compat.proto import event_pb2

        event = event_pb2.Event(wall_time=time.time(), **fields)
        self._records.write(event.SerializeToString())


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """Tag -> value of a line of the journal: what it measured and how it was trained.

    Steps give train/loss, train/gradient_norm, train/learning_rate and the like, epochs
    epoch/loss, their mean, and validation/loss, validation/class_accuracy and the like.
    """
    named = {"train": line}
    if line["kind"] == journal.EPOCH:
        found = {k: v for k, v in line["validation"].items() if k != "images"}
        named = {"epoch": {"loss": line["loss"]}, "validation": found}
    return {
        f"{group}/{name}": value
        for group, values in named.items()
        for name, value in values.items()
        if isinstance(value, float)  # Not "kind", "step" and what is not known.
    }
