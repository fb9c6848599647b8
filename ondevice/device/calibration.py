"""Images that show a file's activations: sampled as training places them.

Quantising to integers needs the range of every activation; pictures of the kind that
the detector will see, at the sizes at which it will see them, show it.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable

import numpy as np

from ondevice.detection import geometry
from ondevice.device import images, samples

# Of a larger folder every n-th picture is taken: from 60 to 200 the ranges grow by 1 %,
# and each picture takes 0.3 s or more.
MOST = 60


def find(folder: str | os.PathLike[str]) -> list[pathlib.Path]:
    """Pictures in a folder and in its folders, `MOST` at most, spread evenly.

    Raises:
      DataError: If there are none.
    """
    found = images.find([pathlib.Path(folder)])
    if not found or not pathlib.Path(folder).is_dir():
        faults = ["It must be a folder that holds pictures, in any folders."]
        raise samples.DataError(folder, faults)
    count = min(MOST, len(found))
    return [found[i * len(found) // count] for i in range(count)]


def read(
    paths: list[pathlib.Path],
    frame: tuple[float, float],
    size: int,
    input_range: tuple[float, float],
    progress: Callable = iter,
    seed: int = 0,
) -> list[np.ndarray]:
    """Places each picture once at random, mirrored or not, as training does.

    Args:
      paths: Of the pictures.
      frame: Range of the share of the frame's side that a picture takes.
      size: Side of the model's input in pixels.
      input_range: What the pixels 0 and 255 map to.
      progress: Wraps the paths.
      seed: Of the placings.

    Returns:
      [1, size, size, 3] float32 for each.

    Raises:
      DataError: If pictures cannot be decoded; it lists them all.
    """
    random, (low, high) = np.random.default_rng(seed), frame
    found, faults = [], []
    for path in progress(paths):
        share, x, y, flip = random.random(4).tolist()
        try:
            pixels = images.read(path)
        except images.ImageError as error:
            faults.append(str(error))
            continue
        height, width = pixels.shape[:2]
        placing = geometry.letterbox(
            width, height, low + (high - low) * share, (x, y), flip < 0.5
        )
        square = images.place(pixels, placing, size)
        found.append(images.to_input(square, input_range)[np.newaxis])
    if faults:
        raise samples.DataError("The calibration images", faults)
    return found
