"""Merge: every input row with its answer, in input order, into the files of the output."""

from __future__ import annotations

import bisect
import functools
import time
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchroute.costs.prices import COST, usd
from batchroute.spec import SIDES, Job, Side
from batchroute.stages import generate, score
from batchroute.stages.context import Context, Span
from batchroute.storage.workdir import Facts, Receipt
from batchroute.tables.parquet import PromptTable, RowReader
from batchroute.tables.types import writable

STAGE = "merge"
RESULTS = pa.schema(
    [
        pa.field("route", pa.string()),
        pa.field("score", pa.float32()),
        pa.field("model", pa.string()),
        pa.field("response", pa.large_string()),
        pa.field("finish_reason", pa.string()),
        pa.field("input_tokens", pa.int32()),
        pa.field("output_tokens", pa.int32()),
        pa.field("cost", COST),
        pa.field("status", pa.string()),
        pa.field("error_type", pa.string()),
        pa.field("error", pa.string()),
        pa.field("attempts", pa.int32()),
    ]
)
_PIECES_IN_MEMORY = 2
_NOTHING = pa.scalar(usd(0), COST)


def result_names(prefix: str) -> list[str]:
    """The columns that the output has beside those of the input."""
    return [prefix + name for name in RESULTS.names]


def output_schema(job: Job, table: PromptTable) -> pa.Schema:
    results = [field.with_name(job.output.prefix + field.name) for field in RESULTS]
    return pa.schema([*table.schema, *results], metadata=table.schema.metadata)


def merge(context: Context) -> None:
    """Write all parts of the output that have no receipt yet."""
    stage = context.work.stage(STAGE)
    done = stage.receipts()
    pending = [part for part in context.snapshot.parts() if part.unit not in done]
    if not pending:
        return
    # Listed once, before the threads.
    for side in SIDES:
        context.work.stage(side).receipts()

    def worker() -> Callable[[Span], Receipt]:
        reader = context.table.reader()
        answers = [_Answers(context, side) for side in SIDES]
        schema = output_schema(context.job, context.table)

        def do(part: Span) -> Receipt:
            started = time.perf_counter()
            counts: dict[str, int] = {}
            facts = Facts(
                run_id=context.snapshot.run_id,
                unit=part.unit,
                rows=part.rows,
                first=part.start if part.rows else -1,
                last=part.stop - 1 if part.rows else -1,
                seconds=0.0,
            )

            def finish(facts: Facts) -> Facts:
                return facts.model_copy(update={"seconds": time.perf_counter() - started, "counts": counts})

            return stage.commit(facts, schema, _merge_part(context, part, reader, answers, schema, counts), finish)

        return do

    # Two threads in one row group would each read it from its beginning.
    most = max(1, context.table.row_groups())
    context.engine.carry_out_beside(STAGE, pending, list(done.values()), worker, most)


def _merge_part(
    context: Context,
    part: Span,
    reader: RowReader,
    answers: list[_Answers],
    schema: pa.Schema,
    counts: dict[str, int],
) -> Iterator[pa.RecordBatch]:
    for chunk in context.snapshot.chunks_within(part):
        results = _results(context, chunk, answers)
        _count(results, counts)
        at = 0
        for rows in reader.read(chunk.start, chunk.stop):
            columns = results.slice(at, rows.num_rows).columns
            at += rows.num_rows
            yield pa.RecordBatch.from_arrays([*map(writable, rows.columns), *columns], schema=schema)


def _results(context: Context, chunk: Span, answers: list[_Answers]) -> pa.RecordBatch:
    """The result columns of a chunk's rows, in row order."""
    scored = context.work.stage(score.STAGE).read(chunk.unit, ["score", "error_type", "error"])
    found = pa.concat_tables([side.within(chunk.start, chunk.stop) for side in answers])
    # Rows with no usable prompt were never sent to a model: they take nothing from the answers.
    index = np.full(chunk.rows, -1, np.int64)
    index[found["position"].to_numpy() - chunk.start] = np.arange(found.num_rows)
    taken = found.take(pa.array(index, mask=index < 0))
    error_type = pc.coalesce(scored["error_type"], taken["error_type"])
    columns = {
        **{name: taken[name] for name in RESULTS.names if name in taken.column_names},
        "score": scored["score"],
        "error_type": error_type,
        "error": pc.coalesce(scored["error"], taken["error"]),
        "status": pc.if_else(error_type.is_null(), "ok", "failed"),
        "cost": pc.if_else(scored["error_type"].is_null(), taken["cost"], _NOTHING),
        "attempts": pc.fill_null(taken["attempts"], 0),
    }
    table = pa.table([columns[field.name].cast(field.type) for field in RESULTS], schema=RESULTS)
    return table.combine_chunks().to_batches()[0]


def _count(results: pa.RecordBatch, counts: dict[str, int]) -> None:
    failed = pc.sum(pc.equal(results["status"], "failed")).as_py()
    routes: dict[str, int] = {side: pc.sum(pc.equal(results["route"], side)).as_py() or 0 for side in SIDES}
    news: dict[str, int] = {
        "ok": results.num_rows - failed,
        "failed": failed,
        **routes,
        "unrouted": results["route"].null_count,
    }
    for name, number in news.items():
        counts[name] = counts.get(name, 0) + number


class _Answers:
    """The responses of one model, by row position."""

    def __init__(self, context: Context, side: Side) -> None:
        self._stage = context.work.stage(side)
        self._side = side
        self._model = context.job.models.of(side).model
        self._priced = context.job.models.of(side).price is not None
        self._pieces = [receipt for receipt in self._stage.receipts().values() if receipt.rows]
        # Pieces follow one another in row order, so that these are sorted and do not overlap.
        self._firsts = [piece.first for piece in self._pieces]
        self._read = functools.lru_cache(maxsize=_PIECES_IN_MEMORY)(self._read_piece)

    def within(self, start: int, stop: int) -> pa.Table:
        """The answers of the rows from `start` up to `stop` that went to this model; copies have their original's."""
        first = max(bisect.bisect_right(self._firsts, start) - 1, 0)
        last = bisect.bisect_left(self._firsts, stop)
        tables = [_between(self._read(number), start, stop) for number in range(first, last)]
        table = pa.concat_tables([generate.SCHEMA.empty_table(), *tables])
        copied = table["copy_of"].is_valid()
        own, copies = table.filter(pc.invert(copied)), table.filter(copied)
        table = pa.concat_tables([own, self._copies(copies)]) if copies.num_rows else own
        for name, value in (("route", self._side), ("model", self._model)):
            table = table.append_column(name, pa.repeat(value, table.num_rows))
        return table

    def _copies(self, copies: pa.Table) -> pa.Table:
        """The originals' answers under the copies' positions; the model was not asked again, so they cost nothing."""
        table = self._at(copies["copy_of"].to_numpy())
        rows = table.num_rows
        changes = {"position": copies["position"], "attempts": pa.repeat(pa.scalar(0, pa.int32()), rows)}
        if self._priced:
            changes["cost"] = pa.repeat(_NOTHING, rows)
        for name, column in changes.items():
            table = table.set_column(table.column_names.index(name), generate.SCHEMA.field(name), column)
        return table

    def _at(self, positions: npt.NDArray[np.int64]) -> pa.Table:
        """The answers at these positions, in their order; every piece that holds some is read once."""
        numbers = np.searchsorted(np.array(self._firsts), positions, side="right") - 1
        order = np.argsort(numbers, kind="stable")
        tables = []
        for number in np.unique(numbers).tolist():
            piece = self._read(number)
            tables.append(piece.take(np.searchsorted(piece["position"].to_numpy(), positions[numbers == number])))
        return pa.concat_tables(tables).take(np.argsort(order))

    def _read_piece(self, number: int) -> pa.Table:
        return self._stage.read(self._pieces[number].unit)


def _between(table: pa.Table, start: int, stop: int) -> pa.Table:
    first, last = np.searchsorted(table["position"].to_numpy(), [start, stop])
    return table.slice(first, last - first)
