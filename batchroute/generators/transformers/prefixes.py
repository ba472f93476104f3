"""Prefixes that many prompts share: a chat template's system message, or the examples before each prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

# A shorter prefix saves less than the mask that attention to it takes.
LEAST_TOKENS = 16
_LEAST_PROMPTS = 4


def shared_prefixes(prompts: Sequence[Sequence[int]]) -> list[int]:
    """For each prompt, the number of its first tokens that are worth prefilling once for all prompts that share them.

    A prompt's last token is never part of a prefix, and equal prompts count as one. The prefix that saves most tokens
    is chosen first, then the one that saves most among the remaining prompts, and so on.

    Args:
        prompts: the tokens of each.
    """
    lengths = [0] * len(prompts)
    numbers: dict[tuple[int, ...], list[int]] = {}
    for number, prompt in enumerate(prompts):
        numbers.setdefault(tuple(prompt), []).append(number)
    left = list(numbers)
    while True:
        length, members = _best(left)
        if not members:
            return lengths
        for prompt in members:
            for number in numbers[prompt]:
                lengths[number] = length
        left = [prompt for prompt in left if lengths[numbers[prompt][0]] == 0]


def _best(prompts: list[tuple[int, ...]]) -> tuple[int, list[tuple[int, ...]]]:
    """The length of the prefix that saves most tokens, and the prompts that share it; 0 and no prompts if none does."""
    best, saved, chosen = 0, 0, prompts[:0]
    depth, members = 0, prompts
    while True:
        counts = Counter(prompt[depth] for prompt in members if len(prompt) > depth + 1)
        if not counts:
            return best, chosen
        # The token decides ties, so that the order of the prompts does not.
        count, token = max((count, token) for token, count in counts.items())
        if count < _LEAST_PROMPTS:
            return best, chosen
        members = [prompt for prompt in members if len(prompt) > depth + 1 and prompt[depth] == token]
        depth += 1
        if depth >= LEAST_TOKENS and (count - 1) * depth > saved:
            best, saved, chosen = depth, (count - 1) * depth, members
