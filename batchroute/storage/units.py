"""A stage's units: their data, their receipts, and the commit of each."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from batchroute.errors import InputError
from batchroute.storage.folder import Folder
from batchroute.storage.parquet import OUTPUT_PARQUET, WORK_PARQUET, parquet_bytes, read_facts
from batchroute.storage.receipts import Facts, Receipt

_TIMES = {"seconds", "load_seconds", "finished"}

_KEPT = ".kept.parquet"
_UNIT = re.compile("[0-9]{5,}")


def is_unit(name: str) -> bool:
    """Whether this is a unit's name: its number, in five digits or more."""
    return bool(_UNIT.fullmatch(name))


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
        names = (name.removesuffix(".json") for name in self._receipts.names(".json"))
        # Units are named by numbers, in whose order 100000 comes after 99999. Other files, such as notes.json, are left
        # alone.
        units = sorted((name for name in names if is_unit(name)), key=int)
        new = [unit for unit in units if unit not in self._known]
        receipts = self._receipts.read_all([f"{unit}.json" for unit in new])
        self._known |= {unit: Receipt.model_validate_json(data) for unit, data in zip(new, receipts, strict=True)}
        self._known = {unit: self._known[unit] for unit in units}
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


class Span(NamedTuple):
    """The rows at positions `start` up to `stop` as a unit of work."""

    unit: str
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


def spans(rows: int, size: int) -> list[Span]:
    """Rows 0 to `rows` in units of `size`; the last one may be smaller."""
    return [Span(f"{number:05d}", start, min(start + size, rows)) for number, start in enumerate(range(0, rows, size))]
