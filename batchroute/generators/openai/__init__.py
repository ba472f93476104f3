"""The backends `openai` and `openai_batch`: models behind an OpenAI-compatible endpoint, by its chat or Batch API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn

from batchroute.errors import InputError
from batchroute.generators.backend import Backend

if TYPE_CHECKING:
    from batchroute.generators.base import Generator
    from batchroute.generators.openai.batch_api import OpenAIBatches
    from batchroute.generators.settings import ModelSpec


def _check(spec: ModelSpec) -> str:
    from batchroute.generators.openai.chat_api import ChatApi
    from batchroute.generators.openai.failures import ModelEndpoint

    endpoint = ModelEndpoint(spec)
    ChatApi(spec, endpoint).check()
    return f"{spec.model} at {endpoint.host}"


def _load(spec: ModelSpec, device: object, gpus: object) -> Generator:
    from batchroute.generators.openai.generator import OpenAIGenerator

    return OpenAIGenerator(spec)


def _load_batch(spec: ModelSpec, device: object, gpus: object) -> NoReturn:
    raise InputError("a provider batch does not answer single rows, as this command needs: use the backend openai")


def _batches(spec: ModelSpec, patience: float | None = None) -> OpenAIBatches:
    from batchroute.generators.openai.batch_api import OpenAIBatches

    return OpenAIBatches(spec, patience)


def _extras(spec: ModelSpec) -> Mapping[str, str]:
    return {"openai": f"backend is {spec.backend}"}


_KEY = frozenset({"api_key_env", "api_key_file", "api_key_command", "headers", "query", "organization", "project"})
_SPEED = _KEY | {"endpoint", "timeout", "retries", "length_key"}
_RESULTS = frozenset({"extra_body", "tokenizer"})
_CHAT_SPEED = _SPEED | {"concurrency", "requests_per_minute", "tokens_per_minute"}
_BATCH_SPEED = _SPEED | {"batch_requests", "poll_seconds", "give_up_after"}

BACKENDS = (
    Backend(
        name="openai",
        settings=_CHAT_SPEED | _RESULTS,
        speed=_CHAT_SPEED,
        behind_api=True,
        logprobs=True,
        samples=True,
        price_list="standard",
        check=_check,
        load=_load,
        extras=_extras,
    ),
    Backend(
        name="openai_batch",
        settings=_BATCH_SPEED | _RESULTS,
        speed=_BATCH_SPEED,
        behind_api=True,
        logprobs=True,
        batches=_batches,
        price_list="batch",
        check=_check,
        load=_load_batch,
        extras=_extras,
    ),
)
