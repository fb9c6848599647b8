"""The network in ONNX Runtime's on-device training, drawn from its layers.

PRelu and Resize have no gradient there on a processor: slopes are drawn as two Relu,
and the upsampling as products with the interpolation's matrix. Its optimizer is AdamW,
and the loss a squared error in place of the detector's: next to the network neither
takes time.
"""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ondevice.rebuild import specs, topology

_IMAGE, _OUTPUT = "image", "output"
_OPSET = 15


def prepare(options: Mapping[str, Any]) -> Callable[[], Any]:
    """Draws the graph, has its gradients made, and opens a training session.

    Args:
      options: "spec", "trainable", "classes", "batch" and "threads".

    Raises:
      ImportError: If onnx or onnxruntime-training is not installed.
    """
    import onnxruntime
    from onnxruntime.training import api, artifacts

    spec = specs.PRESETS[options["spec"]]
    layers = topology.draw(spec, options["classes"])
    graph = _Graph(options["batch"], layers)
    trained = set(topology.trained_variables(layers, options["trainable"]))
    session = onnxruntime.SessionOptions()
    session.intra_op_num_threads = options["threads"]
    session.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as directory:
        artifacts.generate_artifacts(
            graph.model(),
            requires_grad=[name for name in graph.weights if name in trained],
            frozen_params=[name for name in graph.weights if name not in trained],
            loss=artifacts.LossType.MSELoss,
            optimizer=artifacts.OptimType.AdamW,
            artifact_directory=directory,
        )
        made = pathlib.Path(directory)
        state = api.CheckpointState.load_checkpoint(str(made / "checkpoint"))
        module = api.Module(
            str(made / "training_model.onnx"), state, session_options=session
        )
        optimizer = api.Optimizer(str(made / "optimizer_model.onnx"), module)
    random = np.random.default_rng(0)
    image = random.random(graph.image, np.float32)
    target = np.zeros(graph.output, np.float32)

    def step() -> Any:
        module.train()
        loss = module(image, target)
        optimizer.step()
        module.lazy_reset_grad()
        return loss

    step()
    return step


class _Graph:
    """Nodes of a network for one batch, channels first.

    Attributes:
      weights: Name -> array, of variables.
      image: Shape of the input.
      output: Shape of the output: every output, flat, side by side.
    """

    def __init__(self, batch: int, layers: tuple[topology.Layer, ...]) -> None:
        self.weights: dict[str, np.ndarray] = {}
        self._constants: dict[str, np.ndarray] = {}
        self._nodes: list[Any] = []
        self._batch = batch
        self._random = np.random.default_rng(0)
        self._shapes = {layer.name: layer.shape for layer in layers}
        used = {name for layer in layers for name in layer.inputs}
        ends = []
        for layer in layers:
            if layer.kind == "input":
                height, width, channels = layer.shape
                self.image = (batch, channels, height, width)
                continue
            getattr(self, f"_{layer.kind}")(layer)
            if layer.name not in used:
                flat = self._constant(f"{layer.name}/flat", [batch, -1], np.int64)
                ends.append(self._node("Reshape", layer.name, flat))
        self._node("Concat", *ends, output=_OUTPUT, axis=1)
        sizes = [
            int(np.prod(layer.shape)) for layer in layers if layer.name not in used
        ]
        self.output = (batch, sum(sizes))

    def model(self) -> Any:
        """The graph as ONNX."""
        from onnx import TensorProto, helper, numpy_helper

        graph = helper.make_graph(
            self._nodes,
            "network",
            [helper.make_tensor_value_info(_IMAGE, TensorProto.FLOAT, self.image)],
            [helper.make_tensor_value_info(_OUTPUT, TensorProto.FLOAT, self.output)],
            [
                numpy_helper.from_array(value, name)
                for name, value in {**self.weights, **self._constants}.items()
            ],
        )
        opset = helper.make_opsetid("", _OPSET)
        # Of the time of the last onnxruntime-training.
        return helper.make_model(graph, opset_imports=[opset], ir_version=8)

    def _node(self, kind: str, *inputs: str, output: str = "", **attributes) -> str:
        from onnx import helper

        output = output or f"node_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def _constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        self._constants[name] = np.asarray(value, dtype)
        return name

    def _weight(self, name: str, shape: tuple[int, ...]) -> str:
        fan_in = np.prod(shape[1:]) if len(shape) == 4 else 4
        value = self._random.standard_normal(shape) / fan_in**0.5
        self.weights[name] = value.astype(np.float32)
        return name

    def _window(self, layer: topology.Layer) -> dict[str, list[int]]:
        """Attributes of a window under TensorFlow's SAME: what is over goes behind."""
        size = self._shapes[layer.inputs[0]][0]
        steps = -(-size // layer.stride)
        over = max((steps - 1) * layer.stride + layer.kernel - size, 0)
        before, after = over // 2, over - over // 2
        return {
            "kernel_shape": [layer.kernel] * 2,
            "strides": [layer.stride] * 2,
            "pads": [before, before, after, after],
        }

    def _conv(self, layer: topology.Layer) -> None:
        (source,) = layer.inputs
        channels, given = layer.shape[2], self._shapes[source][2]
        shape = (channels, given, layer.kernel, layer.kernel)
        kernel = self._weight(f"{layer.name}/kernel", shape)
        bias = self._weight(f"{layer.name}/bias", (channels,))
        window = self._window(layer)
        self._node("Conv", source, kernel, bias, output=layer.name, **window)

    def _depthwise(self, layer: topology.Layer) -> None:
        channels = layer.shape[2]
        shape = (channels, 1, layer.kernel, layer.kernel)
        kernel = self._weight(f"{layer.name}/kernel", shape)
        window = self._window(layer)
        self._node(
            "Conv", *layer.inputs, kernel, output=layer.name, group=channels, **window
        )

    def _prelu(self, layer: topology.Layer) -> None:
        (source,) = layer.inputs
        alpha = self._weight(f"{layer.name}/alpha", (layer.shape[2], 1, 1))
        below = self._node("Relu", self._node("Neg", source))
        self._node(
            "Sub",
            self._node("Relu", source),
            self._node("Mul", below, alpha),
            output=layer.name,
        )

    def _add(self, layer: topology.Layer) -> None:
        self._node("Add", *layer.inputs, output=layer.name)

    def _max_pool(self, layer: topology.Layer) -> None:
        window = self._window(layer)
        self._node("MaxPool", *layer.inputs, output=layer.name, **window)

    def _channel_pad(self, layer: topology.Layer) -> None:
        (source,) = layer.inputs
        height, width, channels = layer.shape
        more = channels - self._shapes[source][2]
        zeros = np.zeros((self._batch, more, height, width), np.float32)
        behind = self._constant(f"{layer.name}/zeros", zeros)
        self._node("Concat", source, behind, output=layer.name, axis=1)

    def _upsample(self, layer: topology.Layer) -> None:
        """Twice as large, bilinear, half-pixel centres: as products over each axis."""
        (source,) = layer.inputs
        matrix = _bilinear(self._shapes[source][0])
        rows = self._constant(f"{layer.name}/rows", matrix)
        columns = self._constant(f"{layer.name}/columns", matrix.T)
        wide = self._node("MatMul", source, columns)
        self._node("MatMul", rows, wide, output=layer.name)

    def _reshape(self, layer: topology.Layer) -> None:
        (source,) = layer.inputs
        shape = (self._batch, *layer.shape)
        wanted = self._constant(f"{layer.name}/shape", shape, np.int64)
        last = self._node("Transpose", source, perm=[0, 2, 3, 1])
        self._node("Reshape", last, wanted, output=layer.name)

    def _concat(self, layer: topology.Layer) -> None:
        self._node("Concat", *layer.inputs, output=layer.name, axis=1)


def _bilinear(size: int) -> np.ndarray:
    """[2 * size, size]: weights of the cells that each cell twice as dense lies in."""
    places = np.clip((np.arange(2 * size) + 0.5) / 2 - 0.5, 0, size - 1)
    return np.maximum(1 - np.abs(places[:, None] - np.arange(size)), 0)
