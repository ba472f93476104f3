"""A job whose router is an encoder with heads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from batchroute.reports.night import NightReport
from batchroute.router.calibration.calibrate import calibrate
from batchroute.router.model import Router
from batchroute.router.scoring import score
from batchroute.router.training.heads import fitting
from batchroute.router.training.train import train
from batchroute.storage.objects import folder_at
from tests.router.training.trainings import CPU, options, write_table
from tests.support.jobs import JobFolder, table


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained, and calibrated on rows that were left aside."""
    folder = tmp_path_factory.mktemp("heads")
    labelled = write_table(folder, rows=300)
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(fitting._TREES, "n_estimators", 20)
        trained = train(options(folder, labelled, method="heads", test=0.3)).output
    calibrate(labelled, str(trained), CPU)
    return trained


def test_the_output_says_how_far_the_heads_disagree(tmp_path: Path, router: Path) -> None:
    frame = table(100).with_columns(prompt=pl.when(pl.col("id") == "row-3").then(None).otherwise(pl.col("prompt")))
    folder = JobFolder(tmp_path, frame)
    folder.settings["router"]["model"] = str(router)
    folder.run()
    answers = pl.read_parquet(f"{folder.output}/data/*.parquet")
    assert answers.columns[-1] == "score_spread"
    assert answers.filter(id="row-3").select("score", "score_spread").row(0) == (None, None)
    usable = answers.filter(pl.col("prompt").is_not_null())
    direct = score(Router.load(str(router), CPU), usable["prompt"].to_list())
    assert direct.spread is not None
    # One of twenty trees may take another way: the job's batches are smaller.
    np.testing.assert_allclose(usable["score"], direct.scores, atol=0.05)
    np.testing.assert_allclose(usable["score_spread"], direct.spread, atol=0.05)
    night = NightReport.of(folder_at(str(folder.output)))
    assert night.drift is not None
    assert night.drift.drifted
    found = night.spread
    assert found is not None
    (choice,) = night.choices
    threshold = choice.threshold
    assert threshold is not None
    near = usable.filter((pl.col("score") - threshold).abs() <= pl.col("score_spread"))
    assert (found.rows, found.near, found.near_small) == (99, len(near), len(near.filter(pl.col("score") >= threshold)))
    assert found.median == pytest.approx(usable["score_spread"].median(), abs=1e-6)
    before = (usable["score"], usable["score_spread"])
    folder.run(fresh=True)
    again = pl.read_parquet(f"{folder.output}/data/*.parquet").filter(pl.col("prompt").is_not_null())
    assert all(one.equals(other) for one, other in zip(before, (again["score"], again["score_spread"]), strict=True))
