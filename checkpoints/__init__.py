"""Weights on disk: checkpoints, the .tflite reader, the manifest, patching."""
