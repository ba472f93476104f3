from __future__ import annotations

import datetime as dt
import socket
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import genai_prices
import pytest
from genai_prices.data import providers
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    PriceCalculation,
    PriceVariant,
    Provider,
    StartDateConstraint,
    Tier,
    TieredPrices,
    TimeOfDateConstraint,
)
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from batchroute.costs.price_lists import PriceList, PricesSpec, Resolved, known_prices, resolve
from batchroute.costs.prices import Price, usd
from batchroute.errors import InputError

DAY = dt.date(2026, 11, 24)
NOON = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
OPENAI = "https://api.openai.com/v1"

GOOD = """\
as_of: 2026-11-01
source: "https://example.com/pricing; contract 4711"
models:
  gpt-4o-mini: {input: 0.15, cached_input: 0.075, output: 0.60, batch_discount: 50%}
  gpt-4.1: {input: 2, output: 8}
  meta-llama/Llama-3.1-8B-Instruct: {gpu_hour: 2.10}
"""


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def write(folder: Path, text: str = GOOD) -> str:
    path = folder / "prices.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def problems(folder: Path, text: str) -> list[str]:
    """The lines of the error, without the path of the price file in front."""
    path = write(folder, text)
    with pytest.raises(InputError) as caught:
        PriceList.load(path)
    return [line.removeprefix(path).removeprefix(": ") for line in str(caught.value).splitlines()]


def own_price(resolved: Resolved) -> Price:
    assert resolved.price is not None, resolved.source
    return resolved.price


class TestPriceList:
    def test_a_good_file_is_read_to_the_digit(self, tmp_path: Path) -> None:
        prices = PriceList.load(write(tmp_path))
        assert prices.as_of == dt.date(2026, 11, 1)
        assert prices.source == "https://example.com/pricing; contract 4711"
        mini = prices.models["gpt-4o-mini"]
        assert (mini.input, mini.cached_input, mini.output) == (Decimal("0.15"), Decimal("0.075"), Decimal("0.6"))
        assert mini.batch_discount == Decimal("0.5")
        assert prices.models["meta-llama/Llama-3.1-8B-Instruct"].gpu_hour == Decimal("2.1")

    @pytest.mark.parametrize(
        ("old", "new", "sentence"),
        [
            ("as_of: 2026-11-01\n", "", "as_of: missing"),
            ("as_of: 2026-11-01", "as_of: 20261101", "as_of: write the date as 2026-11-01"),
            ("as_of: 2026-11-01", "as_of: '1793491200'", "as_of: write the date as 2026-11-01"),
            ("as_of: 2026-11-01", "as_of: last week", "as_of: write the date as 2026-11-01"),
            ("as_of: 2026-11-01", "as_of: null", "as_of: write the date as 2026-11-01"),
            ("as_of: 2026-11-01", "as_off: 2026-11-01", "as_off: unknown key; did you mean 'as_of'?"),
            ("source:", "zzzzz:", "zzzzz: unknown key; known here: as_of, source, models"),
            (
                "cached_input",
                "cache_input",
                "models.gpt-4o-mini.cache_input: unknown key; did you mean 'cached_input'?",
            ),
            ("2.10}", "cheap}", "models.meta-llama/Llama-3.1-8B-Instruct.gpu_hour: input should be a valid decimal"),
            ("input: 2,", "input: -2,", "models.gpt-4.1.input: input should be greater than or equal to 0 (it is -2)"),
            ("input: 2, ", "", "models.gpt-4.1: a price by token needs both input and output (0 is allowed)"),
            ("{input: 2, output: 8}", "", "models.gpt-4.1: the section is empty; its keys are input, cached_input"),
            ("50%", "50", "models.gpt-4o-mini.batch_discount: input should be less than or equal to 1 (it is 50)"),
            ("50%", "half", "models.gpt-4o-mini.batch_discount: must be a share such as 60% or 0.6"),
            ("2.10}", "2.10, batch_discount: 50%}", "models.meta-llama/Llama-3.1-8B-Instruct: batch_discount is for"),
            ("gpt-4.1:", "41:", "models.41: the name is text: put it in quotation marks"),
            (
                "gpt-4.1:",
                "gpt-4o-mini:",
                " line 5: the key 'gpt-4o-mini' is there already, on line 4: ",
            ),
            (
                "{input: 2,",
                "{input: 1, input: 2,",
                " line 5: the key 'input' is there already, on line 5: ",
            ),
            ("{input: 2,", "{input: [,", " line 5: not valid YAML: "),
            ("as_of: 2026-11-01", "as_of: 2026-13-01", ": not valid YAML: month must be in 1..12"),
        ],
    )
    def test_a_problem_is_named_in_one_sentence(self, tmp_path: Path, old: str, new: str, sentence: str) -> None:
        assert GOOD.count(old) == 1 or old in ("source:", "as_of: 2026-11-01")
        lines = problems(tmp_path, GOOD.replace(old, new, 1))
        assert any(line.startswith(sentence.removeprefix(": ")) for line in lines), lines

    def test_every_problem_has_a_line_of_its_own(self, tmp_path: Path) -> None:
        lines = problems(tmp_path, "models: {a: {gpu_hour: 1, output: 1}}\n")
        assert lines == ["as_of: missing", "source: missing", "models.a: give input and output, or gpu_hour, not both"]

    def test_an_empty_section_is_named(self, tmp_path: Path) -> None:
        assert problems(tmp_path, "as_of: 2026-11-01\nsource: us\nmodels:\n") == ["models: the section is empty"]

    @pytest.mark.parametrize("text", ["", "- a\n", "just words\n", "null\n"])
    def test_a_price_file_is_a_mapping(self, tmp_path: Path, text: str) -> None:
        assert problems(tmp_path, text) == ["a price file is a mapping with the keys as_of, source, models"]

    def test_merged_mappings_are_no_duplicates(self, tmp_path: Path) -> None:
        text = "as_of: 2026-11-01\nsource: us\nmodels:\n  a: &a {input: 1, output: 2}\n  b: {<<: *a, output: 3}\n"
        prices = PriceList.load(write(tmp_path, text)).models
        assert (prices["b"].input, prices["b"].output) == (1, 3)

    def test_an_unreadable_file_is_named_with_the_reason(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"cannot read the price file .*absent\.yaml: No such file or directory"):
            PriceList.load(str(tmp_path / "absent.yaml"))
        (tmp_path / "latin.yaml").write_bytes(b"source: caf\xe9\n")
        with pytest.raises(InputError, match="not UTF-8 text"):
            PriceList.load(str(tmp_path / "latin.yaml"))


@st.composite
def usages(draw: st.DrawFn) -> tuple[int, int, int]:
    """Input, output and cached tokens."""
    read = draw(st.integers(0, 10**6))
    return read, draw(st.integers(0, 10**6)), draw(st.integers(0, read))


def by_the_package(model: str, usage: tuple[int, int, int], context: dict[str, str] | None = None) -> Decimal:
    read, written, cached = usage
    of = genai_prices.Usage(input_tokens=read, output_tokens=written, cache_read_tokens=cached)
    return genai_prices.calc_price(
        of, model, provider_api_url=OPENAI, genai_request_timestamp=NOON, price_context=context
    ).total_price


class TestKnownPrices:
    @given(usages(), st.sampled_from(["gpt-4o-mini", "gpt-4.1", "gpt-3.5-turbo"]))
    def test_a_published_price_is_the_packages_to_the_digit(self, usage: tuple[int, int, int], model: str) -> None:
        resolved = known_prices(model, on=DAY)
        assert usd(own_price(resolved).of_tokens(*usage)) == by_the_package(model, usage)
        assert resolved.source == f"genai-prices {genai_prices.__version__} on 2026-11-24 (openai)"

    # Batch prices: the first model has none of cached input, the second has one, the third has its usual prices.
    @given(usages(), st.sampled_from(["gpt-4o-mini", "gpt-5.1", "gpt-3.5-turbo-1106"]))
    def test_a_batch_has_its_own_price(self, usage: tuple[int, int, int], model: str) -> None:
        resolved = known_prices(model, OPENAI, batch=True, on=DAY)
        spent = own_price(resolved).of_tokens(*usage)
        assert usd(spent) == by_the_package(model, usage, {"processing": "batch"})
        assert resolved.source.endswith("on 2026-11-24 (openai, batch)")

    def test_in_a_batch_cached_input_has_its_usual_price_unless_listed(self) -> None:
        usual, batch = (own_price(known_prices("gpt-4o-mini", batch=batch, on=DAY)) for batch in (False, True))
        assert usual.input == 2 * (batch.input or 0)
        assert usual.cached_input == batch.cached_input

    @given(usages())
    def test_the_service_tier_flex_has_its_own_price(self, usage: tuple[int, int, int]) -> None:
        price = own_price(known_prices("gpt-5.1", on=DAY, service_tier="flex"))
        assert usd(price.of_tokens(*usage)) == by_the_package("gpt-5.1", usage, {"service_tier": "flex"})

    @pytest.mark.parametrize("tier", [None, "auto", "default"])
    def test_the_usual_service_tier_has_the_usual_price(self, tier: str | None) -> None:
        assert known_prices("gpt-5.1", on=DAY, service_tier=tier) == known_prices("gpt-5.1", on=DAY)

    @pytest.mark.parametrize(
        "model", [model for openai in providers if openai.id == "openai" for model in openai.models]
    )
    def test_each_of_openais_models_has_the_packages_price_or_none_with_a_reason(self, model: ModelInfo) -> None:
        resolved = known_prices(model.id, on=DAY)
        if resolved.price is None:
            assert resolved.source.startswith("genai-prices ")
        else:
            usage = (300_000, 200_000, 100_000)
            assert usd(resolved.price.of_tokens(*usage)) == by_the_package(model.id, usage)

    @pytest.mark.parametrize(
        ("model", "endpoint", "reason"),
        [
            ("no-such-model", None, "does not know it at api.openai.com"),
            ("gpt-4o-mini", "http://user:secret@localhost:8000/v1", "does not know it at localhost"),
            ("gpt-5.4", None, "it depends on the length of the prompt"),
            ("claude-sonnet-4-5", "https://api.anthropic.com/v1", "it depends on the length of the prompt"),
            ("deepseek-chat", "https://api.deepseek.com/v1", "it depends on the time of day"),
            ("sonar", "https://api.perplexity.ai", "it also charges requests_kcount"),
            ("gpt-5.6-cyber", None, "it also charges cache_write_mtok"),
            ("gpt-4o-search-preview", None, "it charges searches"),
            ("text-embedding-3-small", None, "output_mtok not listed"),
            ("gpt-4o", "https://us.openai.azure.com/openai", "the provider's prices differ by region"),
            ("gemini-2.5-flash", "https://europe-west4-aiplatform.googleapis.com/v1", "differ by region"),
            ("glm-4.5-air", "https://open.bigmodel.cn/api/paas/v4", "only the lowest are listed"),
        ],
    )
    def test_a_model_without_a_single_price_has_none(self, model: str, endpoint: str | None, reason: str) -> None:
        resolved = known_prices(model, endpoint, on=DAY)
        assert resolved.price is None
        assert resolved.source.endswith(reason)
        assert "secret" not in resolved.source

    def test_without_a_price_for_batches_there_is_none(self) -> None:
        resolved = known_prices("gpt-4o-mini", batch=True, on=dt.date(2026, 10, 1))
        assert resolved.price is None
        assert resolved.source.endswith("on 2026-10-01: none is listed for batch")

    def test_a_service_tier_that_may_not_be_granted_has_none(self) -> None:
        resolved = known_prices("gpt-5.1", on=DAY, service_tier="priority")
        assert resolved.price is None
        assert resolved.source.endswith("a request for the service tier priority may be answered by another")

    def test_the_endpoint_of_the_environment_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:8000/v1")
        assert known_prices("gpt-4o-mini", on=DAY).price is None
        assert known_prices("gpt-4o-mini", OPENAI, on=DAY).price is not None

    def test_the_date_is_today_unless_given(self) -> None:
        today = {dt.datetime.now(dt.UTC).date()}
        source = known_prices("gpt-4o-mini").source
        today.add(dt.datetime.now(dt.UTC).date())
        assert any(f" on {day} " in source for day in today)

    def test_a_missing_package_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "genai_prices", None)
        with pytest.raises(InputError, match=r"needs a package: pip install 'batchroute\[prices\]'"):
            known_prices("gpt-4o-mini")


def listed(prices: Any, variants: list[PriceVariant] | None = None, name: str = "model") -> ModelInfo:
    return ModelInfo(id=name, match=ClauseEquals(equals=name), prices=prices, price_variants=variants)


def flat(read: str = "1", written: str = "2", **further: Any) -> ModelPrice:
    return ModelPrice(input_mtok=Decimal(read), output_mtok=Decimal(written), **further)


class TestListsMadeUp:
    """Listings that the package allows, whether it has them today or not."""

    def known(
        self,
        monkeypatch: pytest.MonkeyPatch,
        model: ModelInfo,
        on: dt.date = DAY,
        batch: bool = False,
        own: bool = True,
    ) -> Resolved:
        provider = Provider(id="p", name="P", api_pattern="https://p", models=[model] if own else [])

        def calc_price(usage: Any, model_ref: str, **given: Any) -> PriceCalculation:
            moment, context = given["genai_request_timestamp"], given["price_context"]
            return model.calc_price(usage, provider, genai_request_timestamp=moment, price_context=context)

        monkeypatch.setattr(genai_prices, "calc_price", calc_price)
        return known_prices(model.id, "https://p", batch, on)

    def test_the_price_of_the_date_is_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        later = ConditionalPrice(StartDateConstraint(DAY), prices=flat("3"))
        model = listed([ConditionalPrice(prices=flat()), later])
        assert own_price(self.known(monkeypatch, model, DAY - dt.timedelta(1))).input == 1
        assert own_price(self.known(monkeypatch, model, DAY)).input == 3

    def test_a_price_of_later_dates_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = listed([ConditionalPrice(StartDateConstraint(DAY), prices=flat())])
        resolved = self.known(monkeypatch, model, DAY - dt.timedelta(1))
        assert resolved.price is None
        assert resolved.source.endswith("it is listed for later dates only")

    def test_a_price_of_cached_input_by_length_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tiers = TieredPrices(base=Decimal(1), tiers=[Tier(start=1000, price=Decimal(2))])
        resolved = self.known(monkeypatch, listed(flat(cache_read_mtok=tiers)))
        assert resolved.source.endswith("it depends on the length of the prompt")

    @pytest.mark.parametrize("further", ["cache_write_mtok", "requests_kcount", "output_audio_mtok"])
    def test_a_further_charge_makes_a_price_none(self, monkeypatch: pytest.MonkeyPatch, further: str) -> None:
        resolved = self.known(monkeypatch, listed(flat(**{further: Decimal(1)})))
        assert resolved.price is None
        assert resolved.source.endswith(f"it also charges {further}")

    @pytest.mark.filterwarnings("ignore:Unsupported price key")
    def test_a_charge_that_begins_tomorrow_makes_a_price_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        resolved = self.known(monkeypatch, listed(flat(of_tomorrow=Decimal(1))))
        assert resolved.source.endswith("it also charges of_tomorrow")

    def test_a_price_for_batches_by_the_time_of_day_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        night = TimeOfDateConstraint(dt.time(11), dt.time(13))
        resolved = self.known(
            monkeypatch, listed(flat(), [PriceVariant({"processing": "batch"}, flat(), night)]), batch=True
        )
        assert resolved.source.endswith("it depends on the time of day")

    def test_a_price_for_batches_of_another_provider_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = listed(flat(), [PriceVariant({"processing": "batch"}, flat("0.5"))])
        assert own_price(self.known(monkeypatch, model, batch=True)).input == Decimal("0.5")
        assert self.known(monkeypatch, model, batch=True, own=False).source.endswith("none is listed for batch")

    def test_a_price_for_something_more_than_a_batch_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        variant = PriceVariant({"processing": "batch", "route": "eu"}, flat("0.5"))
        assert self.known(monkeypatch, listed(flat(), [variant]), batch=True).price is None

    def test_the_digits_of_a_binary_number_are_rounded_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        price = own_price(self.known(monkeypatch, listed(flat("0.18000000000000002", "1.0399999999999998"))))
        assert (str(price.input), str(price.output)) == ("0.180000", "1.040000")


class TestPricesSpec:
    @pytest.mark.parametrize(
        ("values", "sentence"),
        [
            ({}, "give file, or published: true, or both"),
            ({"published": False}, "give file, or published: true, or both"),
            ({"file": "f", "on": "2026-11-24"}, "on is the date of published prices: it needs published: true"),
            ({"published": True, "on": 20261124}, "write the date as 2026-11-01"),
        ],
    )
    def test_prices_without_a_source_are_refused(self, values: dict[str, object], sentence: str) -> None:
        with pytest.raises(ValidationError) as caught:
            PricesSpec.model_validate(values)
        assert [problem["msg"] for problem in caught.value.errors()] == [f"Value error, {sentence}"]

    def test_a_date_may_be_text_as_of_a_variable(self) -> None:
        assert PricesSpec.model_validate({"published": True, "on": "2026-11-24"}).on == DAY


class TestResolve:
    GIVEN = Price.model_validate({"input": 1, "output": 2})
    BOTH = "gpt-4o-mini"

    def test_the_job_files_own_price_wins(self, tmp_path: Path) -> None:
        spec = PricesSpec(file=write(tmp_path), published=True)
        assert resolve(spec, self.BOTH, "standard", None, self.GIVEN) == Resolved(self.GIVEN, "the job file")
        assert resolve(None, self.BOTH, "standard", None, self.GIVEN) == Resolved(self.GIVEN, "the job file")

    def test_the_teams_file_comes_before_published_prices(self, tmp_path: Path) -> None:
        path = write(tmp_path, GOOD.replace("0.15", "0.11"))
        resolved = resolve(PricesSpec(file=path, published=True), self.BOTH, "standard", None, None)
        assert own_price(resolved).input == Decimal("0.11")
        assert resolved.source == f"{path} as of 2026-11-01 (https://example.com/pricing; contract 4711)"

    def test_the_teams_file_prices_models_that_are_loaded_here(self, tmp_path: Path) -> None:
        resolved = resolve(PricesSpec(file=write(tmp_path)), "meta-llama/Llama-3.1-8B-Instruct", None, None, None)
        assert own_price(resolved).gpu_hour == Decimal("2.1")

    def test_published_prices_are_those_of_the_backend_and_the_pinned_date(self) -> None:
        spec = PricesSpec(published=True, on=DAY)
        early = dt.date(2026, 10, 1)
        assert resolve(spec, self.BOTH, "standard", None, None) == known_prices(self.BOTH, on=DAY)
        assert resolve(spec, self.BOTH, "batch", None, None, early) == known_prices(self.BOTH, None, True, DAY)
        spec = PricesSpec(published=True)
        assert resolve(spec, self.BOTH, "standard", OPENAI, None, early) == known_prices(self.BOTH, on=early)
        flex = resolve(spec, "gpt-5.1", "standard", None, None, DAY, "flex")
        assert flex == known_prices("gpt-5.1", on=DAY, service_tier="flex")

    def test_where_there_is_no_price_each_source_has_its_reason(self, tmp_path: Path) -> None:
        spec = PricesSpec(file=write(tmp_path), published=True, on=DAY)
        resolved = resolve(spec, "gpt-4o-minni", "standard", None, None)
        package = f"genai-prices {genai_prices.__version__}"
        assert resolved == Resolved(
            None, f"not in {spec.file} (which has 'gpt-4o-mini'), and {package} does not know it at api.openai.com"
        )
        assert resolve(PricesSpec(file=spec.file), "zzz", "standard", None, None) == Resolved(
            None, f"not in {spec.file}"
        )
        assert resolve(None, "zzz", "standard", None, None) == Resolved(
            None, "the job file gives none, and has no section prices"
        )

    def test_a_model_that_is_loaded_here_has_no_published_price(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "genai_prices", None)
        resolved = resolve(PricesSpec(published=True), "gpt-4o-mini", None, None, None)
        assert resolved == Resolved(None, "no provider publishes the price of a model that is not behind an API")

    @pytest.mark.parametrize("host", ["notapi.x.ai", "api.x.ai.example.com", "api.x.ai-proxy.net"])
    def test_a_host_that_only_looks_like_a_providers_has_none_of_its_prices(self, host: str) -> None:
        assert known_prices("grok-4", "https://api.x.ai/v1", on=DAY).price is not None
        resolved = known_prices("grok-4", f"https://{host}/v1", on=DAY)
        assert resolved == Resolved(None, f"genai-prices {genai_prices.__version__} does not know it at {host}")

    def test_a_wrong_price_file_ends_the_search(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="as_of: missing"):
            resolve(
                PricesSpec(file=write(tmp_path, "source: us\nmodels: {}\n"), published=True),
                "m",
                "standard",
                None,
                None,
            )
