"""A table of a lake as the place of the answers: one version for each commit, which also records it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pyarrow as pa

from batchroute.tables.lakes import delta_errors, delta_options, delta_place, iceberg_errors, open_catalog, open_delta
from batchroute.tables.targets.base import Answers, TableSpec, is_loaded, refuse_differences
from batchroute.tables.targets.columns import Holds
from batchroute.tables.types import portable, portable_schema

_REMEDY = "set output.table.allow_new_columns, or name another table"
_LOAD, _SERIAL = "batchroute.load_id", "batchroute.serial"
_NO_RETRIES = {"commit.retry.num-retries": "0"}


class DeltaTarget:
    """`output.table` that is a Delta table: the run id is the application transaction id, its version the serial."""

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
            found = self._holds.schema(portable_schema(pa.schema(table.schema().to_arrow())))
            refuse_differences(self.public, fitted, found, self._spec.allow_new_columns, _REMEDY)

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

            # Read before the check and written to after it: a commit of another loader in between is a conflict.
            table = open_delta(self._spec.delta, self._options)
            if is_loaded(self, answers.serial, self._loads(table, answers.load_id)):
                return False
            record = CommitProperties(
                custom_metadata={_LOAD: answers.load_id, _SERIAL: str(answers.serial)},
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


class IcebergTarget:
    """`output.table` that is an Iceberg table: run id and serial are in the summary of the snapshot."""

    _holds = Holds(small_integers=False)

    def __init__(self, spec: TableSpec) -> None:
        self._spec, self.public, self.mode = spec, spec.public, spec.mode

    def prepare(self, schema: pa.Schema) -> None:
        with iceberg_errors(self.public):
            fitted, catalog = self._holds.schema(schema), open_catalog(self._spec.catalog)
            if not catalog.table_exists(self._spec.iceberg):
                catalog.create_namespace_if_not_exists(self._spec.iceberg.rpartition(".")[0])
                catalog.create_table_if_not_exists(self._spec.iceberg, schema=fitted)
            table = catalog.load_table(self._spec.iceberg)
            found = self._holds.schema(table.schema().as_arrow())
            refuse_differences(self.public, fitted, found, self._spec.allow_new_columns, _REMEDY)
            if set(fitted.names) - set(found.names):
                with table.update_schema() as update:
                    update.union_by_name(fitted)

    def loads(self, load_id: str) -> dict[int, str]:
        with iceberg_errors(self.public):
            catalog = open_catalog(self._spec.catalog)
            if not catalog.table_exists(self._spec.iceberg):
                return {}
            return self._loads(catalog.load_table(self._spec.iceberg), load_id)

    def _loads(self, table: Any, load_id: str) -> dict[int, str]:
        found = {}
        for snapshot in table.metadata.snapshots:
            of = snapshot.summary.additional_properties if snapshot.summary else {}
            if of.get(_LOAD) == load_id:
                found[int(of[_SERIAL])] = f"snapshot {snapshot.snapshot_id}"
        return found

    def load(self, answers: Answers) -> bool:
        with iceberg_errors(self.public):
            table = open_catalog(self._spec.catalog).load_table(self._spec.iceberg)
            record = {_LOAD: answers.load_id, _SERIAL: str(answers.serial)}
            if is_loaded(self, answers.serial, self._loads(table, answers.load_id)):
                return False
            # Left to itself it would put an append on top of that of another loader, which may be the same one.
            table.metadata = table.metadata.model_copy(
                update={"properties": {**table.metadata.properties, **_NO_RETRIES}}
            )
            rows = answers.fitted(self._holds)
            if self.mode == "append":
                table.append(rows, snapshot_properties=record)
            else:
                table.overwrite(rows, snapshot_properties=record)
            return True

    def answered(self, by: str, status: str) -> Iterator[pa.Array]:
        with iceberg_errors(self.public):
            catalog = open_catalog(self._spec.catalog)
            if not catalog.table_exists(self._spec.iceberg):
                return
            scan = catalog.load_table(self._spec.iceberg).scan(
                row_filter=f"{status} = 'ok'", selected_fields=(by, status)
            )
            for batch in scan.to_arrow_batch_reader():
                yield portable(batch).column(by)
