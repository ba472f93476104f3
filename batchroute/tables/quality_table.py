"""The quality table: what `label` writes and `train`, `calibrate` and `evaluate` read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from batchroute.errors import InputError, first_line
from batchroute.fields import SIDES
from batchroute.tables import response_columns, signal_columns

_REQUIRED = ("prompt", "small_quality", "large_quality")
_OPTIONAL = ("id", "task", "split")
_STATUS, _OK = "status", "ok"
_WEIGHT = "weight"
_READ, _WRITTEN = "{side}_input_tokens", "{side}_output_tokens"


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens that a model read and wrote for each row of a quality table: float64, shape [rows], NaN where unknown.

    Attributes:
        written: in the mean response.
    """

    read: NDArray[np.float64]
    written: NDArray[np.float64]

    def take(self, rows: Sequence[int] | NDArray[np.intp]) -> Self:
        return type(self)(self.read[rows], self.written[rows])


@dataclass(frozen=True, slots=True)
class QualityTable:
    """Rows of a quality table; every list has one entry a row.

    Attributes:
        path, sha256: the file.
        prompts: not blank.
        small, large: the qualities of each model's sampled responses: float64 arrays, one or more finite entries each.
        ids, tasks, splits: the optional columns, None where the file lacks them.
        metadata: of the file: model names, metric, sampling settings.
        failed: rows of the file that are left out, since their `status` is not ok.
        numbers: the rows' numbers in the file, from 1; None where they are 1, 2, 3, …
        tokens: by side, for the models whose tokens the file has.
        signals: what the small model's answers told, by the names of `signal_columns.MEASURED`: one array a row with as
            many entries as `small` has, NaN where unknown.
        recorded: the same of recorded signals, by the names of their columns.
        sample_tokens: that the small model read and wrote for the samples behind `agreement`: as `tokens`.
        weights: how much each row counts in training, above 0: the optional column `weight`, None where the file lacks
            it.
        responses: the small model's, one for each of its qualities; none for a row whose responses are not known. None
            unless they were asked for.
    """

    path: str
    sha256: str
    prompts: list[str]
    small: list[NDArray[np.float64]]
    large: list[NDArray[np.float64]]
    ids: list[Any] | None
    tasks: list[str | None] | None
    splits: list[str | None] | None
    metadata: dict[str, str]
    failed: int = 0
    numbers: NDArray[np.intp] | None = None
    tokens: Mapping[str, Tokens] = field(default_factory=dict)
    signals: Mapping[str, list[NDArray[np.float64]]] = field(default_factory=dict)
    recorded: Mapping[str, list[NDArray[np.float64]]] = field(default_factory=dict)
    sample_tokens: Tokens | None = None
    weights: NDArray[np.float64] | None = None
    responses: list[list[str]] | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def tells(self) -> bool:
        """Whether the small model's answers say more of themselves than their length and how they ended."""
        telling = [self.signals[name] for name in set(self.signals) - {"tokens", "cut"}] + [*self.recorded.values()]
        return any(np.isfinite(values).any() for signal in telling for values in signal)

    @property
    def reference(self) -> Literal["large"] | None:
        """`large` if the qualities are likeness to the large model's answers; None if they are what the metric says."""
        return "large" if self.metadata.get("reference") == "large" else None

    @property
    def small_mean(self) -> NDArray[np.float64]:
        return np.array([quality.mean() for quality in self.small])

    @property
    def large_mean(self) -> NDArray[np.float64]:
        return np.array([quality.mean() for quality in self.large])

    def take(self, rows: Sequence[int] | NDArray[np.intp]) -> Self:
        """These rows, in this order."""
        return type(self)(
            self.path,
            self.sha256,
            [self.prompts[row] for row in rows],
            [self.small[row] for row in rows],
            [self.large[row] for row in rows],
            None if self.ids is None else [self.ids[row] for row in rows],
            None if self.tasks is None else [self.tasks[row] for row in rows],
            None if self.splits is None else [self.splits[row] for row in rows],
            self.metadata,
            self.failed,
            self.numbers if self.numbers is None else self.numbers[np.asarray(rows, dtype=np.intp)],
            {side: known.take(rows) for side, known in self.tokens.items()},
            {name: [values[row] for row in rows] for name, values in self.signals.items()},
            {name: [values[row] for row in rows] for name, values in self.recorded.items()},
            None if self.sample_tokens is None else self.sample_tokens.take(rows),
            None if self.weights is None else self.weights[np.asarray(rows, dtype=np.intp)],
            None if self.responses is None else [self.responses[row] for row in rows],
        )


def read(path: str, signals: Sequence[str] = (), responses: bool = False) -> QualityTable:
    """Read and check a quality table (parquet, local). Rows are counted from 1 in messages.

    Args:
        signals: columns to take as recorded signals, beside those that the file's metadata names.
        responses: read the small model's responses too, from the table or the file beside it.

    Raises:
        InputError: no such file, not parquet, a column is missing or has the wrong type, a row is unusable, or there
            are no responses.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"the quality table '{path}' does not exist: make it with 'batchroute label'")
    try:
        with file.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        source = pq.ParquetFile(file)
        present = source.schema_arrow.names
        for column in _REQUIRED:
            if column not in present:
                raise InputError(
                    f"the quality table '{path}' has no column '{column}', only {', '.join(present) or 'no columns'}: "
                    f"it needs {', '.join(_REQUIRED)}"
                )
        tokens = [form.format(side=side) for side in SIDES for form in (_READ, _WRITTEN)]
        metadata = _metadata(source)
        told = signal_columns.wanted(path, present, metadata, signals)
        wanted = [name for name in (*_REQUIRED, *_OPTIONAL, _STATUS, _WEIGHT, *tokens) if name in present]
        wanted = list(dict.fromkeys(wanted + told))
        for column in wanted:
            if present.count(column) > 1:
                raise InputError(f"the quality table '{path}' has several columns '{column}': rename all but one")
        table = source.read(wanted)
        table.validate(full=True)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot read the quality table '{path}' as parquet: {first_line(error)}") from error
    if table.num_rows == 0:
        raise InputError(f"the quality table '{path}' has no rows: label some prompts first")
    whole, numbers = table.num_rows, None
    texts = response_columns.read(path, present) if responses else None
    if _STATUS in present:
        ok = np.array([status == _OK for status in _texts(path, table, _STATUS)])
        if not ok.any():
            raise InputError(
                f"all {whole:,} rows of the quality table '{path}' failed: none has the status '{_OK}', see its "
                "column 'error'"
            )
        table, numbers = table.filter(pa.array(ok)), np.flatnonzero(ok) + 1
        texts = None if texts is None else texts.filter(pa.array(ok))
    at = np.arange(1, whole + 1) if numbers is None else numbers
    small = _qualities(path, table, "small_quality", at)
    counts = [len(qualities) for qualities in small]
    measured = {name: column for name, column in signal_columns.MEASURED.items() if column in told}
    recorded = {name: name for name in signal_columns.recorded(metadata, signals) if name in told}
    return QualityTable(
        path=path,
        sha256=sha256,
        prompts=_prompts(path, table, at),
        small=small,
        large=_qualities(path, table, "large_quality", at),
        ids=table["id"].to_pylist() if "id" in present else None,
        tasks=_texts(path, table, "task") if "task" in present else None,
        splits=_texts(path, table, "split") if "split" in present else None,
        metadata=metadata,
        failed=whole - table.num_rows,
        numbers=numbers,
        tokens=_tokens(path, table),
        signals=signal_columns.by_answers(path, table, measured, counts),
        recorded=signal_columns.by_answers(path, table, recorded, counts, signals),
        sample_tokens=_sample_tokens(path, table, counts),
        weights=_weights(path, table, at) if _WEIGHT in present else None,
        responses=None if texts is None else response_columns.aligned(path, texts, counts),
    )


def _weights(path: str, table: pa.Table, at: NDArray[np.intp]) -> NDArray[np.float64]:
    try:
        weights = np.array(table[_WEIGHT].cast(pa.float64()).fill_null(np.nan), dtype=np.float64)
    except pa.ArrowException as error:
        raise InputError(
            f"the column '{_WEIGHT}' of the quality table '{path}' is {table[_WEIGHT].type}: it must hold numbers"
        ) from error
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights > 0)))
    if len(bad):
        raise InputError(
            f"row {at[bad[0]]:,} of the quality table '{path}' has the {_WEIGHT} {weights[bad[0]]:g}: it must be above "
            "0"
        )
    return weights


def _prompts(path: str, table: pa.Table, numbers: NDArray[np.intp]) -> list[str]:
    prompts = _texts(path, table, "prompt")
    for row, prompt in zip(numbers, prompts, strict=True):
        if prompt is None or not prompt.strip():
            raise InputError(f"the prompt in row {row:,} of the quality table '{path}' is empty: remove the row")
    return [prompt for prompt in prompts if prompt is not None]


def _texts(path: str, table: pa.Table, column: str) -> list[str | None]:
    try:
        texts: list[str | None] = table[column].cast(pa.large_string()).to_pylist()
    except pa.ArrowException as error:
        found_type = table.schema.field(column).type
        raise InputError(
            f"the column '{column}' of the quality table '{path}' has type {found_type}: it must be string"
        ) from error
    return texts


def _qualities(path: str, table: pa.Table, column: str, numbers: NDArray[np.intp]) -> list[NDArray[np.float64]]:
    # `validate` and `verify` spare its import.
    import pyarrow.compute as pc

    try:
        lists = table[column].cast(pa.large_list(pa.float64())).combine_chunks()
    except pa.ArrowException as error:
        found_type = table.schema.field(column).type
        raise InputError(
            f"the column '{column}' of the quality table '{path}' has type {found_type}: it must be list<double>, "
            "one number a sampled response"
        ) from error
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    if (empty := np.flatnonzero(counts == 0)).size:
        raise InputError(
            f"the column '{column}' in row {numbers[empty[0]]:,} of the quality table '{path}' is empty: "
            "give at least one number, or remove the row"
        )
    values = pc.fill_null(pc.list_flatten(lists), np.nan).to_numpy()
    ends = np.cumsum(counts)
    if (bad := np.flatnonzero(~np.isfinite(values))).size:
        row = int(np.searchsorted(ends, bad[0], side="right"))
        raise InputError(
            f"the column '{column}' in row {numbers[row]:,} of the quality table '{path}' holds a number that is "
            "null, NaN or infinite: remove it, or the row"
        )
    return np.split(values, ends[:-1])


def _tokens(path: str, table: pa.Table) -> dict[str, Tokens]:
    """By side, where the file has both columns: numbers of tokens read, and lists of those written in each response."""
    import pyarrow.compute as pc

    tokens: dict[str, Tokens] = {}
    for side in SIDES:
        read, written = _READ.format(side=side), _WRITTEN.format(side=side)
        if read not in table.column_names or written not in table.column_names:
            continue
        try:
            lists = table[written].cast(pa.large_list(pa.float64())).combine_chunks()
            counts = table[read].cast(pa.float64()).to_numpy()
        except pa.ArrowException as error:
            raise InputError(
                f"'{read}' must be a number and '{written}' a list of numbers in the quality table '{path}': they are "
                f"{table.schema.field(read).type} and {table.schema.field(written).type}"
            ) from error
        parents = pc.list_parent_indices(lists).to_numpy()
        values = pc.fill_null(pc.list_flatten(lists), np.nan).to_numpy()
        known = np.isfinite(values)
        responses = np.bincount(parents[known], minlength=len(lists))
        with np.errstate(invalid="ignore"):
            means = np.bincount(parents[known], values[known], len(lists)) / responses
        tokens[side] = Tokens(counts, means)
    return tokens


def _sample_tokens(path: str, table: pa.Table, counts: Sequence[int]) -> Tokens | None:
    if any(column not in table.column_names for column in signal_columns.SAMPLE_TOKENS):
        return None
    read, written = (signal_columns.by_answer(path, table, name, counts) for name in signal_columns.SAMPLE_TOKENS)
    return Tokens(np.array([values.mean() for values in read]), np.array([values.mean() for values in written]))


def _metadata(source: pq.ParquetFile) -> dict[str, str]:
    stored: dict[bytes, bytes] = {**(source.schema_arrow.metadata or {}), **(source.metadata.metadata or {})}
    # Arrow and pandas describe their own types under these keys.
    own = {key: value for key, value in stored.items() if key not in (b"ARROW:schema", b"pandas")}
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, value in own.items()}
