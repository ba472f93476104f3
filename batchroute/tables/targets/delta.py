"""A Delta table as a target: one version of the table loads a commit and records it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Literal

import pyarrow as pa

from batchroute.tables.lakes import delta_errors, delta_options, delta_place, open_delta
from batchroute.tables.targets.base import LOAD, SERIAL, Answers, asked_for, is_loaded, lake_plan
from batchroute.tables.targets.columns import Holds
from batchroute.tables.targets.constraints import Constraints
from batchroute.tables.targets.matching import Match, renamed
from batchroute.tables.targets.settings import TableSpec
from batchroute.tables.types import portable, portable_schema

_CHECK = "delta.constraints."


class DeltaTarget:
    """`output.table` as a Delta table: the load id is an application transaction, the serial its version."""

    _holds = Holds(times=False)

    def __init__(self, spec: TableSpec, key: str | None) -> None:
        self._spec, self._key, self.public, self.mode = spec, key, spec.public, spec.mode
        self._options = {name: str(value) for name, value in spec.storage_options.items()}

    def check(self, schema: pa.Schema) -> list[str]:
        with delta_errors(self.public):
            table = open_delta(self._spec.delta, self._options)
            return [] if table is None else self._plan(table, schema)[0].notes(self.public)

    def prepare(self, schema: pa.Schema) -> list[str]:
        with delta_errors(self.public):
            table = open_delta(self._spec.delta, self._options)
            if table is None:
                from deltalake import DeltaTable

                fitted = self._holds.schema(schema)
                DeltaTable.create(
                    delta_place(self._spec.delta),
                    renamed(fitted.names, self._spec.columns, self.public).schema(fitted),
                    mode="ignore",
                    storage_options=delta_options(self._spec.delta, self._options),
                )
                table = open_delta(self._spec.delta, self._options)
            return self._plan(table, schema)[0].notes(self.public)

    def rehearse(self, schema: pa.Schema) -> bool:
        return False  # a load is one version, which would stay

    def _plan(self, table: Any, schema: pa.Schema) -> tuple[Match, pa.Schema]:
        there = pa.schema(table.schema().to_arrow())
        columns = self._holds.schema(portable_schema(there))
        required = {field.name for field in there if not field.nullable}
        return lake_plan(self._spec, self._key, self._holds.schema(schema), columns, required)

    def goes_in(self, schema: pa.Schema) -> tuple[Holds, list[str]]:
        with delta_errors(self.public):
            table = open_delta(self._spec.delta, self._options)
            if table is None:
                return self._holds, list(renamed(schema.names, self._spec.columns, self.public).ours.values())
            return self._holds, list(self._plan(table, schema)[0].ours.values())

    def constraints(self, schema: pa.Schema, results: Collection[str]) -> Constraints:
        with delta_errors(self.public):
            table = open_delta(self._spec.delta, self._options)
            settings = {} if table is None else table.metadata().configuration
            checks = [name.removeprefix(_CHECK) for name in sorted(settings) if name.startswith(_CHECK)]
            return Constraints(others=tuple(f"check {name}" for name in checks))

    def held(self, by: str) -> Iterator[pa.Array]:
        return iter(())  # a lake's tables have no unique keys

    def loads(self, load_id: str) -> dict[int, str]:
        with delta_errors(self.public):
            table = open_delta(self._spec.delta, self._options)
            return {} if table is None else self._loads(table, load_id)

    def _loads(self, table: Any, load_id: str) -> dict[int, str]:
        serial = table.transaction_version(load_id)
        return {} if serial is None else {serial: f"up to version {table.version()}"}

    def load(self, answers: Answers) -> bool:
        with delta_errors(self.public):
            from deltalake import CommitProperties, Transaction, write_deltalake

            # The version is read before the check, so that a commit of another loader after it is a conflict.
            table = open_delta(self._spec.delta, self._options)
            if is_loaded(self, answers.serial, self._loads(table, answers.load_id)):
                return False
            record = CommitProperties(
                custom_metadata={LOAD: answers.load_id, SERIAL: str(answers.serial)},
                app_transactions=[Transaction(answers.load_id, answers.serial)],
            )
            match, kinds = self._plan(table, answers.schema)
            rows = answers.fitted(self._holds, match, kinds)
            if self.mode == "upsert":
                self._merge(table, rows, record, str(match.theirs(str(self._key))))
                return True
            # Without it deltalake refuses rows that lack a column of the table.
            is_whole = kinds.names == [field.name for field in table.schema().fields]
            growth: Literal["merge"] | None = None if is_whole else "merge"
            if self.mode == "append":
                write_deltalake(table, rows, mode="append", schema_mode=growth, commit_properties=record)
            else:
                write_deltalake(table, rows, mode="overwrite", schema_mode=growth, commit_properties=record)
            return True

    def _merge(self, table: Any, rows: pa.RecordBatchReader, record: Any, key: str) -> None:
        key = f"`{key}`"
        (
            table.merge(
                rows,
                f"target.{key} = source.{key}",
                source_alias="source",
                target_alias="target",
                merge_schema=self._spec.allow_new_columns,
                commit_properties=record,
            )
            .when_matched_update_all()
            .when_not_matched_insert_all()
            .execute()
        )

    def answered(self, by: str, prefix: str) -> Iterator[pa.Array]:
        with delta_errors(self.public):
            table = open_delta(self._spec.delta, self._options)
            if table is None:
                return
            import deltalake

            names = [field.name for field in table.schema().fields]
            key, status, response = asked_for(self._spec, by, prefix, names)
            is_done = f'"{response}" is not null' if status is None else f"\"{status}\" = 'ok'"
            query = f'select "{key}" from answers where {is_done}'
            stream = deltalake.QueryBuilder().register("answers", table).execute(query)
            for batch in pa.RecordBatchReader.from_stream(stream):
                yield portable(batch).column(0)
