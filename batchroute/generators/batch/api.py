"""What the batch APIs of all providers share: calls that are repeated while their error may pass, a batch that is
created once, and what its end means for its rows.

`pipeline.batches` decides what to submit and keeps the ledger of it.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from batchroute.endpoint import read_json
from batchroute.errors import InputError, StoppedError
from batchroute.generators.base import Response
from batchroute.generators.batch.calls import Calls
from batchroute.generators.batch.outcomes import OutcomeReader, RowOutcome
from batchroute.generators.batch.states import ENDED, ProviderBatch
from batchroute.generators.openai.chat_api import ChatApi
from batchroute.generators.openai.failures import Failure, ModelEndpoint
from batchroute.generators.openai.preflight import preflight, smallest
from batchroute.generators.settings import ModelSpec
from batchroute.prompt import Prompt

TOKEN_LIMIT = "token_limit_exceeded"

# If this many requests of a batch fail with the same error of the model, others would fail too.
_HOPELESS = 100
SKEW_SECONDS = 3600.0
"""The provider's clock may differ from this machine's by this much."""


class InDoubtError(StoppedError):
    """Whether a batch was created shows only when other batches end."""


class BatchApi(Calls, ABC):
    """Batches of one model at one provider.

    Calls are repeated while their error may pass. All but `create` cost nothing. `notes` has one sentence each for the
    operator; `outcomes` may add some.

    Attributes:
        most_bytes: of the lines of one batch.
        keyless: the provider shows the key of a batch only when it has ended. So the paid call of an intent is made by
            one process and once; where it got no answer, `find` is asked, and an intent that `find` does not find after
            its `lease` was never submitted.
        lease: the seconds after an intent was put in which its paid call ends, whatever becomes of it.
    """

    most_bytes: ClassVar[int] = 200_000_000
    keyless: ClassVar[bool] = False

    def __init__(
        self, spec: ModelSpec, endpoint: ModelEndpoint, protocol: ChatApi, patience: float | None = None
    ) -> None:
        """Args:
            patience: for how many seconds to retry; 10 minutes unless set.

        Raises:
            InputError: the key, the endpoint or the model is wrong.
        """
        protocol.check()
        super().__init__(spec, endpoint, patience)
        self._protocol, self._reader = protocol, OutcomeReader(endpoint, protocol)
        self.lease = spec.timeout
        self.notes = protocol.notes

    @abstractmethod
    def line(self, custom_id: str, prompt: Prompt, seed: int) -> bytes:
        """One request as a line of a batch."""

    @abstractmethod
    def prepare(self, name: str, data: bytes) -> str:
        """Make ready what costs nothing, such as the upload of the lines.

        Returns:
            The key by which `find` knows the batch.
        """

    @abstractmethod
    def cancel_command(self, batch_id: str) -> str:
        """The command by which a person cancels a batch."""

    @abstractmethod
    def _create(self, key: str, metadata: Mapping[str, str], data: Callable[[], bytes]) -> ProviderBatch:
        """The paid call."""

    @abstractmethod
    def _get(self, batch_id: str) -> ProviderBatch: ...

    @abstractmethod
    def _cancel(self, batch_id: str) -> None: ...

    @abstractmethod
    def _since(self, since: float) -> Iterator[ProviderBatch]:
        """All batches of the account created since `since`, seconds since 1970, by the clock of either side."""

    @abstractmethod
    def _entries(self, batch: ProviderBatch) -> Iterator[Any]:
        """The outcomes of an ended batch in OpenAI's form: `custom_id`, and a `response` with `status_code` and `body`
        or an `error`.
        """

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
            answer = self._post(self._protocol.path, request)
            return self._protocol.response(answer, request, 1)
        except (self._endpoint.errors, ValueError, OSError) as error:
            return self._endpoint.failure(error)

    def create(
        self,
        key: str,
        metadata: Mapping[str, str],
        data: Callable[[], bytes] = bytes,
        *,
        since: float | None = None,
    ) -> ProviderBatch:
        """Create a batch, from which on the provider bills it.

        If a call ended without an answer, the next try first looks whether that call created the batch.

        Args:
            key: as `prepare` gave it.
            data: gives the lines again, for a provider that takes them with this call.
            since: when the intent was put, seconds since 1970.

        Raises:
            InDoubtError: the provider gave no answer, and does not show whether it has the batch.
        """
        begun = time.time() if since is None else since

        def attempt() -> ProviderBatch:
            created = self.find(key, begun) if unanswered else None
            if created is not None:
                return created
            unanswered.append(None)
            try:
                return self._create(key, metadata, data)
            except self._endpoint.errors as error:
                if self._endpoint.is_refusal(error):
                    unanswered.pop()
                raise

        unanswered: list[None] = []
        return self._patiently(attempt, f"file {key}")

    def find(
        self, key: str, since: float, *, requests: int = 0, known: Callable[[], Collection[str]] = tuple
    ) -> ProviderBatch | None:
        """The batch of a key, if one was created since `since`. If there are several, all but the first are cancelled.

        Args:
            since: seconds since 1970.
            requests: how many the batch has.
            known: gives the ids of batches that have other keys.

        Raises:
            InDoubtError: a provider that shows no keys has batches that may be it.
        """
        batches = [one for one in self._patiently(lambda: list(self._since(since))) if one.key == key]
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
                self._cancel(batch_id)
            except self._endpoint.errors:
                if self._get(batch_id).status not in (*ENDED, "cancelling"):
                    raise

        self._patiently(attempt, f"batch {batch_id}")

    def outcomes(
        self, batch: ProviderBatch, requests: Callable[[str], Prompt], known: Container[str]
    ) -> Iterator[tuple[str, RowOutcome]]:
        """The outcomes of an ended batch, by custom id; malformed lines and other ids are skipped.

        Args:
            requests: returns the prompt of a custom id.
            known: the custom ids of the batch.
        """
        for entry in self._entries(batch):
            name = entry.get("custom_id") if isinstance(entry, Mapping) else None
            if isinstance(name, str) and name in known:
                yield name, self._reader.outcome(entry, requests)

    def refusal(self, batch: ProviderBatch) -> tuple[str, str]:
        """The code and the words by which the provider refused a batch."""
        if not batch.errors:
            return "", "no reason is given"
        code, message, number = batch.errors[0]
        line = f" (line {number})" if number is not None else ""
        return code, f"{f'{code}: ' if code else ''}{self._endpoint.redactor.line(message)}{line}"

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


def entries_of(lines: bytes) -> Iterator[Any]:
    """The JSON of the lines; those that are none are skipped."""
    for line in lines.splitlines():
        try:
            yield read_json(line)
        except ValueError:
            continue
