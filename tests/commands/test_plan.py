from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from batchroute.commands.plan import Plan, make_plan, show
from batchroute.errors import InputError, StoppedError
from batchroute.pipeline.stages.scores import _stretches
from batchroute.progress import NoProgress, PlainProgress
from tests.support.jobs import JobFolder, table

ROWS = 600


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    folder = JobFolder(
        tmp_path, table(ROWS), router={"model": str(tmp_path / "router"), "price": {"input": 0, "output": 0}}
    )
    folder.calibrate(small_model="echo-small", large_model="echo-large")
    return folder


def plan(folder: JobFolder, *overrides: str, sample: int = 200) -> Plan:
    return make_plan(folder.load(*overrides), PlainProgress(), sample)


def test_what_it_expects_comes_true(folder: JobFolder, capsys: pytest.CaptureFixture[str]) -> None:
    planned = plan(folder, "policy.small_share=60%")
    assert not folder.output.exists()
    assert not list(folder.folder.glob("out.work/*"))
    assert 150 <= planned.scored <= 250
    cost = planned.expected.cost
    assert cost is not None
    assert planned.expected.small == pytest.approx(0.6 * ROWS, abs=2)
    outcome = folder.run("policy.small_share=60%")
    assert outcome.report.total_cost is not None
    assert cost.low <= float(outcome.report.total_cost) <= cost.high
    assert planned.expected.drop is not None
    assert outcome.night is not None
    assert outcome.night.expected is not None
    assert outcome.night.expected.drop is not None
    assert planned.expected.drop.value == pytest.approx(outcome.night.expected.drop.value, abs=5)
    show(planned, folder.load())
    printed = capsys.readouterr().out
    assert "600 rows in 1 files; figures are of a sample of" in printed
    assert "nothing is done yet" in printed
    assert printed.count("small_share") == 6


def test_a_budget_is_planned_for_all_rows_by_a_sample_of_them(folder: JobFolder) -> None:
    words = sum(len(text.split()) for text in table(ROWS)["prompt"])
    budget = words * (0.15 + 2.0) / 2 / 10**6
    planned = plan(folder, f"policy.budget={budget:.6f}")
    cost = planned.expected.cost
    assert cost is not None
    assert cost.value == pytest.approx(budget, rel=0.03)
    outcome = folder.run(f"policy.budget={budget:.6f}")
    assert planned.expected.small_share == pytest.approx(outcome.manifest.counts["small"] / ROWS, abs=0.1)


def test_stored_scores_are_used_where_a_run_has_all_of_them(folder: JobFolder) -> None:
    with pytest.raises(StoppedError):
        folder.run("max_cost=0.000001")
    planned = plan(folder)
    assert planned.scored == ROWS
    assert planned.done[0] == "10 of 10 chunks are scored"
    assert planned.expected.small == round(0.6 * ROWS)


def test_alternatives_cost_less_and_lose_more_the_more_rows_go_to_small(folder: JobFolder) -> None:
    alternatives = plan(folder).alternatives
    assert [one.policy for one in alternatives] == [f"small_share {share} %" for share in (10, 30, 50, 70, 90)]
    costs = [one.cost.value for one in alternatives if one.cost is not None]
    drops = [one.drop.value for one in alternatives if one.drop is not None]
    assert len(costs) == len(drops) == 5
    assert costs == sorted(costs, reverse=True)
    assert drops == sorted(drops)


def test_groups_are_planned_each_by_its_policy(folder: JobFolder) -> None:
    folder.settings["policy"] = {"by": "team", "search": {"threshold": 1.01}, "default": {"threshold": 0}}
    planned = plan(folder)
    assert [(one.group, one.small) for one in planned.decided if one.small == 0] == [("search", 0)]
    assert planned.expected.small_share == pytest.approx(2 / 3, abs=0.05)


def test_a_committed_run_says_that_there_is_nothing_to_do(folder: JobFolder) -> None:
    folder.run()
    assert "committed at" in plan(folder).done[0]


def test_an_empty_input_and_a_wrong_job_are_told(tmp_path: Path) -> None:
    empty = JobFolder(tmp_path, table(0))
    assert plan(empty).expected.rows == 0
    empty.settings["input"]["prompt"] = "text"
    with pytest.raises(InputError, match="no column 'text'"):
        plan(empty)


@pytest.mark.parametrize(("rows", "sample"), [(10, 1000), (1001, 1000), (10**7, 1000), (5000, 7)])
def test_a_sample_is_spread_over_the_table(rows: int, sample: int) -> None:
    stretches = _stretches(rows, sample)
    at = np.concatenate([np.arange(*stretch) for stretch in stretches])
    assert len(np.unique(at)) == len(at) <= max(sample, min(rows, sample))
    assert len(at) >= min(rows, sample) * 0.9
    assert at.max() < rows
    assert at.min() < rows / 5
    assert at.max() > rows * 0.8 - 1


def test_a_plan_forecasts_both_ways(tmp_path: Path) -> None:
    job = JobFolder(tmp_path, table(200), policy={"small_share": "50%", "decide": "after"})
    for side in ("small", "large"):
        job.settings["models"][side]["generation"] = {"max_new_tokens": 8}
    plan = make_plan(job.load(), NoProgress())
    assert plan.expected.policy == "small_share 50 %, decided after"
    assert plan.expected.small == 100
    before = plan.alternatives[0]
    assert before.policy == "small_share 50 %, decided before"
    assert plan.expected.cost is not None
    assert before.cost is not None
    # The small model is paid for the deferred rows too.
    assert plan.expected.cost.value > before.cost.value


def test_a_plan_counts_extra_samples(tmp_path: Path) -> None:
    costs = []
    for samples in (0, 3):
        job = JobFolder(tmp_path, table(200), policy={"small_share": "100%", "decide": "after"})
        job.settings["models"]["small"] |= {"generation": {"max_new_tokens": 8}, "confidence": {"samples": samples}}
        job.settings["models"]["small"]["price"] = {"input": 0, "output": 1}
        job.settings["router"]["price"] = {"gpu_hour": 0}
        planned = make_plan(job.load(), NoProgress())
        (before, *_), expected = planned.alternatives, planned.expected
        assert before.cost is not None
        assert expected.cost is not None
        costs.append((before.cost.value, expected.cost.value))
        assert any("3 extra samples" in line for line in planned.assumptions) == bool(samples)
    (before, once), (again, with_samples) = costs
    assert again == pytest.approx(before)
    # Of tokens written alone: four times as many.
    assert with_samples / once == pytest.approx(4, rel=0.01)


def test_a_plan_needs_no_router(tmp_path: Path) -> None:
    calibrate = {"rows": 50, "metric": "exact_match", "reference": "large"}
    policy = {"max_quality_drop": "2%", "decide": "after", "calibrate": calibrate}
    job = JobFolder(tmp_path, table(200), policy=policy)
    del job.settings["router"]
    plan = make_plan(job.load(), NoProgress())
    assert plan.expected.small == 0
    assert any("not known before these rows are measured" in line for line in plan.assumptions)
