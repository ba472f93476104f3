"""Typed columns of JSON answers: from a JSON schema to arrow types, and from texts to arrays.

A property's column is null where the answer leaves it out, says null, or holds a value that the type cannot keep; the
whole answer stays in `response`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

_TEXT = pa.large_string()
_TYPES = {"string": _TEXT, "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
_DEEPEST = 16
WHOLE = "json"
"""The name of the column that holds whole answers as structs."""


def fields_of(schema: Mapping[str, Any]) -> list[pa.Field]:
    """The columns of an object's properties, in the order of the schema; none if it names no properties.

    What has no one type (unions, objects without properties, references that end in themselves) is JSON as text.
    """
    whole = _resolved(schema, schema, 0)
    return [pa.field(name, _type_of(one, schema, 0)) for name, one in (whole.get("properties") or {}).items()]


def columns_of(texts: Sequence[str | None], fields: Sequence[pa.Field], whole: bool = False) -> list[pa.Array]:
    """The columns of JSON objects, one for each field.

    Args:
        texts: of length [rows]; None, or a text that is no JSON object, gives nulls.
        whole: the one field is a struct that holds the whole object.
    """
    objects = [_object(text) for text in texts]
    if whole:
        return [pa.array([_value(one, fields[0].type) for one in objects], fields[0].type)]
    columns = [[None if one is None else one.get(field.name) for one in objects] for field in fields]
    return [
        pa.array([_value(value, field.type) for value in column], field.type)
        for column, field in zip(columns, fields, strict=True)
    ]


def _object(text: str | None) -> Mapping[str, Any] | None:
    try:
        found = None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, Mapping) else None


def _resolved(schema: Any, root: Mapping[str, Any], depth: int) -> Mapping[str, Any]:
    """The schema that a reference within the document names."""
    while isinstance(schema, Mapping) and isinstance(schema.get("$ref"), str) and depth < _DEEPEST:
        found: Any = root
        for step in schema["$ref"].removeprefix("#").strip("/").split("/"):
            step = step.replace("~1", "/").replace("~0", "~")
            found = found.get(step) if isinstance(found, Mapping) and step else found if not step else None
        schema, depth = found, depth + 1
    return schema if isinstance(schema, Mapping) else {}


def _type_of(schema: Any, root: Mapping[str, Any], depth: int) -> pa.DataType:
    if depth > _DEEPEST:
        return _TEXT
    schema = _resolved(schema, root, depth)
    for union in ("anyOf", "oneOf"):
        others = [one for one in schema.get(union) or () if _resolved(one, root, depth).get("type") != "null"]
        if schema.get(union):
            return _type_of(others[0], root, depth + 1) if len(others) == 1 else _TEXT
    kinds = schema.get("type") or _types_of_values(schema)
    kinds = [kind for kind in ([kinds] if isinstance(kinds, str) else kinds) if kind != "null"]
    if sorted(kinds) == ["integer", "number"]:
        kinds = ["number"]
    if len(kinds) != 1:
        return _TEXT
    if kinds[0] == "array" and isinstance(schema.get("items"), Mapping):
        return pa.large_list(_type_of(schema["items"], root, depth + 1))
    if kinds[0] == "object" and schema.get("properties"):
        return pa.struct([pa.field(name, _type_of(one, root, depth + 1)) for name, one in schema["properties"].items()])
    return _TYPES.get(kinds[0], _TEXT)


def _types_of_values(schema: Mapping[str, Any]) -> list[str]:
    """The types of the values that an `enum` or a `const` allows."""
    values = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    names = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
    return sorted({names.get(type(value), "object") for value in values})


def _value(value: Any, kind: pa.DataType) -> Any:
    """The value as its column takes it; None if it cannot."""
    if value is None:
        return None
    if pa.types.is_struct(kind):
        fields = [kind.field(number) for number in range(kind.num_fields)]
        inside = value if isinstance(value, Mapping) else None
        return None if inside is None else {field.name: _value(inside.get(field.name), field.type) for field in fields}
    if pa.types.is_large_list(kind):
        return [_value(one, kind.value_type) for one in value] if isinstance(value, list) else None
    if kind == _TEXT:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if pa.types.is_boolean(kind):
        return value if isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not abs(value) < 1e308:
        return None
    if pa.types.is_floating(kind):
        return float(value)
    # JSON's 3.0 is an integer, too.
    return int(value) if value == int(value) and -(2**63) <= value < 2**63 else None
