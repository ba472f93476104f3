"""The client of the `openai_batch` backend: a provider's Files and Batch API, which answers at a lower price in a day.

`pipeline.batches` decides what to submit and keeps the ledger of it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from batchroute.endpoint import base_url, read_json
from batchroute.errors import InputError, StoppedError
from batchroute.generators.base import Response
from batchroute.generators.openai.batch_files import id_of_file
from batchroute.generators.openai.batch_outcomes import OutcomeReader, RowOutcome
from batchroute.generators.openai.batches import ENDED, ProviderBatch, batch_of
from batchroute.generators.openai.chat_api import ChatApi
from batchroute.generators.openai.failures import Failure, ModelEndpoint
from batchroute.generators.openai.preflight import preflight, smallest
from batchroute.generators.settings import ModelSpec
from batchroute.prompt import Prompt

TOKEN_LIMIT = "token_limit_exceeded"

# Seconds for which a call is retried while its error may pass, and between two tries.
_PATIENCE, _MOST_WAIT = 600.0, 60.0
_UPLOAD_SECONDS = 1800.0
# If this many requests of a batch fail with the same error of the model, others would fail too.
_HOPELESS = 100
# The provider's clock may differ from this machine's by this much.
_SKEW_SECONDS = 3600.0
# The client gives the answer as it came, and does not fill in what a provider leaves out.
_RAW = {"X-Stainless-Raw-Response": "true"}

Result = TypeVar("Result")


class _PassingError(Exception):
    """A failure that may pass."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.words)
        self.failure = failure


class BatchApi:
    """Batches of one model at one endpoint.

    Calls are retried while their error may pass. All but `create` cost nothing. `notes` has one sentence each for the
    operator; `outcomes` may add some.

    Args:
        patience: for how many seconds to retry.

    Raises:
        InputError: the key, the endpoint or the model is wrong.
        StoppedError: the endpoint did not answer for long, or the account has no quota left.
    """

    def __init__(self, spec: ModelSpec, patience: float = _PATIENCE) -> None:
        self._spec, self._patience = spec, patience
        self._endpoint = ModelEndpoint(spec)
        self._protocol = ChatApi(spec, self._endpoint)
        self._protocol.check()
        self._reader = OutcomeReader(self._endpoint, self._protocol)
        self._client = self._endpoint.client()
        self.host = self._endpoint.host
        self.notes = self._protocol.notes

    def line(self, custom_id: str, prompt: Prompt, seed: int) -> bytes:
        """One request as a line of a batch's file."""
        request = {
            "custom_id": custom_id,
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": self._protocol.request(prompt, seed),
        }
        return json.dumps(request, ensure_ascii=False).encode() + b"\n"

    def preflight(self, longest: Prompt, shortest: Prompt) -> str | None:
        """As `preflight.preflight`, by the chat API of the same endpoint."""

        def ask(prompt: Prompt, smallest_output: bool) -> Response | Failure:
            request = self._protocol.request(prompt, 0)
            result = self._chat(smallest(request) if smallest_output else request)
            refused = isinstance(result, Failure) and self._protocol.adapted(result, request) is not None
            return ask(prompt, smallest_output) if refused else result

        return preflight(self._spec, self._endpoint, ask, longest, shortest)

    def _chat(self, request: dict[str, Any]) -> Response | Failure:
        try:
            answer: Any = self._client.post("/chat/completions", cast_to=object, body=request, options=_options())
            return self._protocol.response(read_json(answer.content), request, 1)
        except (self._endpoint.errors, ValueError, OSError) as error:
            return self._endpoint.failure(error)

    def upload(self, name: str, data: bytes) -> str:
        """Upload a batch's file; returns its id."""
        files = self._client.with_options(timeout=max(_UPLOAD_SECONDS, self._spec.timeout)).files.with_raw_response
        return self._patiently(lambda: id_of_file(files.create(file=(name, data), purpose="batch").content))

    def create(self, file_id: str, metadata: Mapping[str, str]) -> ProviderBatch:
        """Create the batch of an uploaded file, from which on the provider bills it.

        If a call ended without an answer, the next try first looks whether that call created the batch.
        """
        batches = self._client.batches.with_raw_response
        begun = time.time()

        def attempt() -> ProviderBatch:
            created = self.find(file_id, begun) if attempts else None
            attempts.append(None)
            if created is not None:
                return created
            answer = batches.create(
                input_file_id=file_id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata=dict(metadata),
                extra_headers={"Idempotency-Key": f"batchroute-{file_id}"},
            )
            return batch_of(read_json(answer.content))

        attempts: list[None] = []
        return self._patiently(attempt, f"file {file_id}")

    def find(self, file_id: str, since: float) -> ProviderBatch | None:
        """The batch of a file, if one was created since `since`. If there are several, all but the first are cancelled.

        Args:
            since: seconds since 1970.
        """
        batches = [one for one in self._patiently(lambda: list(self._since(since))) if one.input_file_id == file_id]
        batches.sort(key=lambda batch: (batch.created or 0.0, batch.id))
        for batch in batches[1:]:
            if batch.status not in ENDED:
                self.cancel(batch.id)
        return batches[0] if batches else None

    def retrieve(self, batch_id: str) -> ProviderBatch:
        return self._patiently(lambda: self._get(batch_id), f"batch {batch_id}")

    def cancel(self, batch_id: str) -> None:
        """Cancel a batch. If it has ended meanwhile, nothing happens."""

        def attempt() -> None:
            try:
                self._client.post(f"/batches/{quote(batch_id, safe='')}/cancel", cast_to=object, options=_options())
            except self._endpoint.errors:
                if self._get(batch_id).status not in (*ENDED, "cancelling"):
                    raise

        self._patiently(attempt, f"batch {batch_id}")

    def cancel_command(self, batch_id: str) -> str:
        """The command by which a person cancels a batch."""
        url = self._endpoint.redactor.text(f"{base_url(self._spec.endpoint)}/batches/{batch_id}/cancel")
        return f'curl -X POST -H "Authorization: Bearer {self._endpoint.key.shell}" {url}'

    def outcomes(
        self, batch: ProviderBatch, requests: Callable[[str], Prompt], known: Container[str]
    ) -> Iterator[tuple[str, RowOutcome]]:
        """The outcomes in the files of an ended batch, by custom id; malformed lines and other ids are skipped.

        Args:
            requests: returns the prompt of a custom id.
            known: the custom ids of the batch.
        """
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id is None:
                continue
            for line in self._download(file_id).splitlines():
                try:
                    entry = read_json(line)
                except ValueError:
                    continue
                name = entry.get("custom_id") if isinstance(entry, Mapping) else None
                if isinstance(name, str) and name in known:
                    yield name, self._reader.outcome(entry, requests)

    def refusal(self, batch: ProviderBatch) -> tuple[str, str]:
        """The code and the words by which the provider refused a batch."""
        if not batch.errors:
            return "", "no reason is given"
        code, message, number = batch.errors[0]
        line = f" (line {number})" if number is not None else ""
        return code, f"{code}: {self._endpoint.redactor.line(message)}{line}"

    def hopeless(self, batch: ProviderBatch, outcomes: Sequence[RowOutcome]) -> InputError | StoppedError | None:
        """The error that left a whole batch without answers, if further batches would meet it too; else None."""
        if any(outcome.response.answered for outcome in outcomes):
            return None
        fatal = next((outcome.fatal for outcome in outcomes if outcome.fatal is not None), None)
        (kind, words), *others = {(outcome.response.error_type, outcome.response.error) for outcome in outcomes}
        if fatal is not None or others or kind != "bad_request" or len(outcomes) < _HOPELESS:
            return fatal
        return StoppedError(
            f"all {len(outcomes):,} requests of the batch {batch.id} failed alike on the model '{self._spec.model}' at "
            f"{self.host}: {words}; fix it and run again"
        )

    def close(self) -> None:
        self._client.close()

    def _download(self, file_id: str) -> bytes:
        return self._patiently(lambda: self._client.files.content(file_id).content, f"file {file_id}")

    def _get(self, batch_id: str) -> ProviderBatch:
        answer: Any = self._client.get(f"/batches/{quote(batch_id, safe='')}", cast_to=object, options=_options())
        return batch_of(read_json(answer.content))

    def _since(self, since: float) -> Iterator[ProviderBatch]:
        """All batches of the account created since `since`, the newest first."""
        after, seen = None, set[str]()
        while True:
            params = {"limit": 100} if after is None else {"limit": 100, "after": after}
            answer: Any = self._client.get("/batches", cast_to=object, options=_options(params))
            page = read_json(answer.content)
            data = page.get("data") if isinstance(page, Mapping) else page
            batches = [batch_of(one) for one in data] if isinstance(data, list) else []
            for batch in batches:
                if batch.created is not None and batch.created < since - _SKEW_SECONDS:
                    return
                yield batch
            after = batches[-1].id if batches else None
            # A provider that ignores `after` gives the same page for ever.
            if after is None or after in seen or not (isinstance(page, Mapping) and page.get("has_more")):
                return
            seen.add(after)

    def _patiently(self, do: Callable[[], Result], thing: str = "") -> Result:
        """Call `do`, and retry it while its error may pass.

        Args:
            thing: what the call names by an id, for messages.
        """
        retrying = Retrying(
            retry=retry_if_exception_type(_PassingError),
            wait=wait_random_exponential(multiplier=0.5, max=_MOST_WAIT),
            stop=stop_after_delay(self._patience),
            reraise=True,
        )
        try:
            result: Result = retrying(self._once, do, thing)
        except _PassingError as error:
            raise StoppedError(f"{self.host} does not answer: {error.failure.words}; run again to go on") from error
        return result

    def _once(self, do: Callable[[], Result], thing: str) -> Result:
        sent_with = self._endpoint.key.value
        try:
            return do()
        except (self._endpoint.errors, ValueError, OSError) as error:
            failure = self._endpoint.failure(error)
            if failure.may_pass or (failure.kind == "key" and self._endpoint.key.renewed(sent_with)):
                raise _PassingError(failure) from error
            raise self._fatal(failure, thing) from error

    def _fatal(self, failure: Failure, thing: str) -> InputError | StoppedError:
        if failure.kind == "absent" and thing:
            return InputError(
                f"{self.host} knows no {thing} any more, or not with this key: {failure.words}; set the key back to "
                "that of the project that it belongs to, or start again with --fresh"
            )
        if failure.kind == "absent":
            return InputError(
                f"{self.host} has no Batch API, or the endpoint is not its base URL, which mostly ends in /v1: "
                f"{failure.words}; fix the endpoint, or use the backend openai"
            )
        fatal = self._endpoint.fatal(failure, has_answered=False)
        return fatal or InputError(f"{self.host} refuses a call of the Batch API: {failure.words}")


def _options(params: Mapping[str, Any] | None = None) -> Any:
    return {"headers": dict(_RAW), "params": dict(params or {})}
