"""The backend `anthropic`: models behind Anthropic's Messages API, asked row by row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from batchroute.generators.anthropic.version import HOME, problem
from batchroute.generators.backend import Backend, Home

if TYPE_CHECKING:
    from batchroute.generators.base import Generator
    from batchroute.generators.settings import ModelSpec


def _check(spec: ModelSpec) -> str:
    from batchroute.generators.anthropic.messages import MessagesApi

    protocol = MessagesApi(spec)
    protocol.check()
    return f"{spec.model} at {protocol.endpoint.host}"


def _load(spec: ModelSpec, device: object, gpus: object) -> Generator:
    from batchroute.generators.anthropic.messages import MessagesApi
    from batchroute.generators.openai.generator import OpenAIGenerator

    return OpenAIGenerator(spec, protocol=MessagesApi(spec))


def _home(spec: ModelSpec) -> Home:
    return HOME


def _extras(spec: ModelSpec) -> Mapping[str, str]:
    # Its HTTP client, pacing and retries are those of the backend openai.
    return {"openai": "backend is anthropic"}


_SPEED = frozenset(
    {
        *("api_key_env", "api_key_file", "api_key_command", "headers", "query", "endpoint", "timeout", "retries"),
        *("concurrency", "requests_per_minute", "tokens_per_minute"),
    }
)

BACKENDS = (
    Backend(
        name="anthropic",
        settings=_SPEED | {"extra_body", "tokenizer"},
        speed=_SPEED,
        behind_api=True,
        home=_home,
        problem=problem,
        price_list="standard",
        check=_check,
        load=_load,
        extras=_extras,
    ),
)
