"""Anthropic's Message Batches: all requests in one call, and their results in a file once all have ended.

Made from the types of the package `anthropic` 2.14.0 (API version 2026-10-21) and the pages "Batch processing" and
"Message Batches" of platform.claude.com. A batch holds up to 100,000 requests and 256 MB, ends within 24 hours, and
keeps its results for 29 days.

The API knows a batch by nothing that the client chose: it has no names, no metadata and no idempotency keys. What the
client chose are the ids of the requests, which are readable only in the results. So each intent has a token, which
begins the ids of its requests. After a crash at the paid call, the batches that may be the intent's are those created
since, with as many requests, that are known to be of no other intent of the run. Those that have ended are told by the
token in their results. While one of the others runs, it is unknown whether the intent was submitted, and nothing of it
is submitted again. The price: after such a crash, a run may wait until batches of others in the same workspace end, a
day at most.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime
from typing import Any, ClassVar
from urllib.parse import quote

from batchroute.endpoint import valid_text
from batchroute.errors import StoppedError
from batchroute.generators.anthropic.messages import MessagesApi
from batchroute.generators.anthropic.version import HEADER, version_of
from batchroute.generators.batch.api import SKEW_SECONDS, BatchApi, InDoubtError, entries_of
from batchroute.generators.batch.states import ENDED, ProviderBatch
from batchroute.generators.settings import ModelSpec
from batchroute.prompt import Prompt

_BEGINNING = b'{"custom_id": "'
_PATH = "/messages/batches"
_STATUSES = {
    "invalid_request_error": 400, "authentication_error": 401, "billing_error": 402, "permission_error": 403,
    "not_found_error": 404, "request_too_large": 413, "rate_limit_error": 429, "api_error": 500, "timeout_error": 504,
    "overloaded_error": 529,
}  # fmt: skip


class AnthropicBatches(BatchApi):
    """A batch is known by the token that begins the ids of its requests."""

    # The paid call carries them, and must end within `timeout`.
    most_bytes: ClassVar[int] = 100_000_000
    keyless: ClassVar[bool] = True

    def __init__(self, spec: ModelSpec, patience: float | None = None) -> None:
        protocol = MessagesApi(spec)
        super().__init__(spec, protocol.endpoint, protocol, patience)
        self.lease = 2 * spec.timeout

    def line(self, custom_id: str, prompt: Prompt, seed: int) -> bytes:
        request = {"custom_id": custom_id, "params": self._protocol.request(prompt, seed)}
        return json.dumps(request, ensure_ascii=False).encode() + b"\n"

    def prepare(self, name: str, data: bytes) -> str:
        return uuid.uuid4().hex[:16]

    def cancel_command(self, batch_id: str) -> str:
        url = self._endpoint.redactor.text(f"{self._endpoint.url}{_path(batch_id)}/cancel")
        key = self._endpoint.key.shell
        return f'curl -X POST -H "x-api-key: {key}" -H "{HEADER}: {version_of(self._spec)}" {url}'

    def create(
        self,
        key: str,
        metadata: Mapping[str, str],
        data: Callable[[], bytes] = bytes,
        *,
        since: float | None = None,
    ) -> ProviderBatch:
        """As `BatchApi.create`; a call without an answer is not repeated, and none begins late in the lease."""
        until = (time.time() if since is None else since) + self._spec.timeout

        def attempt() -> ProviderBatch:
            if time.time() > until:
                raise InDoubtError(f"{self.host} took no call that submits them in time")
            try:
                return self._create(key, metadata, data)
            except (self._endpoint.errors, ValueError, OSError) as error:
                if self._endpoint.is_refusal(error):
                    raise
                words = self._endpoint.failure(error).words
                raise InDoubtError(f"{self.host} gave no answer to the call that submits them ({words})") from error

        return self._patiently(attempt)

    def find(
        self, key: str, since: float, *, requests: int = 0, known: Callable[[], Collection[str]] = tuple
    ) -> ProviderBatch | None:
        others = known()
        batches = [
            batch
            for batch in self._patiently(lambda: list(self._since(since)))
            if batch.requests in (0, requests) and batch.id not in others
        ]
        mine = [batch for batch in batches if batch.status in ENDED and self._token(batch) == key]
        if mine:
            return mine[0]
        running = [batch.id for batch in batches if batch.status not in ENDED]
        if running:
            raise InDoubtError(
                f"{self.host} tells only when {', '.join(running)} {'has' if len(running) == 1 else 'have'} ended"
            )
        return None

    def _token(self, batch: ProviderBatch) -> str:
        """The token of an ended batch's requests."""
        if batch.output_file_id is None:
            raise StoppedError(
                f"the results of the batch {batch.id} at {self.host}, which may be this run's, are gone: start again "
                "with --fresh"
            )
        first = next((entry for entry in entries_of(self._results(batch)) if isinstance(entry, Mapping)), {})
        return str(first.get("custom_id")).partition("_")[0]

    def _create(self, key: str, metadata: Mapping[str, str], data: Callable[[], bytes]) -> ProviderBatch:
        begun = _BEGINNING + f"{key}_".encode()
        lines = [begun + line.removeprefix(_BEGINNING) for line in data().splitlines()]
        return _batch_of(self._post(_PATH, b'{"requests": [' + b", ".join(lines) + b"]}"))

    def _get(self, batch_id: str) -> ProviderBatch:
        return _batch_of(self._read(_path(batch_id)))

    def _cancel(self, batch_id: str) -> None:
        self._post(f"{_path(batch_id)}/cancel")

    def _since(self, since: float) -> Iterator[ProviderBatch]:
        after: str | None = None
        while True:
            page = self._read(_PATH, {"limit": 100} if after is None else {"limit": 100, "after_id": after})
            data = page.get("data") if isinstance(page, Mapping) else None
            batches = [_batch_of(one) for one in data] if isinstance(data, list) else []
            for batch in batches:
                if batch.created is not None and batch.created < since - SKEW_SECONDS:
                    return
                yield batch
            if not batches or not page.get("has_more"):
                return
            after = batches[-1].id

    def _entries(self, batch: ProviderBatch) -> Iterator[Any]:
        if batch.output_file_id is None:
            return
        for entry in entries_of(self._results(batch)):
            result = entry.get("result") if isinstance(entry, Mapping) else None
            if isinstance(result, Mapping):
                yield {"custom_id": str(entry.get("custom_id")).partition("_")[2], **_outcome(result)}

    def _results(self, batch: ProviderBatch) -> bytes:
        # Not by `results_url`, which leaves a gateway that the endpoint may be.
        return self._patiently(lambda: self._bytes(f"{_path(batch.id)}/results"), f"batch {batch.id}")


def _path(batch_id: str) -> str:
    return f"{_PATH}/{quote(batch_id, safe='')}"


def _batch_of(body: Any) -> ProviderBatch:
    """
    Raises:
        ValueError: this is no description of a batch.
    """
    if not isinstance(body, Mapping) or not isinstance(body.get("id"), str):
        raise ValueError("the answer describes no batch")
    counts = body.get("request_counts")
    counted = counts.items() if isinstance(counts, Mapping) else ()
    numbers = {name: value for name, value in counted if isinstance(value, int)}
    status = str(body.get("processing_status"))
    if status == "ended":
        status = "cancelled" if body.get("cancel_initiated_at") else "completed"
    return ProviderBatch(
        id=valid_text(body["id"]),
        status={"canceling": "cancelling"}.get(status, valid_text(status)),
        key=None,
        output_file_id=body.get("results_url"),
        error_file_id=None,
        created=_moment(body.get("created_at")),
        ended=_moment(body.get("ended_at")),
        answered=numbers.get("succeeded", 0),
        errors=[],
        requests=sum(numbers.values()),
    )


def _moment(text: Any) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return None


def _outcome(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a request in OpenAI's form."""
    kind = result.get("type")
    if kind == "succeeded":
        return {"response": {"status_code": 200, "body": result.get("message")}}
    if kind != "errored":
        return {"error": {"code": f"request_{kind}"}}
    error = result.get("error")
    inner = error.get("error") if isinstance(error, Mapping) else None
    status = _STATUSES.get(str(inner.get("type")), 500) if isinstance(inner, Mapping) else 500
    return {"response": {"status_code": status, "body": error}}
