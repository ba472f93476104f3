"""A job whose router is an encoder with heads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from batchroute.router.model import Router
from batchroute.router.scoring import score
from batchroute.router.training.heads import fitting
from batchroute.router.training.train import train
from tests.router.training.trainings import CPU, options, write_table
from tests.support.jobs import JobFolder, table


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    with pytest.MonkeyPatch.context() as patched:
        for settings in (fitting._TREES, fitting._TASK_TREES):
            patched.setitem(settings, "n_estimators", 20)
        return train(options(folder, write_table(folder), method="heads")).output


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
    before = (usable["score"], usable["score_spread"])
    folder.run(fresh=True)
    again = pl.read_parquet(f"{folder.output}/data/*.parquet").filter(pl.col("prompt").is_not_null())
    assert all(one.equals(other) for one, other in zip(before, (again["score"], again["score_spread"]), strict=True))
