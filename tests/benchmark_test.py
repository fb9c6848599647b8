"""Tests of the benchmark: its files, its sections on tiny detectors, its mistakes."""

from __future__ import annotations

import contextlib
import io
import json
import pathlib
import subprocess
import sys
from unittest import mock

from PIL import Image
from absl.testing import absltest, flagsaver, parameterized

from ondevice import benchmark, build, commands, fresh
from ondevice.device import runtimes
from ondevice.measuring import (
    bounds, class_files, classes, contest, making, sections,
)  # fmt: skip
from tests import conftest, tiny, tiny_builds, tiny_detector

ONE, TWO = "one", "two"
RUNTIME = runtimes.installed()[0]


class FilesTestCase(parameterized.TestCase):
    """Folders of files of the tiny detector, with one class and with two."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.made = {ONE: tiny_builds.whole(), TWO: tiny_builds.heads()}

    def setUp(self):
        super().setUp()
        self.root = pathlib.Path(self.create_tempdir().full_path)
        for name, files in self.made.items():
            (self.root / name).mkdir()
            (self.root / name / classes.MODEL).write_bytes(files.model)
            (self.root / name / classes.INFERENCE).write_bytes(files.inference)

    def folders(self) -> str:
        return ",".join(str(self.root / name) for name in self.made)


class CommandTest(FilesTestCase):
    def test_given_files_need_no_tensorflow(self):
        code = (
            "import runpy, sys\n"
            "sys.modules['tensorflow'] = sys.modules['keras'] = None\n"
            "runpy.run_module('ondevice.benchmark', run_name='__main__')\n"
        )
        done = subprocess.run(
            [
                *(sys.executable, "-c", code, f"--models={self.folders()}"),
                *("--sections=classes", "--rounds=6", f"--runtimes={RUNTIME}"),
            ],
            capture_output=True,
            text=True,
            cwd=conftest.ROOT,
        )
        # Two classes have no bound, so nothing can miss one.
        self.assertEqual(done.returncode, 0, done.stderr)
        found = json.loads(done.stdout.splitlines()[-1])
        self.assertEqual(list(found), ["rows", "ratios", "missing"])
        self.assertEqual(
            [(r["what"], r["contender"], r["classes"]) for r in found["rows"]],
            [
                (what, kind, count)
                for kind in ("inference.tflite", "model.tflite")
                for count in (1, 2)
                for what in ("infer", "detect", "total")
            ],
        )
        self.assertEqual({row["rounds"] for row in found["rows"]}, {6})
        name = f"classes: model.tflite, {RUNTIME}, 1 thread"
        self.assertIn(f"{name}, 2 classes over 1", found["ratios"])
        self.assertIn(f"{name}, 1 class over itself", found["ratios"])
        self.assertRegex(done.stderr, f"-, {name}, 2 classes over 1\n")

    @parameterized.named_parameters(
        ("section", ["--sections=speed"], 2, "--sections must be of classes, steps"),
        ("no_one", ["--classes=7,20"], 2, "must have 1 among them"),
        ("no_number", ["--classes=1,many"], 2, "--classes must be whole numbers"),
        ("no_threads", ["--threads=0"], 2, "--threads must be 1 or more"),
        ("rounds", ["--rounds=0"], 2, "rounds"),
        ("runtime", ["--models={one}", "--runtimes=fast"], 2, "must be installed"),
        ("absent", ["--models=nowhere"], 2, "folder of --models must exist"),
        ("models_and_classes", ["--models={one}", "--classes=1"], 2, "go without"),
        ("without_one", ["--models={two}"], 2, "one of a single class"),
        ("twice", ["--models={one},{one}"], 2, "different numbers of classes"),
        ("photographs", ["--photographs=setup.cfg"], 2, "must name a folder with"),
        ("source", ["--source=nothing"], 2, "--source must be one of"),
        ("arguments", ["model.tflite"], 2, "must be flags alone"),
        ("batches", ["--batches=some"], 2, "--batches must be whole numbers"),
        ("pythons", ["--peer_pythons=flow=python3"], 2, "--peer_pythons must be of"),
        ("no_python", ["--peer_pythons=pytorch=none"], 2, "a file. Received"),
        ("build", ["--models={one}", "--sections=build"], 2, "go without"),
        ("no_baseline", ["--baseline=nowhere.json"], 2, "--baseline must exist"),
        ("baseline", ["--baseline=setup.cfg"], 2, "what an earlier ondevice.bench"),
    )
    def test_mistakes(self, arguments, status, message):
        places = {name: str(self.root / name) for name in self.made}
        given = [argument.format(**places) for argument in arguments]
        saved = flagsaver.save_flag_values(benchmark.FLAGS)
        self.addCleanup(flagsaver.restore_flag_values, saved, benchmark.FLAGS)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            found = commands.execute(
                benchmark.main, benchmark.__doc__, ["x", *given], benchmark.FLAGS
            )
        self.assertEqual((found, out.getvalue()), (status, ""), err.getvalue())
        self.assertRegex(err.getvalue(), rf"\Aerror: .*{message}.*\n\Z")

    def test_a_section_that_needs_tensorflow_says_so(self):
        config = sections.BenchmarkConfig(sections=("build",))
        absent = mock.patch.object(commands.importlib.util, "find_spec")
        with absent as found, self.assertRaisesRegex(
            commands.UserError, "--sections=build must have tensorflow"
        ):
            found.return_value = None
            sections.SECTIONS["build"](config)

    @parameterized.parameters((1, 1), (29, 1), (60, 2))
    def test_what_is_slow_takes_fewer_rounds(self, rounds, fewer):
        config = sections.BenchmarkConfig(sections=("build",), rounds=rounds)
        with mock.patch.object(making, "measure") as measure:
            sections.SECTIONS["build"](config)
        self.assertEqual(measure.call_args.args[:3], ("palm_full", 1, fewer))

    def test_missed_bounds_fail(self):
        kept, missed = {"median": 1.0, "holds": True}, {"median": 2.0, "holds": False}
        ratios = {"a": kept, "b": {"median": 9.0}}
        self.assertTrue(benchmark.holds({"ratios": ratios}))
        self.assertTrue(benchmark.holds({"ratios": ratios, "worse": []}))
        self.assertFalse(benchmark.holds({"ratios": ratios, "worse": [{}]}))
        self.assertFalse(benchmark.holds({"ratios": {"a": kept, "b": missed}}))

    def test_baseline_is_held_against_and_json_silences_the_table(self):
        """One ratio was a third of what it is, the other three times as large."""
        made = {"timed": {"median": 2.0, "cpu_median": 3.0, "judged": "cpu"}}
        made["slower"] = {"median": 6.0}
        earlier = {"timed": {**made["timed"], "cpu_median": 9.0}}
        earlier["slower"] = {"median": 2.0}
        path = self.root / "before.json"
        path.write_text("a line\n" + json.dumps({"rows": [], "ratios": earlier}))
        with mock.patch.dict(
            sections.SECTIONS,
            {"classes": lambda config: contest.Found(ratios=dict(made))},
        ):
            saved = flagsaver.save_flag_values(benchmark.FLAGS)
            self.addCleanup(flagsaver.restore_flag_values, saved, benchmark.FLAGS)
            out, err = io.StringIO(), io.StringIO()
            given = ["x", "--sections=classes", f"--baseline={path}", "--json"]
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = commands.execute(
                    benchmark.main, benchmark.__doc__, given, benchmark.FLAGS
                )
        self.assertEqual((status, err.getvalue()), (1, ""))
        worse = json.loads(out.getvalue())["worse"]
        self.assertEqual(
            worse, [{"ratio": "slower", "before": 2.0, "after": 6.0, "factor": 3.0}]
        )


class ClassesTest(FilesTestCase):
    def measure(self, folders, **changes):
        given = {
            "runtimes": [RUNTIME],
            "threads": [1],
            "photographs": [],
            "rounds": 2,
            "progress": lambda items, _: items,
        }
        # Opening takes longer than measuring.
        with mock.patch.object(classes, "_OPENINGS", 1):
            return classes.measure(folders, **{**given, **changes})

    def test_bounds_are_judged(self):
        folders = {1: self.root / ONE, 2: self.root / TWO}
        for bound, holds in ((1e6, True), (1e-6, False)):
            with mock.patch.object(classes, "BOUNDS", {2: bound}):
                _, ratios = self.measure(folders)
            verdicts = {n: r["holds"] for n, r in ratios.items() if "holds" in r}
            self.assertLen(verdicts, 2)
            self.assertEqual(set(verdicts.values()), {holds})

    def test_one_thread_is_judged_on_the_processor_two_by_the_clock(self):
        folders = {1: self.root / ONE, 2: self.root / TWO}
        with mock.patch.object(classes, "BOUNDS", {2: 1.0}):
            _, ratios = self.measure(folders, threads=[1, 2])
        judged = {n.split(", ")[2]: r.get("judged") for n, r in ratios.items()}
        self.assertEqual(judged, {"1 thread": "cpu", "2 threads": "wall"})

    def test_refuses_files_of_different_detectors(self):
        for kind in classes.KINDS:
            (self.root / TWO / kind).write_bytes(tiny.trainable())
        with self.assertRaisesRegex(classes.NotComparableError, "one detector.*tiny"):
            self.measure({1: self.root / ONE, 2: self.root / TWO})

    def test_pictures_are_framed_or_noise(self):
        path = self.root / "white.png"
        Image.new("RGB", (40, 20), "white").save(path)
        full, less, half = classes.pictures([path], 32, (-1.0, 1.0))
        self.assertEqual(full.shape, (1, 32, 32, 3))
        self.assertAlmostEqual((full == 1).mean(), 0.5, delta=0.05)
        self.assertAlmostEqual((half == 1).mean(), 0.125, delta=0.05)
        (noise,) = classes.pictures([], 32, (0.0, 1.0))
        self.assertBetween(noise.std(), 0.2, 0.4)


class MakingTest(FilesTestCase):
    def test_a_build_is_held_to_its_bound_and_another_conversion_timed(self):
        vendor = self.root / "vendor.tflite"
        vendor.write_bytes(tiny_detector.vendor_file())
        for bound, holds in ((1e6, True), (1e-6, False)):
            with (
                tiny_detector.known(),
                # What is made counts for the reconversion: files that were made before.
                mock.patch.object(fresh, "make", return_value=self.made[ONE]) as made,
                mock.patch.object(bounds, "BUILD", bound),
            ):
                found = making.measure(str(vendor), 1, 2, lambda turns, _: turns)
            self.assertLen(made.mock_calls, 3)  # The first one is not timed.
            self.assertEqual(
                [(r["contender"], r["what"], r["rounds"]) for r in found.rows],
                [
                    ("build", "read and port", 2), ("build", "convert", 2),
                    ("build", "total", 2), ("reconvert", "inference.tflite", 2),
                ],
            )  # fmt: skip
            ((name, ratio),) = found.ratios.items()
            self.assertRegex(name, r"vendor\.tflite, build over")
            self.assertEqual(ratio["holds"], holds)


class ClassFilesTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.directory = pathlib.Path(self.create_tempdir().full_path)

    def test_files_are_made_once_for_a_code(self):
        ported = tiny_detector.ported()
        made = []

        def make(recipe, weights):
            made.append(len(recipe.classes))
            return mock.Mock(model=b"model", inference=b"inference")

        with mock.patch.object(class_files.fresh, "make", make):
            folder = class_files.make(ported, 3, self.directory)
            self.assertEqual(class_files.make(ported, 3, self.directory), folder)
            self.assertEqual(made, [3])
            self.assertEqual((folder / "model.tflite").read_bytes(), b"model")
            self.assertEqual((folder / "inference.tflite").read_bytes(), b"inference")
            class_files.make(ported, 2, self.directory)
            self.assertEqual(made, [3, 2])
            with mock.patch.object(class_files, "code_digest", lambda: "other"):
                class_files.make(ported, 3, self.directory)
        self.assertEqual(made, [3, 2, 3])

    def test_nothing_is_made_for_a_folder_that_takes_no_files(self):
        path = self.directory / "file"
        path.touch()
        made = mock.Mock()
        with mock.patch.object(class_files.fresh, "make", made):
            with self.assertRaises(OSError):
                class_files.make(tiny_detector.ported(), 3, path)
        made.assert_not_called()

    def test_digest_changes_with_the_code(self):
        for folder in ("signatures/gradients", "ondevice/rebuild", "checkpoints"):
            (self.directory / folder).mkdir(parents=True)
        path = self.directory / "signatures/gradients/rule.py"
        path.write_text("a = 1\n")
        first = class_files.code_digest(self.directory)
        self.assertEqual(class_files.code_digest(self.directory), first)
        path.write_text("a = 2\n")
        second = class_files.code_digest(self.directory)
        path.rename(path.with_name("rules.py"))
        self.assertLen({first, second, class_files.code_digest(self.directory)}, 3)

    def test_the_projects_code_is_found(self):
        nothing = class_files.code_digest(self.directory)
        self.assertNotEqual(class_files.code_digest(), nothing)

    def test_recipe_is_that_of_a_build_without_flags(self):
        recipe = class_files.recipe(tiny_detector.ported(), 2)
        config = build.BuildConfig()
        self.assertEqual(
            (recipe.trainable, recipe.settings.name, recipe.batch_size, recipe.ops),
            (config.trainable, config.optimizer, config.batch_size, config.ops),
        )
        self.assertEqual(recipe.settings.clip_norm, 1)
        self.assertLen(set(recipe.classes), 2)


if __name__ == "__main__":
    absltest.main()
