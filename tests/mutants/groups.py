"""Which modules are mutated, and which tests run without tensorflow."""

from __future__ import annotations

import ast
import functools
import pathlib
from collections.abc import Iterable

ROOT = pathlib.Path(__file__).resolve().parents[2]
_PACKAGES = ("checkpoints", "signatures", "ondevice")
_HEAVY = {"tensorflow", "keras", "torch"}
# A fixture of conftest.py that builds a file.
_BUILDS = "tiny_model"
# They run whole commands or campaigns, which takes as long as tensorflow.
_WHOLE = (
    "checkpoint_command", "hostile", "hostile_commands", "inspect", "learning",
    "mediapipe", "power", "routes", "session", "soak", "timing", "trial", "worker",
)  # fmt: skip


def modules() -> dict[str, list[str]]:
    """Group -> paths relative to the root, sorted.

    checkpoints, detection and plain are all that runs without tensorflow of what holds
    weights, geometry and names; elsewhere is the rest.
    """
    groups: dict[str, list[str]] = {
        "checkpoints": [], "detection": [], "plain": [], "elsewhere": [],
    }  # fmt: skip
    for path in sorted(p for name in _PACKAGES for p in (ROOT / name).rglob("*.py")):
        relative = path.relative_to(ROOT).as_posix()
        if relative.startswith("checkpoints/"):
            group = "checkpoints"
        elif relative.startswith("ondevice/detection/"):
            group = "detection"
        elif relative.startswith(("ondevice/rebuild/", "signatures/")):
            group = "elsewhere" if needs_tensorflow(relative) else "plain"
        else:
            group = "elsewhere"
        groups[group].append(relative)
    return groups


def test_files(paths: Iterable[str], heavy: bool) -> list[str]:
    """Paths of the tests that import one of some modules.

    Args:
      paths: Of the modules.
      heavy: Those that need tensorflow or torch, or run whole commands, too, and not
        only where they are a module's own.
    """
    wanted, found = set(paths), []
    named = {f"{pathlib.PurePath(path).stem}_test" for path in wanted}
    for path in sorted((ROOT / "tests").glob("*_test.py")):
        text = path.read_text()
        # What a test imports inside a function it needs, too.
        own = _imported(ast.walk(ast.parse(text)))
        relative = path.relative_to(ROOT).as_posix()
        slow = path.stem.removesuffix("_test") in _WHOLE or _BUILDS in text
        slow = slow or bool(_roots(own) & _HEAVY) or needs_tensorflow(relative)
        if slow and not heavy and path.stem not in named:
            continue
        if wanted & {name.replace(".", "/") + ".py" for name in own}:
            found.append(relative)
    return found


@functools.cache
def needs_tensorflow(relative: str) -> bool:
    """Whether importing a module imports tensorflow, keras or torch."""
    seen, waiting = set(), [relative]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        # Not inside functions: these are run where it is there.
        names = _imported(ast.parse((ROOT / path).read_text()).body)
        if _roots(names) & _HEAVY:
            return True
        for name in names:
            file = ROOT / (name.replace(".", "/") + ".py")
            if file.exists():
                waiting.append(file.relative_to(ROOT).as_posix())
    return False


def _imported(statements: Iterable[ast.AST]) -> set[str]:
    """Modules that these statements import."""
    found = set()
    for node in statements:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _roots(names: Iterable[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}
