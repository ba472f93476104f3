"""Values that tell rows apart: ids of the job, and unique keys of a table that is to hold the answers."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from batchroute.errors import InputError
from batchroute.tables.ids import IdSet, hash_ids
from batchroute.tables.parquet import PromptTable
from batchroute.tables.types import is_text

_NAMED = 3
# Rows whose values are compared themselves, and not their hashes.
_FEW = 1 << 17
# Rows whose whole numbers or texts Python compares sooner than `pyarrow.compute` is imported.
_FEW_FOR_PYTHON = 1 << 14
_LONGEST = 80


def check_ids(table: PromptTable, column: str, hidden: Collection[str] = ()) -> None:
    """
    Args:
        hidden: columns whose values no message shows, such as prompts.

    Raises:
        InputError: an id is null, not valid text, or repeated; the first few are named.
    """

    def check(ids: pa.Array, at: int) -> None:
        if ids.null_count:
            row = at + ids.is_null().to_pylist().index(True)
            raise InputError(f"input.id: column '{column}' is null in {table.where(row)}; every row needs an id")
        try:
            ids.validate(full=True)
        except pa.ArrowInvalid as error:
            raise InputError(f"input.id: column '{column}' near {table.where(at)}: {error}") from error

    repeated = find_repeated(table, [column], hidden, check)
    if repeated:
        raise InputError(f"input.id: column '{column}' repeats {repeated}")


def find_repeated(
    table: PromptTable,
    columns: Sequence[str],
    hidden: Collection[str] = (),
    check: Callable[[pa.Array, int], None] = lambda column, at: None,
) -> str | None:
    """Values that several rows have in all of the columns, in words: how many, and where the first ones are. None where
    there are none. Nulls are never the same.

    Args:
        check: raises for what is wrong with values of the first column, the first of them at this position.
    """
    if table.rows <= _FEW and len(columns) == 1 and _all_differ(table, columns[0], check):
        return None
    hashes, at = np.empty(table.rows, np.uint64), 0
    for batch in table.reader(columns).read(0, table.rows):
        check(batch.column(0), at)
        found = _hashes(batch)[_valid(batch)]
        hashes[at : at + len(found)] = found
        at += len(found)
    # In place: 8 bytes of memory a row.
    hashes = hashes[:at]
    hashes.sort()
    repeated = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    return _in_words(table, columns, repeated, hidden) if len(repeated) else None


def _all_differ(table: PromptTable, column: str, check: Callable[[pa.Array, int], None]) -> bool:
    """Whether few values differ, by Python or pyarrow: what hashes them takes longer to import than they to compare.

    False, too, for types whose values pyarrow does not count.
    """
    arrays, at = [], 0
    for batch in table.reader([column]).read(0, table.rows):
        check(batch.column(0), at)
        arrays.append(batch.column(0))
        at += batch.num_rows
    values = pa.chunked_array(arrays, table.schema.field(column).type)
    if len(values) <= _FEW_FOR_PYTHON and (is_text(values.type) or pa.types.is_integer(values.type)):
        # Bytes that are no text: pyarrow compares them.
        with contextlib.suppress(UnicodeDecodeError):
            there = [value for value in values.to_pylist() if value is not None]
            return len(set(there)) == len(there)
    import pyarrow.compute as pc

    try:
        return bool(pc.count_distinct(values).as_py() == len(values) - values.null_count)
    except pa.ArrowNotImplementedError:
        return False


def first_held(table: PromptTable, column: str, held: Iterable[pa.Array], hidden: Collection[str] = ()) -> str | None:
    """A row whose value is among those that are held elsewhere, in words; None where there is none.

    Args:
        held: any number of values, of which memory holds one array; of the column's values it holds the hashes.

    Raises:
        pa.ArrowInvalid, pa.ArrowNotImplementedError: the values of both cannot be compared.
    """
    arrays = iter(held)
    first = next(arrays, None)
    if first is None:
        return None
    ours = IdSet(first.type, (batch.column(0) for batch in table.reader([column]).read(0, table.rows)))
    for array in itertools.chain([first], arrays):
        found = np.flatnonzero(ours.contains(array) & _valid(pa.record_batch({column: array})))
        if len(found):
            return _row_of(table, column, array.slice(int(found[0]), 1), hidden)
    return None


def _row_of(table: PromptTable, column: str, value: pa.Array, hidden: Collection[str]) -> str | None:
    wanted, at = IdSet(table.schema.field(column).type, [value]), 0
    for batch in table.reader([column]).read(0, table.rows):
        found = np.flatnonzero(wanted.contains(batch.column(0)) & _valid(batch))
        if len(found):
            return f"{_shown(batch.slice(int(found[0]), 1), hidden)}in {table.where(at + int(found[0]))}"
        at += batch.num_rows
    return None


def _hashes(batch: pa.RecordBatch) -> Any:
    first, *others = (hash_ids(column, seed=number) for number, column in enumerate(batch.columns))
    for other in others:
        first = first ^ other
    return first


def _valid(batch: pa.RecordBatch) -> Any:
    valid = np.ones(batch.num_rows, np.bool_)
    for column in batch.columns:
        valid &= column.is_valid().to_numpy(zero_copy_only=False)
    return valid


def _in_words(table: PromptTable, columns: Sequence[str], hashes: Any, hidden: Collection[str]) -> str | None:
    seen: dict[Any, list[int]] = {}
    shown: dict[Any, str] = {}
    at = 0
    for batch in table.reader(columns).read(0, table.rows):
        for offset in np.flatnonzero(np.isin(_hashes(batch), hashes) & _valid(batch)).tolist():
            value = tuple(_readable(column[offset]) for column in batch.columns)
            seen.setdefault(value, []).append(at + offset)
            shown.setdefault(value, _shown(batch.slice(offset, 1), hidden))
        at += batch.num_rows
    repeated = {value: rows for value, rows in seen.items() if len(rows) > 1}
    if not repeated:
        return None
    places = (
        f"{shown[value]}in {table.where(rows[0])} and {table.where(rows[1])}"
        for value, rows in list(repeated.items())[:_NAMED]
    )
    what = "ids" if len(columns) == 1 else "values"
    return f"{len(repeated):,} {what}: {'; '.join(places)}"


def _shown(row: pa.RecordBatch, hidden: Collection[str]) -> str:
    """The values with a space behind; nothing where a column is hidden."""
    if set(row.schema.names) & set(hidden):
        return ""
    values = [repr(_readable(column[0])) for column in row.columns]
    return ", ".join(value if len(value) <= _LONGEST else f"{value[:_LONGEST]}…" for value in values) + " "


def _readable(id: pa.Scalar) -> Any:
    try:
        return id.as_py()
    except ValueError:  # a time that Python's microseconds do not hold
        return id.cast(pa.string()).as_py()
