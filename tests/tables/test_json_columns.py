"""Typed columns of JSON answers: the types by the schema, and values that the types cannot keep."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from batchroute.tables.json_columns import columns_of, fields_of

TEXT = pa.large_string()


def of(schema: Any, **more: Any) -> pa.DataType:
    (field,) = fields_of({"type": "object", "properties": {"a": schema}, **more})
    assert field.name == "a"
    return field.type


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "string"}, TEXT),
        ({"type": "integer"}, pa.int64()),
        ({"type": "number"}, pa.float64()),
        ({"type": "boolean"}, pa.bool_()),
        ({"type": ["integer", "null"]}, pa.int64()),
        ({"type": ["integer", "number"]}, pa.float64()),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, pa.bool_()),
        ({"enum": ["x", "y", None]}, TEXT),
        ({"const": 3}, pa.int64()),
        ({"type": "array", "items": {"type": "number"}}, pa.large_list(pa.float64())),
        ({"type": "object", "properties": {"b": {"type": "integer"}}}, pa.struct([("b", pa.int64())])),
        ({"$ref": "#/$defs/size"}, pa.int64()),
        # No one type: JSON as text.
        ({}, TEXT),
        (True, TEXT),
        ({"type": "object"}, TEXT),
        ({"type": ["string", "integer"]}, TEXT),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, TEXT),
        ({"type": "array"}, TEXT),
        ({"$ref": "#/$defs/loop"}, TEXT),
        ({"$ref": "#/$defs/absent"}, TEXT),
    ],
)
def test_a_property_has_the_type_of_its_schema(schema: Any, kind: pa.DataType) -> None:
    assert of(schema, **{"$defs": {"size": {"type": "integer"}, "loop": {"$ref": "#/$defs/loop"}}}) == kind


def test_a_schema_that_contains_itself_ends() -> None:
    kind = of({"$ref": "#"})
    for _ in range(8):
        assert pa.types.is_struct(kind)
        kind = kind.field("a").type


@pytest.mark.parametrize(
    ("schema", "value", "kept"),
    [
        ({"type": "integer"}, 3.0, 3),
        ({"type": "integer"}, 2**63, None),
        ({"type": "integer"}, 2.5, None),
        ({"type": "integer"}, True, None),
        ({"type": "integer"}, "3", None),
        ({"type": "number"}, 3, 3.0),
        ({"type": "number"}, 10**400, None),
        ({"type": "boolean"}, 1, None),
        ({"type": "string"}, "ä", "ä"),
        ({}, {"z": [1, "ä"]}, '{"z": [1, "ä"]}'),
        ({"type": "array", "items": {"type": "integer"}}, [1, None, "x"], [1, None, None]),
        ({"type": "array", "items": {"type": "integer"}}, {"x": 1}, None),
        ({"type": "object", "properties": {"b": {"type": "integer"}}}, {"b": 1, "c": 2}, {"b": 1}),
        ({"type": "object", "properties": {"b": {"type": "integer"}}}, [], None),
        ({"type": "integer"}, None, None),
    ],
)
def test_a_value_that_the_type_cannot_keep_is_null(schema: Any, value: Any, kept: Any) -> None:
    fields = fields_of({"properties": {"a": schema}})
    (column,) = columns_of([json.dumps({"a": value})], fields)
    assert column.type == fields[0].type
    assert column.to_pylist() == [kept]


def test_what_is_no_object_has_no_values() -> None:
    fields = fields_of({"properties": {"a": {"type": "integer"}}})
    texts = [None, "", "no", "[1]", "{}", '{"a": NaN}', "[" * 100_000, '{"a": 1}']
    assert columns_of(texts, fields)[0].to_pylist() == [None] * 7 + [1]
    assert columns_of([], fields)[0].type == pa.int64()
