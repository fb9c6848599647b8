"""Runs campaigns that try to break a promise, seeded, for a time or a count.

Examples:
  python -m tests.soak --seconds=600 --counts=counts.json
      Every campaign for ten minutes; later calls go on behind the last seed.
  python -m tests.soak killed --count=500 --counts=counts.json
  python -m tests.soak killed --seed=17 --count=1
      Plays one case again.

Ctrl-C ends it as the time does; the case at hand is not counted. The last line of
stdout is one JSON object: {CAMPAIGN: {"runs", "failures", "seeds": [[first, last],
...], "counted": {...}, "failed": [[seed, error], ...]}}, in which what --counts held
before is added up. Exit status 1: a promise was broken.
"""

from __future__ import annotations

import itertools
import time
import traceback
from collections.abc import Iterator, Sequence

from absl import flags, logging

from ondevice import commands

FLAGS = commands.flag_values()
_SECONDS = flags.DEFINE_float(
    "seconds",
    None,
    "Time of each campaign; the case begun is ended. Default: 60, without --count.",
    lower_bound=0.0,
    flag_values=FLAGS,
)
_COUNT = flags.DEFINE_integer(
    "count", None, "Cases of each campaign.", lower_bound=1, flag_values=FLAGS
)
_SEED = flags.DEFINE_integer(
    "seed",
    None,
    "The first case. Default: behind the last that --counts has, or 0.",
    lower_bound=0,
    flag_values=FLAGS,
)
_COUNTS = flags.DEFINE_string(
    "counts",
    None,
    "File that the counts are added up in. Default: none.",
    flag_values=FLAGS,
)

_DEFAULT_SECONDS = 60.0
# Between two writings of --counts.
_SAVE_EVERY = 5.0


def main(arguments: Sequence[str]) -> commands.Outcome:
    from tests.soak import campaigns, counts

    if unknown := sorted(set(arguments) - set(campaigns.ALL)):
        raise commands.UsageError(
            f"A campaign must be one of {sorted(campaigns.ALL)}. Received: {unknown}."
        )
    if _SECONDS.value is not None and _COUNT.value is not None:
        raise commands.UsageError("There must be --seconds or --count. Received: both.")
    path = commands.output_path(_COUNTS)
    names = list(arguments) or list(campaigns.ALL)
    kept = {name: counts.Counts(name, path) for name in names}
    before = {name: each.entry["failures"] for name, each in kept.items()}
    try:
        for name in names:
            _run(name, campaigns.ALL[name], kept[name])
    except KeyboardInterrupt:
        logging.info("Stopped; --counts goes on from here.")
    for each in kept.values():
        each.save()
    found = {name: each.entry for name, each in kept.items()}
    holds = all(kept[n].entry["failures"] == before[n] for n in names)
    return commands.Outcome(found, holds)


def _run(name: str, campaign, kept) -> None:
    """Runs one campaign; a broken promise is logged with what plays it again."""
    saved = time.monotonic()
    first = kept.next_seed if _SEED.value is None else _SEED.value
    for seed in commands.progress(_seeds(first), name, _COUNT.value):
        try:
            kept.add(seed, campaign(seed))
        except Exception as error:  # Whatever it is, it is a finding.
            logging.error(
                "%s broke a promise; --seed=%d --count=1 plays it again:\n%s",
                name, seed, traceback.format_exc(),
            )  # fmt: skip
            kept.add(seed, None, f"{type(error).__name__}: {error}"[:500])
        if time.monotonic() - saved > _SAVE_EVERY:
            kept.save()
            saved = time.monotonic()


def _seeds(first: int) -> Iterator[int]:
    """Seeds until the time or the count is used up."""
    if _COUNT.value is not None:
        yield from range(first, first + _COUNT.value)
        return
    seconds = _DEFAULT_SECONDS if _SECONDS.value is None else _SECONDS.value
    end = time.monotonic() + seconds
    yield from itertools.takewhile(
        lambda _: time.monotonic() < end, itertools.count(first)
    )


if __name__ == "__main__":
    commands.run(main, __doc__, FLAGS)
