"""Whatever a vendor describes is a batch, an outcome and an answer, or an error that is foreseen."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchroute.generators.anthropic.messages import MessagesApi
from batchroute.generators.base import Response
from batchroute.generators.batch import anthropic, gemini, mistral
from batchroute.generators.batch.gemini_content import ContentApi
from batchroute.generators.batch.states import ProviderBatch
from batchroute.generators.openai.failures import Failure
from batchroute.generators.settings import ModelSpec

TEXT = st.text(st.characters(exclude_categories=()), max_size=8)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(TEXT, inner, max_size=2)),
    max_leaves=4,
)
FEW = settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


def some(*names: str, **known: Any) -> Any:
    """A mapping with some of the names, and values of any kind or of the one that is known."""
    return st.fixed_dictionaries({}, optional={**dict.fromkeys(names, JSON), **known})


MOMENT = st.sampled_from(["2026-11-29T21:00:00Z", "2026-11-29T21:00:00.123456789Z", "x", ""])
ABOUT = some("state", "output", "batchStats", "displayName", createTime=MOMENT)
BATCHES = {
    anthropic: some("results_url", "cancel_initiated_at", "request_counts", id=TEXT, created_at=MOMENT),
    gemini: some("error", "response", name=TEXT, metadata=ABOUT),
    mistral: some("errors", "output_file", "error_file", "created_at", id=TEXT, status=TEXT, input_files=JSON),
}


@FEW
@given(data=st.data())
@pytest.mark.parametrize("module", [anthropic, gemini, mistral])
def test_any_description_is_a_batch_or_none(module: Any, data: st.DataObject) -> None:
    body = data.draw(st.one_of(BATCHES[module], JSON))
    try:
        batch = module._batch_of(body)
    except ValueError:
        return
    assert isinstance(batch, ProviderBatch)
    f"{batch.id} {batch.status} {batch.output_file_id} {batch.errors}".encode()
    assert batch.answered >= 0


ERROR = some("code", "message", error=some("type", "message"))


@FEW
@given(line=some("response", result=some("message", type=TEXT, error=ERROR), error=ERROR))
def test_any_line_is_an_outcome(line: dict[str, Any]) -> None:
    assert isinstance(gemini._outcome(line), dict)
    assert isinstance(anthropic._outcome(line.get("result", {})), dict)


PARTS = st.lists(
    st.one_of(JSON, some("type", "text", "thinking", "thought", "functionCall", "input", "name")), max_size=2
)
ANSWERS = st.one_of(
    JSON,
    some("stop_reason", "usage", "error", content=PARTS),
    some(
        "promptFeedback",
        "usageMetadata",
        candidates=st.lists(some("finishReason", content=some(parts=PARTS)), max_size=1),
    ),
)


@FEW
@given(answer=ANSWERS)
@pytest.mark.parametrize("provider", ["anthropic", "gemini"])
def test_any_answer_is_a_response_or_a_failure(provider: str, answer: Any) -> None:
    spec = ModelSpec.model_validate(
        {"backend": "batch", "provider": provider, "model": "m", "endpoint": "http://127.0.0.1:9/v1"}
    )
    protocol = MessagesApi(spec) if provider == "anthropic" else ContentApi(spec)
    found = protocol.response(answer, protocol.request("a prompt", 0), 1)
    assert isinstance(found, Response | Failure)
    (found.text or "" if isinstance(found, Response) else found.words).encode()
