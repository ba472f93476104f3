"""The Files API, over a folder."""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from pathlib import Path
from typing import Any

from openai.types import FileDeleted, FileObject

from tests.support.openai_server.wire import ApiError, Request

_LEAST_SECONDS, _MOST_SECONDS = 3600, 2592000


class Files:
    """A deleted file's content stays: a batch that reads it goes on."""

    fields = ("purpose", "expires_after[anchor]", "expires_after[seconds]")

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, content: bytes, filename: str, purpose: str, seconds: int | None = None) -> dict[str, Any]:
        now = int(time.time())
        found: dict[str, Any] = {
            "id": f"file-{uuid.uuid4().hex}",
            "object": "file",
            "bytes": len(content),
            "created_at": now,
            "expires_at": None if seconds is None else now + seconds,
            "filename": filename,
            "purpose": purpose,
            "status": "processed",
        }
        FileObject.model_validate(found, strict=True)
        (self._folder / found["id"]).write_bytes(content)
        write_json(self._folder / f"{found['id']}.json", found)
        return found

    def upload(self, request: Request) -> dict[str, Any]:
        fields, file = _form(request)
        unknown = fields.keys() - set(self.fields)
        if unknown:
            raise ApiError(400, f"Unknown parameter: '{min(unknown)}'.", "unknown_parameter", min(unknown))
        if file is None:
            raise ApiError(400, "'file' is a required property")
        if fields.get("purpose") != "batch":
            raise ApiError(400, f"'{fields.get('purpose')}' is not one of ['batch'] - 'purpose'", param="purpose")
        filename, content = file
        if not filename.endswith(".jsonl"):
            raise ApiError(400, "Invalid file format for Batch API. Must be .jsonl", param="file")
        if not content:
            raise ApiError(400, "File is empty.", param="file")
        return self.add(content, filename, "batch", _seconds(fields))

    def get(self, name: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self._folder / f"{name}.json").read_bytes())
        except FileNotFoundError:
            raise ApiError(404, f"No such File object: {name}", param="id") from None
        return found

    def content(self, name: str) -> bytes:
        self.get(name)
        return self.kept(name)

    def kept(self, name: str) -> bytes:
        """The content, though the file be deleted."""
        return (self._folder / name).read_bytes()

    def delete(self, name: str) -> dict[str, Any]:
        self.get(name)
        (self._folder / f"{name}.json").unlink()
        return FileDeleted(id=name, object="file", deleted=True).model_dump()

    def names(self) -> list[str]:
        """Those that are not deleted."""
        return [path.stem for path in self._folder.glob("*.json")]


def write_json(path: Path, value: Any) -> None:
    """At once or not at all: the server may be killed."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(value))
    os.replace(temporary, path)


def _seconds(fields: dict[str, str]) -> int | None:
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise ApiError(400, "'expires_after.anchor' must be 'created_at'.", "invalid_value", "expires_after.anchor")
    if seconds is None or not seconds.isdigit() or not _LEAST_SECONDS <= int(seconds) <= _MOST_SECONDS:
        text = f"'expires_after.seconds' must be from {_LEAST_SECONDS} to {_MOST_SECONDS}."
        raise ApiError(400, text, "invalid_value", "expires_after.seconds")
    return int(seconds)


def _form(request: Request) -> tuple[dict[str, str], tuple[str, bytes] | None]:
    """The fields of a multipart body, and its file's name and content."""
    boundary = re.fullmatch(r'multipart/form-data;\s*boundary="?([^";]+)"?', request.headers.get("content-type", ""))
    if boundary is None:
        raise ApiError(400, "The request must be multipart/form-data.")
    mark = b"--" + boundary[1].encode()
    parts = (b"\r\n" + request.body).split(b"\r\n" + mark)
    if len(parts) < 2 or not parts[-1].startswith(b"--"):
        raise ApiError(400, "We could not parse the multipart body of your request.")
    fields: dict[str, str] = {}
    file: tuple[str, bytes] | None = None
    for part in parts[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        found = dict(re.findall(r'\b(name|filename)="([^"]*)"', head.decode()))
        if "filename" in found and found["name"] == "file":
            file = (found["filename"], content)
        else:
            fields[found["name"]] = content.decode()
    return fields, file
