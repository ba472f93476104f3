"""What a target is, its keys in the job file, and what all targets check."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from batchroute.errors import InputError
from batchroute.tables.targets.columns import Holds, differences

Mode = Literal["append", "replace", "upsert"]
# What versions of a lake's tables record of a commit.
LOAD, SERIAL = "batchroute.load_id", "batchroute.serial"
GROW = "set output.table.allow_new_columns, or name another table"


class TableSpec(BaseModel):
    """The table of `output.table`: of a warehouse, or of a lake."""

    model_config = ConfigDict(extra="forbid")

    warehouse: str = Field(default="", description="of a database: postgresql://user@host/database", repr=False)
    name: str = Field(default="", description="of the warehouse's table: answers, or schema.answers")
    delta: str = Field(default="", description="of a Delta table: a folder or s3://bucket/table")
    iceberg: str = Field(default="", description="an Iceberg table of the catalog: namespace.table")
    catalog: dict[str, str] = Field(default_factory=dict, description="properties of the catalog", repr=False)
    mode: Mode = Field(default="append", description="append, replace all rows, or upsert by input.id")
    allow_new_columns: bool = Field(default=False, description="add missing columns to a table of a lake")
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
        """The table as messages name it, without secrets."""
        return self._named("public")

    @property
    def identity(self) -> str:
        """The table as a part of a run's identity."""
        return self._named("identity")

    def _named(self, place: Literal["public", "identity"]) -> str:
        from batchroute.tables.warehouse import Warehouse

        if self.warehouse:
            return f"table {self.name} of {getattr(Warehouse(self.warehouse, 'output.table.warehouse'), place)}"
        return f"the Delta table {self.delta}" if self.delta else f"the Iceberg table {self.iceberg}"


@dataclass(frozen=True)
class Answers:
    """The rows of a commit."""

    load_id: str
    """The same for all commits of the same input rows."""
    serial: int
    """Greater for a later commit."""
    count: int
    schema: pa.Schema
    rows: Callable[[], Iterator[pa.RecordBatch]]

    def fitted(self, holds: Holds) -> pa.RecordBatchReader:
        """A stream of the rows in types that the table holds."""
        schema = holds.schema(self.schema)
        return pa.RecordBatchReader.from_batches(schema, (holds.batch(batch, schema) for batch in self.rows()))


class Target(Protocol):
    """A table that holds the answers of many runs. All methods raise InputError for what will never work, and
    StoppedError where another attempt may succeed.
    """

    public: str
    mode: Mode

    def prepare(self, schema: pa.Schema) -> None:
        """Create the table where it is missing. Otherwise compare its columns with `schema`; the error names all that
        differ.
        """

    def loads(self, load_id: str) -> dict[int, str]:
        """The commits under this load id that the table has: serial to the time or version of the load."""

    def load(self, answers: Answers) -> bool:
        """Load a commit, whole or not at all; False when it was loaded before. Call `prepare` first."""

    def answered(self, by: str, status: str) -> Iterator[pa.Array]:
        """The values of column `by` in rows whose column `status` is ok; nothing when there is no table."""


def refuse_differences(public: str, answers: pa.Schema, table: pa.Schema, may_grow: bool, remedy: str) -> None:
    """Raises:
    InputError: the answers do not fit into the table; the message names each column.
    """
    wrong, missing = differences(answers, table)
    if missing and not may_grow:
        kinds = ", ".join(f"{name} ({answers.field(name).type})" for name in missing)
        wrong.append(f"it has no column {kinds}: {remedy}")
    if wrong:
        raise InputError(f"output.table: the answers do not fit into {public}: {'; '.join(wrong)}")


def is_loaded(target: Target, serial: int, loads: dict[int, str]) -> bool:
    """Whether `loads` of the target hold this commit or a later one of the same rows.

    Raises:
        InputError: the target holds an earlier commit, and append would repeat its rows.
    """
    if loads and max(loads) >= serial:
        return True
    if loads and target.mode == "append":
        raise InputError(
            f"output.table: {target.public} has the rows of an earlier commit of this run ({loads[max(loads)]}), "
            "and append would repeat them; set output.table.mode to upsert or replace"
        )
    return False
