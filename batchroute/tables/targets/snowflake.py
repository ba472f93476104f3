"""A table of Snowflake as a target. There each statement that creates something commits, primary keys are not enforced,
and the driver writes no temporary tables: so rows go into a temporary table of our own first, and then one transaction
of nothing but DML takes the lock, moves the rows, and adds the line of the ledger `BATCHROUTE_LOADS`.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection
from typing import Any

import pyarrow as pa

from batchroute.errors import InputError
from batchroute.tables.queries import literal, quoted
from batchroute.tables.snowflake import folded, parts_of
from batchroute.tables.targets.base import Answers, is_loaded
from batchroute.tables.targets.constraints import Constraints
from batchroute.tables.targets.matching import Match, renamed
from batchroute.tables.targets.relation import Column
from batchroute.tables.targets.settings import TableSpec
from batchroute.tables.targets.snowflake_types import HOLDS, assigned, kind_of, rounded
from batchroute.tables.targets.warehouse import Plan, WarehouseTarget

_STAGING = "BATCHROUTE_STAGING"
_MOST_PARTS = 3
# The line that a load locks; no load has this id.
_LOCK = "lock"
# Codes of an object that does not exist; its state differs from statement to statement.
_NO_TABLE = (2003, 2043)


class SnowflakeTarget(WarehouseTarget):
    """`output.table` as a table of Snowflake. Names are in capitals, as Snowflake takes them without quotes."""

    _ledger = '"BATCHROUTE_LOADS"'

    def __init__(self, spec: TableSpec, key: str | None) -> None:
        """Raises:
        InputError: the name is not that of a table.
        """
        *place, name = parts_of(spec.name) or [""]
        if not name or len(place) >= _MOST_PARTS:
            raise InputError(
                f"output.table.name: {spec.name} is no table; write table, schema.table or db.schema.table"
            )
        columns = {folded(theirs): own for theirs, own in spec.columns.items()}
        super().__init__(spec.model_copy(update={"columns": columns}), key, HOLDS, "", name)
        self._place = place

    @property
    def _table(self) -> str:
        return ".".join(map(quoted, (*self._place, self._name)))

    @property
    def _ledger_name(self) -> str:
        return self._table

    def prepare(self, schema: pa.Schema) -> list[str]:
        with self._warehouse.connected() as connection, connection.cursor() as cursor:
            cursor.execute(
                f"create table if not exists {self._ledger} (target varchar, load_id varchar, serial number(38, 0), "
                "row_count number(38, 0), mode varchar, loaded_at varchar)"
            )
            self._write_line(cursor, _LOCK, 0, 0)
            columns = self._columns(connection, cursor)
            if columns:
                return self._checked(connection, cursor, columns, schema)
            fitted = self._holds.schema(schema)
            made = self._match(fitted.names, []).schema(fitted)
            kinds = ", ".join(f"{quoted(field.name)} {kind_of(field.type)}" for field in made)
            cursor.execute(f"create table if not exists {self._table} ({kinds})")
            return []

    def rehearse(self, schema: pa.Schema) -> bool:
        with self._warehouse.connected() as connection, connection.cursor() as cursor:
            columns = self._columns(connection, cursor)
            plan = self._plan(connection, cursor, columns, schema)
            self._stage(cursor, Answers("", 0, 0, schema, lambda: iter(())), plan)
            if columns:
                cursor.execute("begin")
                self._move(cursor, quoted(_STAGING), plan)
                cursor.execute("rollback")
            return True

    def load(self, answers: Answers) -> bool:
        with self._warehouse.connected() as connection, connection.cursor() as cursor:
            if is_loaded(self, answers.serial, self._loads(cursor, answers.load_id)):
                return False
            plan = self._plan(connection, cursor, self._columns(connection, cursor), answers.schema)
            self._stage(cursor, answers, plan)
            # Closing the connection rolls back what is not committed.
            cursor.execute("begin")
            cursor.execute(
                f"update {self._ledger} set loaded_at = {literal(_now())} where target = {literal(self._ledger_name)} "
                f"and load_id = {literal(_LOCK)}"
            )
            # A loader that held the lock has committed by now, and this statement sees what it wrote.
            if is_loaded(self, answers.serial, self._loads(cursor, answers.load_id)):
                return False
            if self.mode == "replace":
                cursor.execute(f"delete from {self._table}")
            self._move(cursor, quoted(_STAGING), plan)
            self._write_line(cursor, answers.load_id, answers.serial, answers.count)
            cursor.execute("commit")
            return True

    def constraints(self, schema: pa.Schema, results: Collection[str]) -> Constraints:
        return Constraints()  # of all constraints Snowflake enforces that columns are not null

    def _write_line(self, cursor: Any, load_id: str, serial: int, rows: int) -> None:
        """Add a line to the ledger, unless it is there."""
        names = ("target", "load_id", "serial", "row_count", "mode", "loaded_at")
        texts = (literal(self._ledger_name), literal(load_id), serial, rows, literal(self.mode), literal(_now()))
        line = ", ".join(f"{value} as {name}" for name, value in zip(names, texts, strict=True))
        cursor.execute(
            f"merge into {self._ledger} as old using (select {line}) as new "
            "on old.target = new.target and old.load_id = new.load_id and old.serial = new.serial "
            f"when not matched then insert ({', '.join(names)}) values ({', '.join(f'new.{name}' for name in names)})"
        )

    def _stage(self, cursor: Any, answers: Answers, plan: Plan) -> None:
        """The rows into a temporary table, whose columns are known by their numbers: no name can clash."""
        rows = answers.fitted(self._holds, plan.match)
        columns = [field.with_name(f"C{number}") for number, field in enumerate(rows.schema)]
        kinds = ", ".join(f"{quoted(field.name)} {kind_of(field.type)}" for field in columns)
        cursor.execute(f"create or replace temporary table {quoted(_STAGING)} ({kinds})")
        schema = pa.schema(columns)
        batches = (pa.RecordBatch.from_arrays(batch.columns, schema=schema) for batch in rows)
        cursor.adbc_ingest(_STAGING, pa.RecordBatchReader.from_batches(schema, batches), mode="append")

    def _staged(self, name: str, number: int) -> str:
        return quoted(f"C{number}")

    def _match(self, names: list[str], columns: list[Column]) -> Match:
        if columns:
            return super()._match(names, columns)
        theirs = {own: name for name, own in self._spec.columns.items()}
        empty = {name for name, own in self._spec.columns.items() if own is None}
        made = {own: theirs.get(own, folded(own)) for own in names if folded(own) not in empty}
        if len(set(made.values())) < len(made):
            raise InputError(
                f"output.table: two columns of the answers would have the same name in {self.public}, where names are "
                "in capitals; name one of them another way in output.table.columns"
            )
        wanted: dict[str, str | None] = {own: None for own in names if own not in made}
        wanted.update({name: own for own, name in made.items()})
        return renamed(names, wanted, self.public)

    def _columns(self, connection: Any, cursor: Any) -> list[Column]:
        try:
            cursor.execute(f"describe table {self._table}")
            rows = cursor.fetch_arrow_table().to_pylist()
        except connection.Error as error:
            if getattr(error, "vendor_code", None) not in _NO_TABLE:
                raise
            if self._place:
                # The schema has to be there. Names without one are of this schema from now on in this connection.
                cursor.execute(f"use schema {'.'.join(map(quoted, self._place))}")
            return []
        found = [row for row in rows if row["kind"] in ("COLUMN", "VIRTUAL_COLUMN", "VIRTUAL")]
        return [
            Column(
                row["name"],
                row["type"],
                row["null?"] == "N" and row["default"] is None,
                row["kind"] == "COLUMN" and row["expression"] is None,
            )
            for row in found
        ]

    def _shape(self, connection: Any, cursor: Any, schema: pa.Schema) -> dict[str, str]:
        return {field.name: kind_of(field.type) for field in schema}

    def _assigned(self, original: pa.DataType, ours: pa.DataType, theirs: str) -> tuple[str, bool] | None:
        return assigned(original, ours, theirs)

    def _rounded(self, original: pa.DataType, theirs: str, is_cost: bool) -> tuple[str, bool] | None:
        return rounded(original, theirs, is_cost)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
