"""The columns of the answers: with signals where the model is asked for them, as before where it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchroute.generators.base import Response
from batchroute.pipeline.shards import answers
from tests.support.jobs import JobFolder, table


def units(folder: JobFolder, shard: str) -> list[Path]:
    return sorted(folder.folder.glob(f"out.work/*/{shard}/*.parquet"))


def with_samples(folder: JobFolder) -> dict[str, Any]:
    models = folder.settings["models"]
    return {**models, "small": {**models["small"], "confidence": {"samples": 3}}}


def test_units_of_a_model_that_is_asked_have_the_signals_and_others_have_not(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, table(90))
    folder.settings["models"] = with_samples(folder)
    outcome = folder.run()
    assert outcome.report.rows["ok"] == 90
    plain, signals = answers.SCHEMA.names, answers.SIGNALS.names
    assert all(pq.read_schema(unit).names == [*plain, *signals] for unit in units(folder, "small"))
    assert all(pq.read_schema(unit).names == plain for unit in units(folder, "large"))
    rows = pl.concat(pl.read_parquet(unit) for unit in units(folder, "small"))
    assert rows.select(pl.col("logprob", "logprob_low", "agreement").null_count()).row(0) == (0, 0, 0)
    assert rows["agreement"].n_unique() == 4
    assert (rows["sample_output_tokens"] == 3 * rows["output_tokens"]).all()
    # Extra samples are paid: the tokens that were written count four times.
    usage = outcome.report.models["small"]
    assert usage.sample_output_tokens == 3 * usage.output_tokens == rows["sample_output_tokens"].sum()
    assert usage.cost is not None
    assert float(usage.cost) == pytest.approx((usage.input_tokens * 0.05 + 4 * usage.output_tokens * 0.1) / 1e6)
    assert pl.read_parquet(folder.output / "data/*.parquet")["cost"].sum() == usage.cost + (
        outcome.report.models["large"].cost or 0
    )


def test_the_reports_tokens_and_charges_have_those_of_extra_samples(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, table(90))
    folder.settings["models"] = with_samples(folder)
    usage = folder.run().report.models["small"]
    focus = pl.read_parquet(folder.output / "report/focus.parquet")
    assert usage.output_tokens * 4 in focus["ConsumedQuantity"].cast(pl.Float64).to_list()
    sentence = f"include extra samples: 0 tokens read and {3 * usage.output_tokens:,} written."
    assert sentence in (folder.output / "report/report.md").read_text()


def test_an_answer_is_read_back_as_it_was_and_an_earlier_versions_without_signals() -> None:
    response = Response("a", "stop", 3, 1, logprob=-0.5, logprob_low=-1.0, agreement=0.25, sample_output_tokens=4)
    schema = pa.schema([*answers.SCHEMA, *answers.SIGNALS])
    copies = pa.nulls(1, pa.int64())
    (row,) = answers.answers_table([7], pa.chunked_array([copies]), [(response, 12)], schema).to_pylist()
    assert answers.answer_of(row) == (response, 12)
    (row,) = answers.answers_table([7], pa.chunked_array([copies]), [(response, 12)]).to_pylist()
    earlier, cost = answers.answer_of(row)
    assert (earlier.text, earlier.logprob, earlier.sample_output_tokens, cost) == ("a", None, 0, 12)
