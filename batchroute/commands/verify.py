"""`batchroute verify`: compare the files of a committed output with its manifest, and its rows with the input."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchroute.errors import InputError
from batchroute.storage import manifest
from batchroute.storage.folder import Folder
from batchroute.storage.manifest import DataFile, Manifest
from batchroute.storage.objects import folder_at, is_local
from batchroute.tables.files import Files, InputFile
from batchroute.tables.parquet import PromptTable
from batchroute.tables.prompts import prompt_columns

_READ_ROWS = 4096


@dataclass
class Findings:
    """One line for each check that passed, that failed, and that could not be made."""

    checked: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)


def verify(uri: str, storage_options: Mapping[str, Any] | None = None) -> Findings:
    """Check every hash and row count, and that ids and prompts equal the input's, in its order.

    Args:
        storage_options: for the filesystems of both output and input.

    Raises:
        InputError: the output is not committed.
    """
    output = folder_at(uri, storage_options)
    committed = manifest.read(output)
    if committed is None:
        raise InputError(f"{output} is not committed: it has no {manifest.MANIFEST}")
    findings = Findings()
    damaged = [file for file in committed.files if not _check_file(output, file, findings)]
    rows = sum(file.rows for file in committed.files)
    if rows != committed.rows:
        findings.wrong.append(f"the files of the manifest have {rows:,} rows, but the manifest says {committed.rows:,}")
    _check_unlisted(output, committed, findings)
    if not damaged:
        findings.checked.append(f"{len(committed.files):,} files, {rows:,} rows: sizes, hashes and row counts")
        _check_rows(output, committed, storage_options, findings)
    return findings


def _check_file(output: Folder, file: DataFile, findings: Findings) -> bool:
    try:
        data = output.read(file.path)
    except FileNotFoundError:
        findings.wrong.append(f"{file.path} is missing")
        return False
    if len(data) != file.bytes or hashlib.sha256(data).hexdigest() != file.sha256:
        findings.wrong.append(f"{file.path} is damaged: its hash is not the manifest's")
        return False
    rows = pq.read_metadata(pa.BufferReader(data)).num_rows
    if rows != file.rows:
        findings.wrong.append(f"{file.path} has {rows:,} rows, and the manifest says {file.rows:,}")
        return False
    return True


def _check_unlisted(output: Folder, committed: Manifest, findings: Findings) -> None:
    known = {file.path for file in committed.files}
    for name in output.folder("data").names(".parquet"):
        if f"data/{name}" not in known:
            findings.wrong.append(f"data/{name} is not in the manifest, but readers of data/*.parquet would read it")


def _check_rows(
    output: Folder, committed: Manifest, storage_options: Mapping[str, Any] | None, findings: Findings
) -> None:
    """Compare id and prompt of every row of the output with the same row of the input."""
    files = [InputFile.model_validate(file) for file in committed.input_files]
    source = Files(files[0].path, None if is_local(files[0].path) else storage_options)
    try:
        for file in files:
            source.check_unchanged(file)
        table = PromptTable.open(files, source)
    except InputError as error:
        findings.unchecked.append(f"the rows were not compared with the input: {error}")
        return
    settings = committed.settings["input"]
    names = [settings["id"]] if settings.get("id") in table.schema.names else []
    names += prompt_columns(settings["prompt"], table.schema)
    expected = table.reader(names)
    at = 0
    for batch in _batches(output, committed, expected.schema.names):
        rows = pa.Table.from_batches(expected.read(at, at + batch.num_rows), expected.schema)
        for name in expected.schema.names:
            if not _same(rows[name], pa.chunked_array([batch.column(name)])):
                findings.wrong.append(f"column '{name}' is not the input's from row {at:,} to {at + batch.num_rows:,}")
                return
        at += batch.num_rows
    findings.checked.append(f"{at:,} rows: {' and '.join(expected.schema.names)} as in the input, in its order")


def _batches(output: Folder, committed: Manifest, columns: list[str]) -> Iterator[pa.RecordBatch]:
    for file in committed.files:
        with pq.ParquetFile(output.parquet(file.path, file.bytes), pre_buffer=False, buffer_size=1 << 20) as source:
            yield from source.iter_batches(_READ_ROWS, columns=columns, use_threads=False)


def _same(left: pa.ChunkedArray, right: pa.ChunkedArray) -> bool:
    return bool(left.type == right.type and left.combine_chunks().equals(right.combine_chunks()))
