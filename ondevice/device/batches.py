"""Training batches: drawn anew each epoch, and the same again when training resumes.

Order, placing and looks of epoch e are pure functions of (seed, e), so (seed, epoch,
step) is all the state there is. Threads prepare the next batches while one trains; they
come in order whatever thread was first.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

import numpy as np

from ondevice.detection import geometry, targets
from ondevice.device import image_cache, images, lighting, samples, warps

# Streams of random numbers within one (seed, epoch).
_ORDER, _PLACING, _LOOKS, _WARPING = 0, 1, 2, 3

# Batches prepared ahead of the one in training, for each thread.
_AHEAD = 2

# (variant, index of the sample) and what makes its image [S, S, 3] -> what a step
# takes of it, name -> array without the batch's axis.
Encode = Callable[[tuple[int, int], Callable[[], np.ndarray]], Mapping[str, np.ndarray]]


def as_image(
    key: tuple[int, int], image: Callable[[], np.ndarray]
) -> Mapping[str, np.ndarray]:
    """The image itself, as the signature `train` takes it."""
    del key
    return {"image": image()}


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How pictures are placed, turned and lit at random.

    Attributes:
      frame: Range of the share of the frame's side, drawn evenly; (s, s) fixes it.
      centred: Whether pictures lie in the middle; otherwise anywhere in the frame.
      flip: Whether half of the pictures are mirrored.
      variants: Epochs after which the same draws come again; 0 stands for never.
      lit: Share of the pictures that are shown in other light.
      turn: Largest angle that pictures are turned by, in degrees; as all that turns and
        slants them only where the frame has room for it.
      slant: Largest shear of a picture, and logarithm of its stretch.
    """

    frame: tuple[float, float] = (0.4, 1.0)
    centred: bool = False
    flip: bool = True
    variants: int = 0
    lit: float = 0.0
    turn: float = 0.0
    slant: float = 0.0

    def __post_init__(self) -> None:
        """Refuses a range that is none.

        Raises:
          ValueError: If the frame is not 0 < low <= high <= 1, or another number is
            negative.
        """
        low, high = self.frame
        if self.turn < 0 or self.slant < 0:
            raise ValueError(
                "`turn` and `slant` must be 0 or more. "
                f"Received: {self.turn}, {self.slant}."
            )
        if self.variants < 0:
            raise ValueError(
                f"`variants` must be 0 or more. Received: {self.variants}."
            )
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"`frame` must be 0 < low <= high <= 1. Received: {self.frame}."
            )


class Batches:
    """Batches of one data set for one trainable file."""

    def __init__(
        self,
        labelled: Sequence[samples.Sample],
        matcher: targets.Matcher,
        input_range: tuple[float, float],
        batch_size: int,
        augmentation: Augmentation = Augmentation(),
        seed: int = 0,
        cache: image_cache.ImageCache | None = None,
        threads: int = 1,
        encode: Encode = as_image,
        teach: Encode | None = None,
    ) -> None:
        """Checks every label once, so that no epoch fails half-way.

        Args:
          labelled: Samples with labels; () trains the background.
          matcher: Makes the targets.
          input_range: What the pixels 0 and 255 map to.
          batch_size: B, pictures in a batch.
          augmentation: How pictures are placed.
          seed: Not negative.
          cache: Decoded pictures.
          threads: Threads that prepare batches; 0 prepares them in the caller's.
          encode: Makes what a step takes of an image; called by those threads.
          teach: Gives a teacher's `regressors` [N, C] and `scores` [N] of an image, for
            targets at the anchors where it sees a hand.

        Raises:
          DataError: If there are no samples, or a label is missing or not the
            matcher's; the message names every file.
          ValueError: If another argument is outside its range.
        """
        if batch_size < 1 or seed < 0 or threads < 0:
            raise ValueError(
                "Batches must have a size of 1 or more, a seed and threads of 0 or "
                f"more. Received: batch_size={batch_size}, seed={seed}, "
                f"threads={threads}."
            )
        self._samples, self._matcher = tuple(labelled), matcher
        self._range, self._size = input_range, batch_size
        self._augmentation, self._seed = augmentation, seed
        self._cache = cache or image_cache.ImageCache()
        self._threads, self._encode, self._teach = threads, encode, teach
        self._waited = self._worked = 0.0
        self._check()

    @property
    def steps(self) -> int:
        """Batches in an epoch, the last one perhaps not full."""
        return math.ceil(len(self._samples) / self._size)

    @property
    def waited(self) -> float:
        """The share of its time that the last epoch's consumer waited for batches."""
        return self._waited / max(self._waited + self._worked, 1e-9)

    def epoch(self, epoch: int, step: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """Batches of one epoch, from a step on.

        Args:
          epoch: Counts from 0.
          step: First batch to give; those before are not prepared.

        Yields:
          What a step takes, all float32: what `encode` makes of the images, by default
          image [B, S, S, 3]; class_targets [B, N, K], box_targets [B, N, C],
          anchor_weights [B, N] and sample_weights [B]. Places that no sample fills are
          0.

        Raises:
          ImageError: If a picture has become unreadable.
        """
        self._waited = self._worked = 0.0
        with contextlib.closing(self._prepared(epoch, step)) as prepared:
            asked = time.monotonic()
            for batch in prepared:
                given = time.monotonic()
                self._waited += given - asked
                yield batch
                asked = time.monotonic()
                self._worked += asked - given

    def _prepared(
        self, epoch: int, step: int
    ) -> Generator[dict[str, np.ndarray], None, None]:
        steps = range(step, self.steps)
        if not self._threads:
            for index in steps:
                yield self.batch(epoch, index)
            return
        pool = concurrent.futures.ThreadPoolExecutor(self._threads, "batches")
        waiting: collections.deque[concurrent.futures.Future] = collections.deque()
        try:
            for index in steps:
                waiting.append(pool.submit(self.batch, epoch, index))
                if len(waiting) > _AHEAD * self._threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # Also where the caller stops early or a picture fails.
            pool.shutdown(wait=True, cancel_futures=True)

    def batch(self, epoch: int, step: int) -> dict[str, np.ndarray]:
        """One batch of an epoch; a pure function of (seed, epoch, step)."""
        chosen = self._order(epoch)[step * self._size : (step + 1) * self._size]
        matcher = self._matcher
        anchors = len(matcher.centres)
        shapes = {
            "class_targets": (anchors, matcher.classes),
            "box_targets": (anchors, 4 + 2 * matcher.keypoints),
            "anchor_weights": (anchors,),
            "sample_weights": (),
        }
        batch = {
            name: np.zeros((self._size, *shape), np.float32)
            for name, shape in shapes.items()
        }
        for place, index in enumerate(chosen):
            encoded, made = self._prepare(epoch, int(index))
            for name, array in encoded.items():
                if name not in batch:
                    batch[name] = np.zeros((self._size, *array.shape), np.float32)
                batch[name][place] = array
            batch["class_targets"][place] = made.class_targets
            batch["box_targets"][place] = made.box_targets
            batch["anchor_weights"][place] = made.anchor_weights
            batch["sample_weights"][place] = 1
        return batch

    def placing(
        self, epoch: int, index: int, width: int, height: int
    ) -> tuple[geometry.Affine, warps.Warp | None]:
        """Where a sample's picture lies, and how it is turned and slanted.

        A pure function of (seed, epoch, index).

        With `variants` V the epochs e, e + V, e + 2V, ... have the same placings.

        Args:
          epoch: Counts from 0.
          index: Of the sample, in the order given.
          width: Of the picture as it was taken, in pixels.
          height: Of the picture as it was taken, in pixels.

        Returns:
          Picture coordinates -> square coordinates, of the warped picture where there
          is a warp: what was taken keeps its share of the frame. The warp is None
          without `turn` and `slant`, or where the frame has no room for it at the share
          that was drawn.
        """
        drawn, variant = self._augmentation, self._variant(epoch)
        # Always four draws, so that one choice does not move the others.
        share, x, y, flip = self._random(variant, _PLACING, index).random(4).tolist()
        low, high = drawn.frame
        share = low + (high - low) * share
        warp = None
        if drawn.turn or drawn.slant:
            random = self._random(variant, _WARPING, index)
            found = warps.draw(random, drawn.turn, drawn.slant)
            grown = found.size(width, height)
            grown_share = share * max(grown) / max(width, height)
            if grown_share <= 1:
                warp, share, (width, height) = found, grown_share, grown
        placing = geometry.letterbox(
            width,
            height,
            share,
            (0.5, 0.5) if drawn.centred else (x, y),
            drawn.flip and flip < 0.5,
        )
        return placing, warp

    def _prepare(
        self, epoch: int, index: int
    ) -> tuple[Mapping[str, np.ndarray], targets.Targets]:
        sample = self._samples[index]
        pixels = self._cache.read(sample.path)
        height, width = pixels.shape[:2]
        labels, areas = sample.labels or (), sample.unlabelled
        placing, warp = self.placing(epoch, index, width, height)
        if warp is not None:
            labels = tuple(warp.label(label, width, height) for label in labels)
            areas = tuple(warp.box(area, width, height) for area in areas)

        @functools.cache
        def image() -> np.ndarray:
            size = self._matcher.spec.input_size
            shown = pixels if warp is None else warp.picture(pixels)
            square = images.place(shown, placing, size)
            random = self._random(self._variant(epoch), _LOOKS, index)
            if random.random() < self._augmentation.lit:
                square = lighting.relit(square, random)
            return images.to_input(square, self._range)

        placed = [label.mapped(placing) for label in labels]
        boxes = placing.boxes(np.array(areas).reshape(-1, 4)).tolist()
        key = (self._variant(epoch), index)
        encoded = self._encode(key, image)
        if self._teach is None:
            return encoded, self._matcher.targets(placed, boxes)
        seen = self._teach(key, image)
        return encoded, self._matcher.taught(
            placed, unlabelled=boxes, drawn=sample.drawn, **seen
        )

    def _variant(self, epoch: int) -> int:
        variants = self._augmentation.variants
        return epoch % variants if variants else epoch

    def _order(self, epoch: int) -> np.ndarray:
        return self._random(epoch, _ORDER).permutation(len(self._samples))

    def _random(self, epoch: int, *stream: int) -> np.random.Generator:
        return np.random.default_rng(
            np.random.SeedSequence(self._seed, spawn_key=(epoch, *stream))
        )

    def _check(self) -> None:
        faults = [] if self._samples else ["It must be one or more."]
        for sample in self._samples:
            if sample.labels is None:
                faults.append(f"{sample.path}: has no labels.")
                continue
            try:
                self._matcher.targets(sample.labels)
            except ValueError as error:
                faults.append(f"{sample.path}: {error}")
        if faults:
            raise samples.DataError("Samples", faults)
