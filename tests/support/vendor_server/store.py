"""The batches of a server, over a folder: what happens to one from its creation to its end."""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.support.openai_server.faults import Fault, Faults
from tests.support.openai_server.files import write_json
from tests.support.openai_server.records import Records
from tests.support.openai_server.settings import Settings
from tests.support.openai_server.wire import ApiError

FINAL = ("failed", "completed", "expired", "cancelled")


@dataclass
class Row:
    """A request: its id, its body, the last words of the user in it, and the version by which it was sent."""

    custom_id: str
    body: dict[str, Any]
    message: str
    version: str = ""


class Store:
    """Its states have OpenAI's names. A batch goes from `queued` over `running` to one of `FINAL`."""

    def __init__(self, folder: Path, faults: Faults, records: Records, settings: Settings) -> None:
        self._folder, self._faults, self._records, self._settings = folder, faults, records, settings
        self._lock = threading.RLock()
        self.results: Callable[[list[Row], str], list[dict[str, Any]]] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def create(self, rows: list[Row], **facts: Any) -> dict[str, Any]:
        """
        Args:
            facts: what the vendor keeps of the batch.
        """
        with self._lock:
            now, faults = time.time(), self._faults.of_batch()
            name = f"{len(self.names()):06d}{uuid.uuid4().hex[:12]}"
            state: dict[str, Any] = {
                "id": name, "status": "queued", "created": now, "since": now, "polls": 0, "ended": None,
                "rows": [asdict(row) for row in rows], "faults": [one.saved() for one in faults],
                "answered": 0, "cancelled_at": None, **facts,
            }  # fmt: skip
            refused = any(one.kind == "fail_validation" for one in faults)
            if not refused:
                self._records.submit(name, [(row.custom_id, row.message) for row in rows])
            self._save(state)
            return state

    def get(self, name: str, poll: bool = False) -> dict[str, Any]:
        with self._lock:
            try:
                state: dict[str, Any] = json.loads((self._folder / f"{name}.json").read_bytes())
            except FileNotFoundError:
                raise ApiError(404, f"No batch {name}.") from None
            state["polls"] += poll
            while state["status"] not in FINAL and self._is_due(state):
                self._step(state)
            self._save(state)
            return state

    def cancel(self, name: str) -> dict[str, Any]:
        with self._lock:
            state = self.get(name)
            if state["status"] not in FINAL and state["cancelled_at"] is None:
                state |= {"cancelled_at": time.time(), "since": time.time(), "polls": 0}
                self._save(state)
            return state

    def finish(self, name: str, status: str = "completed") -> dict[str, Any]:
        """Ends a batch now: completed, expired or cancelled."""
        with self._lock:
            state = self.get(name)
            if state["status"] not in FINAL:
                self._end(state, status)
                self._save(state)
            return state

    def lines(self, name: str) -> bytes:
        return (self._folder / f"{name}.lines").read_bytes()

    def names(self) -> list[str]:
        """Oldest first."""
        return sorted(path.stem for path in self._folder.glob("*.json"))

    def newest(self, poll: bool = False) -> list[dict[str, Any]]:
        return [self.get(name, poll) for name in reversed(self.names())]

    def _is_due(self, state: dict[str, Any]) -> bool:
        settings = self._settings
        if settings.manual and state["status"] == "running" and state["cancelled_at"] is None:
            return False
        if settings.batch_seconds is not None:
            return time.time() - float(state["since"]) >= settings.batch_seconds
        return int(state["polls"]) >= settings.batch_polls

    def _step(self, state: dict[str, Any]) -> None:
        step = self._settings.batch_seconds
        state |= {"since": time.time() if step is None else state["since"] + step, "polls": 0}
        kinds = {one["kind"] for one in state["faults"]}
        if state["cancelled_at"] is not None:
            self._end(state, "cancelled")
        elif "fail_validation" in kinds:
            state |= {"status": "failed", "ended": time.time()}
        elif state["status"] == "queued":
            state["status"] = "running"
        else:
            self._end(state, "expired" if "expire" in kinds else "cancelled" if "cancel" in kinds else "completed")

    def _end(self, state: dict[str, Any], status: str) -> None:
        rows = [Row(**row) for row in state["rows"]]
        done = len(rows) if status == "completed" else int(len(rows) * self._settings.partial_share)
        assert self.results is not None
        lines = self.results(rows[:done], "completed")
        answered = {line["custom_id"]: line for line in lines if line["ok"]}
        lines += self.results(rows[done:], status) if done < len(rows) else []
        self._records.complete(state["id"], {row.custom_id: row.message for row in rows if row.custom_id in answered})
        random.Random(state["id"]).shuffle(lines)
        texts = [json.dumps(line["line"]) for line in self._befallen(lines, [Fault.read(f) for f in state["faults"]])]
        if any(one["kind"] == "malformed_line" for one in state["faults"]):
            texts[0] = texts[0][: len(texts[0]) // 2]
        (self._folder / f"{state['id']}.lines").write_text("".join(text + "\n" for text in texts))
        counts = {kind: sum(line["kind"] == kind for line in lines) for kind in {line["kind"] for line in lines}}
        state |= {"status": status, "ended": time.time(), "answered": len(answered), "counts": counts}

    def _befallen(self, lines: list[dict[str, Any]], faults: list[Fault]) -> list[dict[str, Any]]:
        for fault in faults:
            if fault.kind == "missing_lines":
                lines = [line for line in lines if not line["custom_id"].endswith(tuple(fault.custom_ids))]
            if fault.kind == "duplicate_lines":
                lines = lines + lines[:1]
        return lines

    def _save(self, state: dict[str, Any]) -> None:
        write_json(
            self._folder / f"{state['id']}.json", {**state, "batch": {"id": state["id"], "status": state["status"]}}
        )
