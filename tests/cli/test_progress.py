from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from batchroute.generators.settings import ModelSpec
from batchroute.pipeline import run as job
from batchroute.pipeline.shards.telemetry import attributes
from batchroute.progress import (
    About,
    JsonProgress,
    PlainProgress,
    Progress,
    Tally,
    TerminalProgress,
    describe,
    nothing_more,
)
from batchroute.storage.local import LocalFolder
from batchroute.storage.receipts import Facts, Receipt
from batchroute.storage.units import Stage
from tests.support.jobs import JobFolder, table

SECRET = "a prompt that no log may hold"


def receipts(folder: Path, units: int, **counts: int) -> list[Receipt]:
    """Receipts of committed units of ten rows, one of them failed, each of which holds a secret."""
    stage = Stage("run", LocalFolder(str(folder)))
    batch = pa.record_batch({"prompt": [SECRET] * 10})
    return [
        stage.commit(
            Facts(
                run_id="run",
                unit=f"{n:05d}",
                rows=10,
                first=n * 10,
                last=n * 10 + 9,
                seconds=2.5,
                counts={"failed": 1, **counts},
            ),
            batch.schema,
            [batch],
        )
        for n in range(units)
    ]


def play(progress: Progress, done: list[Receipt], further: list[Receipt], about: About = nothing_more) -> None:
    with progress.stage("small", len(done) + len(further), done, about) as report:
        for receipt in further:
            report(receipt)


def test_plain_progress_writes_the_first_and_the_last_unit_and_is_quiet_between(tmp_path: Path) -> None:
    stream = io.StringIO()
    units = receipts(tmp_path, 5)
    play(PlainProgress(stream), units[:1], units[1:])
    first, last = stream.getvalue().splitlines()
    assert re.match(r"\d\d:\d\d:\d\d small: 2/5 units · 20 rows · .* rows/s · 2 failed · .* left$", first)
    assert re.match(r"\d\d:\d\d:\d\d small: 5/5 units · 50 rows · .* rows/s · 5 failed$", last)


def test_plain_notes_are_their_message() -> None:
    stream = io.StringIO()
    PlainProgress(stream).note("load", "loading the small model", model="m")
    assert re.fullmatch(r"\d\d:\d\d:\d\d loading the small model\n", stream.getvalue())


def test_json_progress_writes_one_object_a_unit(tmp_path: Path) -> None:
    stream = io.StringIO()
    progress = JsonProgress(stream)
    units = receipts(tmp_path, 3)
    progress.note("begin", 'run "1"\nbegins', run="1", folder=tmp_path)
    play(progress, units[:1], units[1:])
    begin, *lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert begin["event"] == "begin"
    assert begin["message"] == 'run "1"\nbegins'
    assert begin["folder"] == str(tmp_path)
    assert [line["unit"] for line in lines] == ["00001", "00002"]
    assert [line["units_done"] for line in lines] == [2, 3]
    assert [line["rows"] for line in lines] == [20, 30]
    assert [line["failed"] for line in lines] == [2, 3]
    assert lines[0]["seconds_left"] >= 0
    assert lines[1]["seconds_left"] == 0
    assert set(lines[0]) == {
        "time", "event", "stage", "unit", "units", "units_done", "rows", "failed", "rows_per_second", "seconds",
        "seconds_left",
    }  # fmt: skip
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", line["time"]) for line in lines)


def gen_ai(folder: Path, model: dict[str, Any], **counts: int) -> dict[str, Any]:
    """The attributes of OpenTelemetry in the JSON line of a unit of this model."""
    stream = io.StringIO()
    units = receipts(folder, 1, **counts)
    play(JsonProgress(stream), [], units, attributes(ModelSpec.model_validate(model)))
    (line,) = map(json.loads, stream.getvalue().splitlines())
    assert line["unit"] == "00000"
    return {key: value for key, value in line.items() if key.startswith(("gen_ai.", "server."))}


def test_json_lines_of_generation_have_the_attributes_of_opentelemetry(tmp_path: Path) -> None:
    tokens = {"input_tokens": 120, "cached_tokens": 20, "output_tokens": 45, "reasoning_tokens": 5}
    assert gen_ai(tmp_path, {"backend": "openai", "model": "gpt-4.1"}, **tokens) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4.1",
        "gen_ai.usage.input_tokens": 120,
        "gen_ai.usage.cache_read.input_tokens": 20,
        "gen_ai.usage.output_tokens": 45,
        "gen_ai.usage.reasoning.output_tokens": 5,
        "server.address": "api.openai.com",
    }


def test_a_local_model_is_its_own_provider_and_has_no_operation(tmp_path: Path) -> None:
    assert gen_ai(tmp_path, {"backend": "vllm", "model": "Qwen/Qwen3-4B"}, input_tokens=3, output_tokens=4) == {
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "Qwen/Qwen3-4B",
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 4,
    }


@pytest.mark.parametrize(
    ("endpoint", "provider", "server"),
    [
        ("https://team.openai.azure.com/openai/v1", "azure.ai.openai", "team.openai.azure.com"),
        ("https://api.groq.com/openai/v1", "groq", "api.groq.com"),
        ("https://api.x.ai/v1", "x_ai", "api.x.ai"),
        ("https://notapi.x.ai/v1", "openai", "notapi.x.ai"),
        ("https://us-central1-aiplatform.googleapis.com/v1", "gcp.vertex_ai", "us-central1-aiplatform.googleapis.com"),
        (f"http://ops:{SECRET.replace(' ', '')}@10.0.0.7:8000/v1", "openai", "10.0.0.7"),
    ],
)
def test_a_provider_is_known_by_its_host(tmp_path: Path, endpoint: str, provider: str, server: str) -> None:
    found = gen_ai(tmp_path, {"backend": "openai_batch", "model": "m", "endpoint": endpoint})
    assert (found["gen_ai.provider.name"], found["server.address"]) == (provider, server)


def test_in_a_run_the_units_of_both_models_have_the_attributes(tmp_path: Path) -> None:
    stream = io.StringIO()
    job.run(JobFolder(tmp_path, table(60)).load(), JsonProgress(stream))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    units = [line for line in lines if line["event"] == "unit"]
    models = {line["stage"]: line.get("gen_ai.request.model") for line in units}
    assert models == {"score": None, "partition": None, "small": "echo-small", "large": "echo-large", "merge": None}
    assert all(line["gen_ai.usage.input_tokens"] > 0 for line in units if line["stage"] in ("small", "large"))


@pytest.mark.parametrize("kind", [PlainProgress, JsonProgress])
def test_no_log_holds_a_prompt(tmp_path: Path, kind: type[PlainProgress | JsonProgress]) -> None:
    stream = io.StringIO()
    play(kind(stream), [], receipts(tmp_path, 2))
    assert "small" in stream.getvalue()
    assert SECRET not in stream.getvalue()


def test_the_rate_and_the_time_left_leave_earlier_attempts_out(tmp_path: Path) -> None:
    units = receipts(tmp_path, 3)
    tally = Tally(3, units[:2])
    assert tally.rows == 20
    assert tally.rate == 0
    assert tally.seconds_left is None
    assert "left" not in describe("small", tally)
    tally.add(units[2])
    assert tally.rate > 0
    assert tally.seconds_left == 0


def test_lines_have_the_cost_so_far_and_the_projected_one(tmp_path: Path) -> None:
    stream = io.StringIO()
    # Forty cents each.
    units = receipts(tmp_path, 10, cost_pico=4 * 10**11)
    play(PlainProgress(stream), units[:2], units[2:])
    first, last = stream.getvalue().splitlines()
    assert re.search(r"small: 3/10 units · 30 rows · .* · 3 failed · \$1\.20, about \$4\.00 in all · .* left$", first)
    assert last.endswith(" · 10 failed · $4.00")


def test_a_stage_without_costs_names_none(tmp_path: Path) -> None:
    for progress in (PlainProgress(stream := io.StringIO()), JsonProgress(stream)):
        units = receipts(tmp_path, 2, cost_pico=0)
        play(progress, [], units)
        assert "$" not in stream.getvalue()
        assert "cost" not in stream.getvalue()


def test_json_lines_have_costs_as_numbers_of_dollars(tmp_path: Path) -> None:
    stream = io.StringIO()
    units = receipts(tmp_path, 3, cost_pico=1_250_000)
    play(JsonProgress(stream), units[:1], units[1:])
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["cost_usd"] for line in lines] == [0.0000025, 0.00000375]
    assert [line["projected_cost_usd"] for line in lines] == [0.00000375, 0.00000375]


def test_the_projected_cost_counts_the_units_of_earlier_attempts(tmp_path: Path) -> None:
    units = receipts(tmp_path, 4, cost_pico=300)
    tally = Tally(8, units[:3])
    assert (tally.pico, tally.projected_pico) == (900, 2400)
    tally.add(units[3].model_copy(update={"counts": {"cost_pico": 1100}}))
    assert (tally.pico, tally.projected_pico) == (2000, 4000)
    assert Tally(8, []).projected_pico == 0


def test_the_bar_on_a_terminal_shows_costs_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    progress = TerminalProgress()
    monkeypatch.setattr(progress, "_console", Console(file=stream, force_terminal=True, width=160))
    units = receipts(tmp_path, 3, cost_pico=5 * 10**11)
    with progress.stage("large", 3, units[:1]) as report:
        report(units[1])
    assert "2 failed · $1.00, about $1.50 in all" in stream.getvalue()


def test_a_long_unit_gives_one_sign_of_life_at_a_time() -> None:
    stream = io.StringIO()
    progress = PlainProgress(stream)
    with progress.stage("small", 2, []):
        for rows in range(64, 513, 64):
            progress.pulse("small", "00000", rows, 512)
    assert [line.split(" ", 1)[1] for line in stream.getvalue().splitlines()] == ["small: unit 00000: 64/512 rows"]
