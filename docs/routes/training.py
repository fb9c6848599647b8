"""One training problem on three routes: PyTorch, TensorFlow, and the .tflite itself.

Start, data, their order and places, loss, optimizer, rates and schedule are the same;
each route takes its steps in a process of its own:

    python -m docs.routes.training ROUTE JOB

JOB is a folder that holds `job.json` (see `Job`), `start.pth` and `start/`, the files
of `ondevice.pytorch import` with the same weights. ROUTE's process leaves what was
learnt there, and prints one JSON object: what a step took, and every step's loss.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from checkpoints import manifest as manifests
from ondevice.detection import anchors, targets
from ondevice.device import batches, image_cache, kept, labelled, opening
from ondevice.device import schedule, supplies, usage
from ondevice.rebuild import specs, topology, trunks

BATCH = 8
# On the same photographs, every step the same size whatever trains elsewhere.
FRAME = (0.4, 0.8)

# What each route leaves behind.
STATE_DICT, WEIGHTS, CHECKPOINT = "trained.pth", "trained.npz", "trained.safetensors"


@dataclasses.dataclass(frozen=True)
class Job:
    """The problem.

    Attributes:
      spec: Name of the detector.
      classes: Names, by the order of the class heads' outputs.
      trainable: What trains, as `ondevice.build` has it.
      data: Folder of photographs in folders by class.
      vendor: The frozen .tflite, which draws the boxes.
      epochs: Times that each photograph is shown.
      places: Where the trunk is frozen, so many places that each photograph is given
        over and over: features of each are computed once.
      rate: The learning rate at its height.
      threads: Of the route's kernels; pictures are prepared before each step.
      seed: Of the order and places of the photographs.
    """

    spec: str
    classes: tuple[str, ...]
    trainable: str
    data: str
    vendor: str
    epochs: int
    places: int
    rate: float
    threads: int = 1
    seed: int = 0

    @property
    def layers(self) -> tuple[topology.Layer, ...]:
        """The network, K outputs for each anchor in the class heads."""
        spec = specs.PRESETS[self.spec]
        return topology.draw(spec, len(self.classes), manifests.PLAIN)

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the weights that train."""
        return topology.trained_variables(self.layers, self.trainable)

    @property
    def features(self) -> tuple[str, ...]:
        """Layers where the frozen trunk ends; none where all of it trains."""
        return trunks.trunk_features(self.layers, self.trained)

    def write(self, folder: pathlib.Path) -> None:
        (folder / "job.json").write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def read(cls, folder: pathlib.Path) -> Job:
        found = json.loads((folder / "job.json").read_text())
        return cls(**{**found, "classes": tuple(found["classes"])})


class Route(Protocol):
    """Takes the steps."""

    def features_of(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """What the frozen trunk makes of [S, S, 3], by any names."""

    def step(self, batch: Mapping[str, np.ndarray], rate: float) -> float:
        """Trains on a batch of `batches.Batches` and returns its loss.

        In the place of `image` it has what `features_of` gave, if a trunk is frozen.
        """

    def save(self) -> None:
        """Leaves what was learnt in the job's folder."""


class PyTorch:
    """The network as a module, and autograd."""

    def __init__(self, job: Job, folder: pathlib.Path) -> None:
        import torch

        from docs import finetune_in_pytorch
        from ondevice.rebuild import torch_names, torch_network

        torch.set_num_threads(job.threads)
        self._torch, self._loss_of = torch, finetune_in_pytorch.loss_of
        self._outputs = torch_network.Outputs
        self._folder, self._features = folder, job.features
        self._side = specs.PRESETS[job.spec].input_size
        self._model = torch_network.build(specs.PRESETS[job.spec], job.layers)
        state = torch.load(folder / "start.pth", weights_only=True)
        self._model.load_state_dict(state)
        rows = torch_names.table(job.spec, job.layers)
        trained = {row.name for row in rows if row.variable in job.trained}
        for name, weight in self._model.named_parameters():
            weight.requires_grad_(name in trained)
        self._weights = [w for w in self._model.parameters() if w.requires_grad]
        self._optimizer = torch.optim.Adam(self._weights, eps=1e-7)

    def features_of(self, image: np.ndarray) -> dict[str, np.ndarray]:
        with self._torch.no_grad():
            given = self._torch.from_numpy(image[np.newaxis]).permute(0, 3, 1, 2)
            found = self._model.run({"image": given})
        return {name: found[name][0].numpy() for name in self._features}

    def step(self, batch: Mapping[str, np.ndarray], rate: float) -> float:
        torch = self._torch
        given = {name: torch.from_numpy(array) for name, array in batch.items()}
        read = {name: given[name] for name in self._features}
        if not read:
            read = {"image": given["image"].permute(0, 3, 1, 2)}
        found = self._model.run(read)
        outputs = self._outputs(found[topology.REGRESSORS], found[topology.SCORES])
        loss = self._loss_of(outputs, given, self._side)
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        return float(loss.detach())

    def save(self) -> None:
        self._torch.save(self._model.state_dict(), self._folder / STATE_DICT)


class TensorFlow:
    """The rebuilt Keras model, and GradientTape."""

    def __init__(self, job: Job, folder: pathlib.Path) -> None:
        import keras
        import tensorflow as tf

        from ondevice.rebuild import network
        from signatures import losses, stateless

        self._network, self._stateless = network, stateless
        self._folder, self._features = folder, job.features
        layers, self._trunk = job.layers, None
        weights = start(job, folder)
        self._named = {}
        if job.features:
            below, layers = trunks.split(layers, job.features)
            self._trunk = network.build(below, "trunk", job.features)
            self._take(self._trunk, weights)
        self._encode = tf.function(lambda image: self._trunk(image, training=False))
        self._model = network.build(layers, job.spec)
        self._take(self._model, weights)
        inputs = job.features or ("image",)
        trained = [self._named[name].value for name in job.trained]
        self._optimizer = keras.optimizers.Adam(epsilon=1e-7, global_clipnorm=1.0)
        side = specs.PRESETS[job.spec].input_size

        @tf.function
        def step(batch):
            read = {name: batch[name] for name in inputs}
            targets_of = {name: a for name, a in batch.items() if name not in inputs}
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(trained)
                outputs = self._model(read, training=True)
                loss = losses.detection(outputs, **targets_of, input_size=side)["loss"]
            gradients = tape.gradient(loss, trained)
            self._optimizer.apply(gradients, [self._named[n] for n in job.trained])
            return loss

        self._step = step

    def _take(self, model, weights: Mapping[str, np.ndarray]) -> None:
        """Assigns the part of the weights that is the model's."""
        named = self._stateless.named_variables(model)
        self._network.assign(model, {name: weights[name] for name in named})
        self._named |= named

    def features_of(self, image: np.ndarray) -> dict[str, np.ndarray]:
        found = self._encode(image[np.newaxis])
        return {name: np.asarray(f)[0] for name, f in zip(self._features, found)}

    def step(self, batch: Mapping[str, np.ndarray], rate: float) -> float:
        self._optimizer.learning_rate.assign(rate)
        return float(self._step(batch))

    def save(self) -> None:
        weights = {name: np.asarray(v) for name, v in self._named.items()}
        np.savez(self._folder / WEIGHTS, **weights)


class TFLite:
    """The trainable .tflite in the plain interpreter."""

    def __init__(self, job: Job, folder: pathlib.Path) -> None:
        from ondevice.device import session

        self._session = session.Session(
            folder / "start" / "model.tflite", threads=job.threads
        )
        self._folder = folder
        frozen = bool(job.features)
        self._take = self._session.train_features if frozen else self._session.train

    def features_of(self, image: np.ndarray) -> dict[str, np.ndarray]:
        return self._session.features_of(image)

    def step(self, batch: Mapping[str, np.ndarray], rate: float) -> float:
        return self._take(**batch, learning_rate=rate).loss

    def save(self) -> None:
        self._session.save(self._folder / CHECKPOINT)


ROUTES: dict[str, Callable[[Job, pathlib.Path], Route]] = {
    "pytorch": PyTorch,
    "tensorflow": TensorFlow,
    "tflite": TFLite,
}


def start(job: Job, folder: pathlib.Path) -> dict[str, np.ndarray]:
    """The weights that all begin with, in Keras' layout."""
    from ondevice.rebuild import state_dicts

    path = folder / "start.pth"
    state = state_dicts.load(path.read_bytes(), str(path))
    return state_dicts.to_weights(job.spec, job.layers, state)


def photographs(
    job: Job, folder: pathlib.Path, features_of: kept.Compute | None = None
) -> batches.Batches:
    """The batches of every epoch; the vendor's file draws the boxes, once."""
    drawn = dataclasses.replace(supplies.DRAWN, frame=FRAME)
    encode: batches.Encode = batches.as_image
    if job.features and features_of is not None:
        drawn = dataclasses.replace(drawn, variants=job.places)
        encode = kept.Kept(features_of, folder)
    spec = specs.PRESETS[job.spec]
    cache = image_cache.ImageCache(side=image_cache.OVERSAMPLING * spec.input_size)
    (dataset,) = labelled.load(
        [job.data],
        job.classes,
        lambda: opening.open_detector(job.vendor),
        cache,
        folder,
    )
    return batches.Batches(
        dataset.labelled().samples,
        targets.Matcher(anchors.PRESETS[spec.name], len(job.classes), spec.keypoints),
        spec.input_range,
        BATCH,
        drawn,
        job.seed,
        cache,
        threads=0,
        encode=encode,
    )


def train(route: str, folder: pathlib.Path) -> dict[str, Any]:
    """Trains to the end on one route.

    Returns:
      "steps", "losses" of all steps, "step_cpu_ms" and "features_cpu_ms", the medians
      of a step and of one picture's features, without the first ten; "cpu_seconds" of
      all steps and features, the pictures apart; "ready_seconds" by the clock, from the
      start of the process until it could take a step, the pictures apart; and
      "peak_memory" in bytes.
    """
    began = time.monotonic()
    job = Job.read(folder)
    trainer = ROUTES[route](job, folder)
    ready = time.monotonic() - began
    losses: list[float] = []
    steps, features = Watched(trainer.step), Watched(trainer.features_of)
    supply = photographs(job, folder, features)
    for epoch in range(job.epochs):
        for batch in supply.epoch(epoch):
            rate = schedule.rate(
                schedule.COSINE,
                job.rate,
                len(losses),
                supply.steps,
                job.epochs * supply.steps,
            )
            losses.append(steps(batch, rate))
        mean = np.mean(losses[-supply.steps :])
        print(f"{route}: epoch {epoch + 1}: loss {mean:.4f}", file=sys.stderr)
    trainer.save()
    return {
        "steps": len(losses),
        "losses": losses,
        "step_cpu_ms": steps.median_ms(),
        "features_cpu_ms": features.median_ms(),
        "cpu_seconds": round(sum(steps.cpu) + sum(features.cpu), 1),
        "ready_seconds": round(ready, 1),
        "peak_memory": usage.peak_memory(),
    }


class Watched:
    """A function, and what its calls took of the processor, in seconds."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.cpu: list[float] = []

    def __call__(self, *arguments: Any) -> Any:
        began = time.process_time()
        found = self._function(*arguments)
        self.cpu.append(time.process_time() - began)
        return found

    def median_ms(self) -> float | None:
        """The median, without the first calls, which prepare what others use."""
        settled = self.cpu[10:] or self.cpu
        return round(1e3 * float(np.median(settled)), 2) if settled else None


if __name__ == "__main__":
    print(json.dumps(train(sys.argv[1], pathlib.Path(sys.argv[2]))))
