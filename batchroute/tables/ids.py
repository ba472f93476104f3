"""Hashes of row ids."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchroute.tables.types import is_text, plain, plain_type


def hash_ids(ids: pa.Array, seed: int = 0) -> npt.NDArray[np.uint64]:
    """64 bits an id: equal ids have equal hashes, others hardly ever."""
    import polars as pl

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
        """
        Args:
            kind: of the ids that are looked for. UUIDs and their texts, numbers as text and whole numbers of any width
                are compared by value.

        Raises:
            pa.ArrowInvalid, pa.ArrowNotImplementedError: an array's values are none of type `kind`.
        """
        iterator = iter(arrays)
        first = list(itertools.islice(iterator, 1))
        self._same = _sameness(kind, first[0].type if first else kind)
        kind = plain_type(self._same(pa.nulls(0, kind)).type)
        self._kind = pa.large_string() if pa.types.is_string(kind) else kind
        pairs = [self._hashes(array) for array in itertools.chain(first, iterator)]
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
        ids = plain(self._same(ids)).cast(self._kind)
        pairs = np.empty(len(ids), _PAIR)
        pairs["a"], pairs["b"] = hash_ids(ids), hash_ids(ids, seed=1)
        return pairs


def _sameness(ours: pa.DataType, theirs: pa.DataType) -> Callable[[pa.Array], pa.Array]:
    """What makes equal ids of both types equal values of one type."""
    kinds = (ours, theirs)
    if any(isinstance(kind, pa.UuidType) for kind in kinds):
        return _hexadecimal
    if any(_is_numeric(kind) for kind in kinds):
        return _number
    if ours != theirs and all(pa.types.is_integer(kind) for kind in kinds):
        return lambda ids: ids.cast(pa.int64())
    return lambda ids: ids


def _is_numeric(kind: pa.DataType) -> bool:
    return pa.types.is_decimal(kind) or (isinstance(kind, pa.OpaqueType) and kind.type_name == "numeric")


def _hexadecimal(ids: pa.Array) -> pa.Array:
    """UUIDs, or texts of them, as 32 digits."""
    # `validate` and `verify` spare their imports.
    import polars as pl
    import pyarrow.compute as pc

    if is_text(ids.type):
        lower = pc.utf8_lower(ids.cast(pa.large_string()))
        return pc.replace_substring_regex(lower, pattern="[-{}]", replacement="")
    values = ids.storage if isinstance(ids.type, pa.BaseExtensionType) else ids
    return pl.Series(values=values.cast(pa.binary())).bin.encode("hex").to_arrow().cast(pa.large_string())


def _number(ids: pa.Array) -> pa.Array:
    """Numbers as text, without zeros at the end."""
    import pyarrow.compute as pc

    text = (ids.storage if isinstance(ids.type, pa.OpaqueType) else ids).cast(pa.large_string())
    short = pc.replace_substring_regex(text, pattern=r"(\.\d*?)0+$", replacement=r"\1")
    return pc.replace_substring_regex(short, pattern=r"\.$", replacement="")


_PAIR = np.dtype([("a", np.uint64), ("b", np.uint64)])
