"""Failures: what the errors of a model's endpoint mean for the row that was sent and for the run."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from batchroute.endpoint import Endpoint, is_out_of_money, valid_text
from batchroute.errors import InputError, StoppedError
from batchroute.generators.base import Response
from batchroute.generators.openai.waiting import retry_after
from batchroute.generators.settings import ModelSpec
from batchroute.key import Key
from batchroute.redaction import without_quotes
from batchroute.words import duration

MOST_RETRY_AFTER = 600.0
"""Seconds. If a server asks to wait longer, the run stops and can be resumed."""

_FILTERED = {"content_filter", "content_policy_violation", "datainspectionfailed", "data_inspection_failed"}
_FILTERED_WORDS = re.compile(
    r"content management policy|content[ _]polic|usage (policies|guidelines)|content exists risk|moderation"
    r"|input was flagged|inappropriate content|sensitive content|sensitivecontent|prohibited_content|safety system"
    r"|blocked by .{0,30}(safety|filter|guardrail)",
    re.IGNORECASE,
)
# Of OpenAI, Azure, vLLM, SGLang, TGI, llama.cpp, Ollama, LM Studio, Gemini, Vertex, Anthropic, Bedrock, xAI, Mistral,
# Cohere, Groq, Together, Fireworks, Moonshot, MiniMax, DashScope and Zhipu.
_TOO_LONG = re.compile(
    r"context[ _-]?(length|window|size|limit|overflow)|context the overflows|max_model_len"
    r"|max(imum)?[ _](input|model|sequence|prompt|context)[ _](length|len|size|tokens)"
    r"|(prompt|inputs?|messages?|string|request|query|payload|body|entity)\b[^.]{0,40}\btoo (long|large|big)\b"
    r"|too (long|large) for (the )?(requested )?model|too many (input |prompt )?tokens"
    r"|(reduce|shorten) (the |your )?(length|prompt|input|messages)"
    r"|(prompt|input|request|messages?)\b[^.]{0,60}\b(exceed\w*|longer than|greater than|larger than)\b[^.]{0,60}"
    r"(tokens?|length|limit|maximum|size)\b"
    r"|must have less than \d+ tokens|tokens`? ?\+.{0,40}must be ?<=?|range of input length|only supports up to \d+"
    r"|exceed(s|ed)?( the)? (model )?(token limit|limit of \d+)|超长|超过.{0,20}(长度|上下文)",
    re.IGNORECASE,
)
# Waiting does not help a request that alone takes more than a minute allows.
_TOO_LARGE_AT_ANY_TIME = re.compile(r"request too large|must be reduced in order to run", re.IGNORECASE)
_TRANSIENT = {408, 409, 424, 425, 429, 498, 499}

Kind = Literal["transient", "refused", "row", "key", "forbidden", "absent", "quota"]


@dataclass(frozen=True, slots=True)
class Failure:
    """A request without an answer.

    Attributes:
        kind: `transient` and `refused` (429) may pass; `row` concerns the prompt alone; every request meets the others,
            but `forbidden` and `absent` only if none was answered.
        error_type: the row's error type, if it is not retried.
        words: the row's error, without secrets.
        wait: the seconds that the server asks to wait; None if it does not say.
    """

    kind: Kind
    error_type: str
    words: str
    wait: float | None = None

    @property
    def may_pass(self) -> bool:
        return self.kind in ("transient", "refused")

    def without(self, prompt: object) -> Failure:
        """The failure without words of the server that quote the prompt."""
        words = without_quotes(self.words, prompt)
        # A quoted prompt may speak of balances and limits; HTTP 402 needs no words.
        is_quoted = self.kind == "quota" and words != self.words and " 402" not in self.words
        return (
            dataclasses.replace(self, words=words, kind="row") if is_quoted else dataclasses.replace(self, words=words)
        )

    def response(self, attempts: int) -> Response:
        return Response(error_type=self.error_type, error=self.words, attempts=attempts)


class ModelEndpoint(Endpoint):
    """The endpoint of a model, and what its errors mean for the row that was sent."""

    def __init__(
        self, spec: ModelSpec, headers: Mapping[str, str] | None = None, key_header: str | None = None
    ) -> None:
        """
        Args:
            headers: of every request; those of the job file count more.
            key_header: as of `Endpoint`.

        Raises:
            InputError: as `Endpoint`. A key is needed for the provider's own endpoint, and if the job file names its
                variable.
        """
        names_key = not spec.model_fields_set.isdisjoint(("api_key_env", "api_key_file", "api_key_command"))
        super().__init__(
            f"the model '{spec.model}'",
            spec.url,
            Key(spec.key_variable, spec.api_key_file, spec.api_key_command),
            needs_key=spec.endpoint is None or names_key,
            # The client does not retry: retries are counted and paced in `generator`.
            timeout=spec.timeout,
            hint="" if names_key else ", or name another as api_key_env",
            headers=_merged(headers or {}, spec.headers or {}),
            query=spec.query,
            key_header=key_header,
            organization=spec.organization,
            project=spec.project,
        )
        self._spec = spec

    @property
    def errors(self) -> type[Exception]:
        """What the client's errors are."""
        errors: type[Exception] = self.openai.OpenAIError
        return errors

    def failure(self, error: Exception) -> Failure:
        """The failure that an exception of the client stands for."""
        openai = self.openai
        if isinstance(error, openai.APIStatusError):
            body = error_body(error.body)
            failure = self.status_failure(error.status_code, body, message_of(body) or str(error))
            return dataclasses.replace(failure, wait=retry_after(getattr(error.response, "headers", {}), body))
        words = error.__cause__ if isinstance(error, openai.APIConnectionError) and error.__cause__ else error
        if isinstance(error, openai.APITimeoutError) or isinstance(words, TimeoutError):
            return Failure("transient", "api_error", f"no answer within {self._spec.timeout:g} s")
        return Failure("transient", "api_error", f"{type(words).__name__}: {self._line(words)}")

    def is_refusal(self, error: Exception) -> bool:
        """Whether an exception of the client says that the endpoint did nothing of what it was asked for."""
        if type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout"):
            return True
        return (
            isinstance(error, self.openai.APIStatusError)
            and 400 <= error.status_code < 500
            and (error.status_code not in (408, 409))
        )

    def status_failure(self, status: int, body: Mapping[str, Any], message: str, prefix: str = "HTTP ") -> Failure:
        """The failure that a status with an error's body stands for.

        Args:
            prefix: before the status in the row's error.
        """
        code, words = code_of(body), f"{prefix}{status}: {self._line(message)}"
        if is_out_of_money(status, code, message):
            return Failure("quota", "api_error", words)
        if status == 401 or _is_about_the_key(body):
            return Failure("key", "api_error", words)
        if status == 429 and _TOO_LARGE_AT_ANY_TIME.search(message):
            return Failure("row", "too_long", words)
        if status in _TRANSIENT:
            return Failure("refused" if status == 429 else "transient", "api_error", words)
        if code.lower() in _FILTERED or (status < 500 and _FILTERED_WORDS.search(message)):
            return Failure("row", "refused", words)
        if status == 413 or "context_length" in code or (status != 404 and _TOO_LONG.search(message)):
            return Failure("row", "too_long", words)
        if status >= 500:
            return Failure("transient", "api_error", words)
        if status == 403:
            return Failure("forbidden", "bad_request", words)
        return Failure("absent" if status == 404 else "row", "bad_request", words)

    def error_inside(self, error: Any) -> Failure:
        """The failure that an error in the body of an answer with HTTP 200 stands for."""
        body = error_body({"error": error})
        message, code = message_of(body) or "the endpoint gives no reason", code_of(body)
        for value in map(str, (code, body.get("status"), body.get("status_code"), body.get("http_code"))):
            if len(value) == 3 and value.isdecimal() and value[0] in "45":
                failure = self.status_failure(int(value), body, message, "an error inside an answer, ")
                return dataclasses.replace(failure, wait=retry_after({}, body))
        words = f"an error inside an answer{f', {code}' if code else ''}: {self._line(message)}"
        like = self.status_failure(400, body, message)
        kind = like.kind if like.error_type != "bad_request" else "transient"
        error_type = like.error_type if kind != "transient" else "api_error"
        return Failure(kind, error_type, words, retry_after({}, body))

    def fatal(self, failure: Failure, has_answered: bool) -> InputError | StoppedError | None:
        """The exception for a failure that every further request would meet; None if it concerns the row alone.

        Args:
            has_answered: whether any request was answered: then a 403 is a firewall's that forbids a single prompt, and
                a 404 is about something in it.
        """
        spec = self._spec
        if failure.kind == "forbidden" and not has_answered:
            return InputError(f"{self.host} forbids the request for '{spec.model}': {failure.words}")
        if failure.kind == "key":
            return InputError(f"{self.host} {self._refusal_of_the_key()}: {failure.words}")
        if failure.kind == "absent" and not has_answered:
            return InputError(
                f"{self.host} has no model '{spec.model}', or the endpoint is not its base URL, which mostly ends in "
                f"/v1: {failure.words}"
            )
        if failure.kind == "quota":
            return StoppedError(
                f"the account at {self.host} has no quota left; raise it and run again: {failure.words}"
            )
        if failure.may_pass and failure.wait is not None and failure.wait > MOST_RETRY_AFTER:
            return StoppedError(
                f"{self.host} asks to wait {duration(failure.wait)}; run again after that: {failure.words}"
            )
        return None

    def _line(self, error: BaseException | str) -> str:
        return self.redactor.line(valid_text(str(error)))

    def _refusal_of_the_key(self) -> str:
        if self.passwords:
            return "refuses the user and the password in the endpoint"
        key = self.key
        return f"refuses the key in {key.source}" if key.value else f"wants a key, and {key.source} {key.lack}"


def _is_about_the_key(body: Mapping[str, Any]) -> bool:
    """Whether an error's details name a wrong key, as Google's do, whose status is 400."""
    details = body.get("details")
    found = [one for one in details if isinstance(one, Mapping)] if isinstance(details, list) else []
    return any(one.get("reason") in ("API_KEY_INVALID", "API_KEY_EXPIRED") for one in found)


def _merged(ours: Mapping[str, str], given: Mapping[str, str | None]) -> dict[str, str | None]:
    """Both headers, whose names know no case."""
    names = {name.lower() for name in given}
    return {**{name: value for name, value in ours.items() if name.lower() not in names}, **given}


def error_body(body: Any) -> Mapping[str, Any]:
    """The mapping that describes the error, wherever a server puts it: under `error`, in a list, or as a bare text."""
    for _ in range(3):
        if isinstance(body, list) and body:
            body = body[0]
        if isinstance(body, Mapping) and body.get("error"):
            body = body["error"]
        elif isinstance(body, Mapping) and isinstance(body.get("base_resp"), Mapping):
            body = body["base_resp"]
    if isinstance(body, str):
        return {"message": body}
    return body if isinstance(body, Mapping) else {}


def code_of(body: Mapping[str, Any]) -> str:
    found = (body.get(name) for name in ("code", "type", "status_code"))
    return next((str(one) for one in found if isinstance(one, (str, int)) and one), "")


def message_of(body: Mapping[str, Any]) -> str:
    """The words of an error."""
    found = (body.get(name) for name in ("message", "detail", "status_msg", "error_msg", "msg", "error"))
    message = next((one for one in found if one), "")
    if isinstance(message, list):
        # FastAPI's list of problems repeats the fields' values, which may be prompts: they are left out.
        fields = [one for one in message if isinstance(one, Mapping)]
        message = "; ".join(f"{one.get('msg')} at {one.get('loc')}" for one in fields)
    if isinstance(message, Mapping):
        message = message.get("message") or message
    return str(message)
