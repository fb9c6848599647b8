"""Measures three routes to one's own classes, and the tools that others go by.

    python -m docs.routes --data=TRAIN --unseen=TEST --environments=ENVIRONMENTS \\
        --output_dir=out/routes
    python -m docs.routes --parts=train,speed,page --data=TRAIN --unseen=TEST \\
        --trainable=all --epochs=8 --rate=1e-4              # another problem, beside it
    python -m docs.routes --parts=speed,page                # times of files that exist

Run from the repository's root. The parts, each of which leaves PART.json in the output
folder, from which `page` makes the tables and the picture of docs/routes.md:

train    the same problem in PyTorch, in TensorFlow and in the .tflite itself, and what
         came of each as a frozen .tflite, evaluated on unseen photographs; what is said
         of other choices of --trainable stays
convert  PyTorch -> .tflite by the tools of docs/routes/converting.py, each in a virtual
         environment of that folder; a tool that has run is not run again
speed    outputs, and time beside the vendor's file, of all files that came out; on the
         processor, since other programs wait there, too; nothing else should run
page     the tables and the picture

Needs the extras build, report and torch. The last line of stdout is a JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import numpy as np

from checkpoints import tflite_file
from docs.routes import converting, page, speed, training

TRAIN = "train-"  # of the folders, followed by what trains
PARTS = ("train", "convert", "speed", "page")

# Name -> (source, spec); ../shared has the second where a clone of this project has it.
DETECTORS = {"palm_full": "palm_full", "face_front": "face_detection_front.tflite"}

_DEVICE = ("absl-py", "numpy", "pillow", "safetensors", "tflite", "tqdm")
_INTERPRETER = "ai-edge-litert"
# What a route needs to train, and what to get from there to the frozen file.
PACKAGES = {
    "pytorch": ((*_DEVICE, _INTERPRETER, "torch"), ("tensorflow",)),
    "tensorflow": ((*_DEVICE, _INTERPRETER, "tensorflow"), ()),
    "tflite": ((*_DEVICE, _INTERPRETER), ()),
}


def command(name: str, *arguments: object) -> dict[str, Any]:
    """Runs a command of ours, its log beside ours; returns what it prints.

    Raises:
      RuntimeError: If it did not end well.
    """
    call = [sys.executable, "-m", f"ondevice.{name}", *map(str, arguments)]
    done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(call)}: exit status {done.returncode}.")
    return json.loads(done.stdout.splitlines()[-1])


def train(options: argparse.Namespace, folder: pathlib.Path) -> dict[str, Any]:
    """Trains on each route, brings what was learnt into frozen files, evaluates."""
    from docs import finetune_in_pytorch
    from ondevice import torch_models, vendor
    from ondevice.rebuild import state_dicts

    folder.mkdir(parents=True, exist_ok=True)
    ported = vendor.read("palm_full")
    (folder / "vendor.tflite").write_bytes(ported.source.data)
    job = training.Job(
        spec=ported.found.spec.name,
        classes=tuple(options.classes.split(",")),
        trainable=options.trainable,
        data=options.data,
        vendor=str(folder / "vendor.tflite"),
        epochs=options.epochs,
        places=options.places,
        rate=options.rate,
        threads=options.threads,
    )
    job.write(folder)
    model = torch_models.load("palm_full")
    finetune_in_pytorch.change_class_layer(model, len(job.classes))
    (folder / "start.pth").write_bytes(state_dicts.dump(model.state_dict()))
    _bring_back(folder / "start.pth", folder / "start", job)
    training.photographs(job, folder)  # draws the boxes, for all
    routes = {
        route: _in_a_process(route, folder, job.threads) for route in training.ROUTES
    }
    _bring_back(folder / training.STATE_DICT, folder / "pytorch", job)
    _convert(job, folder)
    command(
        "export",
        f"--model={folder / 'start' / 'model.tflite'}",
        f"--checkpoint={folder / training.CHECKPOINT}",
        "--kind=inference",
        f"--output={_fresh(folder / 'tflite' / 'inference.tflite')}",
    )
    files = {route: folder / route / "inference.tflite" for route in routes}
    evaluated = command(
        "evaluate",
        *[f"--model={path}" for path in files.values()],
        f"--data={options.unseen}",
        f"--labels_from={job.vendor}",
        "--frame=0.55",
        f"--threads={job.threads}",
    )
    for (route, path), row in zip(files.items(), evaluated["models"], strict=True):
        routes[route] |= {n: row[n] for n in ("class_accuracy", "recall", "mean_iou")}
        routes[route] |= converting.census(tflite_file.read(path), ported.file)
    return {"job": dataclasses.asdict(job), "images": evaluated["images"], **routes}


def _bring_back(
    state_dict: pathlib.Path, output_dir: pathlib.Path, job: training.Job
) -> None:
    command(
        "pytorch",
        "import",
        "--source=palm_full",
        f"--state_dict={state_dict}",
        f"--classes={','.join(job.classes)}",
        f"--trainable={job.trainable}",
        f"--batch_size={training.BATCH}",
        f"--output_dir={output_dir}",
    )


def _convert(job: training.Job, folder: pathlib.Path) -> None:
    """TensorFlow's weights -> a frozen file, by the converter."""
    from checkpoints import manifest as manifests
    from ondevice import fresh

    manifest = manifests.of_file(tflite_file.read(folder / "start" / "model.tflite"))
    assert manifest is not None  # It was embedded just now.
    with np.load(folder / training.WEIGHTS, allow_pickle=False) as stored:
        weights = dict(stored)
    data, _ = fresh.make_inference(fresh.recipe_of(manifest), manifest, weights)
    _fresh(folder / "tensorflow" / "inference.tflite").write_bytes(data)


def _fresh(path: pathlib.Path) -> pathlib.Path:
    """The path of a file that is to be written anew."""
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    return path


def _in_a_process(route: str, folder: pathlib.Path, threads: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "docs.routes.training", route, folder],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "TF_NUM_INTRAOP_THREADS": str(threads),
            "TF_NUM_INTEROP_THREADS": "1",
            "TF_CPP_MIN_LOG_LEVEL": "2",
        },
    )
    return json.loads(done.stdout.splitlines()[-1])


def convert(options: argparse.Namespace, folder: pathlib.Path) -> dict[str, Any]:
    """Runs each tool on each detector, ours among them."""
    from ondevice import vendor
    from ondevice.measuring import packages

    environments = pathlib.Path(options.environments).absolute()
    found: dict[str, Any] = {"environments": {}, "detectors": {}}
    found["routes"] = {
        route: {
            "to_train": packages.megabytes(needed),
            "in_all": packages.megabytes([*needed, *further]),
        }
        for route, (needed, further) in PACKAGES.items()
    }
    for tool in converting.TOOLS:
        python = environments / tool.environment / "bin" / "python"
        if tool.environment not in found["environments"] and python.exists():
            found["environments"][tool.environment] = converting.describe(python)
    for name, source in DETECTORS.items():
        if source.endswith(".tflite"):
            source = str(pathlib.Path(options.models) / source)
        ported = vendor.read(source)
        place = (folder / name).absolute()
        place.mkdir(parents=True, exist_ok=True)
        (place / speed.VENDOR).write_bytes(ported.source.data)
        spec = ported.found.spec.name
        rows = {"ondevice": _ours(source, place)}
        for tool in converting.TOOLS:
            rows[tool.name] = converting.convert(tool, environments, spec, place)
        for key, row in rows.items():
            if not row["error"]:
                made = tflite_file.read(place / f"{key}.tflite")
                row |= converting.census(made, ported.file)
        vendors = converting.census(ported.file, ported.file)
        found["detectors"][name] = {"spec": spec, "vendor": vendors, "tools": rows}
    return found


def _ours(source: str, place: pathlib.Path) -> dict[str, Any]:
    """The vendor's file -> module.pth -> ondevice.tflite, unless that is done."""
    kept = place / "ondevice.json"
    if not kept.exists():
        state_dict = place / "module.pth"
        command("pytorch", "export", f"--source={source}", f"--output={state_dict}")
        found = command(
            "pytorch",
            "import",
            f"--source={source}",
            f"--state_dict={state_dict}",
            f"--output_dir={place / 'import'}",
        )
        shutil.copy(place / "import" / "inference.tflite", place / "ondevice.tflite")
        kept.write_text(json.dumps({"error": None, "seconds": found["seconds"]}))
    return json.loads(kept.read_text())


def measure(options: argparse.Namespace, folder: pathlib.Path) -> dict[str, Any]:
    """Runs all files of a detector in turn, in each runtime."""
    import torch

    from ondevice import torch_models
    from ondevice.verification import inputs, runners

    found: dict[str, Any] = {}
    for name in DETECTORS:
        place = folder / name
        trained = _trained(folder) if name == "palm_full" else {}
        for key, path in trained.items():
            shutil.copy(path, place / key)
        model = torch_models.load(str(place / speed.VENDOR), place / "module.pth")
        probes = inputs.probe_images(model.spec, inputs.photographs(None))
        images = np.concatenate([probes[inputs.NOISE], probes[inputs.PHOTOGRAPHS]])
        with torch.no_grad():
            outputs = model(torch.from_numpy(images).permute(0, 3, 1, 2))
        arrays = {n: value.numpy() for n, value in outputs._asdict().items()}
        np.savez(place / "probes.npz", images=images, **arrays)
        settings = {
            "rounds": options.rounds,
            "openings": options.openings,
            "unlike": list(trained),
        }
        (place / "rounds.json").write_text(json.dumps(settings))
        found[name] = {}
        for runtime in ("ai_edge_litert", "tflite_runtime"):
            failure = runners.alone("docs.routes.speed", place, runtime)
            if failure:
                raise RuntimeError(f"{name} in {runtime}: {failure}")
            found[name][runtime] = json.loads((place / f"{runtime}.json").read_text())
    return found


def _trained(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The frozen files of the routes, as far as there are any, by their names."""
    return {
        page.trained(place.name.removeprefix(TRAIN), route): path
        for place in folder.glob(f"{TRAIN}*")
        for route in training.ROUTES
        if (path := place / route / "inference.tflite").exists()
    }


def _before(path: pathlib.Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--data", help="photographs to train on, in folders by class")
    parser.add_argument("--unseen", help="the same, of other people")
    parser.add_argument("--classes", default="0,1,2,3,4,5,6")
    parser.add_argument("--trainable", default="classifier", help="as ondevice.build")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--places", type=int, default=4, help="of each photograph")
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--environments", help="folder of virtual environments")
    parser.add_argument("--models", default="../shared/models", help="of the face file")
    parser.add_argument("--rounds", type=int, default=32)
    parser.add_argument("--openings", type=int, default=3)
    parser.add_argument("--output_dir", default="out/routes")
    options = parser.parse_args()
    parts = options.parts.split(",")
    wrong = [part for part in parts if part not in PARTS]
    missing = [
        f"--{flag}"
        for part, flag in (
            ("train", "data"),
            ("train", "unseen"),
            ("convert", "environments"),
        )
        if part in parts and getattr(options, flag) is None
    ]
    if wrong or missing:
        parser.error(f"unknown parts {wrong}, missing flags {missing}")
    output = pathlib.Path(options.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    work = {
        "train": lambda: {
            **_before(output / "train.json"),
            options.trainable: train(options, output / (TRAIN + options.trainable)),
        },
        "convert": lambda: convert(options, output),
        "speed": lambda: measure(options, output),
    }
    for part in parts:
        if part == "page":
            continue
        found = work[part]()
        (output / f"{part}.json").write_text(json.dumps(found, indent=1))
    if "page" in parts:
        page.write(output, pathlib.Path("docs/routes.md"))
    print(json.dumps({"output_dir": str(output), "parts": parts}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
