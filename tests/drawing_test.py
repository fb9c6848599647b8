"""Drawing: what must be seen is there, at any size."""

import math

import numpy as np
import pytest
from PIL import Image

from ondevice.detection import decoding, drawing

POINTS = tuple((0.3 + 0.05 * k, 0.5) for k in range(7))
DETECTION = decoding.Detection((0.25, 0.25, 0.75, 0.75), 0.87, 0, POINTS)
NAMES = ["fist", "手のひら", "ладонь\n\x00🖐"]


def drawn(size=(400, 400), detections=(DETECTION,)):
    picture = Image.new("RGB", size)
    return np.asarray(drawing.draw(picture, detections, NAMES))


def is_colour(pixels, index=0):
    return (pixels == np.array(drawing.COLOURS[index])).all(axis=-1)


class TestDraw:
    def test_box_lies_where_it_should(self):
        hits = is_colour(drawn())
        # Line by line through places where neither text nor keypoints lie.
        assert hits[260, 98:104].any() and hits[260, 297:302].any()
        assert hits[297:302, 200].any() and hits[97:104, 250].any()
        assert not hits[260, 110:290].any() and not hits[310:].any()

    def test_seven_keypoints_are_drawn(self):
        row = is_colour(drawn())[200, 110:290]
        starts = np.flatnonzero(np.diff(row.astype(int)) == 1)
        assert len(starts) == 7
        centres = [round((x + 0.5)) for x in np.array(POINTS)[:, 0] * 399]
        assert row[np.array(centres) - 110].all()

    def test_text_stands_on_its_ground_above_the_box(self):
        pixels = drawn()
        ground = is_colour(pixels)[70:95, 100:200]
        assert 0.3 < ground.mean() < 0.95
        words = drawn(detections=[decoding.Detection(DETECTION.box, 0.13, 0, POINTS)])
        assert (words[:95] != pixels[:95]).any()

    def test_labels_hide_neither_each_other_nor_a_neighbour(self):
        above = decoding.Detection((0.3, 0.3, 0.5, 0.5), 0.6, 0)
        below = decoding.Detection((0.35, 0.52, 0.55, 0.72), 0.9, 2)
        both = drawn(detections=[above, below])
        for detection in (above, below):
            alone = is_colour(
                drawn(detections=[detection]), detection.class_index
            ).sum()
            assert is_colour(both, detection.class_index).sum() == alone

    @pytest.mark.parametrize("place", range(8))
    def test_a_label_lies_at_the_first_place_that_hides_nothing(self, place):
        """Above, below, on the right and left; all others are taken, in order."""
        left, top, right, bottom, width, height = 100, 150, 200, 260, 30, 10
        places = [
            (left, top - height), (right - width, top - height),
            (left, bottom), (right - width, bottom),
            (right, top), (left - width, top),
            (right, bottom - height), (left - width, bottom - height),
        ]  # fmt: skip
        # A pixel in the middle of each place before it, which no other reaches.
        taken = [(x + 15, y + 5, x + 16, y + 6) for x, y in places[:place]]
        found = drawing._free_place(
            Image.new("RGB", (400, 400)),
            (width, height),
            (left, top, right, bottom),
            np.array(taken, np.float64).reshape(-1, 4),
        )
        assert found == places[place]

    def test_two_classes_of_one_hand_have_two_labels(self):
        """One above it and one below; the second's box lies under the first's."""
        detections = [
            decoding.Detection(DETECTION.box, score, i)
            for i, score in enumerate((0.8, 0.7))
        ]
        pixels = drawn(detections=detections)
        assert is_colour(pixels, 0)[:95].sum() > 1000
        assert is_colour(pixels, 1)[305:].sum() > 1000

    def test_keypoints_lie_on_labels(self):
        point = (0.3, 0.22)  # Where the label of this box lies.
        detection = decoding.Detection(DETECTION.box, 0.87, 0)
        other = decoding.Detection((0.0, 0.9, 0.1, 1.0), 0.6, 1, (point,))
        pixels = drawn(detections=[detection, other])
        assert is_colour(pixels, 1)[round(0.22 * 399), round(0.3 * 399)]

    def test_long_names_are_written_smaller(self):
        name = "a name as long as a line of text in a book that nobody wants to read"
        picture = Image.new("RGB", (400, 400))
        short, long = (
            is_colour(np.asarray(drawing.draw(picture, [DETECTION], [text])))
            for text in ("fist", name)
        )
        ground = [hits[:98].any(axis=1).sum() for hits in (short, long)]
        assert 8 <= ground[1] < ground[0]
        # It ends inside: there is ground on the right of the score.
        assert long[:98].any(axis=0)[:399].sum() > 360

    @pytest.mark.parametrize("box", [(0, 0, 1, 1), (0.9, 0, 1.2, 0.1), (-3, -3, 4, 4)])
    def test_text_stays_inside(self, box):
        pixels = drawn(detections=[decoding.Detection(box, 0.5, 0)])
        text_rows = np.flatnonzero(is_colour(pixels).sum(axis=1) > 40)
        assert len(text_rows) >= 20

    @pytest.mark.parametrize(
        "size", [(1, 1), (1, 700), (20, 30), (320, 320), (1920, 1080), (3000, 200)]
    )
    def test_every_size_shows_every_part(self, size):
        pixels = drawn(size)
        assert is_colour(pixels).sum() > 30
        ratio = pixels.shape[1] / pixels.shape[0]
        assert ratio == pytest.approx(size[0] / size[1])

    def test_line_and_text_grow_with_the_picture(self):
        small, large = drawn((400, 400)), drawn((2000, 2000))
        # Shares of the area stay within a third.
        shares = [is_colour(p).mean() for p in (small, large)]
        assert shares[1] == pytest.approx(shares[0], rel=0.33)

    @pytest.mark.parametrize("length, factor", [(4096, 2), (4097, 1), (8192, 1)])
    def test_a_line_of_pixels_does_not_grow_without_bound(self, length, factor):
        assert drawn((length, 1), ()).shape == (factor, length * factor, 3)

    def test_small_pictures_are_enlarged_and_others_kept(self):
        assert drawn((100, 50)).shape == (350, 700, 3)
        assert drawn((640, 480)).shape == (480, 640, 3)
        # A line of pixels would grow without bound.
        assert drawn((8000, 1), []).shape == (1, 8000, 3)
        assert drawn((4096, 1), []).shape == (2, 8192, 3)

    @pytest.mark.parametrize("index", range(3))
    def test_any_unicode_is_drawn(self, index):
        detection = decoding.Detection(DETECTION.box, 0.9, index)
        assert is_colour(drawn(detections=[detection]), index).sum() > 1000

    def test_classes_differ_in_colour(self):
        assert len(set(drawing.COLOURS)) == len(drawing.COLOURS)

    @pytest.mark.parametrize("value", [1e300, -1e300, math.inf, -math.inf])
    def test_absurd_coordinates_do_no_harm(self, value):
        box = (value, 0.1, 0.5, -value)
        drawn(detections=[decoding.Detection(box, 0.9, 0, ((value, value),))])

    @pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
    def test_other_modes_are_taken_and_the_original_kept(self, mode):
        picture = Image.new(mode, (400, 400))
        before = picture.tobytes()
        assert drawing.draw(picture, [DETECTION], NAMES).mode == "RGB"
        assert picture.tobytes() == before

    def test_nothing_found_gives_the_picture(self):
        assert not drawn(detections=[]).any()

    def test_refuses_a_class_without_a_name(self):
        with pytest.raises(ValueError, match=r"indices \[3\]"):
            drawn(detections=[decoding.Detection(DETECTION.box, 0.9, 3)])

    def test_falls_back_without_any_font(self, monkeypatch):
        bitmap = drawing.ImageFont.load_default_imagefont()
        monkeypatch.setattr(drawing, "_font", lambda size: bitmap)
        detection = decoding.Detection(DETECTION.box, 0.9, 1)
        assert is_colour(drawn(detections=[detection]), 1).any()

    def test_the_score_may_be_left_out(self):
        picture = Image.new("RGB", (400, 400))
        with_score = drawn()
        without = np.asarray(drawing.draw(picture, [DETECTION], NAMES, scores=False))
        other = decoding.Detection(DETECTION.box, 0.13, 0, POINTS)
        again = np.asarray(drawing.draw(picture, [other], NAMES, scores=False))
        np.testing.assert_array_equal(without, again)
        assert is_colour(without).sum() < is_colour(with_score).sum()


class TestWrite:
    def written(self, text, width=150):
        canvas = Image.new("RGB", (300, 40))
        drawing.write(canvas, (10, 5), text, 14, (255, 255, 255), width)
        return np.asarray(canvas)[..., 0]

    def test_long_lines_keep_their_ends(self):
        pixels = self.written("beginning " + "x" * 200 + " end")
        columns = np.flatnonzero(pixels.any(axis=0))
        assert columns[0] >= 10 and 130 < columns[-1] <= 162
        other = self.written("beginning " + "x" * 200 + " fin")
        assert (pixels[:, :60] == other[:, :60]).all() and (pixels != other).any()

    def test_short_lines_are_whole(self):
        assert (self.written("name.jpg") == self.written("name.jpg", 999)).all()

    @pytest.mark.parametrize("text", ["", "\n\x00", "手", "WWWWWWWWWW"])
    def test_odd_texts(self, text):
        self.written(text, 1)

    def test_without_any_font(self, monkeypatch):
        bitmap = drawing.ImageFont.load_default_imagefont()
        monkeypatch.setattr(drawing, "_font", lambda size: bitmap)
        assert self.written("手 a").any()
