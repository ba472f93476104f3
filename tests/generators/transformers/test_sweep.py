"""The self-check of neighbours over the architectures of transformers, and the page's table of what it finds.

Every run tries a sample of architectures that are known to be odd. All of them, about 350:

    BATCHROUTE_SWEEP=check pytest tests/generators/transformers/test_sweep.py
    BATCHROUTE_SWEEP=write pytest tests/generators/transformers/test_sweep.py      # writes the page's table anew
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast
from transformers.models.auto import modeling_auto
from transformers.utils import logging

from batchroute.errors import InputError
from batchroute.generators.settings import Sampling
from batchroute.generators.transformers.loading import Loaded
from batchroute.generators.transformers.neighbours import SHARINGS, find_sharing
from batchroute.generators.transformers.refill import can_refill
from batchroute.generators.transformers.rows import Writer
from batchroute.models.checkpoint import check_generator
from batchroute.router import neighbours
from batchroute.router.model import Router
from tests.support import architectures
from tests.support.tiny_models import tiny_tokenizer

CPU = torch.device("cpu")
PAGE = Path(__file__).parents[3] / "batchroute" / "generators" / "README.md"
SWEEP = os.environ.get("BATCHROUTE_SWEEP")
GROUPS: Mapping[str, Mapping[str, str]] = {
    "decoders": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "encoder-decoders": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "routers": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
}
WAYS = {
    "refilled": "refilled",
    "without prefixes": "refilled, without shared prefixes",
    "padded": "padded",
    "equal lengths": "by equal length",
    "singly": "singly",
    "other": "not tried: it reads more than text, or writes none",
    "unbuilt": "not tried: it does not build or run at tiny size",
}
SAMPLE = {
    "decoders": "llama gpt2 bloom mpt falcon mamba mamba2 rwkv recurrent_gemma falcon_h1 bamba zamba jamba lfm2 "
    "qwen3_next gemma2 gemma3_text mistral gpt_oss mixtral ctrl xlnet reformer granitemoehybrid",
    "encoder-decoders": "t5 mt5 umt5 led bart pegasus marian prophetnet longt5 bigbird_pegasus switch_transformers",
    "routers": "bert deberta deberta-v2 mpnet funnel longformer big_bird reformer canine bart gpt2 modernbert llama",
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    logging.set_verbosity_error()
    return tiny_tokenizer(tmp_path_factory.mktemp("plain"), special_tokens=False)


@pytest.fixture(scope="module")
def ending(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    """As encoders want it: with special tokens."""
    return tiny_tokenizer(tmp_path_factory.mktemp("special"))


@pytest.fixture(scope="module")
def find(tokenizer: PreTrainedTokenizerFast, ending: PreTrainedTokenizerFast) -> Callable[[str, str], str]:
    def way(group: str, kind: str) -> str:
        return _router(kind, ending) if group == "routers" else _generator(group, kind, tokenizer)

    return way


def _generator(group: str, kind: str, tokenizer: PreTrainedTokenizerFast) -> str:
    build = architectures.decoder if group == "decoders" else architectures.encoder_decoder
    try:
        check_generator(architectures.tiny_config(kind, len(tokenizer)), kind)
        model = build(kind, len(tokenizer))
    except InputError:
        return "other"
    except Exception:
        return "unbuilt"
    if model.main_input_name != "input_ids":
        return "other"
    loaded = Loaded(model, tokenizer, model.config, CPU, (CPU,), bool(model.config.is_encoder_decoder), None)
    writer = Writer(loaded, Sampling(max_new_tokens=4))
    try:
        model.generate(input_ids=torch.tensor([[5, 6, 7, 8, 9]]), generation_config=writer.generation)
    except Exception:
        return "unbuilt"
    return find_sharing(loaded, writer, can_refill(loaded))


def _router(kind: str, tokenizer: PreTrainedTokenizerFast) -> str:
    try:
        model = architectures.classifier(kind, len(tokenizer))
        router = Router(model, tokenizer, CPU, architectures.POSITIONS // 2)
        with torch.inference_mode():
            router.probabilities({"input_ids": torch.tensor([tokenizer("a few words")["input_ids"]])})
    except Exception:
        return "unbuilt"
    return neighbours.find_sharing(router)


@pytest.mark.parametrize("group", GROUPS)
def test_the_page_says_what_the_check_finds(group: str, find: Callable[[str, str], str]) -> None:
    kinds = SAMPLE[group].split() if SWEEP is None else sorted(GROUPS[group])
    found = {kind: find(group, kind) for kind in kinds}
    if SWEEP == "write":
        _write(group, found)
    page = _of_page()[group]
    assert found == {kind: page.get(kind) for kind in kinds}
    # One that reads as a part of what it is for must be among them.
    assert set(found.values()) & set(SHARINGS)


def test_the_page_has_every_architecture_once() -> None:
    page = _of_page()
    assert {group: sorted(page[group]) for group in page} == {group: sorted(kinds) for group, kinds in GROUPS.items()}


_ROW = re.compile(r"^\| ([a-z-]+) \| ([^|]+) \| (\d+) \| ([^|]+) \|$", re.MULTILINE)


def _of_page() -> dict[str, dict[str, str]]:
    """By group and architecture, how its rows share batches."""
    ways = {words: way for way, words in WAYS.items()}
    page: dict[str, dict[str, str]] = {group: {} for group in GROUPS}
    for group, words, count, names in _ROW.findall(PAGE.read_text()):
        if group in page:
            kinds = re.findall(r"[\w.-]+", names)
            assert len(kinds) == int(count)
            assert not set(kinds) & page[group].keys()
            page[group] |= dict.fromkeys(kinds, ways[words])
    return page


def _write(group: str, found: Mapping[str, Any]) -> None:
    rows = []
    for way, words in WAYS.items():
        kinds = [kind for kind, one in found.items() if one == way]
        if kinds:
            rows.append(f"| {group} | {words} | {len(kinds)} | {', '.join(kinds)} |\n")
    lines = PAGE.read_text().splitlines(keepends=True)
    others = [line for line in lines if not line.startswith(f"| {group} | ")]
    # The groups stand in their order, below the table's head.
    head = others.index("| models | rows share batches | number | architectures |\n") + 2
    before = [line for line in others[head:] if line.startswith(tuple(f"| {one} | " for one in GROUPS))]
    table = [line for one in GROUPS for line in (rows if one == group else before) if line.startswith(f"| {one} | ")]
    PAGE.write_text("".join([*others[:head], *table, *others[head + len(before) :]]))
