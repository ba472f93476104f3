"""Matching: which rows of tonight have an answer in the files of a cache."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from batchroute.cache.files import Keys

Numbers = NDArray[np.int32]


def match(wanted: Keys, files: Iterable[Keys | None]) -> tuple[Numbers, Numbers]:
    """For each of the wanted keys the first file that has it, and the row there; -1 where none has it.

    Memory: 40 bytes for each wanted key besides the keys, and 40 for each row of the one file that is looked at.

    Args:
        wanted: shape [rows, 2]; a key may be there several times.
        files: the keys of each file; None for one that cannot be read.
    """
    order = np.lexsort((wanted[:, 1], wanted[:, 0]))
    firsts, seconds = wanted[order, 0], wanted[order, 1]
    file_of, row_of = np.full(len(wanted), -1, np.int32), np.zeros(len(wanted), np.int32)
    for number, keys in enumerate(files):
        if keys is None or not len(keys):
            continue
        begin, end = (np.searchsorted(firsts, keys[:, 0], side) for side in ("left", "right"))
        rows = np.flatnonzero(end > begin)
        many = (end - begin)[rows]
        # Each pair of a row of the file and a wanted key that begins alike.
        row = np.repeat(rows, many)
        at = np.repeat(begin[rows], many) + np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
        same = (seconds[at] == keys[row, 1]) & (file_of[order[at]] < 0)
        found = order[at[same]]
        file_of[found], row_of[found] = number, row[same]
    return file_of, row_of
