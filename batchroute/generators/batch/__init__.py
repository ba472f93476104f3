"""The backend `batch`: models behind a provider's batch API, which answers at half the price within a day.

The folder has a file for each provider's API, and what they share; OpenAI's is in the folder of its backend.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from batchroute.errors import InputError
from batchroute.generators.anthropic import version
from batchroute.generators.backend import Backend, Home

if TYPE_CHECKING:
    from batchroute.generators.batch.api import BatchApi
    from batchroute.generators.settings import ModelSpec


def _takes_all(spec: ModelSpec) -> str | None:
    return None


@dataclass(frozen=True)
class _Provider:
    """
    Attributes:
        api: the module and the class of its `BatchApi`, which is imported when it is asked.
        home: its own endpoint; None: OpenAI's.
        problem: what its API does not take, as `Backend.problem`.
    """

    api: str
    home: Home | None = None
    problem: Callable[[ModelSpec], str | None] = _takes_all


def _max_tokens_alone(spec: ModelSpec) -> str | None:
    if spec.length_key == "max_completion_tokens":
        return f"length_key: the API of {spec.provider} has no max_completion_tokens: leave it out"
    return None


def _gemini(spec: ModelSpec) -> str | None:
    if len(spec.generation.stop) > _MOST_STOPS:
        return f"generation.stop: Gemini's API takes {_MOST_STOPS} strings, and there are {len(spec.generation.stop)}"
    if spec.length_key is not None:
        return "length_key: Gemini's API calls the limit maxOutputTokens and nothing else: leave it out"
    return None


_MOST_STOPS = 5
_OWN = "batchroute.generators.batch"
_GOOGLE = Home("https://generativelanguage.googleapis.com/v1beta", "GEMINI_API_KEY")
_MISTRAL = Home("https://api.mistral.ai/v1", "MISTRAL_API_KEY")
_PROVIDERS = {
    "openai": _Provider("batchroute.generators.openai.batch_api:OpenAIBatches"),
    "anthropic": _Provider(f"{_OWN}.anthropic:AnthropicBatches", version.HOME, version.problem),
    "gemini": _Provider(f"{_OWN}.gemini:GeminiBatches", _GOOGLE, _gemini),
    "mistral": _Provider(f"{_OWN}.mistral:MistralBatches", _MISTRAL, _max_tokens_alone),
}


def _provider(spec: ModelSpec) -> _Provider:
    assert spec.provider is not None
    return _PROVIDERS[spec.provider]


def _batches(spec: ModelSpec, patience: float | None = None) -> BatchApi:
    module, _, name = _provider(spec).api.partition(":")
    api: BatchApi = getattr(importlib.import_module(module), name)(spec, patience)
    return api


def _check(spec: ModelSpec) -> str:
    api = _batches(spec)
    api.close()
    return f"{spec.model} at {api.host}"


def _load(spec: ModelSpec, device: object, gpus: object) -> NoReturn:
    raise InputError("a provider batch does not answer single rows, as this command needs: use an online backend")


def _home(spec: ModelSpec) -> Home | None:
    return None if spec.provider is None else _provider(spec).home


def _problem(spec: ModelSpec) -> str | None:
    if spec.provider is None:
        return f"provider is missing: the backend batch asks the Batch API of one of {', '.join(_PROVIDERS)}"
    if spec.provider != "openai" and spec.logprobs:
        return f"confidence.logprobs: batches of {spec.provider} bring no log-probabilities: leave it out"
    return _provider(spec).problem(spec)


def _extras(spec: ModelSpec) -> Mapping[str, str]:
    return {"openai": "backend is batch"}


_SPEED = frozenset(
    {
        *("api_key_env", "api_key_file", "api_key_command", "headers", "query", "organization", "project"),
        *("endpoint", "timeout", "retries", "length_key", "batch_requests", "poll_seconds", "give_up_after"),
    }
)

BACKENDS = (
    Backend(
        name="batch",
        settings=_SPEED | {"provider", "extra_body", "tokenizer"},
        speed=_SPEED,
        behind_api=True,
        logprobs=True,
        batches=_batches,
        home=_home,
        problem=_problem,
        price_list="batch",
        check=_check,
        load=_load,
        extras=_extras,
    ),
)
