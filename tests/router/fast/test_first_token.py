from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    CamembertConfig,
    CamembertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from batchroute.router.fast import first_token

SHAPE: dict[str, Any] = {
    "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 40, "num_labels": 2, "initializer_range": 0.4, "pad_token_id": 1,
}  # fmt: skip
FAMILIES: dict[str, Any] = {
    "bert": (BertForSequenceClassification, BertConfig),
    "camembert": (CamembertForSequenceClassification, CamembertConfig),
    "electra": (ElectraForSequenceClassification, ElectraConfig),
    "roberta": (RobertaForSequenceClassification, RobertaConfig),
    "xlm-roberta": (XLMRobertaForSequenceClassification, XLMRobertaConfig),
}


def classifier(name: str, **more: Any) -> Any:
    family, config = FAMILIES[name]
    torch.manual_seed(0)
    return family(config(**SHAPE | more)).eval()


def answered(model: Any, padded: bool) -> Any:
    tokens = torch.randint(5, 100, (3, 20), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[1, 7:] = 0
    mask[2, 1:] = 0
    with torch.inference_mode():
        return model(input_ids=tokens, **({"attention_mask": mask} if padded else {}), output_hidden_states=True)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_transformers(name: str, padded: bool) -> None:
    theirs = classifier(name)
    ours = copy.deepcopy(theirs)
    first = first_token.shorten(ours)
    assert first is not None
    expected = answered(theirs, padded)
    first_answers = answered(ours, padded)
    assert expected.logits.std() > 0.1
    torch.testing.assert_close(first_answers.logits, expected.logits, atol=1e-5, rtol=1e-5)
    assert [states.shape[1] for states in first_answers.hidden_states] == [20, 20, 1]
    first.all_tokens = True
    whole = answered(ours, padded)
    torch.testing.assert_close(whole.logits, expected.logits)
    torch.testing.assert_close(whole.hidden_states[-1], expected.hidden_states[-1])


def test_other_classifiers_stay_as_they_are() -> None:
    config = DistilBertConfig(vocab_size=100, dim=32, n_layers=1, n_heads=4, hidden_dim=64)
    assert first_token.shorten(DistilBertForSequenceClassification(config)) is None
    assert first_token.shorten(classifier("bert", is_decoder=True)) is None
    assert first_token.shorten(classifier("bert", attn_implementation="eager")) is None
