"""Whether a JSON schema can constrain a model's output: what no grammar engine takes is found before an engine starts.

Backends turn a `response_format` into a grammar (OpenAI's own, xgrammar, llguidance, outlines). Each supports another
part of JSON schema; this file refuses only what none of them can: schemas that are none, that no JSON fits, and
patterns that are no regular language.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from batchroute.errors import first_line
from batchroute.generators.validation import Check

_BOUNDS = (
    ("minimum", "maximum"),
    ("minLength", "maxLength"),
    ("minItems", "maxItems"),
    ("minProperties", "maxProperties"),
)
# Keywords whose values are data, in which "pattern" or "enum" would be a name of its own.
_DATA = frozenset({"enum", "const", "default", "examples"})
_NAMES = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_LOOKAROUND = re.compile(r"(?<!\\)(?:\\\\)*(\(\?<?[=!]|\\[1-9])")


def problem(response_format: dict[str, Any]) -> str | None:
    """Why no grammar can be made of a `response_format` of a known type, with the place in it; None if one can."""
    if response_format["type"] == "json_object":
        return None
    schema = response_format["json_schema"]["schema"]
    if not isinstance(schema, dict):
        return "json_schema.schema must be a JSON schema with its keys"
    try:
        Check.of_format(response_format)
    except ValidationError as error:
        words = first_line(ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")))
        return f"json_schema.schema: {words.removeprefix('json is ').removeprefix('json ')}"
    return next(_problems(schema, "$"), None)


def _problems(schema: Any, place: str) -> Iterator[str]:
    if not isinstance(schema, dict):
        return
    for low, high in _BOUNDS:
        least, most = schema.get(low), schema.get(high)
        if least is not None and most is not None and least > most:
            yield f"{low} {least} is above {high} {most} at {place}, so no JSON fits"
    if schema.get("enum") == []:
        yield f"enum is empty at {place}, so no JSON fits"
    if schema.get("additionalProperties") is False and "patternProperties" not in schema:
        absent = [name for name in schema.get("required", ()) if name not in schema.get("properties", {})]
        if absent and not schema.keys() & {"allOf", "anyOf", "oneOf", "$ref"}:
            yield f"'{absent[0]}' is required and not among the properties at {place}, so no JSON fits"
    if isinstance(pattern := schema.get("pattern"), str):
        yield from _of_pattern(pattern, place)
    for key, value in schema.items():
        if key in _DATA:
            continue
        if key in _NAMES and isinstance(value, dict):
            for name, inner in value.items():
                if key == "patternProperties":
                    yield from _of_pattern(name, place)
                yield from _problems(inner, f"{place}.{key}.{name}")
        elif isinstance(value, list):
            for number, inner in enumerate(value):
                yield from _problems(inner, f"{place}.{key}[{number}]")
        else:
            yield from _problems(value, f"{place}.{key}")


def _of_pattern(pattern: str, place: str) -> Iterator[str]:
    if _LOOKAROUND.search(pattern):
        yield f"pattern at {place} looks ahead or back, or refers to a group, which no grammar can"
