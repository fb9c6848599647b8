"""Weights -> fresh files: the trainable .tflite and the frozen one beside it.

`build` makes them from the vendor's weights, `export --method=reconvert` from weights
that an interpreter learnt; both come through here.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from checkpoints import manifest as manifests
from checkpoints import atomic, patch, tflite_file
from ondevice import convert, converter
from ondevice import precision as precisions
from ondevice.detection import anchors
from ondevice.device import trial
from ondevice.rebuild import network, specs, topology, trunks
from signatures import contract, losses, optimizers, scores, stateless
from signatures import trainable
from signatures.gradients import apart

# A recipe's field is called `trainable`, too.
_Module = type[trainable.Trainable]


class RecipeError(ValueError):
    """A manifest that names what is not known here."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What to make, the weights apart.

    Attributes:
      spec: The detector.
      classes: Class names.
      trainable: `all`, `heads`, `classifier`, `blocks:N` or `bias`.
      settings: The optimizer.
      losses: Weights of the loss's terms.
      batch_size: Images in a training step.
      ops: `builtin` or `select`.
      source: {"name", "sha256"} of the vendor's file.
      heads: Form of the class heads, one of `manifest.HEADS`.
      target: The runtimes that the trainable file is to be fast in, one of
        `manifest.TARGETS`.
    """

    spec: specs.DetectorSpec
    classes: tuple[str, ...]
    trainable: str
    settings: optimizers.Settings
    losses: losses.LossWeights
    batch_size: int
    ops: str
    source: Mapping[str, str]
    heads: str = manifests.SCORE_AND_CLASSES
    target: str = manifests.ANY

    @functools.cached_property
    def layers(self) -> tuple[topology.Layer, ...]:
        """The network."""
        return topology.draw(self.spec, len(self.classes), self.heads)

    @functools.cached_property
    def trained(self) -> tuple[str, ...]:
        """Names of the weights that train."""
        return topology.trained_variables(self.layers, self.trainable)

    @functools.cached_property
    def rates(self) -> dict[str, float]:
        """How fast each weight that trains learns, in multiples of the rate."""
        return topology.rates(self.layers, self.trained)

    @functools.cached_property
    def _frozen(self) -> tuple[str, ...]:
        """Layers where a frozen trunk ends; none where everything trains."""
        return trunks.trunk_features(self.layers, self.trained)

    @functools.cached_property
    def class_weights(self) -> tuple[str, ...]:
        """Those of new class heads that train alone at first, on features of the trunk.

        None where the trunk is frozen, since all that trains there does so on features,
        and none with --ops=select, whose file cannot be told to forget its slots.
        """
        if self._frozen or self.ops == "select":
            return ()
        return topology.class_weights(self.layers)

    @functools.cached_property
    def features(self) -> tuple[str, ...]:
        """Layers where the trunk ends; none where nothing trains on its features."""
        alone = self.class_weights
        if not alone:
            return self._frozen
        return trunks.trunk_features(self.layers, alone)

    @functools.cached_property
    def network(self) -> stateless.Stateless:
        """The whole network as a function of its weights and the image."""
        return stateless.Stateless(network.build(self.layers, self.spec.name))

    @property
    def together(self) -> int:
        """How many images a step takes at a time.

        Where the whole network trains two share what products need of the weights, and
        threads wait for each other half as often. That pays where there are more
        weights than numbers in an image, and not in tflite-runtime.
        """
        shapes = topology.variables(self.layers).values()
        weights = sum(math.prod(shape) for shape in shapes)
        many = weights > max(math.prod(layer.shape) for layer in self.layers)
        slow = self.target == manifests.TFLITE_RUNTIME
        return apart.SAMPLES if many and not (self._frozen or slow) else 1

    @property
    def module_type(self) -> _Module:
        """The module that `ops` asks for."""
        if self.ops == "select":
            return trainable.SelectTrainable
        return trainable.Trainable

    def loss(self, outputs, **targets):
        """The detector's loss; see `signatures.losses.detection`."""
        return losses.detection(
            outputs,
            **targets,
            input_size=self.spec.input_size,
            weights=self.losses,
        )


@dataclasses.dataclass(frozen=True)
class Files:
    """What a recipe makes.

    Attributes:
      model: The trainable .tflite, manifest embedded.
      inference: The frozen .tflite, manifest embedded.
      manifest: Of the trainable one.
      constants: Where each weight lies in the frozen one.
    """

    model: bytes
    inference: bytes
    manifest: manifests.Manifest
    constants: tuple[manifests.ConstantSpec, ...]

    def write(
        self,
        directory: pathlib.Path,
        proven: bool,
        pages: Mapping[str, bytes] | None = None,
    ) -> None:
        """Writes model.tflite, inference.tflite and manifest.json.

        Args:
          directory: Made where it is not there.
          proven: Where they are not, those of an earlier build, which would pass for
            them, are removed instead.
          pages: Name -> what to write beside them, in any case.

        Raises:
          OSError: If a file cannot be written; then none is.
        """
        directory.mkdir(parents=True, exist_ok=True)
        contents = {
            "model.tflite": self.model,
            "inference.tflite": self.inference,
            "manifest.json": manifests.to_json(self.manifest).encode(),
        }
        if not proven:
            for name in contents:
                (directory / name).unlink(missing_ok=True)
            contents = {}
        contents |= pages or {}
        atomic.write_together({directory / n: data for n, data in contents.items()})
        if proven:
            trial.record(self.model, self.inference)


def recipe_of(manifest: manifests.Manifest) -> Recipe:
    """The recipe that a file was made by.

    Raises:
      RecipeError: If the manifest names a spec, an optimizer or a loss that is unknown.
    """
    if manifest.spec not in specs.PRESETS:
        raise RecipeError(
            f"The manifest's spec must be one of {', '.join(specs.PRESETS)}. "
            f"Received: {manifest.spec!r}."
        )
    try:
        settings = optimizers.Settings(**manifest.optimizer)
        # Files of before there was a smoothing had none.
        weights = losses.LossWeights(**{"smoothing": 0.0, **manifest.losses})
    except TypeError as error:
        raise RecipeError(
            "The manifest's optimizer and losses must have the known hyper-parameters. "
            f"Received: {error}."
        ) from error
    return Recipe(
        spec=specs.PRESETS[manifest.spec],
        classes=manifest.classes,
        trainable=manifest.trainable,
        settings=settings,
        losses=weights,
        batch_size=manifest.batch_size,
        ops=manifest.ops,
        source=manifest.source,
        heads=manifest.heads,
        target=manifest.target,
    )


def make(
    recipe: Recipe,
    weights: Mapping[str, np.ndarray],
    state: Mapping[str, np.ndarray] | None = None,
) -> Files:
    """Converts both files.

    Args:
      recipe: What to make.
      weights: Every weight of the network, `<layer>/<attribute>` -> float32 in Keras'
        layout.
      state: Variables of the file (weights, slots, step) that replace the initial ones;
        what an interpreter saved.

    Returns:
      The files, fresh: the weights are their constants.

    Raises:
      convert.ConversionError: If the converter refuses, or loses a variable.
    """
    state = state or {}
    weights = {name: state.get(name, value) for name, value in weights.items()}
    model, manifest = make_trainable(recipe, weights, state)
    frozen, constants = make_inference(recipe, manifest, weights)
    return Files(model, frozen, manifest, constants)


@converter.uncollected()
def make_trainable(
    recipe: Recipe,
    weights: Mapping[str, np.ndarray],
    state: Mapping[str, np.ndarray],
) -> tuple[bytes, manifests.Manifest]:
    """Converts the trainable file; arguments and errors as of `make`.

    Returns:
      The file, its manifest embedded, and the manifest.
    """
    module = _module(recipe, weights)
    module.load(state)
    sizes = _dimensions(recipe)
    signatures = contract.signatures(sizes, module.specs, recipe.ops)
    made = convert.trainable(
        module, module.functions(signatures), signatures, recipe.ops
    )
    variables = convert.with_buffers(made.file, module.specs)
    frozen = {n: np.asarray(w).tobytes() for n, w in module.frozen.items()}
    manifest = manifests.Manifest(
        kind="trainable",
        source=dict(recipe.source),
        spec=recipe.spec.name,
        classes=recipe.classes,
        input_size=recipe.spec.input_size,
        input_range=recipe.spec.input_range,
        anchors=anchors.PRESETS[recipe.spec.name].to_dict(),
        keypoints=recipe.spec.keypoints,
        trainable=recipe.trainable,
        optimizer=dataclasses.asdict(recipe.settings),
        losses=dataclasses.asdict(recipe.losses),
        batch_size=recipe.batch_size,
        ops=recipe.ops,
        signatures=signatures,
        variables=variables,
        constants=(),
        fingerprint=manifests.fingerprint(
            recipe.spec.name, recipe.classes, variables, frozen
        ),
        census=made.file.census(),
        versions=convert.versions(),
        heads=recipe.heads,
        target=recipe.target,
    )
    return made.with_manifest(manifest), manifest


@converter.uncollected()
def make_inference(
    recipe: Recipe,
    manifest: manifests.Manifest,
    weights: Mapping[str, np.ndarray],
    precision: precisions.Precision = precisions.FLOAT32,
) -> tuple[bytes, tuple[manifests.ConstantSpec, ...]]:
    """Converts the frozen file, with the vendor's input and outputs.

    Args:
      recipe: What to make.
      manifest: Of the trainable file.
      weights: Every weight of the network.
      precision: Of weights and activations.

    Returns:
      The file, its manifest embedded, and where each weight lies in it: nowhere unless
      in float32, so that it can be patched.

    Raises:
      convert.ConversionError: If the converter refuses, or loses a weight.
    """
    spec = recipe.spec
    data, constants = convert.inference(
        lambda values, image: _predict(recipe.network(values, image)),
        [tf.TensorSpec((1, spec.input_size, spec.input_size, 3), name=spec.input_name)],
        weights,
        spec.outputs,
        precision,
    )
    described = dataclasses.replace(
        manifest,
        kind="inference",
        signatures=(),
        variables=(),
        constants=constants,
        census=tflite_file.parse(data).census(),
        versions=convert.versions(),
    )
    data = convert.embed(data, described)
    if constants:  # Probes lie where the weights belong.
        data = patch.patch_inference(data, described, weights)
    return data, constants


def _module(
    recipe: Recipe, weights: Mapping[str, np.ndarray]
) -> trainable.Trainable:
    """The tf.Module, in two parts where something trains on the trunk's features."""
    trunk, above = None, None
    if recipe.features:
        below, layers = trunks.split(recipe.layers, recipe.features)
        trunk = stateless.Stateless(network.build(below, "trunk", recipe.features))
        above = stateless.Stateless(network.build(layers, recipe.spec.name))
    return recipe.module_type(
        above or recipe.network,
        weights,
        recipe.trained,
        recipe.loss,
        _predict,
        recipe.settings,
        trunk,
        recipe.rates,
        recipe.class_weights,
        recipe.target,
        recipe.together,
    )


def _predict(outputs):
    """What `infer` gives: regressors and the classes' logits."""
    logits = scores.classificators(outputs["scores"], outputs.get("class_logits"))
    return outputs["regressors"], logits


def _dimensions(recipe: Recipe) -> contract.Dimensions:
    shape_of = {layer.name: layer.shape for layer in recipe.layers}
    return contract.Dimensions(
        batch=recipe.batch_size,
        size=recipe.spec.input_size,
        anchors=recipe.spec.anchors,
        coordinates=recipe.spec.coordinates,
        classes=len(recipe.classes),
        features=tuple(shape_of[name] for name in recipe.features),
        frozen=not recipe.class_weights,
    )
