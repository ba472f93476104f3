from __future__ import annotations

from pathlib import Path

import numpy as np

from batchroute.tables.parquet import PickedTable
from tests.tables.test_parquet import open_table, read, write


def test_rows_at_some_positions_are_a_table_of_their_own(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.parquet", 7, group=3)
    write(tmp_path / "in" / "b.parquet", 5, start=7)
    picked = PickedTable.of(open_table(tmp_path / "in"), np.array([0, 2, 6, 7, 11]))
    assert picked.rows == 5
    assert read(picked)["n"].to_pylist() == [0, 2, 6, 7, 11]
    assert read(picked, ["prompt"], 1, 4)["prompt"].to_pylist() == ["p2", "p6", "p7"]
    reader = picked.reader(["n"])
    parts = [[batch["n"][0].as_py() for batch in reader.read(*part)] for part in ((0, 2), (2, 5), (1, 3), (4, 4))]
    assert parts == [[0, 2], [6, 7, 11], [2, 6], []]
