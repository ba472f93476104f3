"""Gemini's generateContent: the request for a prompt, and what an answer means for its row.

Made from the types of the package `google-genai` 3.6.1 (API version v1beta).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from batchroute.generators.openai.chat_api import ChatApi
from batchroute.generators.openai.failures import Failure, ModelEndpoint
from batchroute.generators.prompting import chat
from batchroute.generators.settings import ModelSpec, Sampling
from batchroute.prompt import Message, Prompt, content_text

_CONFIG = "generationConfig"
_SYSTEM = ("system", "developer")


class ContentApi(ChatApi):
    def __init__(self, spec: ModelSpec) -> None:
        self.model = spec.model.removeprefix("models/")
        self.path = f"/models/{self.model}:generateContent"
        super().__init__(spec, ModelEndpoint(spec, key_header="x-goog-api-key"))

    def said(self, request: Mapping[str, Any]) -> list[Message]:
        system = [request["systemInstruction"]] if "systemInstruction" in request else []
        return [
            {"role": content.get("role", "system"), "content": _joined(content.get("parts"))}
            for content in (*system, *request["contents"])
        ]

    # What the endpoint refuses are fields of the configuration.

    def request(self, prompt: Prompt, seed: int) -> dict[str, Any]:
        whole = self._whole(prompt, seed)
        return {**whole, _CONFIG: self._refusals.applied(whole[_CONFIG])}

    def adapted(self, failure: Failure, request: Mapping[str, Any]) -> dict[str, Any] | None:
        config = self._refusals.adapted(failure.without(self.said(request)), request[_CONFIG])
        return None if config is None else {**request, _CONFIG: config}

    def was_refused(self, failure: Failure, prompt: Prompt) -> bool:
        return self._refusals.tells(failure, self._whole(prompt, 0)[_CONFIG])

    def _fixed_fields(self, sampling: Sampling) -> dict[str, Any]:
        spec = self._spec
        config: dict[str, Any] = {"maxOutputTokens": sampling.max_new_tokens, "temperature": sampling.temperature}
        if sampling.greedy and "seed" in sampling.model_fields_set:
            config["seed"] = self._short(sampling.seed)
        config |= {"topP": sampling.top_p} if sampling.top_p < 1.0 else {}
        config |= {"topK": sampling.top_k} if sampling.top_k else {}
        config |= {"stopSequences": sampling.stop} if sampling.stop else {}
        if spec.response_format is not None:
            config["responseMimeType"] = "application/json"
            if spec.response_format["type"] == "json_schema":
                config["responseJsonSchema"] = spec.response_format["json_schema"]["schema"]
        return config

    def _whole(self, prompt: Prompt, seed: int) -> dict[str, Any]:
        messages = chat(self._spec, prompt)
        config = dict(self._fixed)
        if not self._spec.generation.greedy:
            config["seed"] = self._short(seed)
        system = [content_text(message) for message in messages if message["role"] in _SYSTEM]
        body: dict[str, Any] = {"contents": [_content(one) for one in messages if one["role"] not in _SYSTEM]}
        if system:
            body["systemInstruction"] = {"parts": [{"text": "\n\n".join(system)}]}
        given = self._spec.extra_body.get(_CONFIG)
        if isinstance(given, Mapping):
            config = {name: value for name, value in {**config, **given}.items() if value is not None}
        return {**self._with_extras(body), _CONFIG: config}

    def _completion(self, answer: Any) -> Any:
        if not isinstance(answer, Mapping) or not {"candidates", "promptFeedback"} & answer.keys():
            return answer
        candidates = answer.get("candidates")
        first = candidates[0] if isinstance(candidates, list) and candidates else None
        usage = _usage(answer.get("usageMetadata"))
        if not isinstance(first, Mapping):
            feedback = answer.get("promptFeedback")
            blocked = isinstance(feedback, Mapping) and feedback.get("blockReason")
            choice = {"message": {"content": ""}, "finish_reason": "content_filter"}
            return {"choices": [choice] if blocked else [], "usage": usage}
        content = first.get("content")
        parts = content.get("parts") if isinstance(content, Mapping) else None
        message: dict[str, Any] = {"content": _joined(parts), "reasoning": _joined(parts, thought=True)}
        calls = [_call(part["functionCall"]) for part in _parts(parts) if isinstance(part.get("functionCall"), Mapping)]
        if calls:
            message["tool_calls"] = calls
        return {"choices": [{"message": message, "finish_reason": first.get("finishReason")}], "usage": usage}


def _content(message: Message) -> dict[str, Any]:
    """A message of OpenAI's form as Gemini's content."""
    role, content = message["role"], message["content"]
    if role == "tool":
        response = {"name": message.get("name") or message.get("tool_call_id"), "response": {"result": content}}
        return {"role": "user", "parts": [{"functionResponse": response}]}
    texts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    parts: list[Mapping[str, Any]] = [_part(part) for part in texts if part.get("type") != "text" or part["text"]]
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        try:
            arguments = json.loads(function.get("arguments") or "{}")
        except ValueError:
            arguments = {"arguments": function.get("arguments")}
        parts.append({"functionCall": {"name": function.get("name"), "args": arguments}})
    return {"role": "model" if role == "assistant" else "user", "parts": parts}


def _part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    if part.get("type") == "text":
        return {"text": part["text"]}
    if part.get("type") != "image_url":
        return part
    url = part["image_url"]["url"] if isinstance(part["image_url"], Mapping) else str(part["image_url"])
    head, _, data = url.partition(";base64,")
    if head.startswith("data:") and data:
        return {"inlineData": {"mimeType": head[5:], "data": data}}
    return {"fileData": {"fileUri": url}}


def _parts(parts: Any) -> list[Mapping[str, Any]]:
    return [part for part in parts if isinstance(part, Mapping)] if isinstance(parts, list) else []


def _joined(parts: Any, thought: bool = False) -> str:
    """The text of all parts that are thoughts, or of those that are not."""
    texts = [part.get("text") for part in _parts(parts) if bool(part.get("thought")) == thought]
    return "".join(text for text in texts if isinstance(text, str))


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    arguments = json.dumps(call.get("args") or {}, ensure_ascii=False)
    return {"id": call.get("id"), "type": "function", "function": {"name": call.get("name"), "arguments": arguments}}


def _usage(usage: Any) -> dict[str, Any] | None:
    """Gemini's counts by OpenAI's names: thoughts come on top of the candidates' tokens, and are billed as those."""
    if not isinstance(usage, Mapping):
        return None
    read, tools, written, thought, cached = (
        number if isinstance(number := usage.get(name), int) else 0
        for name in (
            *("promptTokenCount", "toolUsePromptTokenCount", "candidatesTokenCount", "thoughtsTokenCount"),
            "cachedContentTokenCount",
        )
    )
    return {
        "prompt_tokens": read + tools,
        "completion_tokens": written + thought,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": thought},
    }
