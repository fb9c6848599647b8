"""How an inference file stores its weights, and what it computes with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

WEIGHTS = ("float32", "float16", "int8")
# Numbers between the layers: floats; floats, but rounded to int8 for each product when
# the file runs; integers all the way, whose ranges calibration images have shown.
ACTIVATIONS = ("float32", "dynamic", "int8")


@dataclasses.dataclass(frozen=True)
class Precision:
    """How an inference file stores its weights, and what it computes with.

    Attributes:
      weights: One of `WEIGHTS`.
      activations: One of `ACTIVATIONS`; other than float32 with int8 weights alone.
      images: [1, S, S, 3] float32 each, to calibrate int8 activations by.
    """

    weights: str = "float32"
    activations: str = "float32"
    images: Sequence[np.ndarray] = ()

    def __post_init__(self) -> None:
        known = self.weights in WEIGHTS and self.activations in ACTIVATIONS
        if not known or (self.activations != "float32" and self.weights != "int8"):
            raise ValueError(
                f"Weights must be of {WEIGHTS}, activations of {ACTIVATIONS}, and "
                "float32 beside weights that are not int8. Received: weights "
                f"{self.weights!r}, activations {self.activations!r}."
            )
        if (self.activations == "int8") != bool(self.images):
            raise ValueError(
                "int8 activations, and they alone, must have images to calibrate by. "
                f"Received: {len(self.images)} images, activations "
                f"{self.activations!r}."
            )


FLOAT32 = Precision()
