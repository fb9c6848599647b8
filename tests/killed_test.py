"""A short campaign of kills, and proof that it would see what is lost."""

from __future__ import annotations

import dataclasses
import os
import random
import signal

import pytest

from checkpoints import store
from tests.soak import killed, shim, victims

# Exports and commands, which take ten times as long, are for the campaign.
KINDS = ("training", "saving", "patching")


@pytest.fixture(scope="module")
def known(tiny_model):
    return killed.reference(tiny_model("adam"), KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_whole_stays_and_the_work_ends_as_if_never_killed(known, kind):
    counted = killed.kill(known, kind, 3, random.Random(kind), clocked=0.0)
    assert counted["kills"] + counted["ended before"] == 3
    assert counted["kills"] > 1


def test_a_kill_within_a_write_leaves_what_the_next_one_sweeps(known, tmp_path):
    place = killed._place(tmp_path, "saving")
    job = dataclasses.replace(known.job, kind="saving", place=place)
    for _ in range(3):
        # The first write of the first checkpoint, which is never finished.
        ended = victims.run(job, 5, shim.Killing.WITHIN)
        assert ended.code == -signal.SIGKILL
        (left,) = os.listdir(place)
        assert left.startswith(".session.safetensors.") and left.endswith(".tmp")


class TestSeen:
    """The campaign sees what it is to see."""

    @pytest.fixture
    def job(self, known, tmp_path):
        place = killed._place(tmp_path, "saving")
        path = place / victims.SESSION
        path.write_bytes((known.root / "saving" / victims.SESSION).read_bytes())
        job = dataclasses.replace(known.job, kind="saving", place=place)
        killed._check(known, job, {})
        killed._check_end(known, job)
        return job

    def test_other_weights(self, known, job):
        path = job.place / victims.SESSION
        tensors, header = store.load_file(path)
        name = next(name for name, array in tensors.items() if array.size > 1)
        tensors[name].flat[0] += 1
        store.save_file(path, tensors, header)
        with pytest.raises(AssertionError, match="session.safetensors at step 12"):
            killed._check(known, job, {})

    def test_a_cut_file(self, known, job):
        path = job.place / victims.SESSION
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(store.CheckpointError):
            killed._check(known, job, {})

    def test_a_lost_file(self, known, job):
        (job.place / victims.SESSION).unlink()
        with pytest.raises(AssertionError, match="is lost"):
            killed._check(known, job, {victims.SESSION: 3})

    def test_an_older_file(self, known, job):
        with pytest.raises(AssertionError, match="older than before"):
            killed._check(known, job, {victims.SESSION: 13})

    def test_what_piles_up(self, known, job):
        for number in range(5):
            (job.place / f".a.{number}-01234567.tmp").touch()
        with pytest.raises(AssertionError, match=".tmp"):
            killed._check(known, job, {})
        with pytest.raises(AssertionError):
            killed._check_end(known, job)
