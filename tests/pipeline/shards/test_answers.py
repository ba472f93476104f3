"""The columns of the answers: with signals where the model is asked for them, as before where it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchroute.config.job import JobModel
from batchroute.costs.prices import Price
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


def test_a_hit_is_the_same_answer_and_counted_and_priced_by_itself() -> None:
    price = Price.model_validate({"input": 1, "output": 10})
    fresh = Response(
        "a", "tool_calls", 3, 2, cached_tokens=1, reasoning_tokens=1, logprob=-0.5, agreement=0.5,
        sample_input_tokens=2, sample_output_tokens=4, tool_calls="[]", reasoning="hm",
    )  # fmt: skip
    schema = pa.schema([*answers.SCHEMA, *answers.SIGNALS, answers.TOOL_CALLS, answers.REASONING, answers.FROM_CACHE])
    (paid,) = answers.priced(price, [fresh], 0.0)
    written = answers.answers_table([7], pa.nulls(1, pa.int64()), [paid], schema)
    kept = written.select([name for name in schema.names if name not in ("copy_of", "cost", "attempts", "from_cache")])
    assert answers.hits_of(kept, None)[7][1] is None
    ((hit, cost),) = answers.hits_of(kept, price).values()
    assert (cost, hit.attempts, hit.from_cache) == (0, 0, True)
    assert hit._replace(attempts=1, from_cache=False) == fresh
    counts = answers.counts([paid, (hit, cost), None], price)
    assert counts == {
        **answers.counts([paid, None]), "hits": 1, "hit_input_tokens": 5, "hit_output_tokens": 6,
        "hit_cost_pico": paid[1],
    }  # fmt: skip
    assert answers.counts([(hit, None)])["hit_cost_pico"] == 0


@pytest.mark.parametrize(
    ("price", "costs"),
    [({"input": 1, "output": 10}, [4.2e7, 2.1e7]), ({"gpu_hour": 1}, [4.2e7, 4.2e7]), (None, [4.2e7, 0])],
)
def test_the_full_cost_of_a_hit_is_what_its_tokens_or_other_rows_cost(
    price: dict[str, float] | None, costs: list[float]
) -> None:
    rows = [(Response("a", "stop", 2, 4), 42_000_000), (Response("b", "stop", 1, 2, from_cache=True), 0)]
    schema = answers.schema_of(JobModel.model_validate({"backend": "echo"}), cache=True)
    table = answers.answers_table([0, 1], pa.nulls(2, pa.int64()), rows, schema)
    full = answers.full_costs(table, None if price is None else Price.model_validate(price))
    assert full.tolist() == costs
    without = table.drop_columns(["from_cache"])
    assert answers.full_costs(without, None).tolist() == [42_000_000, 0]


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("price", [None, Price(input="0.15", output="0.6"), Price(input=0, output="1.000001")])
def test_answers_that_come_as_columns_are_written_as_others(price: Price | None, told: bool) -> None:
    responses = [Response("a b", "stop", 2, 2), Response("", "stop", 1, 0), Response("ü", "length", 7, 123456)]
    names = ["text", "finish_reason", "input_tokens", "output_tokens"]
    if told:
        responses[0] = responses[0]._replace(logprob=-0.1, logprob_low=-0.2)
        names += ["logprob", "logprob_low"]
    schema = answers.schema_of(JobModel.model_validate({"backend": "echo", "confidence": {} if told else None}))
    columns = pa.table({name: [getattr(one, name) for one in responses] for name in names})
    positions = pa.chunked_array([[5, 3, 4]], pa.int64())
    found, counted = answers.answers_of_columns(positions, columns, price, schema)
    priced = answers.priced(price, responses, 1.0)
    assert found.equals(answers.answers_table([5, 3, 4], pa.nulls(3, pa.int64()), priced, schema))
    assert list(counted.items()) == list(answers.counts(priced, price).items())
