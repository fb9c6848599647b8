"""Runs a case in a forked process, where what it calls may crash."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Mapping

from ondevice.device import endings


def run(case: Callable[[], Mapping[str, int]]) -> Mapping[str, int]:
    """Runs a case, and returns what it returns.

    Raises:
      AssertionError: If it raised, or its process died.
    """
    into, out = os.pipe()
    child = os.fork()
    if not child:
        os.close(into)
        answer: dict = {}
        try:
            answer = {"found": dict(case())}
        except BaseException:  # Whatever it is, the parent tells it.
            answer = {"error": traceback.format_exc()[-4000:]}
        with os.fdopen(out, "w") as stream:
            json.dump(answer, stream)
        os._exit(0)
    os.close(out)
    with os.fdopen(into) as stream:
        text = stream.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert text and status == 0, endings.told(status, "")
    answer = json.loads(text)
    assert "found" in answer, answer["error"]
    return answer["found"]
