"""Which column a table elsewhere gets for each of Arrow's types."""

from __future__ import annotations

import datetime

import pyarrow as pa
import pytest

from batchroute.errors import InputError
from batchroute.tables.ids import IdSet
from batchroute.tables.targets.columns import Holds, differences

LITTLE = Holds(lists=False, nested=False, digits=0, nan=False, times=False, small_integers=False, zero_characters=False)


@pytest.mark.parametrize(
    ("kind", "much", "little"),
    [
        (pa.int8(), pa.int16(), pa.int32()),
        (pa.uint32(), pa.int64(), pa.int64()),
        (pa.uint64(), pa.decimal128(20, 0), pa.string()),
        (pa.float16(), pa.float32(), pa.float32()),
        (pa.decimal128(10, 2), pa.decimal128(10, 2), pa.string()),
        (pa.decimal256(50, 2), pa.string(), pa.string()),
        (pa.decimal128(5, -2), pa.decimal128(7, 0), pa.string()),
        (pa.timestamp("ns", "Asia/Tokyo"), pa.timestamp("us", "UTC"), pa.timestamp("us", "UTC")),
        (pa.date64(), pa.date32(), pa.date32()),
        (pa.time32("s"), pa.time64("us"), pa.string()),
        (pa.list_(pa.int8()), pa.list_(pa.int16()), pa.string()),
        (pa.struct([("a", pa.uint8())]), pa.struct([("a", pa.int16())]), pa.string()),
        (pa.map_(pa.string(), pa.int64()), pa.string(), pa.string()),
        (pa.dictionary(pa.int8(), pa.large_string()), pa.string(), pa.string()),
        (pa.uuid(), pa.string(), pa.string()),
        (pa.bool_(), pa.bool_(), pa.bool_()),
        (pa.binary(4), pa.binary(), pa.binary()),
        (pa.null(), pa.string(), pa.string()),
    ],
)
def test_the_nearest_type_is_taken(kind: pa.DataType, much: pa.DataType, little: pa.DataType) -> None:
    schema = pa.schema([("c", kind)])
    assert Holds().schema(schema).field("c").type == much
    assert LITTLE.schema(schema).field("c").type == little
    nulls = pa.RecordBatch.from_arrays([pa.nulls(2, kind)], schema=schema)
    for holds in (Holds(), LITTLE):
        assert holds.batch(nulls, holds.schema(schema)).column(0).null_count == 2


def test_no_digit_of_a_number_is_lost() -> None:
    exact = ["12345678901234567.89", None, "-0.01"]
    batch = pa.record_batch(
        {"d": pa.array(exact).cast(pa.decimal128(20, 2)), "n": pa.array([2**64 - 1, 0, None], pa.uint64())}
    )
    fitted = LITTLE.batch(batch, LITTLE.schema(batch.schema))
    assert fitted.column(0).to_pylist() == exact
    assert fitted.column(1).to_pylist() == ["18446744073709551615", "0", None]
    assert LITTLE.as_text(batch.schema) == ["d", "n"]
    assert Holds().as_text(batch.schema) == []


@pytest.mark.parametrize(
    ("column", "what"),
    [
        (pa.array([0, 1001], pa.timestamp("ns")), "has a value that timestamp"),
        (pa.array([2**62], pa.timestamp("s")), "has a value that timestamp"),
        (pa.array([1001], pa.time64("ns")), "has a value that time64"),
        (pa.array([[None, 1001]], pa.list_(pa.timestamp("ns"))), "has a value that list"),
        (pa.array([86_400_001], pa.date64()), "has a value that date32"),
    ],
)
def test_a_value_that_would_change_is_refused(column: pa.Array, what: str) -> None:
    batch = pa.record_batch({"c": column})
    assert Holds().doubtful(batch.schema) == ["c"]
    with pytest.raises(InputError, match=f"column 'c' is .* and {what}"):
        Holds().check(batch)
    Holds().check(batch.slice(0, 0))


def test_times_without_a_finer_part_and_not_a_number_where_it_is_held() -> None:
    batch = pa.record_batch({"t": pa.array([1000, None], pa.timestamp("ns")), "x": [float("nan"), float("inf")]})
    assert (Holds().doubtful(batch.schema), LITTLE.doubtful(batch.schema)) == (["t"], ["t", "x"])
    Holds().check(batch)
    with pytest.raises(InputError, match="column 'x' has NaN"):
        LITTLE.check(batch)


def test_nanoseconds_as_text() -> None:
    batch = pa.record_batch({"t": pa.array([1], pa.time64("ns")), "d": pa.array([datetime.timedelta(hours=1)])})
    fitted = LITTLE.batch(batch, LITTLE.schema(batch.schema))
    assert [column.to_pylist() for column in fitted.columns] == [["00:00:00.000000001"], ["1:00:00"]]
    whole = pa.record_batch({"t": pa.array([10**9], pa.time64("ns")), "d": pa.array([3600 * 10**9], pa.duration("ns"))})
    fitted = LITTLE.batch(whole, LITTLE.schema(whole.schema))
    assert [column.to_pylist() for column in fitted.columns] == [["00:00:01"], ["1:00:00"]]


def test_what_does_not_fit_becomes_json_and_zero_characters_are_replaced() -> None:
    batch = pa.record_batch({"chat": [[{"role": "ä", "content": "x"}], None], "text": ["a\0b", None]})
    fitted = LITTLE.batch(batch, LITTLE.schema(batch.schema))
    assert fitted.column(0).to_pylist() == ['[{"role": "ä", "content": "x"}]', None]
    assert fitted.column(1).to_pylist() == ["a\ufffdb", None]


def test_all_differences_are_told() -> None:
    ours = pa.schema([("a", pa.int64()), ("b", pa.string()), ("c", pa.float64())])
    theirs = pa.schema([("a", pa.string()), ("c", pa.float64()), ("more", pa.string())])
    assert differences(ours, theirs) == (["a is string there and int64 here"], ["b"])


@pytest.mark.parametrize(
    ("ours", "theirs", "fits"),
    [
        (pa.int32(), pa.int64(), True),
        (pa.int64(), pa.int32(), False),
        (pa.int64(), pa.float64(), False),
        (pa.float32(), pa.float64(), True),
        (pa.decimal128(20, 12), pa.decimal128(38, 18), True),
        (pa.decimal128(20, 12), pa.decimal128(38, 6), False),
        (pa.int16(), pa.decimal128(8, 2), True),
        (pa.int16(), pa.decimal128(6, 2), False),
    ],
)
def test_types_that_hold_all_values_of_ours(ours: pa.DataType, theirs: pa.DataType, fits: bool) -> None:
    wrong, _ = differences(pa.schema([("a", ours)]), pa.schema([("a", theirs)]))
    assert bool(wrong) != fits


def test_ids_are_compared_by_their_values() -> None:
    text = "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"
    ids = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes.fromhex(text.replace("-", ""))], pa.binary(16)))
    for ours, theirs in ((ids, pa.array([text.lower()])), (pa.array([text]), ids), (ids, ids)):
        assert IdSet(ours.type, [theirs]).contains(ours).tolist() == [True]
    assert IdSet(pa.string(), [ids]).contains(pa.array(["row-1"])).tolist() == [False]
    numeric = pa.opaque(pa.string(), "numeric", "PostgreSQL")
    numbers = pa.ExtensionArray.from_storage(numeric, pa.array(["7.00", "1.50", "100"]))
    assert IdSet(pa.int64(), [numbers]).contains(pa.array([7, 1, 10, 100])).tolist() == [True, False, False, True]
    assert IdSet(pa.string(), [numbers]).contains(pa.array(["1.5", "7"])).tolist() == [True, True]
    assert IdSet(pa.int32(), [pa.array([7, 2**40])]).contains(pa.array([7, 8], pa.int32())).tolist() == [True, False]


def test_ids_are_known_across_types() -> None:
    known = IdSet(pa.int64(), [pa.array(["1", "7"]), pa.array(["12", None])])
    assert known.contains(pa.array([1, 2, 7, 12])).tolist() == [True, False, True, True]
    assert IdSet(pa.string(), []).contains(pa.array(["x"])).tolist() == [False]
    assert IdSet(pa.string(), [pa.array(["x"]).dictionary_encode()]).contains(pa.array(["x", "y"])).tolist() == [
        True,
        False,
    ]
    with pytest.raises(pa.ArrowInvalid):
        IdSet(pa.int64(), [pa.array(["seven"])])
