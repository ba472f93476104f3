"""Beginnings: rows whose prompts begin alike are asked one after another, so that a cache of prefixes has it for them.

The order changes when rows are asked, never where their answers go.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Sequence

from batchroute.prompt import Prompt

# Some blocks of an engine's cache of prefixes, in characters. Fewer are not worth another order.
LEAST_SHARED = 256
# About 1,024 tokens, from which on providers cache, in bytes of UTF-8.
LEAST_CACHED = 4_000
_MOST_STEPS = 64
_MOST = _MOST_STEPS * LEAST_CACHED


def beginning(prompt: Prompt) -> str:
    """The text that a prompt begins with: all of a text, and up to 256,000 characters of messages, which may hold
    images.
    """
    if isinstance(prompt, str):
        return prompt
    text = ""
    for message in prompt:
        text += json.dumps(message, ensure_ascii=False)[: _MOST - len(text)]
    return text


def groups(texts: Sequence[str], least: int = LEAST_SHARED) -> list[list[int]]:
    """The numbers of the texts, those together that begin alike.

    A group stands where its first text stood, and its texts follow one another so that neighbours share most. Texts
    that share nothing stay where they were, each as a group of its own. Sorts the texts, and compares neighbours.

    Args:
        least: characters that a group shares beyond what all texts share.
    """
    order = sorted(range(len(texts)), key=texts.__getitem__)
    if not order:
        return []
    least += shared(texts[order[0]], texts[order[-1]])
    found = [[order[0]]]
    for one, other in itertools.pairwise(order):
        if shared(texts[one], texts[other]) >= least:
            found[-1].append(other)
        else:
            found.append([other])
    return sorted(found, key=min)


def shared(one: str, other: str) -> int:
    """The number of characters with which both texts begin."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def cached_beginnings(texts: Sequence[str]) -> list[list[bytes]]:
    """For each text the digests of its beginnings of 4,000 bytes, 8,000 and so on that another one of the texts has
    too, the shortest first.
    """
    every = [_digests(text) for text in texts]
    counts = Counter(itertools.chain.from_iterable(every))
    return [[digest for digest in digests if counts[digest] > 1] for digests in every]


def _digests(text: str) -> list[bytes]:
    data, digest, found = text.encode(errors="surrogatepass"), hashlib.blake2b(digest_size=16), list[bytes]()
    for start in range(0, min(len(data) // LEAST_CACHED, _MOST_STEPS) * LEAST_CACHED, LEAST_CACHED):
        digest.update(data[start : start + LEAST_CACHED])
        found.append(digest.digest())
    return found
