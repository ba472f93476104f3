"""Calls of a provider's batch API, which are repeated while their error may pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from batchroute.endpoint import read_json
from batchroute.errors import InputError, StoppedError
from batchroute.generators.openai.failures import Failure, ModelEndpoint
from batchroute.generators.settings import ModelSpec

# Seconds for which a call is repeated while its error may pass, and between two tries.
_PATIENCE, _MOST_WAIT = 600.0, 60.0
# The client gives the answer as it came, and does not fill in what a provider leaves out.
_RAW = {"X-Stainless-Raw-Response": "true"}

Result = TypeVar("Result")


class _PassingError(Exception):
    """A failure that may pass."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.words)
        self.failure = failure


class Calls:
    """Calls of one model's endpoint.

    Attributes:
        host: of the endpoint.
    """

    def __init__(self, spec: ModelSpec, endpoint: ModelEndpoint, patience: float | None = None) -> None:
        """Args:
        patience: for how many seconds to repeat a call; 10 minutes unless set.
        """
        self._spec, self._endpoint = spec, endpoint
        self._patience = _PATIENCE if patience is None else patience
        self._client = endpoint.client()
        self.host = endpoint.host

    def close(self) -> None:
        self._client.close()

    def _post(self, path: str, body: Mapping[str, Any] | bytes | None = None) -> Any:
        return read_json(self._call(path, body).content)

    def _call(self, path: str, body: Mapping[str, Any] | bytes | None, headers: Mapping[str, str] | None = None) -> Any:
        """The answer to a POST, with its headers."""
        options = _options()
        # The client sends bytes as they are; older ones take them as a body, and newer ones by a name of their own.
        raw = isinstance(body, bytes) and "content" in inspect.signature(self._client.post).parameters
        if isinstance(body, bytes):
            options["headers"]["Content-Type"] = "application/json"
        options["headers"] |= headers or {}
        given: dict[str, Any] = {"content" if raw else "body": body}
        return self._client.post(path, cast_to=object, options=options, **given)

    def _read(self, path: str, parameters: Mapping[str, Any] | None = None) -> Any:
        return read_json(self._bytes(path, parameters))

    def _bytes(self, path: str, parameters: Mapping[str, Any] | None = None) -> bytes:
        answer: Any = self._client.get(path, cast_to=object, options=_options(parameters))
        return bytes(answer.content)

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
        if failure.kind == "absent" and thing and self._spec.model not in failure.words:
            return InputError(
                f"{self.host} knows no {thing} any more, or not with this key: {failure.words}; set the key back to "
                "that of the project that it belongs to, or start again with --fresh"
            )
        if failure.kind == "absent" and not thing:
            return InputError(
                f"{self.host} has no Batch API, or the endpoint is not its base URL, which mostly ends in /v1: "
                f"{failure.words}; fix the endpoint, or use the backend openai"
            )
        fatal = self._endpoint.fatal(failure, has_answered=False)
        return fatal or InputError(f"{self.host} refuses a call of the Batch API: {failure.words}")


def _options(params: Mapping[str, Any] | None = None) -> Any:
    return {"headers": dict(_RAW), "params": dict(params or {})}
