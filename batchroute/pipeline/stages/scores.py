"""Scores of a job's rows: all that a run has stored, or a sample that `plan` draws evenly over the table and scores."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchroute.costs.prices import pico
from batchroute.costs.usage import router_usage
from batchroute.pipeline import layout
from batchroute.pipeline.context import Context
from batchroute.pipeline.stages.score import load_router, unscored
from batchroute.policy.settings import Positions, Scores
from batchroute.prompt import as_text, other_than_text
from batchroute.storage.receipts import Facts, Receipt
from batchroute.storage.units import Span
from batchroute.tables.chats import BadPrompt

_SECONDS = 20.0
_BLOCKS = 50
_ROWS_A_STEP = 50
_SEED = 0

Stretch = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Sample:
    """Scored rows.

    Attributes:
        stretches: ranges of positions, in rising order.
        scores, tokens, routable: shape [rows]; the rows of all stretches, in order.
        spent: pico-dollars for scoring all rows of the run, at the pace of this sample.
    """

    stretches: list[Stretch]
    scores: Scores
    tokens: NDArray[np.int32]
    routable: NDArray[np.bool_]
    spent: int

    def thinned(self, rows: NDArray[np.intp]) -> Sample:
        """The sample with these rows only; `stretches` stay as they are."""
        return Sample(self.stretches, self.scores[rows], self.tokens[rows], self.routable[rows], self.spent)


def draw(context: Context, rows: int) -> Sample:
    """Score about `rows` rows of the job's table, or as many as 20 seconds allow, drawn at random.

    Without a router the rows are read, and have no scores.
    """
    from batchroute.router.scoring import score

    spec = context.job.router
    router = None if spec is None else load_router(context)
    pieces = [piece for stretch in _stretches(context.snapshot.rows, rows) for piece in _pieces(*stretch)]
    # Read in rising order: one pass over the table.
    reader = context.table.reader(context.prompts.columns)
    prompts = {
        piece: [prompt for batch in reader.read(*piece) for prompt in context.prompts.read(batch)] for piece in pieces
    }
    scored_pieces: dict[Stretch, tuple[Scores, NDArray[np.int32], NDArray[np.bool_]]] = {}
    started = time.perf_counter()
    for number in np.random.default_rng(_SEED).permutation(len(pieces)).tolist():
        if scored_pieces and time.perf_counter() - started > _SECONDS:
            break
        good = [prompt for prompt in prompts[pieces[number]] if not isinstance(prompt, BadPrompt)]
        usable = np.array([not isinstance(prompt, BadPrompt) for prompt in prompts[pieces[number]]], np.bool_)
        scores, tokens = np.full(len(usable), np.nan, np.float32), np.zeros(len(usable), np.int32)
        if router is None or spec is None:
            scored = unscored(good)
        else:
            scored = score(router, [as_text(prompt) for prompt in good], spec.token_budget)
        text_alone = np.array([other_than_text(prompt) is None for prompt in good], np.bool_)
        scores[usable], tokens[usable] = np.where(text_alone, scored.scores, np.nan), scored.tokens
        scored_pieces[pieces[number]] = scores, tokens, usable
    seconds = time.perf_counter() - started
    load_seconds = 0.0
    if router is not None:
        load_seconds = router.load_seconds
        router.close()
    kept = sorted(scored_pieces)
    scores = np.concatenate([np.empty(0, np.float32), *(scored_pieces[piece][0] for piece in kept)])
    tokens = np.concatenate([np.empty(0, np.int32), *(scored_pieces[piece][1] for piece in kept)])
    usable = np.concatenate([np.empty(0, np.bool_), *(scored_pieces[piece][2] for piece in kept)])
    scale = context.snapshot.rows / max(1, len(scores))
    spent = _spent(context, round(int(tokens.sum()) * scale), seconds * scale, load_seconds)
    return Sample(kept, scores, tokens, usable, spent)


def _stretches(rows: int, sample: int) -> list[Stretch]:
    """Up to 50 stretches, each at a random place of an equal part of the table, so that few row groups are read."""
    if rows <= sample:
        return [(0, rows)]
    blocks = min(_BLOCKS, sample)
    rng = np.random.default_rng(_SEED)
    bounds = [rows * n // blocks for n in range(blocks + 1)]
    size = sample // blocks
    starts = [int(rng.integers(low, max(low + 1, high - size + 1))) for low, high in itertools.pairwise(bounds)]
    return [(start, min(start + size, rows)) for start in starts]


def _pieces(start: int, stop: int) -> Iterator[Stretch]:
    return ((at, min(at + _ROWS_A_STEP, stop)) for at in range(start, stop, _ROWS_A_STEP))


def _spent(context: Context, tokens: int, seconds: float, load_seconds: float) -> int:
    facts = Facts(
        run_id="", unit="0", rows=0, first=0, last=0,
        seconds=seconds, load_seconds=load_seconds, counts={"tokens": tokens},
    )  # fmt: skip
    price = context.snapshot.price("router")
    used = router_usage("", price, [Receipt(**facts.model_dump(), file="", bytes=0, sha256="")])
    return 0 if used.cost is None else pico(used.cost)


def stored(context: Context) -> Sample:
    """All scores of a run; 9 bytes of memory a row."""
    rows = context.snapshot.rows
    scores, tokens = np.empty(rows, np.float32), np.zeros(rows, np.int32)
    routable = np.empty(rows, np.bool_)
    for chunk, table in zip(context.snapshot.chunks(), tables(context, ["score", "tokens", "error_type"]), strict=True):
        at = slice(chunk.start, chunk.stop)
        scores[at] = floats(table["score"])
        tokens[at] = table["tokens"].fill_null(0).to_numpy()
        routable[at] = table["error_type"].is_null().to_numpy()
    price = context.snapshot.price("router")
    used = router_usage("", price, context.work.stage(layout.SCORE).receipts().values())
    return Sample([(0, rows)], scores, tokens, routable, 0 if used.cost is None else pico(used.cost))


def tables(context: Context, columns: list[str] | None = None) -> Iterator[pa.Table]:
    return context.work.stage(layout.SCORE).tables((chunk.unit for chunk in context.snapshot.chunks()), columns)


def floats(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """A column of scores, with NaN for null."""
    scores: NDArray[np.float32] = column.to_numpy().astype(np.float32, copy=False)
    return scores


def values_at(
    spans: Iterable[Span], positions: Positions, read: Callable[[Span], pa.ChunkedArray], without: float = 0.0
) -> Scores:
    """The values of some rows. Spans that hold none of them are not read.

    Args:
        positions: ascending.
        read: the values of all rows of a span, null where there is none.
        without: stands for null.
    """
    values = np.zeros(len(positions), np.float32)
    for span in spans:
        first, last = np.searchsorted(positions, [span.start, span.stop])
        if first < last:
            own = floats(read(span))[positions[first:last] - span.start]
            values[first:last] = np.nan_to_num(own, nan=without)
    return values
