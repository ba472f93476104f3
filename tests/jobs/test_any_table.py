"""Whatever table goes in: the output has its columns, as they were, and the result columns behind them."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import string
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from batchroute.errors import InputError
from batchroute.pipeline.commit import Outcome
from batchroute.pipeline.stages.results import RESULTS
from tests.support.jobs import JobFolder
from tests.support.tiny_models import tiny_router

Value = Callable[[random.Random], Any]
OURS = b"batchroute"
MESSAGE = pa.struct([("role", pa.string()), ("content", pa.large_string())])
TEXT_TYPES = [pa.string(), pa.large_string(), pa.string_view()]
PROMPT_TYPES = [
    pa.string(),
    pa.large_string(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.list_(MESSAGE),
    pa.large_list(MESSAGE),
]
DAY = 86_400


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_router(tmp_path_factory.mktemp("router") / "router")


@dataclass(frozen=True)
class Kind:
    """A type of column, and how to make a value of it that is not null."""

    type: pa.DataType
    value: Value

    def array(self, rng: random.Random, rows: int, nulls: float) -> pa.Array:
        values = [None if rng.random() < nulls else self.value(rng) for _ in range(rows)]
        if isinstance(self.type, pa.BaseExtensionType):
            return pa.ExtensionArray.from_storage(self.type, pa.array(values, self.type.storage_type))
        return pa.array(values, self.type)


def _text(rng: random.Random) -> str:
    return "".join(rng.choice("ab \n\0\"'éß漢🎉\u200b") for _ in range(rng.choice([0, 1, 3, 20])))


def _bytes(rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice([0, 1, 9]))


def _float(rng: random.Random) -> float:
    return rng.choice([0.0, -0.0, 1.5, float("nan"), float("inf"), -float("inf"), float(rng.randrange(-99, 99))])


def _whole(low: int, high: int) -> Value:
    return lambda rng: rng.choice([low, high, rng.randint(low, high), rng.randint(max(low, -3), min(high, 3))])


def _decimal(digits: int, scale: int) -> Value:
    def value(rng: random.Random) -> Decimal:
        digit = "".join(rng.choice(string.digits) for _ in range(digits))
        return Decimal((rng.randrange(2), tuple(map(int, digit)), -scale))

    return value


def _integer_kinds() -> Iterator[Kind]:
    for bits in (8, 16, 32, 64):
        yield Kind(getattr(pa, f"int{bits}")(), _whole(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1))
        yield Kind(getattr(pa, f"uint{bits}")(), _whole(0, 2**bits - 1))


def _time_kinds() -> Iterator[Kind]:
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
    for unit, per in per_second.items():
        for zone in (None, "UTC", "Europe/Rome"):
            yield Kind(pa.timestamp(unit, zone), _whole(-(10**8) * per, 2 * 10**9 * per))
        yield Kind(pa.duration(unit), _whole(-(10**6) * per, 10**6 * per))
        yield Kind((pa.time32 if unit in ("s", "ms") else pa.time64)(unit), _whole(0, DAY * per - 1))
    yield Kind(pa.date32(), _whole(-40_000, 40_000))
    yield Kind(pa.date64(), lambda rng: rng.randint(-40_000, 40_000) * DAY * 1000)


def _leaf_kinds() -> list[Kind]:
    return [
        *(Kind(kind, _text) for kind in TEXT_TYPES),
        *(Kind(kind, _bytes) for kind in (pa.binary(), pa.large_binary(), pa.binary_view())),
        Kind(pa.binary(5), lambda rng: rng.randbytes(5)),
        *_integer_kinds(),
        *(Kind(kind, _float) for kind in (pa.float16(), pa.float32(), pa.float64())),
        Kind(pa.bool_(), lambda rng: rng.random() < 0.5),
        *(Kind(pa.decimal128(d, s), _decimal(d, s)) for d, s in ((5, 2), (18, 0), (38, 38))),
        *(Kind(pa.decimal256(d, s), _decimal(d, s)) for d, s in ((9, 3), (76, 10))),
        *(Kind(kind, _decimal(4, 1)) for kind in (pa.decimal32(4, 1), pa.decimal64(4, 1))),
        *_time_kinds(),
        Kind(pa.dictionary(pa.int8(), pa.string()), lambda rng: rng.choice(["x", "", "yy"])),
        Kind(pa.dictionary(pa.int32(), pa.string(), ordered=True), lambda rng: str(rng.randrange(40))),
        Kind(pa.null(), lambda rng: None),
        Kind(pa.uuid(), lambda rng: rng.randbytes(16)),
        Kind(pa.json_(), lambda rng: json.dumps(_text(rng))),
    ]


LEAVES = _leaf_kinds()
# pa.array makes no arrays of extension types within others; what else is left out is in RARE.
INNER = [
    kind
    for kind in LEAVES
    if not isinstance(kind.type, pa.BaseExtensionType)
    and not pa.types.is_dictionary(kind.type)
    and kind.type not in (pa.string_view(), pa.binary_view())
]
KEYS = [kind for kind in INNER if kind.type in (pa.string(), pa.int64(), pa.date32())]


def _filled(kind: Kind, nullable: bool) -> Value:
    return lambda rng: None if nullable and rng.random() < 0.3 else kind.value(rng)


def _some(value: Value, number: int | None = None) -> Value:
    return lambda rng: [value(rng) for _ in range(rng.choice([0, 1, 4]) if number is None else number)]


@st.composite
def _nested(draw: st.DrawFn, inner: st.SearchStrategy[Kind], fixed: bool = True) -> Kind:
    # pyarrow itself does not read back a fixed_size_list that is promised in a struct that is null.
    form = draw(st.sampled_from(["list", "large_list", "struct", "map", *(["fixed_size_list"] if fixed else [])]))
    item = draw(inner)
    nullable = draw(st.booleans()) or item.type == pa.null()
    value = _filled(item, nullable)
    if form == "struct":
        names = draw(st.lists(st.sampled_from(["a", "b c", "é", "element", "route"]), min_size=1, unique=True))
        kinds = [item, *(draw(inner) for _ in names[1:])]
        nullable = nullable or any(kind.type == pa.null() for kind in kinds)
        fields = [pa.field(name, kind.type, nullable) for name, kind in zip(names, kinds, strict=True)]
        values = {name: _filled(kind, nullable) for name, kind in zip(names, kinds, strict=True)}
        return Kind(pa.struct(fields), lambda rng: {name: make(rng) for name, make in values.items()})
    if form == "map":
        key = draw(st.sampled_from(KEYS))
        return Kind(
            pa.map_(key.type, item.type),
            lambda rng: list({key.value(rng): _filled(item, True)(rng) for _ in range(3)}.items()),
        )
    field = pa.field("item", item.type, nullable)
    if form == "fixed_size_list":
        size = draw(st.integers(1, 3))
        return Kind(pa.list_(field, size), _some(value, size))
    return Kind((pa.list_ if form == "list" else pa.large_list)(field), _some(value))


KINDS = st.one_of(
    st.sampled_from(LEAVES), _nested(st.sampled_from(INNER)), _nested(_nested(st.sampled_from(INNER), fixed=False))
)
METADATA = st.sampled_from([None, {"owner": "search"}, {"k": "é\n"}, {"": ""}])
NAMES = st.sampled_from(["team", "a", "A", "a.b", "x y", "größe", "position", "copy_of", "tokens", "digest", "", "^z$"])
NULLS = st.sampled_from([0.0, 0.3, 1.0])


@st.composite
def _columns(draw: st.DrawFn, rng: random.Random, rows: int) -> pa.Table:
    """A table with `id`, `prompt` and any others, in any order."""
    prompt = Kind(draw(st.sampled_from(PROMPT_TYPES)), _text)
    if not _is_text(prompt.type):
        prompt = Kind(prompt.type, _some(lambda rng: {"role": "user", "content": _text(rng)}))
    columns = []
    for name in draw(st.lists(NAMES, max_size=7, unique=True)):
        kind, nulls = draw(KINDS), draw(NULLS)
        promised = not nulls and kind.type != pa.null() and draw(st.booleans())
        columns.append((pa.field(name, kind.type, not promised, draw(METADATA)), kind.array(rng, rows, nulls)))
    columns.append((pa.field("prompt", prompt.type, metadata=draw(METADATA)), prompt.array(rng, rows, 0.1)))
    ids = rng.sample(range(10**6), rows)
    id_type = draw(st.sampled_from([pa.string(), pa.int64(), pa.large_string()]))
    values = ids if id_type == pa.int64() else [f"ü{number}" for number in ids]
    columns.append((pa.field("id", id_type, draw(st.booleans()), draw(METADATA)), pa.array(values, id_type)))
    columns = draw(st.permutations(columns))
    schema = pa.schema([field for field, _ in columns], metadata=draw(METADATA))
    return pa.Table.from_arrays([array for _, array in columns], schema=schema)


@dataclass(frozen=True)
class Input:
    """A table, and how it is cut into files."""

    table: pa.Table
    paths: list[str]
    cuts: list[int]
    writing: dict[str, Any]
    units: dict[str, int]

    def write(self, folder: Path) -> None:
        for path, (start, stop) in zip(self.paths, itertools.pairwise(self.cuts), strict=True):
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(self.table.slice(start, stop - start), target, **self.writing)


@st.composite
def inputs(draw: st.DrawFn) -> Input:
    rows = draw(st.integers(0, 300))
    rng = random.Random(draw(st.integers(0, 2**32)))
    table = draw(_columns(rng, rows))
    files = draw(st.integers(1, 4))
    cuts = [0, *sorted(draw(st.lists(st.integers(0, rows), min_size=files - 1, max_size=files - 1))), rows]
    days = draw(st.sampled_from([None, ["1", "2", "3", "4"], ["__HIVE_DEFAULT_PARTITION__", "b", "c c", "d"]]))
    paths = [f"{number}.parquet" if days is None else f"day={days[number]}/p.parquet" for number in range(files)]
    writing = {
        "row_group_size": draw(st.sampled_from([1, 7, 50, 1000])),
        "store_schema": draw(st.booleans()),
        "use_dictionary": draw(st.booleans()),
        "data_page_size": draw(st.sampled_from([64, 1 << 20])),
    }
    units = {name: draw(st.integers(10, 120)) for name in ("score", "generate", "merge")}
    return Input(table, paths, cuts, writing, units)


def _is_text(kind: pa.DataType) -> bool:
    return kind in TEXT_TYPES or pa.types.is_dictionary(kind)


def run(folder: Path, router: Path, **more: Any) -> Outcome:
    """A job over everything in `folder/in`."""
    (folder / "router").symlink_to(router)
    job = JobFolder(folder, **{"report": {}, **more})
    job.settings["input"]["uri"] = str(folder / "in")
    return job.run()


def read(path: Path) -> pa.Table:
    """Group by group: pyarrow does not read nested dictionaries out of several at once."""
    file = pq.ParquetFile(path)
    groups = [file.read_row_group(number) for number in range(file.num_row_groups)]
    return pa.concat_tables(groups) if groups else file.read()


def output_of(folder: Path) -> tuple[list[pa.Schema], pa.Table]:
    """The schema of each file that the manifest names, and all their rows."""
    named = [folder / "out" / file["path"] for file in json.loads((folder / "out/manifest.json").read_text())["files"]]
    tables = [read(path) for path in named]
    return [pq.read_schema(path) for path in named], pa.concat_tables(tables)


def input_of(folder: Path, paths: list[str]) -> pa.Table:
    """The input as pyarrow reads it file by file, with what the names of the folders say at the end."""
    tables = []
    for path in sorted(paths):
        table = read(folder / "in" / path)
        tables.append(table.append_column("day", _day(path, table.num_rows)) if "=" in path else table)
    return pa.concat_tables(tables)


def _day(path: str, rows: int) -> pa.Array:
    value = path.removeprefix("day=").partition("/")[0]
    return pa.repeat(int(value) if value.isdigit() else value, rows) if value[0] != "_" else pa.nulls(rows, pa.string())


def check_same(found: pa.ChunkedArray, given: pa.ChunkedArray) -> None:
    """Equal to the last bit: NaN is NaN, and -0.0 is not 0.0."""
    assert _bits(found) == _bits(given)
    assert found.type == given.type


def _bits(column: pa.ChunkedArray) -> list[Any]:
    return [value for chunk in column.chunks for value in _values(chunk)]


def _values(array: pa.Array) -> list[Any]:
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _values(array.storage)
    if pa.types.is_dictionary(kind):
        return _values(array.dictionary_decode())
    if pa.types.is_floating(kind):
        return array.view(getattr(pa, f"int{kind.bit_width}")()).to_pylist()
    if pa.types.is_temporal(kind):
        return array.view(pa.int32() if kind.bit_width == 32 else pa.int64()).to_pylist()
    if pa.types.is_map(kind):
        return _lists(array, [list(pair) for pair in zip(_values(array.keys), _values(array.items), strict=True)])
    if pa.types.is_list_view(kind):
        return _values(array.cast(pa.list_(kind.value_field)))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _lists(array, _values(array.values))
    if pa.types.is_fixed_size_list(kind):
        inner, size = _values(array.values), kind.list_size
        starts = range(array.offset * size, (array.offset + len(array)) * size, size)
        return [inner[at : at + size] if ok else None for at, ok in zip(starts, _valid(array), strict=True)]
    if pa.types.is_struct(kind):
        inner = [_values(array.field(number)) for number in range(kind.num_fields)]
        return [list(row) if ok else None for *row, ok in zip(*inner, _valid(array), strict=True)]
    return array.to_pylist()


def _lists(array: pa.Array, inner: list[Any]) -> list[Any]:
    ranges = itertools.pairwise(array.offsets.to_pylist())
    return [inner[start:stop] if ok else None for (start, stop), ok in zip(ranges, _valid(array), strict=True)]


def _valid(array: pa.Array) -> list[bool]:
    return array.is_valid().to_pylist()


def check_output(folder: Path, paths: list[str]) -> pa.Table:
    """The output is the input and the results; gives the output."""
    given = input_of(folder, paths)
    schemas, output = output_of(folder)
    first = pq.read_schema(folder / "in" / min(paths))
    for schema in schemas:
        assert schema.names == [*given.schema.names, *RESULTS.names]
        for field, wanted in zip(schema, [*given.schema, *RESULTS], strict=True):
            assert (field.type, field.nullable) == (wanted.type, wanted.nullable), field.name
            assert _own(field.metadata) == _own(wanted.metadata), field.name
        metadata = {key: value for key, value in (schema.metadata or {}).items() if not key.startswith(OURS)}
        assert metadata == (first.metadata or {})
    assert output.num_rows == given.num_rows
    for at, name in enumerate(given.schema.names):
        check_same(output.column(at), given.column(at))
        assert name == output.schema.names[at]
    return output


def _own(metadata: dict[bytes, bytes] | None) -> dict[bytes, bytes]:
    """Without the number that each writer of parquet gives to a column."""
    return {key: value for key, value in (metadata or {}).items() if key != b"PARQUET:field_id"}


def usable(value: Any) -> bool:
    if isinstance(value, list):
        return any(message["content"].strip() for message in value)
    return bool(value and value.strip())


# Without shrinking: each step would be a whole job, and take minutes in all.
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.reuse, Phase.generate])
@given(source=inputs())
def test_any_table_comes_out_as_it_went_in_with_a_status_in_each_row(router: Path, source: Input) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        source.write(folder / "in")
        outcome = run(folder, router, units=source.units)
        output = check_output(folder, source.paths)
        assert outcome.manifest.rows == output.num_rows
        wanted = ["ok" if usable(value) else "failed" for value in output["prompt"].to_pylist()]
        assert output["status"].to_pylist() == wanted
        assert outcome.manifest.counts["failed"] == wanted.count("failed")
        expected = [route is not None for route in output["route"].to_pylist()]
        assert expected == [status == "ok" for status in wanted]
    finally:
        shutil.rmtree(folder)


def check_rows(folder: Path, router: Path, table: pa.Table, group: int = 7, **more: Any) -> pa.Table:
    """Run a job over one file of a table; gives the output, which has been checked."""
    (folder / "in").mkdir()
    pq.write_table(table, folder / "in" / "0.parquet", row_group_size=group)
    run(folder, router, units={"score": 10, "generate": 10, "merge": 10}, **more)
    return check_output(folder, ["0.parquet"])


def rows_with(column: pa.Array, name: str = "c") -> pa.Table:
    """A table with this column beside `id` and `prompt`, of which it may be one."""
    rows = range(len(column))
    return pa.table({"id": pa.array(rows, pa.int64()), "prompt": [f"p{row}" for row in rows], name: column})


RARE = [
    pytest.param(pa.array([0] * 20, pa.timestamp("us", "-03:30")), id="offset"),
    pytest.param(pa.array([[0]] * 20, pa.list_(pa.timestamp("us", "-03:30"))), id="offset-in-list"),
    pytest.param(pa.array([[1]] * 20, pa.list_view(pa.int8())), id="list-view"),
    pytest.param(pa.array([["x"]] * 20, pa.list_(pa.dictionary(pa.int8(), pa.string()))), id="dictionary-in-list"),
    pytest.param(
        pa.array([{"a": "x"}] * 20, pa.struct([("a", pa.dictionary(pa.int8(), pa.string()))])),
        id="dictionary-in-struct",
    ),
]


@pytest.mark.parametrize("column", RARE)
def test_types_that_few_libraries_know_come_out_as_they_were(tmp_path: Path, router: Path, column: pa.Array) -> None:
    (tmp_path / "in").mkdir()
    groups = 7 if "dictionary" in str(column.type) else 20
    pq.write_table(rows_with(column).slice(0), tmp_path / "in" / "0.parquet", row_group_size=groups)
    run(tmp_path, router, units={"score": 10, "generate": 10, "merge": 10})
    check_output(tmp_path, ["0.parquet"])


@pytest.mark.parametrize(("view", "plain"), [(pa.string_view(), pa.string()), (pa.binary_view(), pa.binary())], ids=str)
def test_a_view_in_a_struct_comes_out_as_its_plain_type(
    tmp_path: Path, router: Path, view: pa.DataType, plain: pa.DataType
) -> None:
    values = [{"a": "x"}] * 20 if plain == pa.string() else [{"a": b"x"}] * 20
    (tmp_path / "in").mkdir()
    pq.write_table(rows_with(pa.array(values, pa.struct([("a", view)]))), tmp_path / "in" / "0.parquet")
    run(tmp_path, router)
    (part,) = (tmp_path / "out" / "data").glob("*.parquet")
    column = pq.read_table(part)["c"]
    assert column.type == pa.struct([("a", plain)])
    assert column.to_pylist() == values


@pytest.mark.parametrize("kind", [pa.uuid(), pa.json_()], ids=str)
def test_a_uuid_of_another_writer_stays_one(tmp_path: Path, router: Path, kind: pa.DataType) -> None:
    """DuckDB and Spark write no schema of Arrow's."""
    storage = pa.array([b"7" * 16] if kind == pa.uuid() else ["7"], kind.storage_type)
    (tmp_path / "in").mkdir()
    table = rows_with(pa.ExtensionArray.from_storage(kind, storage))
    pq.write_table(table, tmp_path / "in" / "0.parquet", store_schema=False)
    run(tmp_path, router)
    check_output(tmp_path, ["0.parquet"])


@pytest.mark.parametrize("place", ["field", "schema"])
def test_metadata_may_be_bytes(tmp_path: Path, router: Path, place: str) -> None:
    table, metadata = rows_with(pa.array([1])), {b"\xff": b"\xfe"}
    field = table.schema.field("c").with_metadata(metadata if place == "field" else None)
    schema = table.schema.set(2, field).with_metadata(metadata if place == "schema" else None)
    check_rows(tmp_path, router, table.cast(schema))


def test_a_prompt_may_be_a_string_view(tmp_path: Path, router: Path) -> None:
    column = pa.array([f"p{row}" for row in range(20)], pa.string_view())
    check_rows(tmp_path, router, pa.table({"id": range(20), "prompt": column}))


@pytest.mark.parametrize(
    "column",
    [
        pytest.param(pa.array([b"\xff"] * 4, pa.binary(1)), id="fixed"),
        pytest.param(pa.array([b"\xff"] * 4, pa.binary_view()), id="view"),
        pytest.param(pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"\xff" * 16] * 4, pa.binary(16))), id="uuid"),
    ],
)
def test_bytes_are_no_names_of_groups(tmp_path: Path, router: Path, column: pa.Array) -> None:
    with pytest.raises(InputError, match="group by text, numbers, dates or booleans"):
        check_rows(tmp_path, router, rows_with(column), report={"group_by": ["c"]})


@pytest.mark.parametrize("name", ["*", "^.*$"])
def test_a_column_to_group_by_is_not_named_as_a_pattern(tmp_path: Path, router: Path, name: str) -> None:
    with pytest.raises(InputError, match="rename it"):
        check_rows(tmp_path, router, rows_with(pa.array(["x"] * 4), name), report={"group_by": [name]})


@pytest.mark.parametrize("kind", [pa.decimal256(40, 0), pa.timestamp("us", "-03:30")], ids=str)
def test_any_values_that_differ_are_ids(tmp_path: Path, router: Path, kind: pa.DataType) -> None:
    ids = pa.array([Decimal(n) for n in range(4)] if pa.types.is_decimal(kind) else list(range(4)), kind)
    check_rows(tmp_path, router, pa.table({"id": ids, "prompt": list("abcd")}))


TEXT = pa.string()
BAD_TEXT = [b"good", b"\xff\xfe", b"\xed\xa0\x80", b"fine"]


def bad_text(kind: pa.DataType = TEXT) -> pa.Array:
    """Four texts, of which the middle two are not UTF-8."""
    if pa.types.is_dictionary(kind):
        return pa.DictionaryArray.from_arrays(pa.array(range(4), kind.index_type), bad_text(kind.value_type))
    plain = pa.array(BAD_TEXT, pa.large_binary() if kind == pa.large_string() else pa.binary())
    return pa.Array.from_buffers(kind, 4, plain.buffers())


def as_bytes(column: pa.ChunkedArray) -> list[bytes]:
    return [value for chunk in column.chunks for value in _bytes_of(chunk)]


def _bytes_of(array: pa.Array) -> list[bytes]:
    array = array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
    return [value.as_buffer().to_pybytes() for value in array]


def run_unchecked(folder: Path, router: Path, table: pa.Table, **more: Any) -> pa.Table:
    (folder / "in").mkdir()
    pq.write_table(table, folder / "in" / "0.parquet")
    run(folder, router, **more)
    return output_of(folder)[1]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=lambda kind: str(kind)[:12]
)
def test_a_prompt_that_is_not_utf8_fails_its_row_alone(tmp_path: Path, router: Path, kind: pa.DataType) -> None:
    output = run_unchecked(tmp_path, router, pa.table({"id": range(4), "prompt": bad_text(kind)}))
    assert as_bytes(output["prompt"]) == BAD_TEXT
    assert output["status"].to_pylist() == ["ok", "failed", "failed", "ok"]
    assert output["error_type"].to_pylist() == [None, "bad_text", "bad_text", None]
    assert "not valid UTF-8" in output["error"][1].as_py()
    assert output["response"].to_pylist() == ["good", None, None, "fine"]


def test_a_message_that_is_not_utf8_fails_its_row_alone(tmp_path: Path, router: Path) -> None:
    message = pa.StructArray.from_arrays([pa.array(["user"] * 4), bad_text()], ["role", "content"])
    chats = pa.ListArray.from_arrays(pa.array(range(5), pa.int32()), message)
    output = run_unchecked(tmp_path, router, pa.table({"id": range(4), "prompt": chats}))
    assert output["error_type"].to_pylist() == [None, "bad_text", "bad_text", None]
    kept = [chunk.values.field("content") for chunk in output["prompt"].chunks]
    assert [value for chunk in kept for value in _bytes_of(chunk)] == BAD_TEXT


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()], ids=str)
def test_text_beside_the_prompt_that_is_not_utf8_is_kept(tmp_path: Path, router: Path, kind: pa.DataType) -> None:
    output = run_unchecked(tmp_path, router, rows_with(bad_text(kind)))
    assert as_bytes(output["c"]) == BAD_TEXT
    assert output["status"].to_pylist() == ["ok"] * 4


def test_an_id_that_is_not_utf8_is_refused_with_its_file(tmp_path: Path, router: Path) -> None:
    with pytest.raises(InputError, match=r"column 'id' near 0\.parquet, row 0: .*UTF"):
        run_unchecked(tmp_path, router, pa.table({"id": bad_text(), "prompt": list("abcd")}))


@pytest.mark.parametrize("kind", [pa.string(), pa.dictionary(pa.int32(), pa.string())], ids=["plain", "dictionary"])
def test_a_group_that_is_not_utf8_is_shown_with_replacements(tmp_path: Path, router: Path, kind: pa.DataType) -> None:
    run_unchecked(tmp_path, router, rows_with(bad_text(kind)), report={"group_by": ["c"]})
    groups = json.loads((tmp_path / "out/report/cost.json").read_text())["groups"]
    assert sorted(group["c"] for group in groups) == ["fine", "good", "\ufffd\ufffd", "\ufffd\ufffd\ufffd"]


def test_five_hundred_columns_of_all_types_keep_their_order(tmp_path: Path, router: Path) -> None:
    rng = random.Random(2)
    columns = {f"c{number}": LEAVES[number % len(LEAVES)].array(rng, 30, 0.2) for number in range(498)}
    check_rows(tmp_path, router, pa.table({**columns, "prompt": ["p"] * 30, "id": range(30)}))


def test_a_prompt_of_five_megabytes_is_answered(tmp_path: Path, router: Path) -> None:
    prompts = ["short", "word " * 1_000_000, "after"]
    output = check_rows(tmp_path, router, pa.table({"id": range(3), "prompt": prompts}))
    assert output["status"].to_pylist() == ["ok"] * 3
    assert output["response"][1].as_py().startswith("word word")
