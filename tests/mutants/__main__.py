"""Changes the code, one mutant at a time, and counts which changes a test notices.

Examples:
  python -m tests.mutants --scratch=/tmp/mutants --counts=mutants.json
      Every group: checkpoints, detection, plain, and 200 of elsewhere. Hours; a call
      that was stopped goes on where it was.
  python -m tests.mutants checkpoints --count=300 --scratch=DIR --counts=FILE
      The first 300 of a group, in an order that --seed settles.
  python -m tests.mutants checkpoints --again --scratch=DIR --counts=FILE
      Those that no test had noticed once more, after tests were added.

--scratch holds a copy of the project, in which mutants are files like any other, and
what was learnt of the tests. The last line of stdout is one JSON object: {GROUP:
{"sites", "tried", "killed", "timed out", "survived", "explained", "no test", "share"}};
share is of those tried, and of a sample of all sites where fewer were tried.
`tests/mutants/explained.json` says of survivors why no test can or should notice them.
Exit status 1: less than 85 % of a group is noticed.
"""

from __future__ import annotations

import collections
import pathlib
import random
import time
from collections.abc import Sequence

from absl import flags, logging

from ondevice import commands

FLAGS = commands.flag_values()
_SCRATCH = flags.DEFINE_string(
    "scratch", None, "Folder for the copy; made where it is missing.", flag_values=FLAGS
)
_COUNTS = flags.DEFINE_string(
    "counts", None, "File that the outcomes are kept in.", flag_values=FLAGS
)
_COUNT = flags.DEFINE_integer(
    "count",
    None,
    "Mutants of each group. Default: all, and 200 elsewhere.",
    lower_bound=1,
    flag_values=FLAGS,
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the choice and order.", flag_values=FLAGS)
_AGAIN = flags.DEFINE_boolean(
    "again", False, "Only what was not noticed before.", flag_values=FLAGS
)
_SECONDS = flags.DEFINE_float(
    "seconds",
    20.0,
    "Time that the tests of one mutant may take, without a change.",
    lower_bound=0.0,
    flag_values=FLAGS,
)

_ELSEWHERE, _ELSEWHERE_COUNT = "elsewhere", 200
_ENOUGH = 0.85
# Between two writings of --counts.
_SAVE_EVERY = 5.0


def main(arguments: Sequence[str]) -> commands.Outcome:
    from tests.mutants import covering, groups, trying
    from tests.soak import counts as counting

    modules = groups.modules()
    if unknown := sorted(set(arguments) - set(modules)):
        raise commands.UsageError(
            f"A group must be one of {list(modules)}. Received: {unknown}."
        )
    scratch, counts = commands.output_path(_SCRATCH), commands.output_path(_COUNTS)
    if scratch is None or counts is None:
        raise commands.UsageError("There must be --scratch and --counts.")
    # Group -> mutant -> outcome, who noticed, what stood there, what stands there.
    kept = counting.read(counts, lambda of: all(len(o) == 4 for o in of.values()))
    names = list(arguments) or list(modules)
    learnt = scratch / "learnt"
    learnt.mkdir(parents=True, exist_ok=True)
    tree = trying.copy(scratch)
    tests = covering.Covering(learnt, tree)
    for name in names:
        tests.learn(groups.test_files(modules[name], heavy=name == _ELSEWHERE))
    trying.prepare()
    found = {
        name: _run(name, modules[name], tests, tree, kept, counts) for name in names
    }
    holds = all(each["share"] >= _ENOUGH for each in found.values())
    return commands.Outcome(found, holds)


def _run(
    name, paths, tests, tree: pathlib.Path, kept: dict, counts: pathlib.Path
) -> dict:
    """Tries the mutants of a group that --counts has not, and adds up all it has."""
    from tests.mutants import mutations, trying
    from tests.soak import counts as counting

    texts = {path: (tree / path).read_text() for path in paths}
    every = [
        site
        for path in commands.progress(paths, f"Sites of {name}")
        for site in mutations.sites(path, texts[path])
    ]
    random.Random(_SEED.value).shuffle(every)
    count = _COUNT.value or (_ELSEWHERE_COUNT if name == _ELSEWHERE else len(every))
    outcomes = kept.setdefault(name, {})
    saved = time.monotonic()
    try:
        for site in commands.progress(every[:count], name):
            mutant = mutations.choose(site, texts[site[0].path], _SEED.value)
            if mutant is None or not _is_due(outcomes, mutant):
                continue
            names = tests.tests(mutant.path, mutant.line, _SECONDS.value)
            seconds = sum(tests.seconds.get(test, 1.0) for test in names)
            outcome, by = trying.attempt(mutant, tree, names, seconds)
            before, after = mutant.change(texts[mutant.path])
            outcomes[mutant.name] = [outcome, by, before, after]
            if outcome in (trying.SURVIVED, trying.NO_TEST):
                logging.info("%s: %s\n- %s\n+ %s", outcome, mutant.name, before, after)
            if time.monotonic() - saved > _SAVE_EVERY:
                counting.write(counts, kept)
                saved = time.monotonic()
    finally:
        counting.write(counts, kept)
    return _added_up(len(every), outcomes)


def _is_due(outcomes, mutant) -> bool:
    from tests.mutants import trying

    known = outcomes.get(mutant.name)
    if _AGAIN.value:
        return known is not None and known[0] in (trying.SURVIVED, trying.NO_TEST)
    return known is None


def _added_up(sites: int, outcomes) -> dict:
    from tests.mutants import explained, trying

    known = explained.read()
    kinds = collections.Counter(outcome for outcome, *_ in outcomes.values())
    survived = [
        (name.partition(":")[0], before, after)
        for name, (outcome, _, before, after) in outcomes.items()
        if outcome == trying.SURVIVED
    ]
    noticed = kinds[trying.KILLED] + kinds[trying.TIMED_OUT]
    return {
        "sites": sites,
        "tried": len(outcomes),
        **{kind: kinds[kind] for kind in trying.OUTCOMES},
        "explained": sum(one in known for one in survived),
        "share": noticed / max(1, len(outcomes)),
    }


if __name__ == "__main__":
    commands.run(main, __doc__, FLAGS)
