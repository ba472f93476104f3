"""OpenAI's chat-completions protocol, which vLLM, SGLang, llama.cpp and `transformers serve` speak too: the endpoint of
a model, the request for a prompt, and what an answer or an error means for its row.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from batchroute.endpoint import Endpoint
from batchroute.errors import InputError, StoppedError
from batchroute.generators.base import Response
from batchroute.generators.openai.counting import TokenCounter
from batchroute.generators.prompting import chat
from batchroute.generators.settings import ModelSpec
from batchroute.prompt import Prompt
from batchroute.redaction import without_quotes

_SEEDS = 1 << 31
_QUOTA = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
_FILTERED = {"content_filter", "content_policy_violation"}
_TOO_LONG = re.compile(
    r"context[ _-]?(length|window|size)|maximum (input|model|sequence) length|prompt is too long|too many tokens"
    r"|longer than the maximum|exceeds? the (available|maximum) context|max_model_len",
    re.IGNORECASE,
)
_TRANSIENT = {408, 409, 425, 429}


class ModelEndpoint(Endpoint):
    """The endpoint of a model, and what its errors mean for the row that was sent."""

    def __init__(self, spec: ModelSpec) -> None:
        """Raises:
        InputError: as `Endpoint`. A key is needed for OpenAI's own endpoint, and if the job file names its variable.
        """
        names_key = "api_key_env" in spec.model_fields_set
        super().__init__(
            f"the model '{spec.model}'",
            spec.endpoint,
            spec.api_key_env,
            needs_key=spec.endpoint is None or names_key,
            # The client does not retry: retries are counted and paced in `generator`.
            timeout=spec.timeout,
            hint="" if names_key else ", or name another as api_key_env",
        )
        self._spec = spec
        self.errors = self.openai.OpenAIError

    def failure(self, error: Exception) -> Failure:
        """The failure that an exception of the client stands for."""
        openai = self.openai
        if isinstance(error, openai.APIStatusError):
            body = error.body if isinstance(error.body, Mapping) else {}
            return self.status_failure(error.status_code, body, _message(body, error))
        if isinstance(error, openai.APITimeoutError):
            return Failure("transient", "api_error", f"no answer within {self._spec.timeout:g} s")
        words = error.__cause__ if isinstance(error, openai.APIConnectionError) and error.__cause__ else error
        return Failure("transient", "api_error", f"{type(words).__name__}: {self.redactor.line(words)}")

    def status_failure(self, status: int, body: Mapping[str, Any], message: str) -> Failure:
        """The failure that an HTTP status with an error's body stands for."""
        code = str(body.get("code") or body.get("type") or "")
        words = f"HTTP {status}: {self.redactor.line(message)}"
        if status == 429 and code in _QUOTA:
            return Failure("quota", "api_error", words)
        if status == 401:
            return Failure("key", "api_error", words)
        if status == 403:
            return Failure("forbidden", "bad_request", words)
        if status == 404:
            return Failure("absent", "bad_request", words)
        if status in _TRANSIENT or status >= 500:
            return Failure("refused" if status == 429 else "transient", "api_error", words)
        if code in _FILTERED or "content management policy" in message:
            return Failure("row", "refused", words)
        if status == 413 or code == "context_length_exceeded" or _TOO_LONG.search(message):
            return Failure("row", "too_long", words)
        return Failure("row", "bad_request", words)

    def fatal(self, failure: Failure, has_answered: bool) -> InputError | StoppedError | None:
        """The exception for a failure that every further request would meet; None if it concerns the row alone.

        Args:
            has_answered: whether any request was answered: then a 403 is a firewall's that forbids a single prompt.
        """
        spec = self._spec
        if failure.kind == "forbidden" and not has_answered:
            return InputError(f"{self.host} forbids the request for '{spec.model}': {failure.words}")
        if failure.kind == "key":
            return InputError(f"{self.host} {self._refusal_of_the_key()}: {failure.words}")
        if failure.kind == "absent":
            return InputError(
                f"{self.host} has no model '{spec.model}', or the endpoint is not its base URL, which mostly ends in "
                f"/v1: {failure.words}"
            )
        if failure.kind == "quota":
            return StoppedError(
                f"the account at {self.host} has no quota left; raise it and run again: {failure.words}"
            )
        return None

    def _refusal_of_the_key(self) -> str:
        if self.passwords:
            return "refuses the user and the password in the endpoint"
        variable = f"the environment variable {self._spec.api_key_env}"
        return f"refuses the key in {variable}" if self.key else f"wants a key, and {variable} is not set"


@dataclass(frozen=True, slots=True)
class Failure:
    """A request without an answer.

    Attributes:
        kind: `transient` and `refused` (429) may pass; `row` concerns the prompt alone; every request meets the others,
            but `forbidden` only if none was answered.
        error_type: the row's error type, if it is not retried.
        words: the row's error, without secrets.
    """

    kind: Literal["transient", "refused", "row", "key", "forbidden", "absent", "quota"]
    error_type: str
    words: str

    @property
    def may_pass(self) -> bool:
        return self.kind in ("transient", "refused")

    def without(self, prompt: object) -> Failure:
        """The failure without words of the server that quote the prompt."""
        return dataclasses.replace(self, words=without_quotes(self.words, prompt))

    def response(self, attempts: int) -> Response:
        return Response(error_type=self.error_type, error=self.words, attempts=attempts)


class ChatApi:
    """Makes requests from prompts and responses from answers, for one model."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._fixed = _fixed(spec)
        self._counter = TokenCounter(spec.tokenizer)

    def check(self) -> None:
        """Raises:
        InputError: the named tokenizer is not there.
        """
        self._counter.check()

    def request(self, prompt: Prompt, seed: int) -> dict[str, Any]:
        """The body of the request."""
        body = {**self._fixed, "messages": chat(self._spec, prompt)}
        if not self._spec.generation.greedy:
            # Some servers do not accept integers beyond 32 bits.
            body["seed"] = seed % _SEEDS
        return {**body, **self._spec.extra_body}

    def tokens(self, request: Mapping[str, Any]) -> int:
        """An estimate of the most tokens that the request takes, for limits of tokens per minute."""
        return self._counter.roughly(request["messages"]) + self._spec.generation.max_new_tokens

    def response(self, answer: Any, request: Mapping[str, Any], attempts: int) -> Response | Failure:
        """The response in the body of an answer; a failure if the body is no chat completion."""
        if not isinstance(answer, Mapping):
            return Failure("transient", "api_error", "the answer is not JSON")
        choices = answer.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
            return Failure("transient", "api_error", "the answer has no choices")
        message = choices[0].get("message")
        if not isinstance(message, Mapping):
            return Failure("transient", "api_error", "the answer has no message")
        text, reason = _text(message.get("content")), choices[0].get("finish_reason")
        usage = self._usage(answer.get("usage"), request, text)
        if message.get("refusal") or reason == "content_filter":
            why = "the model refused to answer" if message.get("refusal") else "a filter held the answer back"
            return Response(error_type="refused", error=why, attempts=attempts, **usage)
        cuts = [at for stop in self._spec.generation.stop if (at := text.find(stop)) >= 0]
        text = text[: min(cuts)] if cuts else text
        # A server that ignores stop strings goes on to the limit: what is cut at a stop string did not reach it.
        by_limit = reason == "length" and not cuts
        return Response(text, "length" if by_limit else "stop", attempts=attempts, **usage)

    def _usage(self, usage: Any, request: Mapping[str, Any], text: str) -> dict[str, Any]:
        if isinstance(usage, Mapping) and isinstance(usage.get("prompt_tokens"), int):
            read, written = usage.get("prompt_tokens_details") or {}, usage.get("completion_tokens_details") or {}
            return {
                "input_tokens": usage["prompt_tokens"],
                "output_tokens": usage.get("completion_tokens") or 0,
                "cached_tokens": read.get("cached_tokens") or 0,
                "reasoning_tokens": written.get("reasoning_tokens") or 0,
            }
        return {
            "input_tokens": self._counter.messages(request["messages"]),
            "output_tokens": self._counter.text(text),
            "estimated": True,
        }


def _fixed(spec: ModelSpec) -> dict[str, Any]:
    """The fields that are the same in all requests."""
    sampling = spec.generation
    length = spec.length_key or ("max_completion_tokens" if spec.endpoint is None else "max_tokens")
    body: dict[str, Any] = {"model": spec.model, length: sampling.max_new_tokens, "temperature": sampling.temperature}
    if sampling.greedy and "seed" in sampling.model_fields_set:
        body["seed"] = sampling.seed % _SEEDS
    if sampling.top_p < 1.0:
        body["top_p"] = sampling.top_p
    if sampling.top_k:
        body["top_k"] = sampling.top_k
    if sampling.stop:
        body["stop"] = sampling.stop
    if spec.response_format is not None:
        body["response_format"] = spec.response_format
    return body


def _text(content: Any) -> str:
    """The text of a message, which some servers send in parts; other parts, such as thoughts, are left out."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _message(body: Mapping[str, Any], error: Exception) -> str:
    message = body.get("message") or body.get("detail")
    if isinstance(message, list):
        # FastAPI's list of problems repeats the fields' values, which may be prompts: they are left out.
        fields = [one for one in message if isinstance(one, Mapping)]
        message = "; ".join(f"{one.get('msg')} at {one.get('loc')}" for one in fields)
    return str(message) if message else str(error)
