"""Where prices come from that the job file does not give: a team's price file, or the published prices of APIs."""

from __future__ import annotations

import datetime as dt
import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from batchroute.costs.prices import MICRO, Price
from batchroute.errors import InputError

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice, PriceCalculation

GIVEN = "the job file"
"""The source of a price that stands there."""

_OPENAI = "https://api.openai.com/v1"
_GEMINI = "generativelanguage.googleapis.com"
_BACKENDS = ("openai", "openai_batch")

_BY_TOKEN = ("input_mtok", "cache_read_mtok", "output_mtok")
_CACHE_WRITES = {"cache_write_mtok", "cache_write_1h_mtok"}
# Charged only for tools and media in a request; a prompt here is text.
_NOT_OF_TEXT = (
    *("web_searches_kcount", "storage_searches_kcount"),
    *("input_audio_mtok", "input_image_mtok", "input_video_mtok", "cache_audio_read_mtok", "cache_image_read_mtok"),
)


def _date(value: object) -> object:
    # pydantic takes a number for seconds since 1970, and YAML reads 20261101 as a number.
    if isinstance(value, dt.date):
        return value
    try:
        return dt.date.fromisoformat(value if isinstance(value, str) else "")
    except ValueError as error:
        raise ValueError("write the date as 2026-11-01") from error


Date = Annotated[dt.date, BeforeValidator(_date)]


class PricesSpec(BaseModel):
    """Where prices come from that the job file does not give: the team's file first, then published ones."""

    model_config = ConfigDict(extra="forbid")

    file: str | None = Field(default=None, description="the team's price file, in YAML")
    published: bool = Field(default=False, description="prices that API providers publish, by the package genai-prices")
    on: Date | None = Field(default=None, description="date of the published prices; today unless set")

    @model_validator(mode="after")
    def _names_a_source(self) -> Self:
        if self.file is None and not self.published:
            raise ValueError("give file, or published: true, or both")
        if self.on is not None and not self.published:
            raise ValueError("on is the date of published prices: it needs published: true")
        return self


@dataclass(frozen=True)
class Resolved:
    """A model's price, and where it is from, in words; where there is no price, why there is none."""

    price: Price | None
    source: str


class PriceList(BaseModel):
    """A team's price file: prices by the name that the job file has for a model, as of a date, with their source."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    as_of: Date
    source: str = Field(min_length=1)
    models: dict[str, Price]

    @classmethod
    def load(cls, path: str) -> PriceList:
        """Read and check a price file.

        Raises:
            InputError: naming the file and the key, a line for each problem.
        """
        tree = _read_yaml(path)
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            problems = [f"{path}: {_explain(problem)}" for problem in error.errors()]
            raise InputError("\n".join(dict.fromkeys(problems))) from error


def resolve(
    spec: PricesSpec | None,
    model: str,
    backend: str,
    endpoint: str | None,
    given: Price | None,
    on: dt.date | None = None,
    service_tier: str | None = None,
) -> Resolved:
    """The price of a model: the job file's own, else the team's file's, else a published one, else none; for the
    backend openai_batch that in a provider batch.

    Published prices are those of the date `spec.on`, else `on`, else of today (UTC). A run that is resumed on another
    day may find others than before, unless one of the two holds the date of its first attempt.

    Args:
        endpoint: base URL of the API; unset: as the backend has it.
        given: the price in the job file.
        service_tier: the field of that name in the requests; a tier with a price of its own is priced by that.

    Raises:
        InputError: the price file is wrong, or published prices are wanted and their package is missing.
    """
    batches = backend == "openai_batch"
    if given is not None:
        return Resolved(given.in_batches() if batches else given, GIVEN)
    if spec is None:
        return Resolved(None, "the job file gives none, and has no section prices")
    reasons = []
    if spec.file is not None:
        prices = PriceList.load(spec.file)
        if model in prices.models:
            found = prices.models[model]
            source = f"{spec.file} as of {prices.as_of} ({prices.source})"
            return Resolved(found.in_batches() if batches else found, source)
        near = difflib.get_close_matches(model, prices.models, n=1)
        reasons.append(f"not in {spec.file}" + (f" (which has '{near[0]}')" if near else ""))
    if spec.published and backend not in _BACKENDS:
        reasons.append(f"no API publishes the price of a model of the backend {backend}")
    elif spec.published:
        published = known_prices(model, endpoint, batches, spec.on or on, service_tier)
        if published.price is not None:
            return published
        reasons.append(published.source)
    return Resolved(None, ", and ".join(reasons))


def known_prices(
    model: str,
    endpoint: str | None = None,
    batch: bool = False,
    on: dt.date | None = None,
    service_tier: str | None = None,
) -> Resolved:
    """What the provider publishes as the price of a model behind an API, by the package genai-prices.

    The package holds the prices; the network is not asked. A price is taken only where input, cached input and output
    tokens at one rate each are all that a prompt of text costs. Where it depends on the length of the prompt, the time
    of day or the region, or where something else is charged, there is none: half of a price would under-report. Prices
    per million tokens are rounded to a millionth of a dollar, half up.

    Args:
        endpoint: base URL of the API; unset: OPENAI_BASE_URL of the environment, else OpenAI's.
        batch: the price in a provider batch.
        on: the date that they are valid on; today (UTC) unless set.
        service_tier: of the requests: `auto`, `default`, or `flex`; others may be answered by another tier than asked.

    Raises:
        InputError: the package is missing.
    """
    try:
        import genai_prices
    except ImportError as error:
        raise InputError("prices.published needs a package: pip install 'batchroute[prices]'") from error
    on = on or dt.datetime.now(dt.UTC).date()
    moment = dt.datetime.combine(on, dt.time(12), dt.UTC)
    url = endpoint or os.environ.get("OPENAI_BASE_URL") or _OPENAI
    # The host alone is told, since a URL may hold a password.
    host = urlsplit(url).hostname or ""
    context = {"processing": "batch"} if batch else {}
    if service_tier not in (None, "auto", "default"):
        context["service_tier"] = str(service_tier)
    lists = f"genai-prices {genai_prices.__version__}"
    try:
        found = genai_prices.calc_price(
            genai_prices.Usage(), model, provider_api_url=url, genai_request_timestamp=moment, price_context=context
        )
    except LookupError:
        return Resolved(None, f"{lists} does not know it at {host}")
    why_not = _unsure(found.provider.id, host) or _not_dated(found, context, moment) or _not_by_token(found, model)
    if why_not:
        return Resolved(None, f"{lists} has no single price of it on {on}: {why_not}")
    return Resolved(_price(found.model_price), f"{lists} on {on} ({', '.join((found.provider.id, *context.values()))})")


def _unsure(provider: str, host: str) -> str | None:
    """Why no price of a provider is taken, by the package's comments and the provider's; None when they are."""
    if provider in ("aws", "azure", "databricks") or (provider == "google" and host != _GEMINI):
        return "the provider's prices differ by region"
    return "of prices by length only the lowest are listed" if provider == "zhipuai" else None


def _not_dated(found: PriceCalculation, context: Mapping[str, str], moment: dt.datetime) -> str | None:
    """Why what was found does not hold all day, for requests such as these; None when it does."""
    from genai_prices.types import ModelPrice, StartDateConstraint

    prices = found.model.prices
    constraints = [None] if isinstance(prices, ModelPrice) else [price.constraint for price in prices]
    starts = [variant.constraint for variant in found.model.price_variants or () if variant.when == context]
    if not all(start is None or isinstance(start, StartDateConstraint) for start in (*constraints, *starts)):
        return "it depends on the time of day"
    if not any(constraint is None or constraint.active(moment) for constraint in constraints):
        return "it is listed for later dates only"
    if not context:
        return None
    asked = " and ".join(context.values())
    if context.get("service_tier", "flex") != "flex":
        return f"a request for the service tier {asked} may be answered by another"
    # A variant need not name all prices: the others are as usual. It is of the provider's own models only.
    own = any(found.model is model for model in found.provider.models)
    if not own or not any(start is None or start.active(moment) for start in starts):
        return f"none is listed for {asked}"
    return None


def _not_by_token(found: PriceCalculation, model: str) -> str | None:
    """Why a prompt of text costs more than its tokens at one rate each; None when it does not."""
    # Such models search for every prompt, and a search is charged, even where the list does not say so.
    if "search" in model.lower():
        return "it charges searches"
    prices = {key: value for key, value in vars(found.model_price).items() if value is not None}
    missing = [key for key in ("input_mtok", "output_mtok") if key not in prices]
    if missing:
        return f"{' and '.join(missing)} not listed"
    if not all(isinstance(prices.get(key, Decimal(0)), Decimal) for key in _BY_TOKEN):
        return "it depends on the length of the prompt"
    further = prices.keys() - {*_BY_TOKEN, *_NOT_OF_TEXT}
    # Anthropic writes to its cache when a request asks for it; elsewhere prompts may be written unasked.
    if found.provider.id == "anthropic":
        further -= _CACHE_WRITES
    return f"it also charges {', '.join(sorted(further))}" if further else None


def _price(listed: ModelPrice) -> Price:
    # All to six decimals: so a price that another version writes as 0.60 stays the same setting of a run.
    values = {"input": listed.input_mtok, "cached_input": listed.cache_read_mtok, "output": listed.output_mtok}
    rounded = {key: v.quantize(MICRO, ROUND_HALF_UP) for key, v in values.items() if isinstance(v, Decimal)}
    return Price.model_validate(rounded)


class _NoKeyTwice(yaml.SafeLoader):
    """YAML in which a key that is there twice is an error; as it is, the last silently wins."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        first = {key.value: key for key in reversed(keys)}
        for key in keys:
            if key is not first[key.value]:
                raise yaml.MarkedYAMLError(problem=f"'{key.value}' is there twice", problem_mark=key.start_mark)
        return node


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        tree = yaml.load(Path(path).read_text(encoding="utf-8"), _NoKeyTwice)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"cannot read the price file {path}: {reason}") from error
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path}: a price file is a mapping with the keys {', '.join(PriceList.model_fields)}")
    return tree


def _explain(problem: Any) -> str:
    """One sentence for one of pydantic's errors."""
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        known = list((PriceList if len(location) == 1 else Price).model_fields)
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    if problem["type"] == "missing":
        return f"{key}: missing"
    if location[-1] == "[key]":
        return f"{'.'.join(location[:-1])}: the name of a model is text: put it in quotation marks"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] not in ("value_error", "model_type", "dict_type") and problem["input"] is not None:
        message += f" (it is {problem['input']!r})"
    return f"{key}: {message[0].lower()}{message[1:]}"
