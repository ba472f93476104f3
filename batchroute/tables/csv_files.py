"""CSV as rows. A column is numbers only where every value is spelled as a number is written, so that `007` stays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from batchroute.errors import InputError
from batchroute.tables.text_files import TYPES, Opening, without_compression

_BLOCK = 16 << 20
# Longer ones might not be the same number again.
_SPELLINGS = {
    "int64": r"^(0|-?[1-9][0-9]{0,17})$",
    "float64": r"^-?(0|[1-9][0-9]{0,8})(\.[0-9]{0,5}[1-9])?$",
    "boolean": r"^(true|false)$",
}


def columns_of(opening: Opening, path: str, kinds: dict[str, str | None]) -> None:
    """Note in `kinds` what the columns of a file are; None while all values of a column are null.

    Raises:
        InputError: the file is no CSV.
    """
    for batch in _read(opening, path):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            kinds[name] = _wider(kinds.get(name), column)


def batches(opening: Opening, path: str, kinds: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
    """The rows of a file, with these columns.

    Raises:
        InputError: the file is no CSV, or not of these columns.
    """
    for batch in _read(opening, path):
        try:
            arrays = [
                batch.column(name).cast(TYPES[kind])
                if name in batch.schema.names
                else pa.nulls(batch.num_rows, TYPES[kind])
                for name, kind in kinds.items()
            ]
        except pa.ArrowInvalid as error:
            raise InputError(f"input: {path} was changed while it was read; start again with --fresh") from error
        yield pa.RecordBatch.from_arrays(arrays, names=list(kinds))


def _wider(known: str | None, column: pa.Array) -> str | None:
    kinds = [known] if known in ("text", "boolean") else ["int64", "float64", "boolean"]
    if known == "float64":
        kinds = ["float64"]
    elif known == "int64":
        kinds = ["int64", "float64"]
    if column.null_count == len(column):
        return known
    for kind in kinds:
        if kind in _SPELLINGS and pc.all(pc.match_substring_regex(column, _SPELLINGS[kind])).as_py():
            return kind
    return "text"


def _read(opening: Opening, path: str) -> Iterator[pa.RecordBatch]:
    """The rows of a file, all columns text; an empty field is null, and `""` is an empty text."""
    ragged: list[csv.InvalidRow] = []

    def refuse(row: csv.InvalidRow) -> str:
        ragged.append(row)
        return "error"

    reading = csv.ReadOptions(use_threads=False, block_size=_BLOCK)
    delimiter = "\t" if without_compression(path).endswith(".tsv") else ","
    parsing = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=refuse)
    try:
        with opening() as stream, csv.open_csv(stream, reading, parsing) as reader:
            names = reader.schema.names
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"input: {path} has two columns '{twice}'; rename one of them")
        as_text = csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        with opening() as stream, csv.open_csv(stream, reading, parsing, as_text) as reader:
            # A file without rows has columns, too.
            yield pa.RecordBatch.from_pylist([], reader.schema)
            yield from reader
    except pa.ArrowInvalid:
        # The words of the error quote the row.
        raise InputError(f"input: {path} {_why(ragged)}") from None


def _why(ragged: list[csv.InvalidRow]) -> str:
    if not ragged:
        return "is no CSV in UTF-8 with the names of the columns in its first line, or has a row of more than 16 MB"
    row = ragged[0]
    where = "a row" if row.number is None else f"row {row.number:,}"
    return (
        f"has {row.expected_columns:,} columns, but {where} has {row.actual_columns:,} fields; put fields that hold "
        "the delimiter, quotes or line breaks into double quotes"
    )
