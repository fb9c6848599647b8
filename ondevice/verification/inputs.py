"""What the proofs run on: noise, photographs, and batches with targets (numpy only)."""

from __future__ import annotations

import importlib.util
import itertools
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np
from absl import logging

from checkpoints import manifest as manifests
from ondevice.detection import geometry
from ondevice.device import images
from ondevice.rebuild import specs

# Kinds of probe.
NOISE, PHOTOGRAPHS, FRAMED = "noise", "photographs", "framed"

# Shares of the frame that framed photographs take.
_SHARES = (0.7, 0.5)
_NOISE_IMAGES = 2


class PhotographsError(ValueError):
    """No folder, or one without photographs."""

    exit_status = 2  # of a command that was given it: a wrong flag


# Matplotlib's sample data has one photograph of a person.
_SAMPLE = "mpl-data/sample_data/grace_hopper.jpg"


def photographs(directory: pathlib.Path | None) -> list[pathlib.Path]:
    """Photographs for the parity checks.

    Args:
      directory: Of the user's own, or None for the one that matplotlib carries.

    Returns:
      Paths, at most eight; none where matplotlib is not installed.

    Raises:
      PhotographsError: If it is no folder that holds some.
    """
    if directory is not None:
        suffixes = images.SUFFIXES
        files = sorted(directory.rglob("*"))
        found = [path for path in files if path.suffix.lower() in suffixes]
        if not found:
            raise PhotographsError(
                f"--photographs must name a folder with images ({', '.join(suffixes)})."
                f" Received: {directory}, which holds none."
            )
        # Spread over the folder, not its first class alone.
        return found[:: max(1, len(found) // 8)][:8]
    spec = importlib.util.find_spec("matplotlib")
    if spec is not None and spec.submodule_search_locations:
        sample = pathlib.Path(spec.submodule_search_locations[0]) / _SAMPLE
        if sample.is_file():
            return [sample]
    logging.warning(
        "No photograph to check on: install the extra `report`, or give --photographs."
    )
    return []


def probe_images(
    detector: manifests.Manifest | specs.DetectorSpec, paths: list[pathlib.Path]
) -> dict[str, np.ndarray]:
    """Images for parity.

    Args:
      detector: Says the size of the input, and its range.
      paths: Of photographs.

    Returns:
      Kind -> [n, S, S, 3] float32 in the model's input range: `NOISE` and, where there
      are paths, `PHOTOGRAPHS`, which fill the square, and `FRAMED`, in black frames.
    """
    size, (low, high) = detector.input_size, detector.input_range
    random = np.random.default_rng(1)
    shape = (_NOISE_IMAGES, size, size, 3)
    noise = low + (high - low) * random.random(shape, np.float32)
    probes = {NOISE: noise.astype(np.float32)}

    def shown(pixels: np.ndarray, share: float) -> np.ndarray:
        height, width = pixels.shape[:2]
        placed = images.place(pixels, geometry.letterbox(width, height, share), size)
        return images.to_input(placed, detector.input_range)

    pictures = [images.read(path) for path in paths]
    if pictures:
        squares = [_middle(pixels) for pixels in pictures]
        squares += [square[:, ::-1] for square in squares]
        probes[PHOTOGRAPHS] = np.stack([shown(square, 1.0) for square in squares])
        probes[FRAMED] = np.stack(
            [shown(pixels, share) for pixels in pictures for share in _SHARES]
        )
    return probes


def first(probes: Mapping[str, np.ndarray]) -> np.ndarray:
    """[1, S, S, 3]: a photograph where there is one, otherwise noise."""
    return probes.get(PHOTOGRAPHS, probes[NOISE])[:1]


def _middle(pixels: np.ndarray) -> np.ndarray:
    """The largest square in the middle of a picture."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def candidates(
    manifest: manifests.Manifest, paths: list[pathlib.Path]
) -> Iterator[np.ndarray]:
    """Images to train on, without end: noise and photographs placed at random.

    A part of each is grey: there every cell of a max-pool ties, which noise alone never
    shows. It reaches over two thirds of the noise, so that it outlasts small networks.

    Yields:
      [S, S, 3] float32 in the model's input range.
    """
    random = np.random.default_rng(2)
    size, (low, high) = manifest.input_size, manifest.input_range
    pictures = [images.read(path) for path in paths]
    for index in itertools.count():
        if index % 3 == 0 or not pictures:
            image = low + (high - low) * random.random((size, size, 3), np.float32)
            rows, columns = size, 2 * size // 3
        else:
            pixels = pictures[index % len(pictures)]
            height, width = pixels.shape[:2]
            share, left, top = random.uniform((0.4, 0, 0), 1)
            flip = bool(random.integers(2))
            placing = geometry.letterbox(width, height, share, (left, top), flip)
            image = images.to_input(
                images.place(pixels, placing, size), manifest.input_range
            )
            rows = columns = size // 3
        image = image.astype(np.float32)
        image[:rows, :columns] = low + 0.3 * (high - low)
        yield image


def training_batch(
    manifest: manifests.Manifest,
    shown: list[np.ndarray],
    regressors: np.ndarray,
    batch: int,
) -> dict[str, np.ndarray]:
    """One batch that a check of training uses.

    Args:
      manifest: Of the trainable file.
      shown: Images, repeated until the batch is full.
      regressors: [N, C] typical of the model; the box targets are near them.
      batch: Images in the batch.

    Returns:
      The inputs of `train` by name but for the learning rate. A last sample, where the
      batch has more than two, is padding of weight 0; some anchors are ignored.
    """
    anchors, coordinates = regressors.shape
    random = np.random.default_rng(3)
    positive = random.random((batch, anchors)) < 20 / anchors
    positive[:, 0] = True
    classes = random.integers(0, len(manifest.classes), (batch, anchors))
    one_hot = np.eye(len(manifest.classes), dtype=np.float32)[classes]
    noise = random.standard_normal((batch, anchors, coordinates), np.float32)
    sample_weights = np.ones(batch, np.float32)
    if batch > 2:
        sample_weights[-1] = 0.0
    return {
        "image": np.stack([shown[i % len(shown)] for i in range(batch)]),
        "class_targets": one_hot * positive[..., None].astype(np.float32),
        "box_targets": regressors + 0.05 * manifest.input_size * noise,
        "anchor_weights": (random.random((batch, anchors)) < 0.9).astype(np.float32),
        "sample_weights": sample_weights,
    }
