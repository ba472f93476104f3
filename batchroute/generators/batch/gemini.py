"""Gemini's Batch API: requests in a file of its Files API, and a file with the responses.

Made from the types of the package `google-genai` 3.6.1 and the pages "Batch API" of ai.google.dev, whose paths are of
version v1beta; the end of `endpoint` names another version. A file holds up to 2 GB and stays for 48 hours. A batch is
meant to end within 24 hours; after 48 it expires, without any responses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from batchroute.endpoint import read_json, valid_text
from batchroute.generators.batch.api import SKEW_SECONDS, BatchApi, entries_of
from batchroute.generators.batch.gemini_content import ContentApi
from batchroute.generators.batch.states import ProviderBatch, status_of
from batchroute.generators.settings import ModelSpec
from batchroute.prompt import Prompt

_TYPE = "application/jsonl"
_NAME = "batchroute "
# The HTTP status of a code of gRPC, which lines of a file have.
_STATUSES = {
    1: 499, 2: 500, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 12: 501, 13: 500,
    14: 503, 15: 500, 16: 401,
}  # fmt: skip


class GeminiBatches(BatchApi):
    """A batch is known by its display name, which holds the name of the file that it was made of."""

    def __init__(self, spec: ModelSpec, patience: float | None = None) -> None:
        self._content = ContentApi(spec)
        super().__init__(spec, self._content.endpoint, self._content, patience)

    def line(self, custom_id: str, prompt: Prompt, seed: int) -> bytes:
        request = {"key": custom_id, "request": self._protocol.request(prompt, seed)}
        return json.dumps(request, ensure_ascii=False).encode() + b"\n"

    def prepare(self, name: str, data: bytes) -> str:
        """Upload the lines; returns the name of the file."""

        def attempt() -> str:
            start = {
                "X-Goog-Upload-Protocol": "resumable",
                "X-Goog-Upload-Command": "start",
                "X-Goog-Upload-Header-Content-Length": str(len(data)),
                "X-Goog-Upload-Header-Content-Type": _TYPE,
            }
            begun = self._call(self._uploads(), {"file": {"displayName": name, "mimeType": _TYPE}}, start)
            # On the same host, whichever the answer names: the key goes there.
            place = urlsplit(begun.headers.get("x-goog-upload-url") or "")
            url = urlunsplit((*urlsplit(self._endpoint.url)[:2], place.path, place.query, ""))
            finish = {"X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "0", "Content-Type": _TYPE}
            answer = read_json(self._call(url, data, finish).content)
            file = answer.get("file") if isinstance(answer, Mapping) else None
            if not isinstance(file, Mapping) or not isinstance(file.get("name"), str):
                raise ValueError("the answer names no file")
            return valid_text(file["name"])

        return self._patiently(attempt)

    def cancel_command(self, batch_id: str) -> str:
        url = self._endpoint.redactor.text(f"{self._endpoint.url}/{batch_id}:cancel")
        return f'curl -X POST -H "x-goog-api-key: {self._endpoint.key.shell}" {url}'

    def _create(self, key: str, metadata: Mapping[str, str], data: Callable[[], bytes]) -> ProviderBatch:
        batch = {"displayName": f"{_NAME}{key}", "inputConfig": {"fileName": key}}
        return _batch_of(self._post(f"/models/{self._content.model}:batchGenerateContent", {"batch": batch}))

    def _get(self, batch_id: str) -> ProviderBatch:
        return _batch_of(self._read(f"/{batch_id}"))

    def _cancel(self, batch_id: str) -> None:
        self._post(f"/{batch_id}:cancel", {})

    def _since(self, since: float) -> Iterator[ProviderBatch]:
        # In no order that the interface promises.
        token, seen = "", set[str]()
        while True:
            page = self._read("/batches", {"pageSize": 100, **({"pageToken": token} if token else {})})
            found = page.get("operations") if isinstance(page, Mapping) else None
            for batch in map(_batch_of, found if isinstance(found, list) else []):
                if batch.created is None or batch.created >= since - SKEW_SECONDS:
                    yield batch
            token = str(page.get("nextPageToken") or "") if isinstance(page, Mapping) else ""
            if not token or token in seen:
                return
            seen.add(token)

    def _entries(self, batch: ProviderBatch) -> Iterator[Any]:
        if batch.output_file_id is None:
            return
        place = f"/{batch.output_file_id}:download"
        lines = self._patiently(lambda: self._bytes(place, {"alt": "media"}), f"file {batch.output_file_id}")
        for entry in entries_of(lines):
            if isinstance(entry, Mapping):
                yield {"custom_id": entry.get("key"), **_outcome(entry)}

    def _uploads(self) -> str:
        """The URL that files are uploaded to: the endpoint's, with a word before its path."""
        scheme, host, base, _, _ = urlsplit(self._endpoint.url)
        return urlunsplit((scheme, host, f"/upload{base}/files", "", ""))


def _batch_of(body: Any) -> ProviderBatch:
    """
    Raises:
        ValueError: this is no description of a batch.
    """
    about = body.get("metadata") if isinstance(body, Mapping) else None
    if not isinstance(about, Mapping) or not isinstance(body.get("name"), str):
        raise ValueError("the answer describes no batch")
    output, stats = (
        value if isinstance(value := about.get(name), Mapping) else {} for name in ("output", "batchStats")
    )
    name = str(about.get("displayName"))
    error = body.get("error")
    return ProviderBatch(
        id=valid_text(body["name"]),
        status=status_of(str(about.get("state"))),
        key=name.removeprefix(_NAME) if name.startswith(_NAME) else None,
        output_file_id=_responses(output) or _responses(body.get("response")),
        error_file_id=None,
        created=_moment(about.get("createTime")),
        ended=_moment(about.get("endTime")),
        answered=_count(stats.get("successfulRequestCount")),
        errors=[("", valid_text(str(error.get("message"))), None)] if isinstance(error, Mapping) else [],
        requests=_count(stats.get("requestCount")),
    )


def _responses(output: Any) -> str | None:
    """The file with the responses."""
    name = output.get("responsesFile") if isinstance(output, Mapping) else None
    return valid_text(name) if isinstance(name, str) and name else None


def _count(value: Any) -> int:
    # Of 64 bits, which JSON has as a text.
    return int(value) if isinstance(value, int | str) and str(value).isdecimal() else 0


def _moment(text: Any) -> float | None:
    try:
        # Python reads six decimals, and Google writes nine.
        head, dot, rest = text.removesuffix("Z").partition(".")
        return datetime.fromisoformat(f"{head}{dot}{rest[:6]}+00:00").timestamp()
    except (AttributeError, ValueError):
        return None


def _outcome(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the responses' file in OpenAI's form."""
    if isinstance(entry.get("response"), Mapping):
        return {"response": {"status_code": 200, "body": entry["response"]}}
    error = entry.get("error") or entry.get("status")
    if not isinstance(error, Mapping):
        return {"error": {"message": "a line without a response"}}
    code = error.get("code")
    status = _STATUSES.get(code, code) if isinstance(code, int) else 500
    return {"response": {"status_code": status, "body": {"error": error}}}
