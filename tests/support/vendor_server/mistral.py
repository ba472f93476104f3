"""Mistral's files, chat completions and batch jobs.

Made from the types of the package `mistralai` 3.7.0 and the page "Batch Inference" of docs.mistral.ai.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.support.openai_server.chat import last_user_message, parse
from tests.support.openai_server.files import Files
from tests.support.openai_server.settings import Settings
from tests.support.openai_server.wire import ApiError, Reply, Request, json_reply
from tests.support.vendor_server.store import FINAL, Row, Store
from tests.support.vendor_server.vendor import Answer, Vendor, closed

_FIELDS = {
    *("model", "messages", "temperature", "top_p", "top_k", "max_tokens", "min_tokens", "stream", "stop", "n"),
    *("random_seed", "metadata", "response_format", "tools", "tool_choice", "presence_penalty", "frequency_penalty"),
    *("repetition_penalty", "logprobs", "top_logprobs", "prompt_logprobs", "top_prompt_logprobs", "prediction"),
    *("parallel_tool_calls", "prompt_mode", "reasoning_effort", "guardrails", "safe_prompt"),
}
_JOB = {"input_files", "requests", "endpoint", "model", "agent_id", "metadata", "timeout_hours"}
_STATUSES = {
    "queued": "QUEUED", "running": "RUNNING", "completed": "SUCCESS", "failed": "FAILED",
    "expired": "TIMEOUT_EXCEEDED", "cancelled": "CANCELLED",
}  # fmt: skip
_QUERY = {"page", "page_size", "model", "agent_id", "metadata", "created_after", "created_by_me", "status", "order_by"}


class _Files(Files):
    fields = ("purpose", "expiry", "visibility")


class Mistral(Vendor):
    prefix = "/v1"

    def __init__(self, settings: Settings, store: Store, folder: Path) -> None:
        super().__init__(settings, store, folder)
        self._files = _Files(folder / "files")

    def authorize(self, request: Request) -> None:
        if self.settings.key is not None and request.headers.get("authorization") != f"Bearer {self.settings.key}":
            raise ApiError(401, "Unauthorized")

    def chat(self, request: Request, path: list[str]) -> Row | None:
        if (request.method, path) != ("POST", ["v1", "chat", "completions"]):
            return None
        body = parse(request.body)
        row = Row("", body, last_user_message(body), body.get("model", ""))
        self.check(row)
        return row

    def check(self, row: Row) -> None:
        closed(row.body, _FIELDS, ("messages",))
        if row.version not in self.settings.models:
            raise ApiError(400, f"Invalid model: {row.version}")
        for message in row.body["messages"]:
            if message["role"] not in ("system", "user", "assistant", "tool"):
                raise ApiError(422, f"role: {message['role']}")

    def limits(self, body: dict[str, Any]) -> tuple[int | None, list[str]]:
        return body.get("max_tokens"), body.get("stop") or []

    def completion(self, row: Row, answer: Answer) -> dict[str, Any]:
        content: Any = answer.text
        if answer.thought:
            thought = {"type": "thinking", "thinking": [{"type": "text", "text": answer.thought}]}
            content = [thought, {"type": "text", "text": answer.text}]
        # The interface has no word for a refusal: what a filter holds back ends so at other vendors.
        reason = "content_filter" if answer.reason == "refusal" else answer.reason
        return {
            "id": uuid.uuid4().hex, "object": "chat.completion", "model": row.version, "created": 0,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": reason}],
            "usage": {
                "prompt_tokens": answer.read, "completion_tokens": answer.written,
                "total_tokens": answer.read + answer.written, "num_cached_tokens": answer.cached,
            },
        }  # fmt: skip

    def operation(self, request: Request, path: list[str]) -> tuple[str, Callable[[], Reply]] | None:
        match request.method, *path:
            case "POST", "v1", "files":
                about = {"sample_type": "batch_request", "source": "upload"}
                return "upload", lambda: json_reply({**self._files.upload(request), **about})
            case "GET", "v1", "files", name, "content":
                return "download", lambda: self._content(name)
            case "POST", "v1", "batch", "jobs":
                return "create", lambda: json_reply(self._create(request))
            case "GET", "v1", "batch", "jobs":
                return "list", lambda: json_reply(self._page(request))
            case "GET", "v1", "batch", "jobs", name:
                return "poll", lambda: json_reply(_described(self.store.get(name, poll=True)))
            case "POST", "v1", "batch", "jobs", name, "cancel":
                return "cancel", lambda: json_reply(_described(self.store.cancel(name)))
        return None

    def _content(self, name: str) -> Reply:
        kind, _, batch = name.partition("-of-")
        content = self.store.lines(batch) if kind == "output" else self._files.content(name)
        return Reply(200, content, content_type="application/octet-stream")

    def _create(self, request: Request) -> dict[str, Any]:
        body = closed(parse(request.body), _JOB, ("endpoint",))
        if body["endpoint"] != "/v1/chat/completions" or len(body.get("input_files") or []) != 1:
            raise ApiError(422, "endpoint or input_files are not right")
        if not 1 <= body.get("timeout_hours", 24) <= 168:
            raise ApiError(422, "timeout_hours: Input should be less than or equal to 168")
        (file,) = body["input_files"]
        rows = []
        for line in self._files.content(file).splitlines():
            one = closed(json.loads(line), ("custom_id", "body"), ("custom_id", "body"))
            rows.append(Row(one["custom_id"], one["body"], last_user_message(one["body"]), body["model"]))
        return _described(self.store.create(rows, file=file, metadata=body.get("metadata"), model=body["model"]))

    def _page(self, request: Request) -> dict[str, Any]:
        query = closed(request.query, _QUERY, ())
        size, page = int(query.get("page_size", "100")), int(query.get("page", "0"))
        after = datetime.fromisoformat(query["created_after"]).timestamp() if "created_after" in query else 0.0
        found = [batch for batch in self.store.newest() if batch["created"] >= after]
        data = [_described(batch) for batch in found[page * size : (page + 1) * size]]
        return {"object": "list", "data": data, "total": len(found)}

    def error(self, error: ApiError) -> dict[str, Any]:
        return {"object": "error", "message": error.args[0], "type": "invalid_request", "code": str(error.status)}

    def result(self, row: Row, answer: Answer) -> dict[str, Any]:
        body = (
            self.completion(row, answer) if answer.status == 200 else self.error(ApiError(answer.status, answer.words))
        )
        response = {"status_code": answer.status, "body": body}
        return {"id": uuid.uuid4().hex, "custom_id": row.custom_id, "response": response, "error": None}

    def undone(self, row: Row, status: str) -> None:
        return None


def _described(batch: dict[str, Any]) -> dict[str, Any]:
    ended, answered = batch["status"] in FINAL, batch["answered"]
    status = _STATUSES[batch["status"]]
    if batch["cancelled_at"] and not ended:
        status = "CANCELLATION_REQUESTED"
    done = ended and batch["status"] != "failed"
    failed = batch["status"] == "failed"
    return {
        "id": batch["id"], "object": "batch", "input_files": [batch["file"]], "endpoint": "/v1/chat/completions",
        "metadata": batch["metadata"], "model": batch["model"], "agent_id": None, "status": status,
        "errors": [{"message": "the input file is not valid", "count": 1}] if failed else [],
        "created_at": int(batch["created"]), "started_at": int(batch["created"]),
        "completed_at": int(batch["ended"]) if ended else None,
        "total_requests": len(batch["rows"]), "completed_requests": answered, "succeeded_requests": answered,
        "failed_requests": 0, "output_file": f"output-of-{batch['id']}" if done else None, "error_file": None,
    }  # fmt: skip


VENDOR = Mistral
