"""Detects hands or faces in pictures, and draws what it finds.

Examples:
  python -m ondevice.detect --model=out/palm_full/model.tflite --output_dir=out/found \\
      photo.jpg holidays/
      Every image of the folder as well; the pictures with boxes, keypoints, class and
      score drawn into them go to out/found.
  python -m ondevice.detect --model=out/palm_full/model.tflite --min_score=0.3 \\
      --checkpoint=out/run/best.safetensors --output_dir=out/found photo.jpg
      The same with the weights that training reached.

The last line of stdout is one JSON object: {"images": [{"path", "width", "height",
"detections": [{"box": [xmin, ymin, xmax, ymax], "score", "class", "keypoints":
[[x, y], ...]}]}], "failed": [{"path", "error"}]}, in units of the picture's width and
height. Images that cannot be read are passed over, and the exit status is 1 then.
"""

from __future__ import annotations

import dataclasses
import io
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags, logging

from ondevice import commands

if TYPE_CHECKING:
    from ondevice.detection import decoding

FLAGS = commands.flag_values()
_MODEL = flags.DEFINE_string("model", None, "The .tflite.", flag_values=FLAGS)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Weights for a trainable --model.", flag_values=FLAGS
)
_MIN_SCORE = flags.DEFINE_float(
    "min_score",
    None,
    "Lowest score of a detection. Default: 0.5, for some faces MediaPipe's own 0.6, "
    "0.65, 0.75.",
    0.0,
    1.0,
    flag_values=FLAGS,
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Where pictures are written.", flag_values=FLAGS
)
_RUNTIME, _THREADS = commands.define_runtime(FLAGS)

# Of the pictures written; beyond these a JPEG's bytes buy nothing to see.
_QUALITY = 92


@dataclasses.dataclass(frozen=True)
class DetectConfig:
    """What to detect in; see the flags."""

    model: pathlib.Path
    images: tuple[pathlib.Path, ...]
    output_dir: pathlib.Path
    checkpoint: pathlib.Path | None = None
    min_score: float | None = None
    runtime: str = "auto"
    threads: int | None = None


def detect(config: DetectConfig) -> dict[str, Any]:
    """Detects and draws.

    Returns:
      The JSON object of the command.

    Raises:
      ValueError: If there is no image, or model and checkpoint do not do.
      OSError: If the model cannot be read or a picture not be written.
    """
    from checkpoints import atomic
    from ondevice.device import images, opening

    paths = images.find(config.images)
    if not paths:
        raise commands.UserError(
            "There must be an image. Received: "
            f"{', '.join(map(str, config.images))}, with none of "
            f"{' '.join(images.SUFFIXES)}."
        )
    found: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    running = (config.runtime, config.threads)
    with opening.open_detector(config.model, config.checkpoint, *running) as opened:
        atomic.make_directory(config.output_dir)
        # Where pictures go to the folder they came from, none of them is overwritten.
        folder = config.output_dir.resolve()
        taken = {p.name.lower() for p in paths if p.resolve().parent == folder}
        for path in commands.progress(paths, "images"):
            try:
                pixels = images.read(path)
            except images.ImageError as error:
                logging.error("%s", error)
                failed.append({"path": str(path), "error": str(error)})
                continue
            detections = opened.detector.detect(pixels, min_score=config.min_score)
            _draw(pixels, detections, opened.classes, config.output_dir, path, taken)
            found.append(
                {
                    "path": str(path),
                    "width": pixels.shape[1],
                    "height": pixels.shape[0],
                    "detections": [
                        {
                            "box": list(detection.box),
                            "score": detection.score,
                            "class": opened.classes[detection.class_index],
                            "keypoints": [list(xy) for xy in detection.keypoints],
                        }
                        for detection in detections
                    ],
                }
            )
    return {"images": found, "failed": failed}


def main(arguments: Sequence[str]) -> commands.Outcome:
    if not arguments:
        raise commands.UsageError(
            "There must be one argument or more, images or folders. Received: none."
        )
    found = detect(
        DetectConfig(
            model=commands.required_path(_MODEL),
            images=tuple(
                pathlib.Path(commands.existing(argument, "An image or folder"))
                for argument in arguments
            ),
            output_dir=pathlib.Path(_OUTPUT_DIR.value or ""),
            checkpoint=commands.optional_path(_CHECKPOINT),
            min_score=_MIN_SCORE.value,
            runtime=_RUNTIME.value,
            threads=_THREADS.value,
        )
    )
    return commands.Outcome(found, holds=not found["failed"])


def _draw(
    pixels: Any,
    detections: Sequence[decoding.Detection],
    classes: Sequence[str],
    directory: pathlib.Path,
    path: pathlib.Path,
    taken: set[str],
) -> None:
    """Writes the picture under its own name, numbered where another has it."""
    from PIL import Image

    from checkpoints import atomic
    from ondevice.detection import drawing

    name, number = f"{path.stem}.jpg", 1
    while name.lower() in taken:  # Some file systems do not tell cases apart.
        number += 1
        name = f"{path.stem}_{number}.jpg"
    taken.add(name.lower())
    stream = io.BytesIO()
    picture = drawing.draw(Image.fromarray(pixels), detections, classes)
    picture.save(stream, format="JPEG", quality=_QUALITY)
    atomic.write(directory / name, [stream.getvalue()])


if __name__ == "__main__":
    flags.mark_flags_as_required([_MODEL, _OUTPUT_DIR], flag_values=FLAGS)
    commands.run(main, __doc__, FLAGS)
