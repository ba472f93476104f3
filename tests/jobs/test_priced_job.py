"""Whole jobs whose prices are not in the job file: from a team's price file, or as providers publish them."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from batchroute import generators
from batchroute.costs.report import CostReport
from batchroute.errors import StoppedError
from batchroute.generators.echo.generator import EchoGenerator
from batchroute.pipeline.identity import identify
from batchroute.pipeline.stages import snapshot
from batchroute.reports.notes import notes
from tests.support.jobs import JobFolder, table

LIST = """\
as_of: 2026-11-01
source: contract 4711
models:
  {router}: {{gpu_hour: 0}}
  echo-small: {{input: {small}, output: 2}}
  gpt-4o-mini: {{input: 4, cached_input: 1, output: 8, batch_discount: 50%}}
"""


@pytest.fixture(autouse=True)
def _answers_without_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generators, "load", lambda spec, device, gpus: EchoGenerator(spec))
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def job_of(folder: Path, **prices: Any) -> JobFolder:
    """A job that gives no price itself; its large model is behind an API."""
    job = JobFolder(folder, table(60))
    models = job.settings["models"]
    models["large"] = {"backend": "openai", "model": "gpt-4o-mini"}
    del models["small"]["price"], job.settings["router"]["price"]
    if prices:
        job.settings["prices"] = prices
    return job


def write(job: JobFolder, small: int = 1) -> str:
    path = job.folder / "prices.yaml"
    path.write_text(LIST.format(router=job.router, small=small))
    return str(path)


def cost_json(job: JobFolder) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((job.output / "report" / "cost.json").read_text())
    return tree


def spent(report: CostReport, side: str, read: str, written: str) -> Decimal:
    """What a model's tokens cost at these prices per million."""
    usage = report.models[side]
    return (usage.input_tokens * Decimal(read) + usage.output_tokens * Decimal(written)) / 10**6


def test_a_price_file_prices_all_models_and_the_report_says_so(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    job.settings["prices"] = {"file": write(job)}
    report = job.run().report
    # The discount of a provider batch is not for requests one by one.
    assert report.models["large"].cost == spent(report, "large", "4", "8") > 0
    assert report.models["small"].cost == spent(report, "small", "1", "2") > 0
    assert report.router.cost == 0
    assert report.total_cost == report.models["small"].cost + report.models["large"].cost
    assert job.answers()["cost"].sum() == report.total_cost
    source = f"{tmp_path}/prices.yaml as of 2026-11-01 (contract 4711)"
    found = cost_json(job)
    assert [found["router"]["price"], *(usage["price"] for usage in found["models"].values())] == [source] * 3
    assert notes(report) == [f"Price of the {name}: {source}" for name in ("router", "small model", "large model")]


def test_published_prices_are_those_of_the_day(tmp_path: Path) -> None:
    job = job_of(tmp_path, published=True, on="2026-11-01")
    report = job.run("models.small.price.input=1", "models.small.price.output=1", "router.price.gpu_hour=0").report
    assert report.models["large"].cost == spent(report, "large", "0.15", "0.6") > 0
    assert report.models["large"].price.endswith(" on 2026-11-01 (openai)")
    assert report.missing_prices == []
    assert notes(report) == [f"Price of the large model: {report.models['large'].price}"]


def test_the_price_in_the_job_file_goes_before_those_of_lists(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    job.settings["prices"] = {"file": write(job), "published": True}
    report = job.run("models.large.price.input=7", "models.large.price.output=0").report
    assert report.models["large"].cost == spent(report, "large", "7", "0")
    assert cost_json(job)["models"]["large"]["price"] == "the job file"


def test_a_run_ends_with_the_prices_that_it_began_with(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    job.settings["prices"] = {"file": write(job)}
    with pytest.raises(StoppedError):
        job.run("max_tokens=1", "units.generate=10")
    write(job, small=1000)
    report = job.run("units.generate=10").report
    assert report.models["small"].cost == spent(report, "small", "1", "2") > 0
    assert job.answers().filter(route="small")["cost"].sum() == report.models["small"].cost
    (run,) = (tmp_path / "out.work").glob("*/run.json")
    frozen = json.loads(run.read_text())["prices"]["small"]
    assert (frozen["price"]["input"], frozen["price"]["output"]) == ("1", "2")
    assert frozen["source"] == report.models["small"].price
    # Nor does a list that changes, or is gone, make another run of it.
    (tmp_path / "prices.yaml").unlink()
    assert job.run("units.generate=10").was_done
    write(job, small=1000)
    report = job.run(fresh=True).report
    assert report.models["small"].cost == spent(report, "small", "1000", "2")


def test_a_price_that_no_list_has_is_null_and_listed_with_the_reason(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    job.settings["prices"] = {"file": write(job), "published": True}
    job.settings["models"]["large"]["model"] = "gpt-4o-minor"
    report = job.run("models.large.endpoint=https://models.example.com/v1").report
    assert notes(report)[-1] == "Cost not known: models.large.price missing."
    assert report.total_cost is None
    assert report.savings is None
    found = cost_json(job)["models"]["large"]
    assert found["cost"] is None
    assert found["price"].startswith(f"not in {tmp_path}/prices.yaml (which has 'gpt-4o-mini'), and genai-prices ")
    assert found["price"].endswith(" does not know it at models.example.com")
    assert notes(report)[-2] == f"No price of the large model: {found['price']}"
    assert notes(report)[-1] == "Cost not known: models.large.price missing."
    assert job.answers().filter(route="large")["cost"].null_count() == report.models["large"].rows


def test_without_lists_the_report_says_where_a_price_could_stand(tmp_path: Path) -> None:
    report = job_of(tmp_path).run().report
    assert report.missing_prices == ["router.price", "models.small.price", "models.large.price"]
    assert report.models["small"].price == "the job file gives none, and has no section prices"


@pytest.mark.parametrize(
    ("backend", "given", "read", "cached", "written"),
    [
        ("openai", False, "4", "1", "8"),
        ("openai_batch", False, "2", "0.5", "4"),
        ("openai", True, "4", "1", "8"),
        ("openai_batch", True, "2", "0.5", "4"),
    ],
)
def test_the_batch_discount_is_for_provider_batches_only(
    tmp_path: Path, backend: str, given: bool, read: str, cached: str, written: str
) -> None:
    job = job_of(tmp_path)
    job.settings["models"]["large"]["backend"] = backend
    if given:
        price = {"input": 4, "cached_input": 1, "output": 8, "batch_discount": "50%"}
        job.settings["models"]["large"]["price"] = price
    else:
        job.settings["prices"] = {"file": write(job)}
    loaded = job.load()
    frozen, _ = snapshot.inspect(loaded, identify(loaded))
    price_of_large = frozen.price("large")
    assert price_of_large is not None
    assert price_of_large.of_tokens(1_000_000, 0, 0) == Decimal(read) * 10**12
    assert price_of_large.of_tokens(1_000_000, 0, 1_000_000) == Decimal(cached) * 10**12
    assert price_of_large.of_tokens(0, 1_000_000) == Decimal(written) * 10**12
