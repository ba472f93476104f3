"""Collecting: what was measured, unit by unit, becomes the quality table and the report."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from batchroute.fields import SIDES, Side
from batchroute.quality.measuring.measurer import Answered
from batchroute.quality.measuring.responses import RECORDED
from batchroute.storage.units import Span, Stage
from batchroute.tables.parquet import PromptTable

_COPIED = ("task", "split")


def input_columns(source: PromptTable, rows: Sequence[Answered], id: str | None) -> pa.Table:
    """The columns that come from the input, by row; the prompt is null where it was not usable."""
    table = pa.table({"prompt": pa.array([row.prompt or None for row in rows], pa.string())})
    wanted = {name: name for name in _COPIED if name in source.schema.names}
    if id is not None:
        wanted["id"] = id
    for name, column in wanted.items():
        batches = source.reader([column]).read(0, source.rows)
        kind = source.schema.field(column).type
        table = table.append_column(name, pa.chunked_array([batch.column(0) for batch in batches], kind))
    return table


def with_responses(table: pa.Table, rows: Sequence[Answered]) -> pa.Table:
    """With references and responses: itself an input to label, by another metric."""
    table = table.append_column("reference", pa.array([row.reference for row in rows], pa.string()))
    for side, column in RECORDED.items():
        texts = [row.responses.get(side, []) for row in rows]
        table = table.append_column(column, pa.array(texts, pa.list_(pa.string())))
    return table


def with_tokens(table: pa.Table, side: Side, stage: Stage, spans: Sequence[Span]) -> pa.Table:
    """With what the model read for each prompt, and what it wrote in each of the responses: null and empty where it did
    not answer."""
    read: list[int | None] = [None] * table.num_rows
    written: list[list[int]] = [[] for _ in range(table.num_rows)]
    for span in spans:
        for row in stage.read(span.unit, ["position", "input_tokens", "output_tokens", "error_type"]).to_pylist():
            if row["error_type"] is None:
                read[row["position"]] = row["input_tokens"]
                written[row["position"]].append(row["output_tokens"])
    table = table.append_column(f"{side}_input_tokens", pa.array(read, pa.int32()))
    return table.append_column(f"{side}_output_tokens", pa.array(written, pa.list_(pa.int32())))


def with_qualities(table: pa.Table, labelled: pa.Table) -> pa.Table:
    """The quality table: a row that failed has empty lists, and says why."""
    for side in SIDES:
        table = table.append_column(f"{side}_quality", labelled[f"{side}_quality"])
    states = ["failed" if bad else "ok" for bad in labelled["error_type"].is_valid().to_pylist()]
    table = table.append_column("status", pa.array(states, pa.string()))
    for column in ("error_type", "error"):
        table = table.append_column(column, labelled[column])
    return table
