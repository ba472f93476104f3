"""What a target is, and what all targets check."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from batchroute.errors import InputError
from batchroute.tables.targets.columns import Holds, differences
from batchroute.tables.targets.constraints import Constraints
from batchroute.tables.targets.matching import Match, match, their_name
from batchroute.tables.targets.settings import Mode, TableSpec

# What versions of a lake's tables record of a commit.
LOAD, SERIAL = "batchroute.load_id", "batchroute.serial"
GROW = "set output.table.allow_new_columns, or name another table"


@dataclass(frozen=True)
class Answers:
    """The rows of a commit."""

    load_id: str
    """The same for all commits of the same input rows."""
    serial: int
    """Greater for a later commit."""
    count: int
    schema: pa.Schema
    rows: Callable[[], Iterator[pa.RecordBatch]]

    def fitted(self, holds: Holds, match: Match, kinds: pa.Schema | None = None) -> pa.RecordBatchReader:
        """A stream of the rows in types that the table holds.

        Args:
            match: the columns of the answers that the table has.
            kinds: the types of the table's columns, where they are wider.
        """
        schema = holds.schema(self.schema)
        theirs = match.schema(schema) if kinds is None else kinds
        batches = (match.batch(holds.batch(batch, schema)) for batch in self.rows())
        return pa.RecordBatchReader.from_batches(
            theirs, (batch if batch.schema == theirs else batch.cast(theirs) for batch in batches)
        )


class Target(Protocol):
    """A table that holds the answers of many runs. All methods raise InputError for what will never work, and
    StoppedError where another attempt may succeed.
    """

    public: str
    mode: Mode

    def check(self, schema: pa.Schema) -> list[str]:
        """Compare the table's columns with the answers' and ask for all else that a load needs, without a trace. The
        error names all that differ; what is returned are sentences about columns that are left out.
        """

    def prepare(self, schema: pa.Schema) -> list[str]:
        """Create the table where it is missing; otherwise as `check`."""

    def rehearse(self, schema: pa.Schema) -> bool:
        """Do all that a load does, with no rows and without a trace: what it needs shows before a night's work. Call
        `check` or `prepare` first. False where that cannot be tried.
        """

    def goes_in(self, schema: pa.Schema) -> tuple[Holds, list[str]]:
        """Which types the table holds, and the columns of the answers that go into it. Call `check` first."""

    def constraints(self, schema: pa.Schema, results: Collection[str]) -> Constraints:
        """What the table demands of the rows beside types, with the names of the answers' columns. Call `check` first.

        Args:
            results: the columns that are not of the input.
        """

    def held(self, by: str) -> Iterator[pa.Array]:
        """The values of the answers' column `by` in all rows that a load would leave."""

    def loads(self, load_id: str) -> dict[int, str]:
        """The commits under this load id that the table has: serial to the time or version of the load."""

    def load(self, answers: Answers) -> bool:
        """Load a commit, whole or not at all; False when it was loaded before. Call `prepare` first."""

    def answered(self, by: str, prefix: str) -> Iterator[pa.Array]:
        """The values of the answers' column `by` in rows whose status is ok, or that have a response where the table
        has no status; nothing when there is no table.

        Args:
            prefix: of the result columns.
        """


def refuse_differences(public: str, wrong: list[str], left_out: list[str], answers: pa.Schema, remedy: str) -> None:
    """
    Args:
        wrong: what does not fit, a sentence each.
        left_out: the answers' columns that the table has not: no error, and named with one.

    Raises:
        InputError: something is wrong.
    """
    if not wrong:
        return
    if left_out:
        kinds = ", ".join(f"{name} ({answers.field(name).type})" for name in left_out)
        wrong = [*wrong, f"it has no column {kinds}: {remedy}"]
    raise InputError(f"output.table: the answers do not fit into {public}: {'; '.join(wrong)}")


def asked_for(spec: TableSpec, by: str, prefix: str, names: list[str]) -> tuple[str, str | None, str | None]:
    """The table's names for what `input.only_new` asks: the column `by`, the status, and the response.

    Args:
        prefix: of the result columns.
        names: of the table's columns.

    Raises:
        InputError: the table lacks the first, or both of the others.
    """
    asked = (by, f"{prefix}status", f"{prefix}response")
    key, status, response = (their_name(own, names, spec.columns) for own in asked)
    if key is None or (status is None and response is None):
        lacks = by if key is None else asked[1]
        raise InputError(
            f"input.only_new: {spec.public} has no column {lacks}; it has {', '.join(names)}: see output.table.columns"
        )
    return key, status, response


def lake_plan(
    spec: TableSpec, key: str | None, answers: pa.Schema, table: pa.Schema, required: set[str]
) -> tuple[Match, pa.Schema]:
    """The columns that a lake's table shares with the answers, and their types in the table. Where it may gain columns,
    those that it has not are among them.

    Args:
        answers, table: in types that the table holds.
        required: columns of the table that take no nulls.

    Raises:
        InputError: the answers do not fit into the table; the message names each column.
    """
    found = match(answers.names, table.names, spec.columns, spec.public)
    if spec.allow_new_columns:
        found = Match({**found.ours, **{name: name for name in found.left_out}}, [])
    known = {name: own for name, own in found.ours.items() if name in table.names}
    wrong, _ = differences(Match(known, []).schema(answers), table)
    wrong += [
        f"it needs a value for {name}: see output.table.columns" for name in table.names if name in required - {*known}
    ]
    if spec.mode == "upsert" and found.theirs(str(key)) is None:
        wrong.append(f"it has no column {key}, by which upsert knows a row")
    refuse_differences(spec.public, wrong, found.left_out, answers, GROW)
    kinds = [table.field(name) if name in known else answers.field(own) for name, own in found.ours.items()]
    return found, pa.schema([pa.field(name, kind.type) for name, kind in zip(found.ours, kinds, strict=True)])


def is_loaded(target: Target, serial: int, loads: dict[int, str]) -> bool:
    """Whether `loads` of the target hold this commit or a later one of the same rows.

    Raises:
        InputError: the target holds an earlier commit, and append would repeat its rows.
    """
    if loads and max(loads) >= serial:
        return True
    if loads and target.mode == "append":
        raise InputError(
            f"output.table: {target.public} has the rows of an earlier commit of this run ({loads[max(loads)]}), "
            "and append would repeat them; set output.table.mode to upsert or replace"
        )
    return False
