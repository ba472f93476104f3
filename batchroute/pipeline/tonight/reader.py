"""A reader of answers that is fitted to tonight's rows: heads on a frozen encoder learn from what both models answered.

So the text of an answer tells where the backend gives no log-probabilities and no other day's table is at hand.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from batchroute.errors import InputError
from batchroute.fields import SIDES
from batchroute.pipeline.context import Context
from batchroute.pipeline.readers import FITTED_KEY, has_heads, load_encoder, put_heads
from batchroute.pipeline.shards.names import READ, Shard, shard_stage
from batchroute.pipeline.stages.confidence import signals_at
from batchroute.pipeline.stages.read import Unread, put_readings
from batchroute.pipeline.tonight.drawn import read_drawn
from batchroute.pipeline.tonight.measure import measured, qualities_of
from batchroute.storage.receipts import Receipt
from batchroute.storage.units import Stage
from batchroute.words import plural

if TYPE_CHECKING:
    from batchroute.router.heads.ensemble import Ensemble

LEAST_PROMPTS = 40
"""With fewer measured prompts nothing is learned that holds for others."""

_SHARD: Shard = "calibration_small"

Floats = NDArray[np.float64]


def fit_reader(context: Context) -> None:
    """Fit the heads to the measured rows. The reading of each of them is by heads that never saw its prompt.

    Nothing is fitted where the rows have nothing to teach and the answers have other signals.

    Raises:
        InputError: the rows have nothing to teach, and without a reading the answers tell nothing.
    """
    spec, drawn = context.job.policy.calibrate, read_drawn(context.work)
    if spec is None or spec.reader is None or has_heads(context.work):
        return
    assert drawn is not None
    positions, qualities = np.array(drawn.positions, np.int64), measured(context.work, drawn)
    pieces = list(shard_stage(context.work, _SHARD).receipts().values())
    unread = [Unread.of(context, _SHARD, piece.unit) for piece in pieces]
    places = [np.searchsorted(positions, one.positions.to_numpy()[one.there]) for one in unread]
    at = np.concatenate([np.empty(0, np.intp), *places])
    small, large = (qualities_of(qualities, side)[at] for side in SIDES)
    rows = _Answers(
        [text for one in unread for text in one.texts], [text for one in unread for text in one.prompts], small, large
    )
    reason = rows.nothing_to_learn()
    if reason is None:
        fitted = _fit(context, rows, spec.seed)
        _put_readings(context.work.stage(READ[_SHARD]), fitted, pieces, unread)
        # Last: whoever finds the heads finds all readings.
        put_heads(context.work, fitted.heads)
        return
    signals, _ = signals_at(context, positions, np.full(len(positions), np.nan, np.float32))
    if not signals.tells:
        raise InputError(
            f"{FITTED_KEY}: {reason}, so no reader can be fitted to them, and the small model's answers tell nothing "
            "else: raise policy.calibrate.rows, compare by another metric, or decide before"
        )
    context.engine.progress.note("calibrate", f"no reader is fitted: {reason}")


@dataclass(frozen=True, slots=True)
class _Answers:
    """The answers to tonight's rows; arrays of shape [answers].

    Attributes:
        texts: each answer with its prompt.
        small, large: qualities, NaN where unknown.
    """

    texts: Sequence[str]
    prompts: Sequence[str]
    small: Floats
    large: Floats

    @property
    def known(self) -> NDArray[np.bool_]:
        """Those that are measured."""
        return ~np.isnan(self.small) & ~np.isnan(self.large)

    def nothing_to_learn(self) -> str | None:
        """Why; None if there is something."""
        known = self.known
        prompts = len({prompt.strip() for prompt in itertools.compress(self.prompts, known)})
        if prompts < LEAST_PROMPTS:
            measured = f"{plural(prompts, 'different prompt')} of tonight's rows"
            return f"{measured} are measured, and {LEAST_PROMPTS} are needed"
        if not self.large[known].any():
            return "the large model's quality is 0 on all measured rows"
        gaps = self.small[known] - self.large[known]
        return "both models' qualities differ by the same on all measured rows" if np.ptp(gaps) == 0.0 else None


@dataclass(frozen=True, slots=True)
class _Fitted:
    """Heads, and what they make of the answers; arrays of shape [answers].

    Attributes:
        tokens, read: of the texts, and how many of them the encoder read.
        read_seconds: that the encoder took; `seconds` are all others, loading it among them.
    """

    heads: Ensemble
    readings: NDArray[np.float32]
    tokens: NDArray[np.int32]
    read: NDArray[np.int32]
    read_seconds: float
    seconds: float


def _fit(context: Context, rows: _Answers, seed: int) -> _Fitted:
    """Raises:
    InputError: the encoder gives no numbers.
    """
    from batchroute.router.evaluation.curves import MeanQualities
    from batchroute.router.heads.features import TextParts
    from batchroute.router.labels import Labels
    from batchroute.router.scoring import encode, pooled
    from batchroute.router.training.heads.learning import Rows, learn

    progress = context.engine.progress
    answers = plural(int(rows.known.sum()), "answer")
    progress.note("calibrate", f"a reader is fitted to {answers} on the encoder {context.job.reader}")
    encoder = load_encoder(context.job, context.engine.device)
    started = time.perf_counter()
    encoded = encode(encoder, rows.texts)
    states = pooled(encoder, encoded).cpu()
    read_seconds = time.perf_counter() - started
    encoder.close()
    known = rows.known & states.isfinite().all(dim=1).numpy()
    if 2 * known.sum() < rows.known.sum():
        raise InputError(f"{FITTED_KEY}: the encoder '{context.job.reader}' gives no numbers for most answers")
    small, large = rows.small[known], rows.large[known]
    pairs = [np.array([one]) for one in small], [np.array([one]) for one in large]
    prompts = list(itertools.compress(rows.prompts, known))
    learned = learn(
        Rows(
            texts=list(itertools.compress(rows.texts, known)),
            states=states.numpy()[known],
            prompts=prompts,
            targets=Labels.fit("gap", *pairs).apply(*pairs).astype(np.float64),
            qualities=MeanQualities.of(small, large, prompts),
            weights=np.ones(len(small)),
        ),
        seed,
        lambda line: progress.note("calibrate", line),
    )
    heads = learned.ensemble
    readings, _ = heads.score(states, TextParts.of(rows.texts, heads.projection))
    readings[known] = learned.scores
    seconds = encoder.load_seconds + time.perf_counter() - started - read_seconds
    return _Fitted(heads, readings, encoded.tokens, encoded.lengths, read_seconds, seconds)


def _put_readings(stage: Stage, fitted: _Fitted, pieces: Sequence[Receipt], unread: Sequence[Unread]) -> None:
    """Of the units that have none yet."""
    done, start = stage.receipts(), 0
    for number, (piece, one) in enumerate(zip(pieces, unread, strict=True)):
        own = slice(start, start + len(one.texts))
        start = own.stop
        if piece.unit in done:
            continue
        tokens = fitted.tokens[own]
        counts = {"tokens": int(tokens.sum()), "truncated": int((tokens > fitted.read[own]).sum())}
        seconds = {
            "seconds": fitted.read_seconds * len(one.texts) / len(fitted.tokens),
            "load_seconds": 0.0 if number else fitted.seconds,
        }
        put_readings(stage, piece, one, fitted.readings[own], counts, seconds)
