"""TensorFlow's converter: the one place for its options and for its complaints."""

from __future__ import annotations

import contextlib
import gc
import re
from collections.abc import Callable, Iterator

import tensorflow as tf
from absl import logging
from tensorflow.lite.python import lite

from ondevice import rewrite

# What the converter says of an operator that has no builtin one, and of its place.
_WITHOUT = re.compile(r"'tf\.(\w+)' op is neither")
_PLACE = re.compile(r'fused\["(\w+):", "([^"@]+)@')
_OPERATOR_SETS = {
    "builtin": (tf.lite.OpsSet.TFLITE_BUILTINS,),
    "select": (tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS),
}


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keeps TensorFlow's notes on saving, which ask nothing of anyone, off the log."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Collects no garbage while it lasts.

    A conversion makes millions of objects that are needed until its end. Python looked
    through them 839 times for 1.5 of palm_full's 25 seconds, and freed 10 of 1,529 MB.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def saved_model(directory: str, keys: list[str], ops: str) -> bytes:
    """Converts a SavedModel, and does nothing else.

    `TFLiteConverter.from_saved_model(...).convert()` loads what was saved twice, for
    the keys and for statistics, and unpacks and packs the file in Python twice, to
    share its constants: a third of the time that the conversion takes.

    Args:
      directory: Of the SavedModel.
      keys: Of its signatures.
      ops: `builtin` or `select`.

    Returns:
      The .tflite; equal constants do not share a buffer.

    Raises:
      ConversionError: If the converter refuses.

    Source: tensorflow/lite/python/lite.py, TFLiteSavedModelConverterV2, 2.17 to 2.21.
    """
    converter = lite.TFLiteSavedModelConverterV2(
        directory, {tf.saved_model.SERVING}, keys
    )
    converter.experimental_enable_resource_variables = True
    converter._optimize_tflite_model = lambda model, *rest, **more: model
    graph = tf.compat.v1.GraphDef()  # For statistics alone.
    return run(converter, ops, lambda: converter._convert_from_saved_model(graph))


def run(
    converter: tf.lite.TFLiteConverter,
    ops: str,
    convert: Callable[[], bytes] | None = None,
) -> bytes:
    """Converts.

    Args:
      converter: Set up but for the operators.
      ops: `builtin` or `select`.
      convert: What converts; None stands for the converter itself.

    Raises:
      ConversionError: If the converter refuses; names operators without a builtin one.
    """
    converter.target_spec.supported_ops = list(_OPERATOR_SETS[ops])
    # The manifest tells more, and adding it reads and writes the file once more.
    converter.exclude_conversion_metadata = True
    try:
        return (convert or converter.convert)()
    except Exception as error:  # the converter raises classes of its own, unexported
        text = str(error)
        lines = [line for line in text.splitlines() if line.strip()]
        kinds = set(_WITHOUT.findall(text))
        faults = {f"{k} '{n}'" for k, n in _PLACE.findall(text) if k in kinds}
        if faults and ops == "builtin":
            raise rewrite.ConversionError(
                "Every operator must have a builtin one. "
                f"Received: {', '.join(sorted(faults))}; leave that layer out, or do "
                "what it does before the model."
            ) from error
        raise rewrite.ConversionError(
            f"The graph must convert with --ops={ops}. Received: {' '.join(lines[:4])}"
        ) from error
