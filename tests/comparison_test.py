"""Several detectors on the same pictures, with detectors that can be foreseen."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from unittest import mock

import pytest
from absl import logging
from PIL import Image

from ondevice.detection import targets
from ondevice.device import comparison, detectors, image_cache, samples, session
from tests import fake_detector

BOX = (0.1, 0.2, 0.3, 0.6)
FIGURES = ["images", "class_accuracy", "recall", "ap", "ap50", "mean_iou", "confusion"]


def dataset(directory, *brightness, classes=("a", "b")) -> samples.Dataset:
    """Pictures of class 0, each with its hand at BOX; 0 is too dark to be found."""
    found = []
    for index, value in enumerate(brightness):
        picture = Image.new("RGB", (100, 100))
        picture.paste((value,) * 3, (10, 20, 30, 60))
        path = directory / f"{index}.png"
        picture.save(path)
        found.append(samples.Sample(path, 0, (targets.Label(BOX, (), 0),)))
    return samples.Dataset(classes, tuple(found))


def seeing(least: int, classes: int = 2) -> detectors.Detector:
    """Finds hands from a brightness on."""
    finder = fake_detector.WhiteFinder(classes)

    def infer(image):
        return finder(image if image.max() * 255 > least - 1 else 0 * image)

    return fake_detector.detector(infer)


class TestCompare:
    def test_by_hand(self, tmp_path):
        pytest.importorskip("pycocotools")
        found = dataset(tmp_path, 255, 235, 215, 0)
        first, other = comparison.compare(found, [seeing(225), seeing(245)])
        assert list(first) == [*FIGURES, "kept", "milliseconds"] == list(other)
        # 255 is seen as class 0, 235 as class 1.
        assert first["confusion"] == [[1, 1, 2], [0, 0, 0]]
        assert other["confusion"] == [[1, 0, 3], [0, 0, 0]]
        assert (first["images"], first["class_accuracy"], first["recall"]) == (
            4, 0.25, 0.5
        )  # fmt: skip
        assert (first["kept"], other["kept"]) == (None, 0.5)
        # One of the four hands of class 0 is found as such.
        assert other["ap50"] == pytest.approx(0.25, abs=0.01)

    def test_the_second_may_find_more(self, tmp_path):
        found = dataset(tmp_path, 255, 235)
        first, other = comparison.compare(found, [seeing(245), seeing(225)])
        assert other["recall"] > first["recall"] and other["kept"] == 1

    def test_nothing_to_keep(self, tmp_path):
        rows = comparison.compare(dataset(tmp_path, 0), [seeing(245)] * 2)
        assert [row["kept"] for row in rows] == [None, None]

    def test_any_class(self, tmp_path):
        found = dataset(tmp_path, 255, 235, 0, classes=("palm",))
        several = [seeing(225, 1), seeing(225, 7)]
        rows = comparison.compare(found, several, any_class=True)
        assert [row["confusion"] for row in rows] == [[[2, 1]]] * 2
        assert rows[1]["kept"] == 1
        with pytest.raises(ValueError, match="class index"):
            comparison.compare(found, several)

    def test_hands_without_labels_count_for_the_class_alone(self, tmp_path):
        pytest.importorskip("pycocotools")
        found = dataset(tmp_path, 255, 255)
        first = dataclasses.replace(found.samples[0], labels=None)
        found = dataclasses.replace(found, samples=(first, found.samples[1]))
        (row,) = comparison.compare(found, [seeing(225)])
        assert (row["images"], row["class_accuracy"]) == (2, 1)
        # What is found in the first picture, with the same score, is not wrong.
        assert row["ap50"] == pytest.approx(1)

    def test_time_is_the_median_of_each(self, tmp_path, monkeypatch):
        now = [0.0]
        monkeypatch.setattr(comparison.time, "perf_counter", lambda: now[0])

        def taking(*seconds):
            finder, left = fake_detector.WhiteFinder(2), list(seconds)

            def infer(image):
                now[0] += left.pop(0)
                return finder(image)

            return fake_detector.detector(infer)

        several = [taking(0.9, 0.01, 0.02), taking(0.5, 0.5, 0.1)]
        rows = comparison.compare(dataset(tmp_path, 255, 255, 255), several)
        assert [row["milliseconds"] for row in rows] == pytest.approx([20, 500])

    def test_they_take_turns_and_each_picture_is_decoded_once(self, tmp_path):
        calls, cache = [], mock.Mock(wraps=image_cache.ImageCache(0))

        def named(name):
            finder = fake_detector.WhiteFinder(2)

            def infer(image):
                calls.append(name)
                return finder(image)

            return fake_detector.detector(infer)

        found = dataset(tmp_path, 255, 235)
        comparison.compare(found, [named("x"), named("y")], cache=cache)
        assert calls == ["x", "y", "x", "y"] and cache.read.call_count == 2

    def test_without_pycocotools_one_line_says_so(self, tmp_path, monkeypatch):
        lines = []
        monkeypatch.setattr(logging, "warning", lines.append)
        with mock.patch.dict(sys.modules, {"pycocotools": None}):
            rows = comparison.compare(dataset(tmp_path, 255), [seeing(225)] * 2)
        assert [(row["ap"], row["recall"]) for row in rows] == [(None, 1)] * 2
        assert len(lines) == 1 and "pip install pycocotools" in lines[0]


class TestTable:
    def test_columns_are_aligned_and_what_is_not_known_is_a_dash(self):
        row = {
            "class_accuracy": 0.5, "recall": 1.0, "ap": None, "ap50": 0.25,
            "mean_iou": 0.75, "kept": None, "milliseconds": 9.96, "bytes": 1234567,
        }  # fmt: skip
        other = {**row, "kept": 0.9996, "milliseconds": 123.0, "bytes": 89}
        lines = comparison.table(["a.tflite", "out/b.tflite + c"], [row, other])
        head, first, second = lines.splitlines()
        assert len(head) == len(first) == len(second)
        assert first.split() == [
            "1", "a.tflite", "0.500", "1.000", "-", "0.250", "0.750", "-", "10.0",
            "1,234,567",
        ]  # fmt: skip
        assert second.startswith("2  out/b.tflite + c ")
        for name in ("class accuracy", "AP50", "kept", "ms"):
            end = head.index(name) + len(name)
            for line in (first, second):
                assert line[end - 1] != " " and line[end : end + 1] in ("", " ")


class TestWithCheckpoints:
    def test_trainable_files_take_them_in_order(self, tiny_model):
        model = tiny_model("adam")
        frozen = model.with_name("inference.tflite")
        first, second = pathlib.Path("c.safetensors"), pathlib.Path("d.safetensors")
        found = comparison.with_checkpoints(
            [frozen, model, model, frozen, model], [first, second]
        )
        assert [each.checkpoint for each in found] == [None, first, second, None, None]
        assert found[1].title == f"{model} + c.safetensors"
        assert found[4].title == str(model)

    def test_none(self, tmp_path):
        # Not even read: whether they do is said when they are opened.
        (found,) = comparison.with_checkpoints([tmp_path / "x"], [])
        assert found.checkpoint is None

    def test_too_many_are_refused(self, tiny_model):
        model = tiny_model("adam")
        given = [pathlib.Path("c.safetensors"), pathlib.Path("d.safetensors")]
        with pytest.raises(session.SessionError, match="Received: d.safetensors"):
            comparison.with_checkpoints([model], given)
