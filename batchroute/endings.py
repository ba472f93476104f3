"""How an answer ended, by the word that a server gives for it (`finish_reason`).

The words are those of OpenAI's API and of vLLM, SGLang, TGI, llama.cpp, Ollama, Gemini, Anthropic, Mistral, DeepSeek,
Cohere, Bedrock, Zhipu and OpenRouter, in whatever case and with whatever prefix their gateways pass them on.
"""

from __future__ import annotations

from typing import Literal

Ending = Literal["ended", "cut", "refused", "tool call", "failed for now", "failed", "unknown"]
"""`failed for now`: the server broke off, and another try may do better."""

_WORDS: dict[Ending, str] = {
    "ended": (
        "stop eos eos_token end end_turn endoftext stop_sequence stop_token stop_str complete completed finished done"
    ),
    "cut": (
        "length max_tokens max_new_tokens max_output_tokens max_completion_tokens max_length model_length limit "
        "context_length context_length_exceeded context_window_exceeded model_context_window_exceeded token_limit "
        "time_limit"
    ),
    "refused": (
        "content_filter content_filtered filtered safety recitation language blocklist prohibited_content spii "
        "image_safety image_prohibited_content image_recitation image_other refusal refused sensitive error_toxic "
        "toxic guardrail guardrail_intervened guardrails blocked blocked_reason_unspecified jailbreak model_armor"
    ),
    "tool call": "tool_calls tool_call tool_use function_call function_calls pause_turn unexpected_tool_call",
    "failed for now": (
        "error abort aborted cancel cancelled canceled user_cancel insufficient_system_resource network_error timeout "
        "load overloaded internal_error server_error"
    ),
    "failed": (
        "malformed_function_call malformed_response malformed_tool_use malformed_model_output repetition no_image "
        "missing_thought_signature too_many_tool_calls error_limit other "
        "finish_reason_unspecified unspecified"
    ),
}
_ENDINGS: dict[str, Ending] = {word: ending for ending, words in _WORDS.items() for word in words.split()}
_PREFIXES = ("finish_reason_", "stop_reason_")


def ending_of(reason: object) -> Ending:
    """The ending that a server's word stands for. A server that gives none, or an empty one, has ended the answer."""
    if reason is None or reason == "":
        return "ended"
    if not isinstance(reason, str):
        return "unknown"
    word = reason.strip().lower().replace("-", "_").replace(" ", "_")
    for prefix in _PREFIXES:
        word = word.removeprefix(prefix) if word not in _ENDINGS else word
    # Gateways add what the filter found: `content_filter: SAFETY`.
    return _ENDINGS.get(word) or _ENDINGS.get(word.partition(":")[0].rstrip("_"), "unknown")
