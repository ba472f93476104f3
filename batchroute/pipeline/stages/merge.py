"""Merge: writes every input row with its answer, in input order, into the files of the output."""

from __future__ import annotations

import bisect
import os
import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchroute.costs.columns import COST
from batchroute.costs.prices import usd
from batchroute.pipeline import layout
from batchroute.pipeline.confidences import Confidences
from batchroute.pipeline.context import Context
from batchroute.pipeline.shards import answers
from batchroute.pipeline.shards.names import READ, ROUTES, SHARDS, Shard, shard_stage, side_of
from batchroute.pipeline.stages.read import with_readings
from batchroute.pipeline.stages.results import CONFIDENCE, READING, SIGNALS, output_schema, results_of
from batchroute.pipeline.stages.score import SPREAD
from batchroute.storage.receipts import Facts, Receipt
from batchroute.storage.units import Span
from batchroute.tables.json_columns import columns_of as json_columns
from batchroute.tables.types import converted

# The number of a shard in `SHARDS`: a row's route and model follow from it.
_SHARD = pa.field("shard", pa.int8())
_NEEDED = ("position", "copy_of")
_FURTHER = (answers.TOOL_CALLS, answers.REASONING, answers.FROM_CACHE)
_PIECES_IN_MEMORY = 2
_THREADS = 4
_LATER: dict[Shard, tuple[Shard, ...]] = {"small": ("deferred",), "calibration_small": ("calibration_large",)}
"""The shards whose answers replace those of a shard, row by row."""
_ALWAYS_COUNTED: tuple[Shard, ...] = ("small", "large", "escalated")
# What threads may hold of the input at a time. Each holds a page, which has up to 1,024 rows as pyarrow writes it.
_PAGES_BYTES, _PAGE_ROWS = 128 << 20, 1024
_NOTHING = pa.scalar(usd(0), COST)


def merge(context: Context) -> None:
    """Write all parts of the output that have no receipt yet."""
    # Listed here once, and not by each thread.
    for shard in SHARDS:
        context.work.stage(shard).receipts()
    with context.engine.workers(context, Merger, "merge", _threads(context)) as workers:
        workers.run(layout.MERGE, context.snapshot.parts())


def _threads(context: Context) -> int:
    # Two threads in one row group would both read it from its beginning.
    most = min(_THREADS, os.cpu_count() or 1, max(1, context.table.row_groups()))
    return max(1, min(most, _PAGES_BYTES // max(1, _PAGE_ROWS * context.snapshot.row_bytes)))


class Merger:
    """A worker that writes parts, with its own readers."""

    units_at_once = 1

    def __init__(self, context: Context) -> None:
        self._context, self._stage = context, context.work.stage(layout.MERGE)
        self._reader = context.table.reader()
        self._sides = answered_shards(context)
        self._schema, self._added = output_schema(context.job, context.table), results_of(context.job)
        self._scores, self._confidences = context.work.stage(layout.SCORE), Confidences(context.work)
        self._of_shards = {
            "route": pa.array([ROUTES.get(shard) for shard in SHARDS], pa.string()),
            "model": pa.array([context.job.models.of(side_of(shard)).model for shard in SHARDS], pa.string()),
        }

    def do(self, stage: str, part: Span) -> Receipt:
        started = time.perf_counter()
        counts: dict[str, int] = {}
        facts = Facts.of(self._stage.run_id, part.unit, part.positions)

        def finish(facts: Facts) -> Facts:
            times = {"seconds": time.perf_counter() - started, "finished": time.time()}
            return facts.model_copy(update={**times, "counts": counts})

        return self._stage.commit(facts, self._schema, self._rows(part, counts), finish)

    def close(self) -> None:
        for side in self._sides:
            side.close()

    def _rows(self, part: Span, counts: dict[str, int]) -> Iterator[pa.RecordBatch]:
        for chunk in self._context.snapshot.chunks_within(part):
            results, shards = self._results(chunk)
            _count(results, shards, counts)
            at = 0
            for rows in self._reader.read(chunk.start, chunk.stop):
                columns = [
                    converted(column, field.type) for column, field in zip(rows.columns, self._schema, strict=False)
                ]
                columns += results.slice(at, rows.num_rows).columns
                at += rows.num_rows
                yield pa.RecordBatch.from_arrays(columns, schema=self._schema)

    def _results(self, chunk: Span) -> tuple[pa.RecordBatch, pa.ChunkedArray]:
        """The result columns of a chunk's rows, in row order, and the number of the shard that each answer is from."""
        names, job = self._added.names, self._context.job
        spread = [SPREAD.name] if SPREAD.name in names else []
        scored = self._scores.read(chunk.unit, ["score", "error_type", "error", *spread])
        answered = pa.concat_tables([side.within(chunk.start, chunk.stop) for side in self._sides])
        # Rows without a usable prompt were sent to no model: their index stays null. A row's last answer counts.
        index = np.full(chunk.rows, -1, np.int64)
        index[answered["position"].to_numpy() - chunk.start] = np.arange(answered.num_rows)
        taken = answered.take(pa.array(index, mask=index < 0))
        shards = taken[_SHARD.name]
        error_type = pc.coalesce(scored["error_type"], taken["error_type"])
        columns = {
            **{name: taken[name] for name in names if name in taken.column_names},
            **{name: values.take(shards) for name, values in self._of_shards.items()},
            **{name: scored[name] for name in ("score", *spread)},
            "error_type": error_type,
            "error": pc.coalesce(scored["error"], taken["error"]),
            "status": pc.if_else(error_type.is_null(), "ok", "failed"),
            "cost": pc.if_else(scored["error_type"].is_null(), taken["cost"], _NOTHING),
            "attempts": pc.fill_null(taken["attempts"], 0),
        }
        if CONFIDENCE.name in names:
            columns[CONFIDENCE.name] = self._confidence(chunk)
        if fields := job.json_columns:
            texts = pc.if_else(pc.equal(columns["status"], "ok"), taken["response"], None).to_pylist()
            arrays = json_columns(texts, fields, whole=job.output.columns == "struct")
            columns |= dict(zip([field.name for field in fields], arrays, strict=True))
        arrays = [columns[field.name] for field in self._added]
        arrays = [
            one if one.type == field.type else one.cast(field.type)
            for one, field in zip(arrays, self._added, strict=True)
        ]
        return pa.table(arrays, schema=self._added).combine_chunks().to_batches()[0], shards

    def _confidence(self, chunk: Span) -> pa.ChunkedArray:
        if self._confidences:
            return self._confidences.within(chunk.start, chunk.stop)
        return pa.chunked_array([pa.nulls(chunk.rows, CONFIDENCE.type)])


def _count(results: pa.RecordBatch, shards: pa.ChunkedArray, counts: dict[str, int]) -> None:
    failed = pc.sum(pc.equal(results["status"], "failed")).as_py()
    numbers = np.bincount(shards.drop_null().to_numpy(), minlength=len(SHARDS)).tolist()
    of_shards = dict(zip(SHARDS, numbers, strict=True))
    # Of shards that a job has not, only the first three are in its counts.
    others = [name for name in SHARDS if name not in _ALWAYS_COUNTED and of_shards[name]]
    routes: dict[str, int] = {name: of_shards[name] for name in (*_ALWAYS_COUNTED, *others)}
    of_chunk: dict[str, int] = {
        "ok": results.num_rows - failed,
        "failed": failed,
        **routes,
        "unrouted": results["route"].null_count,
    }
    for name, number in of_chunk.items():
        counts[name] = counts.get(name, 0) + number


def answered_shards(context: Context) -> list[_ShardAnswers]:
    """The answers of the two models by row: each row is in one of the tables, with its last answer."""
    shards: list[Shard] = ["small", "large"]
    if shard_stage(context.work, "calibration_small").receipts():
        shards.append("calibration_small")
    return [_ShardAnswers(context, shard) for shard in shards]


class _ShardAnswers:
    """The answers of one shard, by row position. Where the large model answered a row again, its answer stands here."""

    def __init__(self, context: Context, shard: Shard) -> None:
        self._stage, self._shard = context.work.stage(shard), shard
        self._number = SHARDS.index(shard)
        added = results_of(context.job).names
        possible = (*answers.SCHEMA, *_FURTHER, *SIGNALS, READING)
        fields = [field for field in possible if field.name in (*_NEEDED, *added)]
        self._schema = pa.schema([*fields, _SHARD])
        self._context = context
        read = READING in fields and shard in READ and bool(context.work.stage(READ[shard]).receipts())
        self._readings = context.work.stage(READ[shard]) if read else None
        # What the large model tells of its answers is in no output.
        untold = {field.name for field in SIGNALS} if side_of(shard) == "large" else set()
        self._wanted = [field.name for field in fields if field.name not in untold]
        self._no_rows = self._schema.empty_table()
        # An escalated row's copies share its new answer. The other shards hold the rows that they are for, one by one.
        self._escalated = _again(context, "escalated") if shard == "small" else None
        later = _LATER.get(shard, ())
        self._later = [found for name in later if (found := _again(context, name)) is not None]
        self._pieces = [receipt for receipt in self._stage.receipts().values() if receipt.rows]
        # Pieces follow one another in row order: their first positions rise, and they do not overlap.
        self._firsts = [piece.first for piece in self._pieces]
        self._in_memory: dict[int, pa.Table] = {}

    def within(self, start: int, stop: int) -> pa.Table:
        """The answers of this shard's rows from `start` up to `stop`. A copy has the answer of its original.

        Where the large model answered a deferred or drawn row later, that answer follows all others of the shard.
        """
        first = max(bisect.bisect_right(self._firsts, start) - 1, 0)
        last = bisect.bisect_left(self._firsts, stop)
        tables = [_between(self._read(number), start, stop) for number in range(first, last)]
        answered = pa.concat_tables([self._no_rows, *tables])
        if answered["copy_of"].null_count < answered.num_rows:
            copied = answered["copy_of"].is_valid()
            own, copies = answered.filter(pc.invert(copied)), answered.filter(copied)
            answered = pa.concat_tables([own, self._copies(copies)])
        later = [_after(answered, shard.within(start, stop)) for shard in self._later]
        return pa.concat_tables([answered, *later]) if later else answered

    def close(self) -> None:
        """Drop the pieces in memory."""
        self._in_memory.clear()
        for shard in (self._escalated, *self._later):
            if shard is not None:
                shard.close()

    def _copies(self, copies: pa.Table) -> pa.Table:
        """The originals' answers at the copies' positions; no model answered again, so that copies cost nothing."""
        table = self._at(copies["copy_of"].to_numpy())
        nothing = pc.if_else(table["cost"].is_valid(), _NOTHING, pa.scalar(None, COST))
        attempts = pa.repeat(pa.scalar(0, pa.int32()), table.num_rows)
        return _with(table, position=copies["position"], attempts=attempts, cost=nothing)

    def _at(self, positions: npt.NDArray[np.int64]) -> pa.Table:
        """The answers at these positions, in that order. Each piece is read once."""
        numbers = np.searchsorted(np.array(self._firsts), positions, side="right") - 1
        order = np.argsort(numbers, kind="stable")
        tables = []
        for number in np.unique(numbers).tolist():
            piece = self._read(number)
            tables.append(piece.take(np.searchsorted(piece["position"].to_numpy(), positions[numbers == number])))
        return pa.concat_tables(tables).take(np.argsort(order))

    def _read(self, number: int) -> pa.Table:
        if number not in self._in_memory:
            while len(self._in_memory) >= _PIECES_IN_MEMORY:
                del self._in_memory[next(iter(self._in_memory))]
            self._in_memory[number] = self._read_piece(number)
        return self._in_memory[number]

    def _read_piece(self, number: int) -> pa.Table:
        piece = self._pieces[number]
        table = self._stage.read(piece.unit, self._wanted, all_there=False)
        table = self._routed(with_readings(self._readings, piece.unit, table))
        return (
            table if self._escalated is None else _replaced(table, self._escalated.within(piece.first, piece.last + 1))
        )

    def _routed(self, table: pa.Table) -> pa.Table:
        """The columns of every shard's table. Units of earlier versions, or of other settings, lack some."""
        rows, there = table.num_rows, set(table.column_names)
        columns = [table[field.name] if field.name in there else pa.nulls(rows, field.type) for field in self._schema]
        columns[-1] = pa.array(np.full(rows, self._number, np.int8))
        return pa.table(columns, schema=self._schema)


def _again(context: Context, shard: Shard) -> _ShardAnswers | None:
    """The answers of a shard of rows that the small model answered first; None where there are none."""
    return _ShardAnswers(context, shard) if shard_stage(context.work, shard).receipts() else None


def _replaced(small: pa.Table, escalated: pa.Table) -> pa.Table:
    """The small model's answers; escalated rows have the large model's, with the cost and attempts of both models.

    What the small model's answers told stays in the row.
    """
    if not escalated.num_rows:
        return small
    replaced = pc.is_in(small["position"], escalated["position"].combine_chunks())
    return pa.concat_tables([small.filter(pc.invert(replaced)), _after(small, escalated)]).sort_by("position")


def _after(small: pa.Table, again: pa.Table) -> pa.Table:
    """The large model's answers to some of the small model's rows, with the cost and attempts of both models."""
    if not again.num_rows:
        return again
    positions = small["position"].to_numpy()
    in_order = np.argsort(positions, kind="stable")
    at = in_order[np.searchsorted(positions, again["position"].to_numpy(), sorter=in_order)]
    told = [field.name for field in (*SIGNALS, READING) if field.name in small.column_names]
    before = small.select(["cost", "attempts", *told]).take(at)
    cost = pc.add(before["cost"], again["cost"]).cast(COST)
    attempts = pc.add(before["attempts"], again["attempts"])
    return _with(again, cost=cost, attempts=attempts, **{name: before[name] for name in told})


def _with(table: pa.Table, **columns: pa.ChunkedArray) -> pa.Table:
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), table.schema.field(name), column)
    return table


def _between(table: pa.Table, start: int, stop: int) -> pa.Table:
    first, last = np.searchsorted(table["position"].to_numpy(), [start, stop])
    return table.slice(first, last - first)
