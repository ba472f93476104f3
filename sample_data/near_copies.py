"""How alike two prompts are: by the runs of words that they share, and by the embeddings of a small model."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

RUN = 3
MOST_JACCARD = {"train": 0.4, "validation": 0.6}
"""The largest share of runs of three words that a prompt of a later split may have in common with one of this split.

Validation and test draw from the same lists, so that a threshold chosen on one may hold on the other.
"""
MOST_COSINE = 0.9
"""And how alike the embeddings of a training prompt and one of a later split may be."""
EMBEDDER = "embedded:all-minilm-l6-v2"
LIST = Path(__file__).parent / "near_copies.txt"


def shingles(prompt: str) -> frozenset[tuple[str, ...]]:
    """The runs of three words of a prompt, without case and punctuation."""
    words = re.findall(r"\w+", prompt.lower())
    return frozenset(tuple(words[i : i + RUN]) for i in range(max(1, len(words) - RUN + 1)))


class Seen:
    """Prompts seen so far, to ask how alike another one is to the most similar of them."""

    def __init__(self, prompts: Iterable[str] = ()) -> None:
        self._sizes: list[int] = []
        self._holders: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
        for prompt in prompts:
            self.add(prompt)

    def add(self, prompt: str) -> None:
        runs = shingles(prompt)
        for run in runs:
            self._holders[run].append(len(self._sizes))
        self._sizes.append(len(runs))

    def jaccard(self, prompt: str) -> float:
        """The largest share of runs of words in common with a prompt seen, in [0, 1]."""
        runs = shingles(prompt)
        shared = Counter(holder for run in runs for holder in self._holders.get(run, ()))
        return max((n / (len(runs) + self._sizes[holder] - n) for holder, n in shared.items()), default=0.0)


def mark(prompt: str) -> str:
    """What stands for a prompt in the list of those left out."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def left_out() -> frozenset[str]:
    """The marks of prompts whose embeddings were found to be too close to a training prompt's."""
    return frozenset(LIST.read_text().split()) if LIST.is_file() else frozenset()


class Embedder:
    """Unit vectors of prompts by `EMBEDDER` (`batchroute models fetch demo` puts it on disk); each is made once."""

    def __init__(self) -> None:
        from transformers import AutoModel, AutoTokenizer

        from batchroute import models

        directory = models.resolve(EMBEDDER)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(directory)
        self._model: Any = AutoModel.from_pretrained(directory).eval()
        self._made: dict[str, npt.NDArray[np.float32]] = {}

    def vectors(self, prompts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Shape (prompts, width)."""
        import torch

        new = sorted({prompt for prompt in prompts if prompt not in self._made}, key=len)
        for start in range(0, len(new), 64):
            batch = new[start : start + 64]
            inputs = self._tokenizer(batch, padding=True, truncation=True, return_tensors="pt")
            with torch.inference_mode():
                hidden = self._model(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1)
            means = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
            self._made.update(zip(batch, means.float().numpy(), strict=True))
        return np.stack([self._made[prompt] for prompt in prompts])
