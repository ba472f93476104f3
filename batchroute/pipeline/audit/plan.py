"""The plan of an audit: fixed before its rows are drawn, so that a resumed run audits the same rows."""

from __future__ import annotations

from decimal import Decimal

from pydantic import BaseModel, ConfigDict

from batchroute.fields import LARGE
from batchroute.pipeline import layout
from batchroute.storage.units import Span, spans
from batchroute.storage.workdir import Workdir

# Two responses each: a crash repeats the ratings of no more rows than that.
_ROWS_A_UNIT = 128


class Stratum(BaseModel):
    """Rows of the small model with neighbouring scores. `score` and `position` are those of its last row."""

    model_config = ConfigDict(frozen=True)

    rows: int
    drawn: int
    score: float
    position: int


class AuditPlan(BaseModel):
    """How an audit draws and measures; later changes of the job file have no effect on it.

    Attributes:
        metric: the text of `quality.describe`.
        reference: the input column, or `LARGE`: the large model's answers.
        strata: by score, the lowest first.
        large: rows that the large model answers for the output, without copies; the audit measures as many of them as
            it draws rows of the small model.
        unit_rows: rows in a unit of the audited shard.
    """

    model_config = ConfigDict(frozen=True)

    share: Decimal
    seed: int
    metric: str
    reference: str | None
    strata: list[Stratum]
    large: int
    unit_rows: int

    @property
    def by_likeness(self) -> bool:
        return self.reference == LARGE

    @property
    def words(self) -> str:
        """The metric, and whether it measures likeness."""
        from batchroute.quality.base import LIKENESS

        return f"{self.metric}, {LIKENESS}" if self.by_likeness else self.metric

    @property
    def drawn(self) -> int:
        return sum(stratum.drawn for stratum in self.strata)

    @property
    def of(self) -> int:
        return sum(stratum.rows for stratum in self.strata)

    @property
    def units(self) -> int:
        """Of the audited shard."""
        return -(-self.drawn // self.unit_rows)

    def spans(self) -> tuple[list[Span], list[Span]]:
        """The units of measuring: first of the audited rows, then of the large model's rows, numbered on from there."""
        size = min(self.unit_rows, _ROWS_A_UNIT)
        audited = spans(self.drawn, size)
        of_large = [
            Span(f"{len(audited) + number:05d}", self.drawn + span.start, self.drawn + span.stop)
            for number, span in enumerate(spans(min(self.large, self.drawn), size))
        ]
        return audited, of_large


def read_audit_plan(work: Workdir) -> AuditPlan | None:
    """None until the run begins its audit."""
    plan = work.read_json(layout.AUDIT)
    return None if plan is None else AuditPlan.model_validate(plan)
