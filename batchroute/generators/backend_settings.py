"""The settings of a model that not every backend has: of weights that it loads, and of an endpoint that it asks."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from batchroute.fields import Duration
from batchroute.hardware.devices import DType


class WeightsSettings(BaseModel):
    """Settings of a model whose weights a backend loads."""

    # pydantic's checks of a model that is read only as a part of others would be made for nothing, at every start.
    model_config = ConfigDict(defer_build=True)

    batch_size: int | Literal["auto"] = Field(
        default="auto", description="rows generated at a time: up to 64 on CPU, what fits the memory of a GPU"
    )
    batching: Literal["auto", "static", "continuous"] = Field(
        default="auto", description="auto: the fastest that the model and the sampling allow"
    )
    dtype: DType = "auto"
    device_map: str | None = Field(default=None, description="'auto': over all devices of this machine")
    quantization: str | None = Field(
        default=None, description="transformers: int8, nf4 or fp4 (bitsandbytes); vllm: a method of its own"
    )
    adapter: str | None = Field(default=None, description="directory or hub id of a LoRA adapter")
    trust_remote_code: bool = Field(default=False, description="run code that comes with the model")
    allow_pickle: bool = Field(default=False, description="load weights that are no safetensors")
    tensor_parallel: int = Field(
        default=1, ge=1, description="GPUs that one copy of the model is spread over; transformers: by its layers"
    )
    data_parallel: int = Field(default=1, ge=1, description="copies of the model")
    chat_template_kwargs: dict[str, Any] | None = Field(
        default=None, description="further arguments of the chat template: enable_thinking: false"
    )
    engine: dict[str, Any] = Field(default_factory=dict, description="further arguments of the engine: vLLM's LLM")
    python: str | None = Field(default=None, description="the Python of another environment, which runs the engine")

    @field_validator("batch_size")
    @classmethod
    def _at_least_one_row(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("must be at least 1, or auto")
        return value


class ApiSettings(BaseModel):
    """Settings of a model behind an endpoint."""

    model_config = ConfigDict(defer_build=True)

    provider: Literal["openai", "anthropic", "gemini", "mistral"] | None = Field(
        default=None, description="whose Batch API the backend batch asks"
    )
    endpoint: str | None = Field(default=None, description="base URL; the provider's own unless set")
    api_key_env: str = Field(
        default="OPENAI_API_KEY", description="environment variable with the key; the provider's own unless set"
    )
    api_key_file: str | None = Field(default=None, description="file with the key, read again when it is refused")
    api_key_command: str | list[str] | None = Field(
        default=None, description="program that prints the key, run again when it is refused"
    )
    headers: dict[str, str | None] | None = Field(
        default=None, description="of every request; null leaves out one that is sent without being asked for"
    )
    query: dict[str, str] | None = Field(default=None, description="parameters of every request's URL: api-version")
    organization: str | None = Field(default=None, description="OpenAI's organization that is billed")
    project: str | None = Field(default=None, description="OpenAI's project that is billed")
    concurrency: int = Field(default=32, ge=1, description="most requests at a time")
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1, description="of prompts and responses together")
    timeout: float = Field(default=300.0, gt=0, description="seconds that one request may take")
    retries: int = Field(default=6, ge=0, description="of one request, after errors that may pass")
    length_key: Literal["max_tokens", "max_completion_tokens"] | None = Field(
        default=None,
        description="what the endpoint calls the limit on new tokens; max_tokens, of OpenAI max_completion_tokens",
    )
    extra_body: dict[str, Any] = Field(default_factory=dict, description="further fields of each request")
    tokenizer: str | None = Field(default=None, description="counts tokens where the endpoint does not")
    batch_requests: int = Field(default=50_000, ge=1, le=50_000, description="most requests in one provider batch")
    poll_seconds: float = Field(default=60.0, gt=0, description="at most between two polls of a provider batch")
    give_up_after: Duration = Field(
        default=30 * 3600.0, description="a run stops if a provider batch has not ended by then: 30h, 90min, seconds"
    )

    @field_validator("extra_body")
    @classmethod
    def _one_answer_to_the_row(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in ("n", "best_of"):
            if value.get(name) not in (None, 1):
                raise ValueError(
                    f"{name} is {value[name]!r}, but one answer of each row is kept: leave it out, or ask for extra "
                    "samples by confidence.samples"
                )
        if value.get("stream"):
            raise ValueError("stream is true, but answers are read whole: leave it out")
        if "messages" in value:
            raise ValueError("messages would replace the prompt of every row: use template and system")
        return value

    @property
    def gives_tools(self) -> bool:
        """Whether the model may answer with calls of tools."""
        return any(self.extra_body.get(name) for name in ("tools", "functions"))

    @model_validator(mode="after")
    def _one_place_for_the_key(self) -> Self:
        given = [name for name in ("api_key_env", "api_key_file", "api_key_command") if name in self.model_fields_set]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} each say where the key is: leave one")
        if self.api_key_command is not None and not self.api_key_command:
            raise ValueError("api_key_command is empty: name a program, with its arguments")
        return self

    @field_validator("endpoint")
    @classmethod
    def _endpoint_is_a_url(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("https://", "http://")):
            raise ValueError("must be a base URL such as https://api.example.com/v1")
        return None if value is None else value.rstrip("/")


BACKEND_SETTINGS = frozenset({*WeightsSettings.model_fields, *ApiSettings.model_fields})
"""The keys that only some backends read; `Backend.settings` says which."""
