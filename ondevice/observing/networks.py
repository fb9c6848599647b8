"""The networks that observations are made on, by name."""

from __future__ import annotations

from ondevice import vendor
from ondevice.observing import overview, palm, subject

NAMES = ("palm_full", overview.NAME)


def make(name: str, seed: int) -> subject.Subject:
    """Draws its pictures; its files are made when they are asked for.

    Raises:
      ValueError: If the vendor's file cannot be had.
    """
    if name == overview.NAME:
        return overview.make(seed)
    return palm.make(vendor.read(name), seed)
