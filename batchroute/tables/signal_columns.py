"""The columns of a quality table that say what the small model's answers told of themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchroute.errors import InputError

Floats = NDArray[np.float64]

MEASURED = {
    "logprob": "small_logprob",
    "logprob_low": "small_logprob_low",
    "agreement": "small_agreement",
    "tokens": "small_output_tokens",
    "cut": "small_cut",
}
"""Columns by signal, as `label` writes them."""

SAMPLE_TOKENS = ("small_sample_input_tokens", "small_sample_output_tokens")
"""What the extra samples behind an agreement read and wrote."""

RECORDED_KEY = "signals"
"""The key of the file's metadata with the names of recorded signals: JSON."""


def wanted(path: str, present: Sequence[str], metadata: Mapping[str, str], named: Sequence[str]) -> list[str]:
    """The columns to read: those of `MEASURED` that are there, and the recorded ones.

    Args:
        named: recorded signals that the user names, beside those that the file's metadata names.

    Raises:
        InputError: a column that the user names is not there.
    """
    for column in named:
        if column not in present:
            raise InputError(
                f"the quality table '{path}' has no column '{column}' to take as a signal, only {', '.join(present)}"
            )
    return [name for name in (*MEASURED.values(), *SAMPLE_TOKENS) if name in present] + [
        name for name in recorded(metadata, named) if name in present
    ]


def recorded(metadata: Mapping[str, str], named: Sequence[str]) -> list[str]:
    """The names of recorded signals: those in the metadata, then those that the user names; each once."""
    try:
        known = json.loads(metadata.get(RECORDED_KEY, "[]"))
    except ValueError:
        known = []
    return list(dict.fromkeys([*(str(name) for name in known), *named]))


def by_answers(
    path: str, table: pa.Table, columns: Mapping[str, str], counts: Sequence[int], named: Sequence[str] = ()
) -> dict[str, list[Floats]]:
    """`by_answer` of several columns, by signal.

    Args:
        named: columns that the user names.

    Raises:
        InputError: as `by_answer`; or a named column says nothing of any answer.
    """
    found = {name: by_answer(path, table, column, counts) for name, column in columns.items()}
    for name in named:
        if not any(np.isfinite(values).any() for values in found[name]):
            raise InputError(
                f"the column '{name}' of the quality table '{path}' says nothing of any answer: a signal is a number "
                "for each row, or a list of numbers, as long as the row's qualities"
            )
    return found


def by_answer(path: str, table: pa.Table, column: str, counts: Sequence[int]) -> list[Floats]:
    """A signal's values, one for each of the small model's answers to each row; NaN where it is unknown.

    A column of single values holds for all answers to its row. A list of another length than the row has qualities is
    unknown, since it does not say which answer each value belongs to.

    Args:
        counts: number of the row's qualities.

    Raises:
        InputError: the column holds neither numbers nor true and false, nor lists of them.
    """
    # `validate` and `verify` spare its import.
    import pyarrow.compute as pc

    kind = table.schema.field(column).type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    try:
        if not lists:
            values = pc.fill_null(table[column].cast(pa.float64()), np.nan).to_numpy()
            return [np.full(count, value) for count, value in zip(counts, values, strict=True)]
        whole = table[column].cast(pa.large_list(pa.float64())).combine_chunks()
    except pa.ArrowException as error:
        raise InputError(
            f"the column '{column}' of the quality table '{path}' has type {kind}: a signal is a number, true or "
            "false, or a list of them, one for each response"
        ) from error
    flat = pc.fill_null(pc.list_flatten(whole), np.nan).to_numpy()
    lengths = pc.fill_null(pc.list_value_length(whole), 0).to_numpy()
    ends = np.cumsum(lengths)
    return [
        flat[end - length : end] if length == count else np.full(count, np.nan)
        for end, length, count in zip(ends, lengths, counts, strict=True)
    ]
