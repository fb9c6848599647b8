"""Fuzzing that goes where the coverage grows, by atheris; an extra that is optional.

Examples:
  pip install atheris
  python -m tests.soak.coverage_guided manifest corpus -max_total_time=60
  python -m tests.soak.coverage_guided flatbuffer corpus -runs=100000 -max_len=4096
  python -m tests.soak.coverage_guided checkpoint corpus -runs=100000

The first argument is the reader, the second the folder of inputs that is begun with and
added to, the rest is libFuzzer's. Whole files of each kind are put there first. It ends
at the first input that breaks a promise (see `limits`), which is kept in the current
folder. Only pure Python is instrumented.
"""

from __future__ import annotations

import pathlib
import sys

try:
    import atheris
except ImportError:  # What runs it, says how it is had.
    atheris = None

_READERS = ("flatbuffer", "checkpoint", "manifest", "tensorflow")


def main(arguments: list[str]) -> None:
    """Fuzzes one reader for ever, or as long as libFuzzer's flags say."""
    if atheris is None:
        sys.exit("error: atheris must be installed. Received: an environment without.")
    if len(arguments) < 3 or arguments[1] not in _READERS:
        sys.exit(f"error: There must be one of {_READERS} and a folder. See the top.")
    name, folder = arguments[1], pathlib.Path(arguments[2])
    with atheris.instrument_imports(include=["checkpoints"]):
        from checkpoints import manifest, soundness, store, tensorflow_v1, tflite_file

    from tests import checkpoint_data, tflite_bytes
    from tests.soak import limits

    folder.mkdir(parents=True, exist_ok=True)
    kept = folder.parent / f"{name}.input"

    def flatbuffer(data: bytes) -> None:
        file = tflite_file.parse(data)
        soundness.faults(file)
        for graph in file.subgraphs:
            for tensor in graph.tensors[:64]:
                try:
                    file.constant(graph.index, tensor.index)
                except tflite_file.TfliteError:
                    pass
        manifest.of_file(file)

    def checkpoint(data: bytes) -> None:
        kept.write_bytes(data)
        store.load_file(kept)

    readers = {
        "flatbuffer": flatbuffer,
        "checkpoint": checkpoint,
        "manifest": manifest.from_json,
        "tensorflow": tensorflow_v1.parse,
    }

    def once(data: bytes) -> None:
        try:
            readers[name](data)
        except ValueError as error:
            if not limits.is_own(error):
                raise

    store.save_file(kept, checkpoint_data.tensors(), checkpoint_data.HEADER)
    described = manifest.to_json(checkpoint_data.MANIFEST).encode()
    operators = {
        "operators": ((0, (0,), (0,)),) * 3,
        "codes": ((142, None),),
        "signature": True,
    }
    tensorflow_v1.save_file(folder / "seed", checkpoint_data.tensors())
    seeds = {
        "checkpoint": [kept.read_bytes()],
        "manifest": [described],
        "tensorflow": [(folder / "seed").read_bytes()],
        "flatbuffer": [
            tflite_bytes.model_bytes(**operators),
            tflite_bytes.model_bytes(tflite_bytes.SPARSE, **operators),
            tflite_bytes.model_bytes(
                buffers=(b"", bytes(24), described),
                metadata=((manifest.METADATA_NAME, 2),),
                **operators,
            ),
        ],
    }
    for number, seed in enumerate(seeds[name]):
        (folder / f"seed{number}").write_bytes(seed)
    (folder / "seed").unlink()
    atheris.Setup([arguments[0], str(folder), *arguments[3:]], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
