"""Compares exported files: size, speed, and accuracy on the same images.

    python -m ondevice.sizes --data=unseen --frame=0.55 \\
        --labels_from=out/signs/model.tflite \\
        out/float32.tflite out/float16.tflite out/int8.tflite

The first file is what the others are held against: `speed` is its time over the
other's, in each runtime that is installed, measured by turns (medians), or null where
the runtime does not run the file. Images without boxes get them from --labels_from.
The table, in Markdown, goes to stdout; the last line is one JSON object: {"rows":
[{"file", "bytes", "class_accuracy", "recall", "mean_iou", "speed": {RUNTIME: RATIO}}],
"images"}.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from ondevice import commands

FLAGS = commands.flag_values()
_DATA = flags.DEFINE_string(
    "data", None, "Images, as --data of ondevice.evaluate.", flag_values=FLAGS
)
_LABELS_FROM = flags.DEFINE_string(
    "labels_from",
    None,
    "The .tflite that draws boxes where images have none. Default: the first file.",
    flag_values=FLAGS,
)
_FRAME = flags.DEFINE_string(
    "frame",
    "1.0",
    "Share of the black frame's side that an image takes, in the middle.",
    flag_values=FLAGS,
)
_RUNS = flags.DEFINE_integer(
    "runs", 30, "Runs of each file to time.", lower_bound=1, flag_values=FLAGS
)
_RUNTIME, _THREADS = commands.define_runtime(FLAGS)

_FIGURES = ("class_accuracy", "recall", "mean_iou")


@dataclasses.dataclass(frozen=True)
class SizesConfig:
    """What to compare, on what; see the flags."""

    files: tuple[pathlib.Path, ...]
    data: pathlib.Path
    labels_from: pathlib.Path | None = None
    share: float = 1.0
    runs: int = 30
    runtime: str = "auto"
    threads: int | None = None


def compare(config: SizesConfig) -> dict[str, Any]:
    """Measures every file.

    Returns:
      The JSON object of the command.

    Raises:
      ValueError: If something that was given does not do.
      OSError: If a file cannot be read.
    """
    from ondevice.device import evaluation, image_cache, labelled, opening, timing

    running = (config.runtime, config.threads)
    cache = image_cache.ImageCache()
    with opening.open_detector(config.files[0], None, *running) as opened:
        classes = opened.classes
    (dataset,) = labelled.load(
        [config.data],
        classes,
        functools.partial(
            opening.open_detector,
            config.labels_from or config.files[0],
            None,
            *running,
        ),
        cache,
        None,
        commands.progress,
        chosen=config.labels_from is not None,
    )
    rows: list[dict[str, Any]] = []
    images = 0
    for path in config.files:
        with opening.open_detector(path, None, *running) as opened:
            found = evaluation.evaluate(
                dataset,
                opened.detector,
                config.share,
                cache,
                functools.partial(commands.progress, description=path.name),
            )
        images = found["images"]
        row = {"file": str(path), "bytes": path.stat().st_size}
        rows.append(row | {name: found[name] for name in _FIGURES})
    contents = [path.read_bytes() for path in config.files]
    threads = opening.thread_count(config.threads)
    ratios = timing.ratios(contents, config.runs, threads)
    for place, row in enumerate(rows):
        row["speed"] = {name: each[place] for name, each in ratios.items()}
    return {"rows": rows, "images": images}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    runtimes = list(rows[0]["speed"])
    heads = [
        "file", "bytes", *(f"speed, {name}" for name in runtimes), "class accuracy",
        "recall", "mean IoU",
    ]  # fmt: skip
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        ratios = [row["speed"][name] for name in runtimes]
        shares = [row[name] for name in _FIGURES]
        lines.append(
            [
                pathlib.Path(row["file"]).name,
                f"{row['bytes']:,}",
                *("does not run" if x is None else f"{x:.2f}" for x in ratios),
                *(f"{share:.3f}" for share in shares),
            ]
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main(arguments: Sequence[str]) -> dict[str, Any]:
    if not arguments:
        raise commands.UsageError(
            "There must be one argument or more, exported files. Received: none."
        )
    found = compare(
        SizesConfig(
            files=tuple(
                pathlib.Path(commands.existing(argument, "A file"))
                for argument in arguments
            ),
            data=commands.required_path(_DATA),
            labels_from=commands.optional_path(_LABELS_FROM),
            share=commands.frame_share(_FRAME.value),
            runs=_RUNS.value,
            runtime=_RUNTIME.value,
            threads=_THREADS.value,
        )
    )
    print(table(found["rows"]))
    return found


if __name__ == "__main__":
    flags.mark_flags_as_required([_DATA], flag_values=FLAGS)
    commands.run(main, __doc__, FLAGS)
