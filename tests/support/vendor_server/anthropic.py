"""Anthropic's Messages and Message Batches API.

Made from the types of the package `anthropic` 2.14.0 (API version 2026-10-21), and from the pages "Message Batches" and
"Errors" of platform.claude.com. Of version 2023-06-01 it knows the sampling parameters.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import Any

from tests.support.openai_server.chat import parse
from tests.support.openai_server.wire import ApiError, Reply, Request, json_reply
from tests.support.vendor_server.store import FINAL, Row
from tests.support.vendor_server.vendor import Answer, Vendor, closed, rfc3339

_VERSIONS = ("2023-06-01", "2026-10-21")
_SAMPLING = {"temperature", "top_p", "top_k"}
_FIELDS = {
    *("model", "messages", "max_tokens", "system", "stop_sequences", "stream", "thinking", "tools", "tool_choice"),
    *(
        "output_config",
        "metadata",
        "service_tier",
        "cache_control",
        "container",
        "diagnostics",
        "inference_geo",
        "speed",
    ),
}
_BLOCKS = {"text": {"text"}, "image": {"source"}, "tool_use": {"id", "name", "input"}, "tool_result": {"tool_use_id"}}
_KINDS = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
    404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error", 504: "timeout_error",
    529: "overloaded_error",
}  # fmt: skip
_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_REASONS = {"stop": "end_turn", "length": "max_tokens", "refusal": "refusal"}


class Anthropic(Vendor):
    prefix = "/v1"

    def authorize(self, request: Request) -> None:
        key = self.settings.key
        given = request.headers.get("x-api-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
        if key is not None and given != key:
            raise ApiError(401, "invalid x-api-key")
        if request.headers.get("anthropic-version") not in _VERSIONS:
            raise ApiError(400, "anthropic-version: header is required and must be a valid version")

    def chat(self, request: Request, path: list[str]) -> Row | None:
        if (request.method, path) != ("POST", ["v1", "messages"]):
            return None
        body = parse(request.body)
        row = Row("", body, _last_user_text(body), request.headers["anthropic-version"])
        self.check(row)
        return row

    def check(self, row: Row) -> None:
        body, where = row.body, ""
        sampling = _SAMPLING if row.version < "2026-10-21" else set()
        closed(body, _FIELDS | sampling, ("model", "messages", "max_tokens"), where)
        if body["model"] not in self.settings.models:
            raise ApiError(404, f"model: {body['model']}")
        if not isinstance(body["max_tokens"], int) or body["max_tokens"] < 1:
            raise ApiError(400, f"{where}max_tokens: Input should be greater than or equal to 1")
        if not isinstance(body.get("system", ""), str | list) or not body["messages"]:
            raise ApiError(400, f"{where}messages: at least one message is required")
        for number, message in enumerate(body["messages"]):
            _check_message(closed(message, ("role", "content"), ("role", "content"), f"{where}messages.{number}."))
        if "output_config" in body:
            closed(body["output_config"], ("effort", "format"), (), f"{where}output_config.")
            if "format" in body["output_config"]:
                closed(body["output_config"]["format"], ("type", "schema"), ("type", "schema"), f"{where}format.")

    def limits(self, body: dict[str, Any]) -> tuple[int | None, list[str]]:
        return body["max_tokens"], body.get("stop_sequences") or []

    def completion(self, row: Row, answer: Answer) -> dict[str, Any]:
        content: list[dict[str, Any]] = [{"type": "text", "text": answer.text}] if answer.text else []
        if answer.thought:
            content.insert(0, {"type": "thinking", "thinking": answer.thought, "signature": "c2ln"})
        return {
            "id": f"msg_{uuid.uuid4().hex}", "type": "message", "role": "assistant", "model": row.body["model"],
            "content": content, "stop_reason": _REASONS[answer.reason], "stop_sequence": None,
            "usage": {
                "input_tokens": answer.read - answer.cached, "cache_read_input_tokens": answer.cached,
                "cache_creation_input_tokens": 0, "output_tokens": answer.written,
                "output_tokens_details": {"thinking_tokens": self.settings.reasoning_tokens},
            },
        }  # fmt: skip

    def operation(self, request: Request, path: list[str]) -> tuple[str, Callable[[], Reply]] | None:
        match request.method, *path:
            case "POST", "v1", "messages", "batches":
                return "create", lambda: json_reply(self._create(request))
            case "GET", "v1", "messages", "batches":
                return "list", lambda: json_reply(self._page(request))
            case "GET", "v1", "messages", "batches", name:
                return "poll", lambda: json_reply(self._described(self.store.get(_id(name), poll=True), request))
            case "GET", "v1", "messages", "batches", name, "results":
                return "download", lambda: self._results(_id(name))
            case "POST", "v1", "messages", "batches", name, "cancel":
                return "cancel", lambda: json_reply(self._cancelled(_id(name), request))
        return None

    def _create(self, request: Request) -> dict[str, Any]:
        if len(request.body) > 256_000_000:
            raise ApiError(413, "Request exceeds the maximum size")
        body = closed(parse(request.body), ("requests",), ("requests",))
        if not 1 <= len(body["requests"]) <= 100_000:
            raise ApiError(400, "requests: List should have between 1 and 100000 items")
        rows, names = [], set[str]()
        for number, one in enumerate(body["requests"]):
            closed(one, ("custom_id", "params"), ("custom_id", "params"), f"requests.{number}.")
            name = one["custom_id"]
            if not _CUSTOM_ID.fullmatch(name):
                raise ApiError(
                    400, f"requests.{number}.custom_id: String should match pattern '^[a-zA-Z0-9_-]{{1,64}}$'"
                )
            if name in names:
                raise ApiError(400, f"requests.{number}.custom_id: Must be unique")
            names.add(name)
            # What is in a request is checked when it is processed.
            params = one["params"]
            rows.append(Row(name, params, _last_user_text(params), request.headers["anthropic-version"]))
        return self._described(self.store.create(rows), request)

    def _page(self, request: Request) -> dict[str, Any]:
        query = closed(request.query, ("limit", "after_id", "before_id"), ())
        limit = int(query.get("limit", "20"))
        if not 1 <= limit <= 1000:
            raise ApiError(400, "limit: Input should be less than or equal to 1000")
        # Whether an unknown batch has ended is asked by the list alone.
        batches = self.store.newest(poll=True)
        if "after_id" in query:
            names = [batch["id"] for batch in batches]
            batches = batches[names.index(_id(query["after_id"])) + 1 :]
        data = [self._described(batch, request) for batch in batches[:limit]]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
        return {"data": data, "has_more": len(batches) > limit, **ends}

    def _described(self, batch: dict[str, Any], request: Request) -> dict[str, Any]:
        ended, name = batch["status"] in FINAL, f"msgbatch_{batch['id']}"
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        if ended:
            kinds = {"cancelled": "canceled"}
            counts |= {kinds.get(kind, kind): number for kind, number in batch["counts"].items()}
        else:
            counts["processing"] = len(batch["rows"])
        status = "ended" if ended else "canceling" if batch["cancelled_at"] else "in_progress"
        results = f"http://{request.headers['host']}/v1/messages/batches/{name}/results" if ended else None
        return {
            "id": name, "type": "message_batch", "processing_status": status, "request_counts": counts,
            "created_at": rfc3339(batch["created"]), "expires_at": rfc3339(batch["created"] + 86_400),
            "ended_at": rfc3339(batch["ended"]), "cancel_initiated_at": rfc3339(batch["cancelled_at"]),
            "archived_at": None, "results_url": results,
        }  # fmt: skip

    def _results(self, name: str) -> Reply:
        if self.store.get(name)["status"] not in FINAL:
            raise ApiError(404, "The results are not available yet")
        return Reply(200, self.store.lines(name), content_type="application/x-jsonl")

    def _cancelled(self, name: str, request: Request) -> dict[str, Any]:
        if self.store.get(name)["status"] in FINAL:
            raise ApiError(400, "Batch cannot be canceled: its processing has ended")
        return self._described(self.store.cancel(name), request)

    def error(self, error: ApiError) -> dict[str, Any]:
        kind = _KINDS.get(error.status, "api_error")
        return {
            "type": "error",
            "error": {"type": kind, "message": error.args[0]},
            "request_id": f"req_{uuid.uuid4().hex}",
        }

    def result(self, row: Row, answer: Answer) -> dict[str, Any]:
        if answer.status == 200:
            found: dict[str, Any] = {"type": "succeeded", "message": self.completion(row, answer)}
        else:
            found = {"type": "errored", "error": self.error(ApiError(answer.status, answer.words))}
        return {"custom_id": row.custom_id, "result": found}

    def undone(self, row: Row, status: str) -> dict[str, Any]:
        return {"custom_id": row.custom_id, "result": {"type": {"cancelled": "canceled"}.get(status, status)}}


def _id(name: str) -> str:
    return name.removeprefix("msgbatch_")


def _check_message(message: dict[str, Any]) -> None:
    if message["role"] not in ("user", "assistant", "system"):
        raise ApiError(400, f'messages: Unexpected role "{message["role"]}"')
    for block in message["content"] if isinstance(message["content"], list) else []:
        kind = block.get("type")
        if kind not in _BLOCKS:
            raise ApiError(400, f"messages: Input tag '{kind}' does not match any of the expected tags")
        closed(
            block,
            _BLOCKS[kind] | {"type", "content", "cache_control", "is_error"},
            _BLOCKS[kind] | {"type"},
            "content.",
        )


def _last_user_text(body: dict[str, Any]) -> str:
    messages = body.get("messages")
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, dict) and message.get("role") == "user":
            content = message.get("content")
            return content if isinstance(content, str) else "".join(block.get("text", "") for block in content or ())
    return ""


VENDOR = Anthropic
