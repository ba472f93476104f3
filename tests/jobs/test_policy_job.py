"""Runs whose policy is a budget, differs by group, or looks at drift."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchroute.commands.validate import validate
from batchroute.errors import InputError, StoppedError
from batchroute.pipeline.identity import identify
from batchroute.reports.night import NightReport
from tests.support.jobs import JobFolder, prompts, table

ROWS = 300


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    folder = JobFolder(tmp_path, table(ROWS))
    folder.calibrate(small_model="echo-small", large_model="echo-large")
    return folder


def night(folder: JobFolder) -> NightReport:
    return NightReport.model_validate_json((folder.output / "report" / "report.json").read_bytes())


def costs(folder: JobFolder) -> tuple[Decimal, Decimal]:
    """Of all rows on small, and on large: echo reads and writes every word."""
    words = pl.read_parquet(folder.input)["prompt"].str.split(" ").list.len().sum()
    return Decimal(words) * Decimal("0.15") / 10**6, Decimal(words) * 2 / 10**6


class TestBudget:
    def test_it_is_spent_to_the_last_row_and_never_exceeded(self, folder: JobFolder) -> None:
        small, large = costs(folder)
        budget = round((small + large) / 2, 6)
        settings = {"models.small.price.input": "0.05", "router.price": "{input: 0, output: 0}"}
        outcome = folder.run(f"policy.budget={budget}", *(f"{key}={value}" for key, value in settings.items()))
        spent = outcome.report.total_cost
        assert spent is not None
        expected = night(folder).expected
        assert expected is not None
        assert expected.cost is not None
        # Within the dearest row of the budget, and never above it.
        assert float(budget) * 0.98 < expected.cost.value <= float(budget)
        # The router's tokens are not echo's words: what comes out is what was expected but for that.
        assert float(spent) == pytest.approx(expected.cost.value, rel=0.05)
        assert outcome.manifest.cutoff == {}
        assert night(folder).choices[0].policy == f"budget {budget.normalize():f} USD"

    def test_it_includes_the_router_and_the_audit(self, folder: JobFolder) -> None:
        small, large = costs(folder)
        folder.settings["router"]["price"] = {"input": 0.1, "output": 0}
        folder.settings["report"] = {"audit": {"share": "30%", "metric": {"name": "chrf"}, "reference": "prompt"}}
        budget = round((small + large) / 2, 6)
        outcome = folder.run(f"policy.budget={budget}")
        assert outcome.report.router.cost
        assert outcome.report.audited is not None
        assert outcome.report.audited.cost
        assert outcome.report.total_cost is not None
        # Which rows are audited is drawn: their cost is that of a sample.
        assert budget * Decimal("0.9") < outcome.report.total_cost <= budget * Decimal("1.1")

    def test_one_that_pays_for_nothing_is_refused_with_what_is_needed(self, folder: JobFolder) -> None:
        with pytest.raises(InputError, match=r"policy\.budget: budget 0\.000001 USD does not pay for this input"):
            folder.run("policy.budget=0.000001")

    def test_prices_are_needed_before_any_work(self, folder: JobFolder) -> None:
        del folder.settings["models"]["large"]["price"]
        with pytest.raises(
            InputError, match=r"policy.budget needs the price of the large model .*models\.large\.price"
        ):
            folder.run("policy.budget=1")
        with pytest.raises(InputError, match=r"policy\.budget needs the price of the large model"):
            validate(folder.load("policy.budget=1"))
        assert not folder.output.exists()

    def test_a_price_by_time_needs_a_calibration_with_times(self, tmp_path: Path) -> None:
        folder = JobFolder(tmp_path, table(ROWS))
        folder.settings["models"]["small"]["price"] = {"gpu_hour": 1}
        with pytest.raises(InputError, match=r"models\.small\.price is by gpu_hour, and how long a row takes is not"):
            validate(folder.load("policy.budget=1"))
        folder.calibrate(small_model="echo-small", large_model="echo-large")
        assert validate(folder.load("policy.budget=1"))

    def test_without_a_calibration_responses_are_taken_to_be_the_longest(self, tmp_path: Path) -> None:
        folder = JobFolder(tmp_path, table(ROWS))
        folder.run("policy.budget=0.05", "models.small.generation.max_new_tokens=64")
        found = night(folder)
        assert any("longest allowed, 64 tokens" in line for line in found.assumptions)
        assert found.expected is not None
        assert found.expected.drop is None
        assert found.expected.cost is not None
        assert found.cost.total_cost is not None
        assert found.expected.cost.low <= float(found.cost.total_cost) <= 0.05

    def test_it_may_not_be_more_than_the_limit_that_stops_the_run(self, folder: JobFolder) -> None:
        with pytest.raises(InputError, match=r"policy\.budget 25 is more than max_cost 20"):
            folder.load("policy.budget=25 USD", "max_cost=20")

    def test_another_calibration_is_another_run(self, folder: JobFolder) -> None:
        before = identify(folder.load("policy.budget=1")).run_id
        calibration = folder.router / "calibration.json"
        tree = json.loads(calibration.read_text())
        tree["gain"]["base"] += 0.1
        calibration.write_text(json.dumps(tree))
        assert identify(folder.load("policy.budget=1")).run_id != before
        assert (
            identify(folder.load("policy.threshold=0.5")).run_id == identify(folder.load("policy.threshold=0.5")).run_id
        )


class TestGroups:
    POLICY: dict[str, Any] = {  # noqa: RUF012
        "by": "team",
        "search": {"threshold": 1.01},
        "support": {"small_share": "80%"},
        "default": {"max_quality_drop": "30%"},
    }

    def test_each_has_its_own_policy(self, folder: JobFolder) -> None:
        folder.settings["policy"] = self.POLICY
        outcome = folder.run()
        rows = folder.answers()
        routes = {team: rows.filter(pl.col("team").eq_missing(team))["route"] for team in ("search", "support", None)}
        assert set(routes["search"]) == {"large"}
        assert (routes["support"] == "small").sum() == 80
        assert 0 < (routes[None] == "small").sum() < 100
        assert outcome.manifest.cutoff.keys() == {"search", "support", "default"}
        rows_of = {choice.group: choice.rows for choice in night(folder).choices}
        assert rows_of == {"search": 100, "support": 100, "default": 100}
        assert "default: max_quality_drop 30 % (bounded): threshold" in folder.log

    def test_a_column_that_is_missing_or_no_name_is_refused_before_any_work(self, folder: JobFolder) -> None:
        folder.settings["policy"] = {**self.POLICY, "by": "tier"}
        with pytest.raises(InputError, match=r"policy\.by: no column 'tier' in the input; it has id, prompt, team"):
            validate(folder.load())

    def test_an_unknown_key_of_a_group_names_its_neighbour(self, folder: JobFolder) -> None:
        folder.settings["policy"] = {"by": "team", "search": {"treshold": 1}, "default": {"threshold": 1}}
        with pytest.raises(
            InputError, match=r"policy\.groups\.search\.treshold: unknown key; did you mean 'threshold'"
        ):
            folder.load()

    def test_numbers_and_booleans_are_matched_as_they_are_written(self, tmp_path: Path) -> None:
        frame = table(60).with_columns(pl.int_range(60).mod(2).alias("n"), pl.int_range(60).mod(3).eq(0).alias("b"))
        folder = JobFolder(tmp_path, frame)
        for by, groups in (("n", {1: {"threshold": 0}}), ("b", {True: {"threshold": 0}})):
            folder.settings["policy"] = {"by": by, **groups, "default": {"threshold": 1.01}}
            folder.run(fresh=True)
            rows = folder.answers()
            assert (rows["route"] == "small").equals(rows[by].cast(pl.Boolean))


class TestDrift:
    """The calibration saw short prompts in English; these nights bring long ones in German."""

    @pytest.fixture
    def other(self, folder: JobFolder) -> JobFolder:
        sentence = "Bitte fasse den folgenden Bericht über die Entwicklung der Preise zusammen, und nenne die Gründe: "
        frame = table(ROWS).with_columns(prompt=pl.lit(sentence * 4) + pl.col("prompt"))
        frame.write_parquet(folder.input, row_group_size=37)
        return folder

    def test_a_night_like_the_calibration_raises_no_alarm(self, folder: JobFolder) -> None:
        table(ROWS).with_columns(prompt=pl.Series(prompts(ROWS, start=1400))).write_parquet(folder.input)
        folder.run()
        found = night(folder)
        assert found.drift is not None
        assert not found.drift.drifted
        assert found.on_drift is None
        assert {feature.name for feature in found.drift.features} >= {"score", "length", "language", "content"}

    def test_it_is_told_and_the_run_goes_on(self, other: JobFolder) -> None:
        outcome = other.run()
        found = night(other)
        assert found.on_drift == "warn"
        assert found.drift is not None
        assert {"length", "language"} <= {feature.name for feature in found.drift.features if feature.drifted}
        assert "Drift: " in other.log
        assert "Prompts are longer" in other.log
        assert outcome.manifest.counts["small"] > 0
        assert outcome.manifest.quality["drift"]["drifted"] is True

    def test_all_rows_may_go_to_large_then(self, other: JobFolder) -> None:
        outcome = other.run("policy.on_drift=large")
        assert outcome.manifest.counts["large"] == ROWS
        assert "All rows go to the large model, since policy.on_drift is large." in other.log

    def test_the_run_may_stop_and_goes_on_when_it_is_told_to(self, other: JobFolder) -> None:
        with pytest.raises(StoppedError, match=r"Stopped, since policy\.on_drift is stop"):
            other.run("policy.on_drift=stop")
        assert not list(other.output.glob("data/*"))
        outcome = other.run("policy.on_drift=warn")
        assert not outcome.was_done
        assert "loading the router" not in other.log, "its scores were kept"

    def test_without_a_reference_nothing_is_looked_for(self, folder: JobFolder) -> None:
        (folder.router / "reference.json").unlink()
        folder.run()
        assert night(folder).drift is None
