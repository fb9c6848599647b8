"""The builtin options of an operator as {name: value}.

The `tflite` package has one accessor class for each kind of options and no object API,
so the fields are found by the classes' own conventions: `Field()` gives a number or a
string; where `FieldLength()` exists it is a vector, `FieldAsNumpy()` gives it whole.
"""

from __future__ import annotations

import enum
import functools
import re
import types
from collections.abc import Mapping
from typing import Any

import tflite

from checkpoints import flatbuffer

# Fields whose number has a name. The value is an `enum.IntEnum`: it equals the number
# and has the name of the schema as `.name`.
_ENUMERATIONS = {
    "padding": tflite.Padding,
    "fused_activation_function": tflite.ActivationFunctionType,
    "weights_format": tflite.FullyConnectedOptionsWeightsFormat,
    "mode": tflite.MirrorPadMode,
    "in_data_type": tflite.TensorType,
    "out_data_type": tflite.TensorType,
    "out_type": tflite.TensorType,
    "output_type": tflite.TensorType,
    "idx_out_type": tflite.TensorType,
    "quantized_bias_type": tflite.TensorType,
}
NONE: Mapping[str, Any] = types.MappingProxyType({})
# Bytes of memory, at most, of a mapping of two texts, of another beside its fields, and
# of one value in a vector.
_TEXTS, _OPTIONS, _ITEM = 300, 700, 100
# Bytes of a table that is looked up by its content; those of the schema are shorter.
_SHORT = 1024
_HELPERS = ("Length", "AsNumpy", "IsNone")


def class_name(kind: int, second: bool = False) -> str:
    """Returns the name of the options class that the union's number stands for.

    Args:
      kind: Value of `builtin_options_type`, or of `builtin_options_2_type`.
      second: Whether it is the latter.

    Returns:
      'Conv2DOptions' for one; '' for none and for a number unknown to the schema.
    """
    return _unions()[second].get(kind, "")


def decode(table: flatbuffer.Table, name: str) -> Mapping[str, Any]:
    """Reads one options table.

    Args:
      table: The table, its vtable proven inside the file.
      name: As of `class_name`.

    Returns:
      Field in snake_case -> int, float, bool, str, or tuple of them. Nested tables,
      which no operator of ours has, are left out.

    Raises:
      FlatbufferError: If a field points outside the file.
    """
    if name == "VarHandleOptions":  # Thousands in a training file.
        table.reader.spend(table, _TEXTS)
        texts = {"container": table.text(0), "shared_name": table.text(1)}
        return types.MappingProxyType(texts)
    fields = _fields(name)
    if not fields:
        return NONE
    content = (name, table.content()) if table.fields[0] <= _SHORT else None
    if content in table.reader.same:
        return table.reader.same[content]
    table.reader.spend(table, _OPTIONS + 64 * len(fields) + table.fields[0])
    accessor = getattr(tflite, name)()
    accessor.Init(table.reader.data, table.position)
    options = {}
    for field, key, vector in fields:
        try:
            if vector:
                length = getattr(accessor, f"{field}Length")()
                table.reader.spend(table, _ITEM * length, numbers=length)
            value = _vector(accessor, field) if vector else getattr(accessor, field)()
        except flatbuffer.FlatbufferError:
            raise
        except Exception as error:  # struct.error, ValueError, IndexError, ...
            raise flatbuffer.FlatbufferError(
                f"Options must lie inside the file. Received: {error} for {key!r}; in "
                f"{table}."
            ) from error
        if isinstance(value, bytes):
            table.reader.spend(table, _ITEM + 5 * len(value))
        if not hasattr(value, "_tab"):
            options[key] = _plain(value, key)
    found = types.MappingProxyType(options)
    # A table of numbers alone, which refers to nothing, means the same wherever it is.
    if content and all(isinstance(value, (int, float)) for value in options.values()):
        table.reader.same[content] = found
    return found


@functools.cache
def _unions() -> tuple[dict[int, str], dict[int, str]]:
    first, second = (
        {
            number: name
            for name, number in vars(union).items()
            if isinstance(number, int) and hasattr(tflite, name)
        }
        for union in (tflite.BuiltinOptions, tflite.BuiltinOptions2)
    )
    return first, second


@functools.cache
def _fields(name: str) -> tuple[tuple[str, str, bool], ...]:
    """Returns (accessor, snake_case, whether a vector) for every field of a class."""
    methods = [
        method
        for method, function in vars(getattr(tflite, name)).items()
        if isinstance(function, types.FunctionType)
        and not method.startswith("_")
        and method != "Init"
    ]
    helpers = {f"{method}{helper}" for method in methods for helper in _HELPERS}
    return tuple(
        (method, _snake(method), f"{method}Length" in methods)
        for method in methods
        if method not in helpers
    )


def _snake(name: str) -> str:
    """'DilationHFactor' -> 'dilation_h_factor'."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _vector(accessor: Any, field: str) -> tuple:
    if hasattr(accessor, f"{field}AsNumpy"):
        array = getattr(accessor, f"{field}AsNumpy")()
        return tuple(array.tolist()) if hasattr(array, "tolist") else ()
    items = range(getattr(accessor, f"{field}Length")())
    values = [getattr(accessor, field)(item) for item in items]
    return tuple(value for value in values if not hasattr(value, "_tab"))


def _plain(value: Any, key: str) -> Any:
    if isinstance(value, tuple):
        return tuple(_plain(item, "") for item in value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if value is None:  # A string that the file leaves out.
        return ""
    if key in _ENUMERATIONS:
        return _enumeration(key)._value2member_map_.get(value, value)
    return value


@functools.cache
def _enumeration(key: str) -> type[enum.IntEnum]:
    schema = _ENUMERATIONS[key]
    names = {k: v for k, v in vars(schema).items() if isinstance(v, int)}
    return enum.IntEnum(schema.__name__, names)  # type: ignore[return-value]
