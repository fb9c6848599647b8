"""Prints how much of the code the tests run, by package; CI shows it.

Example:
  python -m pytest -n auto --dist loadfile --cov --cov-report=json:coverage.json
  python -m tests.covered coverage.json

What tests run in processes that they start, as the commands, is not counted. The last
line of stdout is one JSON object: {"lines", "branches"}, the shares of all that ran.
"""

from __future__ import annotations

import collections
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ondevice import commands

FLAGS = commands.flag_values()

_ROW = "{:<24}{:>7}{:>9}{:>9}{:>10}{:>9}"
_COUNTS = ("num_statements", "covered_lines", "num_branches", "covered_branches")


def main(arguments: Sequence[str]) -> commands.Outcome:
    if len(arguments) != 1:
        raise commands.UsageError(
            f"There must be one report of coverage's. Received: {list(arguments)}."
        )
    path = pathlib.Path(commands.existing(arguments[0], "The report"))
    try:
        report = json.loads(path.read_text())
        print(table(report))
        totals = report["totals"]
    except (ValueError, KeyError, TypeError) as error:
        raise commands.UserError(
            f"{path} must hold what `coverage json` writes, with branches. "
            f"Received: {error!r}."
        ) from error
    lines, run, branches, taken = (totals[key] for key in _COUNTS)
    shares = {"lines": run / max(1, lines), "branches": taken / max(1, branches)}
    return commands.Outcome(shares)


def table(report: Mapping[str, Any]) -> str:
    """The figures of coverage's JSON report, package by package, and the total.

    Args:
      report: What `coverage json` writes.

    Returns:
      Lines of text; the last one has the total.
    """
    packages: dict[str, collections.Counter[str]] = {}
    for path, file in report["files"].items():
        package = pathlib.PurePath(path).parent.as_posix()
        counts = packages.setdefault(package, collections.Counter())
        counts.update({name: file["summary"][name] for name in _COUNTS})
        counts["files"] += 1
    lines = [_ROW.format("package", "files", "lines", "run", "branches", "taken")]
    total: collections.Counter[str] = collections.Counter()
    for package, counts in sorted(packages.items()):
        lines.append(_row(package, counts))
        total.update(counts)
    return "\n".join([*lines, _row("total", total)])


def _row(name: str, counts: Mapping[str, int]) -> str:
    lines, run, branches, taken = (counts[key] for key in _COUNTS)
    return _ROW.format(
        name, counts["files"], lines, _share(run, lines), branches,
        _share(taken, branches),
    )  # fmt: skip


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


if __name__ == "__main__":
    commands.run(main, __doc__, FLAGS)
