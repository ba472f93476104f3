"""What tonight's calibration shows: thresholds by score and by confidence, from the drawn rows alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from batchroute.confidence.choice import bounds_among
from batchroute.confidence.crossing import cross_fitted
from batchroute.confidence.model import ConfidenceModel
from batchroute.confidence.plans import SKIPPED
from batchroute.confidence.rows import PricedRows
from batchroute.confidence.signals import Signals
from batchroute.costs.prices import PICO
from batchroute.costs.usage import router_usage
from batchroute.fields import SIDES, Side
from batchroute.pipeline import layout
from batchroute.pipeline.audit.rows import Positions, scores_of
from batchroute.pipeline.context import Context
from batchroute.pipeline.groups import groups_of
from batchroute.pipeline.shards.answers import FROM_CACHE, full_costs, model_of
from batchroute.pipeline.stages.confidence import signals_at
from batchroute.pipeline.stages.read import cost_of_reading
from batchroute.pipeline.tonight.draw import FEWEST_ROWS
from batchroute.pipeline.tonight.drawn import SHARDS, read_drawn
from batchroute.pipeline.tonight.measure import measured, qualities_of
from batchroute.pipeline.tonight.notes import Measured, notes
from batchroute.pipeline.tonight.way import choose, put_way, ways_of
from batchroute.policy.decision import members_of
from batchroute.policy.settings import Scores
from batchroute.router.calibration import drops
from batchroute.router.calibration.gain import Gain
from batchroute.router.calibration.lengths import Lengths
from batchroute.router.calibration.points import Calibration
from batchroute.storage.workdir import Workdir

ALL = ""
"""The name of all rows, next to the names of groups."""

Floats = NDArray[np.float64]


class Tonight(BaseModel):
    """What the drawn rows show.

    Attributes:
        rows, of: how many were drawn, from how many.
        measured: rows with a quality of both models' answers.
        by_likeness: the large model's answer was the reference.
        failures: rows without, by error type.
        before, after: calibrations by the router's score and by the confidence, of each group and of all rows (`ALL`).
            Without a group's name: too few of its rows are measured.
        model: makes confidences of signals; None where the policy does not look at answers.
    """

    model_config = ConfigDict(frozen=True)

    rows: int
    of: int
    measured: int
    metric: str
    by_likeness: bool
    failures: dict[str, int]
    before: dict[str, Calibration] = {}
    after: dict[str, Calibration] = {}
    model: ConfidenceModel | None = None


def read_tonight(work: Workdir) -> Tonight | None:
    """None until the drawn rows are measured, and in a run without a calibration of its own."""
    tree = work.read_json(layout.TONIGHT)
    return None if tree is None else Tonight.model_validate(tree)


def conclude(context: Context) -> Tonight:
    """Once all drawn rows are measured. Deterministic."""
    earlier = read_tonight(context.work)
    if earlier is not None:
        return earlier
    drawn, policy = read_drawn(context.work), context.job.policy
    assert drawn is not None
    positions = np.array(drawn.positions, np.int64)
    qualities = measured(context.work, drawn)
    failures = Counter(kind for kind in qualities["error_type"].to_pylist() if kind is not None)
    rows = _Rows.read(context, positions, qualities)
    before, after, model = {}, {}, None
    groups = {name: mask & rows.known for name, mask in _groups(context, positions)}
    if context.job.router is not None:
        scored = rows.known & ~np.isnan(rows.scores)
        before = _calibrations(context, rows, rows.scores, {name: mask & scored for name, mask in groups.items()})
    if policy.looks_after and rows.known.sum() >= FEWEST_ROWS:
        model, confidence = _confidence(rows, _seed(context))
        costs = _priced(context, rows, confidence)
        way = choose(context.job, costs, drawn.of)
        put_way(context, way)
        order = confidence if way.skip is None else np.where(rows.scores >= way.skip, confidence, SKIPPED)
        after = _calibrations(context, rows, order, groups)
    tonight = Tonight(
        rows=len(positions),
        of=drawn.of,
        measured=int(rows.known.sum()),
        metric=drawn.metric,
        by_likeness=drawn.by_likeness,
        failures=dict(sorted(failures.items())),
        before=before,
        after=after,
        model=model,
    )
    context.work.put_json(layout.TONIGHT, tonight.model_dump(mode="json"))
    rules = {ALL if group is None else group: rule for group, rule in policy.rules()}
    seen = {name: rows.measured(groups[name]) for name in rules}
    names = {name: "" if name == ALL else f"{name}: " for name in rules}
    for line in notes(rules, seen, after or before, names, drawn.by_likeness):
        context.engine.progress.note("calibrate", line)
    return tonight


def _confidence(rows: _Rows, seed: int) -> tuple[ConfidenceModel, Scores]:
    """The model, and the confidence of each measured row by a model that was not fitted to it: those of its own rows
    would look too good.
    """
    gaps, known = (rows.small - rows.large)[rows.known], rows.known
    prompt, count = np.unique(rows.prompts[known], return_inverse=True, return_counts=True)[1:]
    group, weights = prompt.astype(np.intp), 1.0 / count[prompt]
    signals = rows.signals.take(known)
    confidence = np.full(len(known), np.nan, np.float32)
    confidence[known] = cross_fitted(signals, gaps, seed, groups=group, weights=weights)
    return ConfidenceModel.fit(signals, gaps, weights, group), confidence


def _priced(context: Context, rows: _Rows, confidence: Scores) -> PricedRows | None:
    """The measured rows with what their answers cost in USD; None where a price is missing."""
    if any(context.snapshot.price(side) is None for side in SIDES):
        return None
    known = rows.known & ~np.isnan(rows.scores)
    scored = context.work.stage(layout.SCORE).receipts().values()
    router = router_usage("", context.snapshot.price("router"), scored).cost
    return PricedRows(
        small=rows.small[known],
        large=rows.large[known],
        confidence=confidence[known],
        score=rows.scores[known],
        small_cost=(rows.costs["small"][known] - rows.signal_cost[known]) / PICO,
        signal_cost=(rows.signal_cost[known] + cost_of_reading(context)) / PICO,
        large_cost=rows.costs["large"][known] / PICO,
        group=np.unique(rows.prompts[known], return_inverse=True)[1].astype(np.intp),
        router_cost=0.0 if router is None else float(router) / max(1, context.snapshot.rows),
    )


@dataclass(frozen=True, slots=True)
class _Rows:
    """The drawn rows; arrays of shape [rows], ascending by position.

    Attributes:
        scores: NaN without a router.
        tokens: of the prompt, by the router's tokenizer.
        prompts: digests; rows of one prompt have the same.
        small, large: qualities, NaN where unknown.
        known: rows with both qualities.
        lengths: of each model.
        costs: of each model's answers, in pico-dollars; `signal_cost` is the part of the small one's extra samples.
    """

    scores: Scores
    tokens: NDArray[np.int32]
    prompts: NDArray[np.str_]
    small: Floats
    large: Floats
    known: NDArray[np.bool_]
    signals: Signals
    lengths: Mapping[Side, Lengths]
    costs: Mapping[Side, Floats]
    signal_cost: Floats

    def measured(self, mask: NDArray[np.bool_]) -> Measured:
        """Of these rows, which are known."""
        if not mask.any():
            return Measured(0, np.nan, np.nan)
        prompts = len(np.unique(self.prompts[mask]))
        return Measured(prompts, float(self.small[mask].mean()), float(self.large[mask].mean()))

    @classmethod
    def read(cls, context: Context, positions: Positions, qualities: pa.Table) -> _Rows:
        scores, tokens, prompts = _scored(context, positions)
        small, large = (qualities_of(qualities, side) for side in SIDES)
        signals, answered = signals_at(context, positions, scores)
        known = ~np.isnan(small) & ~np.isnan(large) & answered
        lengths = {side: found for side in SIDES if (found := _lengths(context, side, positions, tokens)) is not None}
        costs = {side: full_costs(_answers(context, side), context.snapshot.price(side)) for side in SIDES}
        samples = _of_samples(context) * costs["small"]
        return cls(scores, tokens, prompts, small, large, known, signals, lengths, costs, samples)


def _calibrations(
    context: Context, rows: _Rows, scores: Scores, groups: Mapping[str, NDArray[np.bool_]]
) -> dict[str, Calibration]:
    found = {}
    # Of several ways the cheapest is taken, which may be the one that breaks its limit: they share that chance.
    sure = bounds_among(1 if context.job.router is None else len(ways_of(context.job.policy)))
    for name, mask in groups.items():
        prompts = len(np.unique(rows.prompts[mask]))
        if prompts < FEWEST_ROWS:
            continue
        small, large, losses = rows.small[mask], rows.large[mask], (rows.large - rows.small)[mask]
        # A drop is relative to the large model's quality: where that is 0, no threshold keeps within a limit.
        mean = float(large.mean())
        prompts_of = rows.prompts[mask].tolist()
        points = (
            drops.points_of(scores[mask], small, large, prompts_of, _seed(context), confidence=sure) if mean else []
        )
        # No threshold keeps rows that skip the small model.
        points = [point for point in points if point.threshold > SKIPPED]
        found[name] = Calibration(
            table_sha256="",
            rows=int(mask.sum()),
            prompts=prompts,
            models={side: context.job.models.of(side).model for side in SIDES},
            metric=None,
            max_length=0,
            confidence=sure,
            points=points,
            gain=Gain.fit(scores[mask], rows.tokens[mask], losses, mean) if mean else None,
            lengths=dict(rows.lengths),
        )
    return found


def _groups(context: Context, positions: Positions) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    policy = context.job.policy
    yield ALL, np.ones(len(positions), np.bool_)
    if policy.by is not None:
        groups = groups_of(context.table, policy.by)
        for name, _ in policy.rules():
            assert name is not None
            yield name, members_of(groups, policy, name)[positions]


def _scored(context: Context, positions: Positions) -> tuple[Scores, NDArray[np.int32], NDArray[np.str_]]:
    """Scores, tokens and digests of the rows. Chunks that hold none of them are not read."""
    tokens, prompts = np.zeros(len(positions), np.int32), [""] * len(positions)
    stage = context.work.stage(layout.SCORE)
    for chunk in context.snapshot.chunks():
        first, last = np.searchsorted(positions, [chunk.start, chunk.stop])
        if first < last:
            at = pa.array(positions[first:last] - chunk.start)
            table = stage.read(chunk.unit, ["tokens", "digest"]).take(at)
            tokens[first:last] = table["tokens"].fill_null(0).to_numpy()
            prompts[first:last] = [digest.hex() for digest in table["digest"].to_pylist()]
    return scores_of(context, positions, np.nan), tokens, np.array(prompts)


def _lengths(context: Context, side: Side, positions: Positions, router_tokens: NDArray[np.int32]) -> Lengths | None:
    table = _answers(context, side)
    answered = table["error_type"].is_null().to_numpy()
    read, written = (
        np.where(answered, table[name].fill_null(0).to_numpy(), np.nan) for name in ("input_tokens", "output_tokens")
    )
    seconds = sum(receipt.seconds for receipt in context.work.stage(SHARDS[side]).receipts().values())
    # No seconds are known of the answers that a cache has.
    asked = np.ones(len(read), np.bool_)
    if FROM_CACHE.name in table.column_names:
        asked = ~table[FROM_CACHE.name].fill_null(False).to_numpy()
    total = float(np.nansum(read[asked]) + np.nansum(written[asked]))
    return Lengths.fit(router_tokens, read, written, seconds / total if total and seconds else None)


def _of_samples(context: Context) -> Floats:
    """The part of each of the small model's answers that its extra samples cost, by tokens."""
    columns = ["sample_input_tokens", "sample_output_tokens", "input_tokens", "output_tokens"]
    if model_of(context.job, "small").confidence is None:
        return np.zeros(len(_answers(context, "small", [])))
    table = _answers(context, "small", columns)
    counts = [table[name].fill_null(0).to_numpy().astype(np.float64) for name in columns]
    price = context.snapshot.price("small")
    a_read, a_written = (price.of_tokens(1, 0), price.of_tokens(0, 1)) if price and price.by_token else (1, 1)
    samples = counts[0] * a_read + counts[1] * a_written
    total = samples + counts[2] * a_read + counts[3] * a_written
    part: Floats = np.divide(samples, total, out=np.zeros_like(samples), where=total > 0)
    return part


def _answers(context: Context, side: Side, columns: list[str] | None = None) -> pa.Table:
    """A model's answers to the drawn rows, by position; all columns unless some are named."""
    stage = context.work.stage(SHARDS[side])
    wanted = None if columns is None else ["position", *columns]
    tables = [stage.read(unit, wanted) for unit in stage.receipts()]
    return pa.concat_tables(tables).sort_by("position")


def _seed(context: Context) -> int:
    spec = context.job.policy.calibrate
    assert spec is not None
    return spec.seed
