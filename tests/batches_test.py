"""Batches: the contract's names and shapes, and the same ones again."""

import dataclasses
import itertools
import threading
import time

import numpy as np
import pytest
from PIL import Image

from ondevice.detection import anchors, decoding, targets
from ondevice.device import batches, image_cache, images, kept, samples, warps
from signatures import contract

SPEC = anchors.PRESETS["palm_128"]
CENTRES = anchors.centres(SPEC)
# A white rectangle of each picture, and its label.
BOX = (0.2, 0.3, 0.6, 0.7)
POINTS = tuple((0.2 + 0.05 * k, 0.3) for k in range(7))


@pytest.fixture(name="labelled")
def _labelled(tmp_path):
    """Seven pictures; the brightness of the background tells which."""
    found = []
    for index in range(7):
        picture = Image.new("RGB", (100, 80), (10 + 10 * index,) * 3)
        picture.paste("white", (20, 24, 60, 56))
        path = tmp_path / f"{index}.png"
        picture.save(path)
        label = targets.Label(BOX, POINTS, index % 3)
        found.append(samples.Sample(path, index % 3, (label,)))
    return found


def make(labelled, **options):
    options = {"batch_size": 3, "seed": 5, "threads": 0, **options}
    matcher = targets.Matcher(SPEC, 3)
    return batches.Batches(labelled, matcher, (-1.0, 1.0), **options)


def equal(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def which(batch):
    """Indices of the pictures in a batch, by the grey that most of them show."""
    found = []
    for image, weight in zip(batch["image"], batch["sample_weights"], strict=True):
        if weight:
            levels = np.rint((image[..., 0] + 1) * 127.5).astype(int)
            grey = levels[(levels >= 10) & (levels <= 70)]
            found.append((np.bincount(grey).argmax() - 10) // 10)
    return found


class TestContract:
    def test_names_shapes_and_dtypes(self, labelled):
        sizes = contract.Dimensions(3, 128, 896, 18, 3)
        (train,) = [s for s in contract.signatures(sizes, ()) if s.key == "train"]
        wanted = {t.name: t.shape for t in train.inputs if t.name != "learning_rate"}
        for batch in make(labelled).epoch(0):
            assert {name: array.shape for name, array in batch.items()} == wanted
            assert {array.dtype for array in batch.values()} == {np.dtype(np.float32)}

    def test_last_batch_is_filled_with_zeros(self, labelled):
        found = list(make(labelled).epoch(0))
        assert len(found) == make(labelled).steps == 3
        weights = [batch["sample_weights"].tolist() for batch in found]
        assert weights == [[1, 1, 1], [1, 1, 1], [1, 0, 0]]
        assert not any(array[1:].any() for array in found[-1].values())

    def test_every_sample_comes_once_an_epoch(self, labelled):
        for epoch in range(3):
            seen = [i for batch in make(labelled).epoch(epoch) for i in which(batch)]
            assert sorted(seen) == list(range(7))


class TestPlacing:
    @pytest.mark.parametrize("flip", [False, True])
    def test_targets_lie_where_the_pixels_do(self, labelled, flip):
        augmentation = batches.Augmentation((0.4, 1.0), flip=flip)
        for epoch in range(4):
            for batch in make(labelled, augmentation=augmentation).epoch(epoch):
                for row in np.flatnonzero(batch["sample_weights"]):
                    held = batch["class_targets"][row].any(axis=1)
                    made = batch["box_targets"][row]
                    boxes = decoding.decode_boxes(made, CENTRES, 128)[held]
                    white = batch["image"][row, ..., 0] > 0.99
                    rows = np.flatnonzero(white.any(axis=1)) / 128
                    columns = np.flatnonzero(white.any(axis=0)) / 128
                    seen = [columns[0], rows[0], columns[-1], rows[-1]]
                    expected = np.tile(seen, (len(boxes), 1))
                    # 2.5 pixels: edges are mixed with the grey.
                    np.testing.assert_allclose(boxes, expected, atol=2.5 / 128)

    def test_looks_change_the_pixels_and_nothing_else(self, labelled):
        plain = make(labelled)
        changed = make(labelled, augmentation=batches.Augmentation(lit=0.5))
        differing = 0
        for one, other in zip(plain.epoch(0), changed.epoch(0), strict=True):
            for name in one.keys() - {"image"}:
                np.testing.assert_array_equal(one[name], other[name])
            differing += (one["image"] != other["image"]).any((1, 2, 3)).sum()
        assert 0 < differing < 7
        equal(list(changed.epoch(1)), list(changed.epoch(1)))

    def test_warped_pictures_keep_their_hands_under_the_targets(self, labelled):
        augmentation = batches.Augmentation((0.5, 1.0), turn=15.0, slant=0.2)
        made = make(labelled, augmentation=augmentation)
        plain = list(make(labelled).epoch(0))
        assert any(
            (one["image"] != other["image"]).any()
            for one, other in zip(plain, made.epoch(0), strict=True)
        )
        for epoch in range(4):
            for batch in made.epoch(epoch):
                for row in np.flatnonzero(batch["sample_weights"]):
                    held = batch["class_targets"][row].any(axis=1)
                    boxes = decoding.decode_boxes(
                        batch["box_targets"][row], CENTRES, 128
                    )[held]
                    rows, columns = np.nonzero(batch["image"][row, ..., 0] > 0.99)
                    middle = np.array([columns.mean(), rows.mean()]) / 128
                    np.testing.assert_allclose(
                        (boxes[:, :2] + boxes[:, 2:]) / 2,
                        np.tile(middle, (len(boxes), 1)),
                        atol=2.5 / 128,
                    )

    def test_a_warped_picture_keeps_its_scale(self, labelled):
        fixed = batches.Augmentation((0.5, 0.5), turn=15.0)
        made = make(labelled, augmentation=fixed)
        for index in range(7):
            placing, warp = made.placing(0, index, 100, 80)
            wide, high = warp.size(100, 80)
            assert wide > 100
            assert abs(placing.scale_x) / wide == pytest.approx(0.5 / 100)
            assert placing.scale_y / high == pytest.approx(0.5 / 100)

    def test_what_would_not_fit_is_not_warped(self, labelled):
        large = batches.Augmentation((0.8, 1.0), turn=15.0, slant=0.2)
        made = make(labelled, augmentation=large)
        plain = make(labelled, augmentation=batches.Augmentation((0.8, 1.0)))
        kept = 0
        for epoch, index in itertools.product(range(20), range(7)):
            placing, warp = made.placing(epoch, index, 100, 80)
            assert max(abs(placing.scale_x), placing.scale_y) <= 1
            if warp is None:
                assert (placing, None) == plain.placing(epoch, index, 100, 80)
                kept += 1
        assert 70 < kept < 140

    def test_what_is_kept_is_not_warped_again(self, labelled, monkeypatch, tmp_path):
        calls = []
        picture = warps.Warp.picture
        monkeypatch.setattr(
            warps.Warp, "picture", lambda *args: calls.append(1) or picture(*args)
        )
        drawn = batches.Augmentation((0.4, 0.5), variants=1, turn=15.0)
        encode = kept.Kept(lambda image: {"mean": image.mean((0, 1))}, tmp_path)
        made = make(labelled, augmentation=drawn, encode=encode)
        for epoch in range(3):
            list(made.epoch(epoch))
        assert len(calls) == 7

    def test_variants_come_again(self, labelled):
        augmentation = batches.Augmentation(lit=1.0, variants=2)
        made = make(labelled, augmentation=augmentation)

        def pictures(epoch):
            found = {}
            for step, batch in enumerate(made.epoch(epoch)):
                for index, image in zip(made._order(epoch)[3 * step :], batch["image"]):
                    found[int(index)] = image
            return found

        first, second, third = (pictures(epoch) for epoch in range(3))
        for index in range(7):
            np.testing.assert_array_equal(first[index], third[index])
            assert (first[index] != second[index]).any()

    def test_encoders_are_given_what_makes_the_image(self, labelled):
        keys = []

        def encode(key, image):
            keys.append(key)
            return {"mean": image().mean((0, 1))}

        plain = list(make(labelled).epoch(2))
        made = list(make(labelled, encode=encode).epoch(2))
        assert sorted(keys) == [(2, index) for index in range(7)]
        for one, other in zip(plain, made, strict=True):
            np.testing.assert_allclose(
                other["mean"], one["image"].mean((1, 2)), rtol=1e-6
            )

    @pytest.mark.parametrize("drawn", [False, True])
    def test_drawn_labels_take_their_boxes_from_the_teacher(self, labelled, drawn):
        held, hands = 700, [dataclasses.replace(labelled[0], drawn=drawn)]
        made = make(hands, batch_size=1)
        placing, _ = made.placing(0, 0, 100, 80)
        seen = hands[0].labels[0].mapped(placing)
        truth = made._matcher._encoded(seen, np.array([held]))[0]

        def teach(key, image):
            regressors = np.zeros((len(CENTRES), 18), np.float32)
            regressors[held] = truth + 1.0  # A pixel off.
            scores = np.zeros(len(CENTRES), np.float32)
            scores[held] = 0.9
            return {"regressors": regressors, "scores": scores}

        (batch,) = make(hands, batch_size=1, teach=teach).epoch(0)
        found = batch["box_targets"][0, held]
        np.testing.assert_allclose(found, truth + 1.0 if drawn else truth, rtol=1e-5)

    def test_unlabelled_hands_move_with_the_picture(self, labelled):
        matcher = targets.Matcher(SPEC, 3)
        crowded = [dataclasses.replace(labelled[0], labels=(), unlabelled=(BOX,))]
        made = make(crowded, batch_size=1)
        for epoch in range(4):  # Mirrored and not.
            placing, _ = made.placing(epoch, 0, 100, 80)
            box = placing.boxes(np.array(BOX)).tolist()
            (batch,) = made.epoch(epoch)
            expected = matcher.targets([], [box]).anchor_weights
            np.testing.assert_array_equal(batch["anchor_weights"][0], expected)
            assert 0 < expected.mean() < 1

    def test_shares_cover_the_range_and_places_the_frame(self, labelled):
        made = make(labelled, augmentation=batches.Augmentation((0.4, 0.8), flip=True))
        found = [made.placing(e, i, 100, 50)[0] for e in range(60) for i in range(7)]
        shares = np.array([abs(a.scale_x) for a in found])
        assert 0.4 <= shares.min() < 0.42 and 0.78 < shares.max() <= 0.8
        assert np.mean(shares) == pytest.approx(0.6, abs=0.02)
        flipped = np.mean([a.scale_x < 0 for a in found])
        assert flipped == pytest.approx(0.5, abs=0.07)
        tops = np.array([a.shift_y / (1 - a.scale_y) for a in found])
        assert 0 <= tops.min() < 0.05 and 0.95 < tops.max() <= 1
        lefts = [min(a.shift_x, a.shift_x + a.scale_x) for a in found] / (1 - shares)
        assert 0 <= lefts.min() < 0.05 and 0.95 < lefts.max() <= 1
        assert abs(np.corrcoef(lefts, tops)[0, 1]) < 0.2

    def test_fixed_and_centred(self, labelled):
        augmentation = batches.Augmentation((0.5, 0.5), centred=True, flip=False)
        made = make(labelled, augmentation=augmentation)
        placings = {made.placing(e, i, 100, 80)[0] for e in range(3) for i in range(7)}
        (placing,) = placings
        assert dataclasses.astuple(placing) == pytest.approx((0.5, 0.4, 0.25, 0.3))


class TestRepeating:
    def test_same_seed_same_batches(self, labelled):
        equal(list(make(labelled).epoch(2)), list(make(labelled).epoch(2)))

    def test_epochs_and_seeds_differ(self, labelled):
        orders = {
            tuple(i for batch in make(labelled, seed=s).epoch(e) for i in which(batch))
            for s in range(3)
            for e in range(3)
        }
        assert len(orders) == 9
        images_ = [make(labelled).placing(e, 0, 9, 9)[0] for e in range(5)]
        assert len(set(images_)) == 5

    @pytest.mark.parametrize("step", [0, 1, 2, 3])
    def test_resuming_gives_the_rest(self, labelled, step):
        whole = list(make(labelled).epoch(1))
        equal(list(make(labelled).epoch(1, step)), whole[step:])

    def test_threads_change_nothing(self, labelled):
        alone = list(make(labelled, batch_size=1).epoch(0))
        for threads in (1, 2, 4):
            equal(list(make(labelled, batch_size=1, threads=threads).epoch(0)), alone)

    def test_values_of_numpys_generator_are_pinned(self, labelled):
        # A resumed run repeats only as long as these stay.
        made = make(labelled, augmentation=batches.Augmentation((0.0 + 1e-9, 1.0)))
        share = abs(made.placing(3, 2, 10, 10)[0].scale_x)
        expected = np.random.default_rng(
            np.random.SeedSequence(5, spawn_key=(3, 1, 2))
        ).random()
        assert share == pytest.approx(expected, abs=1e-6)


class TestThreads:
    def names(self):
        return [t.name for t in threading.enumerate() if t.name.startswith("batches")]

    @pytest.mark.parametrize("threads", [1, 2])
    def test_stopping_early_ends_the_threads(self, labelled, threads):
        iterator = make(labelled, batch_size=1, threads=threads).epoch(0)
        next(iterator)
        assert self.names()
        iterator.close()
        assert not self.names()

    @pytest.mark.parametrize("threads", [0, 1, 2])
    def test_errors_reach_the_consumer(self, labelled, threads):
        made = make(labelled, batch_size=1, threads=threads)
        broken = labelled[4].path
        broken.write_bytes(b"")
        with pytest.raises(images.ImageError, match="4.png"):
            list(made.epoch(0))
        assert not self.names()

    def test_batches_are_prepared_while_the_consumer_works(self, labelled, monkeypatch):
        made = make(labelled, batch_size=1, threads=1)
        prepared = []
        real = made.batch

        def batch(epoch, step):
            prepared.append(step)
            return real(epoch, step)

        monkeypatch.setattr(made, "batch", batch)
        iterator = made.epoch(0)
        next(iterator)
        deadline = time.monotonic() + 5
        while len(prepared) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        # Two ahead, and no more: memory stays bounded.
        assert prepared == [0, 1, 2]
        assert list(itertools.islice(iterator, 1))

    def test_the_share_of_waiting(self, labelled, monkeypatch):
        made = make(labelled, batch_size=1, threads=1)
        ready = []
        real = made.batch

        def batch(epoch, step):
            time.sleep(0.02)
            ready.append(real(epoch, step))
            return ready[-1]

        monkeypatch.setattr(made, "batch", batch)
        assert made.waited == 0
        for _ in made.epoch(0):  # A consumer faster than the thread.
            pass
        assert made.waited > 0.9
        ready.clear()
        for taken, _ in enumerate(made.epoch(0), 1):  # One that is slower.
            while len(ready) < min(taken + 1, 7):
                time.sleep(0.001)
        # For the first of seven alone.
        assert made.waited < 0.5

    def test_pictures_are_decoded_once_where_they_fit(self, labelled, monkeypatch):
        cache = image_cache.ImageCache()
        made = make(labelled, cache=cache)
        list(made.epoch(0))
        assert cache.bytes == 7 * 100 * 80 * 3
        monkeypatch.setattr(images, "read", None)
        assert len(list(made.epoch(1))) == 3


class TestRefusals:
    def test_labels_are_checked_before_training(self, labelled):
        bad = [
            dataclasses.replace(labelled[0], labels=None),
            dataclasses.replace(labelled[1], labels=(targets.Label(BOX, POINTS, 3),)),
            labelled[2],
        ]
        with pytest.raises(samples.DataError, match=r"0\.png(.|\n)*1\.png") as caught:
            make(bad)
        assert len(caught.value.faults) == 2

    def test_background_alone_is_taken(self, labelled):
        made = make([dataclasses.replace(labelled[0], labels=())])
        (batch,) = made.epoch(0)
        assert not batch["class_targets"].any()
        assert (batch["anchor_weights"][0] == 1).all()

    @pytest.mark.parametrize(
        "options", [{"batch_size": 0}, {"seed": -1}, {"threads": -1}]
    )
    def test_arguments(self, labelled, options):
        with pytest.raises(ValueError, match="Batches must"):
            make(labelled, **options)

    @pytest.mark.parametrize("frame", [(0.0, 1.0), (0.8, 0.4), (0.5, 1.1)])
    def test_frames(self, frame):
        with pytest.raises(ValueError, match="`frame` must"):
            batches.Augmentation(frame)

    def test_no_samples(self):
        with pytest.raises(samples.DataError, match="one or more"):
            make([])
