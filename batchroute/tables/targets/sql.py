"""A warehouse's table as a target: one transaction loads a commit and records it in the ledger `batchroute_loads`."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from batchroute.errors import InputError, StoppedError
from batchroute.tables.failures import exists_already
from batchroute.tables.targets.base import Answers, TableSpec, is_loaded, refuse_differences
from batchroute.tables.targets.columns import Holds
from batchroute.tables.types import portable
from batchroute.tables.warehouse import Warehouse

_LEDGER = "batchroute_loads"
_CREATE_LEDGER = f"""create table if not exists {_LEDGER} (target varchar(400), load_id varchar(64), serial bigint,
row_count bigint, mode varchar(16), loaded_at varchar(40), primary key (target, load_id, serial))"""
_SHAPE, _STAGING = "batchroute_shape", "batchroute_staging"
_HOLDS = {
    "duckdb": Holds(),
    "sqlite": Holds(lists=False, nested=False, decimals=False, times=False),
}
_NO_RIGHTS = "42501"
_HOLDS_ELSEWHERE = Holds(nested=False, zero_characters=False)


class SqlTarget:
    """`output.table` as a table of a warehouse."""

    def __init__(self, spec: TableSpec, key: str | None) -> None:
        """Raises:
        InputError: the warehouse is not a URI, or its driver has no transactions.
        """
        self._warehouse = Warehouse(spec.warehouse, "output.table.warehouse", create=True)
        if self._warehouse.scheme == "bigquery":
            raise InputError(
                "output.table.warehouse: BigQuery's driver has no transactions, so that rows could be loaded twice; "
                "load the committed files of output.uri by `bq load`"
            )
        schema, dot, name = spec.name.rpartition(".")
        self._schema, self._name, self.mode, self._key = (schema if dot else None), name, spec.mode, key
        self._holds = _HOLDS.get(self._warehouse.scheme, _HOLDS_ELSEWHERE)
        self._ledger_name = spec.name
        self.public = spec.public

    def prepare(self, schema: pa.Schema) -> None:
        with self._warehouse.connected() as connection, connection.cursor() as cursor:
            self._prepare(connection, cursor, self._holds.schema(schema))

    def loads(self, load_id: str) -> dict[int, str]:
        if not self._warehouse.is_there:
            return {}
        with self._warehouse.connected() as connection, connection.cursor() as cursor:
            try:
                return self._loads(cursor, load_id)
            except connection.Error as error:
                if self._warehouse.may_pass(error):
                    raise
                # No ledger: nothing was loaded here yet.
                connection.rollback()
                return {}

    def load(self, answers: Answers) -> bool:
        with self._warehouse.connected() as connection, connection.cursor() as cursor:
            loads = self._loads(cursor, answers.load_id)
            if is_loaded(self, answers.serial, loads):
                return False
            fitted = answers.fitted(self._holds)
            if self.mode == "upsert":
                cursor.adbc_ingest(_STAGING, fitted.schema.empty_table(), mode="create", temporary=True)
            connection.commit()
            if not self._record(connection, cursor, answers):
                return False
            self._fill(cursor, fitted)
            connection.commit()
            return True

    def answered(self, by: str, status: str) -> Iterator[pa.Array]:
        if not self._warehouse.is_there:
            return
        with self._warehouse.connected() as connection, connection.cursor() as cursor:
            if self._columns(connection, cursor) is None:
                return
            cursor.execute(f"select {_quoted(by)} from {self._table} where {_quoted(status)} = 'ok'")
            for batch in cursor.fetch_record_batch():
                yield portable(batch).column(0)

    @property
    def _table(self) -> str:
        return ".".join(_quoted(part) for part in (self._schema, self._name) if part)

    def _prepare(self, connection: Any, cursor: Any, schema: pa.Schema) -> None:
        with self._creating(connection):
            cursor.execute(_CREATE_LEDGER)
            connection.commit()
        columns = self._columns(connection, cursor)
        if columns is None:
            with self._creating(connection):
                self._ingest(cursor, schema.empty_table(), "create_append")
                connection.commit()
            return
        # The warehouse's own types for the columns of the answers, so that like is compared with like.
        cursor.adbc_ingest(_SHAPE, schema.empty_table(), mode="create", temporary=True)
        cursor.execute(f"select * from {_SHAPE} limit 0")
        answers = cursor.fetch_record_batch().schema
        connection.rollback()
        refuse_differences(self.public, answers, columns, False, "add it, or name another table")
        # Missing rights show here, before a night's work.
        names = ", ".join(map(_quoted, schema.names))
        cursor.execute(f"insert into {self._table} ({names}) select {names} from {self._table} where 1 = 0")
        if self.mode != "append":
            cursor.execute(f"delete from {self._table} where 1 = 0")
        connection.rollback()

    @contextmanager
    def _creating(self, connection: Any) -> Iterator[None]:
        try:
            yield
        except connection.Error as error:
            if not exists_already(error):
                raise
            raise StoppedError(f"{self.public}: another run creates it at this moment; run again") from None

    def _columns(self, connection: Any, cursor: Any) -> pa.Schema | None:
        """The table's columns; None when there is no table."""
        try:
            cursor.execute(f"select * from {self._table} limit 0")
            schema: pa.Schema = cursor.fetch_record_batch().schema
            return schema
        except connection.Error as error:
            if self._warehouse.may_pass(error) or getattr(error, "sqlstate", None) == _NO_RIGHTS:
                raise
            connection.rollback()
            return None

    def _loads(self, cursor: Any, load_id: str) -> dict[int, str]:
        cursor.execute(
            f"select serial, loaded_at from {_LEDGER} where target = {_text(self._ledger_name)} "
            f"and load_id = {_text(load_id)}"
        )
        return dict(cursor.fetchall())

    def _record(self, connection: Any, cursor: Any, answers: Answers) -> bool:
        """Record the commit; False when another run has loaded it. As the first statement of the transaction it makes a
        second loader of the commit wait here, and then fail.
        """
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        values = f"{answers.serial}, {answers.count}, {_text(self.mode)}, {_text(now)}"
        try:
            cursor.execute(
                f"insert into {_LEDGER} values ({_text(self._ledger_name)}, {_text(answers.load_id)}, {values})"
            )
        except connection.Error:
            connection.rollback()
            if answers.serial in self._loads(cursor, answers.load_id):
                return False
            raise
        return True

    def _fill(self, cursor: Any, rows: pa.RecordBatchReader) -> None:
        if self.mode == "append":
            self._ingest(cursor, rows, "append")
            return
        if self._warehouse.scheme == "postgresql":
            # Without the lock, two runs that replace or upsert at the same time would not see each other's rows.
            cursor.execute(f"lock table {self._table} in share row exclusive mode")
        if self.mode == "replace":
            cursor.execute(f"delete from {self._table}")
            self._ingest(cursor, rows, "append")
            return
        assert self._key is not None
        key, names = _quoted(self._key), ", ".join(map(_quoted, rows.schema.names))
        cursor.adbc_ingest(_STAGING, rows, mode="append", temporary=True)
        cursor.execute(f"delete from {self._table} where {key} in (select {key} from {_STAGING})")
        cursor.execute(f"insert into {self._table} ({names}) select {names} from {_STAGING}")

    def _ingest(self, cursor: Any, rows: Any, mode: str) -> None:
        where = {"db_schema_name": self._schema} if self._schema else {}
        cursor.adbc_ingest(self._name, rows, mode=mode, **where)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
