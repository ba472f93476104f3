from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from batchroute.router.model import Router
from batchroute.router.training import train as training
from batchroute.router.training.choosing import Contest, without_measuring
from batchroute.router.training.heads import fitting
from batchroute.router.training.train import train
from batchroute.tables import quality_table
from tests.router.training.trainings import CPU, options, write_table


def test_what_auto_takes_where_it_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert without_measuring(1, gpu=True) is None
    on_cpu, launched = without_measuring(1, gpu=False), without_measuring(4, gpu=False)
    assert on_cpu is not None
    assert launched is not None
    assert on_cpu[0] == "heads"
    assert launched == ("finetune", "fine-tuning, since 4 processes were started for it")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    missing = without_measuring(1, gpu=False)
    assert missing is not None
    assert missing[0] == "finetune"
    assert "batchroute[train]" in missing[1]


def test_fine_tuning_wins_only_with_confidence(tmp_path: Path) -> None:
    rows = quality_table.read(write_table(tmp_path, rows=300))
    gap = (rows.small_mean - rows.large_mean).astype(np.float32)
    noise = np.random.default_rng(1).normal(size=len(gap)).astype(np.float32)
    clear = Contest.of(noise, gap, rows, seed=0)
    assert (clear.winner, clear.better_in) == ("finetune", 1.0)
    assert clear.sentence().startswith("fine-tuning is taken: on 300 validation rows")
    assert Contest.of(gap, noise, rows, seed=0).winner == "heads"
    assert Contest.of(gap, gap, rows, seed=0).winner == "heads"


@pytest.mark.parametrize("wins", [True, False])
def test_where_both_are_measured_the_winner_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wins: bool
) -> None:
    """As on a GPU."""
    monkeypatch.setattr(training, "without_measuring", lambda processes, gpu: None)
    monkeypatch.setattr(Contest, "winner", "finetune" if wins else "heads")
    monkeypatch.setitem(fitting._TREES, "n_estimators", 10)
    said: list[str] = []
    result = train(options(tmp_path, write_table(tmp_path, rows=120), method="auto", epochs=1), on_note=said.append)
    assert any("taken: on 24 validation rows heads order with separation" in line for line in said)
    router = Router.load(str(result.output), CPU)
    if wins:
        assert (result.method, result.train_rows, router.heads) == ("finetune", 96, None)
    else:
        assert (result.method, result.train_rows) == ("heads", 120)
        assert router.heads is not None
    assert [path.name for path in result.output.parent.iterdir()] == ["router"]
