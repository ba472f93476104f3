"""Arrow types: which hold prompts, which can name groups, and conversions where pyarrow lacks one."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_message(kind: pa.DataType) -> bool:
    """A struct with `role` and `content`, as in a chat."""
    if not pa.types.is_struct(kind):
        return False
    fields = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
    return {"role", "content"} <= fields.keys() and is_text(fields["role"]) and is_text(fields["content"])


def names_groups(kind: pa.DataType) -> bool:
    """Whether values name groups: text, numbers, dates, times and booleans do."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    wanted = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_decimal128,
        pa.types.is_temporal,
        pa.types.is_boolean,
    )
    return is_text(kind) or any(is_wanted(kind) for is_wanted in wanted) or bool(pa.types.is_null(kind))


def plain(column: pa.Array) -> pa.Array:
    """The column without dictionary and string view, of which pyarrow cannot take rows."""
    if pa.types.is_dictionary(column.type):
        return column.dictionary_decode()
    return column.cast(pa.large_string()) if pa.types.is_string_view(column.type) else column


def portable_schema(schema: pa.Schema) -> pa.Schema:
    """The schema without views and without a driver's own types, such as PostgreSQL's `numeric`, which becomes text."""
    fields = [field.with_type(_portable(field.type)).remove_metadata() for field in schema]
    return pa.schema(fields)


def portable(batch: pa.RecordBatch) -> pa.RecordBatch:
    schema = portable_schema(batch.schema)
    columns = []
    for column, kind in zip(batch.columns, schema.types, strict=True):
        column = column.storage if isinstance(column.type, pa.OpaqueType) else column
        columns.append(column if column.type == kind else column.cast(kind))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _portable(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.OpaqueType):
        return kind.storage_type
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_portable(field.type)).remove_metadata() for field in kind.fields])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        field = kind.value_field.with_type(_portable(kind.value_type)).remove_metadata()
        return pa.list_(field) if pa.types.is_list(kind) else pa.large_list(field)
    return kind


def has_nested_dictionary(kind: pa.DataType) -> bool:
    """Whether a dictionary is nested in the type: pyarrow cannot read a batch of it across two row groups."""
    return pa.types.is_nested(kind) and _holds(kind, pa.types.is_dictionary)


def writable(column: pa.Array) -> pa.Array:
    """The column as pyarrow can write it: slices of nested views, which it cannot write, are copied."""
    if column.offset and pa.types.is_nested(column.type) and _holds(column.type, _is_view):
        return pa.concat_arrays([column, column.slice(0, 0)])
    return column


def _is_view(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string_view(kind) or pa.types.is_binary_view(kind))


def _holds(kind: pa.DataType, wanted: Callable[[pa.DataType], bool]) -> bool:
    if wanted(kind):
        return True
    return any(_holds(kind.field(i).type, wanted) for i in range(kind.num_fields))


def texts(values: pa.Array) -> list[str | None]:
    """Values as a job file would write them; bytes that are not UTF-8 become replacement characters."""
    return [_text(value) for value in plain(values)]


def _text(value: pa.Scalar) -> str | None:
    try:
        plain_value = value.as_py()
    except UnicodeDecodeError:
        return bytes(value.as_buffer()).decode(errors="replace")
    if plain_value is None:
        return None
    return str(plain_value).lower() if isinstance(plain_value, bool) else str(plain_value)
