"""What a target is, its keys in the job file, and what all targets check."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from batchroute.errors import InputError
from batchroute.tables.targets.columns import Holds, differences
from batchroute.tables.targets.constraints import Constraints
from batchroute.tables.targets.matching import Match, match, their_name

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
    columns: dict[str, str | None] = Field(
        default_factory=dict, description="the table's name of a column: the answers' name; null leaves it empty"
    )
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

    def fitted(self, holds: Holds, match: Match, kinds: pa.Schema | None = None) -> pa.RecordBatchReader:
        """A stream of the rows in types that the table holds.

        Args:
            match: the columns of the answers that the table has.
            kinds: the types of the table's columns, where they are wider.
        """
        schema = holds.schema(self.schema)
        theirs = match.schema(schema) if kinds is None else kinds
        batches = (match.batch(holds.batch(batch, schema)) for batch in self.rows())
        return pa.RecordBatchReader.from_batches(
            theirs, (batch if batch.schema == theirs else batch.cast(theirs) for batch in batches)
        )


class Target(Protocol):
    """A table that holds the answers of many runs. All methods raise InputError for what will never work, and
    StoppedError where another attempt may succeed.
    """

    public: str
    mode: Mode

    def check(self, schema: pa.Schema) -> list[str]:
        """Compare the table's columns with the answers' and ask for all else that a load needs, without a trace. The
        error names all that differ; what is returned are sentences about columns that are left out.
        """

    def prepare(self, schema: pa.Schema) -> list[str]:
        """Create the table where it is missing; otherwise as `check`."""

    def rehearse(self, schema: pa.Schema) -> bool:
        """Do all that a load does, with no rows and without a trace: what it needs shows before a night's work. Call
        `check` or `prepare` first. False where that cannot be tried.
        """

    def goes_in(self, schema: pa.Schema) -> tuple[Holds, list[str]]:
        """Which types the table holds, and the columns of the answers that go into it. Call `check` first."""

    def constraints(self, schema: pa.Schema, results: Collection[str]) -> Constraints:
        """What the table demands of the rows beside types, with the names of the answers' columns. Call `check` first.

        Args:
            results: the columns that are not of the input.
        """

    def held(self, by: str) -> Iterator[pa.Array]:
        """The values of the answers' column `by` in all rows that a load would leave."""

    def loads(self, load_id: str) -> dict[int, str]:
        """The commits under this load id that the table has: serial to the time or version of the load."""

    def load(self, answers: Answers) -> bool:
        """Load a commit, whole or not at all; False when it was loaded before. Call `prepare` first."""

    def answered(self, by: str, prefix: str) -> Iterator[pa.Array]:
        """The values of the answers' column `by` in rows whose status is ok, or that have a response where the table
        has no status; nothing when there is no table.

        Args:
            prefix: of the result columns.
        """


def refuse_differences(public: str, wrong: list[str], left_out: list[str], answers: pa.Schema, remedy: str) -> None:
    """
    Args:
        wrong: what does not fit, a sentence each.
        left_out: the answers' columns that the table has not: no error, and named with one.

    Raises:
        InputError: something is wrong.
    """
    if not wrong:
        return
    if left_out:
        kinds = ", ".join(f"{name} ({answers.field(name).type})" for name in left_out)
        wrong = [*wrong, f"it has no column {kinds}: {remedy}"]
    raise InputError(f"output.table: the answers do not fit into {public}: {'; '.join(wrong)}")


def asked_for(spec: TableSpec, by: str, prefix: str, names: list[str]) -> tuple[str, str | None, str | None]:
    """The table's names for what `input.only_new` asks: the column `by`, the status, and the response.

    Args:
        prefix: of the result columns.
        names: of the table's columns.

    Raises:
        InputError: the table lacks the first, or both of the others.
    """
    asked = (by, f"{prefix}status", f"{prefix}response")
    key, status, response = (their_name(own, names, spec.columns) for own in asked)
    if key is None or (status is None and response is None):
        lacks = by if key is None else asked[1]
        raise InputError(
            f"input.only_new: {spec.public} has no column {lacks}; it has {', '.join(names)}: see output.table.columns"
        )
    return key, status, response


def lake_plan(
    spec: TableSpec, key: str | None, answers: pa.Schema, table: pa.Schema, required: set[str]
) -> tuple[Match, pa.Schema]:
    """The columns that a lake's table shares with the answers, and their types in the table. Where it may gain columns,
    those that it has not are among them.

    Args:
        answers, table: in types that the table holds.
        required: columns of the table that take no nulls.

    Raises:
        InputError: the answers do not fit into the table; the message names each column.
    """
    found = match(answers.names, table.names, spec.columns, spec.public)
    if spec.allow_new_columns:
        found = Match({**found.ours, **{name: name for name in found.left_out}}, [])
    known = {name: own for name, own in found.ours.items() if name in table.names}
    wrong, _ = differences(Match(known, []).schema(answers), table)
    wrong += [
        f"it needs a value for {name}: see output.table.columns" for name in table.names if name in required - {*known}
    ]
    if spec.mode == "upsert" and found.theirs(str(key)) is None:
        wrong.append(f"it has no column {key}, by which upsert knows a row")
    refuse_differences(spec.public, wrong, found.left_out, answers, GROW)
    kinds = [table.field(name) if name in known else answers.field(own) for name, own in found.ours.items()]
    return found, pa.schema([pa.field(name, kind.type) for name, kind in zip(found.ours, kinds, strict=True)])


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
