"""Tests of the training loop, in this process."""

from __future__ import annotations

import dataclasses
import json
import logging as standard_logging
import pathlib
import shutil
import signal
from unittest import mock

import numpy as np
import pytest

from checkpoints import store
from ondevice.device import data, plot, runs, samples, session, training
from tests import small_data

STEPS = 5  # Of an epoch: 10 pictures to train on, 2 in a batch.
SETTINGS = runs.Settings(
    epochs=3, learning_rate=1e-3, schedule="cosine", seed=1, frame=(0.5, 0.9)
)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = small_data.annotated(tmp_path_factory.mktemp("data") / "hands", 13)
    found = data.load(root, ("a", "b"))
    return (
        dataclasses.replace(found, samples=found.samples[:10]),
        dataclasses.replace(found, samples=found.samples[10:]),
    )


@pytest.fixture(scope="module", autouse=True)
def unplotted():
    """A picture takes longer than all else; train_test.py looks at it."""
    with mock.patch.object(plot, "draw"):
        yield


@pytest.fixture(scope="module")
def make_in(tiny_model, sets):
    """Makes a run in a directory, from its checkpoint where there is one."""
    opened = []

    def begin(directory, settings=SETTINGS, train=None) -> training.Training:
        directory.mkdir(exist_ok=True)
        opened.append(session.Session(tiny_model("adam"), "ai_edge_litert", 1))
        resumed = None
        if (directory / training.LATEST).exists():
            header = opened[-1].restore(directory / training.LATEST)
            resumed = runs.resumption(header)
        return training.Training(
            opened[-1], train or sets[0], sets[1], directory, settings, None, resumed
        )

    yield begin
    for each in opened:
        each.close()


@pytest.fixture
def make(make_in, tmp_path):
    """The same, in a directory of the test."""
    return lambda name, *rest, **named: make_in(tmp_path / name, *rest, **named)


@pytest.fixture(scope="module")
def whole(make_in, tmp_path_factory):
    """A run that was never stopped; not to be written to."""
    directory = tmp_path_factory.mktemp("never stopped") / "whole"
    make_in(directory).run()
    return directory


@pytest.fixture(autouse=True)
def interruptible():
    """As in a terminal; a process in the background may have been told to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Pressed:
    """A progress wrapper under which Ctrl-C is pressed at a certain item."""

    def __init__(self, what: str, item: int, times: int = 1) -> None:
        self.what, self.left, self.times = what, item, times

    def __call__(self, items, what, total):
        for item in items:
            if what.startswith(self.what):
                if self.left == 0:
                    for _ in range(self.times):
                        signal.raise_signal(signal.SIGINT)
                self.left -= 1
            yield item


def assert_same(first: pathlib.Path, second: pathlib.Path) -> None:
    for name in (training.LATEST, training.BEST, training.METRICS):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


@pytest.mark.parametrize(
    "pressed, state",
    [
        (Pressed("epoch", 0), (0, 1)),
        (Pressed("epoch", 7), (1, 3)),
        (Pressed("epoch 3", STEPS - 1), (2, STEPS)),
        (Pressed("validation", 1), (0, STEPS)),
    ],
    ids=["first step", "mid-epoch", "last step", "validation"],
)
def test_ctrl_c_and_on(make, tmp_path, whole, pressed, state):
    run = make("stopped")
    with pytest.raises(KeyboardInterrupt):
        run.run(pressed)
    assert (run.state.epoch, run.state.epoch_step) == state
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    make("stopped").run()
    assert_same(whole, tmp_path / "stopped")


def test_ctrl_c_twice_does_not_wait(make, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make("stopped").run(Pressed("epoch", 2, times=2))
    assert not (tmp_path / "stopped" / training.LATEST).exists()


@pytest.mark.parametrize("name", [training.BEST, training.LATEST])
def test_killed_while_saving_and_on(make, tmp_path, name):
    """What lies after the last checkpoint, metrics and a newer best, is redone."""
    run = make("killed")
    save = session.Session.save

    def dying_save(opened, path, **header):
        if path.name == name and header["epoch"] == 2:
            raise SystemExit(9)
        save(opened, path, **header)

    def second(line):  # The second epoch is the best, the one that is not saved.
        return -abs(line["epoch"] - 2)

    with mock.patch.object(session.Session, "save", dying_save):
        with mock.patch.object(training, "_rank", second):
            with pytest.raises(SystemExit):
                run.run()
    with mock.patch.object(training, "_rank", second):
        make("killed").run()
        make("again").run()
    assert_same(tmp_path / "again", tmp_path / "killed")


def test_what_a_run_depends_on(make, tmp_path):
    def loss(name, **changes):
        make(name, dataclasses.replace(SETTINGS, epochs=1, **changes)).run()
        text = (tmp_path / name / training.METRICS).read_text()
        return json.loads(text.splitlines()[-1])["loss"]

    losses = [
        loss("x1"),
        loss("x2", seed=2),
        loss("x3", frame=(0.9, 0.9)),
        loss("x4", learning_rate=1e-2),
        loss("x5", schedule="constant"),
    ]
    assert len(set(losses)) == 5
    assert loss("x6") == losses[0]


def line(accuracy, recall, loss, epoch_loss=1.0):
    found = {"class_accuracy": accuracy, "recall": recall, "loss": loss}
    return {"loss": epoch_loss, "validation": found}


def test_the_best_has_the_highest_accuracy_then_recall_then_the_lowest_loss():
    ranked = [
        line(0.8, 1.0, 0.1),
        line(0.9, 0.8, 0.1),
        line(0.9, 0.9, 0.3),
        line(0.9, 0.9, 0.2),
        line(0.9, 0.9, None, 0.1),  # No labels to validate on: the training loss.
        line(1.0, 0.1, 9.0),
    ]
    assert sorted(ranked[::-1], key=training._rank) == ranked


def test_an_epochs_loss_is_the_mean_of_its_steps(make, tmp_path):
    losses, train = [], session.Session.train

    def recorded(opened, **arrays):
        found = train(opened, **arrays)
        losses.append(found.loss)
        return found

    with mock.patch.object(session.Session, "train", recorded):
        make("run").run()
    lines = [
        json.loads(text)
        for text in (tmp_path / "run" / training.METRICS).read_text().splitlines()
    ]
    means = np.reshape(losses, (3, STEPS)).mean(axis=1)
    found = [line["loss"] for line in lines if line["kind"] == "epoch"]
    np.testing.assert_allclose(found, means)
    steps = {line["step"]: line["loss"] for line in lines if line["kind"] == "step"}
    assert steps == {1: losses[0], 10: losses[9]}


def test_of_equal_epochs_the_first_is_the_best(make):
    with mock.patch.object(training, "_rank", lambda line: 0):
        assert make("run").run().best["epoch"] == 1


class TestPatience:
    """The first epoch is the best, and two without a better one end the run."""

    LONG = dataclasses.replace(
        SETTINGS, epochs=9, patience=2, schedule="constant", learning_rate=1e-4
    )

    @pytest.fixture(autouse=True)
    def falling(self):
        with mock.patch.object(training, "_rank", lambda line: -line["epoch"]):
            yield

    def test_it_ends_the_run_and_says_so(self, make):
        with mock.patch.object(training.logging, "info") as info:
            state = make("run", self.LONG).run()
        assert (state.epoch, runs.ended(self.LONG, state)) == (3, runs.PATIENCE)
        said = [call.args[0] % call.args[1:] for call in info.call_args_list]
        assert "after epoch 3: --patience=2 epochs without a better" in said[-1]

    def test_none_ends_never(self, make):
        settings = dataclasses.replace(self.LONG, patience=0, epochs=4)
        state = make("run", settings).run()
        assert (state.epoch, runs.ended(settings, state)) == (4, runs.EPOCHS)

    def test_a_better_epoch_begins_anew(self, make):
        def rank(line):  # The third is better than the first.
            return 1 if line["epoch"] == 3 else -line["epoch"]

        with mock.patch.object(training, "_rank", rank):
            assert make("run", self.LONG).run().epoch == 5

    def test_stopped_and_resumed_it_ends_in_the_same_place(self, make, tmp_path):
        make("whole", self.LONG).run()
        with pytest.raises(KeyboardInterrupt):
            make("stopped", self.LONG).run(Pressed("epoch 2", 3))
        make("stopped", self.LONG).run()
        assert_same(tmp_path / "whole", tmp_path / "stopped")
        before = (tmp_path / "stopped" / training.LATEST).read_bytes()
        assert make("stopped", self.LONG).run().epoch == 3  # Nothing more.
        assert (tmp_path / "stopped" / training.LATEST).read_bytes() == before

    @pytest.mark.parametrize(
        "changes, epochs",
        [
            ({"patience": 3}, 4),
            ({"patience": 0, "epochs": 5}, 5),
            ({"epochs": 10}, 5),  # As many as patience again.
            ({"epochs": 4}, 3),  # Fewer than were asked for at first.
        ],
    )
    def test_more_goes_on(self, make, changes, epochs):
        make("run", self.LONG).run()
        state = make("run", dataclasses.replace(self.LONG, **changes)).run()
        assert state.epoch == epochs

    def test_what_was_gone_on_with_goes_on_as_if_never_stopped(self, make, tmp_path):
        more = dataclasses.replace(self.LONG, epochs=10)
        for name in ("whole", "stopped"):
            make(name, self.LONG).run()
        make("whole", more).run()
        with pytest.raises(KeyboardInterrupt):
            make("stopped", more).run(Pressed("epoch 5", 3))
        make("stopped", more).run()
        assert_same(tmp_path / "whole", tmp_path / "stopped")


def test_a_run_of_before_there_was_patience_goes_on_without(whole):
    _, header = store.load_file(whole / training.LATEST)
    run = {**header.extra["run"]}
    run["settings"] = {k: v for k, v in run["settings"].items() if k != "patience"}
    run["state"] = {k: v for k, v in run["state"].items() if k != "patience_from"}
    found = runs.resumption(dataclasses.replace(header, extra={"run": run}))
    assert found.settings == dataclasses.replace(SETTINGS, patience=0)
    assert found.state.patience_from == 0


@pytest.mark.parametrize("name", ["loss", "gradient_norm"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stops_before_a_checkpoint_is_written(
    make, tmp_path, name, value
):
    original = session.Session.call

    def call(opened, key, arrays):
        found = original(opened, key, arrays)
        return {**found, name: np.float32(value)} if key == "train" else found

    run = make("diverged")
    before = run._session.state()
    with mock.patch.object(session.Session, "call", call):
        with pytest.raises(runs.TrainingError, match="step 1.*nothing was saved"):
            run.run()
    (written,) = (tmp_path / "diverged").iterdir()
    (line,) = map(json.loads, written.read_text().splitlines())
    assert (line["kind"], line["step"], line["not_finite"]) == ("refused", 1, [])
    after = run._session.state()
    assert all(after[n].tobytes() == before[n].tobytes() for n in before)


def test_a_run_that_diverged_goes_on_at_a_smaller_rate(make, tmp_path, whole):
    shutil.copytree(whole, tmp_path / "run")
    more = dataclasses.replace(SETTINGS, epochs=5, learning_rate=1e30)
    run = make("run", more)
    before = run._session.state()
    with pytest.raises(runs.TrainingError, match=r"variables.*--resume") as caught:
        run.run()
    # The message and the file tell which layers; the weights are the last epoch's.
    line = json.loads((tmp_path / "run" / training.METRICS).read_text().split("\n")[-2])
    assert line["kind"] == "refused" and line["not_finite"][0] in str(caught.value)
    after = run._session.state()
    assert all(after[n].tobytes() == before[n].tobytes() for n in before)
    assert (tmp_path / "run" / training.LATEST).read_bytes() == (
        whole / training.LATEST
    ).read_bytes()
    state = make("run", dataclasses.replace(more, learning_rate=1e-4)).run()
    assert state.epoch == 5 and np.isfinite(state.last["loss"])
    lines = (tmp_path / "run" / training.METRICS).read_text().splitlines()
    assert {json.loads(line)["kind"] for line in lines} == {"step", "epoch"}


def test_other_data_are_told_and_the_epoch_begins_anew(make, sets, caplog):
    with pytest.raises(KeyboardInterrupt):
        make("stopped").run(Pressed("epoch", 7))
    fewer = dataclasses.replace(sets[0], samples=sets[0].samples[:8])
    with caplog.at_level(standard_logging.WARNING):
        run = make("stopped", dataclasses.replace(SETTINGS, epochs=2), fewer)
    assert "not as if never stopped" in caplog.text
    assert "--epochs=2 was 3" in caplog.text
    assert "images or labels were others" in caplog.text
    assert (run.state.epoch, run.state.epoch_step, run.state.steps) == (1, 0, 8)
    state = run.run()
    assert (state.epoch, state.steps) == (2, 12)


def test_a_run_that_is_done_does_nothing_more(make_in, whole):
    def files() -> dict[pathlib.Path, bytes]:
        return {p: p.read_bytes() for p in whole.rglob("*") if p.is_file()}

    before = files()
    with mock.patch.object(session.Session, "train") as step:
        state = make_in(whole).run()
    step.assert_not_called()
    assert (state.epoch, state.steps) == (3, 3 * STEPS)
    assert state.last is not None and state.best is not None
    assert files() == before


def test_pictures_without_labels_count_for_their_class(make, sets):
    bare = [dataclasses.replace(s, labels=None, class_index=0) for s in sets[1].samples]
    run = make("run")
    run._validation = dataclasses.replace(sets[1], samples=tuple(bare))
    run._fixed = None
    state = run.run()
    assert state.last["validation"]["loss"] is None
    assert state.last["validation"]["images"] == 3


def test_one_picture_without_a_hand_trains(make, sets):
    """No anchor is positive in any batch, whose other places are empty."""
    sample = dataclasses.replace(sets[0].samples[0], labels=())
    lone = dataclasses.replace(sets[0], samples=(sample,))
    run = make("run", dataclasses.replace(SETTINGS, epochs=2), lone)
    before = run._session.state()
    state = run.run()
    after = run._session.state()
    assert state.steps == 2 and np.isfinite(state.last["loss"])
    assert all(np.isfinite(array).all() for array in after.values())
    # Nothing pulls at the boxes; the scores go down.
    assert any((after[n] != before[n]).any() for n in before if n.startswith("class"))


def test_without_labels_there_is_nothing_to_train_on(make, sets):
    bare = tuple(dataclasses.replace(s, labels=None) for s in sets[0].samples)
    with pytest.raises(samples.DataError, match="one or more"):
        make("run", train=dataclasses.replace(sets[0], samples=bare))


def test_the_checkpoint_tells_how_to_go_on(whole):
    tensors, header = store.load_file(whole / training.LATEST)
    found = runs.resumption(header)
    assert found.settings == SETTINGS
    assert (found.state.epoch, found.state.steps) == (3, 15)
    assert int(tensors["step"]) == header.step == 15
    assert all(np.isfinite(array).all() for array in tensors.values())
