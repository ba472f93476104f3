"""Models by name: a directory, a hub id or an embedded model in the cache; their digests, and loading them safely."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import math
import os
import pickle
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from batchroute.errors import InputError, first_line
from batchroute.models.plain import PlainConfiguration, plain_configuration

EMBEDDED_PREFIX = "embedded:"
_ENDS, _BLOCKS, _BLOCK = 1 << 20, 128, 64 << 10
_MODEL = "config.json"
_ADAPTER = "adapter_config.json"
HEADS_FILE = "heads.safetensors"
"""In the folder of a router that is an encoder with heads."""
# Weights as `save_pretrained` names them: as safetensors, and as a pickle, in one file or in many.
_WEIGHTS = (("model*.safetensors", "pytorch_model*.bin"), ("adapter_model*.safetensors", "adapter_model*.bin"))


@dataclass(frozen=True)
class Keys:
    """How the user allows pickled weights, or code that comes with a model; None where that cannot be allowed."""

    pickle: str | None = None
    code: str | None = None


MODEL_KEYS = Keys("set allow_pickle: true for this model", "set trust_remote_code: true for this model")
ROUTER_KEYS = Keys("set router.allow_pickle: true")
BASE_KEYS = Keys("pass --allow-pickle")
NO_KEYS = Keys()


def cache_dir() -> Path:
    """`${XDG_CACHE_HOME:-~/.cache}/batchroute`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).expanduser() / "batchroute"


def embedded_dir(name: str) -> Path:
    return cache_dir() / "models" / name


def resolve(name: str, adapter: bool = False) -> str:
    """The argument for `from_pretrained`: an absolute directory, or a hub id unchanged.

    Args:
        adapter: the name is a LoRA adapter, not a model.

    Raises:
        InputError: an embedded model that was not fetched, or a path that is no model (or adapter) directory.
    """
    what, marker = ("adapter", _ADAPTER) if adapter else ("model", _MODEL)
    path = _directory(name, what)
    if path is None:
        return name
    if not name.startswith(EMBEDDED_PREFIX) and not (path / marker).is_file():
        article = "an" if adapter else "a"
        raise InputError(f"'{name}' is not {article} {what} directory: it has no {marker}")
    return str(path)


def _directory(name: str, what: str) -> Path | None:
    """The absolute directory behind `name`, or None for a hub id."""
    if name.startswith(EMBEDDED_PREFIX):
        short = name.removeprefix(EMBEDDED_PREFIX)
        path = embedded_dir(short)
        if not path.is_dir():
            remedy = f"run 'batchroute models fetch {short}'"
            raise InputError(f"the embedded model '{name}' is not in {path.parent}: {remedy}")
        return path
    path = Path(name).expanduser()
    if path.is_dir():
        return path.resolve()
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise InputError(f"the {what} directory '{name}' does not exist")
    return None


def identity(name: str, ignore: Collection[str] = (), version: Literal[1, 2] = 2) -> str:
    """A short digest of the files of a local model or adapter; a hub id is its own identity.

    Files of up to 2 MiB are read whole. Of a larger file the digest covers the size, the first and the last MiB, and
    128 blocks of 64 KiB at equal distances between them, 10 MiB in all: for a model of 140 GB in 28 files 3,640 reads
    of 280 MiB. In a file of 5 GB every change over 40 MB shows. Paths and times are left out: a copy has the same
    identity.

    Args:
        ignore: names of files that do not matter.
        version: 1 leaves out the blocks in between, as runs of earlier versions did.

    Raises:
        InputError: as `resolve`, or a file that cannot be read.
    """
    path = _directory(name, "model")
    if path is None:
        return name
    if not (path / _ADAPTER).is_file():
        resolve(name)
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if not file.is_file() or file.name.startswith(".") or file.name in ignore:
            continue
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        try:
            with file.open("rb") as stream:
                for start, length in _sampled(size, version):
                    stream.seek(start)
                    digest.update(stream.read(length))
        except OSError as error:
            raise InputError(f"cannot read {file} of the model '{name}': {error.strerror}; fix its mode") from error
    return f"sha256:{digest.hexdigest()[:16]}"


def _sampled(size: int, version: int) -> Iterator[tuple[int, int]]:
    """The parts of a file, as start and length in bytes, that its digest covers."""
    yield 0, _ENDS
    if size <= _ENDS:
        return
    yield size - _ENDS, _ENDS
    between = size - 2 * _ENDS
    if version == 1 or between <= 0:
        return
    stride = max(between / _BLOCKS, _BLOCK)
    for number in range(min(_BLOCKS, math.ceil(between / _BLOCK))):
        start = _ENDS + round(number * stride)
        yield start, min(_BLOCK, size - _ENDS - start)


def has_heads(router: str) -> bool:
    """Whether a router is an encoder with heads, and not a plain classifier.

    Raises:
        InputError: as `resolve`.
    """
    return (Path(resolve(router)) / HEADS_FILE).is_file()


def check(
    name: str,
    router: bool = False,
    *,
    generator: bool = False,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> None:
    """Check that a model exists, is usable, and is safe to load. No weights are loaded.

    Args:
        router, generator: what the model is used for, which its configuration must allow.
        trust_remote_code: run the code that comes with its configuration.
        allow_pickle: accept weights as a pickle. For a hub id that shows only when the model is loaded.

    Raises:
        InputError: the model is missing, is a pickle or brings code without leave, or is a router but not a classifier
            with one or two labels, or a generator but not a model that writes text.
    """
    what = f"the router '{name}'" if router else f"the model '{name}'"
    path = resolve(name)
    with loading(what, path, allow_pickle, ROUTER_KEYS if router else MODEL_KEYS):
        config = plain_configuration(Path(path), generator) or _configuration(path, trust_remote_code)
    # A plain configuration of a generator is of one that writes text.
    if generator and not isinstance(config, PlainConfiguration):
        from batchroute.models.checkpoint import check_generator

        check_generator(config, what)
    if not router or has_heads(name):
        return
    if not any(kind.endswith("ForSequenceClassification") for kind in config.architectures or ()):
        raise InputError(
            f"the router '{name}' is no trained classifier; make one with 'batchroute train --base {name}'"
        )
    if config.num_labels not in (1, 2):
        raise InputError(f"the router '{name}' has {config.num_labels} labels: it must be a classifier with one or two")


def _configuration(path: str, trust_remote_code: bool) -> Any:
    """A model's configuration by transformers, whose import takes seconds."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)


def check_adapter(name: str, allow_pickle: bool = False) -> None:
    """Check that a LoRA adapter exists and is safe to load.

    Raises:
        InputError: the adapter is missing, or is a pickle without leave.
    """
    with loading(f"the adapter '{name}'", resolve(name, adapter=True), allow_pickle):
        pass


@contextlib.contextmanager
def loading(what: str, path: str, allow_pickle: bool = False, keys: Keys = MODEL_KEYS) -> Iterator[None]:
    """Around `from_pretrained`: refuses pickled weights, which can run code, and turns errors into one sentence.

    The caller must still give `from_pretrained` `use_safetensors=safetensors(allow_pickle)` and `trust_remote_code`.

    Args:
        what: the model, as the sentence names it.
        path: from `resolve`.
        keys: how to allow a pickle or code, for the sentence that refuses it.

    Raises:
        InputError: the model is missing or broken, needs a package that is not installed, is a pickle, or brings code.
    """
    from safetensors import SafetensorError

    if not allow_pickle and _only_pickled(Path(path)):
        raise InputError(_pickle(f"the weights of {what} are a pickle", keys))
    # The collection that frees the model need not go through all that libraries have imported by now, which took it a
    # quarter of a second.
    gc.freeze()
    try:
        yield
    except (
        OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError, pickle.UnpicklingError
    ) as error:  # fmt: skip
        # Only transformers' error about code names this argument.
        if isinstance(error, ValueError) and "trust_remote_code" in str(error):
            may = "it is not run" if keys.code is None else f"{keys.code} if you trust it"
            raise InputError(f"{what} brings code of its own: {may}") from error
        # Weights on a hub show their format only here; transformers names its own argument in this error.
        if isinstance(error, OSError) and "use_safetensors=True" in str(error):
            raise InputError(_pickle(f"{what} has no safetensors, but maybe a pickle", keys)) from error
        raise InputError(f"cannot load {what}: {first_line(error)}") from error


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no table of missing weights: what matters about them, the caller reports."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def safetensors(allow_pickle: bool) -> bool | None:
    """The value of `use_safetensors`: True accepts nothing else, None prefers safetensors."""
    return None if allow_pickle else True


def _only_pickled(folder: Path) -> bool:
    """Whether a directory holds weights as a pickle and not as safetensors too."""
    return any(any(folder.glob(bad)) and not any(folder.glob(good)) for good, bad in _WEIGHTS)


def _pickle(what: str, keys: Keys) -> str:
    advice = "save it again with save_pretrained, which writes safetensors"
    advice += "" if keys.pickle is None else f", or {keys.pickle} if you trust it"
    return f"{what}, which can run code when it is loaded: {advice}"
