"""The mutants of a module: cosmic-ray's operators, and statements left out.

A site is a place and a kind of change, such as "this comparison"; a site has up to
eleven mutants, of which one is tried. Left out is what cannot make a difference or no
test should hold: annotations, `==` made `is`, and lines that log.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import random
from collections.abc import Iterator, Sequence

import parso
from cosmic_ray import mutating, plugins
from cosmic_ray import ast as cosmic_ast
from cosmic_ray.operators import operator

# They want arguments: which name, and what for.
_WITH_ARGUMENTS = ("VariableReplacer", "VariableInserter")
_LEFT_OUT = "leave_out"
# Leaves that no operator takes, most of a tree; and what the many operators take.
_PASSIVE = ("name", "newline", "string", "endmarker")
_NODES = {
    "ReplaceBinaryOperator": ("operator",),
    "ReplaceComparisonOperator": ("comparison",),
    "ReplaceUnaryOperator": ("factor", "not_test"),
}
_LOGGING = "logging."

Span = tuple[tuple[int, int], tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change of one module.

    Attributes:
      path: Of the module, relative to the root, with "/".
      line: Where the change is, from 1.
      operator: Its name, as cosmic-ray has it.
      occurrence: Which of that operator's mutants of the module it is, from 0.
    """

    path: str
    line: int
    operator: str
    occurrence: int

    @property
    def name(self) -> str:
        """What a counts file calls it."""
        return f"{self.path}:{self.line} {self.operator} {self.occurrence}"

    def apply(self, source: str) -> str:
        """Returns the module's changed source."""
        made = _operator(self.operator)()
        changed = mutating.mutate_code(source, made, self.occurrence)
        assert changed is not None, f"{self.name} is no mutant of this source."
        return changed

    def change(self, source: str) -> tuple[str, str]:
        """Returns what stands in the module and what the mutant has for it."""
        before, after = source.splitlines(), self.apply(source).splitlines()
        matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
        parts = [code[1:] for code in matcher.get_opcodes() if code[0] != "equal"]
        return (
            " ".join(line.strip() for a, b, _, _ in parts for line in before[a:b]),
            " ".join(line.strip() for _, _, a, b in parts for line in after[a:b]),
        )


class LeaveOut(operator.Operator):
    """Leaves out a call, an error raised, what is added to, or what is returned."""

    def mutation_positions(self, node) -> Iterator[Span]:
        if node.type != "simple_stmt":
            return
        code = node.children[0].get_code().strip()
        if code.startswith(_LOGGING) or self._replacement(node.children[0]) is None:
            return
        yield node.children[0].start_pos, node.children[0].end_pos

    def mutate(self, node, index):
        text = self._replacement(node.children[0])
        first = node.children[0].get_first_leaf()
        node.children[0] = parso.parse(first.prefix + text)
        return node

    @classmethod
    def examples(cls):
        return (
            operator.Example("check(x)\n", "pass\n"),
            operator.Example("raise ValueError(x)\n", "pass\n"),
            operator.Example("x[0] += 1\n", "pass\n"),
        )

    @staticmethod
    def _replacement(statement) -> str | None:
        kind = statement.type
        if kind == "return_stmt":
            empty = statement.get_code().strip() in ("return None", "return")
            return None if empty else "return None"
        if kind == "atom_expr" and statement.children[-1].get_code().startswith("("):
            return "pass"
        if kind == "raise_stmt":
            return "pass"
        if kind == "expr_stmt":
            target, sign = statement.children[:2]
            # A name that is not set at all is a NameError, which shows nothing.
            adds = sign.type == "operator" and sign.value != "="
            if adds or target.type in ("atom_expr", "power"):
                return "pass"
        return None


def sites(path: str, source: str) -> list[list[Mutant]]:
    """Returns all mutants of a module, those of one site together.

    Args:
      path: Of the module, relative to the root.
      source: Its text.
    """
    annotated = _annotations(source)
    operators = {name: _operator(name)() for name in _names()}
    counts = dict.fromkeys(operators, 0)
    found: dict[tuple[Span, str], list[Mutant]] = {}
    # In the order of cosmic-ray's visitor, which counts occurrences.
    for node in cosmic_ast.ast_nodes(cosmic_ast.get_ast(source)):
        if node.type in _PASSIVE:
            continue
        for name, made in operators.items():
            if node.type not in _NODES.get(_family(name), (node.type,)):
                continue
            for span in made.mutation_positions(node):
                mutant = Mutant(path, span[0][0], name, counts[name])
                counts[name] += 1
                if any(low <= span[0] < high for low, high in annotated):
                    continue
                if not _noise(name):
                    found.setdefault((span, _family(name)), []).append(mutant)
    return list(found.values())


def choose(site: Sequence[Mutant], source: str, seed: int = 0) -> Mutant | None:
    """Returns one mutant of a site that changes what the module does.

    Args:
      site: Its mutants.
      source: Of the module.
      seed: Of the choice.

    Returns:
      None where no mutant does, as where each is a syntax error.
    """
    first = site[0]
    generator = random.Random(f"{seed} {first.name}")
    for mutant in generator.sample(site, len(site)):
        try:
            if _behaviour(mutant.apply(source)) != _behaviour(source):
                return mutant
        except SyntaxError:
            continue
    return None


def _names() -> Sequence[str]:
    names = plugins.operator_names()
    return [*(n for n in names if not n.endswith(_WITH_ARGUMENTS)), _LEFT_OUT + "/it"]


def _operator(name: str) -> type[operator.Operator]:
    return LeaveOut if name.startswith(_LEFT_OUT) else plugins.get_operator(name)


def _family(name: str) -> str:
    """What an operator changes, whatever it makes of it."""
    return name.split("/")[1].split("_")[0]


def _noise(name: str) -> bool:
    """`==` made `is`: the same for what Python keeps one of, which is no promise."""
    _, _, change = name.partition("ReplaceComparisonOperator_")
    before, _, after = change.partition("_")
    return after in ("Is", "IsNot") and before not in ("Is", "IsNot")


def _annotations(source: str) -> list[Span]:
    found = []
    for node in ast.walk(ast.parse(source)):
        for field in ("annotation", "returns"):
            part = getattr(node, field, None)
            if part is not None:
                found.append(
                    (
                        (part.lineno, part.col_offset),
                        (part.end_lineno, part.end_col_offset),
                    )
                )
    return found


def _behaviour(source: str) -> str:
    """What of a source the interpreter sees."""
    return ast.dump(ast.parse(source))
