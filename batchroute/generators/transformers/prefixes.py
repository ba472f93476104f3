"""What many prompts begin with: a chat template's system message, or the examples before each prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

# Below, what is saved is not worth the mask that attention to a prefix takes.
LEAST_TOKENS = 16
_LEAST_PROMPTS = 4


def shared_prefixes(prompts: Sequence[Sequence[int]]) -> list[int]:
    """How many tokens at the beginning of each prompt are worth reading once for all prompts that begin with them.

    A prompt's last token is never part of it, and prompts that are the same count as one. The prefix that saves most
    tokens is taken first, then the one that saves most among the other prompts, and so on. Prompts with one and the
    same prefix have the same number here.

    Args:
        prompts: their tokens.
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
    """The length of the prefix that saves most tokens, and the prompts that begin with it; none where none does."""
    best, saved, found = 0, 0, prompts[:0]
    depth, members = 0, prompts
    while True:
        counts = Counter(prompt[depth] for prompt in members if len(prompt) > depth + 1)
        if not counts:
            return best, found
        # Ties by the token, so that the order of the prompts decides nothing.
        count, token = max((count, token) for token, count in counts.items())
        if count < _LEAST_PROMPTS:
            return best, found
        members = [prompt for prompt in members if len(prompt) > depth + 1 and prompt[depth] == token]
        depth += 1
        if depth >= LEAST_TOKENS and (count - 1) * depth > saved:
            best, saved, found = depth, (count - 1) * depth, members
