"""Tables that a job's answers go to, after the commit of its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from batchroute.errors import InputError
from batchroute.tables.targets.columns import Holds, differences

Mode = Literal["append", "replace", "upsert"]


class TableSpec(BaseModel):
    """The table of `output.table`: of a warehouse, or of a lake."""

    model_config = ConfigDict(extra="forbid")

    warehouse: str = Field(default="", description="of a database: postgresql://user@host/database", repr=False)
    name: str = Field(default="", description="of the warehouse's table: answers, or schema.answers")
    delta: str = Field(default="", description="of a Delta table: a folder or s3://bucket/table")
    iceberg: str = Field(default="", description="an Iceberg table of the catalog: namespace.table")
    catalog: dict[str, str] = Field(default_factory=dict, description="properties of the catalog", repr=False)
    mode: Mode = Field(default="append", description="append, replace all rows, or upsert by input.id")
    allow_new_columns: bool = Field(default=False, description="add ours to a table of a lake that has them not")
    storage_options: dict[str, Any] = Field(default_factory=dict, description="of a Delta table's storage")

    @model_validator(mode="after")
    def _one_table(self) -> Self:
        if sum(map(bool, (self.warehouse, self.delta, self.iceberg))) != 1:
            raise ValueError("give one of warehouse with a name, delta and iceberg")
        if bool(self.warehouse) != bool(self.name):
            raise ValueError("warehouse and name belong together")
        if self.warehouse and self.allow_new_columns:
            raise ValueError("allow_new_columns is of delta and iceberg; add columns to a warehouse's table by its SQL")
        if self.iceberg and self.mode == "upsert":
            raise ValueError("iceberg tables take append or replace; upsert is of warehouses and delta")
        if self.catalog and not self.iceberg:
            raise ValueError("catalog is of an iceberg table")
        return self

    @property
    def public(self) -> str:
        """What it is, for people, without secrets."""
        from batchroute.tables.warehouse import Warehouse

        if self.warehouse:
            return f"table {self.name} of {Warehouse(self.warehouse, 'output.table.warehouse').public}"
        return f"the Delta table {self.delta}" if self.delta else f"the Iceberg table {self.iceberg}"


@dataclass(frozen=True)
class Answers:
    """The rows of a commit."""

    load_id: str
    """The same for all commits of the same rows of the input."""
    serial: int
    """Of the commit: a later one has a greater serial."""
    count: int
    schema: pa.Schema
    rows: Callable[[], Iterator[pa.RecordBatch]]

    def fitted(self, holds: Holds) -> pa.RecordBatchReader:
        """As a table can hold them, streamed."""
        schema = holds.schema(self.schema)
        return pa.RecordBatchReader.from_batches(schema, (holds.batch(batch, schema) for batch in self.rows()))


class Target(Protocol):
    """A table that holds the answers of many nights. All methods raise InputError for what will never work, and
    StoppedError where another attempt may succeed.
    """

    public: str
    mode: Mode

    def prepare(self, schema: pa.Schema) -> None:
        """Create the table where it is missing, or compare its columns with these and name all that differ."""

    def loads(self, load_id: str) -> dict[int, str]:
        """The commits of these rows that the table has, by their serials, and when or where that was."""

    def load(self, answers: Answers) -> bool:
        """Load a commit, whole or not at all; False when it was loaded before. Needs `prepare`."""

    def answered(self, by: str, status: str) -> Iterator[pa.Array]:
        """The values of column `by` in the rows whose column `status` is ok; none when there is no table."""


def refuse_differences(public: str, wanted: pa.Schema, found: pa.Schema, may_grow: bool, remedy: str) -> None:
    """Raises:
    InputError: the rows do not fit into the table; each column is named.
    """
    wrong, missing = differences(wanted, found)
    if missing and not may_grow:
        kinds = ", ".join(f"{name} ({wanted.field(name).type})" for name in missing)
        wrong.append(f"it has no column {kinds}: {remedy}")
    if wrong:
        raise InputError(f"output.table: the answers do not fit into {public}: {'; '.join(wrong)}")


def is_loaded(target: Target, serial: int, loads: dict[int, str]) -> bool:
    """Whether a table with these `loads` has the commit, or a later one of the same rows.

    Raises:
        InputError: it has an earlier one, and would have its rows twice.
    """
    if loads and max(loads) >= serial:
        return True
    if loads and target.mode == "append":
        raise InputError(
            f"output.table: {target.public} has the rows of an earlier commit of this run ({loads[max(loads)]}), "
            "and append would repeat them; set output.table.mode to upsert or replace"
        )
    return False
