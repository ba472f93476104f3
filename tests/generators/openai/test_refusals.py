"""Parameters that endpoints refuse, in the words of those that do."""

from __future__ import annotations

import pytest

from batchroute.generators.openai.failures import Failure
from batchroute.generators.openai.refusals import Refusals
from tests.generators.openai.openai_generators import spec

REQUEST = {"model": "m", "messages": [], "max_tokens": 9, "temperature": 0.0, "seed": 1, "stop": ["x"]}


def bad(words: str) -> Failure:
    return Failure("row", "bad_request", f"HTTP 400: {words}")


def without(*names: str) -> dict[str, object]:
    return {name: value for name, value in REQUEST.items() if name not in names}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
            {**without("max_tokens"), "max_completion_tokens": 9},
        ),
        (
            "Unsupported value: 'temperature' does not support 0.0 with this model. "
            "Only the default (1) value is supported.",
            without("temperature"),
        ),
        ("Unsupported parameter: 'stop' is not supported with this model.", without("stop")),
        ("Extra inputs are not permitted at ['body', 'seed']", without("seed")),
        ('Invalid JSON payload received. Unknown name "seed": Cannot find field.', without("seed")),
        ("property 'temperature' is unsupported", without("temperature")),
        ("Argument not supported on this model: stop", without("stop")),
    ],
)
def test_what_is_refused_is_left_out_from_then_on(words: str, expected: dict[str, object]) -> None:
    refusals = Refusals(spec())
    assert refusals.applied(REQUEST) == REQUEST
    assert refusals.adapted(bad(words), REQUEST) == expected
    assert refusals.applied(REQUEST) == expected
    (note,) = refusals.notes
    assert note.startswith("the model 'small' ")
    # Requests that were on their way then are refused in the same words.
    assert refusals.adapted(bad(words), REQUEST) == expected
    assert refusals.tells(bad(words), REQUEST)
    assert len(refusals.notes) == 1
    # The request as it is now fails for another reason.
    assert refusals.adapted(bad("no"), expected) is None


@pytest.mark.parametrize(
    "failure",
    [
        bad("max_tokens must be at least 16"),
        bad("the messages are not supported"),
        bad("'temperature' must be at most 1"),
        Failure("transient", "api_error", "HTTP 503: Unsupported parameter: 'seed'"),
        Failure("row", "too_long", "HTTP 400: the prompt and max_tokens are not supported at this length"),
    ],
)
def test_other_failures_change_nothing(failure: Failure) -> None:
    refusals = Refusals(spec())
    assert refusals.adapted(failure, REQUEST) is None
    assert not refusals.tells(failure, REQUEST)
    assert refusals.notes == []


def test_a_limit_by_neither_name_is_the_endpoints_last_word() -> None:
    refusals = Refusals(spec())
    body = refusals.adapted(bad("Unsupported parameter: 'max_tokens'"), REQUEST)
    assert body is not None
    assert refusals.adapted(bad("Unsupported parameter: 'max_completion_tokens'"), body) is None


def test_a_name_that_the_job_sets_stays() -> None:
    refusals = Refusals(spec(length_key="max_tokens"))
    assert refusals.adapted(bad("Unsupported parameter: 'max_tokens'"), REQUEST) is None


def test_the_smallest_limit_of_a_preflight_is_not_kept() -> None:
    refusals = Refusals(spec())
    refusals.adapted(bad("Unsupported parameter: 'max_tokens'"), {**REQUEST, "max_tokens": 1})
    assert refusals.applied(REQUEST)["max_completion_tokens"] == 9


def test_the_nearest_effort_that_is_taken_is_asked_for() -> None:
    refusals = Refusals(spec())
    request = {**REQUEST, "reasoning_effort": "minimal"}
    words = "Unsupported value: 'minimal' for 'reasoning_effort'. Supported values are: 'low', 'medium', and 'high'."
    assert refusals.adapted(bad(words), request) == {**REQUEST, "reasoning_effort": "low"}
    assert refusals.applied(request)["reasoning_effort"] == "low"
    other = Refusals(spec())
    assert other.adapted(bad("reasoning_effort is not supported"), request) == REQUEST
