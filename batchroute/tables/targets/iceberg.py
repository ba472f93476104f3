"""An Iceberg table as a target: one snapshot loads a commit and records it in its summary."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa

from batchroute.tables.lakes import iceberg_errors, open_catalog
from batchroute.tables.targets.base import LOAD, SERIAL, Answers, asked_for, is_loaded, lake_plan
from batchroute.tables.targets.columns import Holds
from batchroute.tables.targets.constraints import Constraints
from batchroute.tables.targets.matching import Match, renamed
from batchroute.tables.targets.settings import TableSpec
from batchroute.tables.types import portable

_NO_RETRIES = {"commit.retry.num-retries": "0"}


class IcebergTarget:
    """`output.table` as an Iceberg table: load id and serial stand in the summary of a snapshot."""

    _holds = Holds(small_integers=False)

    def __init__(self, spec: TableSpec) -> None:
        self._spec, self.public, self.mode = spec, spec.public, spec.mode

    def check(self, schema: pa.Schema) -> list[str]:
        with iceberg_errors(self.public):
            catalog = open_catalog(self._spec.catalog)
            if not catalog.table_exists(self._spec.iceberg):
                return []
            return self._plan(catalog.load_table(self._spec.iceberg), schema)[0].notes(self.public)

    def prepare(self, schema: pa.Schema) -> list[str]:
        with iceberg_errors(self.public):
            catalog = open_catalog(self._spec.catalog)
            if not catalog.table_exists(self._spec.iceberg):
                catalog.create_namespace_if_not_exists(self._spec.iceberg.rpartition(".")[0])
                fitted = self._holds.schema(schema)
                made = renamed(fitted.names, self._spec.columns, self.public).schema(fitted)
                catalog.create_table_if_not_exists(self._spec.iceberg, schema=made)
            table = catalog.load_table(self._spec.iceberg)
            match, kinds = self._plan(table, schema)
            if set(kinds.names) - set(table.schema().as_arrow().names):
                with table.update_schema() as update:
                    update.union_by_name(kinds)
            return match.notes(self.public)

    def rehearse(self, schema: pa.Schema) -> bool:
        return False  # a load is one version, which would stay

    def _plan(self, table: Any, schema: pa.Schema) -> tuple[Match, pa.Schema]:
        there = table.schema().as_arrow()
        required = {field.name for field in there if not field.nullable}
        return lake_plan(self._spec, None, self._holds.schema(schema), self._holds.schema(there), required)

    def goes_in(self, schema: pa.Schema) -> tuple[Holds, list[str]]:
        with iceberg_errors(self.public):
            catalog = open_catalog(self._spec.catalog)
            if not catalog.table_exists(self._spec.iceberg):
                return self._holds, list(renamed(schema.names, self._spec.columns, self.public).ours.values())
            return self._holds, list(self._plan(catalog.load_table(self._spec.iceberg), schema)[0].ours.values())

    def constraints(self, schema: pa.Schema, results: Collection[str]) -> Constraints:
        return Constraints()

    def held(self, by: str) -> Iterator[pa.Array]:
        return iter(())  # a lake's tables have no unique keys

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
            rows = answers.fitted(self._holds, *self._plan(table, answers.schema))
            if self.mode == "append":
                table.append(rows, snapshot_properties=record)
            else:
                table.overwrite(rows, snapshot_properties=record)
            return True

    def answered(self, by: str, prefix: str) -> Iterator[pa.Array]:
        with iceberg_errors(self.public):
            catalog = open_catalog(self._spec.catalog)
            if not catalog.table_exists(self._spec.iceberg):
                return
            table = catalog.load_table(self._spec.iceberg)
            key, status, response = asked_for(self._spec, by, prefix, table.schema().as_arrow().names)
            is_done = f"{response} is not null" if status is None else f"{status} = 'ok'"
            scan = table.scan(row_filter=is_done, selected_fields=(key, str(status or response)))
            for batch in scan.to_arrow_batch_reader():
                yield portable(batch).column(key)
