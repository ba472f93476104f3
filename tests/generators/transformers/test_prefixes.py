from __future__ import annotations

from batchroute.generators.transformers.prefixes import LEAST_TOKENS, shared_prefixes

HEAD = list(range(100, 130))
OTHER = list(range(200, 250))


def test_what_all_prompts_begin_with_is_shared_but_never_a_prompts_last_token() -> None:
    prompts = [[*HEAD, n] for n in range(5)]
    assert shared_prefixes(prompts) == [30] * 5
    # 29 tokens for six prompts are more than 30 for five.
    assert shared_prefixes([HEAD, *prompts]) == [29] * 6


def test_a_prompt_that_begins_otherwise_takes_it_from_no_other() -> None:
    assert shared_prefixes([[*HEAD, 1], [*HEAD, 2], [7, 8, 9], [*HEAD, 3], [*HEAD, 4]]) == [30, 30, 0, 30, 30]


def test_several_prefixes_are_found() -> None:
    prompts = [[*head, n, n] for n in range(4) for head in (HEAD, OTHER)]
    assert shared_prefixes(prompts) == [30, 50] * 4


def test_the_prefix_that_saves_most_is_taken() -> None:
    # Twenty tokens for twelve prompts are more than fifty for four.
    prompts = [[*HEAD[:20], 1000 + n, 1] for n in range(8)] + [[*HEAD[:20], *OTHER[:30], n] for n in range(4)]
    assert shared_prefixes(prompts) == [20] * 12
    assert shared_prefixes(prompts[6:]) == [0] * 2 + [50] * 4


def test_little_is_not_shared() -> None:
    assert shared_prefixes([[*HEAD[: LEAST_TOKENS - 1], 500 + n, 1] for n in range(50)]) == [0] * 50
    assert shared_prefixes([[*HEAD, n, 1] for n in range(3)]) == [0] * 3
    assert shared_prefixes([]) == []


def test_prompts_that_are_the_same_count_as_one() -> None:
    """Their reading is shared anyway: samples of one prompt must not hide what all prompts begin with."""
    assert shared_prefixes([[*HEAD, *OTHER, 1]] * 50) == [0] * 50
    prompts = [[*HEAD, *OTHER, 1]] * 10 + [[*HEAD, n] for n in range(4)] * 2
    assert shared_prefixes(prompts) == [30] * 18


def test_the_order_of_the_prompts_decides_nothing() -> None:
    prompts = [[*head, n, n] for n in range(6) for head in (HEAD, OTHER[:30], HEAD[:16])]
    found = dict(zip(map(tuple, prompts), shared_prefixes(prompts), strict=True))
    assert dict(zip(map(tuple, prompts[::-1]), shared_prefixes(prompts[::-1]), strict=True)) == found
