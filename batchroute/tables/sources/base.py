"""What a source of prompts is, and its keys in the job file."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from batchroute.tables.prompts import Unsupported
from batchroute.tables.templates import MessageTemplate
from batchroute.tables.text_files import TextFormat, text_format

_ONLY_OF_LAKES = ("version", "timestamp", "where")


class OnlyNew(BaseModel):
    """Leave out rows that an earlier run has answered: `output.table` holds their ids with status ok."""

    model_config = ConfigDict(extra="forbid")

    by: str = Field(description="a column of the input and of output.table")


class InputSpec(BaseModel):
    """Where the prompts are: exactly one of `uri`, `warehouse`, `delta` and `iceberg`."""

    model_config = ConfigDict(extra="forbid")

    uri: str = Field(default="", description="of files: parquet, JSON lines or CSV; a file, a glob or a folder")
    format: Literal["parquet", "jsonl", "csv"] | None = Field(
        default=None, description="of the files; by the ending of uri unless set"
    )
    warehouse: str = Field(default="", description="of a database: postgresql://user@host/database", repr=False)
    query: str = Field(default="", description="run once in the warehouse")
    delta: str = Field(default="", description="of a Delta table: a folder or s3://bucket/table")
    iceberg: str = Field(default="", description="an Iceberg table of the catalog: namespace.table")
    catalog: dict[str, str] = Field(default_factory=dict, description="properties of the catalog", repr=False)
    version: int | None = Field(default=None, description="of the Delta table; the snapshot id of the Iceberg table")
    timestamp: str | None = Field(default=None, description="the version of the table that was the last one then")
    where: str = Field(default="", description="of the rows of the table, in SQL")
    only_new: OnlyNew | None = None
    prompt: str | list[MessageTemplate] = Field(
        default="prompt", description="a column, a field in it, a template over columns, or messages of templates"
    )
    chat: bool | None = Field(default=None, description="whether text is chats in JSON; the first rows show it")
    unsupported: Unsupported = Field(default="large", description="chats with parts that are no text")
    id: str | None = None
    drift: Literal["union", "strict"] = Field(
        default="union", alias="schema", description="of files whose columns differ: hold them all, or refuse"
    )
    storage_options: dict[str, Any] = Field(default_factory=dict, description="of the fsspec filesystem, or of Delta")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(map(bool, (self.uri, self.warehouse, self.delta, self.iceberg))) != 1:
            raise ValueError("give one of uri, warehouse with a query, delta and iceberg")
        if bool(self.warehouse) != bool(self.query):
            raise ValueError("warehouse and query belong together")
        wrong = [name for name in _ONLY_OF_LAKES if getattr(self, name) not in (None, "")]
        if wrong and not self.delta and not self.iceberg:
            raise ValueError(f"{wrong[0]} is of delta or iceberg tables")
        if self.version is not None and self.timestamp is not None:
            raise ValueError("give version or timestamp")
        if self.drift != "union" and not self.uri:
            raise ValueError("schema is of files, which uri names")
        if self.format is not None and not self.uri:
            raise ValueError("format is of files, which uri names")
        if self.drift != "union" and self.text_format is not None:
            raise ValueError("schema is of parquet files: those of JSON lines and CSV are always read together")
        if self.catalog and not self.iceberg:
            raise ValueError("catalog is of an iceberg table")
        return self

    @property
    def in_place(self) -> bool:
        """Whether rows are read from the files themselves, at any time and in ranges; else they are fetched once."""
        return bool(self.uri) and self.only_new is None and self.text_format is None

    @property
    def text_format(self) -> TextFormat | None:
        """Of files that are not parquet."""
        if self.format is None:
            return text_format(self.uri)
        return None if self.format == "parquet" else self.format

    @property
    def is_versioned(self) -> bool:
        return bool(self.delta or self.iceberg)


class Source(Protocol):
    """Rows that are fetched into the work folder once a run."""

    public: str
    """The source as messages name it, without secrets."""

    def pin(self) -> dict[str, Any]:
        """What makes a later attempt fetch the same rows, such as a table's version; empty for a query."""

    def schema(self, pinned: dict[str, Any]) -> pa.Schema:
        """The columns, without the rows."""

    def rows(self, pinned: dict[str, Any]) -> AbstractContextManager[pa.RecordBatchReader]:
        """The rows, streamed."""
