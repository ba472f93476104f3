"""Arrow types: which hold prompts, which can name groups, and conversions where pyarrow lacks one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

POSTGRESQL_TYPE = b"POSTGRESQL:type"
"""Under which PostgreSQL's driver says of a field which type its column has."""


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether values are lists, of any or of a fixed size, views included."""
    wanted = (
        pa.types.is_list,
        pa.types.is_large_list,
        pa.types.is_fixed_size_list,
        pa.types.is_list_view,
        pa.types.is_large_list_view,
    )
    return any(is_wanted(kind) for is_wanted in wanted)


def bare(kind: pa.DataType) -> pa.DataType:
    """The type of the values: without dictionary, and without an extension such as JSON."""
    if pa.types.is_dictionary(kind):
        return bare(kind.value_type)
    return bare(kind.storage_type) if isinstance(kind, pa.BaseExtensionType) else kind


def is_message(kind: pa.DataType) -> bool:
    """A struct with `role` and `content`, as in a chat."""
    kind = bare(kind)
    if not pa.types.is_struct(kind):
        return False
    fields = {kind.field(i).name: bare(kind.field(i).type) for i in range(kind.num_fields)}
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


def is_id(kind: pa.DataType) -> bool:
    """Whether values tell rows apart: text, numbers, bytes, UUIDs, dates and times do, lists and structs do not."""
    kind = bare(kind)
    return (names_groups(kind) or is_bytes(kind) or pa.types.is_decimal(kind)) and not pa.types.is_interval(kind)


def is_bytes(kind: pa.DataType) -> bool:
    wanted = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    # A decimal is of a fixed size, too.
    return any(is_wanted(kind) for is_wanted in wanted) and not pa.types.is_decimal(kind)


def plain(column: pa.Array) -> pa.Array:
    """The column without dictionaries and views, of which pyarrow cannot take rows, nested ones included."""
    if pa.types.is_dictionary(column.type):
        column = pa.DictionaryArray.from_arrays(column.indices, plain(column.dictionary)).dictionary_decode()
    return converted(column, plain_type(column.type))


def plain_type(kind: pa.DataType) -> pa.DataType:
    return _without(kind, _plain)


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.large_string()
    return pa.large_binary() if pa.types.is_binary_view(kind) else kind


def portable_schema(schema: pa.Schema) -> pa.Schema:
    """The schema without views and without a driver's own types, such as PostgreSQL's `numeric`, which becomes text."""
    return pa.schema([_portable_field(field) for field in schema])


def _portable_field(field: pa.Field) -> pa.Field:
    plain_field = field.with_type(_without(field.type, _portable)).remove_metadata()
    kind = (field.metadata or {}).get(POSTGRESQL_TYPE)
    # Arrow has one type for both; a table that the answers create gets the one that the query had.
    return plain_field.with_metadata({POSTGRESQL_TYPE: kind}) if kind in (b"json", b"jsonb") else plain_field


def portable(batch: pa.RecordBatch) -> pa.RecordBatch:
    schema = portable_schema(batch.schema)
    columns = []
    for column, kind in zip(batch.columns, schema.types, strict=True):
        column = column.storage if isinstance(column.type, pa.OpaqueType) else column
        columns.append(converted(column, kind))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def converted(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """The column in another type.

    Raises:
        pa.ArrowInvalid, pa.ArrowNotImplementedError: a value, or none, has a place in it.
    """
    if column.type == kind:
        return column
    return (_listed(column) if holds(column.type, _is_list_view) else column).cast(kind)


def _listed(column: pa.Array) -> pa.Array:
    """The column with lists instead of views of lists, whose casts in pyarrow lose the last offset."""
    if pa.types.is_struct(column.type):
        return pa.StructArray.from_arrays(
            [_listed(child) for child in column.flatten()], column.type.names, mask=column.is_null()
        )
    if not is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        return column
    # Its import takes longer than all else that checks of a job need of Arrow.
    import pyarrow.compute as pc

    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64())
    listed = pa.LargeListArray.from_arrays(offsets, _listed(column.flatten()), mask=column.is_null())
    large = pa.types.is_large_list(column.type) or pa.types.is_large_list_view(column.type)
    return listed if large else listed.cast(pa.list_(listed.type.value_type))


def _portable(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.OpaqueType):
        return kind.storage_type
    if pa.types.is_string_view(kind):
        return pa.string()
    return pa.binary() if pa.types.is_binary_view(kind) else kind


def _without(kind: pa.DataType, instead: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """The type with another `instead` of each that is not nested; lists by views become lists."""

    def replaced(field: pa.Field) -> pa.Field:
        return field.with_type(_without(field.type, instead)).remove_metadata()

    if not holds(kind, lambda inner: instead(inner) != inner or _is_list_view(inner)):
        return kind
    if pa.types.is_struct(kind):
        return pa.struct([replaced(field) for field in kind.fields])
    if pa.types.is_map(kind):
        return pa.map_(replaced(kind.key_field), replaced(kind.item_field))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(replaced(kind.value_field), kind.list_size)
    if pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind):
        return pa.large_list(replaced(kind.value_field))
    return pa.list_(replaced(kind.value_field)) if is_list(kind) else instead(kind)


def _is_list_view(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def has_nested_dictionary(kind: pa.DataType) -> bool:
    """Whether a dictionary is nested in the type: pyarrow cannot read a batch of it across two row groups."""
    return pa.types.is_nested(kind) and holds(kind, pa.types.is_dictionary)


def writable_type(kind: pa.DataType) -> pa.DataType:
    """The type that pyarrow can write: without nested views, of which it writes only some."""
    return _without(kind, _portable) if pa.types.is_nested(kind) and holds(kind, _is_view) else kind


def _is_view(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string_view(kind) or pa.types.is_binary_view(kind))


def holds(kind: pa.DataType, wanted: Callable[[pa.DataType], bool]) -> bool:
    """Whether the type, or one nested in it, is a wanted one."""
    if wanted(kind):
        return True
    return any(holds(kind.field(i).type, wanted) for i in range(kind.num_fields))


def texts(values: pa.Array) -> list[str | None]:
    """Values as a job file would write them; bytes that are not UTF-8 become replacement characters."""
    return [_text(value) for value in plain(values)]


def _text(value: pa.Scalar) -> str | None:
    try:
        plain_value = value.as_py()
    except UnicodeDecodeError:
        return bytes(value.as_buffer()).decode(errors="replace")
    except ValueError:  # a time that Python's microseconds do not hold
        plain_value = value.cast(pa.string()).as_py()
    if plain_value is None:
        return None
    return str(plain_value).lower() if isinstance(plain_value, bool) else str(plain_value)
