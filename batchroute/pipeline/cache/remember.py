"""Remember: puts the answers that a run has paid for into the cache, for later runs.

Only answers that are ok are kept, and none that came from the cache: an answer's age counts from the day it was paid.
The answers of many units share a file, since a reader makes two requests for each file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from batchroute.cache.files import KEY, CacheFiles, column_of, today
from batchroute.config.job import Job
from batchroute.errors import BatchrouteError
from batchroute.pipeline import layout
from batchroute.pipeline.cache.keys import RowKeys
from batchroute.pipeline.cache.recall import answer_fields, read_plan
from batchroute.pipeline.context import Snapshot
from batchroute.pipeline.shards.answers import FROM_CACHE
from batchroute.pipeline.shards.names import SHARDS, Shard
from batchroute.progress import Progress
from batchroute.storage.receipts import Receipt
from batchroute.storage.workdir import Workdir

# Of answers as the work folder has them; about five times as much in memory.
_FILE_BYTES = 16 << 20


def remember(job: Job, work: Workdir, progress: Progress) -> None:
    """Keep the answers of all units that are done; on rank 0. Does nothing without a cache, or a second time.

    A cache that cannot be written is no reason to hold back an output: the log says that its answers are not kept.
    """
    begun = work.read_json(layout.RUN) if job.cache is not None else None
    if begun is None:
        return
    snapshot = Snapshot.model_validate(begun)
    try:
        for shard in SHARDS:
            _remember(job, work, snapshot, shard)
    except BatchrouteError as error:
        progress.note("cache", f"the answers of this run are not kept for later ones: {error}")


def _remember(job: Job, work: Workdir, snapshot: Snapshot, shard: Shard) -> None:
    plan = read_plan(work, shard)
    if plan is None or job.cache is None:
        return
    folder = work.folder.folder(f"{layout.CACHED}/{shard}")
    kept = [name for name in folder.names(".json") if name.startswith(layout.KEPT)]
    before = {
        unit: digest
        for name in kept
        for unit, digest in (work.read_json(f"{layout.CACHED}/{shard}/{name}") or {}).items()
    }
    stage, keys = work.stage(shard), RowKeys(work, snapshot, plan.seed)
    new = {unit: receipt for unit, receipt in stage.receipts().items() if before.get(unit) != receipt.sha256}
    if not new:
        return
    files, place = CacheFiles(job.cache), f"{plan.model}/{today().isoformat()}"
    for units in _groups(new.values()):
        rows = pa.concat_tables([_paid(stage.read(unit)) for unit in units])
        if rows.num_rows:
            order = rows.sort_by("position")
            column = column_of(keys.of(order["position"].to_numpy()))
            table = order.select([field.name for field in answer_fields(order.schema)])
            files.put(place, work.run_id, shard, table.add_column(0, KEY, column))
    work.put_json(
        f"{layout.CACHED}/{shard}/{layout.KEPT}{len(kept):03d}.json",
        {unit: receipt.sha256 for unit, receipt in new.items()},
    )


def _groups(receipts: Iterable[Receipt]) -> Iterator[list[str]]:
    """Units whose answers share a file."""
    units: list[str] = []
    gathered = 0
    for receipt in receipts:
        units.append(receipt.unit)
        gathered += receipt.bytes
        if gathered >= _FILE_BYTES:
            yield units
            units, gathered = [], 0
    if units:
        yield units


def _paid(answers: pa.Table) -> pa.Table:
    """The rows that are ok and that this run has asked for, without the column that says so."""
    good = pc.and_(answers["copy_of"].is_null(), answers["error_type"].is_null())
    if FROM_CACHE.name in answers.column_names:
        good = pc.and_(good, pc.invert(answers[FROM_CACHE.name].fill_null(False)))
        answers = answers.drop_columns([FROM_CACHE.name])
    return answers.filter(good)
