"""Mistral's batch jobs: OpenAI's files, and jobs of its own over them.

Made from the types of the package `mistralai` 3.7.0, which is generated from the API's description, and the page "Batch
Inference" of docs.mistral.ai. A job holds up to a million requests, and ends within `timeout_hours`, a day here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from batchroute.generators.batch.api import SKEW_SECONDS
from batchroute.generators.batch.states import ProviderBatch, batch_of
from batchroute.generators.openai.batch_api import OpenAIBatches
from batchroute.generators.openai.chat_api import ChatApi
from batchroute.prompt import Prompt

if TYPE_CHECKING:
    from batchroute.generators.openai.failures import ModelEndpoint
    from batchroute.generators.settings import ModelSpec

_PATH = "/batch/jobs"
_PAGE = 100


class MistralChat(ChatApi):
    """Mistral's chat completions: OpenAI's, with another name for the seed."""

    _seed = "random_seed"


class MistralBatches(OpenAIBatches):
    """A batch is known by the file that it was made of, which its description names."""

    def _chat_api(self, spec: ModelSpec, endpoint: ModelEndpoint) -> ChatApi:
        return MistralChat(spec, endpoint)

    def line(self, custom_id: str, prompt: Prompt, seed: int) -> bytes:
        body = self._protocol.request(prompt, seed)
        # The job names the model.
        del body["model"]
        return json.dumps({"custom_id": custom_id, "body": body}, ensure_ascii=False).encode() + b"\n"

    def _create(self, key: str, metadata: Mapping[str, str], data: Callable[[], bytes]) -> ProviderBatch:
        body = {
            "input_files": [key],
            "endpoint": "/v1/chat/completions",
            "model": self._spec.model,
            "metadata": dict(metadata),
            "timeout_hours": 24,
        }
        return _batch_of(self._post(_PATH, body))

    def _get(self, batch_id: str) -> ProviderBatch:
        return _batch_of(self._read(self._path(batch_id)))

    def _path(self, batch_id: str) -> str:
        return f"{_PATH}/{quote(batch_id, safe='')}"

    def _since(self, since: float) -> Iterator[ProviderBatch]:
        after = datetime.fromtimestamp(max(0.0, since - SKEW_SECONDS), UTC).isoformat()
        page = 0
        while True:
            query = {"page": page, "page_size": _PAGE, "created_after": after}
            answer = self._read(_PATH, query)
            data = answer.get("data") if isinstance(answer, Mapping) else None
            jobs = data if isinstance(data, list) else []
            yield from map(_batch_of, jobs)
            if len(jobs) < _PAGE:
                return
            page += 1


def _batch_of(body: Any) -> ProviderBatch:
    """
    Raises:
        ValueError: this is no description of a job.
    """
    if not isinstance(body, Mapping):
        raise ValueError("the answer describes no batch")
    files = body.get("input_files")
    words = {
        **body,
        "input_file_id": files[0] if isinstance(files, list) and files else None,
        "output_file_id": body.get("output_file"),
        "error_file_id": body.get("error_file"),
        "request_counts": {"completed": body.get("succeeded_requests")},
    }
    return batch_of(words)
