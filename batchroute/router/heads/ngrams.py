"""Hashed n-grams of texts: words, pairs of words, and runs of three to five characters, counted for each text.

A gram's number comes from its letters alone, so it is the same in every process and needs no vocabulary. All texts of a
call are hashed together by arrays: some 0.1 ms for a prompt of 100 words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BUCKETS = 1 << 18
"""Different numbers. Of 60,000 grams about a tenth share theirs with another one."""

CHARACTERS = 4_000
"""Read of each text, so that one long document costs no more than some prompts."""

_CHARACTER_GRAMS = (3, 4, 5)
_BASE, _MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_LONGEST_WORD = 64
_SHIFT = np.uint64(32)
_SPACE = 32


@dataclass(frozen=True, slots=True)
class Codes:
    """Texts as one array of lower-case code points; each text has spaces around it.

    Attributes:
        codes: uint32 [characters].
        text: the number of each character's text: int64 [characters].
        texts: how many texts.
    """

    codes: NDArray[np.uint32]
    text: NDArray[np.int64]
    texts: int

    @classmethod
    def of(cls, texts: Sequence[str]) -> Codes:
        parts = [f" {text[:CHARACTERS].lower()} " for text in texts]
        # Lone surrogates, which no encoding takes, are hashed as they are.
        codes = np.frombuffer("".join(parts).encode("utf-32-le", "surrogatepass"), dtype="<u4")
        return cls(codes, np.repeat(np.arange(len(parts)), [len(part) for part in parts]), len(parts))


@dataclass(frozen=True, slots=True)
class Grams:
    """How often each text holds each gram, sorted by text and number: three arrays of one entry for each such pair."""

    text: NDArray[np.int64]
    number: NDArray[np.int64]
    count: NDArray[np.int64]


def grams(codes: Codes) -> Grams:
    """The grams of some texts, with their numbers below `BUCKETS`."""
    found = [*_words(codes), *(_characters(codes, length) for length in _CHARACTER_GRAMS)]
    keys = np.concatenate([text * BUCKETS + _bucket(hashed, kind) for kind, (text, hashed) in enumerate(found)])
    keys, count = np.unique(keys, return_counts=True)
    return Grams(keys // BUCKETS, keys % BUCKETS, count)


def _words(codes: Codes) -> list[tuple[NDArray[np.int64], NDArray[np.uint64]]]:
    """Words, and pairs of neighbouring words: for each the text and a hash."""
    inside = is_letter(codes.codes) | is_digit(codes.codes)
    # Texts begin and end with a space, so that no word touches an edge.
    starts = np.flatnonzero(inside[1:] & ~inside[:-1]) + 1
    ends = np.flatnonzero(inside[:-1] & ~inside[1:]) + 1
    if len(starts) == 0:
        nothing = np.empty(0, np.int64), np.empty(0, np.uint64)
        return [nothing, nothing]
    sums = np.zeros(len(starts), np.uint64)
    for place in range(min(_LONGEST_WORD, int((ends - starts).max()))):
        long = starts + place < ends
        sums[long] = sums[long] * _BASE + codes.codes[starts[long] + place]
    text = codes.text[starts]
    together = text[1:] == text[:-1]
    return [(text, sums), (text[1:][together], (sums[:-1] * _MIX + sums[1:])[together])]


def _characters(codes: Codes, length: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Runs of so many characters: for each the text and a hash."""
    last = len(codes.codes) - length + 1
    if last <= 0:
        return np.empty(0, np.int64), np.empty(0, np.uint64)
    sums = np.zeros(last, np.uint64)
    for place in range(length):
        sums = sums * _BASE + codes.codes[place : place + last]
    whole = codes.text[:last] == codes.text[length - 1 :]
    return codes.text[:last][whole], sums[whole]


def _bucket(hashed: NDArray[np.uint64], kind: int) -> NDArray[np.int64]:
    mixed = (hashed + np.uint64(kind)) * _MIX
    mixed = (mixed ^ (mixed >> _SHIFT)) * _BASE
    buckets: NDArray[np.int64] = (mixed >> _SHIFT).astype(np.int64) % BUCKETS
    return buckets


def is_digit(codes: NDArray[np.uint32]) -> NDArray[np.bool_]:
    return (codes >= ord("0")) & (codes <= ord("9"))


def is_letter(codes: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """ASCII letters, and everything beyond ASCII and its Latin punctuation."""
    letters: NDArray[np.bool_] = ((codes >= ord("a")) & (codes <= ord("z"))) | (codes >= 0xC0)
    return letters
