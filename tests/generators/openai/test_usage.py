"""What answers took, by the usage of every kind of server."""

from __future__ import annotations

from typing import Any

import pytest

from batchroute.generators.openai.usage import Counts, counts_of


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        # OpenAI: reasoning is among the completion tokens.
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 70,
                "total_tokens": 79,
                "prompt_tokens_details": {"cached_tokens": 4},
                "completion_tokens_details": {"reasoning_tokens": 50},
            },
            Counts(9, 70, 4, 50),
        ),
        # xAI: it is not; only the total tells.
        (
            {
                "prompt_tokens": 12,
                "completion_tokens": 2,
                "total_tokens": 331,
                "completion_tokens_details": {"reasoning_tokens": 317},
            },
            Counts(12, 319, 0, 317),
        ),
        # Gemini: nothing but the total tells of the thoughts.
        ({"prompt_tokens": 5, "completion_tokens": 10, "total_tokens": 120}, Counts(5, 115, 0, 105)),
        ({"prompt_tokens": 21, "completion_tokens": 0, "total_tokens": 81}, Counts(21, 60, 0, 60)),
        # More reasoning than output, and no total: it cannot be among it.
        (
            {"prompt_tokens": 5, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 30}},
            Counts(5, 32, 0, 30),
        ),
        # DeepSeek, Moonshot, Mistral, Anthropic through a gateway and as it is
        ({"prompt_tokens": 9, "completion_tokens": 1, "prompt_cache_hit_tokens": 8}, Counts(9, 1, 8)),
        ({"prompt_tokens": 9, "completion_tokens": 1, "cached_tokens": 7}, Counts(9, 1, 7)),
        ({"prompt_tokens": 9, "completion_tokens": 1, "num_cached_tokens": 6}, Counts(9, 1, 6)),
        ({"prompt_tokens": 9, "completion_tokens": 1, "cache_read_input_tokens": 5}, Counts(9, 1, 5)),
        (
            {"input_tokens": 3, "output_tokens": 4, "cache_read_input_tokens": 10, "cache_creation_input_tokens": 20},
            Counts(33, 4, 10),
        ),
        (
            {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 17, "cache_read_input_tokens": 10},
            Counts(13, 4, 10),
        ),
        ({"input_tokens": 9, "output_tokens": 1, "input_tokens_details": {"cached_tokens": 3}}, Counts(9, 1, 3)),
        # The total stands for a count that is missing.
        ({"prompt_tokens": 9, "total_tokens": 12}, Counts(9, 3)),
        ({"prompt_tokens": 9.0, "completion_tokens": 1.0}, Counts(9, 1)),
        # A cache gives no more than what was read, and reasoning is no more than what was written.
        ({"prompt_tokens": 9, "completion_tokens": 1, "cached_tokens": 700}, Counts(9, 1, 9)),
        (
            {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10, "reasoning_tokens": 5},
            Counts(9, 1, 0, 1),
        ),
        # A total below its parts says nothing.
        ({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 3}, Counts(9, 5)),
    ],
)
def test_the_counts_of_a_provider(usage: dict[str, Any], counts: Counts) -> None:
    assert counts_of(usage) == counts


@pytest.mark.parametrize("count", [-1, "5", 10**20, None, True, [3], {}, 0.5, float("nan"), float("inf"), 10**8])
def test_a_count_that_makes_no_sense_is_none(count: Any) -> None:
    usage = {
        "prompt_tokens": count,
        "completion_tokens": 5,
        "total_tokens": count,
        "prompt_tokens_details": {"cached_tokens": count},
        "completion_tokens_details": {"reasoning_tokens": count},
    }
    assert counts_of(usage) == Counts(None, 5)
    assert counts_of({"prompt_tokens": 5, "completion_tokens": count}) == Counts(5, None)


@pytest.mark.parametrize("usage", [None, [], "many", 7, {}, {"prompt_tokens_details": ["x"]}])
def test_what_is_no_usage_has_no_counts(usage: Any) -> None:
    assert counts_of(usage) == Counts(None, None)
