"""What a benchmark found, for people, and beside an earlier one."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from ondevice.measuring import timing

# A ratio that grew by more than this factor is worse: what a tenth is, and noise below.
WORSE = 1.1

_LABELS = (
    "what", "contender", "signature", "runtime", "threads", "trainable", "batch",
    "classes",
)  # fmt: skip


class BaselineError(ValueError):
    """A file that is no result of a benchmark."""

    exit_status = 2  # Of a command that was given it: a wrong flag.


def table(found: Mapping[str, Any]) -> str:
    """Returns rows, ratios and what is missing, a line each."""
    lines = [
        f"{'median ms':>10}{'quartiles':>20}{'cpu ms':>10}{'peak MB':>9}  "
        "what, contender, signature, runtime, threads, trainable, batch, classes"
    ]
    for row in found["rows"]:
        low, high = row["spread_ms"]
        labels = (row.get(key) for key in _LABELS)
        said = ", ".join(str(label) for label in labels if label not in ("", None))
        spread = f"{low:.2f} - {high:.2f}"
        memory = row.get("peak_memory")
        peak = f"{memory / 1e6:.0f}" if memory else "-"
        lines.append(
            f"{row['median_ms']:>10.2f}{spread:>20}{row['cpu_ms']:>10.2f}{peak:>9}  "
            f"{said}"
        )
    lines.append(f"{'ratio':>10}{'quartiles':>20}{'cpu':>10}  bound, what")
    for name, ratio in found["ratios"].items():
        bound = f"<= {ratio['bound']:g}" if "bound" in ratio else "-"
        missed = "" if ratio.get("holds", True) else "  MISSED"
        spread = computed = "-"
        if "quartiles" in ratio:  # Memory has none.
            spread = "{:.3f} - {:.3f}".format(*ratio["quartiles"])
            computed = f"{ratio['cpu_median']:.3f}"
        lines.append(
            f"{ratio['median']:>10.3f}{spread:>20}{computed:>10}  "
            f"{bound}, {name}{missed}"
        )
    for entry in found.get("missing", ()):
        said = ", ".join(str(v) for k, v in entry.items() if k != "reason" and v != "")
        lines.append(f"not measured: {said}: {entry['reason']}")
    for entry in found.get("worse", ()):
        lines.append(
            f"WORSE by {entry['factor']:.2f}: {entry['before']:.3f} -> "
            f"{entry['after']:.3f}, {entry['ratio']}"
        )
    return "\n".join(lines)


def read(path: pathlib.Path) -> dict[str, float]:
    """Reads the ratios of an earlier result.

    Args:
      path: Of what the command printed; its last line counts.

    Returns:
      Name -> the figure that is judged.

    Raises:
      BaselineError: If there is no such result in it.
      OSError: If it cannot be read.
    """
    try:
        lines = path.read_text().splitlines()
        ratios = json.loads(lines[-1])["ratios"]
        return {name: judged(ratio) for name, ratio in ratios.items()}
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise BaselineError(
            "--baseline must be what an earlier ondevice.benchmark printed. Received: "
            f"{path}, {type(error).__name__}: {error}."
        ) from error


def worse(
    ratios: Mapping[str, Mapping[str, Any]], earlier: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Lists the ratios that grew by more than a tenth, the worst first.

    Args:
      ratios: Of this run.
      earlier: Of another, from `read`; those that only one has are passed over.
    """
    factors = {
        name: judged(ratio) / earlier[name]
        for name, ratio in ratios.items()
        if earlier.get(name, 0) > 0
    }
    return [
        {
            "ratio": name,
            "before": earlier[name],
            "after": judged(ratios[name]),
            "factor": factors[name],
        }
        for name in sorted(factors, key=lambda name: factors[name], reverse=True)
        if factors[name] > WORSE
    ]


def judged(ratio: Mapping[str, Any]) -> float:
    """The figure of a ratio that counts: the processor's, where that judges."""
    which = "cpu_median" if ratio.get("judged") == timing.CPU else "median"
    return float(ratio[which])
