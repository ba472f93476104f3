"""Generators of the backend `openai` that ask a server for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from batchroute.generators.openai.generator import _WAITS, OpenAIGenerator
from batchroute.generators.settings import ModelSpec
from tests.support.openai_server import OpenAIServer, ServerProcess

KEY = "sk-test"


def spec(endpoint: str | None = "http://127.0.0.1:9/v1", **settings: Any) -> ModelSpec:
    """The model `small` behind an endpoint."""
    given = {"backend": "openai", "model": "small", "endpoint": endpoint, **settings}
    return ModelSpec.model_validate({name: value for name, value in given.items() if value is not None})


@contextmanager
def generator(
    server: OpenAIServer | ServerProcess | str, waits: tuple[float, float] = _WAITS, **settings: Any
) -> Iterator[OpenAIGenerator]:
    """Asks the server, and is closed at the end."""
    found = OpenAIGenerator(spec(server if isinstance(server, str) else server.url, **settings), waits)
    try:
        yield found
    finally:
        found.close()
