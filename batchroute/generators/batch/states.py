"""A provider's batch, as far as its description can be understood: providers differ in states, types and what is
left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batchroute.endpoint import valid_text

ENDED = ("completed", "failed", "expired", "cancelled")
RUNNING = ("validating", "queued", "created", "pending", "running", "in_progress", "finalizing", "cancelling")

# Words of Mistral, Together, Anthropic, Gemini and gateways.
_ALIASES = {
    "success": "completed", "succeeded": "completed", "complete": "completed", "ended": "completed",
    "done": "completed", "timeout_exceeded": "expired", "canceled": "cancelled", "canceling": "cancelling",
    "cancellation_requested": "cancelling", "partially_succeeded": "completed",
}  # fmt: skip
_WRAPPERS = ("job_state_", "batch_state_", "batch_")


@dataclass(frozen=True)
class ProviderBatch:
    """
    Attributes:
        key: what the batch was made of, as `BatchApi.prepare` gave it; None: the provider does not say.
        status: in lower case, in OpenAI's words if it is known.
        created, ended: seconds since 1970; None: the provider does not say.
        answered: requests that have an answer so far.
        requests: how many it has, if the provider says so.
        errors: code, message and line (None: of no line) of each reason why the provider refused the batch.
    """

    id: str
    status: str
    key: str | None
    output_file_id: str | None
    error_file_id: str | None
    created: float | None
    ended: float | None
    answered: int
    errors: list[tuple[str, str, int | None]]
    requests: int = 0


def batch_of(body: Any) -> ProviderBatch:
    """The batch that a provider describes.

    Raises:
        ValueError: this is no description of a batch.
    """
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    name = _name(body.get("id")) if isinstance(body, Mapping) else None
    if name is None or not isinstance(body.get("status"), str):
        raise ValueError("the answer describes no batch")
    counts = body.get("request_counts")
    ends = (_time(body.get(key)) for key in ("completed_at", "expired_at", "cancelled_at", "failed_at"))
    return ProviderBatch(
        id=name,
        status=status_of(body["status"]),
        key=_name(body.get("input_file_id")),
        output_file_id=_name(body.get("output_file_id")),
        error_file_id=_name(body.get("error_file_id")),
        created=_time(body.get("created_at")),
        ended=next((moment for moment in ends if moment is not None), None),
        answered=_count(counts.get("completed")) if isinstance(counts, Mapping) else 0,
        errors=_errors(body.get("errors")),
    )


def status_of(word: str) -> str:
    """A provider's word for a state in OpenAI's words, as far as it is known."""
    word = valid_text(word).strip().lower().replace(" ", "_").replace("-", "_")
    for wrapper in _WRAPPERS:
        word = word.removeprefix(wrapper)
    return _ALIASES.get(word, word)


def _name(value: Any) -> str | None:
    """An id; providers write an empty text where there is none."""
    return valid_text(value) if isinstance(value, str) and value else None


def _time(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and 0 < value < 1e11 else None


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _errors(errors: Any) -> list[tuple[str, str, int | None]]:
    data = errors.get("data") if isinstance(errors, Mapping) else errors
    found = data if isinstance(data, list) else [data] if data else []
    return [_error(one) for one in found]


def _error(error: Any) -> tuple[str, str, int | None]:
    if not isinstance(error, Mapping):
        return "", valid_text(str(error)), None
    line = error.get("line")
    code, message = (valid_text(str(error.get(name) or "")) for name in ("code", "message"))
    return code, message, line if isinstance(line, int) else None
