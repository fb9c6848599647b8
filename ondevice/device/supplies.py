"""What the steps of a run are fed: batches of images, or of features computed once."""

from __future__ import annotations

import dataclasses
import pathlib
import queue

import numpy as np

from ondevice.detection import anchors, targets
from ondevice.device import (
    batches,
    detectors,
    image_cache,
    kept,
    opening,
    runs,
    samples,
    session,
)

# How pictures are drawn, their share of the frame apart: half of them in other light,
# turned and slanted as hands are held.
DRAWN = batches.Augmentation(lit=0.5, turn=15.0, slant=0.2)


class Supplies:
    """Makes the batches of one run."""

    def __init__(
        self,
        opened: session.Session,
        directory: pathlib.Path,
        settings: runs.Settings,
        cache: image_cache.ImageCache,
        teacher: detectors.Detector | None = None,
    ) -> None:
        """Makes the matcher.

        Args:
          opened: Whose trunk makes the features.
          directory: Where what is computed once is kept; it exists.
          settings: Of the run.
          cache: Decoded pictures.
          teacher: The untouched detector, whose anchors hold the hands; None leaves
            that to geometry.
        """
        manifest = opened.manifest
        self._opened, self._directory = opened, directory
        self._settings, self._cache, self._teacher = settings, cache, teacher
        spec = anchors.AnchorSpec.from_dict(manifest.anchors)
        self._matcher = targets.Matcher(
            spec, len(manifest.classes), manifest.keypoints
        )

    def to_train(self, dataset: samples.Dataset, on_features: bool) -> batches.Batches:
        """Batches of pictures drawn at random; those without labels are left out.

        Args:
          dataset: Labelled.
          on_features: Whether the trunk's features stand for the images. Then each
            picture has only so many places, and what is the same in every epoch is
            computed once; the trunk must stay as it is.

        Raises:
          DataError: If the data set does not do.
        """
        drawn = dataclasses.replace(DRAWN, frame=self._settings.frame)
        if not on_features:
            return self._batches(dataset, drawn)
        drawn = dataclasses.replace(drawn, variants=self._settings.variants)
        encode = self._keeping(_Trunks(self._opened).features_of)
        # Until all is kept the features are the work, not the steps.
        threads = opening.thread_count(self._opened.threads)
        return self._batches(dataset, drawn, encode, threads)

    def to_validate(self, dataset: samples.Dataset, share: float) -> batches.Batches:
        """Batches of pictures that take this share of the frame, in its middle.

        Raises:
          DataError: If the data set does not do.
        """
        return self._batches(dataset, batches.Augmentation((share, share), True, False))

    def _batches(
        self,
        dataset: samples.Dataset,
        augmentation: batches.Augmentation,
        encode: batches.Encode = batches.as_image,
        threads: int = 1,
    ) -> batches.Batches:
        manifest = self._opened.manifest
        teach: batches.Encode | None = None
        if self._teacher is not None:
            again = augmentation.variants or augmentation.centred
            seen = self._teacher.seen
            teach = self._keeping(seen) if again else _anew(seen)
        return batches.Batches(
            dataset.labelled().samples,
            self._matcher,
            manifest.input_range,
            manifest.batch_size,
            augmentation,
            self._settings.seed,
            self._cache,
            threads,
            encode=encode,
            teach=teach,
        )

    def _keeping(self, compute: kept.Compute) -> batches.Encode:
        return kept.Kept(compute, self._directory)


class _Trunks:
    """The trunk in sessions of their own, as many as there are threads that ask.

    The session that trains takes its steps meanwhile. One thread for each: images side
    by side make more of the cores than threads within one image.
    """

    def __init__(self, opened: session.Session) -> None:
        """Takes the weights over as they are now."""
        self._opened, self._state = opened, opened.state()
        self._idle: queue.SimpleQueue[session.Session] = queue.SimpleQueue()

    def features_of(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """As `session.Session.features_of`; any number of threads may call it."""
        try:
            one = self._idle.get_nowait()
        except queue.Empty:
            one = session.Session(self._opened.file.data, self._opened.runtime, 1)
            one.load_state(self._state)
        try:
            return one.features_of(image)
        finally:
            self._idle.put(one)


def _anew(compute: kept.Compute) -> batches.Encode:
    """Computes each time, for what never comes again."""
    return lambda key, image: compute(image())
