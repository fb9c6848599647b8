"""What times and memory may be at most, as ratios: what is promised, in figures."""

from __future__ import annotations

from ondevice.measuring import timing

# Contenders that ours are held against.
FLEX = "Flex build"
KERAS = "Keras train_on_batch"
ARITHMETIC = "arithmetic"

_LITERT, _TFLITE = "ai_edge_litert", "tflite_runtime"

# A full training step, (peer, runtime, threads) -> ours over the peer's.
_STEPS = {
    (FLEX, _LITERT, 1): 0.6,
    (FLEX, _LITERT, 2): 0.5,
    (FLEX, _TFLITE, 1): 1.5,
    (FLEX, _TFLITE, 2): 1.5,
    (KERAS, _LITERT, 1): 1.0,
    (KERAS, _LITERT, 2): 1.0,
    (ARITHMETIC, _LITERT, 1): 3.0,
    (ARITHMETIC, _LITERT, 2): 3.0,
}

# Seconds that a step of heads on cached features may take for a sample.
ON_FEATURES = 1e-3

# Peak memory of training, over the Flex build's; each sample more, over the activations
# that the gradients need. A runtime that comes with all of TensorFlow has no bound.
MEMORY, MEMORY_OF_SAMPLE = 0.25, 1.0
LEAN = (_LITERT, _TFLITE)

# Over the vendor's inference.
FEATURES, INFER_FROZEN, INFER, INFERENCE = 1.1, 1.1, 2.0, 1.05

# Seconds, for palm_full with Adam, inside the process, written and flushed.
STORAGE = {"save": 20e-3, "restore": 20e-3, "patch": 50e-3}

# Seconds of `python -m ondevice.train --help`, and of building without the checks.
HELP, BUILD = 0.5, 30.0


def step(peer: str, runtime: str, threads: int, trainable: str) -> float | None:
    """What a training step may take, over a peer's; None where nothing is promised."""
    return _STEPS.get((peer, runtime, threads)) if trainable == "all" else None


def judged(threads: int) -> str:
    """By which time: on one thread the processor's, which others disturb less."""
    return timing.CPU if threads == 1 else timing.WALL
