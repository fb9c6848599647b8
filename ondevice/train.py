"""Trains a .tflite from ondevice.build on pictures of your own, in its interpreter.

Images lie in folders named by class; their boxes are drawn by the detector itself.
Annotations of yirueilu-b/blaze-palm-tf2 and COCO with keypoints are read too. Without
--validation the last tenth of the files, in the order of their numbers, is held out.

Examples:
  python -m ondevice.train --model=out/palm_full/model.tflite --data=photos \\
      --checkpoint_dir=out/run
      Writes latest.safetensors and best.safetensors, metrics.jsonl and training.png.
  python -m ondevice.train --model=out/palm_full/model.tflite --data=photos \\
      --checkpoint_dir=out/run --resume
      Goes on after Ctrl-C, or a crash, as if never stopped; add --epochs for more.
  python -m ondevice.train --model=out/signs/model.tflite --data=photos \\
      --checkpoint_dir=out/far --frame=0.3:0.6 --show_labels=out/far/labels
      Hands that are farther away; and pictures of the labels, to look at.

The last line of stdout is one JSON object: {"steps", "epochs", "loss",
"class_accuracy", "best", "stopped", "seconds", "cpu_seconds", "peak_memory"}; `loss` is
the last epoch's mean, `class_accuracy` its validation's, `best` the epoch that
best.safetensors is of, with its validation; `stopped` is "epochs" or "patience";
`seconds`, `cpu_seconds` and `peak_memory`, in bytes, are this process's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
import shlex
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags, logging

from checkpoints import atomic
from ondevice import commands

if TYPE_CHECKING:
    from ondevice.device import detectors, labelled, runs, samples, session

FLAGS = commands.flag_values()
_MODEL = flags.DEFINE_string("model", None, "The trainable .tflite.", flag_values=FLAGS)
_DATA = flags.DEFINE_string(
    "data", None, "Folder of images in folders named by class.", flag_values=FLAGS
)
_CHECKPOINT_DIR = flags.DEFINE_string(
    "checkpoint_dir", None, "Where to write checkpoints and metrics.", flag_values=FLAGS
)
_VALIDATION = flags.DEFINE_string(
    "validation",
    None,
    "As --data, to choose the best epoch by. Default: the last tenth of --data.",
    flag_values=FLAGS,
)
_LABELS_FROM = flags.DEFINE_string(
    "labels_from",
    None,
    "The .tflite that draws boxes where images have none. Default: --model, as built.",
    flag_values=FLAGS,
)
_EPOCHS = flags.DEFINE_integer(
    "epochs", None, "Epochs in all. Default: 32.", lower_bound=1, flag_values=FLAGS
)
_HEAD_EPOCHS = flags.DEFINE_integer(
    "head_epochs",
    None,
    "Of the epochs, the first ones, in which new class heads learn alone, on features "
    "that are computed once, many times as fast. Default: three quarters of --epochs "
    "where the trunk trains and class heads are new.",
    lower_bound=0,
    flag_values=FLAGS,
)
_LEARNING_RATE = flags.DEFINE_float(
    "learning_rate",
    None,
    "Learning rate at its height. Default: 1e-5; 1e-4 for sgd. Weights learn at "
    "multiples of it by their kind, and at four times it on cached features.",
    flag_values=FLAGS,
)
_SCHEDULE = flags.DEFINE_enum(
    "schedule",
    None,
    ["cosine", "constant"],
    "cosine: the rate falls to the end of the last epoch, and of the last of "
    "--head_epochs; constant. Both rise over the first steps. Default: cosine.",
    flag_values=FLAGS,
)
_RESUME = flags.DEFINE_boolean(
    "resume", False, "Go on from latest.safetensors.", flag_values=FLAGS
)
_SEED = flags.DEFINE_integer(
    "seed",
    None,
    "Of the order of the images and of their places. Default: 0.",
    lower_bound=0,
    flag_values=FLAGS,
)
_FRAME = flags.DEFINE_string(
    "frame",
    None,
    "Range of the share of the black frame's side that an image takes, drawn anew for "
    "each; the middle is validated at. Default: 0.4:1.0.",
    flag_values=FLAGS,
)
_VARIANTS = flags.DEFINE_integer(
    "variants",
    None,
    "Where features are computed once: places that each image is given, over and over. "
    "Default: 4.",
    lower_bound=1,
    flag_values=FLAGS,
)
_PATIENCE = flags.DEFINE_integer(
    "patience",
    None,
    "Epochs without a better validation that end the run; 0 never ends it. Default: 8.",
    lower_bound=0,
    flag_values=FLAGS,
)
_SHOW_LABELS = commands.define_show_labels(FLAGS)
_RUNTIME, _THREADS = commands.define_runtime(FLAGS)

# Of the epochs: after 24 of 32 class heads know, nearly, what a frozen trunk can tell.
_HEAD_SHARE = 0.75

# Learning rates by optimizer.
_RATES = {"adam": 1e-5, "adamw": 1e-5, "momentum": 1e-5, "sgd": 1e-4}


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What to train; see the flags. None stands for the default, or, in a run that is
    resumed, for what it was."""

    model: pathlib.Path
    data: pathlib.Path
    checkpoint_dir: pathlib.Path
    validation: pathlib.Path | None = None
    labels_from: pathlib.Path | None = None
    epochs: int | None = None
    head_epochs: int | None = None
    learning_rate: float | None = None
    schedule: str | None = None
    resume: bool = False
    seed: int | None = None
    frame: tuple[float, float] | None = None
    variants: int | None = None
    patience: int | None = None
    show_labels: pathlib.Path | None = None
    runtime: str = "auto"
    threads: int | None = None


def train(config: TrainConfig) -> dict[str, Any]:
    """Trains.

    Args:
      config: What, on what.

    Returns:
      The JSON object of the command.

    Raises:
      ValueError: If something that was given does not do; nothing is written then.
      KeyboardInterrupt: After Ctrl-C.
      OSError: If a file cannot be read or written.
    """
    from ondevice.device import claims, image_cache, label_sheets, opening, runs
    from ondevice.device import session, training, trial, usage

    started = time.monotonic()
    directory = config.checkpoint_dir
    latest = directory / training.LATEST
    threads = opening.session_threads(config.threads, config.runtime)
    with contextlib.ExitStack() as stack:
        begun = directory.exists()
        if begun:
            stack.enter_context(claims.claimed(directory))
        _refuse(config, latest)
        trial.require(config.model, config.runtime, str(config.model))
        opened = stack.enter_context(
            session.Session(config.model, config.runtime, threads)
        )
        if not opened.manifest.variables:
            raise commands.UserError(
                f"--model must be a trainable file. Received: {config.model}, an "
                "inference file."
            )
        resumed = _restored(opened, latest) if config.resume else None
        settings = _settings(config, opened, resumed)
        side = opening.of_session(opened).spec.input_size
        cache = image_cache.ImageCache(side=image_cache.OVERSAMPLING * side)
        train_set, validation = _data(config, opened, cache)
        if config.show_labels is not None:
            for prefix, dataset in (("train-", train_set), ("validation-", validation)):
                label_sheets.write(
                    dataset, config.show_labels, cache, prefix, commands.progress
                )
        if begun:
            atomic.sweep(directory)
        else:
            directory.mkdir(parents=True, exist_ok=True)
            stack.enter_context(claims.claimed(directory))
            _refuse(config, latest)  # Another process may have made it meanwhile.
        # One thread: it runs beside the steps, which have the others.
        beside = dataclasses.replace(config, threads=1)
        untouched = stack.enter_context(_labeller(beside)()).detector
        teacher: detectors.Detector | None = untouched
        if untouched.spec != opening.of_session(opened).spec:
            logging.warning("--labels_from has other anchors: they teach nothing.")
            teacher = None
        run = training.Training(
            opened, train_set, validation, directory, settings, cache, resumed, teacher
        )
        logging.info(
            "%d images to train on, %d to validate; %d steps an epoch on %s with %d "
            "threads.", len(train_set.labelled()), len(validation), run.epoch_steps,
            opened.runtime, threads or 1,
        )  # fmt: skip
        state = run.run(commands.progress)
    last, best = state.last, state.best
    assert last is not None and best is not None  # There was an epoch.
    return {
        "steps": state.steps,
        "epochs": state.epoch,
        "loss": last["loss"],
        "class_accuracy": last["validation"]["class_accuracy"],
        "best": {"epoch": best["epoch"], **best["validation"]},
        "stopped": runs.ended(settings, state),
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(usage.cpu_seconds(), 1),
        "peak_memory": usage.peak_memory(),
    }


def main(arguments: Sequence[str]) -> commands.Outcome:
    commands.no_arguments(arguments)
    config = TrainConfig(
        model=commands.required_path(_MODEL),
        data=commands.required_path(_DATA),
        checkpoint_dir=pathlib.Path(_CHECKPOINT_DIR.value or ""),
        validation=commands.optional_path(_VALIDATION),
        labels_from=commands.optional_path(_LABELS_FROM),
        epochs=_EPOCHS.value,
        head_epochs=_HEAD_EPOCHS.value,
        learning_rate=_LEARNING_RATE.value,
        schedule=_SCHEDULE.value,
        resume=_RESUME.value,
        seed=_SEED.value,
        frame=commands.frame_range(_FRAME.value) if _FRAME.value else None,
        variants=_VARIANTS.value,
        patience=_PATIENCE.value,
        show_labels=commands.output_path(_SHOW_LABELS),
        runtime=_RUNTIME.value,
        threads=_THREADS.value,
    )
    try:
        return commands.Outcome(train(config))
    except KeyboardInterrupt:
        _say_how_to_go_on(config)
        raise


def _say_how_to_go_on(config: TrainConfig) -> None:
    """Logs the command that does, where there is a checkpoint to go on from."""
    from ondevice.device import training

    if not (config.checkpoint_dir / training.LATEST).exists():
        return
    # The checkpoint knows the rest.
    named = ["model", "data", "validation", "checkpoint_dir", "labels_from", "threads"]
    given = {name: getattr(config, name) for name in named}
    if config.runtime != _RUNTIME.default:
        given["runtime"] = config.runtime
    flags_given = [f"--{name}={value}" for name, value in given.items() if value]
    logging.info(
        "To go on: %s",
        shlex.join([sys.executable, "-m", "ondevice.train", *flags_given, "--resume"]),
    )


def _refuse(config: TrainConfig, latest: pathlib.Path) -> None:
    """Refuses to write over a run, and to resume none."""
    if config.resume and not latest.exists():
        raise commands.UserError(
            f"--resume must find a checkpoint. Received: {latest}, which does not "
            "exist; without --resume training begins there."
        )
    if latest.exists() and not config.resume:
        raise commands.UserError(
            "--checkpoint_dir must hold no run yet, or be resumed with --resume. "
            f"Received: {latest}, which exists; nothing was written."
        )


def _restored(opened: session.Session, latest: pathlib.Path) -> runs.Resumption:
    from ondevice.device import runs

    header = opened.restore(latest) if opened.manifest.ops == "builtin" else None
    if header is None:
        raise commands.UserError(
            "--resume must be given a file with builtin operators. Received: one built "
            "with --ops=select, whose checkpoints do not tell how far a run is."
        )
    return runs.resumption(header)


def _settings(
    config: TrainConfig,
    opened: session.Session,
    resumed: runs.Resumption | None,
) -> runs.Settings:
    """The flags over what a resumed run was set to, over the defaults."""
    from ondevice.device import runs
    from signatures import contract

    name = str(opened.manifest.optimizer.get("name"))
    rate = _RATES.get(name, runs.Settings.learning_rate)
    keys = [signature.key for signature in opened.manifest.signatures]
    can = contract.TRAIN_CLASSES in keys
    if config.head_epochs and not can:
        raise commands.UserError(
            "--head_epochs must be given with a file whose trunk trains and whose "
            f"class heads are new. Received: {config.head_epochs} with {config.model}, "
            f"built with --trainable={opened.manifest.trainable} for "
            f"{len(opened.manifest.classes)} classes."
        )
    epochs = config.epochs or runs.Settings.epochs
    alone = int(epochs * _HEAD_SHARE) if can else 0
    settings = runs.Settings(learning_rate=rate, head_epochs=alone)
    if resumed is not None:
        settings = resumed.settings
    given = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(settings)
        if getattr(config, field.name) is not None
    }
    return dataclasses.replace(settings, **given)


def _labeller(config: TrainConfig) -> labelled.Labeller:
    """Opens the untouched detector."""
    from ondevice.device import opening

    return functools.partial(
        opening.open_labeller,
        config.labels_from,
        config.model,
        config.runtime,
        config.threads,
    )


def _data(
    config: TrainConfig, opened: session.Session, cache: Any
) -> tuple[samples.Dataset, samples.Dataset]:
    """The labelled data sets, to train on and to validate."""
    from ondevice.device import labelled, samples

    labeller = _labeller(config)
    datasets = labelled.load(
        [path for path in (config.data, config.validation) if path is not None],
        opened.manifest.classes,
        labeller,
        cache,
        config.checkpoint_dir,
        commands.progress,
        chosen=config.labels_from is not None,
    )
    if len(datasets) == 1:
        return samples.split(datasets[0])
    train_set, validation = datasets
    common = samples.common(train_set.samples, validation.samples)
    if common:
        logging.warning(
            "%d of the images to validate are trained on, too, the first: %s; they "
            "flatter the validation.", len(common), common[0],
        )  # fmt: skip
    return train_set, validation


if __name__ == "__main__":
    flags.mark_flags_as_required([_MODEL, _DATA, _CHECKPOINT_DIR], flag_values=FLAGS)
    commands.run(main, __doc__, FLAGS)
