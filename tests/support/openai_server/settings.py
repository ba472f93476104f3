"""What a test chooses of the server."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final, Literal

CHAT: Final = "/v1/chat/completions"


@dataclass(kw_only=True)
class Settings:
    # None: whoever comes is served.
    key: str | None = "sk-test"
    models: Collection[str] = ("small", "large")
    # Fields of a chat request, beside those of OpenAI, that this server knows (what a client sends as `extra_body`).
    extra_fields: Collection[str] = ()
    # Whether bodies are checked; a benchmark may do without.
    strict: bool = True
    # From the body of a chat request to the text of its answer; None: the echo. It runs in the server's one thread.
    answer: Callable[[dict[str, Any]], str | None] | None = None
    # What every chat request is answered with as it is, for benchmarks.
    response: dict[str, Any] | None = None
    # Whether the model gives log-probabilities where a request asks for them.
    logprobs: Literal["given", "refused", "ignored"] = "given"
    # Whether more choices than one are given where a request asks for them.
    n: Literal["given", "refused", "ignored"] = "given"
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    # Words of prompt and answer together; more of them in the messages alone is an error.
    context_length: int | None = None
    # Seconds that a chat request takes.
    delay: float = 0.0
    # A chat request whose message is among these waits for its answer until a test takes the message out.
    held: Collection[str] = ()
    # Chat requests beyond these are answered 429.
    max_concurrency: int | None = None
    requests_per_second: float | None = None
    # A step of a batch takes so many seconds, else so many polls; a batch in progress stays so until `finish`.
    batch_seconds: float | None = None
    batch_polls: int = 1
    manual: bool = False
    shuffle: bool = True
    max_batch_requests: int = 50_000
    max_batch_bytes: int = 200_000_000
    # The share of the lines of a batch in progress that is answered when it is cancelled or expires.
    partial_share: float = 0.5
