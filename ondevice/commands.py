"""What all commands share: flags, exit status, errors, the JSON line, progress.

absl's own habits differ from ours: it prints flag errors and help to stdout, leaves
with status 1 after --help, and shows a traceback for a mistyped path. They are wrapped
here once, and a command is

    FLAGS = commands.flag_values()
    _MODEL = flags.DEFINE_string("model", None, "Path.", flag_values=FLAGS)

    def main(arguments: Sequence[str]) -> commands.Outcome:
        from ondevice.device import session  # Here: --help imports absl alone.
        ...
        return commands.Outcome({"seconds": 1.5})

    if __name__ == "__main__":
        flags.mark_flags_as_required([_MODEL], flag_values=FLAGS)
        commands.run(main, __doc__, FLAGS)

Each command has flags of its own, not absl's global ones: several define --model, and a
test that imports two of them would meet a flag defined twice.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from absl import app, flags, logging

from ondevice import json_line

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

# ValueErrors that are defined here are about what the user gave us; others are bugs.
_PACKAGES = ("checkpoints", "signatures", "ondevice", "__main__")
_QUOTES = "'"
_HELP = ("help", "helpshort", "helpfull", "h", "?")


class UserError(ValueError):
    """What the user gave does not do: one line, exit status 1."""


class UsageError(UserError):
    """A wrong flag or argument: one line, exit status 2."""

    exit_status = USAGE


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command found.

    Attributes:
      result: The JSON object of the last line, as `json_line.dump` takes it.
      holds: Whether it verified what it was to verify.
    """

    result: Mapping[str, Any]
    holds: bool = True


def flag_values() -> flags.FlagValues:
    """Returns the flags of one command; they have their defaults until parsed."""
    values = flags.FlagValues()
    values.mark_as_parsed()
    return values


def define_runtime(
    values: flags.FlagValues,
) -> tuple[flags.FlagHolder, flags.FlagHolder]:
    """Defines --runtime and --threads, which mean the same in every command."""
    runtime = flags.DEFINE_string(
        "runtime",
        "auto",
        "ai_edge_litert, tflite_runtime or tensorflow; auto takes the first installed.",
        flag_values=values,
    )
    threads = flags.DEFINE_integer(
        "threads",
        None,
        "Threads of the runtime. Default: cores, 4 at most; 1 for a trainable file in "
        "tflite_runtime, which is slower with more.",
        flag_values=values,
    )
    return runtime, threads


def define_show_labels(values: flags.FlagValues) -> flags.FlagHolder:
    """Defines --show_labels, which means the same in train and evaluate."""
    return flags.DEFINE_string(
        "show_labels",
        None,
        "Folder for contact sheets of labelled images, class by class, and of those "
        "in which nothing was found. Default: none are drawn.",
        flag_values=values,
    )


def run(
    main: Callable[[Sequence[str]], Outcome | Mapping[str, Any]],
    docstring: str | None,
    values: flags.FlagValues = flags.FLAGS,
) -> NoReturn:
    """Runs a command and leaves with its exit status.

    Args:
      main: Takes the arguments that are no flags; returns what goes into the JSON line.
      docstring: Of the command's module, with examples; the text of --help.
      values: The command's flags.
    """
    sys.exit(execute(main, docstring, sys.argv, values))


def execute(
    main: Callable[[Sequence[str]], Outcome | Mapping[str, Any]],
    docstring: str | None,
    argv: Sequence[str],
    values: flags.FlagValues = flags.FLAGS,
) -> int:
    """Runs a command and returns its exit status; arguments as of `run`.

    Returns:
      0 done and verified, or help; 1 it did not hold, or failed; 2 a wrong flag or
      argument; 130 interrupted.
    """
    if _wants_help(argv):
        return _print(help_text(docstring, argv[0], values), OK)
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    try:
        arguments = values(list(argv))[1:]
        # Otherwise absl says with the first line it logs that nobody parsed its own.
        flags.FLAGS.mark_as_parsed()
        outcome = main(arguments)
        if not isinstance(outcome, Outcome):
            outcome = Outcome(outcome)
        line = json_line.dump(outcome.result)
    except KeyboardInterrupt:
        return _complain(["interrupted"], INTERRUPTED)
    except (flags.Error, app.UsageError) as error:
        return _complain([f"{error} (--help lists the flags)"], USAGE)
    except OSError as error:
        absent = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
        named = [error.strerror or str(error), error.filename]
        text = ": ".join(os.fspath(part) for part in named if part)
        return _complain([text], USAGE if isinstance(error, absent) else FAILED)
    except ValueError as error:
        if type(error).__module__.partition(".")[0] not in _PACKAGES:
            raise
        # A fault a line, where an error lists several.
        lines = getattr(error, "lines", [str(error)])
        return _complain(lines, getattr(error, "exit_status", FAILED))
    sys.stderr.flush()
    return _print(line, OK if outcome.holds else FAILED)


def existing(path: str | None, what: str) -> str:
    """Returns a path that was given and exists.

    Raises:
      UsageError: If it was not, or does not.
    """
    if not path or not os.path.exists(path):
        raise UsageError(f"{what} must exist. Received: {path!r}.")
    return path


def only_tflite(arguments: Sequence[str]) -> str:
    """Returns the one argument of a command that reads a .tflite.

    Raises:
      UsageError: If there is not one, or it does not exist.
    """
    if len(arguments) == 1:
        return existing(arguments[0], "The .tflite")
    received = list(arguments)
    raise UsageError(f"There must be one argument, a .tflite. Received: {received}.")


def required_path(flag: flags.FlagHolder) -> pathlib.Path:
    """Returns the path that a flag gives, which must exist.

    Raises:
      UsageError: If it was not given, or does not.
    """
    return pathlib.Path(existing(flag.value, f"--{flag.name}"))


def existing_paths(flag: flags.FlagHolder) -> tuple[pathlib.Path, ...]:
    """Returns the paths that a repeated flag gives, which must exist.

    Raises:
      UsageError: If one of them does not.
    """
    given = flag.value or ()
    return tuple(pathlib.Path(existing(path, f"--{flag.name}")) for path in given)


def optional_path(flag: flags.FlagHolder) -> pathlib.Path | None:
    """As `required_path`, but None where the flag was not given."""
    return None if flag.value is None else required_path(flag)


def output_path(flag: flags.FlagHolder) -> pathlib.Path | None:
    """Returns the path that a flag gives, which need not exist; None without."""
    return pathlib.Path(flag.value) if flag.value else None


def new_file(output: str | None, inputs: Mapping[str, str | None]) -> str:
    """Returns --output, which must name a file, and none that is read.

    Args:
      output: As the flag gives it.
      inputs: What the command line calls each path that is read -> that path, which
        must exist.

    Raises:
      UsageError: If it does not.
    """
    target = os.path.realpath(output or "")
    folder = os.path.dirname(target)
    if not output or os.path.isdir(target) or not os.path.isdir(folder):
        raise UsageError(
            f"--output must name a file in a directory that exists. Received: "
            f"{output!r}."
        )
    for what, path in inputs.items():
        if os.path.realpath(existing(path, what)) == target:
            raise UsageError(
                f"--output must be another file than {what}. Received: {output!r} for "
                "both."
            )
    return output


def require_tensorflow(what: str) -> None:
    """Refuses what needs the build side where there is none.

    Args:
      what: Of the command line, for the message.

    Raises:
      UserError: If tensorflow is not installed.
    """
    _require(what, "tensorflow", "build")


def require_torch(what: str) -> None:
    """As `require_tensorflow`, for what needs PyTorch."""
    _require(what, "torch", "torch")


def _require(what: str, package: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"{what} must have {package}. Received: an environment without; install "
            f"the extra `{extra}`: pip install '.[{extra}]'."
        )


def class_names(text: str | None) -> tuple[str, ...]:
    """Reads --classes: names separated by commas; none where it was not given.

    Raises:
      UsageError: If one is empty, or stands twice.
    """
    if text is None:
        return ()
    names = tuple(name.strip() for name in text.split(","))
    twice = sorted({name for name in names if names.count(name) > 1})
    if not all(names) or twice:
        raise UsageError(
            "--classes must name at least one class, each once and none empty. "
            f"Received: {text!r}"
            + (f", where {', '.join(twice)} stands twice." if twice else ".")
        )
    return names


def no_arguments(arguments: Sequence[str]) -> None:
    """Refuses arguments that are no flags.

    Raises:
      UsageError: If there are any.
    """
    if arguments:
        raise UsageError(f"There must be flags alone. Received: {list(arguments)}.")


def frame_range(text: str, name: str = "frame") -> tuple[float, float]:
    """Reads --frame, or a flag of another name: `0.55`, or a range `0.4:1.0`.

    Raises:
      UsageError: If it is not 0 < low <= high <= 1.
    """
    try:
        parts = [float(part) for part in text.split(":")]
        low, high = parts if len(parts) > 1 else parts * 2
    except ValueError:
        low, high = 0.0, 0.0
    if not 0 < low <= high <= 1:
        raise UsageError(
            f"--{name} must be a share in (0, 1], or a range of them as 0.4:1.0. "
            f"Received: {text!r}."
        )
    return low, high


def frame_share(text: str) -> float:
    """Reads --frame where it is one share, as `0.55`.

    Raises:
      UsageError: If it is not in (0, 1], or is a range.
    """
    low, high = frame_range(text)
    if low != high:
        raise UsageError(f"--frame must be one share in (0, 1]. Received: {text!r}.")
    return low


def progress(items: Iterable[Any], description: str, total: int | None = None) -> Any:
    """Wraps an iterable in a progress bar on stderr; none where that is no terminal.

    Args:
      items: To go through.
      description: Before the bar.
      total: How many there are, where `len` does not tell.

    Returns:
      A tqdm bar, which is iterated; `set_postfix(loss=...)` shows figures.
    """
    import tqdm

    return tqdm.tqdm(
        items,
        desc=description,
        total=total,
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
    )


def help_text(
    docstring: str | None, program: str, values: flags.FlagValues = flags.FLAGS
) -> str:
    """Returns the docstring and the command's own flags with their defaults."""
    if values is flags.FLAGS:
        own = values.get_key_flags_for_module(program)
    else:
        own = [flag for some in values.flags_by_module_dict().values() for flag in some]
    lines = [(docstring or "").strip(), "", "Flags:"]
    for flag in sorted(own, key=lambda flag: flag.name):
        text = " ".join((flag.help or "").split())
        lines.append(f"  --{flag.name}: {text}")
        if flag.default is not None:
            lines.append(f"      default: {str(flag.default_as_str).strip(_QUOTES)}")
    return "\n".join(lines)


def _wants_help(argv: Sequence[str]) -> bool:
    for argument in argv[1:]:
        if argument == "--":
            return False
        if argument.startswith("-") and argument.lstrip("-") in _HELP:
            return True
    return False


def _print(text: str, status: int) -> int:
    """Writes to stdout, which may be a full disk or a pipe that nobody reads."""
    try:
        print(text, flush=True)
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # Whoever read has left, as `| head`.
            return FAILED
        return _complain([f"{error.strerror}: stdout"], FAILED)
    return status


def _complain(lines: Sequence[str], status: int) -> int:
    first, *rest = (" ".join(line.split()) for line in lines)
    print("\n  ".join([f"error: {first}", *rest]), file=sys.stderr, flush=True)
    return status
