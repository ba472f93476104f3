from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from batchroute.generators.base import Response
from batchroute.generators.validation import Check, CheckedGenerator, checked
from batchroute.prompt import Prompt

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "ages": {"type": "array", "items": {"type": "integer"}}},
    "required": ["name"],
    "additionalProperties": False,
}


def by_schema(schema: dict[str, Any]) -> Check:
    return Check.model_validate({"json": schema})


def by_regex(regex: str) -> Check:
    return Check(regex=regex)


@pytest.mark.parametrize("text", ['{"name": "Ann"}', '\n {"name": "Ann", "ages": [1, 2]} \n'])
def test_json_that_the_schema_describes_passes(text: str) -> None:
    assert by_schema(PERSON).problem(text) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it is no JSON: Expecting value: line 1 column 1 (char 0)"),
        ('{"name": "Ann"', "it is no JSON: Expecting ',' delimiter: line 1 column 15 (char 14)"),
        ('Here:\n```json\n{"name": "Ann"}\n```', "it is no JSON: Expecting value: line 1 column 1 (char 0)"),
        ('{"name": "Ann"} Bye', "it is no JSON: Extra data: line 1 column 17 (char 16)"),
        ("{}", "its JSON breaks 'required' of the schema at $"),
        ('{"name": 1}', "its JSON breaks 'type' of the schema at $.name"),
        ('{"name": "Ann", "ages": [1, "two"]}', "its JSON breaks 'type' of the schema at $.ages[1]"),
        ('{"name": "Ann", "secret": 1}', "its JSON breaks 'additionalProperties' of the schema at $"),
    ],
)
def test_what_is_wrong_is_said_without_the_words_of_the_response(text: str, problem: str) -> None:
    assert by_schema(PERSON).problem(text) == problem


@pytest.mark.parametrize(
    "text", ['```json\n{"name": "Ann"}\n```', '```\n{"name": "Ann"}```\n', ' \n```JSON\r\n{"name": "Ann"}\r\n```']
)
def test_a_fence_around_json_is_taken_off(text: str) -> None:
    found = checked(Response(text, "stop"), by_schema(PERSON))
    assert found == Response('{"name": "Ann"}', "stop")


def test_calls_of_tools_are_not_held_against_the_schema() -> None:
    call = Response("", "tool_calls", tool_calls="[{}]")
    assert checked(call, by_schema(PERSON)) is call


def test_an_empty_schema_takes_any_json_and_nothing_else() -> None:
    check = by_schema({})
    assert [check.problem(text) is None for text in ("1", "null", "[]", '"a"', "a", "")] == [True] * 4 + [False] * 2


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}'])
def test_what_only_python_reads_is_no_json(text: str) -> None:
    problem = by_schema({}).problem(text)
    assert problem is not None
    assert problem.startswith("it is no JSON: ")


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 100_000 + "]" * 100_000, '{"a":' * 5_000 + "1" + "}" * 5_000])
@pytest.mark.parametrize("schema", [{}, {"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}])
def test_deep_nesting_fails_the_response_and_not_the_job(text: str, schema: dict[str, Any]) -> None:
    problem = by_schema(schema).problem(text)
    assert problem is None or problem == "its JSON is nested too deeply" or problem.startswith("it is no JSON")


def test_a_schema_that_follows_itself_down_a_deep_response_fails_that_response() -> None:
    schema = {"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}
    assert by_schema(schema).problem("[" * 400 + "]" * 400) == "its JSON is nested too deeply"


def test_numbers_of_thousands_of_digits_fail_the_response_and_not_the_job() -> None:
    assert by_schema({"type": "string"}).problem("1" * 10_000) is not None


def test_a_regular_expression_matches_the_whole_response_over_lines() -> None:
    check = by_regex("yes|no.*")
    assert [check.problem(text) is None for text in ("yes", " yes\n", "no, since\nit is not", "yes!", "oh no", "")] == [
        *[True] * 3,
        *[False] * 3,
    ]
    assert check.problem("maybe") == "it does not match the regular expression"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "give json (a JSON schema) or regex"),
        ({"json": {}, "regex": "a"}, "give json (a JSON schema) or regex"),
        ({"json": {"type": "strin"}}, "json is no JSON schema: 'strin' is not valid under any of the given schemas"),
        ({"json": {"pattern": "("}}, "json is no JSON schema: '(' is not a 'regex' at $.pattern"),
        ({"json": {"items": [{"$ref": "#/$defs/nobody"}]}}, "json is no JSON schema: [{'$ref': '#/$defs/nobody'}] is"),
        ({"json": {"items": {"$ref": "#/$defs/nobody"}}}, "json refers to '#/$defs/nobody', which is not in it"),
        ({"json": {"$ref": "http://127.0.0.1:9/a"}}, "json refers to 'http://127.0.0.1:9/a', which is not in it"),
        ({"regex": "a{99999999999999999999}"}, "regex is no regular expression: the repetition number is too large"),
        ({"regex": "("}, "regex is no regular expression: missing ), unterminated subpattern at position 0"),
    ],
)
def test_a_check_that_cannot_be_is_found_at_load(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as found:
        Check.model_validate(given)
    assert sentence in str(found.value)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}},
        {"$id": "http://h/root", "$ref": "a", "$defs": {"a": {"$id": "a", "$ref": "#/x", "x": {"type": "integer"}}}},
        {"$ref": "#a", "$defs": {"a": {"$anchor": "a", "type": "integer"}}},
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "$ref": "#/definitions/a",
            "definitions": {"a": {"type": "integer"}},
        },
    ],
)
def test_a_schema_may_refer_to_its_own_parts(schema: dict[str, Any]) -> None:
    assert by_schema(schema).problem("1") is None
    assert by_schema(schema).problem('"1"') is not None


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError, match="schema"):
        Check.model_validate({"schema": {}})


def test_the_check_of_a_response_format() -> None:
    assert Check.of_format({"type": "json_object"}).problem("[]") == "its JSON breaks 'type' of the schema at $"
    named = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    assert Check.of_format(named).problem("{}") == "its JSON breaks 'required' of the schema at $"


class Canned:
    load_seconds, rows_at_a_time, units_at_once = 1.5, 7, 2
    notes = ("a note",)

    def __init__(self, responses: list[Response]) -> None:
        self.responses, self.closed = responses, False

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Response]:
        return self.responses

    def close(self) -> None:
        self.closed = True


def test_a_response_that_does_not_pass_keeps_its_text_and_its_tokens_and_fails() -> None:
    cut = Response('{"name": "An', "length", 5, 8, attempts=2, cached_tokens=1)
    good = Response(json.dumps({"name": "Ann"}), "stop", 5, 6)
    failed = Response(error_type="api_error", error="HTTP 500")
    inner = Canned([cut, good, failed])
    generator = CheckedGenerator(inner, by_schema(PERSON))
    assert (generator.load_seconds, generator.rows_at_a_time, generator.units_at_once) == (1.5, 7, 2)
    assert generator.notes == ("a note",)
    found = generator.generate(["a", "b", "c"], [0, 0, 0])
    assert found[0] == Response(
        '{"name": "An',
        "length",
        5,
        8,
        "invalid_response",
        "it is no JSON: Unterminated string starting at: line 1 column 10 (char 9)",
        attempts=2,
        cached_tokens=1,
    )
    assert found[1:] == [good, failed]
    generator.close()
    assert inner.closed


def test_a_response_without_text_is_checked_as_an_empty_one() -> None:
    assert checked(Response("", "stop"), by_regex("")).error_type is None
    assert checked(Response("", "stop"), by_regex("a")).error_type == "invalid_response"


def test_a_key_with_many_words_is_cut_short() -> None:
    found = checked(Response(json.dumps({"k" * 500: 1})), by_schema({"additionalProperties": {"type": "string"}}))
    assert found.error is not None
    assert len(found.error) == 200
