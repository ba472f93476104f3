"""Which rows were drawn for tonight's calibration, and the two shards that hold them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from batchroute.fields import LARGE, Side
from batchroute.pipeline import layout
from batchroute.pipeline.shards.names import Shard
from batchroute.storage.units import Span, spans
from batchroute.storage.workdir import Workdir

SHARDS: dict[Side, Shard] = {"small": "calibration_small", "large": "calibration_large"}

# Two responses each: a crash repeats the ratings of no more rows than that.
_ROWS_A_UNIT = 128


class Drawn(BaseModel):
    """The drawn rows; the file is written before their shards.

    Attributes:
        of: rows that they were drawn from.
        metric: the text of `quality.describe`.
        reference: an input column; `large` for the large model's answer; None.
        positions: ascending.
    """

    model_config = ConfigDict(frozen=True)

    of: int
    metric: str
    reference: str | None
    positions: list[int]

    @property
    def by_likeness(self) -> bool:
        return self.reference == LARGE

    def spans(self) -> list[Span]:
        """The units of measuring."""
        return spans(len(self.positions), _ROWS_A_UNIT)


def read_drawn(work: Workdir) -> Drawn | None:
    """None until the rows are drawn, and in a run without a calibration of its own."""
    tree = work.read_json(layout.DRAWN)
    return None if tree is None else Drawn.model_validate(tree)
