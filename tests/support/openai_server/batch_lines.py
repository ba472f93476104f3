"""The lines of a batch: reading and judging those that come in, and writing those that go out."""

from __future__ import annotations

import json
import random
import uuid
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tests.support.openai_server.chat import Chat, last_user_message, parse
from tests.support.openai_server.faults import Fault, Faults
from tests.support.openai_server.settings import Settings
from tests.support.openai_server.wire import ApiError

_FIELDS = {"custom_id", "method", "url", "body"}
_UNDONE = {
    "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
    "cancelled": ("batch_cancelled", "This request was not executed because the batch was cancelled."),
}


@dataclass
class Line:
    custom_id: str
    body: dict[str, Any]
    message: str


def problem(code: str, message: str, line: int | None = None, param: str | None = None) -> dict[str, Any]:
    return {"code": code, "message": message, "line": line, "param": param}


def read(content: bytes, endpoint: str, settings: Settings) -> tuple[list[Line], list[dict[str, Any]]]:
    """The requests of an input file, and what is wrong with it."""
    if len(content) > settings.max_batch_bytes:
        return [], [problem("file_too_large", f"The file has more than {settings.max_batch_bytes} bytes.")]
    raw = [one for one in content.split(b"\n") if one.strip()]
    if not raw:
        return [], [problem("empty_file", "The input file is empty.")]
    if len(raw) > settings.max_batch_requests:
        return [], [problem("too_many_requests", f"The file has more than {settings.max_batch_requests} requests.")]
    lines: list[Line] = []
    errors: list[dict[str, Any]] = []
    ids: set[str] = set()
    models: set[str] = set()
    for number, one in enumerate(raw, 1):
        try:
            lines.append(_line(one, number, endpoint, ids, models, settings))
        except _BadLineError as error:
            errors.append(error.problem)
    return lines, errors


class _BadLineError(Exception):
    def __init__(self, code: str, message: str, line: int, param: str | None = None) -> None:
        super().__init__(message)
        self.problem = problem(code, message, line, param)


def _line(raw: bytes, number: int, endpoint: str, ids: set[str], models: set[str], settings: Settings) -> Line:
    try:
        found = parse(raw)
    except ApiError:
        raise _BadLineError("invalid_json_line", "This line is not parseable as valid JSON.", number) from None
    for name in sorted(_FIELDS ^ found.keys()):
        code = "missing_required_parameter" if name in _FIELDS else "unknown_parameter"
        raise _BadLineError(code, f"{code.replace('_', ' ').capitalize()}: '{name}'.", number, name)
    custom, body = found["custom_id"], found["body"]
    if not isinstance(custom, str) or not custom or not isinstance(body, dict):
        raise _BadLineError("invalid_type", "A custom_id is a text, and a body an object.", number)
    if custom in ids:
        raise _BadLineError("duplicate_custom_id", f"The custom_id '{custom}' is a duplicate.", number, "custom_id")
    if found["method"] != "POST":
        raise _BadLineError("invalid_method", "The method must be POST.", number, "method")
    if found["url"] != endpoint:
        raise _BadLineError("mismatched_url", f"The url does not match the batch's {endpoint}.", number, "url")
    model = str(body.get("model"))
    if settings.strict and model not in settings.models:
        raise _BadLineError("model_not_found", f"The model `{model}` does not exist.", number, "body.model")
    if models and model not in models:
        text = f"The provided model '{model}' does not match the other requests of this batch."
        raise _BadLineError("mismatched_model", text, number, "body.model")
    ids.add(custom)
    models.add(model)
    return Line(custom, body, last_user_message(body))


class Results:
    """What becomes of the lines of a batch, the faults that it meets included."""

    def __init__(self, chat: Chat, faults: Faults, asked: list[Fault]) -> None:
        self._chat, self._faults, self._asked = chat, faults, asked
        self._outputs: list[dict[str, Any]] = []
        self.errors: list[dict[str, Any]] = []
        # The last user message of each line that the model has answered.
        self.answered: dict[str, str] = {}
        self._messages: dict[str, str] = {}
        self._tokens: Counter[str] = Counter()

    @property
    def usage(self) -> dict[str, Any]:
        tokens = self._tokens
        return {
            "input_tokens": tokens["input"],
            "input_tokens_details": {"cached_tokens": tokens["cached"]},
            "output_tokens": tokens["output"],
            "output_tokens_details": {"reasoning_tokens": tokens["reasoning"]},
            "total_tokens": tokens["input"] + tokens["output"],
        }

    def answer(self, line: Line) -> None:
        self._messages[line.custom_id] = line.message
        fault = self._faults.of_line(line.message) or Fault("ok")
        try:
            if error := fault.error():
                raise error
            self._chat.check(line.body)
            body = self._chat.answer(line.body, fault)
        except ApiError as error:
            self.errors.append(_entry(line.custom_id, _response(error.status, error.body)))
            return
        self._outputs.append(_entry(line.custom_id, _response(200, body)))
        self.answered[line.custom_id] = line.message

    def leave(self, line: Line, status: str) -> None:
        """A line that is not done. A cancelled batch says nothing of it, unless the fault asks for that."""
        self._messages[line.custom_id] = line.message
        if status == "expired" or any(one.rest for one in self._asked):
            code, message = _UNDONE[status]
            self.errors.append(_entry(line.custom_id, None, {"code": code, "message": message}))

    def written(self, shuffled_by: str | None) -> tuple[bytes, bytes]:
        """The output file and the error file. Only a line's error changes what was answered and used."""
        for fault in self._asked:
            if fault.kind == "line_error":
                self._fail(fault)
        self._count()
        for fault in self._asked:
            self._befall(fault)
        outputs = [json.dumps(one) for one in self._outputs]
        for fault in self._asked:
            if fault.kind == "malformed_line":
                outputs = self._broken(fault, outputs)
        errors = [json.dumps(one) for one in self.errors]
        if shuffled_by is not None:
            chance = random.Random(shuffled_by)
            chance.shuffle(outputs)
            chance.shuffle(errors)
        return _joined(outputs), _joined(errors)

    def _befall(self, fault: Fault) -> None:
        chosen = self._chosen(fault)
        if fault.kind == "missing_lines":
            self._outputs = [one for one in self._outputs if one["custom_id"] not in chosen]
            self.errors = [one for one in self.errors if one["custom_id"] not in chosen]
        if fault.kind == "duplicate_lines":
            self._outputs += [_again(one) for one in self._outputs if one["custom_id"] in chosen]
        if fault.kind == "wrong_ids":
            body = self._outputs[0]["response"] if self._outputs else _response(200, {})
            self._outputs += [_entry(f"unknown-{uuid.uuid4().hex}", body) for _ in range(fault.count)]

    def _fail(self, fault: Fault) -> None:
        chosen = self._chosen(fault) & self.answered.keys()
        self._outputs = [one for one in self._outputs if one["custom_id"] not in chosen]
        self.errors += [self._failed(custom, fault) for custom in self.answered if custom in chosen]
        self.answered = {custom: message for custom, message in self.answered.items() if custom not in chosen}

    def _count(self) -> None:
        for one in self._outputs:
            if usage := one["response"]["body"].get("usage"):
                self._tokens["input"] += usage["prompt_tokens"]
                self._tokens["output"] += usage["completion_tokens"]
                self._tokens["cached"] += usage["prompt_tokens_details"]["cached_tokens"]
                self._tokens["reasoning"] += usage["completion_tokens_details"]["reasoning_tokens"]

    def _failed(self, custom: str, fault: Fault) -> dict[str, Any]:
        if fault.status is None:
            text = fault.message or "The request could not be processed."
            return _entry(custom, None, {"code": fault.code or "server_error", "message": text})
        error = Fault(str(fault.status), code=fault.code, message=fault.message).error()
        return _entry(custom, _response(fault.status, error.body if error is not None else {}))

    def _broken(self, fault: Fault, outputs: list[str]) -> list[str]:
        chosen = self._chosen(fault)
        return [
            text[: len(text) // 2] if one["custom_id"] in chosen else text
            for one, text in zip(self._outputs, outputs, strict=True)
        ]

    def _chosen(self, fault: Fault) -> set[str]:
        """The custom ids that it befalls; the first that was answered when it names none."""
        ids = [one["custom_id"] for one in self._outputs]
        if fault.custom_ids:
            return set(fault.custom_ids)
        if fault.contains is not None:
            return {custom for custom, message in self._messages.items() if fault.contains in message}
        if fault.share is not None:
            chance = random.Random(fault.seed)
            return {custom for custom in ids if chance.random() < fault.share}
        return set(ids[:1])


def _entry(custom_id: str, response: dict[str, Any] | None, error: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "id": f"batch_req_{uuid.uuid4().hex}",
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }


def _again(entry: dict[str, Any]) -> dict[str, Any]:
    return {**entry, "id": f"batch_req_{uuid.uuid4().hex}"}


def _response(status: int, body: dict[str, Any]) -> dict[str, Any]:
    return {"status_code": status, "request_id": uuid.uuid4().hex, "body": body}


def _joined(lines: list[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode()
