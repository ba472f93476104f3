"""Values that repeat: found alike by Python, by pyarrow and by hashes, each of which is for another number of rows."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchroute.tables import repeated
from batchroute.tables.files import Files
from batchroute.tables.parquet import PromptTable

LIMITS = {"by Python": {}, "by pyarrow": {"_FEW_FOR_PYTHON": 0}, "by hashes": {"_FEW": 0}}
VALUES = {
    "numbers": pa.array([7, 1, None, 7, None]),
    "text": pa.array(["é", "e", None, "é", None], pa.large_string()),
    "a dictionary": pa.array(["a", "b", None, "a", None]).dictionary_encode(),
    "decimals": pa.array([Decimal("1.5"), Decimal("2.5"), None, Decimal("1.5"), None]),
    "bytes": pa.array([b"a", b"b", None, b"a", None]),
    "no number": pa.array([float("nan"), 1.0, None, float("nan"), None]),
}


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS.keys())
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
def test_a_repeated_value_is_found_and_nulls_are_never_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: pa.Array, limits: dict[str, int]
) -> None:
    for name, limit in limits.items():
        monkeypatch.setattr(repeated, name, limit)

    words = found(tmp_path / "a.parquet", values)
    # NaN is not equal to itself, so that what repeats cannot be named.
    assert words is None if values.type == pa.float64() else words is not None and words.startswith("1 ids: ")
    assert found(tmp_path / "a.parquet", values.take(pa.array([0, 1, 2, 4]))) is None


def test_text_that_is_not_utf_8_is_compared_by_its_bytes(tmp_path: Path) -> None:
    assert found(tmp_path / "a.parquet", pa.array([b"\xff", b"\xfe", None]).view(pa.string())) is None


def found(path: Path, rows: pa.Array) -> str | None:
    pq.write_table(pa.table({"id": rows}), path)
    return repeated.find_repeated(PromptTable.open(Files(str(path)).find()), ["id"])
