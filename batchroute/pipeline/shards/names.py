"""The shards of a run, by name: which model answers each, and where its prompts lie.

More shards go to the large model: the escalated shard holds rows whose answer by the small model was not good enough;
the deferred shard rows whose answer deserves too little confidence; the audited shard rows that both models answer, so
that the answers can be compared. So does tonight's calibration: its rows, which keep the large model's answer, are in
`calibration_large`, and where the policy decides before any row is answered, in `calibration_small` too.
"""

from __future__ import annotations

from typing import Literal, get_args

from batchroute.fields import Side
from batchroute.pipeline import layout
from batchroute.storage.units import Stage
from batchroute.storage.workdir import Workdir

Shard = Literal["small", "large", "calibration_small", "calibration_large", "escalated", "deferred", "audited"]
SHARDS: tuple[Shard, ...] = get_args(Shard)
BOTH = "small→large"
ROUTES: dict[Shard, str] = {
    "small": "small",
    "large": "large",
    "escalated": BOTH,
    "deferred": BOTH,
    "calibration_large": BOTH,
}
"""The value of the output's route column for each shard. The answers of the others are in no output."""

READ: dict[Shard, str] = {"small": layout.READ, "calibration_small": layout.CALIBRATION_READ}
"""The stage in which a reader of answers reads those of a shard. Its units are those of the shard."""


def side_of(shard: Shard) -> Side:
    """The model that answers the shard."""
    return "small" if shard in ("small", "calibration_small") else "large"


def shards_of(side: Side) -> tuple[Shard, ...]:
    """The shards that a model answers."""
    return tuple(shard for shard in SHARDS if side_of(shard) == side)


def shard_stage(work: Workdir, shard: Shard) -> Stage:
    return work.stage(f"{layout.SHARDS}/{shard}")
