"""Preflight: one small request before thousands, and a small one in between when many rows fail alike."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from batchroute.errors import InputError, StoppedError
from batchroute.generators.base import Response
from batchroute.generators.openai.failures import Failure, ModelEndpoint
from batchroute.generators.settings import ModelSpec
from batchroute.prompt import Prompt

HARMLESS = "Answer with one word: what colour is the sky on a clear day?"
"""What is asked to learn whether an endpoint answers anything."""

# Reasoning models refuse so small a limit, and some servers know the limit by another name.
_ABOUT_THE_LIMIT = re.compile(r"max_\w*tokens|output limit|max_tokens", re.IGNORECASE)
_NAMES = ("max_tokens", "max_completion_tokens", "max_new_tokens", "max_output_tokens")


def smallest(request: dict[str, Any]) -> dict[str, Any]:
    """The request with the least output that can be asked for."""
    least = {name: 1 if name in _NAMES else value for name, value in request.items()}
    if isinstance(config := least.get("generationConfig"), dict):
        least["generationConfig"] = {**config, "maxOutputTokens": 1}
    return least


def is_about_the_limit(result: Response | Failure) -> bool:
    """Whether the smallest limit may be what the endpoint does not take."""
    return isinstance(result, Failure) and result.kind == "row" and bool(_ABOUT_THE_LIMIT.search(result.words))


def preflight(
    spec: ModelSpec,
    endpoint: ModelEndpoint,
    ask: Callable[[Prompt, bool], Response | Failure],
    longest: Prompt,
    shortest: Prompt,
) -> str | None:
    """Ask the longest prompt, and the shortest one if that is refused, before any other.

    Args:
        ask: sends a prompt, with the smallest output if its second argument is true.

    Returns:
        A note for the operator, if there is something to know.

    Raises:
        InputError, StoppedError: the endpoint would refuse every prompt.
    """
    result = _ask(ask, longest)
    if isinstance(result, Response):
        return None
    _raise_fatal(spec, endpoint, result.without(longest))
    if result.kind != "row" or result.error_type == "refused":
        return None
    again = _ask(ask, shortest)
    if isinstance(again, Response) or again.may_pass or again.error_type == "refused":
        what = "is too long" if result.error_type == "too_long" else "is refused"
        words = result.without(longest).words
        return f"the longest prompt {what} at {endpoint.host}, and others are answered: {words}"
    _raise_fatal(spec, endpoint, again.without(shortest))
    raise StoppedError(
        f"{endpoint.host} refuses the longest prompt and the shortest one, before any other was sent: "
        f"{again.without(shortest).words}; fix it and run again"
    )


def _ask(ask: Callable[[Prompt, bool], Response | Failure], prompt: Prompt) -> Response | Failure:
    result = ask(prompt, True)
    return ask(prompt, False) if is_about_the_limit(result) else result


def _raise_fatal(spec: ModelSpec, endpoint: ModelEndpoint, failure: Failure) -> None:
    """Raises:
    InputError, StoppedError: every prompt would meet the failure.
    """
    # A provider may have the model, or any chat, in its Batch API alone.
    if spec.record.batches is not None and failure.kind in ("absent", "forbidden"):
        return
    fatal: InputError | StoppedError | None = endpoint.fatal(failure, has_answered=False)
    if fatal is not None:
        raise fatal
