"""A result as JSON on one line."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from typing import Any


def dump(result: Mapping[str, Any]) -> str:
    """Writes numpy's numbers and arrays, paths and dataclasses as JSON has them.

    Args:
      result: To write; numbers that are not finite become null.

    Raises:
      TypeError: If it holds something else.
    """
    return json.dumps(_plain(result), allow_nan=False)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy, which is not imported for this.
        return _plain(value.tolist())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
