"""An Iceberg table as a target: one snapshot loads a commit and records it in its summary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from batchroute.tables.lakes import iceberg_errors, open_catalog
from batchroute.tables.targets.base import GROW, LOAD, SERIAL, Answers, TableSpec, is_loaded, refuse_differences
from batchroute.tables.targets.columns import Holds
from batchroute.tables.types import portable

_NO_RETRIES = {"commit.retry.num-retries": "0"}


class IcebergTarget:
    """`output.table` as an Iceberg table: load id and serial stand in the summary of a snapshot."""

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
            columns = self._holds.schema(table.schema().as_arrow())
            refuse_differences(self.public, fitted, columns, self._spec.allow_new_columns, GROW)
            if set(fitted.names) - set(columns.names):
                with table.update_schema() as update:
                    update.union_by_name(fitted)

    def loads(self, load_id: str) -> dict[int, str]:
        with iceberg_errors(self.public):
            catalog = open_catalog(self._spec.catalog)
            if not catalog.table_exists(self._spec.iceberg):
                return {}
            return self._loads(catalog.load_table(self._spec.iceberg), load_id)

    def _loads(self, table: Any, load_id: str) -> dict[int, str]:
        loads = {}
        for snapshot in table.metadata.snapshots:
            properties = snapshot.summary.additional_properties if snapshot.summary else {}
            if properties.get(LOAD) == load_id:
                loads[int(properties[SERIAL])] = f"snapshot {snapshot.snapshot_id}"
        return loads

    def load(self, answers: Answers) -> bool:
        with iceberg_errors(self.public):
            table = open_catalog(self._spec.catalog).load_table(self._spec.iceberg)
            record = {LOAD: answers.load_id, SERIAL: str(answers.serial)}
            if is_loaded(self, answers.serial, self._loads(table, answers.load_id)):
                return False
            # With its own retries pyiceberg would append after another loader of the same commit.
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
