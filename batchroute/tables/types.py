"""Arrow types: which hold prompts, which name groups, and which pyarrow needs help with."""

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
    """Text, numbers, dates, times and booleans do."""
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
    """Text as pyarrow can take rows of: no dictionary, no view."""
    if pa.types.is_dictionary(column.type):
        return column.dictionary_decode()
    return column.cast(pa.large_string()) if pa.types.is_string_view(column.type) else column


def has_nested_dictionary(kind: pa.DataType) -> bool:
    """pyarrow reads no batch of these that comes from two row groups."""
    return pa.types.is_nested(kind) and _holds(kind, pa.types.is_dictionary)


def writable(column: pa.Array) -> pa.Array:
    """The same as pyarrow can write: of views within structs it writes no slices, so that these are copied."""
    if column.offset and pa.types.is_nested(column.type) and _holds(column.type, _is_view):
        return pa.concat_arrays([column, column.slice(0, 0)])
    return column


def _is_view(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string_view(kind) or pa.types.is_binary_view(kind))


def _holds(kind: pa.DataType, wanted: Callable[[pa.DataType], bool]) -> bool:
    if wanted(kind):
        return True
    return any(_holds(kind.field(i).type, wanted) for i in range(kind.num_fields))
