"""The files of provider batches: lines joined to files that a provider accepts, and the id of an uploaded one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from batchroute.endpoint import read_json

# In the file of one batch.
_MOST_BYTES = 200_000_000


def files(
    lines: Iterable[tuple[Any, bytes]], most_requests: int, most_bytes: int = _MOST_BYTES
) -> Iterator[tuple[list[Any], bytes]]:
    """Join lines to files that a provider accepts; yields each file with the keys of its lines."""
    keys: list[Any] = []
    data = bytearray()
    for key, line in lines:
        if keys and (len(keys) >= most_requests or len(data) + len(line) > most_bytes):
            yield keys, bytes(data)
            keys, data = [], bytearray()
        keys.append(key)
        data += line
    if keys:
        yield keys, bytes(data)


def id_of_file(body: bytes) -> str:
    """Raises:
    ValueError: the answer names no file.
    """
    file = read_json(body)
    name = file.get("id") if isinstance(file, Mapping) else None
    if not isinstance(name, str) or not name:
        raise ValueError("the answer names no file")
    return name
