"""`batchroute export`: the answers of a committed output as lines of OpenAI's batch output."""

from __future__ import annotations

import contextlib
import datetime
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import pyarrow.parquet as pq

from batchroute.errors import InputError
from batchroute.storage import manifest
from batchroute.storage.folder import Folder
from batchroute.storage.manifest import Manifest
from batchroute.storage.objects import folder_at
from batchroute.tables.types import texts

_READ_ROWS = 4096
_COLUMNS = ("model", "response", "finish_reason", "input_tokens", "output_tokens", "error_type", "error")


def export(uri: str, target: str | None, storage_options: Mapping[str, Any] | None = None) -> int:
    """Write one line for each row, in the order of the input; returns the number of lines.

    Args:
        target: a file, which is replaced once all lines are written; None: the standard output.

    Raises:
        InputError: the output is not committed, or the file cannot be written.
    """
    output = folder_at(uri, storage_options)
    committed = manifest.read(output)
    if committed is None:
        raise InputError(f"{output} is not committed: it has no {manifest.MANIFEST}")
    if target is None:
        return _write(output, committed, sys.stdout.buffer)
    part = Path(f"{target}.part")
    try:
        with part.open("wb") as file:
            lines = _write(output, committed, file)
        part.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise InputError(f"--output {target} cannot be written: {error.strerror}") from error
    return lines


def _write(output: Folder, committed: Manifest, file: IO[bytes]) -> int:
    count = 0
    for line in _lines(output, committed):
        file.write(line)
        count += 1
    file.flush()
    return count


def _lines(output: Folder, committed: Manifest) -> Iterator[bytes]:
    prefix, id_column = committed.settings["output"].get("prefix", ""), committed.settings["input"].get("id")
    columns = [prefix + name for name in _COLUMNS]
    created = int(datetime.datetime.fromisoformat(committed.committed_at).timestamp())
    position = 0
    for part in committed.files:
        with pq.ParquetFile(output.parquet(part.path, part.bytes), pre_buffer=False, buffer_size=1 << 20) as source:
            for batch in source.iter_batches(_READ_ROWS, columns=[*columns, *([id_column] if id_column else [])]):
                rows = zip(*(batch.column(name).to_pylist() for name in columns), strict=True)
                ids = texts(batch.column(id_column)) if id_column else [None] * batch.num_rows
                for id, row in zip(ids, rows, strict=True):
                    custom_id = f"row-{position}" if id is None else id
                    line = _line(f"{committed.run_id}-{position}", custom_id, created, *row)
                    yield json.dumps(line, ensure_ascii=False).encode() + b"\n"
                    position += 1


def _line(
    id: str,
    custom_id: str,
    created: int,
    model: str | None,
    response: str | None,
    finish_reason: str | None,
    input_tokens: int | None,
    output_tokens: int | None,
    error_type: str | None,
    error: str | None,
) -> dict[str, Any]:
    """A line as OpenAI's Batch API writes it into its output file, and for a failed row into its error file."""
    line: dict[str, Any] = {"id": f"batch_req_{id}", "custom_id": custom_id, "response": None, "error": None}
    if error_type is not None:
        return {**line, "error": {"code": error_type, "message": error}}
    message = {"role": "assistant", "content": response, "refusal": None}
    read, written = input_tokens or 0, output_tokens or 0
    body = {
        "id": f"chatcmpl-{id}",
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
    }
    return {**line, "response": {"status_code": 200, "request_id": id, "body": body}}
