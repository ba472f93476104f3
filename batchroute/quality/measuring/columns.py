"""The columns of a quality table: input, responses, token counts and qualities."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from batchroute.fields import SIDES, Side
from batchroute.quality.measuring.measurer import AnsweredRow
from batchroute.quality.measuring.responses import RECORDED
from batchroute.storage.units import Span, Stage
from batchroute.tables.parquet import PromptTable

HELPER_AGREEMENT = "helper_agreement"
"""How far each of the small model's responses agrees with a helper's: a recorded signal."""

_COPIED = ("task", "split")
_AGREEMENT = "agreement"
_SIGNALS = ("logprob", "logprob_low", _AGREEMENT)
_OF_SAMPLES = ("sample_input_tokens", "sample_output_tokens")
_OF_RECORDED = ("input_tokens", "output_tokens", *_SIGNALS)


def input_columns(source: PromptTable, rows: Sequence[AnsweredRow], id: str | None) -> pa.Table:
    """The columns from the input; the prompt is null where it was not usable."""
    table = pa.table({"prompt": pa.array([row.prompt or None for row in rows], pa.string())})
    columns = {name: name for name in _COPIED if name in source.schema.names}
    if id is not None:
        columns["id"] = id
    for name, column in columns.items():
        table = table.append_column(name, _whole_column(source, column))
    return table


def with_responses(table: pa.Table, rows: Sequence[AnsweredRow]) -> pa.Table:
    """Append references and responses, so that `label` can measure the table by another metric."""
    table = table.append_column("reference", pa.array([row.reference for row in rows], pa.string()))
    for side, column in RECORDED.items():
        texts = [row.responses.get(side, []) for row in rows]
        table = table.append_column(column, pa.array(texts, pa.list_(pa.string())))
    return table


def with_tokens(table: pa.Table, side: Side, stage: Stage, spans: Sequence[Span]) -> pa.Table:
    """Append the tokens that the model read for a prompt and wrote in each response; null and empty where it failed."""
    read: list[int | None] = [None] * table.num_rows
    written: list[list[int]] = [[] for _ in range(table.num_rows)]
    for span in spans:
        for row in stage.read(span.unit, ["position", "input_tokens", "output_tokens", "error_type"]).to_pylist():
            if row["error_type"] is None:
                read[row["position"]] = row["input_tokens"]
                written[row["position"]].append(row["output_tokens"])
    table = table.append_column(f"{side}_input_tokens", pa.array(read, pa.int32()))
    return table.append_column(f"{side}_output_tokens", pa.array(written, pa.list_(pa.int32())))


def with_recorded(table: pa.Table, side: Side, source: PromptTable, prefix: str) -> pa.Table:
    """Append what the input knows of recorded responses besides their text: its columns `PREFIX_output_tokens`, …"""
    columns = {name: f"{prefix}_{name}" for name in _OF_RECORDED if f"{prefix}_{name}" in source.schema.names}
    for name, column in columns.items():
        table = table.append_column(f"{side}_{name}", _whole_column(source, column))
    return table


def with_agreement(table: pa.Table, peers: Sequence[pa.Table]) -> pa.Table:
    """Append how far each of the small model's responses agrees with its next ones, as if these were extra samples, and
    the tokens of these. A row with too few responses has none.

    Args:
        peers: the measured rows by the next response, the one after it, …
    """
    agreement: list[list[float]] = []
    for rows in zip(*(measured["small_quality"].to_pylist() for measured in peers), strict=True):
        whole = all(len(row) == len(rows[0]) for row in rows)
        agreement.append([sum(values) / len(peers) for values in zip(*rows, strict=True)] if whole else [])
    columns = {"small_agreement": agreement}
    if "small_output_tokens" in table.column_names:
        written = table["small_output_tokens"].to_pylist()
        lists = [tokens if isinstance(tokens, list) else [] for tokens in written]
        columns["small_sample_output_tokens"] = [
            [
                sum(tokens[(at + peer) % len(tokens)] or 0 for peer in range(1, len(peers) + 1))
                for at in range(len(tokens))
            ]
            for tokens in lists
        ]
        columns["small_sample_input_tokens"] = [[0.0] * len(tokens) for tokens in lists]
    for name, values in columns.items():
        column = pa.array(values, pa.list_(pa.float64()))
        if name in table.column_names:
            table = table.drop_columns(name)
        table = table.append_column(name, column)
    return table


def with_columns(table: pa.Table, source: PromptTable, columns: Sequence[str]) -> pa.Table:
    """Append columns of the input as they are; one that the table has already stays as it is."""
    for column in columns:
        if column not in table.column_names:
            table = table.append_column(column, _whole_column(source, column))
    return table


def _whole_column(source: PromptTable, column: str) -> pa.ChunkedArray:
    batches = source.reader([column]).read(0, source.rows)
    return pa.chunked_array([batch.column(0) for batch in batches], source.schema.field(column).type)


def with_signals(table: pa.Table, side: Side, stage: Stage, spans: Sequence[Span]) -> pa.Table:
    """Append the signals of each response that has a text, null where unknown: `SIDE_logprob`, `SIDE_logprob_low`, and
    `SIDE_agreement` and the tokens of the extra samples if such were taken.
    """
    names = (*_SIGNALS, *_OF_SAMPLES)
    lists: dict[str, list[list[float | None]]] = {name: [[] for _ in range(table.num_rows)] for name in names}
    for span in spans:
        for row in stage.read(span.unit).to_pylist():
            if row["response"] is not None:
                for name, values in lists.items():
                    # Units of earlier versions have no such columns.
                    values[row["position"]].append(row.get(name))
    if not any(value is not None for values in lists[_AGREEMENT] for value in values):
        for name in (_AGREEMENT, *_OF_SAMPLES):
            del lists[name]
    for name, values in lists.items():
        table = table.append_column(f"{side}_{name}", pa.array(values, pa.list_(pa.float64())))
    return table


def with_qualities(table: pa.Table, labelled: pa.Table) -> pa.Table:
    """Append qualities, and status and error of each row; a row that failed has empty lists."""
    for side in SIDES:
        table = table.append_column(f"{side}_quality", labelled[f"{side}_quality"])
    states = ["failed" if bad else "ok" for bad in labelled["error_type"].is_valid().to_pylist()]
    table = table.append_column("status", pa.array(states, pa.string()))
    for column in ("error_type", "error"):
        table = table.append_column(column, labelled[column])
    return table
