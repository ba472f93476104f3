"""If transformers renames what a fast path uses, scores come from the plain forward, and a note says so."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from batchroute.router.fast import speed_up
from batchroute.router.model import Router
from batchroute.router.scoring import score
from tests.support.tiny_models import TEXT, tiny_router

CPU = torch.device("cpu")
DEBERTA = "transformers.models.deberta_v2.modeling_deberta_v2"


@pytest.mark.parametrize("architecture", ["bert", "deberta", "modernbert"])
def test_with_this_transformers_there_is_no_note(tmp_path: Path, architecture: str) -> None:
    assert Router.load(str(tiny_router(tmp_path, architecture)), CPU).notes == []


def test_without_private_names_to_import_scores_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(tiny_router(tmp_path, "deberta"))
    fast = score(Router.load(folder, CPU), TEXT)
    # transformers keeps the classes that it has loaded; only new imports of private names fail.
    monkeypatch.setitem(sys.modules, DEBERTA, ModuleType(DEBERTA))
    router = Router.load(folder, CPU)
    (note,) = router.notes
    assert note.startswith("DebertaV2ForSequenceClassification scores by transformers' plain forward")
    assert "\n" not in note
    assert score(router, TEXT).scores == pytest.approx(fast.scores, abs=1e-5)
    assert score(router, TEXT, with_embeddings=True).embeddings is not None


@pytest.mark.parametrize(
    ("architecture", "name"), [("bert", "scaling"), ("bert", "query"), ("deberta", "pos_ebd_size")]
)
def test_without_an_attribute_of_the_last_layer_no_layer_is_replaced(
    tmp_path: Path, architecture: str, name: str
) -> None:
    model: Any = AutoModelForSequenceClassification.from_pretrained(tiny_router(tmp_path, architecture))
    attentions = [layer.attention for layer in model.base_model.encoder.layer]
    plain = [attention.self for attention in attentions]
    delattr(plain[-1], name)
    last_layer, note = speed_up(model)
    assert last_layer is None
    assert note is not None
    assert name in note
    assert [attention.self for attention in attentions] == plain
    assert not attentions[-1].output._forward_pre_hooks
