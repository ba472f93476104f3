"""The keys of `output.table` in the job file."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Mode = Literal["append", "replace", "upsert"]


class TableSpec(BaseModel):
    """The table of `output.table`: of a warehouse, or of a lake."""

    model_config = ConfigDict(extra="forbid")

    warehouse: str = Field(default="", description="of a database: postgresql://user@host/database", repr=False)
    name: str = Field(default="", description="of the warehouse's table: answers, or schema.answers")
    delta: str = Field(default="", description="of a Delta table: a folder or s3://bucket/table")
    iceberg: str = Field(default="", description="an Iceberg table of the catalog: namespace.table")
    catalog: dict[str, str] = Field(default_factory=dict, description="properties of the catalog", repr=False)
    columns: dict[str, str | None] = Field(
        default_factory=dict, description="the table's name of a column: the answers' name; null leaves it empty"
    )
    mode: Mode = Field(default="append", description="append, replace all rows, or upsert by input.id")
    allow_new_columns: bool = Field(default=False, description="add missing columns to a table of a lake")
    storage_options: dict[str, Any] = Field(default_factory=dict, description="of a Delta table's storage")

    @model_validator(mode="after")
    def _one_table(self) -> Self:
        if sum(map(bool, (self.warehouse, self.delta, self.iceberg))) != 1:
            raise ValueError("give one of warehouse with a name, delta and iceberg")
        if bool(self.warehouse) != bool(self.name):
            raise ValueError("warehouse and name belong together")
        if self.warehouse and self.allow_new_columns:
            raise ValueError("allow_new_columns is of delta and iceberg; add columns to a warehouse's table by its SQL")
        if self.iceberg and self.mode == "upsert":
            raise ValueError("iceberg tables take append or replace; upsert is of warehouses and delta")
        if self.catalog and not self.iceberg:
            raise ValueError("catalog is of an iceberg table")
        return self

    @property
    def public(self) -> str:
        """The table as messages name it, without secrets."""
        return self._named("public")

    @property
    def identity(self) -> str:
        """The table as a part of a run's identity."""
        return self._named("identity")

    def _named(self, place: Literal["public", "identity"]) -> str:
        from batchroute.tables.warehouse import Warehouse

        if self.warehouse:
            return f"table {self.name} of {getattr(Warehouse(self.warehouse, 'output.table.warehouse'), place)}"
        return f"the Delta table {self.delta}" if self.delta else f"the Iceberg table {self.iceberg}"
