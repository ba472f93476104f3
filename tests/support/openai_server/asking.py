"""The official client, and what tests ask by it."""

from __future__ import annotations

import json
from typing import Any

import openai
from openai.types import Batch
from openai.types.chat import ChatCompletion

from tests.support.openai_server.process import ServerProcess
from tests.support.openai_server.server import OpenAIServer
from tests.support.openai_server.settings import CHAT


def connect(server: OpenAIServer | ServerProcess, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(**{"base_url": server.url, "api_key": "sk-test", "max_retries": 0, "timeout": 5, **options})


def ask(client: openai.OpenAI, text: str, **more: Any) -> ChatCompletion:
    messages: Any = [{"role": "user", "content": text}]
    found: ChatCompletion = client.chat.completions.create(model="small", messages=messages, **more)
    return found


def line(custom_id: str, text: str | None = None, **more: Any) -> dict[str, Any]:
    body = {"model": "small", "messages": [{"role": "user", "content": text or f"ask {custom_id}"}], **more}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}


def upload(client: openai.OpenAI, lines: list[Any]) -> str:
    raw = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines)
    return client.files.create(file=("in.jsonl", raw.encode()), purpose="batch").id


def create(client: openai.OpenAI, lines: list[Any], **more: Any) -> Batch:
    return client.batches.create(input_file_id=upload(client, lines), endpoint=CHAT, completion_window="24h", **more)


def end(client: openai.OpenAI, batch: Batch) -> Batch:
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        batch = client.batches.retrieve(batch.id)
    return batch


def read(client: openai.OpenAI, file: str | None) -> list[Any]:
    return [] if file is None else [json.loads(one) for one in client.files.content(file).text.splitlines()]


def ids(entries: list[Any]) -> list[str]:
    return sorted(entry["custom_id"] for entry in entries)


TEN = [line(f"r{number}") for number in range(10)]
