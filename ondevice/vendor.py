"""A vendor's file, recognised and read: where everything that is made of one begins."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from checkpoints import soundness, tflite_file
from ondevice import sources
from ondevice.rebuild import porting, recognition


@dataclasses.dataclass(frozen=True)
class Ported:
    """A vendor's detector.

    Attributes:
      source: The file.
      file: The same, parsed.
      found: What it was recognised as.
      weights: Of the network with one class, `<layer>/<attribute>` -> float32 array in
        Keras' layout.
    """

    source: sources.Source
    file: tflite_file.TfliteFile
    found: recognition.Recognised
    weights: Mapping[str, np.ndarray]


def read(source: str) -> Ported:
    """Reads a vendor's file.

    Args:
      source: As `sources.locate` takes it.

    Raises:
      ValueError: If it cannot be had, is damaged or no detector of ours.
    """
    located = sources.locate(source)
    file = tflite_file.parse(located.data)
    soundness.require(file)
    found = recognition.recognise(file)
    return Ported(located, file, found, porting.port(file, found))
