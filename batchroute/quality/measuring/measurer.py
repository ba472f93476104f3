"""Measuring: how good each response is, by a quality metric."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from batchroute.errors import StoppedError
from batchroute.fields import SIDES, Side
from batchroute.quality.base import Item, Measurement, Metric
from batchroute.storage.receipts import Facts, Receipt
from batchroute.storage.units import Span, Stage

SCHEMA = pa.schema(
    [
        pa.field("position", pa.int64()),
        pa.field("small_quality", pa.list_(pa.float64())),
        pa.field("large_quality", pa.list_(pa.float64())),
        pa.field("error_type", pa.string()),  # set: one model has no quality for the row, and both lists are empty
        pa.field("error", pa.string()),
    ]
)

_HOPELESS = 100
_METRICS_FAULT = ("api_error", "unparsable", "refused", "not_finite")

UNMEASURED = "unmeasured_"
"""Prefix of the counts in a receipt: responses without a quality, by error type."""

Reason = tuple[str, str]
"""An error's type and its words."""


@dataclass(frozen=True, slots=True)
class AnsweredRow:
    """A row to measure: a usable prompt and the responses of the models to it, or why there are none.

    Attributes:
        reference: the row's own; None if it has none.
        responses: by side, without a side that is not measured; an entry is None where the model failed.
        errors: by side, of the first response that failed.
        bad: what is wrong with the row itself.
        likeness: responses are measured by their likeness to the large model's, not by the row's reference.
        peer: above 0, each response is measured by the same model's response that many places on.
    """

    prompt: str
    reference: str | None
    responses: dict[Side, list[str | None]]
    errors: dict[Side, Reason]
    bad: Reason | None = None
    likeness: bool = False
    peer: int = 0

    def reference_of(self, side: Side, number: int) -> str | None:
        """What a response is compared with.

        By likeness, the small model's responses are compared with the large model's, one with one. The large model's
        are compared with its next ones: how alike it is to itself is the most that can be asked of the small model. A
        single one is compared with itself.
        """
        if self.peer:
            own = [response for response in self.responses[side] if response is not None]
            return own[(number + self.peer) % len(own)] if self.peer < len(own) else None
        if not self.likeness:
            return self.reference
        of_large = [response for response in self.responses["large"] if response is not None]
        if not of_large:
            return None
        return of_large[(number + (side == "large")) % len(of_large)]


Result = tuple[dict[Side, list[float]], Reason | None]
"""A row's qualities by side. With a reason all of them are empty."""


@dataclass
class Measurer:
    """Does units: reads the rows of a unit with their responses, and writes their qualities."""

    metric: Metric
    rows: Callable[[Span], list[AnsweredRow]]
    stage: Stage
    units_at_once = 1

    def __post_init__(self) -> None:
        self._load_seconds = self.metric.load_seconds

    def do(self, stage: str, span: Span) -> Receipt:
        """Raises:
        StoppedError: the metric failed in the same way on all responses of a large unit.
        """
        started = time.perf_counter()
        rows = self.rows(span)
        items = [
            Item(row.prompt, response, row.reference_of(side, number), row.likeness)
            for row in rows
            if row.bad is None
            for side, responses in row.responses.items()
            for number, response in enumerate(text for text in responses if text is not None)
        ]
        measurements = [_finite(measurement) for measurement in self.metric.measure(items)]
        _stop_if_hopeless(measurements)
        in_order = iter(measurements)
        results = [_result(row, in_order) for row in rows]
        counts = Counter(f"{UNMEASURED}{one.error_type}" for one in measurements if one.error_type is not None)
        columns: list[Sequence[object]] = [
            span.positions,
            *([qualities[side] for qualities, _ in results] for side in SIDES),
            [reason and reason[0] for _, reason in results],
            [reason and reason[1] for _, reason in results],
        ]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        facts = Facts.of(
            self.stage.run_id,
            span.unit,
            span.positions,
            seconds=time.perf_counter() - started,
            load_seconds=self._load_seconds,
            counts={"failed": sum(reason is not None for _, reason in results), **counts},
        )
        self._load_seconds = 0.0
        return self.stage.commit(facts, SCHEMA, pa.table(arrays, schema=SCHEMA).to_batches())

    def close(self) -> None:
        self.metric.close()


def _result(row: AnsweredRow, measurements: Iterator[Measurement]) -> Result:
    """Takes one measurement for each response of the row that could be measured."""
    qualities: dict[Side, list[float]] = {side: [] for side in SIDES}
    if row.bad is not None:
        return qualities, row.bad
    reasons = dict(row.errors)
    for side, responses in row.responses.items():
        for response in responses:
            if response is None:
                continue
            measurement = next(measurements)
            if measurement.quality is not None:
                qualities[side].append(measurement.quality)
            else:
                reasons.setdefault(side, (measurement.error_type or "", measurement.error or ""))
    for side in row.responses:
        if not qualities[side]:
            kind, words = reasons.get(side, ("no_response", "there is no response"))
            return {side: [] for side in SIDES}, (kind, f"{side} model: {words}")
    return qualities, None


def _finite(measurement: Measurement) -> Measurement:
    if measurement.quality is None or math.isfinite(measurement.quality):
        return measurement
    return Measurement(error_type="not_finite", error="the metric gave no finite number")


def _stop_if_hopeless(measurements: Sequence[Measurement]) -> None:
    count, errors = len(measurements), {measurement.error for measurement in measurements}
    if count < _HOPELESS or len(errors) > 1 or None in errors or measurements[0].error_type not in _METRICS_FAULT:
        return
    raise StoppedError(
        f"the metric failed on all {count} responses of a unit: {measurements[0].error}; fix it and run again"
    )
