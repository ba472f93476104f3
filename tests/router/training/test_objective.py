from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from batchroute.router.labels import Labels
from batchroute.router.training.averaging import Average
from batchroute.router.training.encoders import untrained_router
from batchroute.router.training.objective import Objective, Targets
from batchroute.tables.quality_table import QualityTable
from tests.support.tiny_models import tiny_router

CPU = torch.device("cpu")


@pytest.mark.parametrize("architecture", ["bert", "roberta", "deberta", "modernbert", "gpt2"])
def test_the_first_logit_is_the_classifiers_own_and_all_three_train_the_encoder(
    tmp_path: Path, architecture: str
) -> None:
    router = untrained_router(str(tiny_router(tmp_path / "router", architecture)), 64, CPU)
    batch = router.tokenizer(["apple fox", "river"], padding=True, return_tensors="pt")
    inputs = {name: batch[name] for name in [*router.inputs[:1], "attention_mask"]}
    objective = Objective(router.model).eval()
    logits = objective(**inputs)
    assert logits.shape == (2, 3)
    assert torch.equal(logits[:, :1], router.model(**inputs).logits)
    for column in range(3):
        objective.zero_grad()
        objective(**inputs)[:, column].sum().backward()
        assert router.model.get_input_embeddings().weight.grad.abs().sum() > 0


def test_targets_are_the_label_and_both_qualities_in_their_own_range() -> None:
    small, large = [np.array([-4.0 + i / 100]) for i in range(101)], [np.array([-2.0])] * 101
    table = QualityTable("t", "", [f"{i}" for i in range(101)], small, large, None, None, None, {})
    labels = Labels.fit("gap", small, large)
    targets = Targets.of(labels, table, CPU)
    assert targets.values[:, 0].tolist() == pytest.approx(labels.apply(small, large).tolist())
    assert targets.values[[0, 50, 100], 1].tolist() == pytest.approx([0.0, 0.5, 1.0], abs=1e-6)
    assert targets.values[:, 2].tolist() == [0.0] * 101


def test_the_loss_is_binary_cross_entropy_with_the_qualities_at_half_weight() -> None:
    targets = Targets(torch.tensor([[0.25, 1.0, 0.0], [0.5, 0.5, 0.5]]), torch.ones(2))
    loss = targets.loss(torch.tensor([[0.0, 2.0, -1.0]]), np.array([0]))
    own = -(0.25 * np.log(0.5) + 0.75 * np.log(0.5))
    sides = np.log(1 + np.exp(-2.0)) + np.log(1 + np.exp(-1.0))
    assert loss.tolist() == pytest.approx([own + 0.5 * sides], rel=1e-6)


def test_the_average_follows_the_weights_and_gives_them_back() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    average = Average(model)
    expected = 0.0
    for step in range(1, 2001):
        torch.nn.init.constant_(model.weight, float(step))
        average.update()
        expected += (step - expected) * (1 - min(0.99, step / (9 + step)))
    with average.in_place():
        assert model.weight.item() == pytest.approx(expected, rel=1e-4)
        # A hundredth of the way at each step: about a hundred steps behind.
        assert 1880 < model.weight.item() < 1920
    assert model.weight.item() == 2000.0
    other = Average(torch.nn.Linear(1, 1, bias=False))
    other.load_state_dict(average.state_dict())
    assert other.state_dict()["steps"] == 2000
