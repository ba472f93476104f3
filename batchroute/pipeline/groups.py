"""The groups of a policy: the values of its column `by`."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from batchroute.pipeline.stages.scores import Stretch
from batchroute.policy.decision import Groups
from batchroute.tables.parquet import PromptTable
from batchroute.tables.types import texts


def groups_of(table: PromptTable, column: str, stretches: list[Stretch] | None = None) -> Groups:
    """The values of a column, as text, in all rows or in the given stretches of positions."""
    reader = table.reader([column])
    numbers: dict[str | None, int] = {}
    codes = [np.empty(0, np.int32)]
    for start, stop in stretches or [(0, table.rows)]:
        for batch in reader.read(start, stop):
            encoded = pa.chunked_array([batch.column(0)]).combine_chunks()
            encoded = encoded if pa.types.is_dictionary(encoded.type) else encoded.dictionary_encode()
            names = [*texts(encoded.dictionary), None]
            known = np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int32)
            # Nulls get the last code, whose name is None.
            codes.append(known[encoded.indices.fill_null(len(names) - 1).to_numpy(zero_copy_only=False)])
    return Groups(list(numbers), np.concatenate(codes))
