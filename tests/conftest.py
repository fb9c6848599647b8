"""What the tests share: flags that have a value, and the data beside the repository."""

from __future__ import annotations

import os
import pathlib

import pytest
from absl import flags

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

# Under pytest nobody parses a command line; this gives every flag its default.
flags.FLAGS.mark_as_parsed()


def shared(*parts: str) -> pathlib.Path:
    """Returns the path of shared data, `shared("models", "x.tflite")`.

    Where it is missing the test is skipped; with CI=true in the environment it fails.
    """
    path = SHARED.joinpath(*parts)
    if not path.exists():
        missing = f"{os.path.join('..', 'shared', *parts)} is missing"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return path
