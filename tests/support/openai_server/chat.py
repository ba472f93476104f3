"""Chat completions: what a body must look like, and what is answered."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

from openai.types.chat import ChatCompletion
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from pydantic import TypeAdapter
from pydantic_core import SchemaValidator, ValidationError

from tests.support.openai_server.faults import Fault
from tests.support.openai_server.settings import Settings
from tests.support.openai_server.wire import ApiError

_RANGES = {"temperature": (0, 2), "top_p": (0, 1), "presence_penalty": (-2, 2), "frequency_penalty": (-2, 2)}
_RANGES |= {"n": (1, 128), "max_tokens": (1, 1 << 31), "max_completion_tokens": (1, 1 << 31)}


def closed_validator(type_: Any) -> SchemaValidator:
    """Of one of the official client's types, but with no field beside its own, at any depth."""
    return SchemaValidator(_closed(TypeAdapter(type_).core_schema))


def _closed(node: Any) -> Any:
    if isinstance(node, list | tuple):
        return type(node)(_closed(one) for one in node)
    if not isinstance(node, dict):
        return node
    found = {name: _closed(value) for name, value in node.items()}
    if found.get("type") == "typed-dict":
        found["extra_behavior"] = "forbid"
    if found.get("type") == "generator":
        # Its items would be checked by whoever iterates.
        found["type"] = "list"
    return found


def validate(validator: SchemaValidator, body: Any) -> None:
    try:
        validator.validate_python(body, strict=True)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        worst = min(problems, key=lambda one: (len(one["loc"]) > 1, one["type"] != "extra_forbidden"))
        raise _complaint(worst) from None


def _complaint(problem: Any) -> ApiError:
    name = "".join(f"[{one}]" if isinstance(one, int) else str(one) for one in problem["loc"][:2])
    if problem["type"] == "extra_forbidden":
        return ApiError(400, f"Unknown parameter: '{name}'.", "unknown_parameter", name)
    if problem["type"] == "missing":
        return ApiError(400, f"Missing required parameter: '{name}'.", "missing_required_parameter", name)
    code = "invalid_type" if problem["type"].endswith("_type") else "invalid_value"
    return ApiError(400, f"Invalid value for '{name}': {problem['msg']}.", code, name)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def parse(raw: bytes) -> dict[str, Any]:
    try:
        body = _DECODER.decode(raw.decode())
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise ApiError(400, "We could not parse the JSON body of your request.")
    return body


def last_user_message(body: Any) -> str:
    messages = body.get("messages") if isinstance(body, dict) else None
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, dict) and message.get("role") == "user":
            return _text(message.get("content"))
    return ""


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


class Chat:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._validator = closed_validator(CompletionCreateParamsNonStreaming)

    def check(self, body: dict[str, Any]) -> None:
        settings = self._settings
        if not settings.strict:
            return
        validate(self._validator, {name: value for name, value in body.items() if name not in settings.extra_fields})
        if body["model"] not in settings.models:
            text = f"The model `{body['model']}` does not exist or you do not have access to it."
            raise ApiError(404, text, "model_not_found")
        self._check_values(body)

    def _check_values(self, body: dict[str, Any]) -> None:
        if not body["messages"]:
            raise ApiError(400, "Invalid 'messages': empty array.", "empty_array", "messages")
        for name in _RANGES.keys() & body.keys():
            low, high = _RANGES[name]
            if body[name] is not None and not low <= body[name] <= high:
                text = f"Invalid '{name}': expected a value from {low} to {high}, but got {body[name]} instead."
                raise ApiError(400, text, "value_out_of_range", name)
        if body.get("max_tokens") is not None and body.get("max_completion_tokens") is not None:
            text = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
            raise ApiError(400, text, "invalid_parameter_combination", "max_tokens")
        if isinstance(body.get("stop"), list) and len(body["stop"]) > 4:
            raise ApiError(400, "Invalid 'stop': array too long, at most 4.", "array_above_max_length", "stop")
        if body.get("logprobs") and self._settings.logprobs == "refused":
            raise ApiError(
                400, "This model does not support the 'logprobs' parameter.", "unsupported_value", "logprobs"
            )
        if (body.get("n") or 1) > 1 and self._settings.n == "refused":
            raise ApiError(400, "Invalid 'n': only one completion is supported.", "unsupported_value", "n")
        words, limit = _prompt_words(body), self._settings.context_length
        if limit is not None and words > limit:
            text = f"This model's maximum context length is {limit} tokens. However, your messages resulted in {words}."
            raise ApiError(400, text, "context_length_exceeded", "messages")

    def answer(self, body: dict[str, Any], fault: Fault) -> dict[str, Any]:
        if self._settings.response is not None:
            return self._settings.response
        text, reason = self._text(body)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if fault.kind in ("null_content", "refusal"):
            message["content"] = None
        if fault.kind == "refusal":
            message["refusal"] = "I'm sorry, I cannot assist with that request."
        if fault.kind == "content_filter":
            message["content"], reason = "", "content_filter"
        given = bool(body.get("logprobs")) and self._settings.logprobs == "given"
        logprobs = logprobs_of(message["content"]) if given and message["content"] is not None else None
        choices = [
            {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}
            for index in range((body.get("n") or 1) if self._settings.n == "given" else 1)
        ]
        found: dict[str, Any] = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": "another-model" if fault.kind == "wrong_model" else body["model"],
            "choices": [] if fault.kind == "empty_choices" else choices,
        }
        if fault.kind != "no_usage":
            found["usage"] = self._usage(body, message["content"] or message["refusal"] or "", len(choices))
        if self._settings.strict:
            ChatCompletion.model_validate(found, strict=True)
        return found

    def _text(self, body: dict[str, Any]) -> tuple[str, str]:
        """The answer as far as the body allows it, and why it ends."""
        hook = self._settings.answer
        text = hook(body) if hook is not None else None
        if text is None:
            text = f"echo: {last_user_message(body)}"
        stops = body.get("stop") or []
        for stop in [stops] if isinstance(stops, str) else stops:
            text = text.partition(stop)[0]
        limit, words = body.get("max_completion_tokens") or body.get("max_tokens"), text.split()
        # Thinking is paid from the same purse.
        left = None if limit is None else max(0, limit - self._settings.reasoning_tokens)
        if left is None or len(words) <= left:
            return text, "stop"
        return " ".join(words[:left]), "length"

    def _usage(self, body: dict[str, Any], text: str, choices: int) -> dict[str, Any]:
        thought = self._settings.reasoning_tokens
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        thought = thought if limit is None else min(thought, limit)
        prompt, completion = _prompt_words(body), (len(text.split()) + thought) * choices
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": min(self._settings.cached_tokens, prompt)},
            "completion_tokens_details": {"reasoning_tokens": thought * choices},
        }


def logprobs_of(text: str) -> dict[str, Any]:
    """One token for each character, whose log-probability is minus a hundredth of its code point."""
    tokens = [
        {"token": one, "logprob": -ord(one) / 100, "bytes": list(one.encode()), "top_logprobs": []} for one in text
    ]
    return {"content": tokens, "refusal": None}


def _prompt_words(body: dict[str, Any]) -> int:
    return sum(len(_text(message.get("content")).split()) for message in body["messages"])
