"""A PyTorch detector -> .tflite by tools of others, in an environment of their own.

    PYTHON -m docs.routes.peers TOOL SPEC STATE_DICT OUTPUT

PYTHON is the environment's, the working directory the repository's root. Nothing of it
but the module of the network is imported, and that by tools alone that start from
PyTorch. Tools that start from ONNX are given the file that `export` wrote:

    PYTHON -m docs.routes.peers export palm_full palm_full.pth palm_full.onnx
    PYTHON -m docs.routes.peers onnx2tf palm_full palm_full.onnx palm_full.tflite

The tool's own messages go where it writes them; what went wrong is the last line of
stderr.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import sys
import tempfile
import traceback
from typing import Any

# What turns text red in a terminal.
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

IMAGE, OUTPUTS = "image", ["regressors", "classificators"]


def _module(spec_name: str, state_dict: str) -> tuple[Any, Any]:
    """The vendor's network, giving a plain tuple, and an image [1, 3, S, S]."""
    import torch

    from ondevice.rebuild import specs, torch_network

    class Tuple(torch.nn.Module):
        """Tools know tuples; named ones they do not all."""

        def __init__(self, named: torch.nn.Module) -> None:
            super().__init__()
            self.named = named

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(self.named(image))

    spec = specs.PRESETS[spec_name]
    model = torch_network.build(spec)
    model.load_state_dict(torch.load(state_dict, weights_only=True))
    return Tuple(model).eval(), torch.zeros(1, 3, spec.input_size, spec.input_size)


def export(spec: str, source: str, output: str) -> None:
    """Writes ONNX with the exporter that is PyTorch's default."""
    _export(spec, source, output, dynamo=True, external_data=False)


def export_old(spec: str, source: str, output: str) -> None:
    """Writes ONNX with the exporter of before, opset 13, which old tools can read."""
    _export(spec, source, output, dynamo=False, opset_version=13)


def _export(spec: str, source: str, output: str, **options: Any) -> None:
    import torch

    model, image = _module(spec, source)
    names = {"input_names": [IMAGE], "output_names": OUTPUTS}
    torch.onnx.export(model, (image,), output, **names, **options)


def litert_torch(spec: str, source: str, output: str) -> None:
    """Google's converter from PyTorch; the image stays channels first."""
    import litert_torch as tool

    model, image = _module(spec, source)
    tool.convert(model, (image,)).export(output)


def litert_torch_last(spec: str, source: str, output: str) -> None:
    """The same with the image channels last, by the tool's own wrapper."""
    import litert_torch as tool

    model, image = _module(spec, source)
    wrapped = tool.to_channel_last_io(model, args=[0])
    tool.convert(wrapped, (image.permute(0, 2, 3, 1).contiguous(),)).export(output)


def tinynn(spec: str, source: str, output: str) -> None:
    """TinyNeuralNetwork, straight from PyTorch."""
    from tinynn import converter

    model, image = _module(spec, source)
    # Outputs have three axes; only the image's layout changes.
    converter.TFLiteConverter(model, image, output).convert()


def onnx2tf(spec: str, source: str, output: str) -> None:
    """onnx2tf, which turns ONNX into channels last."""
    del spec
    import numpy as np
    import onnx2tf as tool

    source, output = os.path.abspath(source), os.path.abspath(output)
    with tempfile.TemporaryDirectory() as directory:
        # It compares outputs on twenty pictures, which it downloads unless they are in
        # the working directory; noise does, and needs no network.
        os.chdir(directory)
        shutil.copy(source, "network.onnx")  # It writes over what it is given.
        noise = np.random.default_rng(0).random((20, 128, 128, 3), np.float32)
        np.save("calibration_image_sample_data_20x128x128x3_float32.npy", noise)
        tool.convert(
            input_onnx_file_path="network.onnx",
            output_folder_path="saved",
            output_signaturedefs=True,  # it asks for that where names have slashes
            copy_onnx_input_output_names_to_tflite=True,
            non_verbose=True,
        )
        (found,) = pathlib.Path("saved").glob("*_float32.tflite")
        shutil.copy(found, output)
        os.chdir("/")


def onnx_tf(spec: str, source: str, output: str) -> None:
    """onnx-tf, the converter of ONNX's own project, and TensorFlow's."""
    del spec
    import onnx
    import tensorflow as tf
    from onnx_tf import backend

    with tempfile.TemporaryDirectory() as directory:
        backend.prepare(onnx.load(source)).export_graph(directory)
        made = tf.lite.TFLiteConverter.from_saved_model(directory).convert()
    pathlib.Path(output).write_bytes(made)


def onnx2keras(spec: str, source: str, output: str) -> None:
    """onnx2keras and TensorFlow's converter; the model stays channels first."""
    _keras(source, output, change_ordering=False)


def onnx2keras_last(spec: str, source: str, output: str) -> None:
    """The same, told to change the order of axes."""
    _keras(source, output, change_ordering=True)


def _keras(source: str, output: str, **options: Any) -> None:
    import onnx
    import tensorflow as tf
    from onnx2keras import onnx_to_keras

    model = onnx_to_keras(onnx.load(source), [IMAGE], verbose=False, **options)
    made = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    pathlib.Path(output).write_bytes(made)


TOOLS = {
    "export": export,
    "export_old": export_old,
    "litert_torch": litert_torch,
    "litert_torch_last": litert_torch_last,
    "tinynn": tinynn,
    "onnx2tf": onnx2tf,
    "onnx_tf": onnx_tf,
    "onnx2keras": onnx2keras,
    "onnx2keras_last": onnx2keras_last,
}


def main(arguments: list[str]) -> int:
    try:
        TOOLS[arguments[0]](*arguments[1:])
    except (Exception, SystemExit) as error:  # whatever a tool raises is its answer
        traceback.print_exc()
        said = " ".join(_COLOUR.sub("", str(error)).split())
        said = said.replace(sys.prefix, "...")
        print(f"{type(error).__name__}: {said}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
