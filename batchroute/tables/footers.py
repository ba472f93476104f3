"""What parquet footers tell of a file without a look at its rows, and which of their entries an output may carry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

# Entries by which a reader knows the columns of the file that it is written in, and would not see the answers: those of
# pandas, datasets, Spark, Avro, Thrift, Iceberg and Hudi; and the facts of our own units.
_OF_ONE_FILE = (
    b"pandas",
    b"huggingface",
    b"org.apache.spark.sql.parquet.row.",
    b"parquet.avro.schema",
    b"avro.schema",
    b"parquet.proto.descriptor",
    b"thrift.",
    b"iceberg.",
    b"org.apache.hudi.",
    b"hoodie",
    b"geo",
    b"batchroute.",
)


def carried(metadata: Mapping[bytes, bytes] | None) -> dict[bytes, bytes] | None:
    """The entries of an input's footer without those that describe its columns or its rows."""
    kept = {name: value for name, value in (metadata or {}).items() if not name.startswith(_OF_ONE_FILE)}
    return kept or None


def int96_columns(footer: pq.FileMetaData, columns: list[str]) -> list[str]:
    """The columns that hold timestamps of 96 bits, in nested fields as well."""
    leaves = (footer.schema.column(number) for number in range(footer.num_columns))
    paths = [leaf.path for leaf in leaves if leaf.physical_type == "INT96"]
    return [name for name in columns if any(path == name or path.startswith(f"{name}.") for path in paths)]


def fits(footer: pq.FileMetaData, column: str, kind: pa.DataType, wide: pa.DataType) -> bool:
    """Whether statistics show that all values of a column, of type `kind`, have a place in type `wide`."""
    try:
        for least, most in _ranges(footer, column):
            pa.array([least, most], kind).cast(wide)
    except (pa.ArrowException, LookupError, ValueError, OverflowError, TypeError):
        return False
    return True


def wide_columns(source: Any) -> list[str]:
    """The columns of integers of 128 bits, whose footers polars can read, but not pyarrow; empty where it cannot."""
    import polars as pl

    try:
        schema = pl.read_parquet_schema(source)
    except (pl.exceptions.PolarsError, OSError):
        return []
    return [name for name, kind in schema.items() if "Int128" in str(kind)]


def is_value(text: str | None, kind: pa.DataType) -> bool:
    """Whether the text of a partition folder is a value of this type."""
    try:
        pa.array([text], pa.string()).cast(kind)
    except pa.ArrowException:
        return False
    return True


def holds_only(footer: pq.FileMetaData, column: str, kind: pa.DataType, value: str | None) -> bool:
    """Whether statistics show that a column, of type `kind`, has this value in every row."""
    try:
        wanted = pa.array([value], pa.string()).cast(kind)[0].as_py()
        if value is None:
            return not any(True for _ in _ranges(footer, column))
        full = not any(_statistics(footer, column, group).null_count for group in range(footer.num_row_groups))
        return full and all(least == wanted == most for least, most in _ranges(footer, column))
    except (pa.ArrowException, LookupError, ValueError, OverflowError, TypeError, AttributeError):
        return False


def _ranges(footer: pq.FileMetaData, column: str) -> Iterator[tuple[Any, Any]]:
    """The least and the largest value in each row group that has values.

    Raises:
        LookupError: a row group has no statistics of the column.
    """
    for group in range(footer.num_row_groups):
        rows, statistics = footer.row_group(group).num_rows, _statistics(footer, column, group)
        if rows == 0 or (statistics is not None and statistics.has_null_count and statistics.null_count == rows):
            continue
        if statistics is None or not statistics.has_min_max:
            raise LookupError(column)
        yield statistics.min, statistics.max


def _statistics(footer: pq.FileMetaData, column: str, group: int) -> Any:
    paths = [footer.schema.column(number).path for number in range(footer.num_columns)]
    if column not in paths:
        raise LookupError(column)
    return footer.row_group(group).column(paths.index(column)).statistics
