"""Scoring: the router reads every usable prompt. Rows without one are marked as failed here, for all later stages.

Without a router the rows get no score: the stage checks them, finds identical prompts and estimates their lengths.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchroute.importing import uncollected
from batchroute.pipeline import layout, sharing
from batchroute.pipeline.context import Context
from batchroute.prompt import Prompt, as_text, other_than_text
from batchroute.router.drift.languages import language
from batchroute.router.drift.reference import Content, Reference
from batchroute.router.scores import Scores
from batchroute.storage.receipts import Facts, Receipt
from batchroute.storage.units import Span
from batchroute.tables.chats import BadPrompt
from batchroute.tables.prompts import DIGEST, digest

if TYPE_CHECKING:
    from batchroute.router.model import Router

SCHEMA = pa.schema(
    [
        pa.field("position", pa.int64()),
        pa.field("score", pa.float32()),  # null: no usable prompt, or the router gave no number
        pa.field("tokens", pa.int32()),  # of the router's tokenizer, before truncation
        pa.field("digest", DIGEST),
        pa.field("error_type", pa.string()),
        pa.field("error", pa.string()),
        # The columns below serve drift; null without a reference. Files of earlier versions lack them.
        pa.field("language", pa.string()),  # null in rows that were not sampled
        pa.field("place", pa.int16()),  # number of the reference's nearest group
        pa.field("distance", pa.float32()),  # to that group's centroid
    ]
)
SPREAD = pa.field("score_spread", pa.float32())
"""Only of routers with heads, after the other columns: how far they disagree, see `Scores`."""

_BYTES_A_TOKEN = 4
_LANGUAGES = 64
"""Rows of a chunk whose language is detected: the slowest step after the router itself."""


def score(context: Context) -> None:
    """Score all chunks that have no receipt yet."""
    make_worker = PromptReader if context.job.router is None else Scorer
    with context.engine.workers(context, make_worker, "router") as workers:
        workers.run(layout.SCORE, context.snapshot.chunks())


class Scorer:
    """A worker that loads the router and scores chunks.

    On a GPU, one thread scores a chunk while another tokenises the next chunk and commits the previous one. On a CPU
    both threads would wait for the same cores, and tokenising is 1 % of the work.
    """

    def __init__(self, context: Context) -> None:
        self.units_at_once = 2 if context.engine.device.type == "cuda" else 1
        self._reading, self._scoring = threading.Lock(), threading.Lock()
        self._free_since = 0.0
        self._context, self._stage = context, context.work.stage(layout.SCORE)
        spec = context.job.router
        assert spec is not None
        self._reference, self._token_budget = Reference.of(spec.model), spec.token_budget
        self._router = load_router(context)
        self._load_seconds = self._router.load_seconds
        self._reader = context.table.reader(context.prompts.columns)

    def do(self, stage: str, chunk: Span) -> Receipt:
        from batchroute.router.scoring import distinct, encode, score_encoded

        with self._reading:
            started = time.perf_counter()
            batches = self._reader.read(chunk.start, chunk.stop)
            prompts = [prompt for batch in batches for prompt in self._context.prompts.read(batch)]
            texts, places = distinct([as_text(prompt) for prompt in prompts if not isinstance(prompt, BadPrompt)])
            encoded = encode(self._router, texts)
        with self._scoring:
            # Of chunks that overlap, each counts the time from the end of the one before.
            started = max(started, self._free_since)
            with_embeddings = self._reference is not None and self._reference.content is not None
            found = score_encoded(self._router, encoded, self._token_budget, with_embeddings)
            self._router.count_unscored(found.scores)
            found = found.at(places)
            load_seconds, self._load_seconds = self._load_seconds, 0.0
            ended = self._free_since = time.perf_counter()
        table, counts = _table(prompts, found, chunk.start, self._reference)
        times = {"seconds": ended - started, "load_seconds": load_seconds}
        facts = Facts.of(self._stage.run_id, chunk.unit, chunk.positions, **times, counts=counts)
        return self._stage.commit(facts, table.schema, table.to_batches())

    def close(self) -> None:
        self._router.close()


class PromptReader:
    """A worker of a job without a router: its chunks have everything but scores."""

    units_at_once = 1

    def __init__(self, context: Context) -> None:
        self._context, self._stage = context, context.work.stage(layout.SCORE)
        self._reader = context.table.reader(context.prompts.columns)

    def do(self, stage: str, chunk: Span) -> Receipt:
        started = time.perf_counter()
        batches = self._reader.read(chunk.start, chunk.stop)
        prompts = [prompt for batch in batches for prompt in self._context.prompts.read(batch)]
        usable = [prompt for prompt in prompts if not isinstance(prompt, BadPrompt)]
        table, counts = _table(prompts, unscored(usable), chunk.start, None)
        counts["unscored"] = 0
        seconds = time.perf_counter() - started
        facts = Facts.of(self._stage.run_id, chunk.unit, chunk.positions, seconds=seconds, counts=counts)
        return self._stage.commit(facts, SCHEMA, table.to_batches())

    def close(self) -> None:
        pass


def unscored(prompts: Sequence[Prompt]) -> Scores:
    """No scores, and the prompts' tokens estimated by their bytes."""
    count = len(prompts)
    lengths = np.array([len(as_text(prompt).encode()) for prompt in prompts], np.int32)
    tokens = -(-lengths // _BYTES_A_TOKEN)
    return Scores(np.full(count, np.nan, np.float32), tokens.astype(np.int32), np.zeros(count, np.bool_))


def load_router(context: Context) -> Router:
    with uncollected():
        from batchroute.router.model import Router

    spec = context.job.router
    assert spec is not None
    context.engine.progress.note("load", f"loading the router {spec.model}")
    router = Router.load(
        spec.model,
        context.engine.device,
        precision=spec.precision,
        max_length=spec.max_length,
        allow_pickle=spec.allow_pickle,
    )
    sharing.keep(context.work, "router", router)
    for note in router.notes:
        context.engine.progress.note("load", note)
    return router


def _table(
    prompts: Sequence[Prompt | BadPrompt], scored: Scores, start: int, reference: Reference | None
) -> tuple[pa.Table, dict[str, int]]:
    """The rows and counts of a chunk.

    Args:
        scored: the scores of the usable prompts.
    """
    usable = [index for index, prompt in enumerate(prompts) if not isinstance(prompt, BadPrompt)]
    rows = len(prompts)
    scores, tokens = np.full(rows, np.nan, np.float32), np.zeros(rows, np.int32)
    scores[usable], tokens[usable] = scored.scores, scored.tokens
    # The large model may read images and the like; the small one gets none, as no score says how hard they are.
    good = [prompt for prompt in prompts if not isinstance(prompt, BadPrompt)]
    unsupported = [index for index, prompt in zip(usable, good, strict=True) if other_than_text(prompt) is not None]
    scores[unsupported] = np.nan
    bad = [prompt if isinstance(prompt, BadPrompt) else None for prompt in prompts]
    digests = [None if isinstance(prompt, BadPrompt) else digest(prompt) for prompt in prompts]
    languages: list[str | None] = [None] * rows
    if reference is not None:
        for i in _sampled(start, usable):
            prompt = prompts[usable[i]]
            languages[usable[i]] = None if isinstance(prompt, BadPrompt) else language(as_text(prompt))
    content = None if reference is None else reference.content
    places, distances = _places(content, scored.embeddings, rows, usable)
    table = pa.table(
        [
            pa.array(np.arange(start, start + rows, dtype=np.int64)),
            pa.array(scores, from_pandas=True),  # NaN becomes null
            pa.array(tokens, mask=np.array([row is not None for row in bad], bool)),
            pa.array(digests, DIGEST),
            pa.array([row and row.error_type for row in bad], pa.string()),
            pa.array([row and row.error for row in bad], pa.string()),
            pa.array(languages, pa.string()),
            pa.array(places, mask=places < 0),
            pa.array(distances, from_pandas=True),
        ],
        schema=SCHEMA,
    )
    if scored.spread is not None:
        spread = np.full(rows, np.nan, np.float32)
        spread[usable] = scored.spread
        table = table.append_column(SPREAD, pa.array(spread, mask=np.isnan(scores) | np.isnan(spread)))
    counts = {
        "failed": rows - len(usable),
        "tokens": int(tokens.sum()),
        "truncated": int(scored.truncated.sum()),
        "unscored": int(np.isnan(scored.scores).sum()),
        "unsupported": len(unsupported),
    }
    return table, counts


def _sampled(start: int, usable: Sequence[int]) -> npt.NDArray[np.intp]:
    """The usable rows of a chunk whose language is detected: a random sample, the same in every attempt."""
    return np.random.default_rng(start).permutation(len(usable))[:_LANGUAGES]


def _places(
    content: Content | None, embeddings: npt.NDArray[np.float32] | None, rows: int, usable: Sequence[int]
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]]:
    """The nearest group of the reference and the distance to it, for all rows of a chunk; -1 and NaN where unknown."""
    places, distances = np.full(rows, -1, np.int16), np.full(rows, np.nan, np.float32)
    if content is not None and embeddings is not None:
        finite = np.isfinite(embeddings).all(axis=1)
        at = np.array(usable, np.intp)[finite]
        places[at], distances[at] = content.places(embeddings[finite])
    return places, distances
