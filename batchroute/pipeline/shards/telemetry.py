"""A unit of generation in OpenTelemetry's semantic conventions for generative AI, for the JSON log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from batchroute.endpoint import base_url
from batchroute.generators.settings import ModelSpec
from batchroute.storage.receipts import Receipt

# The conventions' names of providers, by the end of the host; Vertex AI puts a region and a hyphen before its own.
_PROVIDERS = {
    ".openai.azure.com": "azure.ai.openai",
    ".services.ai.azure.com": "azure.ai.inference",
    ".api.anthropic.com": "anthropic",
    ".api.cohere.com": "cohere",
    ".api.cohere.ai": "cohere",
    ".api.deepseek.com": "deepseek",
    ".api.groq.com": "groq",
    ".api.mistral.ai": "mistral_ai",
    ".api.perplexity.ai": "perplexity",
    ".api.x.ai": "x_ai",
    ".generativelanguage.googleapis.com": "gcp.gemini",
    ".aiplatform.googleapis.com": "gcp.vertex_ai",
    "-aiplatform.googleapis.com": "gcp.vertex_ai",
}
_TOKENS = {
    "input_tokens": "gen_ai.usage.input_tokens",
    "cached_tokens": "gen_ai.usage.cache_read.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
}


def attributes(model: ModelSpec) -> Callable[[Receipt], dict[str, Any]]:
    """A function from the receipt of a generated unit to its attributes.

    A model with weights in this process has no operation: only its tokenizer knows whether it chats or completes text.
    """
    of_all: dict[str, Any] = {"gen_ai.request.model": model.model, "gen_ai.provider.name": model.backend}
    if model.record.behind_api:
        server = urlsplit(base_url(model.url)).hostname or ""
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
    """The provider by its host. The conventions call an unknown one with OpenAI's protocol `openai`."""
    return next((name for end, name in _PROVIDERS.items() if f".{server}".endswith(end)), "openai")
