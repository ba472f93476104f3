"""Labelling on local files with tiny real models: what goes in comes out once, with qualities or a reason."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchroute.commands.label import sample
from batchroute.commands.label.options import LabelOptions
from batchroute.commands.label.pipeline import LabelOutcome, label
from batchroute.commands.label.pipeline import _Labelling as Labelling
from batchroute.errors import EXIT_FAILED_ROWS, EXIT_OK, InputError, StoppedError
from batchroute.pipeline.shards.answers import SIGNALS
from batchroute.progress import PlainProgress
from batchroute.quality import text
from batchroute.tables import quality_table
from tests.generators.transformers.tiny_generators import tiny_decoder
from tests.support.jobs import prompts

TEMPERATURES = {"small": 0.7, "large": 2.0}
ECHO = {"backend": "echo", "price": {"input": 1, "output": 2}}
MODELS = {"small": {**ECHO, "model": "echo-small"}, "large": {**ECHO, "model": "echo-large"}}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """40 prompts; the reference of every other one is what echo will answer."""
    texts = [text.strip() for text in prompts(40)]
    frame = pl.DataFrame(
        {
            "key": range(40),
            "prompt": texts,
            "reference": [text if i % 2 == 0 else "no" for i, text in enumerate(texts)],
            "task": ["even", "odd"] * 20,
        }
    )
    path = tmp_path / "prompts.parquet"
    frame.write_parquet(path, row_group_size=7)
    return path


def options(table: Path, **more: Any) -> LabelOptions:
    values = {"prompts": str(table), "output": str(table.parent / "q.parquet"), "metric": {"name": "exact_match"}}
    return LabelOptions.model_validate(values | {"models": MODELS, "samples": 3, "id": "key"} | more)


def run(given: LabelOptions, fresh: bool = False, responses_a_unit: int = 256) -> tuple[LabelOutcome, str]:
    stream = io.StringIO()
    return label(given, PlainProgress(stream), fresh, responses_a_unit), stream.getvalue()


def test_every_row_is_labelled_in_order_with_as_many_qualities_as_samples(table: Path) -> None:
    outcome, log = run(options(table))
    assert outcome.exit_code == EXIT_OK
    labelled = pl.read_parquet(outcome.output)
    assert labelled["id"].to_list() == list(range(40))
    assert labelled["prompt"].to_list() == pl.read_parquet(table)["prompt"].to_list()
    for side in ("small", "large"):
        assert labelled[f"{side}_quality"].to_list() == [[1.0] * 3, [0.0] * 3] * 20
    assert labelled["status"].unique().to_list() == ["ok"]
    assert labelled["task"].to_list() == ["even", "odd"] * 20
    read = quality_table.read(str(outcome.output))
    assert (len(read), read.failed, read.metadata["small_model"]) == (40, 0, "echo-small")
    assert read.metadata["metric"] == "exact_match"
    sampling = json.loads(read.metadata["sampling"])
    assert (sampling["samples"], sampling["temperature"]) == (3, {"small": 0.7, "large": 0.7})
    assert "only the labels" not in log


def test_the_table_tells_what_each_model_reads_and_writes_and_how_fast(table: Path) -> None:
    outcome, _ = run(options(table))
    read = quality_table.read(str(outcome.output))
    words = [len(text.split()) for text in read.prompts]
    for side in ("small", "large"):
        # Echo reads and writes the prompt.
        assert read.tokens[side].read.tolist() == words
        assert read.tokens[side].written.tolist() == words
        assert 0 < float(read.metadata[f"{side}_seconds_per_token"]) < 1
    assert pl.read_parquet(outcome.output)["small_output_tokens"].list.len().unique().to_list() == [3]


def test_the_report_adds_up(table: Path) -> None:
    report = run(options(table))[0].report
    assert (report.rows, report.labelled, report.failed) == (40, 40, 0)
    assert [usage.rows for usage in report.models.values()] == [120, 120]
    tokens = sum(usage.input_tokens + 2 * usage.output_tokens for usage in report.models.values())
    assert report.total_cost is not None
    assert tokens > 0
    assert int(report.total_cost * 10**6) == tokens
    assert report.mean_quality == {"small": 0.5, "large": 0.5}
    beside = json.loads((table.parent / "q.report.json").read_text())
    assert (beside["labelled"], beside["run_id"]) == (40, report.run_id)
    assert any("40 of 40 rows labelled by exact_match" in line for line in report.sentences())


def test_a_second_time_does_nothing_and_other_settings_are_refused(table: Path) -> None:
    run(options(table))
    before = (table.parent / "q.parquet").stat().st_mtime_ns
    assert run(options(table))[0].was_done
    assert (table.parent / "q.parquet").stat().st_mtime_ns == before
    with pytest.raises(InputError, match=r"samples was 3 and is 4"):
        run(options(table, samples=4))
    assert not run(options(table, samples=4), fresh=True)[0].was_done
    assert len(pl.read_parquet(table.parent / "q.parquet")["small_quality"][0]) == 4
    (table.parent / "other.parquet").write_bytes(b"mine")
    with pytest.raises(InputError, match="is there already, of something else"):
        run(options(table, output=str(table.parent / "other.parquet")))


def test_bad_rows_stay_with_their_reason(tmp_path: Path) -> None:
    frame = pl.DataFrame({"prompt": ["a", None, " ", "b"], "reference": ["a", "x", "y", None]})
    frame.write_parquet(tmp_path / "in.parquet")
    outcome, _ = run(options(tmp_path / "in.parquet", id=None))
    assert outcome.exit_code == EXIT_FAILED_ROWS
    assert run(options(tmp_path / "in.parquet", id=None, max_failed="80%"), fresh=True)[0].exit_code == EXIT_OK
    labelled = pl.read_parquet(outcome.output)
    assert labelled["status"].to_list() == ["ok", "failed", "failed", "failed"]
    assert labelled["error_type"].to_list() == [None, "null_prompt", "empty_prompt", "no_reference"]
    assert labelled["small_quality"].to_list() == [[1.0] * 3, [], [], []]
    assert outcome.report.failures == {"empty_prompt": 1, "no_reference": 1, "null_prompt": 1}
    read = quality_table.read(str(outcome.output))
    assert (read.prompts, read.failed) == (["a"], 3)


def test_a_real_model_samples_differently_and_again_the_same(table: Path, tmp_path: Path) -> None:
    model = {"backend": "transformers", "model": str(tiny_decoder(tmp_path / "model", chat=True)), "dtype": "float32"}
    pair = {
        "small": {**model, "generation": {"max_new_tokens": 6}},
        "large": {**model, "generation": {"max_new_tokens": 8, "temperature": 2.0}},
    }
    given = {"models": pair, "keep_responses": True, "metric": {"name": "chrf"}}
    first = table.parent / "q.responses.parquet"
    run(options(table, **given))
    second = run(options(table, **given, output=str(tmp_path / "again.parquet")))[0].output
    responses = pl.read_parquet(first)
    assert responses.equals(pl.read_parquet(tmp_path / "again.responses.parquet"))
    for side in ("small", "large"):
        assert all(len(row) == 3 for row in responses[f"{side}_responses"])
        assert sum(len(set(row)) > 1 for row in responses[f"{side}_responses"].to_list()) > 30
    assert json.loads(quality_table.read(str(second)).metadata["sampling"])["temperature"] == {
        "small": 0.7,
        "large": 2.0,
    }


def test_one_sample_keeps_the_models_own_decoding_and_says_what_it_is_good_for(table: Path) -> None:
    outcome, log = run(options(table, samples=1))
    assert "only the labels 'det' and 'gap' make sense" in log
    assert json.loads(quality_table.read(str(outcome.output)).metadata["sampling"])["temperature"]["small"] == 0.0


def test_kept_responses_can_be_labelled_by_another_metric_without_any_model(table: Path) -> None:
    run(options(table, keep_responses=True))
    recorded = table.parent / "q.responses.parquet"
    given = options(recorded, models=None, id="id", output=str(table.parent / "r.parquet"), metric={"name": "rouge"})
    outcome, log = run(given)
    labelled = quality_table.read(str(outcome.output))
    assert "model echo" not in log
    assert labelled.metadata["small_model"] == "echo-small"
    assert [list(quality) for quality in labelled.small[:2]] == [[1.0] * 3, [0.0] * 3]
    assert outcome.report.models == {}


def test_recorded_lists_of_any_length_and_plain_texts(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "prompt": ["p", "q", "r"],
            "reference": ["yes"] * 3,
            "small_responses": [["yes", "no"], ["yes", None], []],
            "large_responses": ["yes", "no", "yes"],
        }
    )
    frame.write_parquet(tmp_path / "log.parquet")
    given = options(tmp_path / "log.parquet", models=None, id=None, names={"small": "s"}, max_failed="50%")
    labelled = pl.read_parquet(run(given)[0].output)
    assert labelled["small_quality"].to_list() == [[1.0, 0.0], [1.0], []]
    assert labelled["large_quality"].to_list() == [[1.0], [0.0], []]
    assert labelled["error"].to_list()[2] == "small model: there is no response"
    assert quality_table.read(str(given.output)).metadata.get("large_model") is None


def test_one_models_responses_are_recorded_and_the_other_is_asked(table: Path) -> None:
    known = pl.read_parquet(table).with_columns(
        log_responses=pl.lit(["no", "yes"]), log_output_tokens=pl.lit([2, 3]), log_logprob=pl.lit([-0.5, -1.5])
    )
    known.write_parquet(table)
    given = options(table, recorded={"large": "log"}, names={"large": "from-logs"}, keep_responses=True)
    outcome, log = run(given)
    assert "loading the small model" in log
    assert "loading the large model" not in log
    labelled = pl.read_parquet(outcome.output)
    assert labelled["small_quality"].to_list() == [[1.0] * 3, [0.0] * 3] * 20
    assert labelled["large_quality"].to_list() == [[0.0, 0.0], [1.0, 0.0]] * 20
    assert labelled["large_output_tokens"].to_list() == [[2, 3]] * 40
    assert labelled["large_logprob"].to_list() == [[-0.5, -1.5]] * 40
    assert [len(tokens) for tokens in labelled["small_output_tokens"]] == [3] * 40
    read = quality_table.read(str(outcome.output))
    assert (read.metadata["small_model"], read.metadata["large_model"]) == ("echo-small", "from-logs")
    assert list(outcome.report.models) == ["small"]
    kept = pl.read_parquet(table.parent / "q.responses.parquet")
    assert kept["large_responses"].to_list() == [["no", "yes"]] * 40
    again = options(
        table.parent / "q.responses.parquet",
        recorded={"small": "large", "large": "small"},
        models=None,
        id="id",
        output=str(table.parent / "swapped.parquet"),
    )
    swapped = pl.read_parquet(run(again)[0].output)
    assert swapped["small_quality"].to_list() == labelled["large_quality"].to_list()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"recorded": {"large": "log"}}, "recorded responses: no column 'log_responses'"),
        ({"recorded": {"large": "log"}, "models": None}, "label needs --job for the small model"),
        ({"names": {"small": "other"}}, "--small-model names the model of recorded responses"),
        ({"prompt": "text"}, "no column 'text' in the input"),
        ({"reference": "truth"}, "no column 'truth' in the input"),
        ({"id": "nr"}, "no column 'nr' in the input"),
        ({"models": None}, "label needs --job for the two models"),
        ({"id": "task"}, "repeats"),
    ],
)
def test_mistakes_are_one_sentence(table: Path, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        run(options(table, **change))


def test_an_input_that_was_copied_again_is_the_same_input(table: Path) -> None:
    first, _ = run(options(table))
    copied = table.read_bytes()
    table.unlink()
    table.write_bytes(copied)
    again, _ = run(options(table))
    assert again.was_done
    assert again.report == first.report
    Path(first.output).unlink()
    run(options(table))
    pl.read_parquet(table).with_columns(pl.col("prompt") + "?").write_parquet(table)
    with pytest.raises(InputError, match="another input"):
        run(options(table))


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_json_lines_and_csv_are_labelled_as_parquet_is(table: Path, ending: str) -> None:
    frame, path = pl.read_parquet(table), table.with_suffix(f".{ending}")
    frame.write_ndjson(path) if ending == "jsonl" else frame.write_csv(path)
    expected, _ = run(options(table))
    of_text = options(path, output=str(table.parent / "text.parquet"))
    found, log = run(of_text)
    assert "columns: key: int64" in log or "key" in log.partition("columns")[2]
    assert pl.read_parquet(found.output).equals(pl.read_parquet(expected.output))
    assert run(of_text)[0].was_done


def test_recorded_lists_in_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    rows = {"prompt": ["p", "q"], "reference": ["a", "b"], "small_responses": [["a", "b"], ["c"]]}
    pl.DataFrame(rows | {"large_responses": [["a"], ["b"]]}).write_ndjson(path)
    outcome, _ = run(options(path, models=None, id=None))
    assert pl.read_parquet(outcome.output)["small_quality"].to_list() == [[1.0, 0.0], [0.0]]


def test_recorded_responses_of_one_model_only_and_a_metric_without_references(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pl.DataFrame({"prompt": ["p"], "small_responses": [["a"]]}).write_parquet(path)
    with pytest.raises(InputError, match="recorded responses: no column 'large_responses'"):
        run(options(path, models=None, id=None))
    pl.DataFrame({"prompt": ["p"], "small_responses": [[1]], "large_responses": ["a"]}).write_parquet(path)
    with pytest.raises(InputError, match=r"'small_responses' is .*; recorded responses are lists of text"):
        run(options(path, models=None, id=None))
    pl.DataFrame({"prompt": ["p"], "small_responses": ["a"], "large_responses": ["a"]}).write_parquet(path)
    with pytest.raises(InputError, match="the metric exact_match needs a reference"):
        run(options(path, models=None, id=None))


@pytest.fixture
def slow_metric(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The real metric, which fails once after the first unit."""
    left = [2]  # the first of them is the trial before anything begins
    measure = text.TextMetric.measure

    def once(self: text.TextMetric, items: Any) -> Any:
        if left[0] == 0:
            left[0] = -1
            raise KeyboardInterrupt
        left[0] -= 1
        return measure(self, items)

    monkeypatch.setattr(text.TextMetric, "measure", once)
    return left


def test_what_is_done_is_not_done_again(table: Path, slow_metric: list[int]) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(options(table), responses_a_unit=30)
    assert slow_metric == [-1]
    work = next((table.parent / "q.parquet.work").iterdir())
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*.parquet")}
    assert len(before) == 9
    outcome, log = run(options(table), responses_a_unit=30)
    assert "loading the small model" not in log
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert pl.read_parquet(outcome.output)["small_quality"].to_list() == [[1.0] * 3, [0.0] * 3] * 20


def test_fresh_removes_nothing_that_label_did_not_write(table: Path) -> None:
    with pytest.raises(InputError, match="among the files of the input"):
        run(options(table, output=str(table)), fresh=True)
    other = table.parent / "other" / "mine.parquet"
    other.parent.mkdir()
    other.write_bytes(b"mine")
    with pytest.raises(InputError, match="was not written by this command and stays"):
        run(options(table, output=str(other)), fresh=True)
    assert other.read_bytes() == b"mine"
    with pytest.raises(InputError, match="is a folder"):
        run(options(table, output=str(other.parent)), fresh=True)
    with pytest.raises(InputError, match="among the files of the input"):
        run(options(table, prompts=str(table.parent / "p*.parquet"), output=str(table.parent / "pq.parquet")))
    with pytest.raises(InputError, match="is written to local disk"):
        run(options(table, output="s3://bucket/q.parquet"))


def test_a_metric_that_cannot_work_shows_before_any_sampling(table: Path) -> None:
    with pytest.raises(InputError, match="the model directory '/none/such' does not exist"):
        run(options(table, metric={"name": "embedding", "model": "/none/such"}))
    pl.read_parquet(table).drop("reference").write_parquet(table.parent / "bare.parquet")
    with pytest.raises(InputError, match="needs a reference: name its column"):
        run(options(table.parent / "bare.parquet"))
    assert not list(table.parent.glob("q.parquet.work/*/small"))


def test_responses_can_be_kept_later(table: Path) -> None:
    run(options(table))
    assert run(options(table, keep_responses=True))[0].was_done
    assert len(pl.read_parquet(table.parent / "q.responses.parquet")["small_responses"][0]) == 3


def test_leftovers_of_a_table_that_was_removed_are_replaced(table: Path) -> None:
    run(options(table, keep_responses=True))
    for path in [table.parent / "q.parquet", *(table.parent / "q.parquet.work").rglob("*.json")]:
        path.unlink()
    shutil.rmtree(table.parent / "q.parquet.work")
    pl.read_parquet(table).head(7).write_parquet(table)
    assert run(options(table, keep_responses=True))[0].report.rows == 7
    assert pl.read_parquet(table.parent / "q.responses.parquet").height == 7


def test_text_that_is_not_utf8_fails_its_row_alone(tmp_path: Path) -> None:
    bad = pa.array([b"yes", b"\xff"], pa.binary()).view(pa.string())
    good = pa.array(["yes", "yes"])
    path = tmp_path / "in.parquet"
    for column in ("reference", "small_responses"):
        columns = {"prompt": ["p", "q"], "reference": good, "small_responses": good, "large_responses": good}
        pq.write_table(pa.table({**columns, column: bad}), path)
        labelled = pl.read_parquet(run(options(path, models=None, id=None), fresh=True)[0].output)
        assert labelled["status"].to_list() == ["ok", "failed"]


def test_no_rows_same_samples_and_names_for_a_job_are_refused(table: Path) -> None:
    pl.read_parquet(table).head(0).write_parquet(table.parent / "empty.parquet")
    with pytest.raises(InputError, match="has no rows"):
        run(options(table.parent / "empty.parquet"))
    with pytest.raises(InputError, match="3 samples at temperature 0 would all be the same"):
        run(options(table, temperature=0))
    with pytest.raises(InputError, match="here the job names it"):
        run(options(table, names={"small": "s"}))


def test_a_metric_that_gives_no_numbers_stops_the_labelling(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "exact_match", lambda response, reference: float("nan"))
    with pytest.raises(StoppedError, match="the metric failed on all 240 responses of a unit"):
        run(options(table))


def test_the_signals_of_each_response_stand_beside_its_quality(table: Path) -> None:
    outcome, _ = run(options(table))
    labelled = pl.read_parquet(outcome.output)
    assert "small_agreement" not in labelled.columns
    for side in ("small", "large"):
        for signal in ("logprob", "logprob_low"):
            values = labelled[f"{side}_{signal}"]
            assert values.dtype == pl.List(pl.Float64)
            assert values.list.len().to_list() == labelled[f"{side}_quality"].list.len().to_list() == [3] * 40
            assert values.explode().null_count() == 0
    # Sampled responses of one prompt have signals of their own.
    assert labelled["small_logprob"].list.n_unique().min() == 3


def test_agreement_is_kept_where_extra_samples_were_taken(table: Path) -> None:
    models = {**MODELS, "small": {**MODELS["small"], "confidence": {"samples": 2}}}
    outcome, _ = run(options(table, models=models, samples=1))
    labelled = pl.read_parquet(outcome.output)
    assert set(labelled["small_agreement"].explode()) == {0.0, 0.5, 1.0}
    assert "large_agreement" not in labelled.columns
    assert outcome.report.models["small"].sample_output_tokens > 0
    assert "its extra samples: 0 tokens in" in " ".join(outcome.report.sentences())


def test_a_labelling_without_signals_of_an_earlier_version_goes_on(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The units that the earlier version made have no signals, and keep their place."""
    earlier = pa.schema([field for field in sample.SCHEMA if field.name not in SIGNALS.names])
    with monkeypatch.context() as patch:
        patch.setattr(sample, "SCHEMA", earlier)
        patch.setattr(sample, "SIGNALS", pa.schema([]))
        patch.setattr(Labelling, "sample", stopping_before_large(Labelling.sample))
        with pytest.raises(StoppedError):
            run(options(table))
    outcome, _ = run(options(table))
    labelled = pl.read_parquet(outcome.output)
    assert labelled["small_logprob"].to_list() == [[None] * 3] * 40
    assert labelled["large_logprob"].explode().null_count() == 0


def stopping_before_large(whole: Any) -> Any:
    def sample(self: Any, side: str) -> None:
        if side == "large":
            raise StoppedError("cut")
        whole(self, side)

    return sample
