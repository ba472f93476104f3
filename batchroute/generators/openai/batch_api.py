"""OpenAI's Files and Batch API, which answers at a lower price in a day: the backends `openai_batch` and `batch`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from batchroute.endpoint import read_json
from batchroute.generators.batch.api import SKEW_SECONDS, BatchApi, entries_of
from batchroute.generators.batch.files import id_of_file
from batchroute.generators.batch.states import ProviderBatch, batch_of
from batchroute.generators.openai.chat_api import ChatApi
from batchroute.generators.openai.failures import ModelEndpoint
from batchroute.generators.settings import ModelSpec
from batchroute.prompt import Prompt

_UPLOAD_SECONDS = 1800.0


class OpenAIBatches(BatchApi):
    """A batch is known by the file that it was made of."""

    def __init__(self, spec: ModelSpec, patience: float | None = None) -> None:
        endpoint = ModelEndpoint(spec)
        super().__init__(spec, endpoint, self._chat_api(spec, endpoint), patience)

    def _chat_api(self, spec: ModelSpec, endpoint: ModelEndpoint) -> ChatApi:
        return ChatApi(spec, endpoint)

    def line(self, custom_id: str, prompt: Prompt, seed: int) -> bytes:
        request = {
            "custom_id": custom_id,
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": self._protocol.request(prompt, seed),
        }
        return json.dumps(request, ensure_ascii=False).encode() + b"\n"

    def prepare(self, name: str, data: bytes) -> str:
        """Upload a batch's file; returns its id."""
        files = self._client.with_options(timeout=max(_UPLOAD_SECONDS, self._spec.timeout)).files.with_raw_response
        return self._patiently(lambda: id_of_file(files.create(file=(name, data), purpose="batch").content))

    def cancel_command(self, batch_id: str) -> str:
        url = self._endpoint.redactor.text(f"{self._endpoint.url}{self._path(batch_id)}/cancel")
        return f'curl -X POST -H "Authorization: Bearer {self._endpoint.key.shell}" {url}'

    def _create(self, key: str, metadata: Mapping[str, str], data: Callable[[], bytes]) -> ProviderBatch:
        answer = self._client.batches.with_raw_response.create(
            input_file_id=key,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata=dict(metadata),
            extra_headers={"Idempotency-Key": f"batchroute-{key}"},
        )
        return batch_of(read_json(answer.content))

    def _get(self, batch_id: str) -> ProviderBatch:
        return batch_of(self._read(self._path(batch_id)))

    def _cancel(self, batch_id: str) -> None:
        self._post(f"{self._path(batch_id)}/cancel")

    def _path(self, batch_id: str) -> str:
        return f"/batches/{quote(batch_id, safe='')}"

    def _entries(self, batch: ProviderBatch) -> Iterator[Any]:
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id is not None:
                yield from entries_of(self._download(file_id))

    def _download(self, file_id: str) -> bytes:
        return self._patiently(lambda: self._client.files.content(file_id).content, f"file {file_id}")

    def _since(self, since: float) -> Iterator[ProviderBatch]:
        # The newest first.
        after, seen = None, set[str]()
        while True:
            page = self._read("/batches", {"limit": 100} if after is None else {"limit": 100, "after": after})
            data = page.get("data") if isinstance(page, Mapping) else page
            batches = [batch_of(one) for one in data] if isinstance(data, list) else []
            for batch in batches:
                if batch.created is not None and batch.created < since - SKEW_SECONDS:
                    return
                yield batch
            after = batches[-1].id if batches else None
            # A provider that ignores `after` gives the same page for ever.
            if after is None or after in seen or not (isinstance(page, Mapping) and page.get("has_more")):
                return
            seen.add(after)
