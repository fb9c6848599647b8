"""The tables of docs/routes.md and its picture, from what the other parts found."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import figure

from docs.routes import converting

RUNTIMES = {"ai_edge_litert": "ai-edge-litert", "tflite_runtime": "tflite-runtime"}
ROUTES = {"pytorch": "PyTorch", "tensorflow": "TensorFlow", "tflite": "TFLite"}
TITLES = {
    "ondevice": "**`ondevice.pytorch import`**",
    **{tool.name: tool.title for tool in converting.TOOLS},
}

# Of an error, in characters.
_LONGEST = 320

_ALIKE, _TRANSPOSES, _OTHERS = "#7f9fbf", "#c0392b", "#e6a23c"


def write(folder: pathlib.Path, document: pathlib.Path) -> None:
    """Fills the document's tables in, and draws the picture beside it.

    A table stands between `<!-- table: NAME -->` and `<!-- end -->`. One of a part that
    has not run stays as it is.

    Args:
      folder: Has train.json, convert.json and speed.json, or some of them.
      document: The Markdown; the picture has its name, and ends in .png.

    Raises:
      ValueError: If a table has no place in the document.
      OSError: If a file cannot be read or written.
    """
    train, convert, speed = (
        json.loads(path.read_text()) if path.exists() else None
        for path in (folder / f"{part}.json" for part in ("train", "convert", "speed"))
    )
    text, tables = document.read_text(), {}
    if train and speed:
        tables["routes"] = routes(train, speed["palm_full"])
    if convert:
        tables["installed"] = installed(convert)
    if convert and speed:
        tables["failures"] = failures(convert, speed)
        for name, found in convert["detectors"].items():
            tables[name] = tools(found, speed[name])
        draw(convert, speed, document.with_suffix(".png"))
    for name, table in tables.items():
        pattern = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, places = pattern.subn(lambda m: m[1] + table + m[2], text)
        if places != 1:
            raise ValueError(
                f"{document} must have one place for the table {name!r}. "
                f"Received: {places}."
            )
    document.write_text(text)


def trained(trainable: str, route: str) -> str:
    """Name of a route's frozen file, among those that are measured."""
    return f"trained_{trainable.replace(':', '_')}_{route}.tflite"


def routes(train: Mapping[str, Any], speed: Mapping[str, Any]) -> str:
    """What each route reaches, takes and leaves behind."""
    rows = []
    for trainable, problem in train.items():
        for route, title in ROUTES.items():
            found = problem[route]
            row = [f"`{trainable}`", title, *_reached(found, problem["job"])]
            rows.append([*row, *_ratios(trained(trainable, route), speed)])
    head = [
        "what trains", "route", "epochs", "class accuracy", "recall",
        "loss, first step",
        "loss, last epoch", "CPU ms, features of a picture", "CPU ms, a step",
        "CPU s in all, but the pictures", "s until ready",
        "peak GB", "operators", "TRANSPOSE",
        "bytes", *(f"{title}, over the vendor's" for title in RUNTIMES.values()),
    ]  # fmt: skip
    return _table(head, rows)


def tools(found: Mapping[str, Any], speed: Mapping[str, Any]) -> str:
    """What each tool makes of one detector, against the vendor's file."""
    rows = [
        [
            "the vendor's file",
            str(found["vendor"]["operators"]),
            str(found["vendor"]["transposes"]),
            "",
            f"{found['vendor']['bytes']:,}",
            _apart("vendor.tflite", speed),
            *_ratios("vendor.tflite", speed),
        ]
    ]
    for name, row in found["tools"].items():
        if row["error"]:
            rows.append([TITLES[name], "fails", "", "", "", "", "", ""])
            continue
        rows.append(
            [
                TITLES[name],
                str(row["operators"]),
                str(row["transposes"]),
                _difference(row),
                f"{row['bytes']:,}",
                _apart(f"{name}.tflite", speed),
                *_ratios(f"{name}.tflite", speed),
            ]
        )
    head = [
        "made by", "operators", "TRANSPOSE", "more, and fewer, than the vendor's",
        "bytes", "from PyTorch's outputs",
        *(f"time on {title}" for title in RUNTIMES.values()),
    ]  # fmt: skip
    return _table(head, rows)


def installed(convert: Mapping[str, Any]) -> str:
    """What each tool needs, as pip installs it by name."""
    rows = []
    for tool in converting.TOOLS:
        found = convert["environments"].get(tool.environment)
        title = tool.title.split(",")[0]
        if found is None or any(row[0] == title for row in rows):
            continue
        named = [f"{p} {found['versions'].get(p, '-')}" for p in tool.packages]
        rows.append([title, ", ".join(named), str(found["megabytes"])])
    for route, title in ROUTES.items():
        size = convert["routes"][route]
        further = f", {size['in_all']} to come back"
        further = further if size["in_all"] != size["to_train"] else ""
        rows.append([f"ondevice, {title}", "", f"{size['to_train']} to train{further}"])
    return _table(["tool", "versions", "MB"], rows)


def failures(convert: Mapping[str, Any], speed: Mapping[str, Any]) -> str:
    """What tools and runtimes said, word for word; what several said alike, once."""
    said: dict[str, list[str]] = {}
    for detector, found in convert["detectors"].items():
        for name, row in found["tools"].items():
            errors = {"": row["error"]}
            if not row["error"]:
                errors = {
                    f" in {title}": speed[detector][runtime][f"{name}.tflite"]["error"]
                    for runtime, title in RUNTIMES.items()
                }
            for where, error in errors.items():
                if error:
                    alike = said.setdefault(error[: _LONGEST // 2], [_quoted(error)])
                    alike.append(f"{TITLES[name]}, {detector}{where}")
    lines = [f"- {'; '.join(who)}: {quote}" for quote, *who in said.values()]
    return "\n".join(lines or ["None."]) + "\n"


def _quoted(error: str) -> str:
    """An error as it was, its middle left out where it is long."""
    if len(error) > _LONGEST:
        error = f"{error[: _LONGEST // 2]} [...] {error[-_LONGEST // 2 :]}"
    return f"`{error.replace('`', chr(39))}`"


def draw(
    convert: Mapping[str, Any], speed: Mapping[str, Any], path: pathlib.Path
) -> None:
    """Bars: the operators of palm_full's files, and their times beside the vendor's."""
    found = convert["detectors"]["palm_full"]
    made = {"vendor": found["vendor"]}
    made |= {n: row for n, row in found["tools"].items() if not row["error"]}
    titles = [TITLES.get(name, "the vendor's file") for name in made]
    names = [title.strip("*").replace("`", "") for title in titles]
    page = figure.Figure(figsize=(10, 1 + 0.45 * len(made)), layout="constrained")
    left, right = page.subplots(1, 2, sharey=True)
    _draw_operators(left, list(made.values()))
    left.set(title="operators", yticks=range(len(made)), yticklabels=names)
    left.invert_yaxis()
    for shift, (runtime, title) in zip((-0.2, 0.2), RUNTIMES.items()):
        ratios = [_ratio(f"{n}.tflite", speed["palm_full"][runtime]) for n in made]
        places = [place + shift for place in range(len(made))]
        right.barh(places, [r or 0 for r in ratios], height=0.4, label=title)
    right.axvline(1, color="grey", linewidth=0.8)
    right.set(title="time of a call, the vendor's file = 1")
    for axes in (left, right):
        axes.legend(loc="lower right", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    page.savefig(path, dpi=90)


def _draw_operators(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """A bar for each file: what the vendor's has too, what it has not, TRANSPOSE."""
    transposes = [row["transposes"] for row in rows]
    others = [sum(row["more"].values()) for row in rows]
    others = [n - t for n, t in zip(others, transposes)]
    alike = [r["operators"] - o - t for r, o, t in zip(rows, others, transposes)]
    start = [0] * len(rows)
    for label, colour, widths in (
        ("as in the vendor's file", _ALIKE, alike),
        ("others", _OTHERS, others),
        ("TRANSPOSE", _TRANSPOSES, transposes),
    ):
        axes.barh(range(len(rows)), widths, left=start, color=colour, label=label)
        start = [a + b for a, b in zip(start, widths)]


def _reached(found: Mapping[str, Any], job: Mapping[str, Any]) -> list[str]:
    """The columns of a route, its times beside the vendor's apart."""
    losses = found["losses"]
    last = losses[-(len(losses) // job["epochs"]) :]
    return [
        f"{job['epochs']}",
        f"{found['class_accuracy']:.3f}",
        f"{found['recall']:.3f}",
        f"{losses[0]:.4f}",
        f"{sum(last) / len(last):.4f}",
        "-" if found["features_cpu_ms"] is None else f"{found['features_cpu_ms']:.0f}",
        f"{found['step_cpu_ms']:.0f}",
        f"{found['cpu_seconds']:.0f}",
        f"{found['ready_seconds']:.0f}",
        f"{found['peak_memory'] / 1e9:.2f}",
        f"{found['operators']}",
        f"{found['transposes']}",
        f"{found['bytes']:,}",
    ]


def _apart(name: str, speed: Mapping[str, Any]) -> str:
    apart = speed["ai_edge_litert"][name].get("apart")
    return f"{max(apart.values()):.1e}" if apart else "-"


def _ratios(name: str, speed: Mapping[str, Any]) -> list[str]:
    ratios = [_ratio(name, speed[runtime]) for runtime in RUNTIMES]
    return ["fails" if ratio is None else f"{ratio:.2f}" for ratio in ratios]


def _ratio(name: str, files: Mapping[str, Any]) -> float | None:
    """A file's time over the vendor's, of the processor; None where it failed."""
    ratio = files[name].get("ratio")
    return ratio and ratio["cpu_median"]


def _difference(row: Mapping[str, Any]) -> str:
    signed = [
        f"{sign}{number} {kind}"
        for sign, kinds in (("+", row["more"]), ("-", row["fewer"]))
        for kind, number in kinds.items()
    ]
    return ", ".join(signed) or "none"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(line)} |\n" for line in (head, *rows)]
    return "".join([lines[0], f"|{'---|' * len(head)}\n", *lines[1:]])
