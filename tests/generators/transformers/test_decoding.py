from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from batchroute.generators.base import row_seed
from batchroute.generators.settings import Sampling
from batchroute.generators.transformers import decoding
from batchroute.generators.transformers.decoding import (
    SeededSampling,
    Stops,
    StopStrings,
    likeliest,
    logits_processors,
    uniforms,
)
from tests.support.tiny_models import tiny_tokenizer

ROWS = 6000
LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, 1.5, -30.0])
# 99.9 % of the samples of a right distribution stay below, at five degrees of freedom.
CHI_SQUARE = 20.5


def draw(sampling: Sampling, steps: int = 1) -> Any:
    """The tokens of many rows over the same logits, shape [steps, rows]."""
    processors = logits_processors(sampling, [row_seed(sampling.seed, row) for row in range(ROWS)])
    ids = torch.zeros((ROWS, 1), dtype=torch.long)
    scores = LOGITS.expand(ROWS, -1)
    return np.stack([processors(ids, scores.clone()).argmax(-1).numpy() for _ in range(steps)])


def chi_square(drawn: Any, probabilities: torch.Tensor) -> float:
    expected = probabilities.numpy() * drawn.size
    counts = np.bincount(drawn.ravel(), minlength=len(expected))
    possible = expected > 1e-3
    assert counts[~possible].sum() == 0
    return float(((counts - expected)[possible] ** 2 / expected[possible]).sum())


def kept(tokens: list[int], temperature: float = 1.0) -> torch.Tensor:
    """The probabilities when only these tokens are left."""
    mask = torch.full_like(LOGITS, -torch.inf)
    mask[tokens] = 0.0
    return (LOGITS / temperature + mask).softmax(-1)


EVERY = [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"temperature": 1.0}, kept(EVERY)),
        ({"temperature": 0.5}, kept(EVERY, 0.5)),
        ({"temperature": 3.0}, kept(EVERY, 3.0)),
        ({"temperature": 1.0, "top_k": 2}, kept([0, 4])),
        ({"temperature": 2.0, "top_k": 1}, kept([0])),
        ({"temperature": 1.0, "top_p": 0.5}, kept([0, 4])),
        ({"temperature": 1.0, "top_p": 0.01}, kept([0])),
        ({"temperature": 1.0, "top_k": 3, "top_p": 0.99}, kept([0, 1, 4])),
    ],
)
def test_sampled_tokens_have_the_models_distribution(settings: dict[str, Any], expected: torch.Tensor) -> None:
    assert chi_square(draw(Sampling(max_new_tokens=1, **settings)), expected) < CHI_SQUARE


def test_every_step_draws_another_number() -> None:
    first, second = draw(Sampling(max_new_tokens=2, temperature=1.0), steps=2)
    assert chi_square(second, kept(EVERY)) < CHI_SQUARE
    after_zero = second[first == 0]
    assert chi_square(after_zero, kept(EVERY)) < CHI_SQUARE


def test_a_row_draws_by_its_own_seed_alone() -> None:
    scores = torch.randn((3, 50), generator=torch.Generator().manual_seed(0))
    ids = torch.zeros((3, 1), dtype=torch.long)
    together = SeededSampling([7, 8, 9], 5)
    alone = [SeededSampling([seed], 5) for seed in (7, 8, 9)]
    for _ in range(5):
        expected = [int(one(ids[:1], scores[row : row + 1]).argmax()) for row, one in enumerate(alone)]
        assert together(ids, scores).argmax(-1).tolist() == expected


def test_rows_at_steps_of_their_own_draw_as_a_batch_does_step_by_step() -> None:
    """What lets a row join others that are further on."""
    scores = torch.randn((5, 3, 50), generator=torch.Generator().manual_seed(0))
    ids = torch.zeros((3, 1), dtype=torch.long)
    together = SeededSampling([7, 8, 9], 5)
    expected = torch.stack([together(ids, step).argmax(-1) for step in scores])
    at = [3, 0, 4]
    numbers = torch.tensor([uniforms(seed, 5)[step] for seed, step in zip((7, 8, 9), at, strict=True)])
    found = decoding.draw(torch.stack([scores[step, row] for row, step in enumerate(at)]), numbers[:, None])
    assert found[:, 0].tolist() == [int(expected[step, row]) for row, step in enumerate(at)]


def test_one_token_is_left_and_all_others_are_impossible() -> None:
    scores = SeededSampling([1], 1)(torch.zeros((1, 1), dtype=torch.long), LOGITS.expand(1, -1).half())
    assert scores.dtype == torch.half
    assert (scores == 0).sum() == 1
    assert torch.isinf(scores).sum() == len(LOGITS) - 1


def test_a_token_of_a_large_vocabulary_is_drawn_from_its_tail_too() -> None:
    logits = torch.zeros((200, 100_000))
    sampling = SeededSampling(range(200), 1)
    drawn = sampling(torch.zeros((200, 1), dtype=torch.long), logits).argmax(-1)
    assert drawn.max() > 99_000
    assert abs(drawn.double().mean() - 50_000) < 3 * 100_000 / 12**0.5 / 200**0.5


def test_greedy_decoding_needs_no_processors() -> None:
    assert len(logits_processors(Sampling(temperature=0.0), [1])) == 0


def test_seeds_of_rows_are_their_own_and_fit_numpy_and_torch() -> None:
    seeds = {row_seed(s, position, sample) for s in range(5) for position in range(200) for sample in range(3)}
    assert len(seeds) == 5 * 200 * 3
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert row_seed(1, 23) == row_seed(1, 23, 0) != row_seed(12, 3)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"), special_tokens=False)


PROMPT = "Answer with apple: "


def stop_lengths(tokenizer: PreTrainedTokenizerFast, texts: list[str], stops: list[str]) -> list[int | None]:
    """After how many new tokens each row stopped, fed token by token as `generate` does."""
    rows = [tokenizer(text)["input_ids"] for text in texts]
    prompt = tokenizer(PROMPT)["input_ids"]
    criterion = StopStrings(tokenizer, stops, len(prompt), len(rows), lambda row, tokens: True)
    ended = torch.zeros(len(rows), dtype=torch.bool)
    for step in range(1, max(map(len, rows)) + 1):
        padded = [prompt + (row + [tokenizer.pad_token_id] * step)[:step] for row in rows]
        now = criterion(torch.tensor(padded), torch.zeros((1,)))
        assert bool((now >= ended).all())
        ended = now
    assert ended.tolist() == [length is not None for length in criterion.lengths]
    return criterion.lengths


def first_length(tokenizer: PreTrainedTokenizerFast, text: str, stops: list[str]) -> int | None:
    tokens = tokenizer(text)["input_ids"]
    found = (n for n in range(len(tokens) + 1) if any(stop in tokenizer.decode(tokens[:n]) for stop in stops))
    return next(found, None)


@pytest.mark.parametrize(
    "stops",
    [
        ["dog"],
        [" jumps over"],
        ["lazy dog, and"],
        ["z"],
        ["☃"],
        ["雪人"],
        ["\n\n"],
        ["absent"],
        ["never", "fox", "brown f"],
        ["QQQQQQQQQQQQQQQQ"],
        ["The quick brown fox jumps over the lazy dog, and the dog sleeps on."],
    ],
)
def test_a_row_stops_at_the_token_that_completes_a_stop_string(
    tokenizer: PreTrainedTokenizerFast, stops: list[str]
) -> None:
    texts = [
        "The quick brown fox jumps over the lazy dog, and the dog sleeps on. The end",
        "a",
        "snow ☃☃ and 雪人 in words",
        "one\n\ntwo\n",
        "zzzzz" + "Q" * 20,
    ]
    assert stop_lengths(tokenizer, texts, stops) == [first_length(tokenizer, text, stops) for text in texts]


def test_a_stop_string_in_the_prompt_does_not_count(tokenizer: PreTrainedTokenizerFast) -> None:
    assert stop_lengths(tokenizer, ["one two"], ["apple", "Answer", ": o"]) == [None]


def test_what_special_tokens_are_called_does_not_count(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    assert stop_lengths(tokenizer, ["a", "much longer than that"], ["PAD"]) == [None, None]


def test_rows_of_different_lengths_are_looked_through_together(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = ["the lazy dog", "a", "dog and fox", "fo"]
    assert Stops(tokenizer, ["dog", "fox"]).found([tokenizer(text)["input_ids"] for text in texts]) == [
        True, False, True, False,
    ]  # fmt: skip
    assert Stops(tokenizer, []).found([[1], [2]]) == [False, False]


@pytest.mark.parametrize("tokens", [64, 256, 100])
def test_the_likeliest_token_is_the_first_of_the_greatest(tokens: int) -> None:
    scores = torch.randn((50, tokens), generator=torch.Generator().manual_seed(0)).round(decimals=1)
    scores[0] = -torch.inf
    scores[1, 70 % tokens :] = 9.0
    expected = [row.index(max(row)) for row in scores.tolist()]
    assert likeliest(scores)[:, 0].tolist() == expected
    assert len(set(expected)) > 20
