"""A contender in a process of its own, called through a pipe.

Contenders disturb each other in one process: where tensorflow is imported the other
runtimes find its Flex delegate, thread pools multiply, and memory cannot be told apart.
So each has its own, they are called in turn, and each measures itself.

    with Worker(Task("product", {}, labels={"contender": "numpy"})) as worker:
        worker.turn(None, timing.Clock())   # {"call": (seconds, seconds)}

The process, `python -m ondevice.measuring.worker`, reads a line of JSON that says what
it is to prepare, says whether it is ready, and then calls it at each line that follows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from typing import Any, TextIO

from ondevice.device import endings, usage
from ondevice.measuring import timing
from ondevice.measuring.peers import missing

CALL = "call"

# Of the package that the modules of contenders are in.
_PEERS = "ondevice.measuring.peers"
_ROOT = str(pathlib.Path(__file__).resolve().parents[2])

# Seconds: TensorFlow traces a training step for a minute on a busy machine.
_PREPARING, _CALLING = 900.0, 300.0

# Seconds: how long to look for threads that still spin, OpenBLAS' 2**26 cycles and
# more; how long at a time.
_RESTLESS, _REST = 0.5, 0.005

# What says how many threads a library has, where it is said in the environment.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclasses.dataclass(frozen=True)
class Task:
    """What a worker is to run.

    Attributes:
      peer: Module of `ondevice.measuring.peers`.
      options: For its `prepare`; JSON.
      labels: What the contender's rows say of it, "threads" among them.
      python: Interpreter of another environment; "" for this one.
    """

    peer: str
    options: Mapping[str, Any]
    labels: Mapping[str, Any]
    python: str = ""


class WorkerError(ValueError):
    """A worker that ended while it was measured."""


class Worker:
    """One contender's process.

    Attributes:
      labels: The task's.
    """

    def __init__(self, task: Task) -> None:
        """Starts the process and waits until it is ready.

        Raises:
          Missing: If the contender cannot take part.
        """
        self.labels = task.labels
        self._errors = tempfile.TemporaryFile()
        environment = os.environ | {
            name: str(task.labels["threads"]) for name in _THREADS
        }
        environment |= {"PYTHONPATH": _python_path(), "TF_CPP_MIN_LOG_LEVEL": "3"}
        try:
            self._process = subprocess.Popen(
                [task.python or sys.executable, "-m", "ondevice.measuring.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                env=environment,
            )
        except OSError as error:
            self._errors.close()
            raise missing.Missing(f"{error.strerror}: {task.python}") from error
        wanted = {"peer": task.peer, "options": task.options}
        answer = self._ask(wanted, _PREPARING)
        if "missing" in answer:
            self.close()
            raise missing.Missing(answer["missing"])

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def turn(self, value: Any, clock: timing.Clock) -> dict[str, tuple[float, float]]:
        """Calls the contender; it has its input, and its own clocks.

        Raises:
          WorkerError: If the process ended, or does not answer.
        """
        del value, clock
        answer = self._ask({"call": 1}, _CALLING)
        if "missing" in answer:
            raise WorkerError(
                f"A contender must keep running. Received: {answer['missing']}; "
                f"{dict(self.labels)}."
            )
        return {CALL: (answer["wall"], answer["cpu"])}

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def peak_memory(self) -> int | None:
        """Bytes, as `usage.peak_memory` counts them in the process."""
        return self._ask({"memory": 1}, _CALLING).get("memory")

    def close(self) -> None:
        """Ends the process; twice does nothing."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(OSError):  # What was not flushed is not wanted.
                assert stream is not None
                stream.close()

    def _ask(self, question: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Sends a line and returns the answer; "missing" is how the process ended."""
        assert self._process.stdin and self._process.stdout
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        watch = threading.Timer(timeout, end)
        watch.start()
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        finally:
            watch.cancel()
        if line:
            return json.loads(line)
        self._process.wait()
        if late.is_set():
            return {"missing": f"no answer within {timeout:g} seconds"}
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace")
        return {"missing": endings.told(self._process.returncode, said)}


def _python_path() -> str:
    found = os.environ.get("PYTHONPATH")
    return os.pathsep.join([_ROOT, found] if found else [_ROOT])


def _serve(questions: TextIO, answers: TextIO) -> None:
    """The process's side."""

    def answer(content: Mapping[str, Any]) -> None:
        print(json.dumps(content), file=answers, flush=True)

    wanted = json.loads(questions.readline())
    try:
        peer = importlib.import_module(f"{_PEERS}.{wanted['peer']}")
        call = peer.prepare(wanted["options"])
    except (missing.Missing, ImportError) as error:
        answer({"missing": " ".join(str(error).split())})
        return
    answer({"ready": True})
    gc.collect()
    gc.disable()
    for line in questions:
        if "memory" in json.loads(line):
            answer({"memory": usage.peak_memory()})
            continue
        started, computed = time.perf_counter(), time.process_time()
        call()
        computed, ended = time.process_time() - computed, time.perf_counter()
        _rest()
        answer({"wall": ended - started, "cpu": computed})


def _rest() -> None:
    """Returns when this process computes no more, so that the next one's turn is its.

    Threads that wait for work go on spinning after a call, on a processor that the next
    contender's second thread needs.
    """
    end = time.perf_counter() + _RESTLESS
    while time.perf_counter() < end:
        before = time.process_time()
        time.sleep(_REST)
        if time.process_time() - before < _REST / 2:
            return


if __name__ == "__main__":
    # Libraries print what they like to stdout; the pipe is for answers alone.
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _serve(sys.stdin, pipe)
