from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from batchroute.generators.settings import ModelSpec


def refusal(schema: Any) -> str:
    given = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    with pytest.raises(ValidationError) as caught:
        ModelSpec(backend="echo", response_format=given)
    (error,) = caught.value.errors()
    return str(error["msg"]).removeprefix("Value error, ")


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "text"}, "json_schema.schema: no JSON schema: 'text' is not valid under any of the given schemas"),
        ({"$ref": "#/$defs/x"}, "json_schema.schema: refers to '#/$defs/x', which is not in it"),
        (True, "json_schema.schema must be a JSON schema with its keys"),
        ({"enum": []}, "enum is empty at $, so no JSON fits"),
        (
            {"type": "object", "properties": {"age": {"type": "integer", "minimum": 9, "maximum": 1}}},
            "minimum 9 is above maximum 1 at $.properties.age, so no JSON fits",
        ),
        (
            {"anyOf": [{"type": "null"}, {"type": "array", "minItems": 2, "maxItems": 1}]},
            "minItems 2 is above maxItems 1 at $.anyOf[1], so no JSON fits",
        ),
        (
            {"type": "object", "properties": {"a": {}}, "required": ["b"], "additionalProperties": False},
            "'b' is required and not among the properties at $, so no JSON fits",
        ),
        (
            {"type": "object", "properties": {"code": {"type": "string", "pattern": "^(?!0)[0-9]+$"}}},
            "pattern at $.properties.code looks ahead or back, or refers to a group, which no grammar can",
        ),
        ({"patternProperties": {"(?<=a)b": {}}}, "pattern at $ looks ahead or back"),
        ({"type": "string", "pattern": r"(a|b)\1"}, "pattern at $ looks ahead or back"),
    ],
)
def test_what_no_grammar_takes_is_refused_with_its_place(schema: Any, words: str) -> None:
    assert words in refusal(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "properties": {"pattern": {"type": "string"}, "enum": {"enum": ["(?!", 1]}}},
        {"type": "string", "pattern": r"^\(\?=\\(?:a|b)\d{2}$"},
        {"type": "object", "required": ["b"], "additionalProperties": False, "allOf": [{"properties": {"b": {}}}]},
        {"$defs": {"node": {"type": "array", "items": {"$ref": "#/$defs/node"}}}, "$ref": "#/$defs/node"},
        {"type": "integer", "minimum": 1, "maximum": 1, "default": {"minimum": 2, "maximum": 1}},
    ],
)
def test_what_some_grammar_takes_is_kept(schema: dict[str, Any]) -> None:
    given = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    assert ModelSpec(backend="echo", response_format=given).response_format == given
