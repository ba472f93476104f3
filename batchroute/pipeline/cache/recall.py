"""Recall: looks up, before a model is asked, which rows of a shard have an answer in the cache.

The files that a shard reads are listed once, in `files.json`, and what they answer is put into the work folder unit by
unit. So a hit stays a hit after a crash, for every rank and machine, though files of the cache come and go meanwhile.

Rank 0 does it alone. It holds 70 bytes for each row of the shard, one file of the cache, and answers of 64 MiB. In a
bucket it makes two requests for each file, and one more for each file with hits and 64 MiB of answers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from batchroute.cache.files import CacheFiles, Keys, today
from batchroute.cache.matching import Numbers, match
from batchroute.pipeline import layout
from batchroute.pipeline.cache.keys import RowKeys, folder_of
from batchroute.pipeline.context import Context
from batchroute.pipeline.shards.answers import SCHEMA, model_of, schema_of
from batchroute.pipeline.shards.hits import Hits, hit_stage
from batchroute.pipeline.shards.names import Shard, shard_stage, side_of
from batchroute.pipeline.shards.pieces import Pieces
from batchroute.storage.receipts import Facts, Receipt
from batchroute.storage.units import Stage
from batchroute.storage.workdir import Workdir
from batchroute.words import plural

_BYTES_IN_MEMORY = 64 << 20
_OF_A_RUN = ("position", "copy_of", "cost", "error_type", "error", "attempts")


class CachePlan(BaseModel):
    """`files.json` of a shard, put before its first look-up.

    Attributes:
        model: the folder of the model's answers in the cache.
        seed: of a model that samples; None for greedy decoding.
        files: those that the shard reads, the newest first.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    seed: int | None
    files: list[str]


def read_plan(work: Workdir, shard: Shard) -> CachePlan | None:
    tree = work.read_json(layout.CACHE_FILES.format(shard=shard))
    return None if tree is None else CachePlan.model_validate(tree)


def recall(context: Context, shards: Sequence[Shard]) -> None:
    """Look up the rows of shards that are whole; on rank 0. Does nothing without a cache, or a second time.

    Pieces whose rows all have answers are committed, so that no model is loaded for them.

    Raises:
        InputError, StoppedError: the cache cannot be listed or read.
    """
    if context.job.cache is None:
        return
    for shard in shards:
        if not shard_stage(context.work, shard).receipts():
            continue
        done = layout.RECALLED.format(shard=shard)
        if context.work.read_json(done) is None:
            units = _recall(context, shard)
            context.work.put_json(done, {"units": units})
            _tell(context, shard, sum(units.values()))
        _commit_whole(context, shard)


def answer_fields(schema: pa.Schema) -> list[pa.Field]:
    """The columns of a model's answers that a cache keeps: those of a row that is ok, without place and cost."""
    return [field for field in schema if field.name not in _OF_A_RUN]


def _recall(context: Context, shard: Shard) -> dict[str, int]:
    """Put what the cache answers; returns the number of hits of each unit that has any."""
    assert context.job.cache is not None
    plan = _fixed_plan(context, shard)
    stage = hit_stage(context.work, shard)
    if plan.files:
        rows = _Rows.read(context, shard, plan)
        files = CacheFiles(context.job.cache, lambda words: context.engine.progress.note("cache", words))
        sizes: list[float] = []
        file_of, row_of = match(rows.keys, _keys(context, files, plan.files, sizes))
        done = stage.receipts()
        found = _Found(file_of, row_of, np.array(sizes))
        for unit, table in _answers(context, shard, plan, files, rows, found):
            if unit not in done:
                _commit(context, stage, unit, table)
    return {unit: receipt.rows for unit, receipt in stage.receipts().items() if receipt.rows}


def _fixed_plan(context: Context, shard: Shard) -> CachePlan:
    """The plan of the first attempt that came here."""
    plan = read_plan(context.work, shard)
    if plan is None:
        spec, model = context.job.cache, model_of(context.job, side_of(shard))
        assert spec is not None
        files, folder = CacheFiles(spec), folder_of(model, context.snapshot.prompt_kind)
        seed = None if model.generation.greedy else model.generation.seed
        plan = CachePlan(model=folder, seed=seed, files=files.names(folder, spec.days, today()))
        context.work.put_json(layout.CACHE_FILES.format(shard=shard), plan.model_dump())
        plan = read_plan(context.work, shard)
        assert plan is not None
    return plan


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of a shard that are no copies, unit by unit; arrays of shape [rows].

    Attributes:
        unit: the number of each row's unit among `units`.
    """

    units: list[str]
    unit: Numbers
    positions: NDArray[np.int64]
    keys: Keys

    @classmethod
    def read(cls, context: Context, shard: Shard, plan: CachePlan) -> _Rows:
        stage, keys_of = shard_stage(context.work, shard), RowKeys(context.work, context.snapshot, plan.seed)
        units = list(stage.receipts())
        of_units, positions, keys = [np.empty(0, np.int32)], [np.empty(0, np.int64)], [np.empty((0, 2), np.uint64)]
        for number, unit in enumerate(units):
            context.engine.check()
            rows = stage.read(unit, ["position", "copy_of"])
            own = np.sort(rows["position"].filter(rows["copy_of"].is_null()).to_numpy())
            of_units.append(np.full(len(own), number, np.int32))
            positions.append(own)
            keys.append(keys_of.of(own))
        return cls(units, np.concatenate(of_units), np.concatenate(positions), np.concatenate(keys))


@dataclass(frozen=True, slots=True)
class _Found:
    """Which file and which row of it answers each row of a shard, as `match` has it; and the bytes of a file's row."""

    file: Numbers
    row: Numbers
    sizes: NDArray[np.float64]


def _keys(context: Context, files: CacheFiles, names: Sequence[str], sizes: list[float]) -> Iterator[Keys | None]:
    """The keys of each file. Its bytes a row go into `sizes`."""
    for name in names:
        context.engine.check()
        keys = files.keys(name)
        sizes.append(0.0 if keys is None else keys[1] / max(1, len(keys[0])))
        yield None if keys is None else keys[0]


def _answers(
    context: Context, shard: Shard, plan: CachePlan, files: CacheFiles, rows: _Rows, found: _Found
) -> Iterator[tuple[str, pa.Table]]:
    """The answers of each unit that has any. Each file is read once for as many units as fit into memory."""
    schema = pa.schema([SCHEMA.field("position"), *answer_fields(schema_of(model_of(context.job, side_of(shard))))])
    for first, last in _groups(rows, found):
        members = np.flatnonzero((rows.unit >= first) & (rows.unit < last) & (found.file >= 0))
        tables = [schema.empty_table()]
        for number in np.unique(found.file[members]).tolist():
            context.engine.check()
            table = files.rows(plan.files[number])
            if table is not None:
                here = members[found.file[members] == number]
                tables.append(_taken(table, found.row[here], rows.positions[here], schema))
        whole = pa.concat_tables(tables).sort_by("position")
        # A unit's positions follow those of the unit before it.
        ends = np.searchsorted(rows.unit, np.arange(first, last + 1))
        bounds = [rows.positions[end] if end < len(rows.positions) else np.iinfo(np.int64).max for end in ends]
        cuts = np.searchsorted(whole["position"].to_numpy(), bounds)
        for number, (start, stop) in enumerate(itertools.pairwise(cuts), first):
            if stop > start:
                yield rows.units[number], whole.slice(start, stop - start)


def _groups(rows: _Rows, found: _Found) -> Iterator[tuple[int, int]]:
    """Numbers of units, from and up to, whose answers together fit into memory."""
    hit = found.file >= 0
    if not hit.any():
        return
    sizes = np.bincount(rows.unit[hit], found.sizes[found.file[hit]], len(rows.units))
    first, gathered = 0, 0.0
    for number, size in enumerate(sizes):
        if gathered and gathered + size > _BYTES_IN_MEMORY:
            yield first, number
            first, gathered = number, 0.0
        gathered += size
    yield first, len(rows.units)


def _taken(table: pa.Table, rows: Numbers, positions: NDArray[np.int64], schema: pa.Schema) -> pa.Table:
    """Rows of a file of the cache, as the work folder keeps them. A file of an earlier version may lack columns."""
    table = table.take(pa.array(rows, pa.int64()))
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(len(rows), field.type)
        for field in schema
        if field.name != "position"
    ]
    return pa.table([pa.array(positions), *columns], schema=schema)


def _commit(context: Context, stage: Stage, unit: str, table: pa.Table) -> Receipt:
    facts = Facts.of(context.work.run_id, unit, table["position"].to_pylist(), counts={"hits": table.num_rows})
    return stage.commit(facts, table.schema, table.to_batches())


def _tell(context: Context, shard: Shard, hits: int) -> None:
    rows = sum(piece.rows - piece.counts["copies"] for piece in shard_stage(context.work, shard).receipts().values())
    context.engine.progress.note(
        "cache", f"{shard}: {hits:,} of {plural(rows, 'row')} have an answer of an earlier run", shard=shard, hits=hits
    )


def _commit_whole(context: Context, shard: Shard) -> None:
    units, pieces = Hits(context.work, shard, None).units, Pieces(context, shard)
    for receipt in pieces.pending() if units else ():
        if units.get(receipt.unit, 0) == receipt.rows - receipt.counts["copies"]:
            pieces.commit(pieces.read(receipt), [], 0.0, 0.0)
