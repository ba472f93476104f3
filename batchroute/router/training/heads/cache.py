"""The encoder's pooled states of training prompts, kept beside the quality table, so that they are computed once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from batchroute.errors import first_line
from batchroute.router.model import Router
from batchroute.router.notes import prompt_digest
from batchroute.router.scoring import encode, pooled

_ROWS_AT_ONCE = 512


def states_of(
    router: Router,
    identity: str,
    table: str,
    prompts: Sequence[str],
    on_done: Callable[[int, int], None],
    say: Callable[[str], None],
) -> NDArray[np.float32]:
    """The pooled states of `prompts`, or of prompts joined with answers: float32 [n, 2 × hidden].

    They are kept in a folder `TABLE.states`, in a file for each encoder and length, by the prompts' digests. A training
    that was interrupted, another label or another night's rows compute only what is missing.

    Args:
        router: an encoder without heads.
        identity: of the encoder.
        on_done: called with the prompts done and all that had to be computed.
    """
    name = identity.rsplit(":", 1)[-1].replace("/", "--")
    precision = str(router.model.dtype).removeprefix("torch.")
    # Of one text the two kinds of routers cut other tokens.
    reads = "" if router.reads == "prompt" else "-answer"
    file = Path(f"{table}.states") / f"{name}-{router.max_length}-{precision}{reads}.safetensors"
    known = _read(file)
    digests = [prompt_digest(prompt) for prompt in prompts]
    wanted = {digest: prompt for digest, prompt in zip(digests, prompts, strict=True) if digest not in known}
    missing = list(wanted)
    # Equal lengths together: little padding.
    missing.sort(key=lambda digest: len(wanted[digest]))
    for start in range(0, len(missing), _ROWS_AT_ONCE):
        some = missing[start : start + _ROWS_AT_ONCE]
        states = pooled(router, encode(router, [wanted[digest] for digest in some])).cpu().numpy()
        known.update(zip(some, states, strict=True))
        on_done(min(start + _ROWS_AT_ONCE, len(missing)), len(missing))
        if len(missing) > _ROWS_AT_ONCE and not _written(file, known, say):
            # Said once; a folder that cannot be written costs time alone.
            file = Path(os.devnull)
    if missing and len(missing) <= _ROWS_AT_ONCE:
        _written(file, known, say)
    return np.stack([known[digest] for digest in digests])


def _read(file: Path) -> dict[str, NDArray[np.float32]]:
    """What the file holds; nothing if there is none, or a crash cut it off."""
    try:
        stored = load_file(file)
        digests = stored["digests"].tobytes().decode().split()
        return dict(zip(digests, stored["states"], strict=True))
    except (OSError, SafetensorError, KeyError, ValueError):
        return {}


def _written(file: Path, known: dict[str, NDArray[np.float32]], say: Callable[[str], None]) -> bool:
    if file == Path(os.devnull):
        return True
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    digests = np.frombuffer(" ".join(known).encode(), np.uint8)
    try:
        file.parent.mkdir(exist_ok=True)
        save_file({"digests": digests, "states": np.stack(list(known.values()))}, fresh)
        fresh.replace(file)
    except (OSError, SafetensorError) as error:
        say(f"the encoder's states are not kept for the next training: cannot write '{file}': {first_line(error)}")
        return False
    finally:
        fresh.unlink(missing_ok=True)
    return True
