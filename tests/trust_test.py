"""That no file which is read can have code run: the modules, read for what could."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests import conftest

PACKAGES = ("checkpoints", "signatures", "ondevice", "docs")

# Whatever they read may run, or leave the folder that it is written into.
_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
_MODULES |= {"yaml", "code", "codeop", "runpy", "imp"}
_BUILTINS = {"eval", "exec", "compile", "__import__", "input", "breakpoint"}
_METHODS = {"extractall", "system", "popen", "mktemp", "load_model", "read_pickle"}
# Calls that are safe with this alone.
_ONLY = {
    ("torch", "load"): ("weights_only", True),
    ("np", "load"): ("allow_pickle", False),
    ("numpy", "load"): ("allow_pickle", False),
}


def dangers(source: str) -> Iterator[str]:
    """What in a module's source could run what a file holds."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            named = {alias.name.partition(".")[0] for alias in node.names}
            yield from sorted(named & _MODULES)
        elif isinstance(node, ast.ImportFrom):
            yield from {(node.module or "").partition(".")[0]} & _MODULES
        elif isinstance(node, ast.Call):
            yield from _in_call(node)


def _in_call(node: ast.Call) -> Iterator[str]:
    given = {
        keyword.arg: keyword.value.value
        for keyword in node.keywords
        if isinstance(keyword.value, ast.Constant)
    }
    if given.get("shell"):
        yield "shell=True"
    if isinstance(node.func, ast.Name):
        yield from {node.func.id} & _BUILTINS
    elif isinstance(node.func, ast.Attribute):
        name = node.func.attr
        yield from {name} & _METHODS
        whose = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
        option, value = _ONLY.get((whose, name), ("", None))
        if option != "" and given.get(option) is not value:
            yield f"{whose}.{name}"


@pytest.mark.parametrize(
    "source, expected",
    [
        ("import pickle", ["pickle"]),
        ("from pickle import loads", ["pickle"]),
        ("def f():\n    import a, joblib.b", ["joblib"]),
        ("eval('1')", ["eval"]),
        ("x = [compile(a, b, c)]", ["compile"]),
        ("model.compile('adam'); re.compile('a'); model.eval()", []),
        ("torch.load(path)", ["torch.load"]),
        ("torch.load(path, weights_only=False)", ["torch.load"]),
        ("torch.load(path, weights_only=True)", []),
        ("np.load(path)", ["np.load"]),
        ("np.load(path, allow_pickle=True)", ["np.load"]),
        ("np.load(path, allow_pickle=False)", []),
        ("subprocess.run(x, shell=True)", ["shell=True"]),
        ("os.system(x)", ["system"]),
        ("zipfile.ZipFile(x).extractall()", ["extractall"]),
    ],
)
def test_it_is_found(source, expected):
    assert list(dangers(source)) == expected


def test_no_module_can_run_what_it_reads():
    found = {}
    for package in PACKAGES:
        paths = sorted((conftest.ROOT / package).rglob("*.py"))
        assert paths, package
        for path in paths:
            named = list(dangers(path.read_text()))
            if named:
                found[str(path.relative_to(conftest.ROOT))] = named
    assert not found
