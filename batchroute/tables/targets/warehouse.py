"""What all tables of warehouses share as targets: their columns against the answers', and the ledger of loads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from batchroute.tables.queries import literal, quoted
from batchroute.tables.targets.base import asked_for, refuse_differences
from batchroute.tables.targets.columns import Holds, kind_name
from batchroute.tables.targets.matching import Match, match, renamed, their_name
from batchroute.tables.targets.relation import Column
from batchroute.tables.targets.settings import TableSpec
from batchroute.tables.warehouse import Warehouse

_NUMERIC = pa.opaque(pa.string(), "numeric", "PostgreSQL")
# Result columns that are null in every row that is ok.
_NULL_IF_OK = ("error_type", "error")


class Plan(NamedTuple):
    """How the rows get into the table."""

    match: Match
    values: dict[str, str]
    """SQL for the value of each of the table's columns, of a row in the staging table."""
    is_direct: bool
    """Whether the types are equal and, for DuckDB, the order too: then the driver can write into the table itself."""
    wrong: list[str]
    """Why they do not, a sentence each."""
    notes: list[str]


class WarehouseTarget(ABC):
    """`output.table` as a table of a warehouse."""

    _ledger: str
    """The table of loads, as it stands in SQL."""

    def __init__(self, spec: TableSpec, key: str | None, holds: Holds, schema: str, name: str) -> None:
        """
        Args:
            schema, name: of the table, in the warehouse's own case; no schema where it is the connection's.
        """
        self._warehouse = Warehouse(spec.warehouse, "output.table.warehouse", create=True)
        self._schema, self._name, self.mode, self._key = schema, name, spec.mode, key
        self._spec, self._holds, self.public = spec, holds, spec.public

    @abstractmethod
    def _columns(self, connection: Any, cursor: Any) -> list[Column]:
        """The table's columns; none where there is no table."""

    @abstractmethod
    def _shape(self, connection: Any, cursor: Any, schema: pa.Schema) -> dict[str, str]:
        """The warehouse's own types for the columns, so that like is compared with like."""

    @abstractmethod
    def _assigned(self, original: pa.DataType, ours: pa.DataType, theirs: str) -> tuple[str, bool] | None:
        """As `relation.assigned`; `original` is the type in the answers."""

    @abstractmethod
    def _rounded(self, original: pa.DataType, theirs: str, is_cost: bool) -> tuple[str, bool] | None:
        """As `relation.rounded`, and whether the driver can write such values itself."""

    def _staged(self, name: str, number: int) -> str:
        """The column of the staging table, in SQL, for one of the table's columns."""
        return quoted(name)

    @property
    def _ledger_name(self) -> str:
        return self._spec.name

    @property
    def _table(self) -> str:
        return ".".join(quoted(part) for part in (self._schema, self._name) if part)

    def check(self, schema: pa.Schema) -> list[str]:
        if not self._warehouse.is_there:
            return []
        with self._warehouse.connected() as connection, connection.cursor() as cursor:
            columns = self._columns(connection, cursor)
            return self._checked(connection, cursor, columns, schema) if columns else []

    def goes_in(self, schema: pa.Schema) -> tuple[Holds, list[str]]:
        columns: list[Column] = []
        if self._warehouse.is_there:
            with self._warehouse.connected() as connection, connection.cursor() as cursor:
                columns = self._columns(connection, cursor)
        return self._holds, list(self._match(schema.names, columns).ours.values())

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
            kinds = {column.name: column.kind for column in self._columns(connection, cursor)}
            key, where = asked(list(kinds)) if kinds else (None, "")
            connection.rollback()
        if key is None:
            return
        with self._warehouse.query(f"select {quoted(key)} from {self._table}{where}") as reader:
            for batch in reader:
                # Numbers that came as text are numbers to those who compare them.
                is_number = kinds[key].startswith("numeric") and pa.types.is_string(batch.column(0).type)
                yield pa.ExtensionArray.from_storage(_NUMERIC, batch.column(0)) if is_number else batch.column(0)

    def _match(self, names: list[str], columns: list[Column]) -> Match:
        """
        Args:
            names: of the answers.
            columns: of the table; none where it is to be made.
        """
        if not columns:
            return renamed(names, self._spec.columns, self.public)
        return match(names, [column.name for column in columns], self._spec.columns, self.public)

    def _plan(self, connection: Any, cursor: Any, columns: list[Column], answers: pa.Schema) -> Plan:
        """
        Args:
            columns: of the table; none where it is not there yet.
        """
        fitted = self._holds.schema(answers)
        found = self._match(fitted.names, columns)
        if not columns:
            return Plan(found, {}, True, [], [])
        schema, kinds = found.schema(fitted), {column.name: column for column in columns}
        shape = self._shape(connection, cursor, schema)
        wrong, notes, values, are_equal = [], found.notes(self.public), {}, True
        for number, field in enumerate(schema):
            column, own = kinds[field.name], found.ours[field.name]
            original, is_cost = answers.field(own).type, _is_result(own, ("cost",), answers.names)
            value: tuple[str, bool] | None = ("{0}", True)
            if column.kind != shape[field.name]:
                value = self._assigned(original, field.type, column.kind)
            if value is None and (value := self._rounded(original, column.kind, is_cost)) is not None and is_cost:
                notes.append(f"{field.name} is {column.kind} there: costs are rounded to 15 digits")
            if value is None:
                here = kind_name(field.type)
                wrong.append(f"{field.name} is {self._kind_there(cursor, column)} there and {here} here")
            elif not column.is_writable:
                wrong.append(f"{field.name} is generated there: output.table.columns: {{{field.name}: null}}")
            else:
                values[field.name] = value[0].replace("{0}", self._staged(field.name, number))
                are_equal = are_equal and value[1]
        in_order = self._warehouse.scheme != "duckdb" or list(found.ours) == list(kinds)
        return Plan(found, values, are_equal and in_order, wrong, notes)

    def _kind_there(self, cursor: Any, column: Column) -> str:
        """The type of the table's column, in Arrow's words where its name is not that of another type."""
        return column.kind

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

    def _loads(self, cursor: Any, load_id: str) -> dict[int, str]:
        cursor.execute(
            f"select serial, loaded_at from {self._ledger} where target = {literal(self._ledger_name)} "
            f"and load_id = {literal(load_id)}"
        )
        return {int(serial): str(at) for serial, at in cursor.fetchall()}

    def _move(self, cursor: Any, staging: str, plan: Plan) -> None:
        """The rows of the staging table into the table; with upsert, in the place of those with the same key."""
        if self.mode == "upsert":
            theirs = plan.match.theirs(str(self._key))
            assert theirs is not None
            value = plan.values[theirs]
            cursor.execute(f"delete from {self._table} where {quoted(theirs)} in (select {value} from {staging})")
        names, values = ", ".join(map(quoted, plan.values)), ", ".join(plan.values.values())
        cursor.execute(f"insert into {self._table} ({names}) select {values} from {staging}")


def _is_result(own: str, results: Sequence[str], names: list[str]) -> bool:
    """Whether a column of the answers is one of these results, whatever their prefix."""
    prefixes = [own.removesuffix(name) for name in results if own.endswith(name)]
    return any(f"{prefix}status" in names and f"{prefix}attempts" in names for prefix in prefixes)
