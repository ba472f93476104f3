from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModel

from batchroute.errors import InputError
from batchroute.router.model import Router
from batchroute.router.notes import Notes, prompt_digest
from batchroute.router.scoring import score
from batchroute.router.training.learner import Progress
from batchroute.router.training.train import train
from batchroute.tables import quality_table
from tests.router.training.trainings import CPU, EASY, HARD, options, weights, write_table
from tests.support.tiny_models import tiny_router


@pytest.mark.parametrize("label", ["det", "prob", "trans", "gap"])
def test_a_trained_router_beats_chance_and_scores_easy_prompts_higher(tmp_path: Path, label: str) -> None:
    result = train(options(tmp_path, write_table(tmp_path), label=label))
    best = result.history[result.best_epoch - 1]
    assert best.mean_drop < 0.75 * np.mean([best.random_drop[0] * n for n in range(1, 10)])
    assert best.drop[0] < best.random_drop[0]
    assert best.drop[2] < 0.5 * best.random_drop[2]
    router = Router.load(str(result.output), CPU)
    easy = score(router, [f"{word} number {n}" for word in EASY.split() for n in range(900, 930)]).scores
    hard = score(router, [f"{word} number {n}" for word in HARD.split() for n in range(900, 930)]).scores
    # Only the order is asked for: the epoch is chosen by how it routes.
    assert np.quantile(easy, 0.1) > np.quantile(hard, 0.9)


def test_the_kept_epoch_is_the_best_one_and_its_weights_are_in_the_folder(tmp_path: Path) -> None:
    table = write_table(tmp_path, noise=3.0)
    result = train(options(tmp_path, table, epochs=6, patience=6, seed=4))
    order = [(-figures.separation, figures.bce) for figures in result.history]
    assert len(order) == 6
    assert result.best_epoch == 1 + order.index(min(order))
    # A last epoch that is the best would prove nothing.
    assert result.best_epoch < 6
    notes = json.loads((result.output / "router.json").read_text())
    # Another user than the one who trained may run the job.
    assert len({path.stat().st_mode for path in result.output.iterdir()}) == 1
    rows = quality_table.read(table)
    digests = set(notes["validation_prompts"].split())
    validation = [prompt for prompt in rows.prompts if prompt_digest(prompt) in digests]
    targets = result.labels.apply(rows.small, rows.large)[[rows.prompts.index(prompt) for prompt in validation]]
    scores = score(Router.load(str(result.output), CPU), validation).scores
    bce = -np.mean(targets * np.log(scores) + (1 - targets) * np.log(1 - scores))
    assert bce == pytest.approx(order[result.best_epoch - 1][1], abs=1e-4)


def test_router_file_tells_where_the_router_comes_from(tmp_path: Path) -> None:
    table = write_table(tmp_path)
    result = train(options(tmp_path, table, epochs=1, lr=None, seed=3))
    notes = json.loads((result.output / "router.json").read_text())
    assert (notes["label"], notes["t_star"]) == ("gap", None)
    assert notes["gap_low"] == result.labels.gap_low < notes["gap_high"] == result.labels.gap_high
    assert (notes["models"], notes["metric"]) == ({"small": "small", "large": "large"}, "bartscore")
    assert notes["max_length"] == 32 == Router.load(str(result.output), CPU).max_length
    assert notes["table"] == {
        "sha256": quality_table.read(table).sha256,
        "train_rows": 160,
        "validation_rows": 40,
    }
    assert (notes["training"]["lr"], notes["training"]["seed"]) == (1e-4, 3)
    assert notes["versions"].keys() >= {"batchroute", "torch", "transformers"}
    assert notes["validation"]["epoch"] == 1
    assert notes["validation"]["cost_advantage"] == [0.1, 0.2, 0.4]
    assert notes["validation"]["drop"] == list(result.history[0].drop)
    train_digests, validation_digests = notes["train_prompts"].split(), notes["validation_prompts"].split()
    assert not set(train_digests) & set(validation_digests)
    prompts = quality_table.read(table).prompts
    assert sorted(train_digests + validation_digests) == sorted(prompt_digest(prompt) for prompt in prompts)
    assert not any(prompt in (result.output / "router.json").read_text() for prompt in prompts)


def test_labels_are_fitted_to_training_rows_only(tmp_path: Path) -> None:
    marks = ["train"] * 150 + ["validation"] * 50
    table = write_table(tmp_path, split=marks)
    result = train(options(tmp_path, table, epochs=1))
    rows = quality_table.read(table).take(range(150))
    gaps = rows.small_mean - rows.large_mean
    assert (result.labels.gap_low, result.labels.gap_high) == pytest.approx(tuple(np.percentile(gaps, [1, 99])))
    assert (result.train_rows, result.validation_rows) == (150, 50)


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    table = write_table(tmp_path, rows=80)
    made = [
        weights(train(options(tmp_path, table, epochs=1, seed=seed, output=tmp_path / name)).output)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    assert not torch.equal(made[0]["classifier.weight"], made[2]["classifier.weight"])


@pytest.mark.parametrize("architecture", ["roberta", "deberta", "modernbert", "gpt2"])
def test_trains_other_architectures(tmp_path: Path, architecture: str) -> None:
    tiny_router(tmp_path / "base", architecture, head=False)
    before = AutoModel.from_pretrained(tmp_path / "base").get_input_embeddings().weight
    result = train(options(tmp_path, write_table(tmp_path, rows=60), epochs=2, lr=1e-3))
    router = Router.load(str(result.output), CPU)
    assert not torch.equal(router.model.get_input_embeddings().weight, before)
    assert np.ptp(score(router, [EASY, HARD]).scores) > 0


def test_a_base_with_another_number_of_labels_gets_a_new_head(tmp_path: Path) -> None:
    tiny_router(tmp_path / "base", labels=3)
    result = train(options(tmp_path, write_table(tmp_path, rows=60), epochs=1))
    assert Router.load(str(result.output), CPU).model.config.num_labels == 1


def test_a_half_precision_base_is_trained_in_float32(tmp_path: Path) -> None:
    tiny_router(tmp_path / "base", head=False)
    AutoModel.from_pretrained(tmp_path / "base", dtype=torch.bfloat16).save_pretrained(tmp_path / "base")
    result = train(options(tmp_path, write_table(tmp_path, rows=60), epochs=1))
    assert Router.load(str(result.output), CPU, precision="float32").model.dtype == torch.float32
    assert json.loads((result.output / "config.json").read_text())["dtype"] == "float32"


def test_progress_is_reported_after_every_step_and_epoch(tmp_path: Path) -> None:
    reports: list[Progress] = []
    train(options(tmp_path, write_table(tmp_path, rows=100), epochs=2), reports.append)
    assert [progress.step for progress in reports] == list(range(1, 11))
    assert {(progress.steps, progress.epochs) for progress in reports} == {(10, 2)}
    assert [progress.step for progress in reports if progress.validation is not None] == [5, 10]
    assert all(np.isfinite(progress.loss) for progress in reports)


def test_training_stops_when_it_gets_no_better(tmp_path: Path) -> None:
    table = write_table(tmp_path, noise=2.0)
    whole = train(options(tmp_path, table, epochs=8, patience=8)).history
    result = train(options(tmp_path, table, epochs=8, patience=1, output=tmp_path / "b"))
    separations = [figures.separation for figures in whole]
    first_worse = next(i for i in range(1, 8) if separations[i] < separations[i - 1])
    assert result.history == whole[: first_worse + 1]
    assert result.best_epoch == first_worse


def test_the_verdict_and_warnings_are_reported_before_training(tmp_path: Path) -> None:
    notes: list[str] = []
    result = train(options(tmp_path, write_table(tmp_path, rows=80), epochs=1, label="trans"), on_note=notes.append)
    assert notes[: len(result.verdict.sentences())] == result.verdict.sentences()
    assert notes[len(result.verdict.sentences()) - 1] == "verdict: routing can pay"
    kept = json.loads((result.output / "router.json").read_text())
    assert kept["verdict"]["kind"] == "routing can pay"
    low, high = kept["t_star_interval"]
    assert low <= kept["t_star"] <= high
    assert kept["t_star"] in kept["t_star_curve"]["t"] or len(kept["t_star_curve"]["t"]) == 50


def test_the_verdict_is_reported_where_there_is_nothing_to_learn(tmp_path: Path) -> None:
    flat = [[0.98]] * 80
    columns = {"prompt": [f"prompt {row}" for row in range(80)], "small_quality": flat, "large_quality": [[1.0]] * 80}
    pq.write_table(pa.table(columns), tmp_path / "flat.parquet")
    notes: list[str] = []
    with pytest.raises(InputError, match="nothing to learn: all 64 training rows get the same 'gap' label"):
        train(options(tmp_path, str(tmp_path / "flat.parquet")), on_note=notes.append)
    assert notes[-1].startswith("verdict: the gap hardly varies: routing is not worth it")


def test_soft_labels_of_single_responses_are_warned_of(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 2, (60, 1)).tolist()
    columns = {"prompt": [f"prompt {row}" for row in range(60)], "small_quality": small, "large_quality": [[1.0]] * 60}
    status = ["ok"] * 55 + ["failed"] * 5
    pq.write_table(pa.table({**columns, "status": status}), tmp_path / "one.parquet")
    notes: list[str] = []
    train(options(tmp_path, str(tmp_path / "one.parquet"), label="trans", epochs=1), on_note=notes.append)
    assert any(note.startswith("t* is 0") for note in notes)
    assert any(note.startswith("with one response per model 'trans' has no shares to learn") for note in notes)
    assert notes[-1] == "5 rows of the table are left out: labelling them failed"


def test_rows_for_tests_are_left_aside(tmp_path: Path) -> None:
    table = write_table(tmp_path, rows=100)
    result = train(options(tmp_path, table, epochs=1, validation=0.1, test=0.3))
    assert (result.train_rows, result.validation_rows) == (60, 10)
    assert len(Notes.read(str(result.output)).held_out(quality_table.read(table))) == 30


def test_an_output_that_is_not_empty_is_only_replaced_when_allowed(tmp_path: Path) -> None:
    table = write_table(tmp_path, rows=60)
    asked = options(tmp_path, table, epochs=1)
    asked.output.mkdir(parents=True)
    (asked.output / "calibration.json").write_text("{}")
    with pytest.raises(InputError, match="is not empty"):
        train(asked)
    train(asked.model_copy(update={"overwrite": True}))
    assert (asked.output / "router.json").is_file()
    # It belonged to the old weights.
    assert not (asked.output / "calibration.json").exists()


def test_mistakes_are_refused_before_any_training(tmp_path: Path) -> None:
    table = write_table(tmp_path, rows=49)
    with pytest.raises(InputError, match="has 49 rows to train and validate on: a router needs at least 50"):
        train(options(tmp_path, table))
    table = write_table(tmp_path, rows=60)
    with pytest.raises(InputError, match=r"model directory .* does not exist"):
        train(options(tmp_path, table, base=str(tmp_path / "none")))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        train(options(tmp_path, table, output=tmp_path / "file"))
    with pytest.raises(InputError, match="cannot write to"):
        train(options(tmp_path, table, output=tmp_path / "file" / "router"))
    with pytest.raises(InputError, match="is a mount point"):
        train(options(tmp_path, table, output=Path("/proc"), overwrite=True))
    zero = write_zero_table(tmp_path)
    with pytest.raises(InputError, match="the large model's mean quality on the 20 validation rows is 0"):
        train(options(tmp_path, zero))
    with pytest.raises(ValidationError, match="learning_rate"):
        options(tmp_path, table, learning_rate=1.0)


def write_zero_table(folder: Path) -> str:
    marks = ["train"] * 60 + ["validation"] * 20
    large = [[1.0]] * 60 + [[0.0]] * 20
    columns = {"prompt": [f"prompt {row}" for row in range(80)], "small_quality": [[0.5]] * 80, "large_quality": large}
    pq.write_table(pa.table({**columns, "split": marks}), folder / "zero.parquet")
    return str(folder / "zero.parquet")


def test_a_training_that_diverges_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="diverged in epoch 1"):
        train(options(tmp_path, write_table(tmp_path, rows=60), lr=1e30))


@pytest.mark.models
def test_the_embedded_encoder_learns(tmp_path: Path) -> None:
    table = write_table(tmp_path)
    asked = options(tmp_path, table, base="embedded:all-minilm-l6-v2", epochs=3, lr=3e-4)
    result = train(asked)
    best = result.history[result.best_epoch - 1]
    assert best.drop[2] < 0.5 * best.random_drop[2]
