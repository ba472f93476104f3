"""Scores for many prompts: each text once, sorted by length and batched by a token budget, which keeps padding low.

A batch is copied to the device while the batch before it is computed; the CPU waits only after the last batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from batchroute.errors import BatchrouteError
from batchroute.hardware.devices import out_of_memory
from batchroute.router.heads.features import TextParts
from batchroute.router.model import Router
from batchroute.router.scores import Scores

_CHARACTERS_AT_ONCE = 1 << 17

Computed = TypeVar("Computed")


@dataclass(frozen=True, slots=True)
class Encoded:
    """Tokenised texts, cut to the router's `max_length`.

    Attributes:
        features: for each of the model's inputs (`input_ids`, …) one list of ids per text, not padded.
        lengths: int32 [n], tokens after the cut.
        tokens: int32 [n], tokens before it.
        parts: what the router's heads read of the texts; None if it has none.
    """

    features: dict[str, list[list[int]]]
    lengths: NDArray[np.int32]
    tokens: NDArray[np.int32]
    parts: TextParts | None = None


def score(
    router: Router, texts: Sequence[str], token_budget: int | None = None, with_embeddings: bool = False
) -> Scores:
    """Score `texts` with `router`; equal texts are scored once.

    Args:
        texts: any number of texts that the tokenizer can encode.
        token_budget: padded tokens (rows × longest row) in one batch; a longer row goes alone. Default: the router's.
        with_embeddings: keep embeddings too, 4 bytes per text and dimension. The scores differ by rounding alone.
    """
    distinct_texts, places = distinct(texts)
    return score_encoded(router, encode(router, distinct_texts), token_budget, with_embeddings).at(places)


def distinct(texts: Sequence[str]) -> tuple[list[str], NDArray[np.intp]]:
    """The distinct texts, and the place of each of `texts` among them: shape [n]."""
    numbers: dict[str, int] = {}
    places = [numbers.setdefault(text, len(numbers)) for text in texts]
    return list(numbers), np.array(places, dtype=np.intp)


def encode(router: Router, texts: Sequence[str]) -> Encoded:
    """Tokenise, and cut long texts as `truncation=True` would, those of a reader of answers in the middle: special
    tokens stay.

    Some texts at a time, and a text of more than 131,072 characters in pieces: before the cut, the tokens of a text
    take up to 200 times its memory. Where two pieces meet, a token or two may differ; the router reads of one alone.
    """
    front, back = _special_tokens(router)
    if router.reads == "answer":
        kept = front + (router.max_length - front - back + 1) // 2
    else:
        kept = front if router.tokenizer.truncation_side == "left" else router.max_length - back

    def cut(row: list[int]) -> list[int]:
        over = len(row) - router.max_length
        return row if over <= 0 else row[:kept] + row[kept + over :]

    features: dict[str, list[list[int]]] = {}
    lengths: list[int] = []
    for some in _within(texts, _CHARACTERS_AT_ONCE):
        encoding = _encoding(router, some, front, back)
        lengths += [len(row) for row in encoding["input_ids"]]
        for name in router.inputs:
            if name in encoding:
                features.setdefault(name, []).extend(cut(row) for row in encoding[name])
    tokens = np.array(lengths, dtype=np.int32)
    cut_lengths = np.minimum(tokens, router.max_length).astype(np.int32)
    parts = None if router.heads is None else TextParts.of(texts, router.heads.projection)
    return Encoded(features or {"input_ids": []}, cut_lengths, tokens, parts)


def _encoding(router: Router, texts: list[str], front: int, back: int) -> Mapping[str, list[list[int]]]:
    pieces = _pieces(texts[0], _CHARACTERS_AT_ONCE) if len(texts) == 1 else []
    if len(pieces) < 2:
        whole: Mapping[str, list[list[int]]] = router.tokenizer(texts, return_attention_mask=False, verbose=False)
        return whole
    rows: dict[str, list[int]] = {}
    for number, piece in enumerate(pieces):
        # One piece at a time: the tokenizer would take all of them at once.
        encoding = router.tokenizer(piece, return_attention_mask=False, verbose=False)
        for name, row in encoding.items():
            stop = len(row) - (back if number < len(pieces) - 1 else 0)
            rows.setdefault(name, []).extend(row[front if number else 0 : stop])
    return {name: [row] for name, row in rows.items()}


def _pieces(text: str, most: int) -> list[str]:
    """The text in pieces of at most so many characters, which begin at a space where there is one."""
    pieces: list[str] = []
    start = 0
    while len(text) - start > most:
        space = text.rfind(" ", start + 1, start + most)
        stop = space if space > start else start + most
        pieces.append(text[start:stop])
        start = stop
    return [*pieces, text[start:]]


def _within(texts: Sequence[str], most: int) -> Iterator[list[str]]:
    """The texts in lists of at most so many characters, or of one text that has more."""
    some: list[str] = []
    characters = 0
    for text in texts:
        if some and characters + len(text) > most:
            yield some
            some, characters = [], 0
        some.append(text)
        characters += len(text)
    if some:
        yield some


def score_encoded(
    router: Router, encoded: Encoded, token_budget: int | None = None, with_embeddings: bool = False
) -> Scores:
    """As `score`, for tokenised texts; equal texts are scored each time."""
    truncated = encoded.tokens > encoded.lengths
    if router.heads is not None:
        assert encoded.parts is not None
        states = pooled(router, encoded, token_budget)
        scores, spread = router.heads.score(states, encoded.parts)
        embeddings = states[:, : states.shape[1] // 2].cpu().numpy() if with_embeddings else None
        return Scores(scores, encoded.tokens, truncated, embeddings, spread)

    def compute(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
        return router.embedded(batch) if with_embeddings else (router.probabilities(batch), None)

    order, parts = _in_batches(router, encoded, token_budget, compute)
    count = len(encoded.lengths)
    scores = np.full(count, np.nan, dtype=np.float32)
    if parts:
        # One transfer at the end: the CPU does not wait for the device between batches.
        scores[order] = torch.cat([part for part, _ in parts]).cpu().numpy()
    means = [mean for _, mean in parts if mean is not None]
    complete = bool(means) and len(means) == len(parts)
    return Scores(scores, encoded.tokens, truncated, _in_order(means, order, count).cpu().numpy() if complete else None)


def pooled(router: Router, encoded: Encoded, token_budget: int | None = None) -> torch.Tensor:
    """What heads read, see `Router.pooled`, in the order of the texts, on the router's device: [n, 2 × hidden]."""
    order, parts = _in_batches(router, encoded, token_budget, router.pooled)
    if not parts:
        width = 2 * router.model.config.get_text_config().hidden_size
        return torch.full((len(encoded.lengths), width), torch.nan, device=router.device)
    return _in_order(parts, order, len(encoded.lengths))


def _in_batches(
    router: Router, encoded: Encoded, token_budget: int | None, compute: Callable[[dict[str, torch.Tensor]], Computed]
) -> tuple[NDArray[np.intp], list[Computed]]:
    """The order of the texts by batches, and what `compute` makes of each batch. Texts for which it raises are left
    out.
    """
    budget = router.token_budget if token_budget is None else token_budget
    # Longest first: if a batch does not fit in memory, the first one fails.
    order = _readable(router, encoded, np.argsort(-encoded.lengths, kind="stable"))
    parts: list[Computed] = []
    good: list[NDArray[np.intp]] = []
    start = singly_until = 0
    while start < len(order):
        longest = max(1, int(encoded.lengths[order[start]]))
        singly = router.sharing == "singly" or start < singly_until
        rows = order[start : start + (1 if singly else max(1, budget // longest))]
        if router.sharing == "equal lengths":
            rows = rows[encoded.lengths[rows] == longest]
        try:
            with torch.inference_mode():
                parts.append(compute(pad(router, encoded, rows)))
            good.append(rows)
        except BatchrouteError:
            # The run ends, such as by a signal that came in the model: no error of it.
            raise
        except Exception as error:
            if len(rows) > 1 and out_of_memory(error):
                # Kept on the router, so that later texts start with a budget that fits.
                budget = longest * len(rows) // 2
                router.token_budget = min(router.token_budget, budget)
                continue
            if len(rows) > 1:
                # An error of one text must not take the score of the others.
                singly_until = start + len(rows)
                continue
            router.raised = type(error).__name__
        start += len(rows)
    return np.concatenate(good) if good else order[:0], parts


def _readable(router: Router, encoded: Encoded, order: NDArray[np.intp]) -> NDArray[np.intp]:
    """The texts without tokens that the model has no embeddings of: on a GPU these would end the process."""
    known = router.known_tokens
    ids = encoded.features["input_ids"]
    if known is None or all(max(row, default=0) < known for row in ids):
        return order
    router.raised = "IndexError (tokens without embeddings)"
    return np.array([at for at in order if max(ids[at], default=0) < known], dtype=np.intp)


def _in_order(parts: Sequence[torch.Tensor], order: NDArray[np.intp], count: int) -> torch.Tensor:
    """The rows of all batches in the order of the texts; NaN for texts that are in none."""
    in_batches = torch.cat(list(parts))
    with torch.inference_mode():
        ordered = in_batches.new_full((count, *in_batches.shape[1:]), torch.nan)
        ordered[torch.from_numpy(order).to(in_batches.device)] = in_batches
    return ordered


def pad(router: Router, encoded: Encoded, rows: NDArray[np.intp]) -> dict[str, torch.Tensor]:
    """The model's inputs for `rows`: int64 tensors of shape [len(rows), longest row], being copied to its device.

    If no row is padded there is no attention mask, which makes scoring about a tenth faster on a CPU. For a GPU the
    length is a multiple of 8, as matrix units and fused attention require for full speed.
    """
    features = {name: [column[row] for row in rows] for name, column in encoded.features.items()}
    gpu = router.device.type == "cuda"
    padded = router.tokenizer.pad(
        features, return_attention_mask=True, return_tensors="pt", pad_to_multiple_of=8 if gpu else None
    )
    whole = bool((encoded.lengths[rows] == padded["input_ids"].shape[1]).all())
    tensors = {name: padded[name] for name in (features if whole else [*features, "attention_mask"])}
    if gpu:
        # From pinned memory the copy overlaps with the batch before; from other memory the CPU would wait.
        tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
    return {name: tensor.to(router.device, non_blocking=True) for name, tensor in tensors.items()}


def _special_tokens(router: Router) -> tuple[int, int]:
    """How many special tokens the tokenizer adds before and after a text."""
    bare = router.tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = router.tokenizer("a")["input_ids"]
    added = len(whole) - len(bare)
    front = next(i for i in range(added + 1) if whole[i : i + len(bare)] == bare)
    return front, added - front
