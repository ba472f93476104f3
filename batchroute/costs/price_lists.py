"""Prices from outside the job file: a team's price file, or the published prices of APIs."""

from __future__ import annotations

import contextlib
import datetime as dt
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from batchroute import yaml_files
from batchroute.costs.prices import MICRO, Price
from batchroute.endpoint import base_url
from batchroute.errors import InputError

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice, PriceCalculation, Provider

GIVEN = "the job file"
"""The source of a price that the job file gives."""

_GEMINI = "generativelanguage.googleapis.com"

_BY_TOKEN = ("input_mtok", "cache_read_mtok", "output_mtok")
_CACHE_WRITES = {"cache_write_mtok", "cache_write_1h_mtok"}
# Providers charge these only for tools and media in a request; batchroute's prompts are text.
_NOT_OF_TEXT = (
    *("web_searches_kcount", "storage_searches_kcount"),
    *("input_audio_mtok", "input_image_mtok", "input_video_mtok", "cache_audio_read_mtok", "cache_image_read_mtok"),
)


def _date(value: object) -> object:
    # YAML reads 20261101 as a number, and pydantic would take a number for seconds since 1970.
    if isinstance(value, dt.date):
        return value
    try:
        return dt.date.fromisoformat(value if isinstance(value, str) else "")
    except ValueError as error:
        raise ValueError("write the date as 2026-11-01") from error


Date = Annotated[dt.date, BeforeValidator(_date)]


class PricesSpec(BaseModel):
    """Where missing prices come from: the team's file first, then published prices."""

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
    """A model's price.

    Attributes:
        source: where the price is from, or why there is none, in words.
    """

    price: Price | None
    source: str


class PriceList(BaseModel):
    """A team's price file: prices by the model's name in the job file, with their date and source."""

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
        return yaml_files.check(cls, yaml_files.read(path, "price file", cls), path)


def resolve(
    spec: PricesSpec | None,
    model: str,
    processing: Literal["standard", "batch"] | None,
    endpoint: str | None,
    given: Price | None,
    on: dt.date | None = None,
    service_tier: str | None = None,
) -> Resolved:
    """The price of a model: from the job file, else the team's file, else published, else none.

    Published prices are valid on `spec.on`, else `on`, else today (UTC). They may change before a run is resumed on
    another day, unless `spec.on` or `on` holds the date of its first attempt.

    Args:
        processing: `batch` takes the price in a provider batch; None: no provider publishes a price of this model.
        endpoint: base URL of the API; unset: the backend's default.
        given: the price in the job file.
        service_tier: of the requests; a tier with its own price gets that price.

    Raises:
        InputError: the price file is wrong, or the package with the published prices is missing.
    """
    batches = processing == "batch"
    if given is not None:
        return Resolved(given.in_batches() if batches else given, GIVEN)
    if spec is None:
        return Resolved(None, "the job file gives none, and has no section prices")
    reasons = []
    if spec.file is not None:
        prices = PriceList.load(spec.file)
        if model in prices.models:
            price = prices.models[model]
            source = f"{spec.file} as of {prices.as_of} ({prices.source})"
            return Resolved(price.in_batches() if batches else price, source)
        near = difflib.get_close_matches(model, prices.models, n=1)
        reasons.append(f"not in {spec.file}" + (f" (which has '{near[0]}')" if near else ""))
    if spec.published and processing is None:
        reasons.append("no provider publishes the price of a model that is not behind an API")
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
    """The price that a provider publishes for a model behind an API, from the package genai-prices.

    The package holds the prices; no network is used. A price counts only if a text prompt costs one rate each for
    input, cached input and output tokens, and nothing else. A price that depends on the prompt's length, the time of
    day or the region does not count, because the reported cost would be too low. Prices per million tokens are rounded
    to a millionth of a dollar, half up.

    Args:
        endpoint: base URL of the API; unset: OPENAI_BASE_URL of the environment, else OpenAI's.
        batch: return the price in a provider batch.
        on: the date on which the price is valid; today (UTC) unless set.
        service_tier: of the requests: `auto`, `default`, or `flex`; the provider may answer others by another tier.

    Raises:
        InputError: the package is missing.
    """
    try:
        import genai_prices
    except ImportError as error:
        raise InputError("prices.published needs a package: pip install 'batchroute[prices]'") from error
    on = on or dt.datetime.now(dt.UTC).date()
    moment = dt.datetime.combine(on, dt.time(12), dt.UTC)
    url = base_url(endpoint)
    # Messages name the host alone: a URL may hold a password.
    host = urlsplit(url).hostname or ""
    context = {"processing": "batch"} if batch else {}
    if service_tier not in (None, "auto", "default"):
        context["service_tier"] = str(service_tier)
    lists = f"genai-prices {genai_prices.__version__}"
    listed = None
    with contextlib.suppress(LookupError):
        listed = genai_prices.calc_price(
            genai_prices.Usage(), model, provider_api_url=url, genai_request_timestamp=moment, price_context=context
        )
    if listed is None or not _is_of(listed.provider, url):
        return Resolved(None, f"{lists} does not know it at {host}")
    why_not = _unsure(listed.provider.id, host) or _not_dated(listed, context, moment) or _not_by_token(listed, model)
    if why_not:
        return Resolved(None, f"{lists} has no single price of it on {on}: {why_not}")
    source = f"{lists} on {on} ({', '.join((listed.provider.id, *context.values()))})"
    return Resolved(_price(listed.model_price), source)


def _is_of(provider: Provider, url: str) -> bool:
    """Whether the URL's host is the provider's. The package's patterns also match hosts that only begin like it."""
    known = re.match(provider.api_pattern, url)
    return known is None or known[0].endswith(".") or not re.match(r"[\w.-]", url[known.end() :])


def _unsure(provider: str, host: str) -> str | None:
    """Why a provider's prices do not count, by its own comments and the package's; None if they count."""
    if provider in ("aws", "azure", "databricks") or (provider == "google" and host != _GEMINI):
        return "the provider's prices differ by region"
    return "its prices depend on length, and only the lowest are listed" if provider == "zhipuai" else None


def _not_dated(listed: PriceCalculation, context: Mapping[str, str], moment: dt.datetime) -> str | None:
    """Why the listed price does not hold all day for requests with this context; None if it does."""
    from genai_prices.types import ModelPrice, StartDateConstraint

    prices = listed.model.prices
    constraints = [None] if isinstance(prices, ModelPrice) else [price.constraint for price in prices]
    starts = [variant.constraint for variant in listed.model.price_variants or () if variant.when == context]
    if not all(start is None or isinstance(start, StartDateConstraint) for start in (*constraints, *starts)):
        return "it depends on the time of day"
    if not any(constraint is None or constraint.active(moment) for constraint in constraints):
        return "it is listed for later dates only"
    if not context:
        return None
    kind = " and ".join(context.values())
    if context.get("service_tier", "flex") != "flex":
        return f"a request for the service tier {kind} may be answered by another"
    # A variant lists only the prices that differ from the usual, and only for the provider's own models.
    own = any(listed.model is model for model in listed.provider.models)
    if not own or not any(start is None or start.active(moment) for start in starts):
        return f"none is listed for {kind}"
    return None


def _not_by_token(listed: PriceCalculation, model: str) -> str | None:
    """Why a text prompt costs more than one rate each for its tokens; None if it does not."""
    # Search models search for every prompt. Providers charge the search even where the list has no price for it.
    if "search" in model.lower():
        return "it charges searches"
    prices = {key: value for key, value in vars(listed.model_price).items() if value is not None}
    missing = [key for key in ("input_mtok", "output_mtok") if key not in prices]
    if missing:
        return f"{' and '.join(missing)} not listed"
    if not all(isinstance(prices.get(key, Decimal(0)), Decimal) for key in _BY_TOKEN):
        return "it depends on the length of the prompt"
    further = prices.keys() - {*_BY_TOKEN, *_NOT_OF_TEXT}
    # Anthropic writes to its cache only if a request asks for it; other providers may do so unasked.
    if listed.provider.id == "anthropic":
        further -= _CACHE_WRITES
    return f"it also charges {', '.join(sorted(further))}" if further else None


def _price(listed: ModelPrice) -> Price:
    # Six decimals for all: a run stays the same when another version of the package writes 0.6 as 0.60.
    values = {"input": listed.input_mtok, "cached_input": listed.cache_read_mtok, "output": listed.output_mtok}
    rounded = {key: v.quantize(MICRO, ROUND_HALF_UP) for key, v in values.items() if isinstance(v, Decimal)}
    return Price.model_validate(rounded)
