"""The settings of one model: `models.small` and `models.large` in the job file."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError

from batchroute.generators import auto, grammar
from batchroute.generators import backend as backends
from batchroute.generators.backend import Backend
from batchroute.generators.backend_settings import BACKEND_SETTINGS, ApiSettings, WeightsSettings

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


_SAMPLES_TEMPERATURE = 0.7

Agreement = Literal["text", "number", "json", "embedding"]


class Confidence(BaseModel):
    """What a model tells of its own answers: their signals, from which the confidence of a row is made."""

    model_config = ConfigDict(extra="forbid")

    logprobs: bool = Field(default=True, description="log-probabilities of the answer's tokens, where the backend can")
    samples: int = Field(default=0, ge=0, le=64, description="extra sampled answers of each row, to compare with it")
    agree: Agreement | None = Field(
        default=None, description="how samples are compared: text (default), number, json, or embedding"
    )
    model: str | None = Field(default=None, description="the encoder of agree: embedding; a directory or hub id")
    reader: str | None = Field(
        default=None, description="a directory of train --reads answer, which reads each answer with its prompt"
    )

    @model_validator(mode="after")
    def _agreement_has_samples(self) -> Self:
        if self.agree is not None and not self.samples:
            raise ValueError("agree compares extra samples with the answer: set samples, 3 for example")
        if (self.agree == "embedding") != (self.model is not None):
            raise ValueError(
                "agree: embedding needs an encoder: name one as model"
                if self.model is None
                else "model is the encoder of agree: embedding: set agree: embedding, or leave model out"
            )
        return self


def _known(name: Any) -> Any:
    if isinstance(name, str) and name in backends.own_backends():
        # The packages of the environment need not be searched, which takes as long as all else in a small job file.
        return name
    known = [*backends.names(), auto.AUTO]
    if name not in known:
        quoted = [f"'{one}'" for one in known]
        raise PydanticKnownError("literal_error", {"expected": f"{', '.join(quoted[:-1])} or {quoted[-1]}"})
    backends.backend_of(name)
    return name


class ModelSpec(WeightsSettings, ApiSettings):
    """How one model is loaded or reached, and asked."""

    model_config = ConfigDict(extra="forbid")

    backend: Annotated[str, BeforeValidator(_known)]
    model: str = Field(default="echo", description="a directory, a hub id, embedded:NAME, or an endpoint's name for it")
    template: str | None = Field(default=None, description="text around the prompt, with {prompt} in it once")
    system: str | None = Field(default=None, description="system message, put before the prompt")
    generation: Sampling = Field(default_factory=Sampling)
    response_format: dict[str, Any] | None = Field(
        default=None, description="in OpenAI's form: type json_object, or json_schema with its name and schema"
    )
    reasoning: Literal["keep", "drop"] | None = Field(
        default=None, description="the thoughts before an answer, which are never part of it: keep adds a column"
    )
    confidence: Confidence | None = Field(default=None, description="signals to keep of each answer; none unless set")
    _why_backend: str | None = PrivateAttr(default=None)

    @property
    def why_backend(self) -> str | None:
        """Why `backend: auto` took this one; None: the settings name it."""
        return self._why_backend

    @property
    def record(self) -> Backend:
        """What the backend is and can do."""
        return backends.backend_of(self.backend)

    @property
    def url(self) -> str | None:
        """The base URL of the endpoint; None for the choice of the `openai` package."""
        home = self.record.home(self) if self.endpoint is None else None
        return self.endpoint if home is None else home.url

    @property
    def key_variable(self) -> str:
        """The environment variable with the key."""
        home = self.record.home(self)
        return self.api_key_env if home is None or "api_key_env" in self.model_fields_set else home.key

    @property
    def gpus_of_a_copy(self) -> int | None:
        """The GPUs that each rank or worker with the model needs; None for all of its machine."""
        return self.record.gpus(self)

    @property
    def logprobs(self) -> bool:
        """Whether each answer comes with the log-probabilities of its tokens."""
        return self.confidence is not None and self.confidence.logprobs and self.record.logprobs

    @property
    def samples(self) -> int:
        """The extra sampled answers of each row."""
        return 0 if self.confidence is None else self.confidence.samples

    @property
    def reader(self) -> str | None:
        """The reader of answers, whose reading is a signal."""
        return None if self.confidence is None else self.confidence.reader

    @property
    def sampled(self) -> Sampling:
        """How extra samples are decoded: as the answer is, but at a temperature of 0.7 if the answer is greedy."""
        if not self.generation.greedy:
            return self.generation
        return self.generation.model_copy(update={"temperature": _SAMPLES_TEMPERATURE})

    @model_validator(mode="wrap")
    @classmethod
    def _auto_is_a_backend(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(data, dict) or data.get("backend") != auto.AUTO:
            return handler(data)
        settings, why = auto.chosen(data)
        spec = handler(settings)
        spec._why_backend = why
        return spec

    @field_validator("template")
    @classmethod
    def _template_has_one_placeholder(cls, value: str | None) -> str | None:
        if value is not None and value.count(PLACEHOLDER) != 1:
            raise ValueError(f"must contain {PLACEHOLDER} exactly once, where the prompt goes")
        return value

    @field_validator("response_format")
    @classmethod
    def _response_format_is_known(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is None or value == {"type": "json_object"}:
            return value
        schema = value.get("json_schema") if value.get("type") == "json_schema" else None
        if not isinstance(schema, dict) or not {"name", "schema"} <= schema.keys():
            raise ValueError("must be {type: json_object} or {type: json_schema, json_schema: {name: …, schema: …}}")
        if (problem := grammar.problem(value)) is not None:
            raise ValueError(problem)
        return value

    @model_validator(mode="after")
    def _model_is_named(self) -> Self:
        needed = self.record.holds_weights or self.record.behind_api
        if needed and "model" not in self.model_fields_set:
            raise ValueError("model is missing: name a directory, a hub id, embedded:NAME, or the endpoint's model")
        return self

    @model_validator(mode="after")
    def _backend_gives_signals(self) -> Self:
        if self.samples and not self.record.samples:
            raise ValueError(f"confidence.samples: the backend {self.backend} takes no extra samples: leave it out")
        if self.confidence is not None and not (self.logprobs or self.samples or self.confidence.reader):
            gives = [
                what
                for what, can in (("logprobs: true", self.record.logprobs), ("samples: 3", self.record.samples))
                if can
            ]
            remedy = f"set {' or '.join(gives)}, or leave" if gives else "leave"
            raise ValueError(
                f"confidence asks for no signal that the backend {self.backend} gives: {remedy} confidence out"
            )
        return self

    @model_validator(mode="after")
    def _settings_are_the_backends(self) -> Self:
        if self.record.any_settings:
            return self
        for key in sorted((self.model_fields_set & BACKEND_SETTINGS) - self.record.settings):
            readers = [one for one in backends.own_backends().values() if key in one.settings and not one.any_settings]
            names = " and ".join(one.name for one in readers)
            raise ValueError(f"{key} is a setting of the backend {names}, and this one is {self.backend}")
        if (problem := self.record.problem(self)) is not None:
            raise ValueError(problem)
        return self
