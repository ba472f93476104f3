"""Units of work: a stage's data files and receipts.

A unit's data is put first and its receipt second, both create-only. A crash between the two leaves data without a
receipt. That file is whole, since puts are, and holds the unit's facts in its metadata, so the next attempt adopts it.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from batchroute.errors import InputError
from batchroute.storage.folder import Folder
from batchroute.storage.receipts import Facts, Receipt

# pyarrow is imported where data is written or read: `batchroute status`, which looks at receipts alone, spares it.
if TYPE_CHECKING:
    import pyarrow as pa

_TIMES = {"seconds", "load_seconds", "finished"}

_KEPT = ".kept.parquet"
_BEGUN = ".begun.parquet"
_UNIT = re.compile("[0-9]{5,}")


def is_unit(name: str) -> bool:
    """Whether this is a unit's name: its number, in five digits or more."""
    return bool(_UNIT.fullmatch(name))


class Stage:
    """The units of one stage."""

    def __init__(self, run_id: str, receipts: Folder, data: Folder | None = None, prefix: str = "") -> None:
        self.run_id = run_id
        self._receipts = receipts
        self._data = data or receipts
        self._prefix = prefix
        self._known: dict[str, Receipt] = {}

    def receipts(self) -> dict[str, Receipt]:
        """The receipts of all units done so far, by unit, in order: one listing, and one read of each receipt."""
        names = (name.removesuffix(".json") for name in self._receipts.names(".json"))
        # In the order of numbers: 100000 comes after 99999. Other files, such as notes.json, are ignored.
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
        """Put the unit's data and then its receipt. Data that another attempt has put is adopted.

        Args:
            finish: completes `facts` after the last batch was taken.

        Raises:
            InputError: the unit's file exists and belongs to another run or unit.
        """
        from batchroute.storage.parquet import output_settings, parquet_bytes, work_settings

        unit, file = facts.unit, f"{self._prefix}{facts.unit}.parquet"
        # Parts of an output leave out times, so that the same rows are the same bytes whoever wrote them, and when.
        is_output = self._data is not self._receipts
        left_out, settings = (_TIMES, output_settings) if is_output else (set(), work_settings)
        data, facts = parquet_bytes(schema, batches, facts, finish, left_out, settings)
        # The receipt's put syncs the folder for both files where both lie in it.
        if not self._data.put_new(file, data, sync_folder=is_output):
            data = memoryview(self._data.read(file))
            facts = self._adopt(file, data, facts)
        sha256 = hashlib.sha256(data).hexdigest()
        receipt = Receipt(**facts.model_dump(), file=file, bytes=len(data), sha256=sha256)
        if not self._receipts.put_new(f"{unit}.json", receipt.model_dump_json().encode()):
            receipt = Receipt.model_validate_json(self._receipts.read(f"{unit}.json"))
        self._known[unit] = receipt
        return receipt

    def read(self, unit: str, columns: list[str] | None = None, all_there: bool = True) -> pa.Table:
        """The unit's rows.

        Args:
            columns: in this order; all columns unless set.
            all_there: whether the file has all of them; if not, those that it lacks are left out.
        """
        return _read_table(self._data, f"{self._prefix}{unit}.parquet", columns, all_there)

    def tables(self, units: Iterable[str], columns: list[str] | None = None) -> Iterator[pa.Table]:
        """`read` for each of the units. From a bucket, where a request takes longer than its rows, threads read the
        next few ahead; memory holds one more than these.
        """
        from concurrent.futures import Future, ThreadPoolExecutor

        if not self._data.reads_ahead:
            yield from (self.read(unit, columns) for unit in units)
            return
        coming: deque[Future[pa.Table]] = deque()
        with ThreadPoolExecutor(self._data.reads_ahead) as pool:
            for unit in units:
                coming.append(pool.submit(self.read, unit, columns))
                if len(coming) > self._data.reads_ahead:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()

    def reopen(self, unit: str, keep: bool = False) -> None:
        """Remove the unit's data and receipt; with `keep`, `kept` can still read the data. After a crash, repeat the
        call.
        """
        file, kept = f"{self._prefix}{unit}.parquet", unit + _KEPT
        if keep and self._data.exists(file):
            self._receipts.remove(kept)
            self._receipts.put_new(kept, self._data.read(file))
        self.drop_begun(unit)
        # The data goes first: data without a receipt would be adopted by the next attempt.
        self._data.remove(file)
        self._receipts.remove(f"{unit}.json")
        self._known.pop(unit, None)

    def kept_units(self) -> set[str]:
        """The units of which `reopen` kept the data."""
        return {name.removesuffix(_KEPT) for name in self._receipts.names(_KEPT)}

    def kept(self, unit: str) -> pa.Table | None:
        """The data that `reopen` kept; None where it kept nothing."""
        if not self._receipts.exists(unit + _KEPT):
            return None
        return _read_table(self._receipts, unit + _KEPT)

    def put_begun(self, unit: str, rows: pa.Table) -> None:
        """Put rows of a unit that is not whole, in a file of their own, before the run stops."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        pq.write_table(rows, sink)
        number = len(self._begun(unit))
        while not self._receipts.put_new(f"{unit}-{number:03d}{_BEGUN}", memoryview(sink.getvalue())):
            number += 1

    def begun_units(self) -> set[str]:
        """The units of which `put_begun` has put rows."""
        return {name.partition("-")[0] for name in self._receipts.names(_BEGUN)}

    def begun_rows(self, unit: str) -> list[dict[str, Any]]:
        """The rows that `put_begun` has put."""
        return [row for name in self._begun(unit) for row in _read_table(self._receipts, name).to_pylist()]

    def drop_begun(self, unit: str) -> None:
        """Remove the rows that `put_begun` has put: the unit is whole now, or done anew."""
        for name in self._begun(unit):
            self._receipts.remove(name)

    def _begun(self, unit: str) -> list[str]:
        return [name for name in self._receipts.names(_BEGUN) if name.startswith(f"{unit}-")]

    def _adopt(self, file: str, data: memoryview, facts: Facts) -> Facts:
        import pyarrow as pa

        from batchroute.storage.parquet import read_facts

        stored = read_facts(pa.BufferReader(data))
        if stored is None or (stored.run_id, stored.unit, stored.rows) != (facts.run_id, facts.unit, facts.rows):
            raise InputError(f"{self._data}/{file} is in the way and not of this run; move it, or run with --fresh")
        return stored


def _read_table(folder: Folder, name: str, columns: list[str] | None = None, all_there: bool = True) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # `pq.read_table` would make a dataset of the file, and a path be searched for a filesystem: either takes longer
        # than reading a small file.
        source = folder.parquet(name)
        source = pa.OSFile(str(source)) if isinstance(source, Path) else source
        with pq.ParquetFile(source, pre_buffer=False) as file:
            table = file.read(columns, use_threads=False)
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        state = "is missing" if isinstance(error, FileNotFoundError) else "is damaged"
        raise InputError(f"{folder}/{name} {state}, though its receipt is there; start again with --fresh") from error
    # The facts belong to the file: tables of several units are concatenated.
    table = table.replace_schema_metadata(None)
    if columns is None:
        return table
    return table.select(columns if all_there else [name for name in columns if name in table.column_names])


class Span(NamedTuple):
    """A unit of work: the rows at positions `start` up to `stop`."""

    unit: str
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start

    @property
    def positions(self) -> range:
        return range(self.start, self.stop)


def spans(rows: int, size: int) -> list[Span]:
    """Rows 0 to `rows` in units of `size`; the last unit may be smaller."""
    return [span_at(number, start, size, rows) for number, start in enumerate(range(0, rows, size))]


def span_at(number: int, start: int, size: int, rows: int) -> Span:
    """One of `spans`, by its number and its first row."""
    return Span(f"{number:05d}", start, min(start + size, rows))
