"""Some rows of a prompt table as a table of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchroute.tables.parquet import PromptTable, RowReader


@dataclass(frozen=True)
class PickedTable(PromptTable):
    """The rows at `positions`, which rise; row 0 is the one at the first of them."""

    positions: npt.NDArray[np.int64]

    @classmethod
    def of(cls, table: PromptTable, positions: npt.NDArray[np.int64]) -> PickedTable:
        return cls(table.files, table.schema, table.offsets, table.source, positions)

    @property
    def rows(self) -> int:
        return len(self.positions)

    def reader(self, columns: Sequence[str] | None = None) -> RowReader:
        return _PickedReader(super().reader(columns), self)


class _PickedReader(RowReader):
    """Reads past the rows between; ranges in rising order take one pass over the columns of the whole table."""

    def __init__(self, whole: RowReader, table: PickedTable) -> None:
        self._whole, self._positions, self.schema = whole, table.positions, whole.schema

    def read(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        for position in self._positions[start:stop].tolist():
            yield from self._whole.read(position, position + 1)
