"""The signatures of a trainable file as data: names, shapes, dtypes (no tensorflow).

Everything else reads them here: the `tf.Module` takes its input specs from this file,
the session checks arrays against it, the manifest carries it.
"""

from __future__ import annotations

import dataclasses

from checkpoints import manifest

TRAIN, INFER, SAVE, RESTORE = "train", "infer", "save", "restore"
EVALUATE, FEATURES = "evaluate", "features"
TRAIN_FEATURES, TRAIN_CLASSES = "train_features", "train_classes"

# Those that move weights, and those of them that take features for an image.
ON_FEATURES = (TRAIN_FEATURES, TRAIN_CLASSES)
STEPS = (TRAIN, *ON_FEATURES)

# Version of the tensors that `save` gives and `restore` takes.
FORMAT_VERSION = 1

LOSSES = ("loss", "class_loss", "box_loss")
GRADIENT_NORM = "gradient_norm"
TARGETS = ("class_targets", "box_targets", "anchor_weights", "sample_weights")


@dataclasses.dataclass(frozen=True)
class Dimensions:
    """Sizes that the signatures of a detector depend on.

    Attributes:
      batch: B, images in a training step.
      size: S, side of the input image in pixels.
      anchors: N.
      coordinates: C, box and keypoints: 4 + 2 * keypoints.
      classes: K.
      features: Shape of each trunk feature for one image, without the batch; () where
        nothing is to train on them.
      frozen: Whether the trunk is; else class heads alone are to train on features.
    """

    batch: int
    size: int
    anchors: int
    coordinates: int
    classes: int
    features: tuple[tuple[int, ...], ...] = ()
    frozen: bool = True


def target_specs(sizes: Dimensions) -> tuple[manifest.TensorSpec, ...]:
    """What every step and `evaluate` take beside the image or its features.

    class_targets is 1 where an anchor holds class k; box_targets are in the regressors'
    unit (pixels of the input, relative to the anchor); anchor_weights weight the class
    term of an anchor, 0 ignores it; sample_weights weight an image, 0 is padding.
    """
    spec = manifest.TensorSpec
    batch, anchors = sizes.batch, sizes.anchors
    return (
        spec("class_targets", (batch, anchors, sizes.classes)),
        spec("box_targets", (batch, anchors, sizes.coordinates)),
        spec("anchor_weights", (batch, anchors)),
        spec("sample_weights", (batch,)),
    )


def feature_specs(sizes: Dimensions, batch: int) -> tuple[manifest.TensorSpec, ...]:
    """The trunk's features, `feature_0` and on, in the network's order."""
    return tuple(
        manifest.TensorSpec(f"feature_{i}", (batch, *shape))
        for i, shape in enumerate(sizes.features)
    )


def signatures(
    sizes: Dimensions,
    variables: tuple[manifest.VariableSpec, ...],
    ops: str = "builtin",
) -> tuple[manifest.SignatureSpec, ...]:
    """The contract of one trainable file, in alphabetical order of the keys.

    Where the trunk is frozen `train_features` is `train`, on features. Where it trains
    and class heads are new, `train_classes` trains these alone, on the features of the
    trunk as it is: at first they have everything to learn, and it nothing from them.

    Under ops=select save and restore are the overview's: both take the path of a
    TensorFlow checkpoint, and save gives it back.
    """
    spec = manifest.TensorSpec
    image = spec("image", (sizes.batch, sizes.size, sizes.size, 3))
    one_image = spec("image", (1, sizes.size, sizes.size, 3))
    rate = spec("learning_rate", ())
    targets = target_specs(sizes)
    losses = tuple(spec(name, ()) for name in LOSSES)
    trained = (*losses, spec(GRADIENT_NORM, ()))
    table = [
        manifest.SignatureSpec(TRAIN, (image, *targets, rate), trained),
        manifest.SignatureSpec(
            INFER,
            (one_image,),
            (
                spec("regressors", (1, sizes.anchors, sizes.coordinates)),
                spec("classificators", (1, sizes.anchors, sizes.classes)),
            ),
        ),
        *_saving(variables, ops),
        manifest.SignatureSpec(EVALUATE, (image, *targets), losses),
    ]
    if sizes.features:
        table.append(
            manifest.SignatureSpec(FEATURES, (one_image,), feature_specs(sizes, 1))
        )
        table.append(
            manifest.SignatureSpec(
                TRAIN_FEATURES if sizes.frozen else TRAIN_CLASSES,
                (*feature_specs(sizes, sizes.batch), *targets, rate),
                trained,
            )
        )
    return tuple(sorted(table, key=lambda signature: signature.key))


def of_model(
    inputs: tuple[manifest.TensorSpec, ...],
    targets: tuple[manifest.TensorSpec, ...],
    outputs: tuple[manifest.TensorSpec, ...],
    variables: tuple[manifest.VariableSpec, ...],
    batch: int,
    infer_batch: int,
    seeded: bool,
    ops: str = "builtin",
) -> tuple[manifest.SignatureSpec, ...]:
    """The contract of a trainable file that is no detector, keys in alphabetical order.

    Args:
      inputs: For one sample.
      targets: What `train` and `evaluate` take beside them, for a batch.
      outputs: For one sample.
      variables: Every variable.
      batch: B, samples in a training step.
      infer_batch: Samples in `infer`.
      seeded: Whether a step draws random numbers, and takes a seed for them.
      ops: As in `signatures`.
    """
    spec = manifest.TensorSpec

    def batched(specs, size):
        return tuple(spec(s.name, (size, *s.shape), s.dtype) for s in specs)

    loss = spec("loss", ())
    given = (*batched(inputs, batch), *targets)
    seeds = (spec("seed", (), "int32"),) if seeded else ()
    table = [
        manifest.SignatureSpec(
            TRAIN,
            (*given, spec("learning_rate", ()), *seeds),
            (loss, spec(GRADIENT_NORM, ())),
        ),
        manifest.SignatureSpec(
            INFER, batched(inputs, infer_batch), batched(outputs, infer_batch)
        ),
        *_saving(variables, ops),
        manifest.SignatureSpec(EVALUATE, given, (loss,)),
    ]
    return tuple(sorted(table, key=lambda signature: signature.key))


def _saving(
    variables: tuple[manifest.VariableSpec, ...], ops: str
) -> tuple[manifest.SignatureSpec, ...]:
    """Save and restore."""
    spec = manifest.TensorSpec
    version = spec("format_version", (), "int32")
    state = (version, *(spec(v.name, v.shape, v.dtype) for v in variables))
    saved_from = (version,)
    if ops == "select":
        state = saved_from = (spec("checkpoint_path", (), "string"),)
    return (
        manifest.SignatureSpec(SAVE, saved_from, state),
        manifest.SignatureSpec(RESTORE, state, (spec("restored", (), "int32"),)),
    )
