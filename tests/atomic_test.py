"""Tests of files that are there whole or not at all, on disks that fail."""

from __future__ import annotations

import _thread
import contextlib
import errno
import os
import pathlib
import subprocess
import sys
import threading
import time
from unittest import mock

from absl.testing import absltest, parameterized

from checkpoints import atomic, locks
from tests import conftest
from tests.soak import shim

OLD, NEW = b"the old content", b"the new content, longer"
HEAD = NEW[:4]
# May fail without harm: it only looks for what was left behind.
HARMLESS = ("scandir",)


class AtomicTestCase(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.directory = pathlib.Path(self.create_tempdir().full_path)
        self.path = self.directory / "x.bin"
        self.path.write_bytes(OLD)

    def write(self):
        atomic.write(self.path, [NEW[4:9], b"", NEW[9:]], lambda: HEAD, 4)

    def assert_alone(self, content: bytes):
        self.assertEqual(self.path.read_bytes(), content)
        self.assertEqual(os.listdir(self.directory), ["x.bin"])


class FaultTest(AtomicTestCase):
    def calls(self) -> list[str]:
        with shim.installed(shim.counting) as calls:
            self.write()
        self.assert_alone(NEW)
        self.path.write_bytes(OLD)
        return calls

    @parameterized.parameters(
        errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EACCES
    )
    def test_whatever_call_fails_the_old_file_stays(self, code):
        names = self.calls()
        self.assertContainsSubset({"writev", "fsync", "close", "replace"}, names)
        replaced = names.index("replace")
        self.assertLess(names.index("fsync"), replaced)
        for at, name in enumerate(names):
            with self.subTest(at=at, name=name):
                self.path.write_bytes(OLD)
                failing = shim.Failing(at, code)
                if name in HARMLESS or (at > replaced and name in ("close", "open")):
                    continue
                with shim.installed(failing), self.assertRaises(OSError) as caught:
                    self.write()
                self.assertEqual(caught.exception.errno, code)
                told = f"[Errno {code}] {os.strerror(code)}: {str(self.path)!r}"
                self.assertEqual(str(caught.exception), told)
                self.assert_alone(NEW if at > replaced else OLD)
        self.assertEqual(self.open_files(), self.before)

    def test_calls_that_harm_nothing_may_fail(self):
        names = self.calls()
        for at, name in enumerate(names):
            if name in HARMLESS or at == len(names) - 1:  # Closes the lock.
                with shim.installed(shim.Failing(at, errno.EACCES)):
                    self.write()
                self.assert_alone(NEW)
        # A directory that can be written to and not listed; one that has no flush.
        for call, code in (("open", errno.EACCES), ("fsync", errno.EINVAL)):
            at = len(names) - 1 - names[::-1].index(call)
            self.path.write_bytes(OLD)
            with shim.installed(shim.Failing(at, code)):
                self.write()
            self.assert_alone(NEW)

    def test_a_disk_that_fails_for_good_is_told_by_its_first_failure(self):
        names = self.calls()
        at = names.index("writev")

        def broken(number, name, made, arguments):
            if number >= at and name != "close":
                code = errno.EIO if number == at else errno.EROFS
                raise OSError(code, os.strerror(code))
            return made()

        with shim.installed(broken), self.assertRaises(OSError) as caught:
            self.write()
        self.assertEqual(caught.exception.errno, errno.EIO)
        self.assertEqual(self.path.read_bytes(), OLD)

    def test_a_write_cut_short_at_every_byte(self):
        for most in (1, 3, 2**30):
            for room in range(len(NEW)):
                with self.assertRaises(OSError), shim.installed(
                    shim.Short(room, most=most)
                ):
                    self.write()
                self.assert_alone(OLD)
            with shim.installed(shim.Short(len(NEW), most=most)):
                self.write()  # Cut short, and gone on with.
            self.assert_alone(NEW)
            self.path.write_bytes(OLD)

    def test_a_directory_that_vanished(self):
        gone = self.directory / "gone" / "x.bin"
        with self.assertRaises(FileNotFoundError) as caught:
            atomic.write(gone, [NEW])
        self.assertEqual(caught.exception.filename, str(gone))

    def test_other_errors_leave_nothing_either(self):
        with self.assertRaisesRegex(ValueError, "must have 4 bytes. Received: 3"):
            atomic.write(self.path, [NEW], lambda: b"abc", 4)
        with self.assertRaises(KeyboardInterrupt):
            atomic.write(self.path, [NEW], mock.Mock(side_effect=KeyboardInterrupt), 4)
        self.assert_alone(OLD)

    def setUp(self):
        super().setUp()
        self.before = self.open_files()

    def open_files(self) -> int:
        """Files this process has open; a failed write must not add to them."""
        there = "/proc/self/fd"
        return len(os.listdir(there)) if os.path.isdir(there) else 0


class TogetherTest(AtomicTestCase):
    def contents(self) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in self.directory.iterdir()}

    def write(self):
        names = ("w.bin", "x.bin", "y.bin")
        atomic.write_together({self.directory / name: NEW for name in names})

    def test_whatever_call_fails_all_are_old_until_one_has_its_name(self):
        with shim.installed(shim.counting) as calls:
            self.write()
        names = ["w.bin", "x.bin", "y.bin"]
        self.assertEqual(self.contents(), dict.fromkeys(names, NEW))
        self.assertEqual(calls.count("replace"), 3)
        for at, name in enumerate(calls[: calls.index("replace") + 1]):
            for each in self.directory.iterdir():
                each.unlink()
            self.path.write_bytes(OLD)
            if name in HARMLESS:
                continue
            with self.subTest(at=at, name=name):
                failing = shim.Failing(at, errno.ENOSPC)
                with shim.installed(failing), self.assertRaises(OSError) as caught:
                    self.write()
                self.assertEqual(caught.exception.errno, errno.ENOSPC)
                self.assert_alone(OLD)


class LeftoverTest(AtomicTestCase):
    """What a process that was killed leaves behind, and what one at work has there."""

    # Writes a first part, says so, and waits.
    WRITER = (
        "import sys\n"
        "from checkpoints import atomic\n"
        "def parts():\n"
        "    yield b'first'\n"
        "def head():\n"
        "    print('written', flush=True)\n"
        "    sys.stdin.read()\n"
        "    return b'head'\n"
        "atomic.write(sys.argv[1], parts(), head, 4)\n"
    )

    def writer(self) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", self.WRITER, str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=conftest.ROOT,
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        self.assertEqual(process.stdout.readline(), b"written\n")
        return process

    def left(self) -> list[str]:
        return sorted(set(os.listdir(self.directory)) - {"x.bin"})

    def test_of_the_killed_nothing_stays_and_of_the_living_all(self):
        for _ in range(3):
            killed = self.writer()
            killed.kill()
            killed.wait()
            self.assertLen(self.left(), 1)  # Its own; the one before was swept.
        living = self.writer()
        self.assertLen(self.left(), 1)
        atomic.write(self.path, [NEW])
        self.assertLen(self.left(), 1)  # The living one's.
        living.communicate()
        self.assertEqual(living.returncode, 0)
        self.assert_alone(b"headfirst")

    def test_a_sweep_of_all_names_takes_only_its_own_kind(self):
        names = [".x.bin.12-0123abcd.tmp", ".other.9-01234567.tmp"]
        kept = [".x.bin.tmp", "x.bin.12-0123abcd.tmp", ".x.bin.12-0123abc.tmp"]
        for name in [*names, *kept]:
            (self.directory / name).touch()
        (self.directory / ".y.1-01234567.tmp").mkdir()
        atomic.sweep(self.directory, "x.bin")
        self.assertEqual(self.left(), sorted([*names[1:], *kept, ".y.1-01234567.tmp"]))
        atomic.sweep(self.directory)
        self.assertEqual(self.left(), sorted([*kept, ".y.1-01234567.tmp"]))
        atomic.sweep(self.directory / "nowhere")

    @parameterized.parameters(errno.ENOLCK, None)
    def test_without_locks_age_decides(self, code):
        old, young = (self.directory / f".x.bin.{i}-01234567.tmp" for i in "12")
        for leftover in (old, young):
            leftover.write_bytes(b"cut")
        os.utime(old, (1, 1))
        system = mock.Mock(LOCK_EX=2, LOCK_NB=4)
        system.flock.side_effect = OSError(code, "no locks")
        with mock.patch.object(locks, "fcntl", code and system):
            atomic.write(self.path, [NEW])
        self.assertEqual(self.left(), [young.name])
        self.assertEqual(self.path.read_bytes(), NEW)

    def test_one_about_to_take_its_name_is_not_swept(self):
        def act(number, name, made, arguments):
            if name == "replace":
                atomic.sweep(self.directory)
            return made()

        with shim.installed(act):
            self.write()
        self.assert_alone(NEW)

    def test_one_swept_before_its_lock_is_made_anew(self):
        real, swept = os.open, []

        def opened(path, flags, *mode):
            descriptor = real(path, flags, *mode)
            if flags & os.O_CREAT and not swept:
                swept.append(path)
                os.unlink(path)
            return descriptor

        with mock.patch.object(os, "open", opened):
            self.write()
        self.assertLen(swept, 1)
        self.assert_alone(NEW)


class FileTest(AtomicTestCase):
    def test_links_and_the_umask_hold(self):
        real, link = self.path, self.directory / "link"
        link.symlink_to(real)
        atomic.write(link, [NEW])
        self.assertTrue(link.is_symlink())
        self.assertEqual(real.read_bytes(), NEW)
        plain = self.directory / "plain"
        plain.touch()
        self.assertEqual(real.stat().st_mode, plain.stat().st_mode)

    def test_a_directory_is_made_and_left_empty(self):
        made = self.directory / "a" / "b"
        for _ in range(2):
            atomic.make_directory(made)
            self.assertEqual(list(made.iterdir()), [])
        for path in (self.path, self.path / "below"):
            with self.assertRaises(OSError) as caught:
                atomic.make_directory(path)
            self.assertEqual(caught.exception.filename, os.fspath(path))

    def test_many_chunks(self):
        chunks = [bytes([i % 251]) * (i % 7) for i in range(3000)]
        atomic.write(self.path, chunks)
        self.assert_alone(b"".join(chunks))

    @absltest.skipUnless(hasattr(os, "posix_fadvise"), "no such hint here")
    def test_the_disk_begins_on_each_stretch_before_the_next(self):
        begun = []

        def act(number, name, made, arguments):
            if name in ("writev", "fsync"):
                begun.append((name, advise.call_count))
            return made()

        content = bytes(range(250)) * 8  # One chunk, longer than a stretch.
        with mock.patch.object(atomic, "_STRETCH", 600):
            with mock.patch.object(os, "posix_fadvise") as advise:
                advise.side_effect = OSError(errno.ESPIPE, "a hint may fail")
                with shim.installed(act):
                    atomic.write(self.path, [b"ab", content, b"c"], lambda: b"1234", 4)
        self.assert_alone(b"1234ab" + content + b"c")
        places = [call.args[1:] for call in advise.call_args_list]
        hint = os.POSIX_FADV_DONTNEED
        self.assertEqual(places[:2], [(4, 2, hint), (6, 600, hint)])
        self.assertEqual(sum(length for _, length, _ in places), len(content) + 7)
        self.assertEqual(places[-1], (0, 4, hint))
        *writes, flush = begun[: len(places) + 1]
        self.assertEqual(writes, [("writev", n) for n in range(len(places))])
        self.assertEqual(flush, ("fsync", len(places)))

    @parameterized.parameters(True, False)
    def test_what_a_long_file_occupied_is_freed_last(self, threads):
        done, main, closed = [], threading.get_ident(), threading.Event()

        def opened():
            return next((found for name, found, _ in done if name == "open"), None)

        def act(number, name, made, arguments):
            found = made()
            if name == "open" and arguments[1] == os.O_RDONLY:
                done.append(("open", found, True))
            elif name in ("replace", "fsync", "close"):
                own = threading.get_ident() == main
                done.append((name, arguments[0], own))
                if (name, arguments[0]) == ("close", opened()):
                    closed.set()
            return found

        refused = [] if threads else [RuntimeError("can't start new thread")]
        start = mock.patch.object(_thread, "start_new_thread", side_effect=refused)
        with mock.patch.object(atomic, "_STRETCH", len(OLD)):
            with contextlib.nullcontext() if threads else start:
                with shim.installed(act):
                    self.write()
                    self.assertTrue(closed.wait(60))
                self.assert_alone(NEW)
        kept = opened()
        names = [name for name, *_ in done]
        last = names.index("replace")
        self.assertIn("fsync", names[last:])
        self.assertIn(("close", kept, not threads), done[last:])
        with self.assertRaises(OSError):  # Nothing stays open.
            os.fstat(kept)
        done.clear()
        with shim.installed(act):
            self.write()
        self.assertNotIn("open", [name for name, *_ in done])  # The old one was short.

    def test_it_is_quick(self):
        def seconds(write) -> float:
            start = time.process_time()
            for _ in range(50):
                write()
            return time.process_time() - start

        def plain():
            whole = self.directory / "y.bin"
            whole.write_bytes(NEW)
            os.replace(whole, self.path)

        expected = min(seconds(plain) for _ in range(3))
        found = min(seconds(self.write) for _ in range(3))
        # A search of a large directory, say, would be far above.
        self.assertLess(found, 50 * expected)


if __name__ == "__main__":
    absltest.main()
