"""Anthropic's Messages API: the request for a prompt, and what an answer means for its row.

`version` says what it was made from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from batchroute.generators.anthropic.version import HEADER, takes_sampling, version_of
from batchroute.generators.openai.chat_api import ChatApi
from batchroute.generators.openai.failures import ModelEndpoint
from batchroute.generators.prompting import chat
from batchroute.generators.settings import ModelSpec, Sampling
from batchroute.prompt import Message, Prompt, content_text

_SYSTEM = ("system", "developer")


class MessagesApi(ChatApi):
    path = "/messages"

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec, ModelEndpoint(spec, headers={HEADER: version_of(spec)}))
        if not takes_sampling(spec):
            self.notes.append(
                f"the model '{spec.model}' is sampled as its provider does: Anthropic's API takes no temperature, so "
                "that answers vary"
            )

    def said(self, request: Mapping[str, Any]) -> list[Message]:
        system = request.get("system")
        before: list[Message] = [{"role": "system", "content": system}] if system else []
        return [*before, *request["messages"]]

    def _completion(self, answer: Any) -> Any:
        content = answer.get("content") if isinstance(answer, Mapping) else None
        if not isinstance(content, list):
            return answer
        blocks = [block for block in content if isinstance(block, Mapping)]
        message: dict[str, Any] = {"content": _joined(blocks, "text"), "reasoning": _joined(blocks, "thinking")}
        calls = [_call(block) for block in blocks if block.get("type") == "tool_use"]
        if calls:
            message["tool_calls"] = calls
        # Without a reason it was broken off, whatever it holds.
        reason = answer.get("stop_reason") or "error"
        return {"choices": [{"message": message, "finish_reason": reason}], "usage": answer.get("usage")}

    def _fixed_fields(self, sampling: Sampling) -> dict[str, Any]:
        spec = self._spec
        body: dict[str, Any] = {"model": spec.model, "max_tokens": sampling.max_new_tokens}
        if takes_sampling(spec):
            body["temperature"] = sampling.temperature
            body |= {"top_p": sampling.top_p} if sampling.top_p < 1.0 else {}
            body |= {"top_k": sampling.top_k} if sampling.top_k else {}
        if sampling.stop:
            body["stop_sequences"] = sampling.stop
        if spec.response_format is not None:
            schema = spec.response_format["json_schema"]["schema"]
            body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
        return body

    def _whole(self, prompt: Prompt, seed: int) -> dict[str, Any]:
        messages = chat(self._spec, prompt)
        first = next((i for i, message in enumerate(messages) if message["role"] not in _SYSTEM), len(messages))
        body = {**self._fixed, "messages": _turns(messages[first:])}
        if first:
            body["system"] = "\n\n".join(map(content_text, messages[:first]))
        return self._with_extras(body)

    def _with_extras(self, body: dict[str, Any]) -> dict[str, Any]:
        # The effort of the job file stands beside the format of the answer.
        whole, given = super()._with_extras(body), self._spec.extra_body.get("output_config")
        if isinstance(given, Mapping) and "output_config" in body:
            whole["output_config"] = {**body["output_config"], **given}
        return whole


def _turns(messages: Sequence[Message]) -> list[Message]:
    """Messages of OpenAI's form in Anthropic's."""
    return [_turn(message) for message in messages]


def _turn(message: Message) -> Message:
    role, content = message["role"], message["content"]
    if role == "tool":
        result = {"type": "tool_result", "tool_use_id": message.get("tool_call_id"), "content": content_text(message)}
        return {"role": "user", "content": [result]}
    blocks = content if isinstance(content, str) else [_block(part) for part in content]
    if calls := message.get("tool_calls"):
        texts = [{"type": "text", "text": blocks}] if isinstance(blocks, str) and blocks else list(blocks)
        return {"role": role, "content": [*texts, *map(_tool_use, calls)]}
    return {"role": "system" if role in _SYSTEM else role, "content": blocks}


def _block(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """A part of a message; parts that are of another kind than text and images are passed on as they are."""
    if part.get("type") != "image_url":
        return part
    url = part["image_url"]["url"] if isinstance(part["image_url"], Mapping) else str(part["image_url"])
    head, _, data = url.partition(";base64,")
    if head.startswith("data:") and data:
        return {"type": "image", "source": {"type": "base64", "media_type": head[5:], "data": data}}
    return {"type": "image", "source": {"type": "url", "url": url}}


def _tool_use(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except ValueError:
        arguments = {"arguments": function.get("arguments")}
    return {"type": "tool_use", "id": call.get("id"), "name": function.get("name"), "input": arguments}


def _joined(blocks: Sequence[Mapping[str, Any]], kind: str) -> str:
    texts = (block.get(kind) for block in blocks if block.get("type") == kind)
    return "".join(text for text in texts if isinstance(text, str))


def _call(block: Mapping[str, Any]) -> dict[str, Any]:
    arguments = json.dumps(block.get("input"), ensure_ascii=False)
    return {"id": block.get("id"), "type": "function", "function": {"name": block.get("name"), "arguments": arguments}}
