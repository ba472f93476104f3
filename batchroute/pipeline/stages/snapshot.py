"""The snapshot: lists the input once, checks it, and fixes the run's identity and unit bounds."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from batchroute.config.job import Job
from batchroute.costs.price_lists import Resolved, resolve
from batchroute.costs.prices import Price
from batchroute.errors import InputError
from batchroute.fields import SIDES
from batchroute.pipeline import layout
from batchroute.pipeline.context import Snapshot
from batchroute.pipeline.identity import Identity, difference
from batchroute.pipeline.readers import check_reader
from batchroute.pipeline.stages.results import result_names
from batchroute.storage import manifest
from batchroute.storage.folder import Folder
from batchroute.storage.objects import is_local, local_path
from batchroute.storage.workdir import WORK_SUFFIX, Workdir, claim, run_ids
from batchroute.tables.files import Files, InputFile
from batchroute.tables.listing import is_glob, matches
from batchroute.tables.parquet import PromptTable
from batchroute.tables.prompts import PromptKind, Prompts, prompt_columns
from batchroute.tables.repeated import check_ids

if TYPE_CHECKING:
    from batchroute.pipeline.stages.fetch import Fetched

# A unit is at most 0.2 % of a large run, and never so small that its commit costs more than its work.
_UNITS_A_RUN = 512
_CHUNK_ROWS, _UNIT_ROWS, _PART_ROWS = 2048, 256, 65536
# Memory holds a few chunks, pieces and parts at a time, however long their rows are.
_CHUNK_BYTES, _UNIT_BYTES, _PART_BYTES = 16 << 20, 16 << 20, 64 << 20
# Files of every depth at which a run writes parquet.
_WRITTEN = (
    "/data/part-00000.parquet",
    *(f"{WORK_SUFFIX}/0/{stage}/00000.parquet" for stage in ("score", "shards/small")),
)
_NO_ROUTER = Resolved(Price(input=Decimal(0), output=Decimal(0)), "")
_PRICED = {
    "router": ("the router", "router.price"),
    "small": ("the small model", "models.small.price"),
    "large": ("the large model", "models.large.price"),
}


def inspect(job: Job, identity: Identity, fetched: Fetched | None = None) -> tuple[Snapshot, PromptTable]:
    """The snapshot of a run that would begin now, and its input table.

    Args:
        fetched: the rows of the job's query or table, where the input is one.

    Raises:
        InputError: about the input's columns, or a clash of names.
    """
    source = Files(job.input.uri, job.input.storage_options) if fetched is None else fetched.files
    files = identity.files if fetched is None else source.find()
    table = PromptTable.open(files, source, job.input.drift == "strict")
    kind = check_columns(job, table)
    if job.input.uri:
        _check_output_place(job, identity.files)
    if job.policy.calibrate is not None:
        from batchroute.pipeline.tonight.draw import check_rows

        check_rows(job.policy.calibrate.rows, table.rows)
    row_bytes = sum(file.bytes for file in files) // max(1, table.rows)
    chunk_rows, unit_rows, part_rows = unit_bounds(job, row_bytes, table.rows)
    snapshot = Snapshot(
        run_id=identity.run_id,
        fingerprint=identity.fingerprint,
        settings=identity.settings,
        source={} if fetched is None else fetched.source,
        files=files,
        rows=table.rows,
        prompt_kind=kind,
        chunk_rows=chunk_rows,
        unit_rows=unit_rows,
        part_rows=part_rows,
        prices=_prices(job),
    )
    return snapshot, table


def _prices(job: Job) -> dict[str, Resolved]:
    """Raises:
    InputError: a list of prices is wrong or missing, or the cost is limited and a price is missing.
    """
    resolved = {"router": _NO_ROUTER}
    if job.router is not None:
        resolved["router"] = resolve(job.prices, job.router.model, None, None, job.router.price)
    for side in SIDES:
        model = job.models.of(side)
        tier = model.extra_body.get("service_tier")
        resolved[side] = resolve(
            job.prices, model.model, model.record.price_list, model.url, model.price, service_tier=tier
        )
    _check_limited(job, resolved, "set {keys} in the job file, or name a list under prices that has what is missing")
    return resolved


def _check_limited(job: Job, prices: dict[str, Resolved], advice: str) -> None:
    """Raises:
    InputError: the cost is limited, and a price is missing.
    """
    missing = {name: price.source for name, price in prices.items() if price.price is None}
    if job.max_cost is not None and missing:
        what = " and ".join(f"{_PRICED[name][0]} ({why})" for name, why in missing.items())
        keys = " and ".join(_PRICED[name][1] for name in missing)
        raise InputError(f"max_cost needs the price of {what}: {advice.format(keys=keys)}")


def check_columns(job: Job, table: PromptTable) -> PromptKind:
    """Check the columns that the job names; returns the kind of the prompts.

    Raises:
        InputError: a column is missing, of a wrong type or named like a result column, or the audit cannot be measured.
    """
    spec = job.input
    prompts = Prompts.of(spec.prompt, table, chat=spec.chat, unsupported=spec.unsupported)
    for column in prompts.columns:
        table.check_everywhere(column, "input.prompt")
    if job.input.id is not None:
        table.check_id(job.input.id)
    for column in job.report.group_by:
        table.check_groupable(column, "report.group_by")
    if job.policy.by is not None:
        table.check_groupable(job.policy.by, "policy.by")
    _check_result_names(job, table)
    _check_what_is_measured(job, table)
    check_reader(job)
    return prompts.kind


def _check_what_is_measured(job: Job, table: PromptTable) -> None:
    """The columns of the audit, of tonight's calibration and of recorded signals; most jobs have none of them."""
    if job.report.audit is not None:
        from batchroute.pipeline.audit.metric import check_audit

        check_audit(job, table)
    if job.policy.calibrate is not None:
        from batchroute.pipeline.tonight.measure import check_calibrate

        check_calibrate(job, table)
    if job.policy.signals:
        from batchroute.pipeline.recorded import check_recorded

        check_recorded(job, table)


def begin(
    job: Job, identity: Identity, snapshot: Snapshot, table: PromptTable, output: Folder
) -> tuple[Snapshot, Workdir]:
    """Begin the run, or take up the one that was begun; the unit bounds are those it was begun with.

    Raises:
        InputError: ids are missing or repeated, another run has begun on this output, or this one began without a price
        that a limit of the cost needs.
    """
    refuse_others(output, identity)
    work = Workdir(output, snapshot.run_id)
    begun = work.read_json(layout.RUN)
    if begun is None:
        _refuse_foreign_data(output)
        table.check_times()
        if job.input.id is not None:
            check_ids(table, job.input.id, prompt_columns(job.input.prompt, table.schema))
        if job.input.in_place:
            snapshot = snapshot.model_copy(update={"files": table.source.seal(snapshot.files)})
        work.put_json(layout.RUN, snapshot.model_dump(mode="json"))
        begun = work.read_json(layout.RUN)
        if claim(output, snapshot.run_id) != snapshot.run_id:
            # Another job began here at the same moment and won.
            work.folder.remove_all()
            refuse_others(output, identity)
            raise InputError(f"{output} was claimed by another run that is gone; start again with --fresh")
    frozen = Snapshot.model_validate(begun)
    _check_limited(job, frozen.prices, "the run began without; start again with --fresh, or leave max_cost out")
    return frozen, work


def committed(output: Folder, identity: Identity) -> manifest.Manifest | None:
    """The manifest, if this very run is committed.

    Raises:
        InputError: another run is committed here.
    """
    committed = manifest.read(output)
    if committed is None or committed.fingerprint == identity.fingerprint:
        return committed
    other = {"settings": committed.settings, "files": committed.source.get("files", committed.input_files)}
    raise InputError(difference(output, "holds the committed output of", other, identity.tree))


def refuse_others(output: Folder, identity: Identity) -> None:
    """Raises:
    InputError: another run has begun on this output; names the first setting or file that differs.
    """
    for run_id in run_ids(output):
        begun = Workdir(output, run_id).read_json(layout.RUN)
        if run_id != identity.run_id and begun is not None:
            files = begun.get("source", {}).get("files") or [
                InputFile.model_validate(f).identity() for f in begun["files"]
            ]
            other = {"settings": begun["settings"], "files": files}
            raise InputError(difference(output, "holds the unfinished run of", other, identity.tree))


def _refuse_foreign_data(output: Folder) -> None:
    """Readers of `data/` would take foreign files for rows of this run."""
    foreign = output.folder("data").names("")
    if foreign:
        raise InputError(
            f"{output}/data holds {len(foreign):,} files of no run that is known here, such as {foreign[0]}; "
            "choose another output.uri, or, when an earlier run wrote them, start again with --fresh"
        )


def _check_result_names(job: Job, table: PromptTable) -> None:
    clashes = [name for name in result_names(job) if name in table.schema.names]
    if clashes:
        raise InputError(
            f"the input has columns that the output adds: {', '.join(clashes)}; set output.prefix, for example to 'br_'"
        )


def _check_output_place(job: Job, files: list[InputFile]) -> None:
    """Raises:
    InputError: a later search for the input would find what this run writes.
    """
    output = place(job.output.uri, job.output.storage_options)
    source = place(job.input.uri, job.input.storage_options)
    inside = files[0].path != source and f"{output}/".startswith(f"{source}/")
    if inside or any(file.path.startswith((f"{output}/", f"{output}{WORK_SUFFIX}/")) for file in files):
        raise InputError(f"output.uri {output} and the input {source} lie in one another; choose another output folder")
    if is_glob(source) and any(matches(source, f"{output}{path}") for path in _WRITTEN):
        raise InputError(f"the input {source} matches files of output.uri {output}; choose another, or a narrower glob")


def place(uri: str, options: Mapping[str, Any]) -> str:
    """The place in one spelling, whatever links and account names are in it."""
    if is_local(uri):
        return os.path.realpath(local_path(uri))
    from batchroute.storage.store import store_of

    store = store_of(uri, options)
    return store.uri(store.path(uri))


def unit_bounds(job: Job, row_bytes: int, rows: int) -> tuple[int, int, int]:
    """The most rows of a chunk to score, of a unit to generate, and of a file of the output."""
    row_bytes = max(1, row_bytes)
    large = math.ceil(rows / _UNITS_A_RUN)
    chunk = job.units.score or max(1, min(max(_CHUNK_ROWS, large), _CHUNK_BYTES // row_bytes))
    fewest = max(_UNIT_ROWS, *(job.models.of(side).record.fewest_rows for side in SIDES))
    unit = job.units.generate or max(1, min(max(fewest, large), _UNIT_BYTES // row_bytes))
    part = job.units.merge or min(max(_PART_ROWS, chunk), max(1, _PART_BYTES // row_bytes))
    return chunk, unit, max(1, part // chunk) * chunk
