"""From labelled hands to what the training signatures take, anchor by anchor.

Google's training code is not public, but the shipped heads have specialised by the SSD
scales: which anchors fire depends on the size of the palm's box. So a box is matched,
enlarged a little, against squares of the anchors' scales. An anchor is

- positive, where its square's IoU with the enlarged box reaches `positive_iou`, and the
  best anchor of every hand whatever its IoU: class target 1, weight 1;
- ignored, where it only reaches `ignore_iou`, or lies where there may be hands that
  nobody has labelled: weight 0;
- background otherwise: weight 1.

The rules' numbers maximise the agreement (F1) of positive anchors with those at which
the vendor's file scores 0.5 or more, on 290 photographs of hands (the Sign Language
Digits Dataset, digits 0 to 6), each at 14 shares of the frame from 0.3 to 1 and at
random places. Agreement, and the share of the firing anchors that land in the
background: palm_full 0.70, 2 %; palm_lite 0.70, 3 %; palm_128 0.62, 14 %. A table of
(size ratio, offset in x, in y) fitted to one half of them reached 0.71, 0.72 and 0.52
on the other, so little is left to gain by geometry alone. palm_256, on 29 of them at
five shares: 0.66, 17 %. The faces', on one photograph at 21 sizes, four times each:
short range 0.88, front 0.79, back 0.71 (0.17 by the palms' rule), full range 0.67: it
fires within a cell or so of a face's centre, whatever its size.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence

import numpy as np

from ondevice.detection import anchors, decoding, geometry

# (xmin, ymin, xmax, ymax).
Box = tuple[float, float, float, float]


# A teacher's box that overlaps a hand by so much is that hand's.
_SAME_IOU = 0.5

# A teacher's score below it means background.
_NEXT_TO_NOTHING = 0.1


@dataclasses.dataclass(frozen=True, slots=True)
class Label:
    """One labelled hand.

    Attributes:
      box: (xmin, ymin, xmax, ymax) of the palm, in units of the picture or the square.
      keypoints: (x, y) of each keypoint, in the same units.
      class_index: Index of the class.
    """

    box: Box
    keypoints: tuple[tuple[float, float], ...]
    class_index: int

    def mapped(self, geometry_map: geometry.Affine) -> Label:
        """The label in other coordinates; keypoints keep their order when mirrored."""
        xmin, ymin, xmax, ymax = geometry_map.boxes(np.array(self.box)).tolist()
        points = geometry_map.points(np.array(self.keypoints).reshape(-1, 2))
        keypoints = tuple((x, y) for x, y in points.tolist())
        return Label((xmin, ymin, xmax, ymax), keypoints, self.class_index)


@dataclasses.dataclass(frozen=True)
class MatchingRule:
    """Which anchors hold a box.

    Attributes:
      enlargement: Factor on the box's sides before it is compared with the squares.
      smallest: Side, in units of the square, below which an enlarged box is taken to be
        of this size: the smallest anchors take every smaller hand.
      positive_iou: An anchor at or above it is positive.
      ignore_iou: An anchor at or above it, and not positive, is ignored.
      cells: Where it is not 0, anchors and boxes are squares of this many cells of the
        finest grid, whatever their size: a box counts by its centre.
    """

    enlargement: float = 1.25
    smallest: float = 0.16
    positive_iou: float = 0.55
    ignore_iou: float = 0.4
    cells: float = 0.0

    def __post_init__(self) -> None:
        """Refuses contradictions.

        Raises:
          ValueError: If a number is outside its range.
        """
        if not (
            self.enlargement > 0
            and 0 <= self.smallest <= 1
            and 0 < self.ignore_iou <= self.positive_iou <= 1
            and 0 <= self.cells
        ):
            raise ValueError(
                "A matching rule must have a positive enlargement, `smallest` in "
                "[0, 1], 0 < ignore_iou <= positive_iou <= 1 and no negative number of "
                f"cells. Received: {self}."
            )


# By the side of the input and the strides of the anchors.
RULES: Mapping[tuple[int, tuple[int, ...]], MatchingRule] = types.MappingProxyType(
    {
        (128, (8, 16, 16, 16)): MatchingRule(0.9, 0.2, 0.45, 0.3),
        (192, (8, 16, 16, 16)): MatchingRule(1.25, 0.16, 0.55, 0.4),
        (256, (8, 16, 32, 32, 32)): MatchingRule(0.9, 0.16, 0.45, 0.25),
        (256, (16, 32, 32, 32)): MatchingRule(0.8, 0.16, 0.45, 0.3),
        (192, (4,)): MatchingRule(positive_iou=0.5, ignore_iou=0.25, cells=3.0),
    }
)


@dataclasses.dataclass(frozen=True)
class Targets:
    """Targets of one image, named as in the contract.

    Attributes:
      class_targets: [N, K] float32; 1 where an anchor holds class k.
      box_targets: [N, C] float32, pixels of the input relative to the anchor; 0 at
        anchors that hold nothing.
      anchor_weights: [N] float32; 0 where the class term ignores the anchor, else 1.
    """

    class_targets: np.ndarray
    box_targets: np.ndarray
    anchor_weights: np.ndarray


class Matcher:
    """Makes targets for one detector."""

    def __init__(
        self,
        spec: anchors.AnchorSpec,
        classes: int,
        keypoints: int = 7,
        rule: MatchingRule | None = None,
    ) -> None:
        """Computes the anchors' squares once.

        Args:
          spec: Parameters of the anchors.
          classes: K.
          keypoints: Keypoints of a hand.
          rule: None takes the one of `RULES`, or the default.

        Raises:
          ValueError: If there is no class.
        """
        if classes < 1 or keypoints < 0:
            raise ValueError(
                "A matcher must have a class or more, and no negative number of "
                f"keypoints. Received: {classes} classes, {keypoints} keypoints."
            )
        self.spec, self.classes, self.keypoints = spec, classes, keypoints
        known = RULES.get((spec.input_size, spec.strides), MatchingRule())
        self.rule = rule or known
        self.centres = anchors.centres(spec)
        self._side = self.rule.cells * spec.strides[0] / spec.input_size
        half = (self._side or anchors.scales(spec)[:, np.newaxis]) / 2
        self._squares = np.concatenate([self.centres - half, self.centres + half], -1)

    def overlaps(self, box: Sequence[float]) -> np.ndarray:
        """IoU of each anchor's square with one box, enlarged as the rule says.

        Args:
          box: (xmin, ymin, xmax, ymax) in units of the square.

        Returns:
          [N] float32 in [0, 1].
        """
        corners = np.array(box, np.float32)
        middle = (corners[:2] + corners[2:]) / 2
        sides = (corners[2:] - corners[:2]) * np.float32(self.rule.enlargement)
        sides = np.maximum(sides, np.float32(self.rule.smallest))
        half = (np.float32(self._side) or sides) / 2
        enlarged = np.concatenate([middle - half, middle + half])
        return geometry.iou(self._squares, enlarged)

    def targets(
        self, labels: Sequence[Label], unlabelled: Sequence[Box] = ()
    ) -> Targets:
        """Targets of one image; an anchor goes to the hand that it overlaps most.

        Args:
          labels: Hands in units of the square; none makes every anchor background.
          unlabelled: Boxes in the same units in which there may be hands besides, one
            or a crowd: an anchor is ignored if it would hold a hand with that box, or
            if its centre lies in it, unless it holds a hand of `labels`.

        Raises:
          ValueError: If a label's class or number of keypoints is not this detector's,
            or its box is empty or not finite; the error names every such label.
        """
        self._check(labels)
        count, coordinates = len(self.centres), 4 + 2 * self.keypoints
        class_targets = np.zeros((count, self.classes), np.float32)
        box_targets = np.zeros((count, coordinates), np.float32)
        anchor_weights = np.ones(count, np.float32)
        for box in unlabelled:
            within = (self.centres >= box[:2]) & (self.centres <= box[2:])
            anchor_weights[within.all(axis=1)] = 0
            anchor_weights[self.overlaps(box) >= self.rule.ignore_iou] = 0
        if not labels:
            return Targets(class_targets, box_targets, anchor_weights)
        overlap = np.stack([self.overlaps(label.box) for label in labels])
        owner = overlap.argmax(axis=0)
        positive = overlap.max(axis=0) >= self.rule.positive_iou
        anchor_weights[overlap.max(axis=0) >= self.rule.ignore_iou] = 0
        # Every hand holds an anchor, unless it overlaps none (outside the square).
        for index in range(len(labels)):
            if not positive[owner == index].any():
                anchor = int(np.where(positive, 0, overlap[index]).argmax())
                if overlap[index, anchor] > 0 and not positive[anchor]:
                    owner[anchor], positive[anchor] = index, True
        anchor_weights[positive] = 1
        for index, label in enumerate(labels):
            held = positive & (owner == index)
            class_targets[held, label.class_index] = 1
            box_targets[held] = self._encoded(label, held)
        return Targets(class_targets, box_targets, anchor_weights)

    def taught(
        self,
        labels: Sequence[Label],
        regressors: np.ndarray,
        scores: np.ndarray,
        unlabelled: Sequence[Box] = (),
        drawn: bool = False,
    ) -> Targets:
        """Targets at the anchors where a teacher, the untouched detector, sees a hand.

        Geometry alone agrees with the teacher at two anchors of three; at the third the
        training would unlearn what the detector knows. So an anchor is positive where
        the teacher scores `decoding.MIN_SCORE` or more and its box is a labelled
        hand's, background where the teacher sees next to nothing, and ignored
        otherwise. A hand that the teacher misses is matched as by `targets`.

        Args:
          labels: Hands in units of the square.
          regressors: [N, C] float32, the teacher's.
          scores: [N] float32 in [0, 1], the teacher's palm scores.
          unlabelled: As of `targets`.
          drawn: Whether a detector drew the labels too: then the teacher's own boxes
            are the targets where it sees the hand.

        Raises:
          ValueError: As `targets`.
        """
        made = self.targets(labels)
        boxes = decoding.decode_boxes(regressors, self.centres, self.spec.input_size)
        class_targets = np.zeros_like(made.class_targets)
        box_targets = np.zeros_like(made.box_targets)
        anchor_weights = self.targets((), unlabelled).anchor_weights
        anchor_weights[scores >= _NEXT_TO_NOTHING] = 0
        for label in labels:
            alone = self.targets([label])
            corners = np.array(label.box, np.float32)
            seen = geometry.iou(boxes, corners) >= _SAME_IOU
            seen &= scores >= decoding.MIN_SCORE
            held = seen
            if not seen.any():
                held = made.class_targets[:, label.class_index] > 0
                held &= alone.class_targets[:, label.class_index] > 0
                anchor_weights[alone.anchor_weights == 0] = 0
            class_targets[held] = 0
            class_targets[held, label.class_index] = 1
            box_targets[held] = self._encoded(label, held)
            if drawn:
                box_targets[seen] = regressors[seen]
            anchor_weights[held] = 1
        return Targets(class_targets, box_targets, anchor_weights)

    def _encoded(self, label: Label, held: np.ndarray) -> np.ndarray:
        """Box targets of one label at the anchors that hold it."""
        return decoding.encode(
            np.array(label.box, np.float32)[np.newaxis],
            np.array(label.keypoints, np.float32).reshape(1, -1, 2),
            self.centres[held],
            self.spec.input_size,
        )

    def _check(self, labels: Sequence[Label]) -> None:
        faults = []
        for label in labels:
            xmin, ymin, xmax, ymax = label.box
            numbers = np.array([*label.box, *np.ravel(label.keypoints)], np.float64)
            if (
                not 0 <= label.class_index < self.classes
                or len(label.keypoints) != self.keypoints
                or not np.isfinite(numbers).all()
                or not (xmin < xmax and ymin < ymax)
            ):
                faults.append(str(label))
        if faults:
            raise ValueError(
                f"A label must have a class in 0..{self.classes - 1}, "
                f"{self.keypoints} keypoints and a box with an area. "
                f"Received: {'; '.join(faults)}."
            )
