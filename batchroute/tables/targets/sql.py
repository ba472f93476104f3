"""A warehouse's table as a target: one transaction loads a commit and records it in the ledger `batchroute_loads`."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyarrow as pa

from batchroute.errors import InputError, StoppedError
from batchroute.tables.failures import exists_already
from batchroute.tables.queries import literal, quoted
from batchroute.tables.targets.base import Answers, TableSpec, asked_for, is_loaded, refuse_differences
from batchroute.tables.targets.columns import Holds, kind_name
from batchroute.tables.targets.constraints import Constraints, constraints_of
from batchroute.tables.targets.matching import Match, match, renamed, their_name
from batchroute.tables.targets.relation import Column, assigned, columns_of, rounded
from batchroute.tables.types import POSTGRESQL_TYPE
from batchroute.tables.warehouse import Warehouse

_LEDGER = "batchroute_loads"
_CREATE_LEDGER = f"""create table if not exists {_LEDGER} (target varchar(400), load_id varchar(64), serial bigint,
row_count bigint, mode varchar(16), loaded_at varchar(40), primary key (target, load_id, serial))"""
_SHAPE, _STAGING = "batchroute_shape", "batchroute_staging"
_HOLDS = {
    "duckdb": Holds(),
    "sqlite": Holds(lists=False, nested=False, digits=0, nan=False, times=False),
    "postgresql": Holds(nested=False, digits=76, zero_characters=False),
}
_NO_RIGHTS = "42501"
_NUMERIC = pa.opaque(pa.string(), "numeric", "PostgreSQL")
_WITH_CATALOG = ("postgresql", "sqlite", "duckdb")
# Result columns that are null in every row that is ok.
_NULL_IF_OK = ("error_type", "error")
_HOLDS_ELSEWHERE = Holds(nested=False, zero_characters=False)


class _Plan(NamedTuple):
    """How the rows get into the table."""

    match: Match
    values: dict[str, str]
    """SQL for the value of each of the table's columns, of a row in the staging table."""
    is_direct: bool
    """Whether the driver can write into the table itself: the types are equal and, for DuckDB, the order too."""
    wrong: list[str]
    """Why they do not, a sentence each."""
    notes: list[str]


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
        self._spec, self._ledger_name, self.public = spec, spec.name, spec.public

    def check(self, schema: pa.Schema) -> list[str]:
        if not self._warehouse.is_there:
            return []
        with self._warehouse.connected() as connection, connection.cursor() as cursor:
            columns = self._columns(connection, cursor)
            return self._checked(connection, cursor, columns, schema) if columns else []

    def prepare(self, schema: pa.Schema) -> list[str]:
        with self._warehouse.connected() as connection, connection.cursor() as cursor:
            with self._creating(connection):
                cursor.execute(_CREATE_LEDGER)
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
            plan = self._plan(connection, cursor, self._columns(connection, cursor) or [], answers.schema)
            rows = answers.fitted(self._holds, plan.match)
            if not plan.is_direct or self.mode == "upsert":
                cursor.adbc_ingest(_STAGING, rows.schema.empty_table(), mode="create", temporary=True)
            connection.commit()
            if not self._record(connection, cursor, answers):
                return False
            self._fill(cursor, rows, plan)
            connection.commit()
            return True

    def goes_in(self, schema: pa.Schema) -> tuple[Holds, list[str]]:
        columns: list[Column] = []
        if self._warehouse.is_there:
            with self._warehouse.connected() as connection, connection.cursor() as cursor:
                columns = self._columns(connection, cursor) or []
        return self._holds, list(self._match(schema.names, columns).ours.values())

    def _match(self, names: list[str], columns: list[Column]) -> Match:
        if not columns:
            return renamed(names, self._spec.columns, self.public)
        return match(names, [column.name for column in columns], self._spec.columns, self.public)

    def constraints(self, schema: pa.Schema, results: Collection[str]) -> Constraints:
        if self._warehouse.scheme not in _WITH_CATALOG or not self._warehouse.is_there:
            return Constraints()
        with self._warehouse.connected() as connection, connection.cursor() as cursor:
            columns = self._columns(connection, cursor)
            if not columns:
                return Constraints()
            found = self._match(schema.names, columns)
            # Rows with an id of the answers are deleted first, or all.
            unique = None if self.mode == "append" else self._key
            place = (self._schema, self._name)
            return constraints_of(self._warehouse.scheme, cursor, *place, found, results, unique)

    def held(self, by: str) -> Iterator[pa.Array]:
        if self.mode == "append":
            yield from self._values(lambda names: (their_name(by, names, self._spec.columns), ""))

    def answered(self, by: str, prefix: str) -> Iterator[pa.Array]:
        def asked(names: list[str]) -> tuple[str, str]:
            key, status, response = asked_for(self._spec, by, prefix, names)
            done = f"{quoted(response or '')} is not null" if status is None else f"{quoted(status)} = 'ok'"
            return key, f" where {done}"

        yield from self._values(asked)

    def _values(self, asked: Callable[[list[str]], tuple[str | None, str]]) -> Iterator[pa.Array]:
        """The values of a column.

        Args:
            asked: from the table's columns the one, or None, and the condition on the rows.
        """
        if not self._warehouse.is_there:
            return
        with self._warehouse.connected() as connection, connection.cursor() as cursor:
            kinds = {column.name: column.kind for column in self._columns(connection, cursor) or []}
            key, where = asked(list(kinds)) if kinds else (None, "")
            connection.rollback()
        if key is None:
            return
        with self._warehouse.query(f"select {quoted(key)} from {self._table}{where}") as reader:
            for batch in reader:
                # Numbers that came as text are numbers to those who compare them.
                is_number = kinds[key].startswith("numeric") and pa.types.is_string(batch.column(0).type)
                yield pa.ExtensionArray.from_storage(_NUMERIC, batch.column(0)) if is_number else batch.column(0)

    @property
    def _table(self) -> str:
        return ".".join(quoted(part) for part in (self._schema, self._name) if part)

    def _plan(self, connection: Any, cursor: Any, columns: list[Column], answers: pa.Schema) -> _Plan:
        """
        Args:
            columns: of the table; empty where it is not there yet.
        """
        fitted = self._holds.schema(answers)
        found = self._match(fitted.names, columns)
        if not columns:
            return _Plan(found, {}, True, [], [])
        schema, kinds = found.schema(fitted), {column.name: column for column in columns}
        shape = self._shape(connection, cursor, schema)
        wrong, notes, values, are_equal = [], found.notes(self.public), {}, True
        for field in schema:
            column = kinds[field.name]
            value: tuple[str, bool] | None = ("{0}", True)
            if column.kind != shape[field.name]:
                value = assigned(self._warehouse.scheme, field.type, column.kind)
            own, is_cost = found.ours[field.name], _is_result(found.ours[field.name], ("cost",), answers.names)
            double = rounded(self._warehouse.scheme, answers.field(own).type, column.kind, is_cost)
            if value is None and double is not None:
                value = (double, self._warehouse.scheme == "sqlite")
                if is_cost:
                    notes.append(f"{field.name} is {column.kind} there: costs are rounded to 15 digits")
            if value is None:
                here = kind_name(field.type)
                wrong.append(f"{field.name} is {self._kind_there(cursor, column)} there and {here} here")
            elif not column.is_writable:
                wrong.append(f"{field.name} is generated there: output.table.columns: {{{field.name}: null}}")
            else:
                values[field.name] = value[0].replace("{0}", quoted(field.name))
                are_equal = are_equal and value[1]
        in_order = self._warehouse.scheme != "duckdb" or list(found.ours) == list(kinds)
        return _Plan(found, values, are_equal and in_order, wrong, notes)

    def _shape(self, connection: Any, cursor: Any, schema: pa.Schema) -> dict[str, str]:
        """The warehouse's own types for the columns, so that like is compared with like."""
        scheme = self._warehouse.scheme
        if scheme == "sqlite":
            return dict.fromkeys(schema.names, "")
        cursor.adbc_ingest(_SHAPE, schema.empty_table(), mode="create", temporary=True)
        if scheme in _WITH_CATALOG:
            shape = {column.name: column.kind for column in columns_of(scheme, cursor, None, _SHAPE, _SHAPE)}
        else:
            cursor.execute(f"select * from {_SHAPE} limit 0")
            shape = {field.name: str(field.type) for field in cursor.fetch_record_batch().schema}
        connection.rollback()
        return shape

    def _kind_there(self, cursor: Any, column: Column) -> str:
        """The type of the table's column, in Arrow's words where its name is not that of another type."""
        if self._warehouse.scheme == "sqlite":
            return column.kind
        cursor.execute(f"select {quoted(column.name)} from {self._table} limit 0")
        kind = cursor.fetch_record_batch().schema.field(0).type
        return column.kind if pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType) else str(kind)

    def _checked(self, connection: Any, cursor: Any, columns: list[Column], schema: pa.Schema) -> list[str]:
        plan = self._plan(connection, cursor, columns, schema)
        names, wrong = list(plan.match.ours), plan.wrong
        for column in columns:
            own = plan.match.ours.get(column.name)
            if column.is_required and own is None:
                wrong.append(f"it needs a value for {column.name}, which has no default: see output.table.columns")
            elif column.is_required and own is not None and _is_result(own, _NULL_IF_OK, schema.names):
                wrong.append(f"{column.name} takes no nulls, and {own} is null in each row that is ok")
        if self.mode == "upsert" and plan.match.theirs(str(self._key)) is None:
            wrong.append(f"it has no column {self._key}, by which upsert knows a row")
        fitted = self._holds.schema(schema)
        refuse_differences(self.public, wrong, plan.match.left_out, fitted, "add it, or name another table")
        # Missing rights show here, before a night's work.
        into = ", ".join(map(quoted, names))
        cursor.execute(f"insert into {self._table} ({into}) select {into} from {self._table} where 1 = 0")
        if self.mode != "append":
            cursor.execute(f"delete from {self._table} where 1 = 0")
        connection.rollback()
        return plan.notes

    @contextmanager
    def _creating(self, connection: Any) -> Iterator[None]:
        try:
            yield
        except connection.Error as error:
            if not exists_already(error):
                raise
            raise StoppedError(f"{self.public}: another run creates it at this moment; run again") from None

    def _columns(self, connection: Any, cursor: Any) -> list[Column] | None:
        """The table's columns; None when there is no table."""
        if self._warehouse.scheme in _WITH_CATALOG:
            return columns_of(self._warehouse.scheme, cursor, self._schema, self._name, self.public) or None
        try:
            cursor.execute(f"select * from {self._table} limit 0")
            schema: pa.Schema = cursor.fetch_record_batch().schema
            return [Column(field.name, str(field.type), False, True) for field in schema]
        except connection.Error as error:
            if self._warehouse.may_pass(error) or getattr(error, "sqlstate", None) == _NO_RIGHTS:
                raise
            connection.rollback()
            return None

    def _loads(self, cursor: Any, load_id: str) -> dict[int, str]:
        cursor.execute(
            f"select serial, loaded_at from {_LEDGER} where target = {literal(self._ledger_name)} "
            f"and load_id = {literal(load_id)}"
        )
        return dict(cursor.fetchall())

    def _record(self, connection: Any, cursor: Any, answers: Answers) -> bool:
        """Record the commit; False when another run has loaded it. As the first statement of the transaction it makes a
        second loader of the commit wait here, and then fail.
        """
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        values = f"{answers.serial}, {answers.count}, {literal(self.mode)}, {literal(now)}"
        try:
            cursor.execute(
                f"insert into {_LEDGER} values ({literal(self._ledger_name)}, {literal(answers.load_id)}, {values})"
            )
        except connection.Error:
            connection.rollback()
            if answers.serial in self._loads(cursor, answers.load_id):
                return False
            raise
        return True

    def _fill(self, cursor: Any, rows: pa.RecordBatchReader, plan: _Plan) -> None:
        if self._warehouse.scheme == "postgresql" and self.mode != "append":
            # Without the lock, two runs that replace or upsert at the same time would not see each other's rows.
            cursor.execute(f"lock table {self._table} in share row exclusive mode")
        if self.mode == "replace":
            cursor.execute(f"delete from {self._table}")
        if plan.is_direct and self.mode != "upsert":
            self._ingest(cursor, rows, "append")
            return
        cursor.adbc_ingest(_STAGING, rows, mode="append", temporary=True)
        if self.mode == "upsert":
            theirs = plan.match.theirs(str(self._key))
            assert theirs is not None
            value = plan.values[theirs]
            cursor.execute(f"delete from {self._table} where {quoted(theirs)} in (select {value} from {_STAGING})")
        names, values = ", ".join(map(quoted, plan.values)), ", ".join(plan.values.values())
        cursor.execute(f"insert into {self._table} ({names}) select {values} from {_STAGING}")

    def _ingest(self, cursor: Any, rows: Any, mode: str) -> None:
        where = {"db_schema_name": self._schema} if self._schema else {}
        cursor.adbc_ingest(self._name, rows, mode=mode, **where)


def _is_result(own: str, results: Sequence[str], names: list[str]) -> bool:
    """Whether a column of the answers is one of these results, whatever their prefix."""
    prefixes = [own.removesuffix(name) for name in results if own.endswith(name)]
    return any(f"{prefix}status" in names and f"{prefix}attempts" in names for prefix in prefixes)
