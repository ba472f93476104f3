"""The small model's responses in a quality table, for a reader of answers: its own column, or the file beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batchroute.errors import InputError, first_line

COLUMN = "small_responses"
_BESIDE = ".responses.parquet"


def beside(path: str | Path) -> Path:
    """Where `label --keep-responses` puts the responses of a table."""
    file = Path(path).expanduser()
    return file.with_name(file.stem + _BESIDE)


def read(path: str, present: Sequence[str]) -> pa.ChunkedArray:
    """The responses to each row of the file: text, or lists of text.

    Args:
        present: the columns of the table's file.

    Raises:
        InputError: there are none, or the file beside the table is of other prompts.
    """
    file = Path(path).expanduser()
    if COLUMN in present:
        return _column(file, [COLUMN])[COLUMN]
    other = beside(path)
    if not other.is_file():
        raise InputError(
            f"the quality table '{path}' has no column '{COLUMN}', and there is no '{other.name}' beside it: a reader "
            "of answers learns from responses, so label the prompts with --keep-responses"
        )
    kept, own = _column(other, ["prompt", COLUMN]), _column(file, ["prompt"])
    if not kept["prompt"].cast(pa.large_string()).equals(own["prompt"].cast(pa.large_string())):
        raise InputError(
            f"'{other}' does not hold the responses of the quality table '{path}': its prompts are others; label the "
            "prompts again with --keep-responses"
        )
    return kept[COLUMN]


def aligned(path: str, column: pa.ChunkedArray, counts: Sequence[int]) -> list[list[str]]:
    """One text for each of a row's qualities; none where a row has another number of responses, since then nothing
    tells which quality is whose.

    Args:
        counts: number of each row's qualities.

    Raises:
        InputError: the column holds something else than text, or no row has a text for each quality.
    """
    kind = column.type
    inner = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
    if not (pa.types.is_string(inner) or pa.types.is_large_string(inner)):
        raise InputError(
            f"the column '{COLUMN}' of the quality table '{path}' is {kind}: responses are text, or lists of text"
        )
    rows: list[list[str]] = []
    for value, count in zip(column.to_pylist(), counts, strict=True):
        some = [value] if isinstance(value, str) else value or []
        # A response that failed has no quality.
        texts = [text for text in some if text is not None]
        rows.append(texts if len(texts) == count else [])
    if not any(rows):
        raise InputError(
            f"no row of the quality table '{path}' has a response of the small model for each of its qualities: label "
            "the prompts with --keep-responses"
        )
    return rows


def _column(file: Path, columns: list[str]) -> pa.Table:
    try:
        return pq.read_table(file, columns=columns, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot read '{file}' as parquet: {first_line(error)}") from error
