from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from batchroute import models
from batchroute.errors import InputError
from batchroute.hardware.devices import Precision
from batchroute.models import HEADS_FILE
from batchroute.router.calibration.calibrate import calibrate
from batchroute.router.evaluation import transfer
from batchroute.router.evaluation.evaluate import evaluate
from batchroute.router.heads import ensemble
from batchroute.router.labels import Labels
from batchroute.router.model import Router
from batchroute.router.notes import Notes
from batchroute.router.scoring import score
from batchroute.router.training.heads import fitting
from batchroute.router.training.train import train
from batchroute.tables import quality_table
from tests.router.training.trainings import CPU, EASY, HARD, options, write_table
from tests.support.tiny_models import tiny_router

pytestmark = pytest.mark.usefixtures("few_trees")


def texts(words: str) -> list[str]:
    return [f"{word} number {n}" for word in words.split() for n in range(900, 910)]


@pytest.fixture(scope="module")
def trained(few_trees: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A router's folder and its table."""
    folder = tmp_path_factory.mktemp("heads")
    table = write_table(folder, rows=300)
    return train(options(folder, table, method="heads", test=0.3)).output, table


@pytest.mark.parametrize("label", ["det", "prob", "trans", "gap"])
def test_heads_score_easy_prompts_higher(tmp_path: Path, label: str) -> None:
    result = train(options(tmp_path, write_table(tmp_path), method="heads", label=label))
    assert result.history[0].drop[2] < 0.5 * result.history[0].random_drop[2]
    router = Router.load(str(result.output), CPU)
    easy, hard = score(router, texts(EASY)), score(router, texts(HARD))
    assert np.quantile(easy.scores, 0.1) > np.quantile(hard.scores, 0.9)
    for scored in (easy, hard):
        assert ((scored.scores > 0) & (scored.scores < 1)).all()
        assert scored.spread is not None
        assert (scored.spread >= 0).all()


def test_the_folder_is_an_encoder_with_heads_that_other_commands_take(trained: tuple[Path, str]) -> None:
    folder, table = trained
    models.check(str(folder), router=True)
    notes = json.loads((folder / "router.json").read_text())
    assert notes["training"]["method"] == "heads"
    assert notes["training"]["heads"] == list(fitting.KINDS[::2])
    # Another user than the one who trained may run the job.
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1
    rows = quality_table.read(table)
    assert len(Notes.read(str(folder)).held_out(rows)) == 90
    calibration = calibrate(table, str(folder), CPU)
    assert calibration.rows == 90
    figures = evaluate(table, [str(folder)], CPU, resamples=100)
    drop, random = figures.routers[0].drop["40"].value, figures.random["40"].value
    assert drop is not None
    assert random is not None
    assert drop < 0.5 * random
    assert transfer.check(str(folder), table, CPU).verdict == "serves"


@pytest.mark.parametrize("telling", [True, False])
def test_tasks_are_learned_from_where_they_tell_something(tmp_path: Path, telling: bool) -> None:
    rows = quality_table.read(write_table(tmp_path, rows=200, noise=2.0))
    easy = [prompt.split()[0] in EASY for prompt in rows.prompts]
    task = [("easy" if one else "hard") if telling else f"task {row % 2}" for row, one in enumerate(easy)]
    said: list[str] = []
    table = write_table(tmp_path, rows=200, noise=2.0, task=task)
    result = train(options(tmp_path, table, method="heads"), on_note=said.append)
    left_out = any(line.startswith("the table's tasks are not learned from") for line in said)
    notes = json.loads((result.output / "router.json").read_text())
    assert (left_out, notes["training"]["heads"]) == (not telling, list(fitting.KINDS[:: 1 if telling else 2]))


def test_a_score_is_the_expected_label(trained: tuple[Path, str]) -> None:
    folder, table = trained
    rows = Notes.read(str(folder)).held_out(quality_table.read(table))
    notes = json.loads((folder / "router.json").read_text())
    gaps = Labels.from_dict(notes).apply(rows.small, rows.large)
    scores = score(Router.load(str(folder), CPU), rows.prompts).scores
    for part in (scores < np.median(scores), scores >= np.median(scores)):
        assert scores[part].mean() == pytest.approx(gaps[part].mean(), abs=0.1)


def test_scores_do_not_depend_on_the_batch(trained: tuple[Path, str]) -> None:
    """But for rounding in the encoder, which now and then sends a prompt another way in one of the twenty trees."""
    router = Router.load(str(trained[0]), CPU)
    prompts = [*texts(EASY), "", *texts(HARD), "word " * 100]
    together, embedded = score(router, prompts), score(router, prompts, token_budget=70, with_embeddings=True)
    alone = np.array([score(router, [prompt]).scores[0] for prompt in prompts])
    for scored in (together, embedded):
        assert scored.scores == pytest.approx(alone, abs=0.03)
        assert np.median(np.abs(scored.scores - alone)) < 1e-5
    assert (score(router, prompts).scores == together.scores).all()
    assert embedded.embeddings is not None
    assert embedded.embeddings.shape == (len(prompts), 32)


def test_eight_and_sixteen_bits_keep_the_order(trained: tuple[Path, str]) -> None:
    prompts = [*texts(EASY), *texts(HARD)]
    kinds: tuple[Precision, ...] = ("auto", "int8", "bfloat16")
    exact, *rounded = (score(Router.load(str(trained[0]), CPU, kind), prompts).scores for kind in kinds)
    for scores in rounded:
        assert np.corrcoef(exact, scores)[0, 1] > 0.95


def test_the_same_training_gives_the_same_heads(trained: tuple[Path, str], tmp_path: Path) -> None:
    folder, table = trained
    again = train(options(folder.parent.parent, table, method="heads", test=0.3, output=tmp_path / "again"))
    before, after = load_file(folder / HEADS_FILE), load_file(again.output / HEADS_FILE)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_encoder_reads_a_prompt_once(tmp_path: Path) -> None:
    table = write_table(tmp_path, rows=80)
    said: list[str] = []
    train(options(tmp_path, table, method="heads"), on_note=said.append)
    assert any(line.startswith("the encoder read 80 prompts") for line in said)
    (kept,) = Path(f"{table}.states").iterdir()
    said.clear()
    train(options(tmp_path, table, method="heads", overwrite=True, label="prob"), on_note=said.append)
    assert not any(line.startswith("the encoder read") for line in said)
    # Cut off by a crash: as if it were not there.
    kept.write_bytes(kept.read_bytes()[:100])
    train(options(tmp_path, table, method="heads", overwrite=True), on_note=said.append)
    assert any(line.startswith("the encoder read 80 prompts") for line in said)


def test_any_encoder_can_carry_heads(tmp_path: Path) -> None:
    tiny_router(tmp_path / "base", "deberta", head=False, initializer_range=0.2)
    result = train(options(tmp_path, write_table(tmp_path, rows=80), method="heads"))
    assert np.isfinite(score(Router.load(str(result.output), CPU), texts(EASY)).scores).all()


def test_heads_of_another_encoder_or_damaged_ones_are_refused(trained: tuple[Path, str], tmp_path: Path) -> None:
    tiny_router(tmp_path / "wide", head=False, hidden_size=64)
    heads = ensemble.read(trained[0])
    assert heads is not None
    heads.save(tmp_path / "wide")
    with pytest.raises(InputError, match=r"the heads of the router .* read 64 numbers and its encoder gives 128"):
        Router.load(str(tmp_path / "wide"), CPU)
    file = tmp_path / "wide" / HEADS_FILE
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(InputError, match=r"heads.safetensors' is damaged .*: train the router again"):
        Router.load(str(tmp_path / "wide"), CPU)
    os.truncate(file, 5)
    with pytest.raises(InputError, match="is damaged"):
        Router.load(str(tmp_path / "wide"), CPU)


def test_an_encoder_without_all_its_weights_is_refused(tmp_path: Path) -> None:
    tiny_router(tmp_path / "base", head=False, initializer_range=0.2)
    file = tmp_path / "base" / "model.safetensors"
    weights = load_file(file)
    del weights["encoder.layer.0.output.dense.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"is not whole: its checkpoint has no encoder.layer.0.output.dense.weight"):
        train(options(tmp_path, write_table(tmp_path, rows=60), method="heads"))
