"""Hashes of row ids."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from batchroute.tables.types import plain, plain_type


def hash_ids(ids: pa.Array, seed: int = 0) -> npt.NDArray[np.uint64]:
    """64 bits an id: equal ids have equal hashes, others hardly ever."""
    ids = plain(ids)
    if pa.types.is_decimal(ids.type):
        ids = ids.cast(pa.string())  # polars knows none of more than 38 digits
    elif pa.types.is_timestamp(ids.type):
        ids = ids.cast(pa.int64())  # nor time zones without a name
    hashes: npt.NDArray[np.uint64] = pl.Series(values=ids).hash(seed=seed).to_numpy()
    return hashes


class IdSet:
    """A set of ids of one type, as 128-bit hashes: 16 bytes an id; a collision is not to be expected."""

    def __init__(self, kind: pa.DataType, arrays: Iterable[pa.Array]) -> None:
        """Raises:
        pa.ArrowInvalid, pa.ArrowNotImplementedError: an array's values are none of type `kind`.
        """
        kind = plain_type(kind)
        self._kind = pa.large_string() if pa.types.is_string(kind) else kind
        pairs = [self._hashes(array) for array in arrays]
        hashes: Any = np.concatenate(pairs) if pairs else np.empty(0, _PAIR)
        self._sorted = np.unique(hashes)

    def __len__(self) -> int:
        return len(self._sorted)

    def contains(self, ids: pa.Array) -> npt.NDArray[np.bool_]:
        """Shape (ids,)."""
        pairs = self._hashes(ids)
        at = np.searchsorted(self._sorted, pairs)
        inside = at < len(self._sorted)
        contained = np.zeros(len(pairs), np.bool_)
        contained[inside] = self._sorted[at[inside]] == pairs[inside]
        return contained

    def _hashes(self, ids: pa.Array) -> Any:
        ids = plain(ids).cast(self._kind)
        pairs = np.empty(len(ids), _PAIR)
        pairs["a"], pairs["b"] = hash_ids(ids), hash_ids(ids, seed=1)
        return pairs


_PAIR = np.dtype([("a", np.uint64), ("b", np.uint64)])
