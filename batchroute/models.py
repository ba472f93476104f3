"""Where models are: a directory, a hub id, or one of the embedded models in the cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from pathlib import Path

from batchroute.errors import InputError

EMBEDDED_PREFIX = "embedded:"
_HEAD_AND_TAIL = 1 << 20


def cache_dir() -> Path:
    """`${XDG_CACHE_HOME:-~/.cache}/batchroute`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).expanduser() / "batchroute"


def embedded_dir(name: str) -> Path:
    return cache_dir() / "models" / name


def resolve(name: str) -> str:
    """What to hand to `from_pretrained`: an absolute directory, or a hub id as it stands.

    Raises:
        InputError: an embedded model that was not fetched, or a path that is no model directory.
    """
    if name.startswith(EMBEDDED_PREFIX):
        path = embedded_dir(name.removeprefix(EMBEDDED_PREFIX))
        if not path.is_dir():
            raise InputError(f"the embedded model '{name}' is not in {path.parent}: run 'batchroute models fetch demo'")
        return str(path)
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"'{name}' is not a model directory: it has no config.json")
        return str(path.resolve())
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise InputError(f"the model directory '{name}' does not exist")
    return name


def identity(name: str, ignore: Collection[str] = ()) -> str:
    """A short digest that changes when a local model's files change; a hub id is its own identity.

    Of large files only the size and the first and last megabyte are read: new weights of the same shape differ there
    too, and a 140 GB model is identified in a moment. Paths and times are left out: a copy has the same identity.

    Args:
        ignore: names of files that do not matter.

    Raises:
        InputError: as `resolve`.
    """
    path = Path(resolve(name))
    if not path.is_dir():
        return name
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if not file.is_file() or file.name.startswith(".") or file.name in ignore:
            continue
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_HEAD_AND_TAIL))
            if size > _HEAD_AND_TAIL:
                stream.seek(-_HEAD_AND_TAIL, os.SEEK_END)
                digest.update(stream.read())
    return f"sha256:{digest.hexdigest()[:16]}"


def check(name: str, router: bool = False) -> None:
    """Check that a model is there and of a kind that can be used, without loading its weights.

    Raises:
        InputError: it is not there, or, for a router, no classifier with one or two labels.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(resolve(name))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"cannot load the model '{name}': {first_line(error)}") from error
    if not router:
        return
    if not any(kind.endswith("ForSequenceClassification") for kind in config.architectures or ()):
        raise InputError(
            f"the router '{name}' is no trained classifier; make one with 'batchroute train --base {name}'"
        )
    if config.num_labels not in (1, 2):
        raise InputError(f"the router '{name}' has {config.num_labels} labels: it must be a classifier with one or two")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, short enough for a log line or a table cell."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
