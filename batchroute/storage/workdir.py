"""The work folder of a run: units of work, each proved done by its receipt.

    <output>.work/<run id>/run.json
    <output>.work/<run id>/<stage>/<unit>.parquet + <unit>.json

A unit's data is put first, its receipt second, both create-only. Data without a receipt is what a crash left between
the two: it is whole, since puts are, and carries the receipt's facts in its own metadata, so that the next attempt
adopts it instead of fighting it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from batchroute.errors import InputError
from batchroute.storage.folder import Folder

_FACTS = b"batchroute.unit"
_TIMES = {"seconds", "load_seconds", "finished"}
_KEPT = ".kept.parquet"
_CLAIM = "claim.json"
# Files of the work folder are read once or twice: level 1. The output stays: level 3 makes it 29 % smaller, and takes
# 1.4 times as long. Others are measured in `tests/benchmarks/parquet_settings.py`.
WORK_PARQUET: dict[str, Any] = {"compression": "zstd", "compression_level": 1}
OUTPUT_PARQUET: dict[str, Any] = {"compression": "zstd", "compression_level": 3}
_ROW_GROUP_ROWS, _ROW_GROUP_BYTES = 1 << 16, 64 << 20
WORK_SUFFIX = ".work"
FORMAT_VERSION = 1


class Facts(BaseModel):
    """What is known of a unit besides its file: written into the data's own metadata and into the receipt."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    unit: str
    rows: int
    first: int = Field(description="smallest row position in it; -1 when it has no rows")
    last: int = Field(description="largest row position in it; -1 when it has no rows")
    seconds: float = Field(default=0.0, description="computing it, without loading models")
    load_seconds: float = Field(default=0.0, description="loading a model for it; 0 when that was loaded already")
    finished: float = Field(default_factory=time.time, description="Unix time")
    counts: dict[str, int] = Field(default_factory=dict)


class Receipt(Facts):
    """Proof that a unit is done."""

    file: str
    bytes: int
    sha256: str


class Stage:
    """The units of one stage: where their data and their receipts are."""

    def __init__(self, run_id: str, receipts: Folder, data: Folder | None = None, prefix: str = "") -> None:
        self.run_id = run_id
        self._receipts = receipts
        self._data = data or receipts
        self._prefix = prefix
        self._known: dict[str, Receipt] = {}

    def receipts(self) -> dict[str, Receipt]:
        """The receipts of all units done so far, by unit, in order; one listing, and each receipt read once."""
        # By number: unit 100000 comes after unit 99999.
        names = sorted((name.removesuffix(".json") for name in self._receipts.names(".json")), key=int)
        new = [unit for unit in names if unit not in self._known]
        found = self._receipts.read_all([f"{unit}.json" for unit in new])
        self._known |= {unit: Receipt.model_validate_json(data) for unit, data in zip(new, found, strict=True)}
        self._known = {unit: self._known[unit] for unit in names}
        return dict(self._known)

    def commit(
        self,
        facts: Facts,
        schema: pa.Schema,
        batches: Iterable[pa.RecordBatch],
        finish: Callable[[Facts], Facts] | None = None,
    ) -> Receipt:
        """Put the unit's data and then its receipt. When another attempt's data is there already, that is adopted.

        Args:
            finish: adds to `facts` what is known only when all `batches` were taken.

        Raises:
            InputError: a file of the unit's name is there that is not this unit's.
        """
        unit, file = facts.unit, f"{self._prefix}{facts.unit}.parquet"
        # Of an output's parts without times: the same rows are the same bytes, whoever wrote them, and when.
        is_output = self._data is not self._receipts
        left_out, settings = (_TIMES, OUTPUT_PARQUET) if is_output else (set(), WORK_PARQUET)
        data, facts = parquet_bytes(schema, batches, facts, finish, left_out, settings)
        # The receipt's put syncs the folder for both, when both are in it.
        if not self._data.put_new(file, data, sync_folder=is_output):
            data = memoryview(self._data.read(file))
            facts = self._adopt(file, data, facts)
        sha256 = hashlib.sha256(data).hexdigest()
        receipt = Receipt(**facts.model_dump(), file=file, bytes=len(data), sha256=sha256)
        if not self._receipts.put_new(f"{unit}.json", receipt.model_dump_json().encode()):
            receipt = Receipt.model_validate_json(self._receipts.read(f"{unit}.json"))
        self._known[unit] = receipt
        return receipt

    def read(self, unit: str, columns: list[str] | None = None) -> pa.Table:
        """The unit's rows."""
        return _read_table(self._data, f"{self._prefix}{unit}.parquet", columns)

    def reopen(self, unit: str, keep: bool = False) -> None:
        """Forget that the unit is done, and its data; `keep` puts that aside for `kept`. Repeat it after a crash."""
        file, kept = f"{self._prefix}{unit}.parquet", unit + _KEPT
        if keep and self._data.exists(file):
            self._receipts.remove(kept)
            self._receipts.put_new(kept, self._data.read(file))
        # The data first: without its receipt it would be adopted by the next attempt.
        self._data.remove(file)
        self._receipts.remove(f"{unit}.json")
        self._known.pop(unit, None)

    def kept(self, unit: str) -> pa.Table | None:
        """What `reopen` put aside; None when it never did."""
        if not self._receipts.exists(unit + _KEPT):
            return None
        return _read_table(self._receipts, unit + _KEPT)

    def _adopt(self, file: str, data: memoryview, facts: Facts) -> Facts:
        found = read_facts(pa.BufferReader(data))
        if found is None or (found.run_id, found.unit, found.rows) != (facts.run_id, facts.unit, facts.rows):
            raise InputError(f"{self._data}/{file} is in the way and not of this run; move it, or run with --fresh")
        return found


class Workdir:
    """All state of one run that is not yet its output."""

    def __init__(self, output: Folder, run_id: str) -> None:
        self.output = output
        self.run_id = run_id
        self.folder = work_root(output).folder(run_id)
        self._stages: dict[str, Stage] = {}

    def stage(self, name: str) -> Stage:
        """The stage's units; those of `merge` are the parts of the output, put straight into `data/`."""
        if name not in self._stages:
            receipts = self.folder.folder(name)
            data, prefix = (self.output.folder("data"), "part-") if name == "merge" else (None, "")
            self._stages[name] = Stage(self.run_id, receipts, data, prefix)
        return self._stages[name]

    def put_json(self, name: str, value: object) -> bool:
        """Create-only, as all puts."""
        return self.folder.put_new(name, json.dumps(value, indent=1).encode())

    def read_json(self, name: str) -> dict[str, Any] | None:
        """None when it is not there."""
        try:
            value = json.loads(self.folder.read(name))
        except FileNotFoundError:
            return None
        assert isinstance(value, dict)
        return value


def work_root(output: Folder) -> Folder:
    """Beside the output, not in it: readers of the output never list work in progress."""
    return output.beside(WORK_SUFFIX)


def run_ids(output: Folder) -> list[str]:
    """The runs that have a work folder beside this output."""
    return work_root(output).folders()


def claim(output: Folder, run_id: str) -> str:
    """Let one run have this output, of all that begin at the same time; returns which one that is."""
    root = work_root(output)
    root.put_new(_CLAIM, json.dumps({"run_id": run_id}).encode())
    return str(json.loads(root.read(_CLAIM))["run_id"])


def read_facts(source: object) -> Facts | None:
    """The facts in a parquet file (a path or a buffer) that a run wrote; None for any other file."""
    try:
        metadata = pq.read_metadata(source).metadata or {}
    except (pa.ArrowInvalid, OSError):
        return None
    return Facts.model_validate_json(metadata[_FACTS]) if _FACTS in metadata else None


def is_ours(folder: Folder, name: str) -> bool:
    """Whether a run of batchroute wrote this parquet file."""
    return read_facts(folder.parquet(name)) is not None


def parquet_bytes(
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    facts: Facts,
    finish: Callable[[Facts], Facts] | None = None,
    left_out: Collection[str] = (),
    settings: Mapping[str, Any] = WORK_PARQUET,
) -> tuple[memoryview, Facts]:
    """A whole parquet file in memory, compressed, with its final facts in the metadata, but for those left out."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, **settings) as writer:
        for group in _row_groups(batches):
            writer.write_table(pa.Table.from_batches(group))
        facts = facts if finish is None else finish(facts)
        writer.add_key_value_metadata({_FACTS: facts.model_dump_json(exclude=set(left_out)).encode()})
    return memoryview(sink.getvalue()), facts


def _read_table(folder: Folder, name: str, columns: list[str] | None = None) -> pa.Table:
    try:
        table = pq.read_table(
            folder.parquet(name), columns=columns, use_threads=False, pre_buffer=False, partitioning=None
        )
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        state = "is missing" if isinstance(error, FileNotFoundError) else "is damaged"
        raise InputError(f"{folder}/{name} {state}, though its receipt is there; start anew with --fresh") from error
    # The facts are the file's, not the table's: tables of several units are put together.
    return table.replace_schema_metadata(None)


def _row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Batches gathered to row groups large enough for quick reading and small enough for memory."""
    group: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        group.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows >= _ROW_GROUP_ROWS or size >= _ROW_GROUP_BYTES:
            yield group
            group, rows, size = [], 0, 0
    if group:
        yield group
