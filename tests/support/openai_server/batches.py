"""The Batch API: what happens to a batch from its creation to its end. Its state is one JSON file."""

from __future__ import annotations

import json
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from openai.types import Batch
from openai.types.batch_create_params import BatchCreateParams

from tests.support.openai_server import batch_lines
from tests.support.openai_server.batch_lines import Line
from tests.support.openai_server.chat import Chat, closed_validator, validate
from tests.support.openai_server.faults import Fault, Faults
from tests.support.openai_server.files import Files, write_json
from tests.support.openai_server.records import Records
from tests.support.openai_server.settings import CHAT, Settings
from tests.support.openai_server.wire import ApiError

_FINAL = ("failed", "completed", "expired", "cancelled")
_DAY = 24 * 60 * 60


class Batches:
    def __init__(
        self, folder: Path, files: Files, chat: Chat, faults: Faults, records: Records, settings: Settings
    ) -> None:
        self._folder, self._files, self._chat = folder, files, chat
        self._faults, self._records, self._settings = faults, records, settings
        self._validator = closed_validator(BatchCreateParams)
        # A test's own thread may end a batch while a client looks at it.
        self._lock = threading.RLock()
        folder.mkdir(parents=True, exist_ok=True)

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        self._check(body)
        with self._lock:
            now, faults = time.time(), self._faults.of_batch()
            # The number in it tells the newest.
            name = f"batch_{len(list(self._folder.glob('*.json'))):06d}{uuid.uuid4().hex[:12]}"
            lines, errors = batch_lines.read(self._files.kept(body["input_file_id"]), body["endpoint"], self._settings)
            failing = next((one for one in faults if one.kind == "fail_validation"), None)
            if failing is not None:
                errors = [_failure(failing, lines)]
            batch: dict[str, Any] = {
                "id": name,
                "object": "batch",
                "endpoint": body["endpoint"],
                "input_file_id": body["input_file_id"],
                "completion_window": body["completion_window"],
                "status": "validating",
                "created_at": int(now),
                "expires_at": int(now) + _DAY,
                "metadata": body.get("metadata"),
                "request_counts": {"total": 0, "completed": 0, "failed": 0},
            }
            state = {
                "batch": batch,
                "since": now,
                "polls": 0,
                "total": len(lines),
                "errors": errors,
                "faults": [one.saved() for one in faults],
            }
            self._save(state)
            if not errors:
                self._records.submit(name, [(line.custom_id, line.message) for line in lines])
            return batch

    def get(self, name: str, poll: bool = False) -> dict[str, Any]:
        with self._lock:
            state = self._load(name)
            self._advance(state, poll)
            return dict(state["batch"])

    def page(self, query: dict[str, str]) -> dict[str, Any]:
        """Newest first."""
        unknown = query.keys() - {"limit", "after"}
        limit = query.get("limit", "20")
        if unknown or not limit.isdigit() or not 1 <= int(limit) <= 100:
            raise ApiError(400, f"Invalid query: {query}.", "invalid_value", min(unknown, default="limit"))
        names = sorted((path.stem for path in self._folder.glob("*.json")), reverse=True)
        if "after" in query:
            if query["after"] not in names:
                raise ApiError(404, f"No batch found with id '{query['after']}'.", param="after")
            names = names[names.index(query["after"]) + 1 :]
        data = [self.get(name) for name in names[: int(limit)]]
        return {
            "object": "list",
            "data": data,
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
            "has_more": len(names) > len(data),
        }

    def cancel(self, name: str) -> dict[str, Any]:
        with self._lock:
            state = self._load(name)
            self._advance(state)
            batch = state["batch"]
            if batch["status"] in _FINAL:
                raise ApiError(409, f"Cannot cancel a batch with status '{batch['status']}'.")
            if batch["status"] != "cancelling":
                # What is not begun is not answered at all.
                state["done"] = 0.0 if batch["status"] == "validating" else self._settings.partial_share
                state["since"], state["polls"] = time.time(), 0
                self._enter(state, "cancelling")
            return dict(batch)

    def finish(self, name: str, status: str = "completed") -> dict[str, Any]:
        """Ends a batch now, whatever its turn: completed, expired or cancelled."""
        with self._lock:
            state = self._load(name)
            if state["batch"]["status"] not in _FINAL:
                self._enter(state, "failed" if state["errors"] else status)
            return dict(state["batch"])

    def names(self) -> list[str]:
        """Oldest first."""
        return sorted(path.stem for path in self._folder.glob("*.json"))

    def _check(self, body: dict[str, Any]) -> None:
        validate(self._validator, body)
        if body["endpoint"] != CHAT:
            raise ApiError(400, f"This server has no batches for {body['endpoint']}.", "invalid_value", "endpoint")
        metadata = body.get("metadata") or {}
        if len(metadata) > 16 or any(len(key) > 64 or len(value) > 512 for key, value in metadata.items()):
            raise ApiError(400, "Invalid 'metadata': too many or too long.", "invalid_value", "metadata")
        if self._files.get(body["input_file_id"])["purpose"] != "batch":
            raise ApiError(400, "The input file must have the purpose 'batch'.", "invalid_value", "input_file_id")

    def _advance(self, state: dict[str, Any], poll: bool = False) -> None:
        """Takes the steps that are due, by the clock or by the number of polls."""
        settings, moved = self._settings, poll
        state["polls"] += poll
        while (step := self._step(state)) is not None:
            if settings.batch_seconds is not None:
                if time.time() < state["since"] + settings.batch_seconds:
                    break
                state["since"] += settings.batch_seconds
            else:
                if state["polls"] < settings.batch_polls:
                    break
                state["polls"] -= settings.batch_polls
            self._enter(state, step)
            moved = False
        if moved:
            self._save(state)

    def _step(self, state: dict[str, Any]) -> str | None:
        kinds = {fault["kind"] for fault in state["faults"]}
        match state["batch"]["status"]:
            case "validating":
                return "failed" if state["errors"] else "in_progress"
            case "in_progress" if "expire" in kinds:
                return "expired"
            case "in_progress" if "cancel" in kinds:
                return "cancelling"
            case "in_progress":
                return None if self._settings.manual else "finalizing"
            case "finalizing":
                return "completed"
            case "cancelling":
                return "cancelled"
        return None

    def _enter(self, state: dict[str, Any], status: str) -> None:
        batch, now = state["batch"], int(time.time())
        batch["status"] = status
        batch[f"{status}_at"] = now
        if status == "failed":
            batch["errors"] = {"object": "list", "data": state["errors"]}
        if status == "in_progress":
            batch["request_counts"] = {"total": state["total"], "completed": 0, "failed": 0}
        if status in ("completed", "expired", "cancelled"):
            self._end(state, status)
        Batch.model_validate(batch, strict=True)
        self._save(state)

    def _end(self, state: dict[str, Any], status: str) -> None:
        batch, faults = state["batch"], [Fault.read(one) for one in state["faults"]]
        lines, _ = batch_lines.read(self._files.kept(batch["input_file_id"]), batch["endpoint"], self._settings)
        share = 1.0 if status == "completed" else state.get("done", self._settings.partial_share)
        done = lines[: int(len(lines) * share)]
        results = batch_lines.Results(self._chat, self._faults, faults)
        for line in done:
            results.answer(line)
        for line in lines[len(done) :]:
            results.leave(line, status)
        output, errors = results.written(batch["id"] if self._settings.shuffle else None)
        self._records.complete(batch["id"], results.answered)
        batch["usage"] = results.usage
        failed = len(results.errors) if status == "cancelled" else len(lines) - len(results.answered)
        batch["request_counts"] = {"total": len(lines), "completed": len(results.answered), "failed": failed}
        if output and all(one.kind != "no_output_file" for one in faults):
            batch["output_file_id"] = self._files.add(output, f"{batch['id']}_output.jsonl", "batch_output")["id"]
        if errors:
            batch["error_file_id"] = self._files.add(errors, f"{batch['id']}_error.jsonl", "batch_output")["id"]

    def _load(self, name: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self._folder / f"{name}.json").read_bytes())
        except FileNotFoundError:
            raise ApiError(404, f"No batch found with id '{name}'.", param="id") from None
        return found

    def _save(self, state: dict[str, Any]) -> None:
        write_json(self._folder / f"{state['batch']['id']}.json", state)


def _failure(fault: Fault, lines: list[Line]) -> dict[str, Any]:
    model = lines[0].body.get("model") if lines else "?"
    default = (
        f"Enqueued token limit reached for {model} in organization org-test. Limit: 90,000 enqueued tokens. "
        "Please try again once some in_progress batches have been completed."
    )
    return batch_lines.problem(fault.code or "token_limit_exceeded", fault.message or default)
