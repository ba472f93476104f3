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
        pa.field("error_type", pa.string()),  # set: the row has no quality of one model, and its lists are empty
        pa.field("error", pa.string()),
    ]
)


_HOPELESS = 100
_METRICS_FAULT = ("api_error", "unparsable", "refused", "not_finite")

UNMEASURED = "unmeasured_"
"""Before the error types of responses without a quality, in a receipt's counts."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A row to measure: a usable prompt and what both models said to it, or why there is nothing.

    Attributes:
        responses: by side, without one that is not measured; an entry is None where the model failed.
        errors: by side, of the first response that failed: its type and its words.
        bad: type and words of what is wrong with the row itself.
    """

    prompt: str
    reference: str | None
    responses: dict[Side, list[str | None]]
    errors: dict[Side, tuple[str, str]]
    bad: tuple[str, str] | None = None


Result = tuple[dict[Side, list[float]], tuple[str, str] | None]
"""A row's qualities by side, and why it has none: the error's type and words."""


@dataclass
class Measurer:
    """Carries out units: rows with the responses of both models become rows with their qualities."""

    metric: Metric
    rows: Callable[[Span], list[Answered]]
    stage: Stage
    units_at_once = 1

    def __post_init__(self) -> None:
        self._load_seconds = self.metric.load_seconds

    def do(self, stage: str, span: Span) -> Receipt:
        started = time.perf_counter()
        rows = self.rows(span)
        items = [
            Item(row.prompt, response, row.reference)
            for row in rows
            if row.bad is None
            for responses in row.responses.values()
            for response in responses
            if response is not None
        ]
        found = [_finite(one) for one in self.metric.measure(items)]
        _stop_if_hopeless(found)
        measured = iter(found)
        results = [self._result(row, measured) for row in rows]
        counts = Counter(f"{UNMEASURED}{one.error_type}" for one in found if one.error_type is not None)
        columns: list[Sequence[object]] = [
            list(range(span.start, span.stop)),
            [result[0]["small"] for result in results],
            [result[0]["large"] for result in results],
            [result[1] and result[1][0] for result in results],
            [result[1] and result[1][1] for result in results],
        ]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        facts = Facts(
            run_id=self.stage.run_id,
            unit=span.unit,
            rows=span.rows,
            first=span.start,
            last=span.stop - 1,
            seconds=time.perf_counter() - started,
            load_seconds=self._load_seconds,
            counts={"failed": sum(result[1] is not None for result in results), **counts},
        )
        self._load_seconds = 0.0
        return self.stage.commit(facts, SCHEMA, pa.table(arrays, schema=SCHEMA).to_batches())

    def close(self) -> None:
        self.metric.close()

    @staticmethod
    def _result(
        row: Answered, measured: Iterator[Measurement]
    ) -> tuple[dict[Side, list[float]], tuple[str, str] | None]:
        """A row's qualities by side, both empty when one side has none, and then the reason."""
        nothing: dict[Side, list[float]] = {side: [] for side in SIDES}
        if row.bad is not None:
            return nothing, row.bad
        qualities: dict[Side, list[float]] = {side: [] for side in SIDES}
        reasons = dict(row.errors)
        for side, responses in row.responses.items():
            for response in responses:
                if response is None:
                    continue
                one = next(measured)
                if one.quality is not None:
                    qualities[side].append(one.quality)
                else:
                    reasons.setdefault(side, (one.error_type or "", one.error or ""))
        for side in row.responses:
            if not qualities[side]:
                kind, words = reasons.get(side, ("no_response", "there is no response"))
                return nothing, (kind, f"{side} model: {words}")
        return qualities, None


def _finite(one: Measurement) -> Measurement:
    if one.quality is None or math.isfinite(one.quality):
        return one
    return Measurement(error_type="not_finite", error="the metric gave no finite number")


def _stop_if_hopeless(found: Sequence[Measurement]) -> None:
    """Raises:
    StoppedError: all responses of a large unit failed on the metric with the same words.
    """
    errors = {one.error for one in found}
    if len(found) >= _HOPELESS and len(errors) == 1 and None not in errors and found[0].error_type in _METRICS_FAULT:
        raise StoppedError(
            f"the metric failed on all {len(found)} responses of a unit: {found[0].error}; mend it and run again"
        )
