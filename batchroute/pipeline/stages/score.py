"""Scoring: the router reads every usable prompt; every other row is marked as failed here, once and for all stages."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchroute.generators.base import as_text
from batchroute.pipeline import layout
from batchroute.pipeline.context import Context
from batchroute.router.drift.languages import language
from batchroute.router.drift.reference import Content, Reference
from batchroute.storage.receipts import Facts, Receipt
from batchroute.storage.units import Span
from batchroute.tables.prompts import DIGEST, BadPrompt, Prompt, digest, read_prompts

if TYPE_CHECKING:
    from batchroute.router.model import Router
    from batchroute.router.scoring import Scores

SCHEMA = pa.schema(
    [
        pa.field("position", pa.int64()),
        pa.field("score", pa.float32()),  # null: no usable prompt, or a router that gave no number
        pa.field("tokens", pa.int32()),  # of the router's tokenizer, before truncation
        pa.field("digest", DIGEST),
        pa.field("error_type", pa.string()),
        pa.field("error", pa.string()),
        # For drift; null without a reference. Files of earlier versions lack them.
        pa.field("language", pa.string()),  # null where it was not looked at
        pa.field("place", pa.int16()),  # number of the reference's group that is nearest
        pa.field("distance", pa.float32()),  # to its centroid
    ]
)
_LANGUAGES = 64
"""Rows of a chunk whose language is looked at, which takes longer than all else but the router."""


def score(context: Context) -> None:
    """Score all chunks that have no receipt yet."""
    with context.engine.workers(context, Scorer, "router") as workers:
        workers.run(layout.SCORE, context.snapshot.chunks())


class Scorer:
    """Scores chunks, with a router that it has loaded.

    A GPU scores one chunk while another thread reads and tokenises the next one, and commits the one before. On a CPU
    they would wait for the same cores: tokenising is 1 % of the work there.
    """

    def __init__(self, context: Context) -> None:
        self.units_at_once = 2 if context.engine.device.type == "cuda" else 1
        self._reading, self._scoring = threading.Lock(), threading.Lock()
        self._free_since = 0.0
        self._context, self._stage = context, context.work.stage(layout.SCORE)
        self._reference = Reference.of(context.job.router.model)
        self._router = load_router(context)
        self._load_seconds = self._router.load_seconds
        self._reader = context.table.reader([context.job.input.prompt])

    def do(self, stage: str, chunk: Span) -> Receipt:
        from batchroute.router.scoring import encode, once, score_encoded

        with self._reading:
            started = time.perf_counter()
            batches = self._reader.read(chunk.start, chunk.stop)
            kind = self._context.snapshot.prompt_kind
            prompts = [prompt for batch in batches for prompt in read_prompts(batch.column(0), kind)]
            texts, places = once([as_text(prompt) for prompt in prompts if not isinstance(prompt, BadPrompt)])
            encoded = encode(self._router, texts)
        with self._scoring:
            # Of chunks that overlap, each counts the time from the end of the one before.
            started = max(started, self._free_since)
            with_embeddings = self._reference is not None and self._reference.content is not None
            token_budget = self._context.job.router.token_budget
            found = score_encoded(self._router, encoded, token_budget, with_embeddings).at(places)
            load_seconds, self._load_seconds = self._load_seconds, 0.0
            ended = self._free_since = time.perf_counter()
        table, counts = _table(prompts, found, chunk.start, self._reference)
        facts = Facts(
            run_id=self._context.snapshot.run_id,
            unit=chunk.unit,
            rows=chunk.rows,
            first=chunk.start,
            last=chunk.stop - 1,
            seconds=ended - started,
            load_seconds=load_seconds,
            counts=counts,
        )
        return self._stage.commit(facts, SCHEMA, table.to_batches())

    def close(self) -> None:
        self._router.close()


def load_router(context: Context) -> Router:
    from batchroute.router.model import Router

    context.engine.progress.note("load", f"loading the router {context.job.router.model}")
    spec = context.job.router
    return Router.load(
        spec.model,
        context.engine.device,
        precision=spec.precision,
        max_length=spec.max_length,
        allow_pickle=spec.allow_pickle,
    )


def _table(
    prompts: Sequence[Prompt | BadPrompt], found: Scores, start: int, reference: Reference | None
) -> tuple[pa.Table, dict[str, int]]:
    """A chunk's rows and counts; `found` are the scores of those that can be used."""
    usable = [index for index, prompt in enumerate(prompts) if not isinstance(prompt, BadPrompt)]
    rows = len(prompts)
    scores, tokens = np.full(rows, np.nan, np.float32), np.zeros(rows, np.int32)
    scores[usable], tokens[usable] = found.scores, found.tokens
    bad = [prompt if isinstance(prompt, BadPrompt) else None for prompt in prompts]
    digests = [None if isinstance(prompt, BadPrompt) else digest(prompt) for prompt in prompts]
    languages: list[str | None] = [None] * rows
    if reference is not None:
        for i in _looked_at(start, usable):
            prompt = prompts[usable[i]]
            languages[usable[i]] = None if isinstance(prompt, BadPrompt) else language(as_text(prompt))
    content = None if reference is None else reference.content
    places, distances = _places(content, found.embeddings, rows, usable)
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
    counts = {
        "failed": rows - len(usable),
        "tokens": int(tokens.sum()),
        "truncated": int(found.truncated.sum()),
        "unscored": int(np.isnan(found.scores).sum()),
    }
    return table, counts


def _looked_at(start: int, usable: Sequence[int]) -> npt.NDArray[np.intp]:
    """Which of a chunk's usable rows have their language looked at: as if by chance, and the same in every attempt."""
    return np.random.default_rng(start).permutation(len(usable))[:_LANGUAGES]


def _places(
    content: Content | None, embeddings: npt.NDArray[np.float32] | None, rows: int, usable: Sequence[int]
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]]:
    """The nearest group and the distance to it, of all rows of a chunk; -1 and NaN where there is none."""
    places, distances = np.full(rows, -1, np.int16), np.full(rows, np.nan, np.float32)
    if content is not None and embeddings is not None:
        finite = np.isfinite(embeddings).all(axis=1)
        at = np.array(usable, np.intp)[finite]
        places[at], distances[at] = content.places(embeddings[finite])
    return places, distances
