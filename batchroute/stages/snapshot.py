"""The snapshot: lists the input once, checks it, and fixes what the run is and how it is cut into units."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from batchroute import models
from batchroute.errors import InputError
from batchroute.router.calibration import Calibration, Point
from batchroute.router.notes import CALIBRATION_FILE
from batchroute.spec import SIDES, Job
from batchroute.stages.context import Snapshot
from batchroute.stages.merge import result_names
from batchroute.storage import manifest
from batchroute.storage.folder import Folder
from batchroute.storage.objects import is_local, local_path
from batchroute.storage.workdir import Workdir, claim, run_ids
from batchroute.tables.files import Files, InputFile
from batchroute.tables.parquet import PromptTable

RUN = "run.json"

# No unit is more than 0.2 % of a large run, and none is so small that committing it costs more than its work.
_UNITS_A_RUN = 512
_CHUNK_ROWS, _UNIT_ROWS, _PART_ROWS = 2048, 256, 65536
_CHUNK_BYTES, _PART_BYTES = 64 << 20, 256 << 20

# Settings that change how fast results come, not what they are.
_NOT_RESULTS_OF_AN_OUTPUT = {"uri", "storage_options", "single_writer", "keep_work"}
_NOT_RESULTS = {
    "name": True,
    "output": _NOT_RESULTS_OF_AN_OUTPUT,
    "report": True,
    "units": True,
    "max_failed": True,
}
_NOT_RESULTS_OF_A_MODEL = {"batch_size"}


def inspect(job: Job) -> tuple[Snapshot, PromptTable]:
    """What a run of this job would be: its input as it is now, its fingerprint and its unit bounds.

    Raises:
        InputError: about the input's files or columns, a model that is not there, or a clash of names.
    """
    source = Files(job.input.uri, job.input.storage_options)
    files = source.find()
    table = PromptTable.open(files, source)
    kind = table.prompt_kind(job.input.prompt)
    if job.input.id is not None:
        table.check_column(job.input.id, "input.id")
    for column in job.report.group_by:
        table.check_groupable(column, "report.group_by")
    _check_result_names(job, table)
    _check_output_place(job, files)
    settings = _settings(job)
    fingerprint = fingerprint_of({"settings": settings, "files": [file.identity() for file in files]})
    chunk_rows, unit_rows, part_rows = _bounds(job, files, table.rows)
    snapshot = Snapshot(
        run_id=fingerprint[:16],
        fingerprint=fingerprint,
        settings=settings,
        files=files,
        rows=table.rows,
        prompt_kind=kind,
        chunk_rows=chunk_rows,
        unit_rows=unit_rows,
        part_rows=part_rows,
    )
    return snapshot, table


def begin(job: Job, snapshot: Snapshot, table: PromptTable, output: Folder) -> tuple[Snapshot, Workdir]:
    """Begin the run, or take up the one that was begun; the unit bounds are those it was begun with.

    Raises:
        InputError: ids are missing or repeated, or another run has begun on this output.
    """
    refuse_others(output, snapshot)
    work = Workdir(output, snapshot.run_id)
    begun = work.read_json(RUN)
    if begun is None:
        _refuse_foreign_data(output)
        if job.input.id is not None:
            check_ids(table, job.input.id)
        work.put_json(RUN, snapshot.model_dump(mode="json"))
        begun = work.read_json(RUN)
        if claim(output, snapshot.run_id) != snapshot.run_id:
            # Another job began here at the same moment and was first.
            work.folder.remove_all()
            refuse_others(output, snapshot)
            raise InputError(f"{output} was claimed by another run that is gone; start anew with --fresh")
    return Snapshot.model_validate(begun), work


def committed(output: Folder, snapshot: Snapshot) -> manifest.Manifest | None:
    """The manifest, when this very run is committed.

    Raises:
        InputError: another run is.
    """
    found = manifest.read(output)
    if found is None or found.fingerprint == snapshot.fingerprint:
        return found
    other = {"settings": found.settings, "files": found.input_files}
    raise InputError(difference(output, "holds the committed output of", other, _tree(snapshot)))


def refuse_others(output: Folder, snapshot: Snapshot) -> None:
    """Raises:
    InputError: another run has begun on this output; names the first setting or file that differs.
    """
    for run_id in run_ids(output):
        begun = Workdir(output, run_id).read_json(RUN)
        if run_id != snapshot.run_id and begun is not None:
            other = Snapshot.model_validate(begun)
            raise InputError(difference(output, "holds the unfinished run of", _tree(other), _tree(snapshot)))


def _refuse_foreign_data(output: Folder) -> None:
    """Files of others in `data/` would be read as if they were of this run."""
    foreign = output.folder("data").names("")
    if foreign:
        raise InputError(
            f"{output}/data holds {len(foreign):,} files of no run that is known here, such as {foreign[0]}; "
            "choose another output.uri, or, when an earlier run wrote them, start anew with --fresh"
        )


def fingerprint_of(tree: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def check_ids(table: PromptTable, column: str) -> None:
    """Raises:
    InputError: an id is null, not valid text, or there twice; the first few are shown.
    """
    hashes = np.empty(table.rows, np.uint64)
    at = 0
    for batch in table.reader([column]).read(0, table.rows):
        ids = batch.column(0)
        if ids.null_count:
            row = at + ids.is_null().to_pylist().index(True)
            raise InputError(f"input.id: column '{column}' is null in {table.where(row)}; every row needs an id")
        try:
            ids.validate(full=True)
        except pa.ArrowInvalid as error:
            raise InputError(f"input.id: column '{column}' near {table.where(at)}: {error}") from error
        hashes[at : at + len(ids)] = _hash(ids)
        at += len(ids)
    # In place: 8 bytes a row are all that this check may cost.
    hashes.sort()
    repeated = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    if len(repeated):
        _show_repeated(table, column, repeated)


def _hash(ids: pa.Array) -> Any:
    if pa.types.is_decimal(ids.type):
        ids = ids.cast(pa.string())  # polars knows none of more than 38 digits
    elif pa.types.is_timestamp(ids.type):
        ids = ids.cast(pa.int64())  # nor time zones without a name
    return pl.Series(values=ids).hash(seed=0).to_numpy()


def _show_repeated(table: PromptTable, column: str, hashes: Any) -> None:
    seen: dict[Any, list[int]] = {}
    at = 0
    for batch in table.reader([column]).read(0, table.rows):
        ids = batch.column(0)
        for offset in np.flatnonzero(np.isin(_hash(ids), hashes)).tolist():
            seen.setdefault(ids[offset].as_py(), []).append(at + offset)
        at += len(ids)
    repeated = {value: rows for value, rows in seen.items() if len(rows) > 1}
    if repeated:
        shown = "; ".join(
            f"{value!r} in {table.where(rows[0])} and {table.where(rows[1])}"
            for value, rows in list(repeated.items())[:3]
        )
        raise InputError(f"input.id: column '{column}' repeats {len(repeated):,} ids: {shown}")


def _check_result_names(job: Job, table: PromptTable) -> None:
    clashes = [name for name in result_names(job.output.prefix) if name in table.schema.names]
    if clashes:
        raise InputError(
            f"the input has columns that the output adds: {', '.join(clashes)}; set output.prefix, for example to 'br_'"
        )


def _check_output_place(job: Job, files: list[InputFile]) -> None:
    output, source = _place(job.output.uri), _place(job.input.uri)
    inside = files[0].path != source and f"{output}/".startswith(f"{source}/")
    if inside or any(file.path.startswith(f"{output}/") for file in files):
        raise InputError(f"output.uri {output} and the input {source} lie in one another; choose another output folder")


def _place(uri: str) -> str:
    return local_path(uri) if is_local(uri) else uri.rstrip("/")


def _settings(job: Job) -> dict[str, Any]:
    """All settings that the results depend on; models by their identity, so that new weights are another run."""
    settings = job.model_dump(mode="json", exclude=_NOT_RESULTS, exclude_none=True)  # type: ignore[arg-type]
    # Where the input is stands in the files' identities; the options may hold secrets.
    del settings["input"]["uri"], settings["input"]["storage_options"]
    settings["router"].pop("token_budget", None)
    settings["router"]["model"] = models.identity(job.router.model, ignore=[CALIBRATION_FILE])
    if job.policy.max_quality_drop is not None:
        point = calibrated_point(job)
        settings["policy"]["calibrated"] = "all to large" if point is None else point.model_dump(mode="json")
    for side in SIDES:
        for name in _NOT_RESULTS_OF_A_MODEL:
            del settings["models"][side][name]
        if job.models.of(side).backend != "echo":
            settings["models"][side]["identity"] = models.identity(job.models.of(side).model)
    return settings


def calibrated_point(job: Job) -> Point | None:
    """The point of the router's calibration that `policy.max_quality_drop` asks for; None sends all rows to large.

    Raises:
        InputError: the router is not calibrated, or it was on other models or on more or less of each prompt.
    """
    calibration = Calibration.of(job.router.model)
    for side in SIDES:
        name, measured = job.models.of(side).model, calibration.models[side]
        if measured is not None and measured != name:
            raise InputError(
                f"policy.max_quality_drop: the router '{job.router.model}' was calibrated with {measured} as the "
                f"{side} model, but models.{side}.model is {name}: calibrate it on a quality table of this pair, or "
                "route by threshold or small_share"
            )
    length = job.router.max_length
    if length is not None and length < calibration.max_length:
        raise InputError(
            f"router.max_length {length} is less than the {calibration.max_length} tokens that the router "
            f"'{job.router.model}' was calibrated with: leave it out"
        )
    return job.policy.point(calibration)


def _bounds(job: Job, files: list[InputFile], rows: int) -> tuple[int, int, int]:
    row_bytes = max(1, sum(file.bytes for file in files) // max(1, rows))
    large = math.ceil(rows / _UNITS_A_RUN)
    chunk = job.units.score or max(1, min(max(_CHUNK_ROWS, large), _CHUNK_BYTES // row_bytes))
    unit = job.units.generate or max(_UNIT_ROWS, large)
    part = job.units.merge or min(max(_PART_ROWS, chunk), max(1, _PART_BYTES // row_bytes))
    return chunk, unit, max(1, part // chunk) * chunk


def difference(place: object, what: str, other: dict[str, Any], now: dict[str, Any]) -> str:
    """The first key that differs between another run and this one, in one sentence.

    Args:
        place: what `what` ("holds the unfinished run of") is said of.
        other, now: `settings`, a tree, and `files`, identities with a `path`.
    """
    advice = "choose another output.uri, or start anew with --fresh"
    before, after = _flat(other["settings"]), _flat(now["settings"])
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            change = f"{key} was {before.get(key, 'not set')} and is {after.get(key, 'not set')}"
            return f"{place} {what} another job: {change}; {advice}"
    old = {file["path"]: file for file in other["files"]}
    new = {file["path"]: file for file in now["files"]}
    for path in sorted(old.keys() | new.keys()):
        if old.get(path) != new.get(path):
            change = "is new" if path not in old else "is gone" if path not in new else "has changed"
            return f"{place} {what} another input: {path} {change}; {advice}"
    return f"{place} {what} another batchroute format; {advice}"


def _tree(snapshot: Snapshot) -> dict[str, Any]:
    return {"settings": snapshot.settings, "files": [file.identity() for file in snapshot.files]}


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat.update(_flat(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return flat
