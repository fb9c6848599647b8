"""A detector that runs, as data and evaluation see it: an `infer` and its data.

A session's `infer`, a bare interpreter, or a plain function in a test fit alike.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from ondevice.detection import anchors, decoding, geometry
from ondevice.device import images

# image [1, S, S, 3] -> (regressors [1, N, C], classificators [1, N, K])
Infer = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Detector:
    """What it takes to detect.

    Attributes:
      infer: image [1, S, S, 3] float32 -> regressors [1, N, C] and classificators
        [1, N, K], as the signature `infer` gives them.
      spec: Parameters of the anchors.
      input_range: What the pixels 0 and 255 map to.
      digest: Hex SHA-256 of the weights; "" where it is not known, and nothing is kept.
      min_score: Lowest score of a detection unless another is asked for.
    """

    infer: Infer
    spec: anchors.AnchorSpec
    input_range: tuple[float, float]
    digest: str = ""
    min_score: float = decoding.MIN_SCORE

    @functools.cached_property
    def _centres(self) -> np.ndarray:
        return anchors.centres(self.spec)

    def outputs(
        self, pixels: np.ndarray, placing: geometry.Affine
    ) -> tuple[np.ndarray, np.ndarray]:
        """Regressors [N, C] and logits [N, K] of a picture placed in the square."""
        square = images.place(pixels, placing, self.spec.input_size)
        image = images.to_input(square, self.input_range)[np.newaxis]
        regressors, logits = self.infer(image)
        return regressors[0], logits[0]

    def seen(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """What the detector sees at each anchor.

        Args:
          image: [S, S, 3] float32.

        Returns:
          `regressors` [N, C], and `scores` [N] in [0, 1], of the best class.
        """
        regressors, logits = self.infer(image[np.newaxis])
        scores = decoding.scores(logits[0].max(axis=-1))
        return {"regressors": regressors[0], "scores": scores}

    def detect(
        self,
        pixels: np.ndarray,
        share: float = 1.0,
        min_score: float | None = None,
        any_class: bool = False,
    ) -> tuple[decoding.Detection, ...]:
        """Detections in a picture, fixed in the middle of the frame.

        Args:
          pixels: [height, width, 3] uint8.
          share: Of the frame's side that the picture takes.
          min_score: Lowest score of a detection; None takes the detector's own.
          any_class: Whether an anchor counts by its best class, as class 0.

        Returns:
          Detections in units of the picture, by falling score.
        """
        height, width = pixels.shape[:2]
        placing = geometry.letterbox(width, height, share)
        regressors, logits = self.outputs(pixels, placing)
        if any_class:
            logits = logits.max(axis=-1, keepdims=True)
        if min_score is None:
            min_score = self.min_score
        found = decoding.detect(
            regressors, logits, self._centres, self.spec.input_size, min_score
        )
        return tuple(decoding.remove_letterbox(d, placing) for d in found)
