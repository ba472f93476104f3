from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from batchroute.generators.transformers.attention import SLOTS, attend, attention
from batchroute.generators.transformers.slots import Slots

LAYER: Any = SimpleNamespace(layer_idx=0)


def states(heads: int, tokens: int, seed: int) -> torch.Tensor:
    """Queries, keys or values of two rows."""
    return torch.randn((2, heads, tokens, 8), generator=torch.Generator().manual_seed(seed))


def test_a_model_attends_as_before_afterwards_also_after_an_error() -> None:
    config = SimpleNamespace(_attn_implementation="sdpa")
    model = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: config))

    def fail() -> None:
        with attention(model):
            assert config._attn_implementation == SLOTS
            raise ValueError("once")

    with pytest.raises(ValueError, match="once"):
        fail()
    assert config._attn_implementation == "sdpa"


@pytest.mark.parametrize("kind", ["softcap", "s_aux", "position_bias"])
def test_another_kind_of_attention_is_refused(kind: str) -> None:
    query = states(1, 1, 0)
    with pytest.raises(ValueError, match=f"refilled batches do not support {kind}"):
        attend(LAYER, query, query, query, query, Slots(1, 1), **{kind: 1.0})
