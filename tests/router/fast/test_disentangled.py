from __future__ import annotations

import copy
from itertools import product
from typing import Any

import pytest
import torch
from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

from batchroute.router.fast import disentangled

POSITIONS = 64


def deberta(**settings: Any) -> DebertaV2ForSequenceClassification:
    """Two layers with wide random weights, so that attention is far from uniform."""
    config = {
        "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
        "max_position_embeddings": POSITIONS, "relative_attention": True, "position_buckets": 8, "share_att_key": True,
        "norm_rel_ebd": "layer_norm", "pos_att_type": ["p2c", "c2p"], "position_biased_input": False,
        "type_vocab_size": 0, "initializer_range": 0.4, "num_labels": 1,
    }  # fmt: skip
    torch.manual_seed(0)
    return DebertaV2ForSequenceClassification(DebertaV2Config(**(config | settings))).eval()


def logits(model: Any, n: int, rows: int = 3, padded: bool = True) -> torch.Tensor:
    tokens = torch.randint(5, 100, (rows, n), generator=torch.Generator().manual_seed(n))
    mask = torch.ones(rows, n, dtype=torch.long)
    for row in range(1, rows if padded else 0):
        mask[row, max(1, n // (row + 1)) :] = 0
    with torch.inference_mode():
        return model(input_ids=tokens, attention_mask=mask).logits  # type: ignore[no-any-return]


SETTINGS: list[dict[str, Any]] = [
    {"share_att_key": share, "pos_att_type": kinds, "position_buckets": buckets}
    for share, kinds, buckets in product([True, False], [["p2c", "c2p"], ["c2p"], ["p2c"]], [8, -1])
]


@pytest.mark.parametrize("settings", [*SETTINGS, {"conv_kernel_size": 3}, {"max_relative_positions": 16}])
@pytest.mark.parametrize("cached", [1, 1 << 40])
def test_logits_are_those_of_transformers(settings: dict[str, Any], cached: int) -> None:
    theirs = deberta(**settings)
    ours = copy.deepcopy(theirs)
    disentangled.speed_up(ours, cached)
    # Short before long, and short again: positions are kept for the longest yet.
    for n in (1, 2, 7, 31, POSITIONS, 9):
        expected = logits(theirs, n)
        torch.testing.assert_close(logits(ours, n), expected, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(logits(ours, n, padded=False), logits(theirs, n, padded=False), atol=2e-5, rtol=1e-5)
    assert torch.unique(expected).numel() > 1


def test_positions_matter() -> None:
    """Else the test above would pass without them."""
    model = deberta()
    before = logits(model, 31)
    with torch.no_grad():
        model.deberta.encoder.rel_embeddings.weight.copy_(torch.flip(model.deberta.encoder.rel_embeddings.weight, [0]))
    assert (logits(model, 31) - before).abs().max() > 0.01


def test_every_layer_attends_this_way() -> None:
    model = deberta()
    disentangled.speed_up(model)
    layers = [layer.attention.self for layer in model.deberta.encoder.layer]
    assert [type(layer) for layer in layers] == [disentangled.DisentangledAttention] * 2


def test_models_without_relative_positions_stay_as_they_are() -> None:
    for settings in ({"relative_attention": False}, {"pos_att_type": []}):
        model = deberta(**settings)
        before = [type(module) for module in model.modules()]
        disentangled.speed_up(model)
        assert [type(module) for module in model.modules()] == before
