"""Tests of the shape of the project, read from its imports."""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys

from absl.testing import absltest, parameterized

ROOT = pathlib.Path(__file__).resolve().parents[1]
# A package may import itself and those after it.
ARROW = ("ondevice", "signatures", "checkpoints")
# What the plain install runs, without tensorflow.
DEVICE_SIDE = (
    "checkpoints/*.py",
    "signatures/__init__.py",
    "signatures/contract.py",
    "ondevice/__init__.py",
    "ondevice/commands.py",
    "ondevice/json_line.py",
    "ondevice/exporting.py",
    "ondevice/extraction.py",
    "ondevice/precision.py",
    "ondevice/device/*.py",
    "ondevice/detection/*.py",
    "ondevice/rebuild/__init__.py",
    "ondevice/rebuild/layout.py",
    "ondevice/rebuild/naming.py",
    "ondevice/rebuild/nodes.py",
    "ondevice/rebuild/porting.py",
    "ondevice/rebuild/recognition.py",
    "ondevice/rebuild/specs.py",
    "ondevice/rebuild/topology.py",
    "ondevice/rebuild/trunks.py",
    "ondevice/measuring/__init__.py",
    "ondevice/measuring/activations.py",
    "ondevice/measuring/bounds.py",
    "ondevice/measuring/classes.py",
    "ondevice/measuring/contest.py",
    "ondevice/measuring/inferring.py",
    "ondevice/measuring/sections.py",
    "ondevice/measuring/slow_ways.py",
    "ondevice/measuring/slowdown.py",
    "ondevice/measuring/startup.py",
    "ondevice/measuring/step_inputs.py",
    "ondevice/measuring/steps.py",
    "ondevice/measuring/storage.py",
    "ondevice/measuring/summary.py",
    "ondevice/measuring/timing.py",
    "ondevice/measuring/work.py",
    "ondevice/measuring/worker.py",
    "ondevice/measuring/peers/files.py",
    "ondevice/measuring/peers/missing.py",
    "ondevice/measuring/peers/product.py",
)
# These too, but they may import the build side inside a function.
DEVICE_COMMANDS = (
    "train",
    "evaluate",
    "detect",
    "export",
    "inspect",
    "checkpoint",
    "benchmark",
    "pytorch",
    "weights",
)


def modules(*patterns: str) -> dict[str, pathlib.Path]:
    """Returns module name -> path for the patterns, relative to the root."""
    found = {}
    for pattern in patterns:
        for path in sorted(ROOT.glob(pattern)):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path
    return found


def imports(source: str, module: str = "") -> set[str]:
    """Returns every module that a source names, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".")[: -node.level]
                base = ".".join([*above, base] if base else above)
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def roots(path: pathlib.Path, module: str) -> set[str]:
    """Returns the packages that a module imports from."""
    return {name.partition(".")[0] for name in imports(path.read_text(), module)}


def is_command(source: str) -> bool:
    """Whether a module runs something when it is the main one."""
    blocks = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
    return any("__name__ == '__main__'" in ast.unparse(block.test) for block in blocks)


class ReaderTest(absltest.TestCase):
    def test_reads_every_form(self):
        source = (
            "import a.b\nfrom c import d\nfrom . import e\nfrom ..f import g\n"
            "def h():\n    import i\n"
        )
        found = imports(source, "x.y.z")
        self.assertContainsSubset({"a.b", "c.d", "x.y.e", "x.f.g", "i"}, found)


class ArrowTest(parameterized.TestCase):
    @parameterized.parameters(*enumerate(ARROW))
    def test_imports_run_one_way(self, place, package):
        there = modules(f"{package}/**/*.py")
        self.assertNotEmpty(there)
        for module, path in there.items():
            for forbidden in (*ARROW[:place], "tests"):
                found = roots(path, module)
                self.assertNotIn(forbidden, found, f"{module} reverses the arrow")

    def test_nothing_imports_a_command(self):
        there = modules("ondevice/**/*.py")
        leaves = modules("ondevice/*.py")
        commands = {name for name in leaves if is_command(leaves[name].read_text())}
        self.assertIn("ondevice.inspect", commands)
        for module, path in there.items():
            taken = imports(path.read_text(), module) & commands
            self.assertEmpty(taken, f"{module} imports a command")


class DataclassTest(absltest.TestCase):
    # Counters and state, which nothing else is handed as a value.
    THAT_CHANGE = {
        "Affine", "Course", "Found", "Node", "Picture", "State", "_Counts", "_Files",
    }  # fmt: skip

    def test_what_is_passed_on_cannot_be_changed(self):
        there = modules("checkpoints/**/*.py", "signatures/**/*.py", "ondevice/**/*.py")
        found = set()
        for path in there.values():
            for node in ast.walk(ast.parse(path.read_text())):
                for decorator in getattr(node, "decorator_list", ()):
                    text = ast.unparse(decorator)
                    if "dataclass" in text and "frozen=True" not in text:
                        found.add(node.name)
        self.assertEqual(found, self.THAT_CHANGE)


class WithoutTorchTest(absltest.TestCase):
    # What may name it: torch is an extra, and nobody else must need it.
    WITH_TORCH = {
        "ondevice.rebuild.torch_network",
        "ondevice.rebuild.state_dicts",
        "ondevice.verification.torch_parity",
        "ondevice.measuring.peers.pytorch",
    }

    def test_few_modules_name_it(self):
        there = modules("checkpoints/**/*.py", "signatures/**/*.py", "ondevice/**/*.py")
        found = {name for name, path in there.items() if "torch" in roots(path, name)}
        self.assertEqual(found, self.WITH_TORCH)

    def test_only_its_own_ways_in_import_them(self):
        there = modules("checkpoints/**/*.py", "signatures/**/*.py", "ondevice/**/*.py")
        for module, path in there.items():
            ways_in = {"ondevice.pytorch", "ondevice.torch_models"}
            if module not in self.WITH_TORCH | ways_in:
                taken = imports(path.read_text(), module) & self.WITH_TORCH
                self.assertEmpty(taken, module)


class WithoutTensorflowTest(parameterized.TestCase):
    def test_device_side_names_it_nowhere(self):
        for module, path in modules(*DEVICE_SIDE).items():
            found = roots(path, module)
            self.assertNoCommonElements(found, {"tensorflow", "keras"}, module)

    def test_importing_the_device_side_leaves_it_out(self):
        there = modules(*DEVICE_SIDE)
        there |= modules(*(f"ondevice/{name}.py" for name in DEVICE_COMMANDS))
        self.assertContainsSubset(
            {"checkpoints.store", "ondevice.device.session", "ondevice.inspect"}, there
        )
        code = (
            "import importlib, sys\n"
            "for name in sys.argv[1:]:\n"
            "    importlib.import_module(name)\n"
            "    found = {'tensorflow', 'keras'} & set(sys.modules)\n"
            "    if found: sys.exit(f'{name} imports {found}')\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *there],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))


if __name__ == "__main__":
    absltest.main()
