from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from batchroute.commands.what_if import show, what_if
from batchroute.errors import InputError
from tests.support.jobs import JobFolder, table

ROWS = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> JobFolder:
    """A committed run whose work is gone: the output tells all."""
    folder = JobFolder(tmp_path_factory.mktemp("what_if"), table(ROWS))
    folder.settings["router"]["price"] = {"input": 0.01, "output": 0}
    folder.calibrate(small_model="echo-small", large_model="echo-large")
    folder.run("policy.small_share=60%")
    shutil.rmtree(folder.folder / "out.work")
    return folder


def test_it_tells_what_a_run_by_that_policy_then_costs(folder: JobFolder, tmp_path: Path) -> None:
    uri = str(folder.output)
    shares = ["0%", "30%", "60%", "100%"]
    forecasts = what_if(uri, [f"small_share={share}" for share in shares]).forecasts
    for share, forecast in zip(shares, forecasts, strict=True):
        other = JobFolder(
            tmp_path / share, None, **{key: folder.settings[key] for key in ("input", "router", "models")}
        )
        outcome = other.run(f"policy.small_share={share}")
        assert forecast.cost is not None
        assert outcome.report.total_cost is not None
        # The models answer alike: what one writes for other rows is known from the night but for their lengths.
        assert forecast.cost.value == pytest.approx(float(outcome.report.total_cost), rel=0.05)
        assert forecast.small == outcome.manifest.counts["small"]


def test_the_policy_of_the_night_costs_what_it_did(folder: JobFolder) -> None:
    result = what_if(str(folder.output), ["small_share=60%"])
    (forecast,) = result.forecasts
    assert forecast.cost is not None
    assert result.night.total_cost is not None
    assert forecast.cost.value == pytest.approx(float(result.night.total_cost), rel=1e-9)
    savings = result.night.cost.savings
    assert savings is not None
    assert savings.share is not None
    assert forecast.savings_share == pytest.approx(float(savings.share), abs=0.01)
    assert forecast.drop is not None
    assert result.night.expected is not None
    assert result.night.expected.drop is not None
    assert forecast.drop.value == pytest.approx(result.night.expected.drop.value)


def test_budgets_thresholds_and_limits_are_decided_anew(folder: JobFolder, capsys: pytest.CaptureFixture[str]) -> None:
    cost = float(what_if(str(folder.output), ["small_share=50%"]).forecasts[0].cost.value)  # type: ignore[union-attr]
    policies = [f"budget={cost:.6f}", "threshold=0.5", "max_quality_drop=30%"]
    result = what_if(str(folder.output), policies)
    budget = result.forecasts[0]
    assert budget.cost is not None
    assert cost * 0.97 < budget.cost.value <= cost + 1e-6
    show(result)
    printed = capsys.readouterr().out
    assert "small_share 60 %, as it was" in printed
    assert "max_quality_drop 30 % (bounded)" in printed


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("small_share", r"--policy small_share: write it as key=value, for example small_share=70%"),
        ("share=0.5", r"--policy share=0.5: write it as key=value"),
        ("small_share=170%", r"--policy small_share=170%: input should be less than or equal to 1"),
        ("budget=lots", r"--policy budget=lots: must be an amount such as 25 USD"),
        ("budget=0.0000001", r"decimal|does not pay"),
    ],
)
def test_a_wrong_policy_is_one_sentence(folder: JobFolder, policy: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        what_if(str(folder.output), [policy])


def test_an_output_that_is_not_committed_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not committed: 'batchroute plan JOB.yaml' shows what a run would do"):
        what_if(str(tmp_path), ["threshold=0.5"])


def test_a_night_that_decided_after_is_decided_again_by_its_confidences(tmp_path: Path) -> None:
    job = JobFolder(tmp_path, table(100), policy={"small_share": "60%", "decide": "after"})
    outcome = job.run()
    found = what_if(
        str(job.output), ["small_share=60%", "small_share=90%", "decide=before,small_share=60%", "decide=after"]
    )
    same, more, before, own = found.forecasts
    total = outcome.report.total_cost
    assert total is not None
    assert same.cost is not None
    # What the small model's answers to deferred rows had cost is only known on average.
    assert same.cost.value == pytest.approx(float(total), rel=1e-6)
    assert (same.small, more.small, own.small) == (60, 90, 60)
    assert more.cost is not None
    assert before.cost is not None
    assert more.cost.value < same.cost.value
    # Before, no row is paid for twice.
    assert before.cost.value < same.cost.value
    assert before.policy == "small_share 60 %, decided before"


def test_a_night_that_decided_before_does_not_say_what_answers_would_tell(tmp_path: Path) -> None:
    job = JobFolder(tmp_path, table(40))
    job.run()
    with pytest.raises(InputError, match="which decided before"):
        what_if(str(job.output), ["decide=after"])
