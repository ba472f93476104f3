"""Tables of PostgreSQL, SQLite and DuckDB as targets: one transaction loads a commit and records it in the ledger
`batchroute_loads`.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from batchroute.errors import StoppedError
from batchroute.tables.failures import exists_already
from batchroute.tables.queries import literal, quoted
from batchroute.tables.targets.base import Answers, is_loaded
from batchroute.tables.targets.columns import Holds
from batchroute.tables.targets.constraints import Constraints, constraints_of
from batchroute.tables.targets.matching import Match
from batchroute.tables.targets.relation import Column, assigned, columns_of, rounded
from batchroute.tables.targets.settings import TableSpec
from batchroute.tables.targets.warehouse import Plan, WarehouseTarget
from batchroute.tables.types import POSTGRESQL_TYPE

_SHAPE, _STAGING = "batchroute_shape", "batchroute_staging"
HOLDS = {
    "duckdb": Holds(),
    "sqlite": Holds(lists=False, nested=False, digits=0, nan=False, times=False),
    "postgresql": Holds(nested=False, digits=76, zero_characters=False),
}
"""By driver: the warehouses of this kind."""


class SqlTarget(WarehouseTarget):
    """`output.table` as a table of a warehouse whose transactions hold everything, temporary tables too."""

    _ledger = "batchroute_loads"

    def __init__(self, spec: TableSpec, key: str | None, scheme: str) -> None:
        schema, _, name = spec.name.rpartition(".")
        super().__init__(spec, key, HOLDS[scheme], schema, name)

    def prepare(self, schema: pa.Schema) -> list[str]:
        with self._warehouse.connected() as connection, connection.cursor() as cursor:
            with self._creating(connection):
                cursor.execute(
                    f"create table if not exists {self._ledger} (target varchar(400), load_id varchar(64), "
                    "serial bigint, row_count bigint, mode varchar(16), loaded_at varchar(40), "
                    "primary key (target, load_id, serial))"
                )
                connection.commit()
            columns = self._columns(connection, cursor)
            if columns:
                return self._checked(connection, cursor, columns, schema)
            plan = self._plan(connection, cursor, [], schema)
            with self._creating(connection):
                self._ingest(cursor, plan.match.schema(self._holds.schema(schema)).empty_table(), "create_append")
                for column, kind in self._own_types(plan.match, schema):
                    cursor.execute(
                        f"alter table {self._table} alter column {column} type {kind} using {column}::{kind}"
                    )
                connection.commit()
            return []

    def rehearse(self, schema: pa.Schema) -> bool:
        if not self._warehouse.is_there:
            return False
        with self._warehouse.connected() as connection, connection.cursor() as cursor:
            columns = self._columns(connection, cursor)
            if not columns:
                return False
            plan = self._plan(connection, cursor, columns, schema)
            rows = Answers("", 0, 0, schema, lambda: iter(())).fitted(self._holds, plan.match)
            if plan.is_direct and self.mode != "upsert":
                self._ingest(cursor, rows, "append")
            else:
                cursor.adbc_ingest(_STAGING, rows, mode="create", temporary=True)
                self._move(cursor, _STAGING, plan)
            connection.rollback()
            return True

    def load(self, answers: Answers) -> bool:
        with self._warehouse.connected() as connection, connection.cursor() as cursor:
            loads = self._loads(cursor, answers.load_id)
            if is_loaded(self, answers.serial, loads):
                return False
            plan = self._plan(connection, cursor, self._columns(connection, cursor), answers.schema)
            rows = answers.fitted(self._holds, plan.match)
            if not plan.is_direct or self.mode == "upsert":
                cursor.adbc_ingest(_STAGING, rows.schema.empty_table(), mode="create", temporary=True)
            connection.commit()
            if not self._record(connection, cursor, answers):
                return False
            self._fill(cursor, rows, plan)
            connection.commit()
            return True

    def constraints(self, schema: pa.Schema, results: Collection[str]) -> Constraints:
        if not self._warehouse.is_there:
            return Constraints()
        with self._warehouse.connected() as connection, connection.cursor() as cursor:
            columns = self._columns(connection, cursor)
            if not columns:
                return Constraints()
            found = self._match(schema.names, columns)
            # Rows with an id of the answers are deleted first, or all.
            unique = None if self.mode == "append" else self._key
            place = (self._schema or None, self._name)
            return constraints_of(self._warehouse.scheme, cursor, *place, found, results, unique)

    def _own_types(self, match: Match, schema: pa.Schema) -> list[tuple[str, str]]:
        """Types of PostgreSQL for columns that its driver would create as text, by the table's names in quotes."""
        if self._warehouse.scheme != "postgresql":
            return []
        kinds = []
        for name, own in match.ours.items():
            said = (schema.field(own).metadata or {}).get(POSTGRESQL_TYPE, b"").decode()
            kind = "uuid" if isinstance(schema.field(own).type, pa.UuidType) else said
            kinds += [(quoted(name), kind)] if kind in ("uuid", "json", "jsonb") else []
        return kinds

    def _columns(self, connection: Any, cursor: Any) -> list[Column]:
        return columns_of(self._warehouse.scheme, cursor, self._schema or None, self._name, self.public)

    def _shape(self, connection: Any, cursor: Any, schema: pa.Schema) -> dict[str, str]:
        scheme = self._warehouse.scheme
        if scheme == "sqlite":
            return dict.fromkeys(schema.names, "")
        cursor.adbc_ingest(_SHAPE, schema.empty_table(), mode="create", temporary=True)
        shape = {column.name: column.kind for column in columns_of(scheme, cursor, None, _SHAPE, _SHAPE)}
        connection.rollback()
        return shape

    def _assigned(self, original: pa.DataType, ours: pa.DataType, theirs: str) -> tuple[str, bool] | None:
        return assigned(self._warehouse.scheme, ours, theirs)

    def _rounded(self, original: pa.DataType, theirs: str, is_cost: bool) -> tuple[str, bool] | None:
        double = rounded(self._warehouse.scheme, original, theirs, is_cost)
        return None if double is None else (double, self._warehouse.scheme == "sqlite")

    def _kind_there(self, cursor: Any, column: Column) -> str:
        if self._warehouse.scheme == "sqlite":
            return column.kind
        cursor.execute(f"select {quoted(column.name)} from {self._table} limit 0")
        kind = cursor.fetch_record_batch().schema.field(0).type
        return column.kind if pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType) else str(kind)

    @contextmanager
    def _creating(self, connection: Any) -> Iterator[None]:
        try:
            yield
        except connection.Error as error:
            if not exists_already(error):
                raise
            raise StoppedError(f"{self.public}: another run creates it at this moment; run again") from None

    def _record(self, connection: Any, cursor: Any, answers: Answers) -> bool:
        """Record the commit; False when another run has loaded it. As the first statement of the transaction it makes a
        second loader of the commit wait here, and then fail.
        """
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        values = f"{answers.serial}, {answers.count}, {literal(self.mode)}, {literal(now)}"
        try:
            cursor.execute(
                f"insert into {self._ledger} values "
                f"({literal(self._ledger_name)}, {literal(answers.load_id)}, {values})"
            )
        except connection.Error:
            connection.rollback()
            if answers.serial in self._loads(cursor, answers.load_id):
                return False
            raise
        return True

    def _fill(self, cursor: Any, rows: pa.RecordBatchReader, plan: Plan) -> None:
        if self._warehouse.scheme == "postgresql" and self.mode != "append":
            # Without the lock, two runs that replace or upsert at the same time would not see each other's rows.
            cursor.execute(f"lock table {self._table} in share row exclusive mode")
        if self.mode == "replace":
            cursor.execute(f"delete from {self._table}")
        if plan.is_direct and self.mode != "upsert":
            self._ingest(cursor, rows, "append")
            return
        cursor.adbc_ingest(_STAGING, rows, mode="append", temporary=True)
        self._move(cursor, _STAGING, plan)

    def _ingest(self, cursor: Any, rows: Any, mode: str) -> None:
        where = {"db_schema_name": self._schema} if self._schema else {}
        cursor.adbc_ingest(self._name, rows, mode=mode, **where)
