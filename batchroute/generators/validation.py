"""Checks of responses: against a JSON schema or a regular expression."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from batchroute.errors import first_line, shortened
from batchroute.generators.base import Generator, PartlyAnsweredError, Response
from batchroute.prompt import Prompt

_LONGEST = 200
# Some models write JSON as a block of Markdown, whatever they are asked.
_FENCE = re.compile(r"\s*```[a-zA-Z0-9]*[ \t]*\r?\n(.*?)\r?\n?[ \t]*```\s*", re.DOTALL)


class Check(BaseModel):
    """What a response must be: JSON that fits a schema, or text that a regular expression matches as a whole.

    White space around the response is ignored.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    json_schema: dict[str, Any] | None = Field(default=None, alias="json", description="{}: any JSON")
    regex: str | None = None
    _validator: Any = PrivateAttr(default=None)
    _pattern: re.Pattern[str] | None = PrivateAttr(default=None)

    @classmethod
    def of_format(cls, response_format: dict[str, Any]) -> Check:
        """The check of a `response_format`."""
        if response_format["type"] == "json_object":
            return cls(json_schema={"type": "object"})
        return cls(json_schema=response_format["json_schema"]["schema"])

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.json_schema is None) == (self.regex is None):
            raise ValueError("give json (a JSON schema) or regex")
        if self.json_schema is not None:
            self._validator = _validator_of(self.json_schema)
        elif self.regex is not None:
            try:
                self._pattern = re.compile(self.regex, re.DOTALL)
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(f"regex is no regular expression: {error}") from error
        return self

    def unfenced(self, text: str) -> str:
        """The text; JSON without a byte-order mark, and without the fence of a Markdown block around it."""
        if self._pattern is not None:
            return text
        fence = _FENCE.fullmatch(text.lstrip("\ufeff"))
        return text.lstrip("\ufeff") if fence is None else fence[1].lstrip("\ufeff")

    def problem(self, text: str) -> str | None:
        """What is wrong with the response, without quoting it; None if it passes."""
        text = self.unfenced(text).strip()
        if self._pattern is not None:
            return None if self._pattern.fullmatch(text) else "it does not match the regular expression"
        assert self._validator is not None
        from jsonschema.exceptions import best_match

        try:
            value = json.loads(text, parse_constant=_no_constant)
            mismatch = best_match(self._validator.iter_errors(value))
        except ValueError as error:
            return f"it is no JSON: {first_line(error)}"
        except RecursionError:
            return "its JSON is nested too deeply"
        if mismatch is None:
            return None
        return f"its JSON breaks '{mismatch.validator}' of the schema at {mismatch.json_path}"


def _validator_of(schema: dict[str, Any]) -> Any:
    """Raises:
    ValueError: it is no JSON schema, or refers to something that is not in it.
    """
    # Few jobs have a schema: the others are spared its libraries.
    import jsonschema
    import referencing

    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.exceptions.SchemaError as error:
        raise ValueError(f"json is no JSON schema: {error.message} at {error.json_path}") from error
    _check_references(schema)
    # With an empty registry, jsonschema fetches no references.
    return kind(schema, registry=referencing.Registry())


def _check_references(schema: dict[str, Any]) -> None:
    """Raises:
    ValueError: the schema refers to something that is not in it.
    """
    import referencing
    from referencing.jsonschema import DRAFT202012

    resource = referencing.Resource.from_contents(schema, default_specification=DRAFT202012)
    registry = referencing.Registry().with_resource("", resource).crawl()
    waiting: list[tuple[Any, Any]] = [(schema, registry.resolver_with_root(resource))]
    while waiting:
        node, resolver = waiting.pop()
        if isinstance(node, dict):
            if isinstance(node.get("$id"), str) and node is not schema:
                resolver = resolver.in_subresource(referencing.Resource.from_contents(node, DRAFT202012))
            if isinstance(reference := node.get("$ref"), str):
                try:
                    resolver.lookup(reference)
                except referencing.exceptions.Unresolvable:
                    raise ValueError(f"json refers to '{reference}', which is not in it") from None
        waiting += [(one, resolver) for one in _inside(node)]


def _inside(node: Any) -> list[Any]:
    return list(node.values()) if isinstance(node, dict) else list(node) if isinstance(node, list) else []


def _no_constant(name: str) -> NoReturn:
    # Python's parser accepts NaN and Infinity, which are not JSON.
    raise ValueError(f"{name} is no JSON value")


class CheckedGenerator:
    """A generator whose responses are checked. A response that does not pass keeps its text and gets an error.

    Backends that constrain the model's output are checked too, because a response can be cut.
    """

    def __init__(self, generator: Generator, check: Check) -> None:
        self._generator, self._check = generator, check
        self.rows_at_a_time, self.units_at_once = generator.rows_at_a_time, generator.units_at_once

    @property
    def load_seconds(self) -> float:
        return self._generator.load_seconds

    @property
    def notes(self) -> Sequence[str]:
        return self._generator.notes

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Response]:
        try:
            return [checked(response, self._check) for response in self._generator.generate(prompts, seeds)]
        except PartlyAnsweredError as stop:
            answers = [None if one is None else checked(one, self._check) for one in stop.responses]
            raise PartlyAnsweredError(str(stop), answers) from stop

    def preflight(self, longest: Prompt, shortest: Prompt) -> str | None:
        return self._generator.preflight(longest, shortest) if hasattr(self._generator, "preflight") else None

    def close(self) -> None:
        self._generator.close()


def checked(response: Response, check: Check) -> Response:
    """The response without a fence around its JSON, with the error `invalid_response` if it does not pass.

    Calls of tools have a form of their own.
    """
    if response.error_type is not None or (response.tool_calls is not None and not response.text):
        return response
    text = response.text or ""
    problem = check.problem(text)
    if problem is None:
        return response._replace(text=check.unfenced(text))
    return response._replace(error_type="invalid_response", error=shortened(problem, _LONGEST))
