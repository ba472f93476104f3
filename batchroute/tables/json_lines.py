"""JSON lines as rows. What is nested stays JSON text, as it differs from line to line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from batchroute.errors import InputError
from batchroute.tables.text_files import TYPES, Opening

_BLOCK = 1 << 20
_ROWS, _BATCH_BYTES = 2048, 8 << 20
_OF_VALUES = {bool: "boolean", int: "int64", float: "float64", str: "text", list: "JSON", dict: "JSON"}


def columns_of(opening: Opening, path: str, kinds: dict[str, str | None]) -> None:
    """Note in `kinds` what the columns of a file are; None while all values of a column are null.

    Raises:
        InputError: a line is no JSON object.
    """
    for _, row, _ in _rows(opening, path):
        for name, value in row.items():
            kinds[name] = _wider(kinds.get(name), value)


def batches(opening: Opening, path: str, kinds: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
    """The rows of a file, with these columns.

    Raises:
        InputError: a line is no JSON object, or not of these columns.
    """
    gathered: dict[int, dict[str, Any]] = {}
    size = 0
    for number, row, length in _rows(opening, path):
        gathered[number] = row
        size += length
        if len(gathered) >= _ROWS or size >= _BATCH_BYTES:
            yield _batch(gathered, kinds, path)
            gathered, size = {}, 0
    if gathered:
        yield _batch(gathered, kinds, path)


def _wider(known: str | None, value: Any) -> str | None:
    if value is None:
        return known
    kind = _OF_VALUES[type(value)]
    if kind == "int64" and not -(1 << 63) <= value < 1 << 63:
        kind = "text"
    if known is None or known == kind:
        return kind
    if "JSON" in (known, kind):
        return "JSON"
    return "float64" if {known, kind} == {"int64", "float64"} else "text"


def _batch(rows: Mapping[int, dict[str, Any]], kinds: Mapping[str, str], path: str) -> pa.RecordBatch:
    """
    Args:
        rows: by the number of the line.
    """
    try:
        arrays = [
            pa.array([_stored(row.get(name), kind) for row in rows.values()], TYPES[kind])
            for name, kind in kinds.items()
        ]
    except UnicodeEncodeError:
        line = next(number for number, row in rows.items() if not all(map(_is_unicode, row.values())))
        raise InputError(f"input: {path}, line {line:,}, holds half of a surrogate pair, which is no text") from None
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise InputError(f"input: {path} was changed while it was read; start again with --fresh") from error
    return pa.RecordBatch.from_arrays(arrays, names=list(kinds))


def _stored(value: Any, kind: str) -> Any:
    if value is None or kind not in ("text", "JSON") or (kind == "text" and isinstance(value, str)):
        return value
    text = json.dumps(value, ensure_ascii=False)
    # Escaped, half of a surrogate pair is JSON; whether it is a prompt is asked row by row.
    return text if kind == "text" or _is_unicode(text) else json.dumps(value)


def _is_unicode(value: Any) -> bool:
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return False
    return True


def _rows(opening: Opening, path: str) -> Iterator[tuple[int, dict[str, Any], int]]:
    """The number of each line, from 1, its object, and its length."""
    for number, line in enumerate(_lines(opening), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode())
        except UnicodeDecodeError as error:
            raise InputError(f"input: {path}, line {number:,}, is not UTF-8 at byte {error.start:,}") from error
        except (ValueError, RecursionError) as error:
            why = f": {error.msg} at character {error.pos:,}" if isinstance(error, json.JSONDecodeError) else ""
            raise InputError(f"input: {path}, line {number:,}, is no JSON{why}") from None
        if not isinstance(row, dict):
            raise InputError(f"input: {path}, line {number:,}, is no JSON object; JSON lines hold one in each line")
        yield number, row, len(line)


def _lines(opening: Opening) -> Iterator[bytes]:
    rest = [b""]
    with opening() as stream:
        block = stream.read(_BLOCK).removeprefix(b"\xef\xbb\xbf")
        while block:
            first, *lines = block.split(b"\n")
            rest.append(first)
            if lines:
                yield b"".join(rest)
                *whole, last = lines
                yield from whole
                rest = [last]
            block = stream.read(_BLOCK)
    yield b"".join(rest)
