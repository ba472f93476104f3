"""How answers end, in the words of every kind of server."""

from __future__ import annotations

from typing import Any

import pytest

from batchroute.endings import ending_of


@pytest.mark.parametrize(
    ("words", "ending"),
    [
        # OpenAI, TGI, Anthropic, Cohere, llama.cpp; a server that says nothing has ended.
        (["stop", "eos_token", "eos", "stop_sequence", "end_turn", "COMPLETE", "STOP", "", None], "ended"),
        # OpenAI, Anthropic, Gemini, Mistral, llama.cpp, TGI
        (["length", "max_tokens", "MAX_TOKENS", "model_length", "limit", "model_context_window_exceeded"], "cut"),
        (["content_filter", "SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"], "refused"),
        (["LANGUAGE", "IMAGE_SAFETY", "refusal", "sensitive", "ERROR_TOXIC", "guardrail_intervened"], "refused"),
        (["content_filter: SAFETY", "content-filter", "FINISH_REASON_SAFETY"], "refused"),
        (["tool_calls", "function_call", "tool_use", "tool-calls", "UNEXPECTED_TOOL_CALL"], "tool call"),
        # vLLM, DeepSeek, OpenRouter, Zhipu
        (["abort", "insufficient_system_resource", "error", "network_error"], "failed for now"),
        (["MALFORMED_FUNCTION_CALL", "OTHER", "FINISH_REASON_UNSPECIFIED", "repetition"], "failed"),
        (["half_past_four", 7, ["stop"], {"type": "stop"}, True], "unknown"),
    ],
)
def test_a_servers_word_has_its_meaning(words: list[Any], ending: str) -> None:
    assert {str(word): ending_of(word) for word in words} == {str(word): ending for word in words}
