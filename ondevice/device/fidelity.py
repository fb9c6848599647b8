"""What an exported file has lost: outputs, detections, accuracy.

With labelled pictures the two files are measured as `evaluate` does. Without labels,
their detections are compared: the share of the first one's that the second gives, too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from checkpoints import manifest as manifests
from ondevice.detection import anchors, decoding, geometry, metrics
from ondevice.device import detectors, evaluation, image_cache, samples, session
from signatures import contract

# What must not fall, of what `evaluation.evaluate` finds.
_GUARDED = ("class_accuracy", "recall")
_TOLD = (*_GUARDED, "mean_iou")

# A loss of exactly the bound is allowed, whatever rounding makes of it.
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """How well a file does what another one does.

    Attributes:
      figures: What the command prints of it.
      losses: Name of a share -> by how much it fell; below 0 where it rose.
    """

    figures: dict[str, Any]
    losses: dict[str, float]

    def lost(self, most: float) -> dict[str, float]:
        """The losses that are larger than `most`."""
        return {n: x for n, x in self.losses.items() if x > most + _ROUNDING}

    def described(self) -> str:
        """The figures in one line."""

        def text(value: Any) -> str:
            if isinstance(value, dict):
                return ", ".join(f"{k} {text(v)}" for k, v in value.items())
            return f"{value:.4f}" if isinstance(value, float) else str(value)

        return "; ".join(f"{k}: {text(v)}" for k, v in self.figures.items())


def measured(
    first: detectors.Detector,
    second: detectors.Detector,
    dataset: samples.Dataset,
    share: float,
    cache: image_cache.ImageCache,
    progress: samples.Progress = iter,
) -> Fidelity:
    """Measures both on labelled pictures.

    Args:
      first: The float32 model.
      second: The exported file.
      dataset: Labelled.
      share: Of the frame's side that a picture takes.
      cache: Decoded pictures.
      progress: Wraps the samples, once for each of the two.

    Returns:
      Figures {"images", "float32", "exported"}, the last two {"class_accuracy",
      "recall", "mean_iou"}; losses of class accuracy and recall, all of both where the
      float32 model gets nothing right, since nothing is known then.
    """
    found = [
        evaluation.evaluate(dataset, detector, share, cache, progress)
        for detector in (first, second)
    ]
    one, two = ({name: some[name] for name in _TOLD} for some in found)
    losses = {name: one[name] - two[name] for name in _GUARDED}
    if not any(one[name] for name in _GUARDED):
        losses = dict.fromkeys(_GUARDED, 1.0)
    return Fidelity(
        {"images": found[0]["images"], "float32": one, "exported": two}, losses
    )


def agreement(
    first: detectors.Detector,
    second: detectors.Detector,
    images: Sequence[np.ndarray],
    progress: Callable = iter,
) -> Fidelity:
    """Compares the detections of both in pictures without labels.

    Args:
      first: The float32 model.
      second: The exported file.
      images: [1, S, S, 3] float32 each.
      progress: Wraps the images.

    Returns:
      Figures {"images", "detections", "agreement"}: the share of the first file's
      detections for which the second has one of the same class with an IoU of 0.5 or
      more; 0 where the first detects nothing, since nothing is known then.
    """
    centres = anchors.centres(first.spec)

    def detections(
        detector: detectors.Detector, image: np.ndarray
    ) -> tuple[decoding.Detection, ...]:
        regressors, logits = detector.infer(image)
        size = detector.spec.input_size
        return decoding.detect(regressors[0], logits[0], centres, size)

    known = again = 0
    for image in progress(images):
        wanted, there = detections(first, image), detections(second, image)
        known += len(wanted)
        again += sum(_among(detection, there) for detection in wanted)
    share = again / known if known else 0.0
    return Fidelity(
        {"images": len(images), "detections": known, "agreement": share},
        {"agreement": 1 - share},
    )


def difference(model: session.Session, exported: session.Session) -> float:
    """max|difference| / max|output| of the two, on noise and in a black frame.

    A model that is no detector takes noise and zeros: numbers in [0, 1), integers 0
    and 1, which any vocabulary holds. It may answer zeros with NaN, as a mean over no
    token is, if the other does.
    """
    if model.manifest.spec == manifests.KERAS:
        noise, zeros = _any(model)
        figure = _difference(model.infer, exported.infer, noise)
        undefined = all(
            np.isnan(y).all()
            for opened in (model, exported)
            for y in _outputs(opened.infer, zeros)
        )
        if undefined:
            return figure
        return float(np.max([figure, _difference(model.infer, exported.infer, zeros)]))
    size, (low, high) = model.manifest.input_size, model.manifest.input_range
    drawn = np.random.default_rng(0).uniform(low, high, (1, size, size, 3))
    image = drawn.astype(np.float32)
    # In a constant patch the cells of a max-pool tie, which noise never does.
    framed = np.full_like(image, low)
    inner = slice(size // 8, size - size // 8)
    framed[:, inner, inner] = image[:, inner, inner]
    figures = [_difference(model.infer, exported.infer, [i]) for i in (image, framed)]
    return float(np.max(figures))  # np.max hands a NaN on.


def _any(model: session.Session) -> list[list[np.ndarray]]:
    """Inputs of any model: noise, then zeros."""
    specs = model.manifest.signature(contract.INFER).inputs
    rng = np.random.default_rng(0)
    noise = [
        rng.random(s.shape, np.float32)
        if s.dtype == "float32"
        else rng.integers(0, 2, s.shape).astype(s.dtype)
        for s in specs
    ]
    return [noise, [np.zeros_like(array) for array in noise]]


def _difference(
    first: Callable[..., Any], second: Callable[..., Any], inputs: list[np.ndarray]
) -> float:
    figures = []
    for expected, got in zip(_outputs(first, inputs), _outputs(second, inputs)):
        if got.shape != expected.shape:
            return math.nan
        error = np.abs(got.astype(np.float64) - expected).max()
        figures.append(float(error / max(np.abs(expected).max(), 1e-30)))
    return float(np.max(figures))


def _outputs(
    infer: Callable[..., Any], inputs: list[np.ndarray]
) -> tuple[np.ndarray, ...]:
    found = infer(*inputs)
    return found if isinstance(found, tuple) else (found,)


def _among(
    detection: decoding.Detection, others: Iterable[decoding.Detection]
) -> bool:
    box = np.array(detection.box)
    return any(
        other.class_index == detection.class_index
        and geometry.iou(box, np.array(other.box)) >= metrics.MIN_IOU
        for other in others
    )
