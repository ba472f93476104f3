"""What a unit of generation is called in OpenTelemetry's semantic conventions for generative AI, for the JSON log."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from batchroute.generators.settings import ModelSpec
from batchroute.storage.receipts import Receipt

# Providers that the conventions have a name for, by the end of their host's.
_PROVIDERS = {
    "openai.azure.com": "azure.ai.openai",
    "services.ai.azure.com": "azure.ai.inference",
    "api.anthropic.com": "anthropic",
    "api.cohere.com": "cohere",
    "api.cohere.ai": "cohere",
    "api.deepseek.com": "deepseek",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral_ai",
    "api.perplexity.ai": "perplexity",
    "api.x.ai": "x_ai",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "aiplatform.googleapis.com": "gcp.vertex_ai",
}
_TOKENS = {
    "input_tokens": "gen_ai.usage.input_tokens",
    "cached_tokens": "gen_ai.usage.cache_read.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
}


def attributes(model: ModelSpec) -> Callable[[Receipt], dict[str, Any]]:
    """The attributes of a unit that the model has answered, by its receipt.

    The operation is left out of a model whose weights are loaded here: whether it chats or completes text is known by
    its tokenizer, and no unit says.
    """
    of_all: dict[str, Any] = {"gen_ai.request.model": model.model, "gen_ai.provider.name": model.backend}
    if model.behind_api:
        url = model.endpoint or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        server = urlsplit(url).hostname or ""
        of_all |= {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": _provider(server),
            "server.address": server,
        }

    def of_unit(receipt: Receipt) -> dict[str, Any]:
        counted = {name: receipt.counts[key] for key, name in _TOKENS.items() if key in receipt.counts}
        return {**of_all, **counted}

    return of_unit


def _provider(server: str) -> str:
    """By its host; who speaks OpenAI's protocol and is none of them goes by `openai`, as the conventions advise."""
    return next((found for end, found in _PROVIDERS.items() if server.endswith(end)), "openai")
