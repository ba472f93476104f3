"""Gemini's generateContent, Files and Batch API, version v1beta.

Made from the package `google-genai` 3.6.1 and the pages "Batch API", "Files" and "Generating content" of ai.google.dev.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.openai_server.chat import parse
from tests.support.openai_server.settings import Settings
from tests.support.openai_server.wire import ApiError, Reply, Request, json_reply
from tests.support.vendor_server.store import FINAL, Row, Store
from tests.support.vendor_server.vendor import Answer, Vendor, closed, rfc3339

_FIELDS = {
    *("model", "contents", "tools", "toolConfig", "safetySettings", "systemInstruction", "generationConfig"),
    *("cachedContent", "labels", "serviceTier", "store"),
}
_CONFIG = {
    *("stopSequences", "responseMimeType", "responseSchema", "responseJsonSchema", "responseModalities", "seed"),
    *("candidateCount", "maxOutputTokens", "temperature", "topP", "topK", "presencePenalty", "frequencyPenalty"),
    *("responseLogprobs", "logprobs", "enableEnhancedCivicAnswers", "speechConfig", "thinkingConfig", "imageConfig"),
    "mediaResolution",
}
_PARTS = {"text", "thought", "inlineData", "fileData", "functionCall", "functionResponse", "thoughtSignature"}
_STATES = {
    "queued": "PENDING", "running": "RUNNING", "completed": "SUCCEEDED", "failed": "FAILED", "expired": "EXPIRED",
    "cancelled": "CANCELLED",
}  # fmt: skip
_STATUSES = {400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED"}
_GRPC = {400: 3, 403: 7, 404: 5, 429: 8, 500: 13, 503: 14}
_REASONS = {"stop": "STOP", "length": "MAX_TOKENS", "refusal": "PROHIBITED_CONTENT"}


class Gemini(Vendor):
    prefix = "/v1beta"

    def __init__(self, settings: Settings, store: Store, folder: Path) -> None:
        super().__init__(settings, store, folder)
        self._files = folder / "files"
        self._files.mkdir(exist_ok=True)

    def authorize(self, request: Request) -> None:
        if "upload_id" in request.query:
            # The address of an upload is its own permission.
            return
        given = request.headers.get("x-goog-api-key")
        if "authorization" in request.headers:
            raise ApiError(401, "Request had invalid authentication credentials. Expected OAuth 2 access token.")
        if given is None:
            raise ApiError(403, "Method doesn't allow unregistered callers.")
        if self.settings.key is not None and given != self.settings.key:
            detail = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
            raise ApiError(400, "API key not valid. Please pass a valid API key.", more={"details": [detail]})

    def chat(self, request: Request, path: list[str]) -> Row | None:
        if request.method != "POST" or not path[-1].endswith(":generateContent"):
            return None
        body = parse(request.body)
        row = Row("", body, _last_user_text(body), path[-1].removesuffix(":generateContent"))
        self.check(row)
        return row

    def check(self, row: Row) -> None:
        body = closed(row.body, _FIELDS, ("contents",))
        if row.version not in self.settings.models:
            raise ApiError(404, f"models/{row.version} is not found for API version v1beta")
        config = closed(body.get("generationConfig", {}), _CONFIG, (), "generationConfig.")
        if len(config.get("stopSequences", ())) > 5:
            raise ApiError(400, "generationConfig.stopSequences: at most 5")
        for content in (*body["contents"], body.get("systemInstruction", {"parts": []})):
            closed(content, ("role", "parts"), ("parts",), "contents.")
            if content.get("role", "user") not in ("user", "model"):
                raise ApiError(400, "Please use a valid role: user, model.")
            for part in content["parts"]:
                closed(part, _PARTS, (), "parts.")

    def limits(self, body: dict[str, Any]) -> tuple[int | None, list[str]]:
        config = body.get("generationConfig", {})
        return config.get("maxOutputTokens"), config.get("stopSequences", [])

    def completion(self, row: Row, answer: Answer) -> dict[str, Any]:
        parts: list[dict[str, Any]] = [{"text": answer.thought, "thought": True}] if answer.thought else []
        parts += [{"text": answer.text}] if answer.text else []
        candidate = {"content": {"role": "model", "parts": parts}, "finishReason": _REASONS[answer.reason], "index": 0}
        thought = self.settings.reasoning_tokens
        usage = {
            "promptTokenCount": answer.read, "candidatesTokenCount": answer.written - thought,
            "thoughtsTokenCount": thought, "cachedContentTokenCount": answer.cached,
            "totalTokenCount": answer.read + answer.written,
        }  # fmt: skip
        return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": row.version}

    def operation(self, request: Request, path: list[str]) -> tuple[str, Callable[[], Reply]] | None:
        match request.method, *path:
            case "POST", "upload", "v1beta", "files":
                return "upload", lambda: self._upload(request)
            case "GET", "v1beta", "files", name if name.endswith(":download"):
                return "download", lambda: self._download(request, name.removesuffix(":download"))
            case "POST", "v1beta", "models", name if name.endswith(":batchGenerateContent"):
                model = name.removesuffix(":batchGenerateContent")
                return "create", lambda: json_reply(self._create(request, model))
            case "GET", "v1beta", "batches":
                return "list", lambda: json_reply(self._page(request))
            case "GET", "v1beta", "batches", name:
                return "poll", lambda: json_reply(_described(self.store.get(name, poll=True)))
            case "POST", "v1beta", "batches", name if name.endswith(":cancel"):
                return "cancel", lambda: self._cancelled(request, name.removesuffix(":cancel"))
        return None

    def _upload(self, request: Request) -> Reply:
        headers = request.headers
        if headers.get("x-goog-upload-command") == "start":
            file = closed(parse(request.body), ("file",), ("file",))["file"]
            # JSON of protocol buffers knows fields by both spellings.
            file = {_camel(name): value for name, value in file.items()}
            closed(file, ("name", "displayName", "mimeType", "sizeBytes"), ())
            if headers.get("x-goog-upload-protocol") != "resumable" or not file.get("mimeType"):
                raise ApiError(400, "The upload is not resumable, or of no type.")
            size = headers["x-goog-upload-header-content-length"]
            url = f"https://elsewhere.invalid/upload/v1beta/files?upload_id={size}&upload_protocol=resumable"
            return Reply(200, b"{}", {"X-Goog-Upload-URL": url, "X-Goog-Upload-Status": "active"})
        if headers.get("x-goog-upload-command") != "upload, finalize" or headers.get("x-goog-upload-offset") != "0":
            raise ApiError(400, "Not a command of an upload.")
        if int(request.query["upload_id"]) != len(request.body):
            raise ApiError(400, "The file is not as long as was said.")
        name = uuid.uuid4().hex[:12]
        (self._files / name).write_bytes(request.body)
        file = {"name": f"files/{name}", "state": "ACTIVE", "sizeBytes": str(len(request.body))}
        return json_reply({"file": file}, headers={"X-Goog-Upload-Status": "final"})

    def _download(self, request: Request, name: str) -> Reply:
        if request.query != {"alt": "media"}:
            raise ApiError(400, "alt must be media")
        return Reply(200, self.store.lines(name.removeprefix("batch-")), content_type="application/octet-stream")

    def _create(self, request: Request, model: str) -> dict[str, Any]:
        body = closed(parse(request.body), ("batch",), ("batch",))
        batch = closed(
            body["batch"], ("displayName", "inputConfig", "priority", "model"), ("displayName", "inputConfig")
        )
        source = closed(batch["inputConfig"], ("fileName", "requests"), ("fileName",))
        if model not in self.settings.models:
            raise ApiError(404, f"models/{model} is not found for API version v1beta")
        file = self._files / source["fileName"].removeprefix("files/")
        if not file.exists():
            raise ApiError(404, "The file is not found.")
        rows = []
        for line in file.read_bytes().splitlines():
            one = closed(json.loads(line), ("key", "request"), ("key", "request"))
            rows.append(Row(one["key"], one["request"], _last_user_text(one["request"]), model))
        return _described(self.store.create(rows, name=batch["displayName"], model=model))

    def _page(self, request: Request) -> dict[str, Any]:
        query = closed(request.query, ("pageSize", "pageToken", "filter", "returnPartialSuccess"), ())
        size, first = int(query.get("pageSize", "50")), int(query.get("pageToken", "0"))
        batches = self.store.newest()
        more = {"nextPageToken": str(first + size)} if len(batches) > first + size else {}
        return {"operations": [_described(batch) for batch in batches[first : first + size]], **more}

    def _cancelled(self, request: Request, name: str) -> Reply:
        closed(parse(request.body), (), ())
        if self.store.get(name)["status"] in FINAL:
            raise ApiError(400, "The batch has ended.")
        self.store.cancel(name)
        return json_reply({})

    def error(self, error: ApiError) -> dict[str, Any]:
        details = {"details": error.body["error"]["details"]} if "details" in error.body["error"] else {}
        status = _STATUSES.get(error.status, "INTERNAL")
        return {"error": {"code": error.status, "message": error.args[0], "status": status, **details}}

    def result(self, row: Row, answer: Answer) -> dict[str, Any]:
        if answer.status == 200:
            return {"key": row.custom_id, "response": self.completion(row, answer)}
        return {"key": row.custom_id, "error": {"code": _GRPC.get(answer.status, 13), "message": answer.words}}

    def undone(self, row: Row, status: str) -> None:
        return None


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


def _described(batch: dict[str, Any]) -> dict[str, Any]:
    ended, total = batch["status"] in FINAL, len(batch["rows"])
    about: dict[str, Any] = {
        "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch",
        "model": f"models/{batch['model']}", "displayName": batch["name"],
        "state": f"BATCH_STATE_{_STATES[batch['status']]}", "name": f"batches/{batch['id']}",
        "createTime": rfc3339(batch["created"]), "updateTime": rfc3339(batch["since"]),
        "batchStats": {"requestCount": str(total), "successfulRequestCount": str(batch["answered"])},
    }  # fmt: skip
    if ended:
        about["endTime"] = rfc3339(batch["ended"])
    # One that expired or was cancelled has no responses.
    if batch["status"] == "completed":
        about["output"] = {"responsesFile": f"files/batch-{batch['id']}"}
    failed = {"error": {"code": 3, "message": "The input file is not valid."}} if batch["status"] == "failed" else {}
    return {"name": f"batches/{batch['id']}", "metadata": about, **({"done": True} if ended else {}), **failed}


def _last_user_text(body: dict[str, Any]) -> str:
    for content in reversed(body.get("contents") or []):
        if content.get("role", "user") == "user":
            return "".join(part.get("text", "") for part in content.get("parts", ()))
    return ""


VENDOR = Gemini
