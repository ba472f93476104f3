from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModel

from batchroute.errors import InputError
from batchroute.router import quality_table
from batchroute.router.model import Router
from batchroute.router.notes import Notes, prompt_digest
from batchroute.router.scoring import score
from batchroute.router.training import Progress, TrainOptions, train
from tests.tiny_models import tiny_router

CPU = torch.device("cpu")
EASY, HARD = "apple fox dog", "river glass 12 30"


def write_table(folder: Path, rows: int = 200, noise: float = 0.2, **columns: Any) -> str:
    """Prompts that hold easy words, where both models do as well, or hard words, where the small one loses 1."""
    rng = np.random.default_rng(0)
    easy = rng.random(rows) < 0.5
    prompts = [f"{rng.choice((EASY if e else HARD).split())} number {row}" for row, e in enumerate(easy)]
    small = [(float(not e) * -1.0 + rng.normal(0, noise, 3)).tolist() for e in easy]
    large = rng.normal(0, noise, (rows, 2)).tolist()
    # As BART scores are: negative.
    qualities = {
        "small_quality": [[q - 3 for q in row] for row in small],
        "large_quality": [[q - 3 for q in row] for row in large],
    }
    table = pa.table({"prompt": prompts, **qualities, **columns})
    metadata = {"small_model": "small", "large_model": "large", "metric": "bartscore"}
    path = folder / "table.parquet"
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return str(path)


def options(folder: Path, table: str, **more: Any) -> TrainOptions:
    base = folder / "base"
    if not base.exists():
        # So small a model learns nothing in a few steps from the usual 0.02.
        tiny_router(base, head=False, initializer_range=0.2)
    fast = {"epochs": 4, "lr": 3e-3, "batch_size": 16, "max_length": 32, "validation": 0.2, "test": 0.0}
    paths = {"quality_table": table, "base": str(base), "output": folder / "out" / "router"}
    return TrainOptions(**paths | fast | more)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return Router.load(str(folder), CPU).model.state_dict()


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
    assert Router.load(str(result.output), CPU, dtype="float32").model.dtype == torch.float32
    assert json.loads((result.output / "config.json").read_text())["dtype"] == "float32"


def test_progress_is_told_after_every_step_and_epoch(tmp_path: Path) -> None:
    told: list[Progress] = []
    train(options(tmp_path, write_table(tmp_path, rows=100), epochs=2), told.append)
    assert [progress.step for progress in told] == list(range(1, 11))
    assert {(progress.steps, progress.epochs) for progress in told} == {(10, 2)}
    assert [progress.step for progress in told if progress.validation is not None] == [5, 10]
    assert all(np.isfinite(progress.loss) for progress in told)


def test_training_stops_when_it_gets_no_better(tmp_path: Path) -> None:
    table = write_table(tmp_path, noise=2.0)
    whole = train(options(tmp_path, table, epochs=8, patience=8)).history
    result = train(options(tmp_path, table, epochs=8, patience=1, output=tmp_path / "b"))
    separations = [figures.separation for figures in whole]
    first_worse = next(i for i in range(1, 8) if separations[i] < separations[i - 1])
    assert result.history == whole[: first_worse + 1]
    assert result.best_epoch == first_worse


class Interrupted(BaseException):
    pass


def interrupt(progress: Progress) -> None:
    if progress.epoch == 2 and progress.validation is None:
        raise Interrupted


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    """With dropout, whose random numbers must not depend on where the interruption fell."""
    tiny_router(tmp_path / "base", head=False, initializer_range=0.2, hidden_dropout_prob=0.3)
    table = write_table(tmp_path, rows=80)
    calm = train(options(tmp_path, table, epochs=3))
    asked = options(tmp_path, table, epochs=3, output=tmp_path / "resumed" / "router")
    with pytest.raises(Interrupted):
        train(asked, interrupt)
    assert not asked.output.exists()
    told: list[Progress] = []
    resumed = train(asked, told.append)
    assert told[0].epoch == 2
    assert resumed.history == calm.history
    before, after = weights(calm.output), weights(resumed.output)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert list(asked.output.parent.iterdir()) == [asked.output]


def test_the_state_of_another_training_is_not_taken_up(tmp_path: Path) -> None:
    table = write_table(tmp_path, rows=80)
    with pytest.raises(Interrupted):
        train(options(tmp_path, table, epochs=3), interrupt)
    told: list[Progress] = []
    result = train(options(tmp_path, table, epochs=3, seed=5), told.append)
    assert told[0].epoch == 1
    calm = train(options(tmp_path, table, epochs=3, seed=5, output=tmp_path / "calm"))
    assert result.history == calm.history


def test_an_interrupted_training_leaves_the_old_router(tmp_path: Path) -> None:
    table = write_table(tmp_path, rows=80)
    asked = options(tmp_path, table, epochs=2)
    train(asked)
    before = {file.name: file.read_bytes() for file in asked.output.iterdir()}
    with pytest.raises(Interrupted):
        train(options(tmp_path, table, epochs=2, seed=5, overwrite=True), interrupt)
    assert {file.name: file.read_bytes() for file in asked.output.iterdir()} == before


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    """41 rows a batch of 8: the last batch has one row, and so none for the second process."""
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    tiny_router(tmp_path / "base", head=False, initializer_range=0.2, **quiet)
    table = write_table(tmp_path, rows=60, split=["train"] * 41 + ["validation"] * 19)
    asked = options(tmp_path, table, epochs=2, batch_size=8, lr=1e-3)
    alone = train(asked.model_copy(update={"output": tmp_path / "alone"}))
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom batchroute.router.training import TrainOptions, train\n"
        "train(TrainOptions.model_validate_json(sys.argv[1]))\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher = ["torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={port}"]
    command = [sys.executable, "-m", *launcher, str(script), asked.model_dump_json()]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one, two = weights(alone.output), weights(asked.output)
    for name in one:
        # A bias of all keys changes no attention: its gradient is rounding alone, which Adam makes steps of.
        assert torch.allclose(one[name], two[name], atol=1e-5) or name.endswith("key.bias"), name
    assert json.loads((asked.output / "router.json").read_text())["validation"]["epoch"] == alone.best_epoch


def test_the_verdict_and_warnings_are_told_before_training(tmp_path: Path) -> None:
    notes: list[str] = []
    result = train(options(tmp_path, write_table(tmp_path, rows=80), epochs=1, label="trans"), on_note=notes.append)
    assert notes[: len(result.verdict.sentences())] == result.verdict.sentences()
    assert notes[len(result.verdict.sentences()) - 1] == "verdict: routing can pay"
    kept = json.loads((result.output / "router.json").read_text())
    assert kept["verdict"]["kind"] == "routing can pay"
    low, high = kept["t_star_interval"]
    assert low <= kept["t_star"] <= high
    assert kept["t_star"] in kept["t_star_curve"]["t"] or len(kept["t_star_curve"]["t"]) == 50


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
    with pytest.raises(ValidationError, match="learning_rate"):
        options(tmp_path, table, learning_rate=1.0)


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
