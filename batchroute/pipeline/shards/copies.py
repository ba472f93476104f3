"""Copies: rows of a shard whose prompt stands earlier in it, so that one response serves them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchroute.fields import SIDES, Side
from batchroute.pipeline import layout
from batchroute.pipeline.context import Context

Positions = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_DIGESTS_AT_A_TIME = 1 << 21


@dataclass(frozen=True)
class Copies:
    """Rows whose prompt stands earlier in the same shard, in rising order, and where it stands first."""

    copies: Positions
    originals: Positions

    def of(self, positions: Positions) -> pa.Array:
        """For each of `positions` the row that it copies, or null."""
        if not len(self.copies):
            return pa.nulls(len(positions), pa.int64())
        at = np.minimum(np.searchsorted(self.copies, positions), len(self.copies) - 1)
        return pa.array(self.originals[at], mask=self.copies[at] != positions)


NO_COPIES = Copies(np.empty(0, np.int64), np.empty(0, np.int64))


def find_copies(context: Context, small: Mask) -> dict[Side, Copies]:
    """The copies within each shard; none where the model samples, since each row then has a response of its own.

    Args:
        small: shape [rows]; which go to the small model.

    Digests are compared some at a time, in as many passes over the score files, so that memory does not grow with the
    run. The price is reading 16 bytes a row in each pass: a few seconds for five million rows.
    """
    found: dict[Side, list[tuple[Positions, Positions]]] = {side: [] for side in SIDES}
    passes = 1 + context.snapshot.rows // _DIGESTS_AT_A_TIME
    for number in range(passes):
        digests, positions = _digests(context, number, passes)
        routes = small[positions]
        for side in SIDES:
            if context.job.models.of(side).generation.greedy:
                mine = routes if side == "small" else ~routes
                found[side].append(_same(digests[mine], positions[mine]))
    return {side: _sorted(pairs) for side, pairs in found.items()}


def _digests(context: Context, number: int, passes: int) -> tuple[Any, Positions]:
    """Of the rows in pass `number`: digests as pairs of integers, shape [rows, 2], and positions."""
    stage = context.work.stage(layout.SCORE)
    digests, positions = [np.empty((0, 2), np.uint64)], [np.empty(0, np.int64)]
    for chunk in context.snapshot.chunks():
        column = stage.read(chunk.unit, ["digest"])["digest"]
        pairs = _pairs(column)
        mine = np.flatnonzero(column.is_valid().to_numpy() & (pairs[:, 0] % passes == number))
        digests.append(pairs[mine])
        positions.append(chunk.start + mine)
    return np.concatenate(digests), np.concatenate(positions)


def _sorted(pairs: list[tuple[Positions, Positions]]) -> Copies:
    copies = np.concatenate([np.empty(0, np.int64), *(copies for copies, _ in pairs)])
    originals = np.concatenate([np.empty(0, np.int64), *(originals for _, originals in pairs)])
    order = np.argsort(copies)
    return Copies(copies[order], originals[order])


def _same(digests: Any, positions: Positions) -> tuple[Positions, Positions]:
    """Of rows with equal digests all but the first, and for each of them the first."""
    order = np.lexsort((positions, digests[:, 1], digests[:, 0]))
    digests, positions = digests[order], positions[order]
    repeats = np.flatnonzero((digests[1:] == digests[:-1]).all(axis=1)) + 1
    starts = np.ones(len(positions), bool)
    starts[repeats] = False
    first = np.maximum.accumulate(np.where(starts, np.arange(len(positions)), 0))
    return positions[repeats], positions[first[repeats]]


def _pairs(digests: pa.ChunkedArray) -> Any:
    filled = digests.combine_chunks().fill_null(bytes(16))
    buffer = filled.buffers()[1]
    return np.frombuffer(buffer, np.uint64).reshape(-1, 2)[filled.offset : filled.offset + len(filled)]
