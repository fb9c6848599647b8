"""A small trainable file, made once a process, by one that has tensorflow."""

from __future__ import annotations

import atexit
import functools
import pathlib
import subprocess
import sys
import tempfile

from tests import conftest


@functools.cache
def small() -> pathlib.Path:
    """A tiny detector of two classes that trains in whole, with Adam.

    Returns:
      Of model.tflite; inference.tflite lies beside it. They are removed at the end.
    """
    directory = tempfile.TemporaryDirectory(prefix="soak-")
    atexit.register(directory.cleanup)
    subprocess.run(
        [sys.executable, "-m", "tests.soak.models", directory.name],
        check=True,
        cwd=conftest.ROOT,
    )
    return pathlib.Path(directory.name) / "model.tflite"


def write(directory: pathlib.Path, optimizer: str = "adam") -> pathlib.Path:
    """Builds the files into a directory; everything trains with adam alone.

    Args:
      directory: That exists.
      optimizer: With another than adam the last block and the heads train.

    Returns:
      Of model.tflite.
    """
    # Here: a campaign's own process does without tensorflow.
    from ondevice.rebuild import porting
    from signatures import optimizers
    from tests import tiny_builds, tiny_detector

    recipe = tiny_detector.recipe(
        classes=("a", "b"),
        settings=optimizers.Settings(optimizer, 0.0 if optimizer == "sgd" else 1.0),
        trainable="all" if optimizer == "adam" else "blocks:1",
    )
    weights = porting.with_classes(tiny_detector.weights(), recipe.layers)
    with tiny_detector.known():
        files = tiny_builds.made(recipe, weights)
    (directory / "model.tflite").write_bytes(files.model)
    (directory / "inference.tflite").write_bytes(files.inference)
    return directory / "model.tflite"


if __name__ == "__main__":
    write(pathlib.Path(sys.argv[1]))
