"""What came of the requests of a provider batch, by the lines of its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from batchroute.endpoint import valid_text
from batchroute.errors import InputError, StoppedError
from batchroute.generators.base import Response
from batchroute.generators.openai.chat_api import ChatApi
from batchroute.generators.openai.failures import ModelEndpoint, code_of, error_body, message_of
from batchroute.prompt import Prompt


@dataclass(frozen=True)
class RowOutcome:
    """The result of one request of a batch.

    Attributes:
        again: the request may succeed in another batch.
        fatal: the error that every further request would meet too.
    """

    response: Response
    again: bool = False
    fatal: InputError | StoppedError | None = None


class OutcomeReader:
    """Reads the lines of a batch's files."""

    def __init__(self, endpoint: ModelEndpoint, protocol: ChatApi) -> None:
        self._endpoint, self._protocol = endpoint, protocol

    def outcome(self, line: Mapping[str, Any], requests: Callable[[str], Prompt]) -> RowOutcome:
        """The outcome that a line of a batch's file stands for.

        Args:
            requests: returns the prompt of a custom id.
        """
        answer, error = line.get("response"), line.get("error")
        if not isinstance(answer, Mapping):
            words = code_of(error_body(error)) or message_of(error_body(error))
            error = f"the batch says {self._endpoint.redactor.line(valid_text(words)) if words else 'nothing'}"
            return RowOutcome(Response(error_type="api_error", error=error), again=True)
        status, body = answer.get("status_code"), answer.get("body")
        if "choices" in answer and body is None:
            status, body = 200, answer
        if status == 200:
            result = self._protocol.response(body, LazyRequest(self._protocol, requests, line["custom_id"]), 1)
            if isinstance(result, Response):
                return RowOutcome(result)
            failure = result
        else:
            reason = error_body(body)
            message = message_of(reason) or "no reason is given"
            failure = self._endpoint.status_failure(status if isinstance(status, int) else 500, reason, message)
        if failure.error_type == "bad_request" or failure.kind != "row":
            # It may end the run, whose last line shows it.
            failure = failure.without(requests(line["custom_id"]))
        if failure.error_type == "bad_request" and self._protocol.was_refused(failure, requests(line["custom_id"])):
            return RowOutcome(Response(error_type="api_error", error=failure.words), again=True)
        fatal = self._endpoint.fatal(failure, has_answered=False)
        return RowOutcome(failure.response(1), failure.kind != "row", fatal)


class LazyRequest(Mapping[str, Any]):
    """A request that is made when a field of it is read: most answers need none, and reading the prompt takes time."""

    def __init__(self, protocol: ChatApi, requests: Callable[[str], Prompt], custom_id: str) -> None:
        self._protocol, self._requests, self._custom_id = protocol, requests, custom_id

    def __getitem__(self, key: str) -> Any:
        return self._made()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made())

    def __len__(self) -> int:
        return len(self._made())

    def _made(self) -> dict[str, Any]:
        return self._protocol.request(self._requests(self._custom_id), 0)
