"""Copies: rows whose prompt occurs earlier in the same shard. One response serves them all."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchroute.fields import SIDES, Side
from batchroute.storage.units import Span, Stage

Positions = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_DIGESTS_AT_A_TIME = 1 << 22


@dataclass(frozen=True)
class Copies:
    """The copies of one shard.

    Attributes:
        copies: positions, in rising order.
        originals: for each copy, the position of the first row with the same prompt.
    """

    copies: Positions
    originals: Positions

    def of(self, positions: Positions) -> pa.Array:
        """For each of `positions` the position of its original; null where the row is no copy."""
        if not len(self.copies):
            return pa.nulls(len(positions), pa.int64())
        at = np.minimum(np.searchsorted(self.copies, positions), len(self.copies) - 1)
        return pa.array(self.originals[at], mask=self.copies[at] != positions)

    def among(self, rows: Mask) -> Copies:
        """The copies within some of the rows. Where the original is not among them, its first copy takes its place.

        Args:
            rows: shape [rows of the run].
        """
        copies, originals = (positions[rows[self.copies]] for positions in (self.copies, self.originals))
        groups, first, group = np.unique(originals, return_index=True, return_inverse=True)
        firsts = np.where(rows[groups], groups, copies[first])[group]
        repeats = copies != firsts
        return Copies(copies[repeats], firsts[repeats])


NO_COPIES = Copies(np.empty(0, np.int64), np.empty(0, np.int64))


def find_copies(
    scored: Stage,
    chunks: Sequence[Span],
    small: Mask,
    sides: Collection[Side],
    left_out: Positions | None = None,
    digests_at_a_time: int = _DIGESTS_AT_A_TIME,
) -> dict[Side, Copies]:
    """The copies within the shard of each model.

    Digests are compared in several passes over the score files, so that memory does not grow with the run. The price is
    reading 16 bytes a row in each pass: a few seconds for five million rows.

    Args:
        scored: the stage whose chunks hold the prompts' digests.
        small: shape [rows]; which rows go to the small model.
        left_out: rows that are in neither shard, ascending.
        sides: the models that decode greedily. A model that samples gives each row a response of its own.
    """
    pairs: dict[Side, list[tuple[Positions, Positions]]] = {side: [] for side in SIDES}
    passes = 1 + len(small) // digests_at_a_time
    for number in range(passes):
        digests, positions = _digests(scored, chunks, number, passes)
        if left_out is not None:
            here = ~np.isin(positions, left_out)
            digests, positions = digests[here], positions[here]
        to_small = small[positions]
        for side in sides:
            in_shard = to_small if side == "small" else ~to_small
            pairs[side].append(_same(digests[in_shard], positions[in_shard]))
    return {side: _sorted(pairs[side]) for side in SIDES}


def _digests(scored: Stage, chunks: Sequence[Span], number: int, passes: int) -> tuple[Any, Positions]:
    """The digests of pass `number` as pairs of integers, shape [rows, 2], and the positions of their rows."""
    digests, positions = [np.empty((0, 2), np.uint64)], [np.empty(0, np.int64)]
    tables = scored.tables((chunk.unit for chunk in chunks), ["digest"])
    for chunk, table in zip(chunks, tables, strict=True):
        column = table["digest"]
        pairs = _pairs(column)
        in_pass = np.flatnonzero(column.is_valid().to_numpy() & (pairs[:, 0] % passes == number))
        digests.append(pairs[in_pass])
        positions.append(chunk.start + in_pass)
    return np.concatenate(digests), np.concatenate(positions)


def _sorted(pairs: list[tuple[Positions, Positions]]) -> Copies:
    copies = np.concatenate([np.empty(0, np.int64), *(copies for copies, _ in pairs)])
    originals = np.concatenate([np.empty(0, np.int64), *(originals for _, originals in pairs)])
    order = np.argsort(copies)
    return Copies(copies[order], originals[order])


def _same(digests: Any, positions: Positions) -> tuple[Positions, Positions]:
    """The rows that repeat an earlier digest, and for each of them the first row with that digest.

    Args:
        positions: ascending, and sorting keeps their order.
    """
    # Few digests share a first half: one sort of halves finds those that may be alike, faster than sorting all by both.
    halves = np.sort(digests[:, 0])
    shared = np.isin(digests[:, 0], halves[1:][halves[1:] == halves[:-1]])
    digests, positions = digests[shared], positions[shared]
    order = np.lexsort((digests[:, 1], digests[:, 0]))
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
