"""A Delta table as a target: one version of the table loads a commit and records it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pyarrow as pa

from batchroute.tables.lakes import delta_errors, delta_options, delta_place, open_delta
from batchroute.tables.targets.base import GROW, LOAD, SERIAL, Answers, TableSpec, is_loaded, refuse_differences
from batchroute.tables.targets.columns import Holds
from batchroute.tables.types import portable, portable_schema


class DeltaTarget:
    """`output.table` as a Delta table: the load id is an application transaction, the serial its version."""

    _holds = Holds(times=False)

    def __init__(self, spec: TableSpec, key: str | None) -> None:
        self._spec, self._key, self.public, self.mode = spec, key, spec.public, spec.mode
        self._options = {name: str(value) for name, value in spec.storage_options.items()}

    def prepare(self, schema: pa.Schema) -> None:
        with delta_errors(self.public):
            fitted, table = self._holds.schema(schema), open_delta(self._spec.delta, self._options)
            if table is None:
                from deltalake import DeltaTable

                DeltaTable.create(
                    delta_place(self._spec.delta),
                    fitted,
                    mode="ignore",
                    storage_options=delta_options(self._spec.delta, self._options),
                )
                table = open_delta(self._spec.delta, self._options)
            columns = self._holds.schema(portable_schema(pa.schema(table.schema().to_arrow())))
            refuse_differences(self.public, fitted, columns, self._spec.allow_new_columns, GROW)

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
            rows = answers.fitted(self._holds)
            if self.mode == "upsert":
                self._merge(table, rows, record)
                return True
            growth: Literal["merge"] | None = "merge" if self._spec.allow_new_columns else None
            if self.mode == "append":
                write_deltalake(table, rows, mode="append", schema_mode=growth, commit_properties=record)
            else:
                write_deltalake(table, rows, mode="overwrite", schema_mode=growth, commit_properties=record)
            return True

    def _merge(self, table: Any, rows: pa.RecordBatchReader, record: Any) -> None:
        key = "`" + str(self._key) + "`"
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

    def answered(self, by: str, status: str) -> Iterator[pa.Array]:
        with delta_errors(self.public):
            table = open_delta(self._spec.delta, self._options)
            if table is None:
                return
            import deltalake

            query = f'select "{by}" from answers where "{status}" = \'ok\''
            stream = deltalake.QueryBuilder().register("answers", table).execute(query)
            for batch in pa.RecordBatchReader.from_stream(stream):
                yield portable(batch).column(0)
