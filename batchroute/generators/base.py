"""What every generator backend shares: its settings in the job file, its prompts and its responses."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from batchroute.devices import DType

Message = dict[str, str]
"""One chat message: `{"role": …, "content": …}`."""

Prompt = str | list[Message]
"""A prompt is a text or a list of chat messages."""

PLACEHOLDER = "{prompt}"


class Sampling(BaseModel):
    """How a response is decoded. Temperature 0 is greedy decoding."""

    model_config = ConfigDict(extra="forbid")

    max_new_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=0.0, ge=0.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0, description="0: all tokens")
    seed: int = Field(default=0, ge=0)
    stop: list[str] = Field(default_factory=list, description="strings that end a response; not part of it")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    @model_validator(mode="after")
    def _greedy_has_no_choice(self) -> Self:
        if self.greedy and (self.top_p < 1.0 or self.top_k):
            raise ValueError("top_p and top_k need a temperature above 0: at 0 the likeliest token is taken")
        return self

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("stop")
    @classmethod
    def _no_empty_stop(cls, value: list[str]) -> list[str]:
        if "" in value:
            raise ValueError("an empty stop string would end every response at once")
        return value


class ModelSpec(BaseModel):
    """How one model is loaded and asked."""

    model_config = ConfigDict(extra="forbid")

    backend: Literal["transformers", "echo"]
    model: str = Field(default="echo", description="a directory, a hub id, or embedded:NAME")
    template: str | None = Field(default=None, description="text around the prompt, with {prompt} in it once")
    system: str | None = Field(default=None, description="system message, put before the prompt")
    generation: Sampling = Field(default_factory=Sampling)
    batch_size: int = Field(default=16, ge=1, description="rows generated at a time")
    dtype: DType = "auto"

    @field_validator("template")
    @classmethod
    def _template_has_one_placeholder(cls, value: str | None) -> str | None:
        if value is not None and value.count(PLACEHOLDER) != 1:
            raise ValueError(f"must contain {PLACEHOLDER} exactly once, where the prompt goes")
        return value

    @model_validator(mode="after")
    def _a_real_backend_names_its_model(self) -> Self:
        if self.backend != "echo" and "model" not in self.model_fields_set:
            raise ValueError("model is missing: name a directory, a hub id or embedded:NAME")
        return self


@dataclass(frozen=True, slots=True)
class Response:
    """What a model made of one prompt.

    `input_tokens` counts every token that the model read (template and special tokens included), `output_tokens` every
    token that it produced, the end-of-sequence token included: what a server would bill. Exactly one of `text` and
    `error_type` is set.
    """

    text: str | None = None
    finish_reason: Literal["stop", "length"] | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    error_type: str | None = None
    error: str | None = None
    attempts: int = 1


class Generator(Protocol):
    """A loaded model. Made by `batchroute.generators.load`; `close` gives its memory back."""

    load_seconds: float

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Response]:
        """One response a prompt, in the order of the prompts.

        A prompt that this model cannot answer (too long, wrong chat structure, an error of the model) comes back as a
        `Response` with `error_type`; only what would fail for every prompt raises.

        Args:
            prompts: any number; the generator forms its own batches.
            seeds: one a prompt, for sampling; a row's response depends on its own seed alone.
        """
        ...

    def close(self) -> None: ...


def row_seed(seed: int, position: int, sample: int = 0) -> int:
    """The sampling seed of one row: the same whatever batch, unit or process the row is in (63 bits)."""
    digest = hashlib.blake2b(f"{seed}/{position}/{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def as_messages(prompt: Prompt, system: str | None) -> list[Message]:
    """The prompt as chat messages, with the system message in front where one is set."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return [{"role": "system", "content": system}, *messages] if system is not None else messages


def as_text(prompt: Prompt) -> str:
    """The prompt as one text: the contents of its messages, a blank line between them. Also what a router reads."""
    return prompt if isinstance(prompt, str) else "\n\n".join(message["content"] for message in prompt)
